"""Connection tracking of TCP: the state table, what begins a connection, and what ends it.

Source: nf_conntrack_proto_tcp.c (tcp_conntracks, tcp_new, nf_conntrack_tcp_packet). Conntrack stands between the two
ends and guesses their states: SYN_SENT a SYN was seen, SYN_RECV its SYN/ACK, ESTABLISHED an ACK, FIN_WAIT a FIN,
CLOSE_WAIT its ACK, LAST_ACK the other FIN, TIME_WAIT the last ACK, CLOSE a RST, SYN_SENT2 a SYN from both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, FIXED_TIMEOUT, SEEN_REPLY, Entry
from ipvsctl.datapath.ct.outcome import ACCEPT, REPEAT, Outcome
from ipvsctl.datapath.ct.tcp_window import (
    ACK_OVER,
    BE_LIBERAL,
    CHALLENGE_ACK,
    CLOSE_INIT,
    IN,
    MASK,
    MAXACK_SET,
    SACK_PERM,
    SEQ_OVER,
    SIGN,
    SIMULTANEOUS_OPEN,
    UNACKNOWLEDGED,
    WINDOW_SCALE,
    Segment,
    Side,
    State,
    in_window,
    options,
)  # fmt: skip
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, SYN, TCP, URG, Skb

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.table import Conntrack

STATES = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
    "SYN_SENT2",
)  # fmt: skip
(
    NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2, INVALID_STATE,
    IGNORE,
) = range(12)  # fmt: skip

SYN_EVENT, SYNACK_EVENT, FIN_EVENT, ACK_EVENT, RST_EVENT, NO_EVENT = range(6)

_SHORT = {
    "NO": NONE, "SS": SYN_SENT, "SR": SYN_RECV, "ES": ESTABLISHED, "FW": FIN_WAIT, "CW": CLOSE_WAIT, "LA": LAST_ACK,
    "TW": TIME_WAIT, "CL": CLOSE, "S2": SYN_SENT2, "--": INVALID_STATE, "ig": IGNORE,
}  # fmt: skip

_TABLE = """
    original direction    reply direction
    syn s/a fin ack rst   syn s/a fin ack rst
NO  SS  --  --  ES  --    --  --  --  --  --
SS  SS  --  --  --  CL    S2  SR  --  ig  CL
SR  ig  SR  FW  ES  CL    --  ig  FW  SR  CL
ES  ig  --  FW  ES  CL    --  ig  FW  ES  CL
FW  ig  --  LA  CW  CL    --  ig  LA  CW  CL
CW  ig  --  LA  CW  CL    --  ig  LA  CW  CL
LA  ig  --  LA  TW  CL    --  ig  LA  TW  CL
TW  SS  --  TW  TW  CL    SS  ig  TW  TW  CL
CL  SS  --  CL  CL  CL    --  ig  CL  CL  CL
S2  S2  SR  --  --  CL    S2  SR  --  ig  CL
"""
"""The next state by state, direction and event. -- makes the packet INVALID; ig lets it go and changes nothing."""


def _read(table: str) -> tuple[tuple[int, ...], ...]:
    rows = [[_SHORT[word] for word in line.split()[1:]] for line in table.splitlines()[3:]]
    return tuple(zip(*rows, strict=True))


NEXT = _read(_TABLE)
"""The new state: NEXT[event + 5 * reply][state]."""

_ECE, _CWR = 0x40, 0x80
_VALID = {
    SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG,
}  # fmt: skip


def _event(flags: int) -> int:
    if flags & ~(PSH | _ECE | _CWR) not in _VALID:
        return NO_EVENT
    if flags & RST:
        return RST_EVENT
    if flags & SYN:
        return SYNACK_EVENT if flags & ACK else SYN_EVENT
    return FIN_EVENT if flags & FIN else ACK_EVENT


EVENTS = tuple(_event(flags) for flags in range(256))
"""The event of a segment by its flags; NO_EVENT for a combination that no stack sends."""

_PREFIX = "net.netfilter.nf_conntrack_tcp_"
TIMEOUTS = ("", *(f"{_PREFIX}timeout_{state.lower()}" for state in STATES[1:]))
"""The sysctl that says how long a state lasts."""

_SYN_SENT2_TIMEOUT = 120
"""SYN_SENT2 has no sysctl (nf_conntrack_standalone.c)."""

_MAX_RETRANS, _UNACKNOWLEDGED, _CLOSE = (
    _PREFIX + "timeout_" + name for name in ("max_retrans", "unacknowledged", "close")
)
_REPEATS, _LOOSE, _LIBERAL, _ANY_RST = (
    _PREFIX + name for name in ("max_retrans", "loose", "be_liberal", "ignore_invalid_rst")
)

UNPACKED = 16_384
"""Connections whose State is kept ready; the others' is packed."""

CLOSING = frozenset({FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE})
"""States in which an entry may go early when the table is full, and in which a RST is not checked."""

_ASSURING = frozenset({SYN_RECV, ESTABLISHED})
_SPECIAL = frozenset({SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE, SYN_SENT2, INVALID_STATE, IGNORE})


def packet(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """Track a segment (nf_conntrack_tcp_packet). `entry.proto` is a State while data flows, else Packed."""
    segment = Segment(skb.data, skb.thoff)
    if not segment.size:
        return ct.invalid("the TCP header is cut off")
    if ct.wrong_checksum(skb):
        return ct.invalid("the TCP checksum is wrong")
    event = EVENTS[segment.flags]
    if event == NO_EVENT:
        return ct.invalid("no stack sends this combination of TCP flags")
    kept = entry.proto
    state: State
    if not entry.status & CONFIRMED:
        state = ct.tcp
        if not _begin(state, segment, event, ct.settings[_LOOSE]):
            return ct.invalid("no packet that begins a TCP connection")
        outcome = _track(ct, entry, state, skb, reply, segment, event)
        entry.proto = state.packed()
        return outcome
    if kept.__class__ is State:
        outcome = _track(ct, entry, kept, skb, reply, segment, event)
        if kept.state != ESTABLISHED:
            entry.proto = kept.packed()
        return outcome
    state = ct.tcp
    state.load(kept)
    old = state.state
    outcome = _track(ct, entry, state, skb, reply, segment, event)
    if old == state.state == ESTABLISHED and event == ACK_EVENT:
        _unpack(ct, entry)
    else:
        state.store(kept)
    return outcome


def _unpack(ct: Conntrack, entry: Entry) -> None:
    """An open connection has traffic: it keeps its State, and the one whose turn it was longest ago is packed."""
    entry.proto = ct.tcp
    ct.tcp = State()
    ct.unpacked.append(entry.original)
    if len(ct.unpacked) > UNPACKED:
        found = ct.find(ct.unpacked.popleft())
        if found is not None and isinstance(found[0].proto, State):
            state = found[0].proto
            found[0].proto = state.packed()
            state.state = NONE  # Whoever still has it shall not take it for the connection's.


def _track(ct: Conntrack, entry: Entry, state: State, skb: Skb, reply: bool, segment: Segment, event: int) -> Outcome:
    settings = ct.settings
    old = state.state
    new = NEXT[event + 5 if reply else event][old]
    checked = True
    if new in _SPECIAL:
        found = _special(ct, entry, state, segment, reply, event, old, new)
        if isinstance(found, Outcome):
            return found
        old, new, checked = found
    if checked:
        place = in_window(entry, state, segment, reply, event == ACK_EVENT, settings[_LIBERAL])
        if place is not IN:
            if place is SEQ_OVER or place is ACK_OVER:
                _shorten(ct, entry, state, event, reply)
                return ct.invalid(place.value)
            return ct.ignored(place.value)
    state.last_index = event
    state.last_dir = int(reply)
    state.state = new
    if old != new:
        if new == FIN_WAIT:
            (state.reply if reply else state).flags |= CLOSE_INIT
        if ct.engine.tracer is not None:
            ct.note(f"conntrack's TCP state {STATES[old]} -> {STATES[new]}", minor=True)

    timeout = settings.get(TIMEOUTS[new], _SYN_SENT2_TIMEOUT)
    if state.retrans >= settings[_REPEATS] and timeout > settings[_MAX_RETRANS]:
        timeout = settings[_MAX_RETRANS]
    elif event == RST_EVENT:
        timeout = settings[_CLOSE]
    elif (state.flags | state.reply.flags) & UNACKNOWLEDGED and timeout > settings[_UNACKNOWLEDGED]:
        timeout = settings[_UNACKNOWLEDGED]
    elif not state.last_win and timeout > settings[_MAX_RETRANS]:
        timeout = settings[_MAX_RETRANS]

    status = entry.status
    if not status & SEEN_REPLY:
        if event == RST_EVENT:
            # The only answer is a refusal: there never was a connection.
            ct.account(entry, skb, reply)
            ct.kill(entry)
            return ACCEPT
        if event == SYN_EVENT and old == SYN_SENT:
            # A repeated SYN does not keep the entry, or a client that uses its port again would for ever.
            return ACCEPT
        if new == ESTABLISHED and timeout > settings[_UNACKNOWLEDGED]:
            timeout = settings[_UNACKNOWLEDGED]
    elif not status & ASSURED and new == ESTABLISHED and old in _ASSURING:
        entry.status = status | ASSURED
    ct.refresh(entry, skb, reply, timeout)
    return ACCEPT


def _begin(state: State, segment: Segment, event: int, loose: int) -> bool:
    """Load a new connection's state (tcp_new); false for a segment that begins none."""
    if NEXT[event][NONE] == INVALID_STATE or (event != SYN_EVENT and not loose):
        return False
    state.clear()
    state.end = segment.end
    state.maxwin = segment.window or 1
    if event == SYN_EVENT:
        state.maxend = segment.end
        options(segment, state)
    else:
        # What went before is unknown, the window's scale above all: believe what comes.
        state.maxend = (segment.end + state.maxwin) & MASK
        state.flags = state.reply.flags = SACK_PERM | BE_LIBERAL
    state.last_index = NO_EVENT
    return True


def _special(
    ct: Conntrack, entry: Entry, state: State, segment: Segment, reply: bool, event: int, old: int, new: int
) -> Outcome | tuple[int, int, bool]:
    """What the table alone does not say: an outcome, or old and new state and whether the window is to be checked."""
    if new == INVALID_STATE:
        return ct.invalid(f"a TCP packet that does not fit to the state {STATES[old]}")
    if new in (SYN_SENT, IGNORE):
        if new == SYN_SENT:
            if old < TIME_WAIT:
                return old, new, True
            if (state.flags | state.reply.flags) & CLOSE_INIT or (
                state.last_dir == reply and state.last_index == RST_EVENT
            ):
                ct.kill(entry)
                ct.note("the connection was closed: a new one begins")
                return REPEAT
        return _ignore(ct, state, segment, reply, event, old)
    if new == TIME_WAIT:
        if (
            old == LAST_ACK
            and event == ACK_EVENT
            and state.last_dir != reply
            and state.last_index == SYN_EVENT
            and state.last_flags & CHALLENGE_ACK
        ):
            state.last_flags &= ~CHALLENGE_ACK
            return ct.ignored("a challenge ACK (RFC 5961), not the last one")
    elif new == SYN_SENT2:
        state.last_flags |= SIMULTANEOUS_OPEN
    elif new == SYN_RECV:
        if reply and event == ACK_EVENT and state.last_flags & SIMULTANEOUS_OPEN:
            new = ESTABLISHED
    elif event == RST_EVENT:
        return _reset(ct, entry, state, segment, reply, old)
    return old, new, True


def _ignore(
    ct: Conntrack, state: State, segment: Segment, reply: bool, event: int, old: int
) -> Outcome | tuple[int, int, bool]:
    """A packet that may show the two ends in step and conntrack not: let it go, and remember it for the answer."""
    if (
        event == SYNACK_EVENT
        and state.last_index == SYN_EVENT
        and state.last_dir != reply
        and segment.ack == state.last_end
    ):
        # It answers the SYN that was ignored: get into step from what was noted of that.
        asker, answerer = (state, state.reply) if reply else (state.reply, state)
        asker.end = asker.maxend = state.last_end
        asker.maxwin = state.last_win or 1
        asker.scale = state.last_wscale
        state.last_flags &= ~CHALLENGE_ACK
        asker.flags = state.last_flags
        answerer.reset()
        return SYN_SENT, SYN_RECV, True
    state.last_index = event
    state.last_dir = int(reply)
    state.last_seq, state.last_end, state.last_win = segment.seq, segment.end, segment.window
    if event == SYN_EVENT and not reply:
        seen = Side()
        options(segment, seen)
        state.last_flags = seen.flags & (WINDOW_SCALE | SACK_PERM)
        state.last_wscale = seen.scale if seen.flags & WINDOW_SCALE else 0
        if old == LAST_ACK:
            state.last_flags |= CHALLENGE_ACK
    if old == SYN_SENT and event == ACK_EVENT and reply:
        state.last_ack = segment.ack
    return ct.ignored(f"let go in the state {STATES[old]}, in which it may be right or wrong; nothing changes")


def _reset(
    ct: Conntrack, entry: Entry, state: State, segment: Segment, reply: bool, old: int
) -> Outcome | tuple[int, int, bool]:
    """A RST ends the connection only when its sequence number is what the other side waits for (RFC 5961)."""
    if state.state in CLOSING:
        return old, CLOSE, False
    seq = segment.seq
    other = state if reply else state.reply
    new = CLOSE
    if other.flags & MAXACK_SET and state.last_index != SYN_EVENT:
        established = state.state == ESTABLISHED and entry.status & ASSURED
        if not seq and not established:
            return old, CLOSE, True
        if (seq - other.maxack) & SIGN and not ct.settings[_ANY_RST]:
            return ct.invalid("a RST with a sequence number that is acknowledged already")
        if not established or seq == other.maxack:
            return old, CLOSE, True
        if state.last_index == ACK_EVENT and state.last_dir == reply and seq == state.last_end:
            return old, CLOSE, True
        new = old
    answers_ignored = state.last_index == SYN_EVENT and state.last_dir != reply and entry.status & SEEN_REPLY
    answers_half_open = state.last_index == ACK_EVENT and not entry.status & ASSURED
    if (answers_ignored or answers_half_open) and segment.ack == state.last_end:
        return old, new, False
    if old == SYN_SENT and state.last_index == ACK_EVENT and state.last_dir and seq == state.last_ack:
        return old, new, False
    return old, new, True


def _shorten(ct: Conntrack, entry: Entry, state: State, event: int, reply: bool) -> None:
    """Both sides try to end a connection with numbers that conntrack does not believe: do not keep it for days."""
    if entry.status & (ASSURED | FIXED_TIMEOUT) != ASSURED or (event != RST_EVENT and event != FIN_EVENT):
        return
    if state.last_dir != reply and (state.last_index == FIN_EVENT or state.last_index == RST_EVENT):
        left = entry.expires - ct.engine.now
        timeout = ct.settings[_UNACKNOWLEDGED]
        if left >= 120 and left > timeout:
            ct.expire_at(entry, ct.engine.now + timeout)
    else:
        state.last_index, state.last_dir = event, int(reply)


def close(ct: Conntrack, entry: Entry) -> None:
    """REJECT has sent a RST in the connection's name (nf_conntrack_tcp_set_closing)."""
    if entry.status & CONFIRMED and entry.original[0] == TCP:
        old, entry.proto.state = entry.proto.state, CLOSE
        if old != CLOSE and not entry.status & FIXED_TIMEOUT:
            ct.expire_at(entry, ct.engine.now + ct.settings[_CLOSE])


def rehook(entry: Entry) -> None:
    """Packets may have been missed: take the windows of an open connection anew (nf_ct_tcp_fixup)."""
    if entry.original[0] == TCP and entry.proto.state == ESTABLISHED:
        state = entry.proto
        if not isinstance(state, State):
            state = State()
            state.load(entry.proto)
        state.maxwin = state.reply.maxwin = 0
        entry.proto = state.packed()
