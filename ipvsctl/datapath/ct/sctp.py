"""Connection tracking of SCTP: the state table by chunks, and the verification tags.

Source: nf_conntrack_proto_sctp.c (sctp_conntracks, do_basic_checks, sctp_new, nf_conntrack_sctp_packet) with the
changes of 6.1's stable releases. The states are conntrack's view of the association, not those of its ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, Entry
from ipvsctl.datapath.ct.outcome import ACCEPT, Outcome
from ipvsctl.datapath.skb import Skb

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.table import Conntrack

STATES = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
)  # fmt: skip
(
    NONE, CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT,
    HEARTBEAT_SENT, INVALID_STATE,
) = range(10)  # fmt: skip

(
    DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK,
) = range(12)  # fmt: skip
SHUTDOWN_COMPLETE = 14

_SHORT = {
    "NO": NONE, "CL": CLOSED, "CW": COOKIE_WAIT, "CE": COOKIE_ECHOED, "ES": ESTABLISHED, "SS": SHUTDOWN_SENT,
    "SR": SHUTDOWN_RECD, "SA": SHUTDOWN_ACK_SENT, "HS": HEARTBEAT_SENT, "--": INVALID_STATE,
}  # fmt: skip

_EVENTS = (
    INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE, HEARTBEAT,
    HEARTBEAT_ACK,
)  # fmt: skip

_TABLE = """
    original direction                            reply direction
    ini ack abo shu s/a err ech c/a com hb  h/a   ini ack abo shu s/a err ech c/a com hb  h/a
NO  CL  CL  CL  CL  SA  CL  CL  CL  CL  HS  CL    --  --  --  --  --  --  --  --  --  --  --
CL  CL  CL  CL  CL  CL  CL  CL  CL  CL  CL  CL    CL  CW  CL  CL  CL  CL  CL  CL  CL  CL  CL
CW  CW  CW  CL  CW  CW  CW  CE  CW  CW  CW  CW    CW  CW  CL  CW  CW  CW  CE  CW  CW  CW  CW
CE  CE  CE  CL  CE  CE  CE  CE  ES  CE  CE  CE    CE  CE  CL  CE  CE  CL  CE  ES  CE  CE  CE
ES  ES  ES  CL  SS  ES  ES  ES  ES  ES  ES  ES    ES  ES  CL  SR  ES  ES  ES  ES  ES  ES  ES
SS  CL  SS  CL  SS  SA  SS  SS  SS  SS  SS  SS    SS  SS  CL  SS  SA  SS  SS  SS  SS  SS  SS
SR  CL  SR  CL  SR  SA  SR  SR  SR  SR  SR  SR    SR  SR  CL  SR  SA  SR  SR  SR  SR  SR  SR
SA  SA  SA  CL  SA  SA  SA  SA  SA  CL  SA  SA    SA  SA  CL  SA  SA  SA  SA  SA  CL  SA  SA
HS  CW  CL  CL  CL  SA  CL  CL  CL  CL  HS  HS    --  --  --  --  --  --  --  --  --  HS  ES
"""
"""The next state by state, direction and chunk. -- makes the packet INVALID. Other chunks change nothing."""


def _read(table: str) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    rows = [[_SHORT[word] for word in line.split()[1:]] for line in table.splitlines()[3:]]
    columns = tuple(zip(*rows, strict=True))
    half = len(_EVENTS)
    return dict(zip(_EVENTS, columns[:half], strict=True)), dict(zip(_EVENTS, columns[half:], strict=True))


NEXT = _read(_TABLE)
"""The new state: NEXT[reply][chunk][state]."""

TIMEOUTS = ("", *(f"net.netfilter.nf_conntrack_sctp_timeout_{state.lower()}" for state in STATES[1:]))
CLOSING = frozenset({SHUTDOWN_SENT, SHUTDOWN_RECD, SHUTDOWN_ACK_SENT})

_ALONE = frozenset({INIT, INIT_ACK, SHUTDOWN_COMPLETE})
_FIRST = frozenset({COOKIE_ACK, COOKIE_ECHO})
_NEVER_NEW = frozenset({ABORT, SHUTDOWN_COMPLETE, COOKIE_ACK})
_OWN_TAG_RULE = frozenset({INIT, SHUTDOWN_COMPLETE, COOKIE_ECHO, ABORT, SHUTDOWN_ACK, HEARTBEAT, HEARTBEAT_ACK})
_INIT_LENGTH = 16


class State:
    """An association. By direction, original first: `tags`, the tag that its packets must have, and `inits`.

    `inits`: an INIT was seen and no COOKIE ACK since. `doubt`: a heartbeat came with a wrong tag from `last_dir`; its
    answer may make that tag the right one.
    """

    __slots__ = ("doubt", "inits", "last_dir", "state", "tags")

    def __init__(self) -> None:
        self.state = NONE
        self.tags = [0, 0]
        self.inits = [False, False]
        self.doubt = False
        self.last_dir = 0


Chunk = tuple[int, int, int]
"""Its type, its flags, and where it begins."""


def _chunks(data: bytearray, at: int) -> list[Chunk] | None:
    """The chunks of a packet; None when they may not stand together, or there are none (do_basic_checks)."""
    found: list[Chunk] = []
    alone = False
    at += 12
    while at + 4 <= len(data):
        kind = data[at]
        length = data[at + 2] << 8 | data[at + 3]
        alone = alone or kind in _ALONE
        if not length or (found and (alone or kind in _FIRST)):
            return None
        found.append((kind, data[at + 1], at))
        at += (length + 3) & ~3
    return found or None


def packet(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """Track a packet (nf_conntrack_sctp_packet)."""
    data, at = skb.data, skb.thoff
    if len(data) < at + 12:
        return ct.invalid("the SCTP header is cut off")
    if ct.wrong_checksum(skb):
        return ct.invalid("the SCTP checksum is wrong")
    chunks = _chunks(data, at)
    if chunks is None:
        return ct.invalid("SCTP chunks that may not stand together, or none")
    tag = int.from_bytes(data[at + 4 : at + 8], "big")
    kinds = {kind for kind, _, _ in chunks}
    if not entry.status & CONFIRMED:
        begun = None if kinds & _NEVER_NEW else _begin(data, chunks, tag)
        if begun is None:
            return ct.invalid("no SCTP packet that begins an association")
        entry.proto = begun
    state: State = entry.proto
    way = int(reply)
    if not kinds & _OWN_TAG_RULE and tag != state.tags[way]:
        return ct.invalid("the SCTP verification tag is wrong")
    new = NONE
    kept = False
    for chunk in chunks:
        kind, _, _ = chunk
        if kind in (HEARTBEAT, HEARTBEAT_ACK):
            doubtful = _heartbeat(state, kind, tag, way, kept or DATA in kinds)
            if doubtful is None:
                return ct.invalid("the verification tag of an SCTP heartbeat is wrong")
            if doubtful:
                kept = True
                continue
        elif not _tag_fits(state, chunk, tag, way):
            return ct.invalid("the SCTP verification tag is wrong")
        old = state.state
        column = NEXT[way].get(kind)
        new = old if column is None else column[old]
        if new == INVALID_STATE:
            return ct.invalid(f"an SCTP chunk of type {kind} that does not fit to the state {STATES[old]}")
        if kind in (INIT, INIT_ACK):
            if not _note_tag(state, chunk, data, way, old):
                return ct.invalid("an INIT or INIT ACK with a wrong tag, or cut off")
            # A repeated INIT does not keep an entry that is closed.
            kept = kept or (kind == INIT and old == new == CLOSED and bool(entry.status & CONFIRMED))
        state.state = new
        if old != new and new == ESTABLISHED:
            entry.status |= ASSURED
    if not kept:
        ct.refresh(entry, skb, reply, ct.settings.get(TIMEOUTS[new], 0))
    return ACCEPT


def _begin(data: bytearray, chunks: list[Chunk], tag: int) -> State | None:
    """The state of a new association (sctp_new); None for a packet that begins none."""
    state = State()
    for kind, _, at in chunks:
        column = NEXT[0].get(kind)
        if column is None or column[NONE] in (NONE, INVALID_STATE):
            return None
        if kind == INIT:
            if tag or len(data) < at + 4 + _INIT_LENGTH:
                return None
            state.tags[1] = int.from_bytes(data[at + 4 : at + 8], "big")
        elif kind == HEARTBEAT:
            state.tags[0] = tag
        elif kind == SHUTDOWN_ACK:
            state.tags[1] = tag
    return state


def _tag_fits(state: State, chunk: Chunk, tag: int, way: int) -> bool:
    """The verification tag as the chunk wants it (RFC 9260, 8.5.1)."""
    kind, flags, _ = chunk
    if kind == INIT:
        return not tag
    if kind in (ABORT, SHUTDOWN_COMPLETE):
        return tag == state.tags[1 - way if flags & 1 else way]
    if kind == COOKIE_ECHO:
        return tag == state.tags[way]
    if kind == COOKIE_ACK:
        state.inits = [False, False]
    return True


def _heartbeat(state: State, kind: int, tag: int, way: int, strict: bool) -> bool | None:
    """A heartbeat's tag: false when it is right or now is, true for one in doubt, None for one that is wrong."""
    if not state.tags[way]:
        state.tags[way] = tag
    elif tag == state.tags[way]:
        state.doubt = False
    elif strict:
        return None
    elif kind == HEARTBEAT:
        state.doubt, state.last_dir = True, way
        return True
    elif not state.doubt or state.last_dir == way:
        return None
    else:
        state.doubt = False
        state.tags[way], state.tags[1 - way] = tag, 0
    return False


def _note_tag(state: State, chunk: Chunk, data: bytearray, way: int, old: int) -> bool:
    """Learn of an INIT or INIT ACK the tag of the packets to its sender; false when it is not believed."""
    kind, _, at = chunk
    if len(data) < at + 4 + _INIT_LENGTH:
        return False
    wanted = int.from_bytes(data[at + 4 : at + 8], "big")
    known, there = state.tags[1 - way], state.inits[1 - way]
    if kind == INIT:
        if old == NONE or known != wanted:
            if state.inits[way] and there:
                state.inits[1 - way] = False
            state.inits[way] = True
    elif known != wanted and ((not there and known) or (there and state.inits[way])):
        return False
    state.tags[1 - way] = wanted
    return True
