"""What conntrack knows of a TCP connection's two sides, and whether a segment lies in the window.

Source: nf_conntrack_proto_tcp.c (tcp_in_window, tcp_options, tcp_sack, tcp_init_sender), nf_conntrack_tcp.h. The four
bounds are those of Guido van Rooij's "Real Stateful TCP Packet Filtering in IP Filter". A sequence number is 32 bits;
one lies before another when their difference has the sign bit, which Python's integers show without masking.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct

from ipvsctl.datapath.ct import seqadj
from ipvsctl.datapath.ct.entry import Entry
from ipvsctl.datapath.skb import ACK, FIN, RST, SYN
from ipvsctl.wire.checksum import Buffer

MASK = 0xFFFFFFFF
SIGN = 0x80000000

# What is known of a side: IP_CT_TCP_FLAG_* of nf_conntrack_tcp.h.
WINDOW_SCALE, SACK_PERM, CLOSE_INIT, BE_LIBERAL, UNACKNOWLEDGED, MAXACK_SET, CHALLENGE_ACK, SIMULTANEOUS_OPEN = (
    1 << bit for bit in range(8)
)

# TCP_CONNTRACK_*: the two states in which a side's numbers may begin anew; ct.tcp has them all.
SYN_SENT, SYN_RECV = 1, 2

_LEAST_ACK_WINDOW = 66000
"""How far behind an acknowledgement may be, at least."""

_LARGEST_SCALE = 14
_TIMESTAMP_ONLY = b"\x01\x01\x08\x0a"
_HEADER = Struct(">HHIIBBH")
_WORD = Struct(">I")


class Side:
    """One direction: what its sender has sent and may send.

    `end` is the highest sequence number sent, `maxend` how far its receiver lets it go, `maxwin` the largest window it
    has offered (0: nothing seen of it yet), `maxack` the highest it has acknowledged, `scale` its window's shift.
    """

    __slots__ = ("end", "flags", "maxack", "maxend", "maxwin", "scale")

    def __init__(self) -> None:
        self.end = self.maxend = self.maxwin = self.maxack = self.scale = self.flags = 0

    def reset(self) -> None:
        """Know nothing but how liberal to be (nf_ct_tcp_state_reset)."""
        self.end = self.maxend = self.maxwin = self.maxack = self.scale = 0
        self.flags &= BE_LIBERAL


class State(Side):
    """A connection (struct ip_ct_tcp): itself the side of the original direction, `reply` the other one.

    `state` is one of ct.tcp's states. `last_*` describe the segment seen last: `last_index` the event it was,
    `last_dir` its direction (0 original); `last_wscale` and `last_flags` the options of a SYN that was ignored.
    """

    __slots__ = (
        "last_ack", "last_dir", "last_end", "last_flags", "last_index", "last_seq", "last_win", "last_wscale", "reply",
        "retrans", "state",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reply = Side()
        self.load(_NOTHING)

    def load(self, packed: Buffer) -> None:
        """Become the connection that was packed."""
        other = self.reply
        (
            self.end, self.maxend, self.maxwin, self.maxack, other.end, other.maxend, other.maxwin, other.maxack,
            self.last_seq, self.last_ack, self.last_end, self.last_win, self.state, self.scale, self.flags,
            other.scale, other.flags, self.last_dir, self.last_index, self.retrans, self.last_wscale, self.last_flags,
        ) = _PACKED.unpack(packed)  # fmt: skip

    def clear(self) -> None:
        """Become a connection of which nothing is known."""
        self.load(_NOTHING)

    def store(self, packed: Packed) -> None:
        """Pack the connection."""
        other = self.reply
        _PACKED.pack_into(
            packed, 0,
            self.end, self.maxend, self.maxwin, self.maxack, other.end, other.maxend, other.maxwin, other.maxack,
            self.last_seq, self.last_ack, self.last_end, self.last_win, self.state, self.scale, self.flags,
            other.scale, other.flags, self.last_dir, self.last_index, self.retrans, self.last_wscale, self.last_flags,
        )  # fmt: skip

    def packed(self) -> Packed:
        """A packed copy."""
        packed = Packed(_NOTHING)
        self.store(packed)
        return packed


class Packed(bytearray):
    """A connection that is not open, or that rests: as State it takes 600 bytes, packed 120."""

    __slots__ = ()

    @property
    def state(self) -> int:
        """One of ct.tcp's states."""
        return self[_STATE_AT]

    @state.setter
    def state(self, state: int) -> None:
        self[_STATE_AT] = state


_PACKED = Struct("<11IH10B")
_NOTHING = bytes(_PACKED.size)
_STATE_AT = 46


class Segment:
    """A TCP header, read once. `size` is its length with the options, `end` the number after its last byte."""

    __slots__ = ("ack", "at", "data", "end", "flags", "seq", "size", "window")

    def __init__(self, data: bytearray, at: int) -> None:
        """`size` is 0 when the header is cut off or shorter than a header is."""
        self.data = data
        self.at = at
        length = len(data) - at
        if length < 20:
            self.size = 0
            return
        _, _, seq, self.ack, offset, flags, self.window = _HEADER.unpack_from(data, at)
        size = offset >> 4 << 2
        if size < 20 or length < size:
            self.size = 0
            return
        self.size = size
        self.seq = seq
        self.flags = flags
        length -= size
        if flags & (SYN | FIN):
            length += (flags >> 1 & 1) + (flags & 1)
        self.end = seq + length & MASK if length else seq


def options(segment: Segment, side: Side) -> None:
    """Note the window scale and SACK options of a SYN; a header without any options changes nothing."""
    at, end = segment.at + 20, segment.at + segment.size
    if at == end:
        return
    data = segment.data
    scale, flags = 0, side.flags & BE_LIBERAL
    while at < end:
        kind = data[at]
        if kind == 1:
            at += 1
            continue
        if kind == 0 or at + 2 > end:
            break
        length = data[at + 1]
        if length < 2 or at + length > end:
            break
        if kind == 4 and length == 2:
            flags |= SACK_PERM
        elif kind == 3 and length == 3:
            scale = min(data[at + 2], _LARGEST_SCALE)
            flags |= WINDOW_SCALE
        at += length
    side.scale, side.flags = scale, flags


def _highest_sack(data: Buffer, at: int, end: int, sack: int) -> int:
    """The highest right edge of the SACK blocks that lies after `sack`."""
    if end - at == 12 and data[at : at + 4] == _TIMESTAMP_ONLY:
        return sack
    while at < end:
        kind = data[at]
        if kind == 1:
            at += 1
            continue
        if kind == 0 or at + 2 > end:
            break
        length = data[at + 1]
        if length < 2 or at + length > end:
            break
        if kind == 5 and length >= 10 and not (length - 2) & 7:
            for edge in range(at + 6, at + length, 8):
                right: int = _WORD.unpack_from(data, edge)[0]
                if (sack - right) & SIGN:
                    sack = right
            break
        at += length
    return sack


def begin(segment: Segment, sender: Side, receiver: Side, reply: bool) -> None:
    """A side's first SYN or SYN/ACK: its numbers begin here (tcp_init_sender)."""
    sender.end = sender.maxend = segment.end
    sender.maxwin = segment.window or 1
    options(segment, sender)
    if reply and not sender.flags & receiver.flags & WINDOW_SCALE:
        # Both must offer scaling, or neither scales.
        sender.scale = receiver.scale = 0


class Window(Enum):
    """IN: in the window, or the side is liberal. SEQ_OVER and ACK_OVER make the packet INVALID, the others do not."""

    IN = "in the window"
    OVERSHOT = "more data than the receiver's window takes: let go, the connection stays as it is"
    SEQ_UNDER = "data that was acknowledged already: let go, the connection stays as it is"
    ACK_UNDER = "an acknowledgement far too late: let go, the connection stays as it is"
    SEQ_OVER = "its sequence number is beyond the receiver's window"
    ACK_OVER = "it acknowledges data that was never seen"


IN, SEQ_OVER, ACK_OVER = Window.IN, Window.SEQ_OVER, Window.ACK_OVER


def in_window(entry: Entry, state: State, segment: Segment, reply: bool, repeatable: bool, liberal: int) -> Window:
    """Judge a segment, and when it is in the window learn of it (tcp_in_window).

    `repeatable`: a pure ACK event, whose repeats count as retransmissions; `liberal`: nf_conntrack_tcp_be_liberal. A
    liberal side's odd segments are IN, but nothing is learnt of them.
    """
    sender, receiver = (state.reply, state) if reply else (state, state.reply)
    flags, seq, end, window = segment.flags, segment.seq, segment.end, segment.window
    ack = sack = segment.ack
    if segment.size > 20 and receiver.flags & SACK_PERM:
        start = segment.at
        sack = _highest_sack(segment.data, start + 20, start + segment.size, ack)
    if entry.seqadj is not None:
        # The receiver counts as it sent; what it reads was shifted by address translation of the payload.
        shift = seqadj.offset(entry, 0 if reply else 1, (ack - 1) & MASK)
        ack, sack = (ack - shift) & MASK, (sack - shift) & MASK

    if not sender.maxwin:
        if flags & SYN:
            begin(segment, sender, receiver, reply)
            if not flags & ACK:
                return IN  # Both opened at once.
        else:
            # In the middle of a connection: this segment is all there is to go by.
            sender.end = end
            sender.maxwin = (window << sender.scale) or 1
            sender.maxend = (end + sender.maxwin) & MASK
            if not receiver.maxwin:
                receiver.end = receiver.maxend = sack
            elif sack == (receiver.end + 1) & MASK:
                receiver.end = sack  # An answer to a keepalive, probably.
    elif flags & SYN and (sender.end - end) & SIGN and state.state in (SYN_SENT, SYN_RECV):
        # A new SYN with higher numbers: this side begins again.
        begin(segment, sender, receiver, reply)
        if reply and not flags & ACK:
            return IN

    their_end, their_window = receiver.end, receiver.maxwin
    if not flags & ACK or (not ack and flags & RST):
        # No acknowledgement, or that of a stack that sends RSTs with an empty one: take it as right.
        ack = sack = their_end
    if not seq and flags & RST and state.state == SYN_SENT:
        seq = end = sender.end  # A RST that answers a SYN.

    own_window = sender.maxwin
    lowest_ack = their_end - (own_window if own_window > _LEAST_ACK_WINDOW else _LEAST_ACK_WINDOW) - 1
    if not (seq - sender.maxend - 1) & SIGN:
        overshot = (end - sender.maxend + 1) & MASK
        if (
            their_window
            and (sender.end - their_window - 1 - end) & SIGN
            and (lowest_ack - sack) & SIGN
            and overshot <= their_window
            and (sack - their_end - 1) & SIGN
        ):
            # The peer may well acknowledge it, and then that must be known.
            sender.end = end
            sender.flags |= UNACKNOWLEDGED
            return IN if liberal or sender.flags & BE_LIBERAL else Window.OVERSHOT
        return IN if liberal or sender.flags & BE_LIBERAL else SEQ_OVER
    if not (sack - their_end - 1) & SIGN:
        return IN if liberal or sender.flags & BE_LIBERAL else ACK_OVER
    if their_window and not (sender.end - their_window - 1 - end) & SIGN:
        return IN if liberal or sender.flags & BE_LIBERAL else Window.SEQ_UNDER
    if not (lowest_ack - sack) & SIGN:
        return IN if liberal or sender.flags & BE_LIBERAL else Window.ACK_UNDER

    if not flags & SYN:
        window <<= sender.scale
    offered = window + sack - ack & MASK
    if own_window < offered:
        sender.maxwin = offered
    if (sender.end - end) & SIGN:
        sender.end = end
        sender.flags |= UNACKNOWLEDGED
    if flags & ACK:
        if not sender.flags & MAXACK_SET:
            sender.maxack = ack
            sender.flags |= MAXACK_SET
        elif (sender.maxack - ack) & SIGN:
            sender.maxack = ack
    if their_window and (sender.maxend - end) & SIGN:
        receiver.maxwin = (their_window + end - sender.maxend) & MASK
    allowed = sack + window
    if (receiver.maxend - 1 - allowed) & SIGN:
        receiver.maxend = (allowed if window else allowed + 1) & MASK
    if ack == their_end:
        receiver.flags &= ~UNACKNOWLEDGED
    if repeatable:
        if (
            state.last_seq == seq
            and state.last_end == end
            and state.last_ack == ack
            and state.last_win == segment.window
            and state.last_dir == reply
        ):
            state.retrans = (state.retrans + 1) & 0xFF
        else:
            state.last_dir = int(reply)
            state.last_seq = seq
            state.last_ack = ack
            state.last_end = end
            state.last_win = segment.window
            state.retrans = 0
    return IN
