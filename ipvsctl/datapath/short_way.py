"""Where packets come in: the short way of those whose flow is known, and the long way of all others.

What a packet of a known flow still meets is what differs from one to the next: both checksums, the TCP window, timers
and counters. Each test comes before the first change, so whatever does not fit goes the long way as if it had never
been looked at. Nothing is called that can be done in place, for this is the way of nearly every packet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from struct import error as Short
from typing import TYPE_CHECKING

from ipvsctl.datapath.ct import tcp
from ipvsctl.datapath.ct.tcp_window import UNACKNOWLEDGED
from ipvsctl.datapath.flows import HEADERS, WITHOUT_URGENT, Flows, Output
from ipvsctl.datapath.timers import SLOTS, Timers
from ipvsctl.datapath.vs import states_tcp
from ipvsctl.wire.checksum import words

if TYPE_CHECKING:
    from ipvsctl.datapath.trace import Tracer

_TIMESTAMP = b"\x01\x01\x08\x0a"
_LONG = 400
"""Bytes from which on `words` is faster than one division."""

_read, _write = HEADERS.unpack_from, WITHOUT_URGENT.pack
_number = int.from_bytes
_OPEN, _OPEN_IPVS, _ACK_EVENT = tcp.ESTABLISHED, states_tcp.ESTABLISHED, tcp.ACK_EVENT


class ShortWay(ABC):
    """The part of Engine that packets meet first."""

    flows: Flows
    timers: Timers
    tracer: Tracer | None
    now: float
    verdict: object
    outputs: list[Output]

    @abstractmethod
    def long_way(self, device: str, packet: bytes, now: float) -> list[Output]:
        """The long way."""

    def receive(self, device: str, packet: bytes, now: float) -> list[Output]:
        """A packet (from its IP header on) comes in by a device; what leaves because of it.

        Sequence numbers that are 2**30 or more apart, or that lie on the two sides of 0, go the long way as well; so
        all others compare as plain numbers do.
        """
        if now >= self.timers.due or self.tracer is not None:
            return self.long_way(device, packet, now)
        flows = self.flows
        try:
            head, number, word, check, key, seq, ack, bits, window, tcp_check = _read(packet)
            flow = flows.table[key]
        except (KeyError, Short):
            return self.long_way(device, packet, now)
        size = len(packet)
        entry, conn, state, mine, theirs = flow.entry, flow.conn, flow.state, flow.mine, flow.theirs
        if (
            word != flow.word or head - size != flow.head or size > flow.limit or device != flow.indev or not window
            or state.state != _OPEN or conn.state != _OPEN_IPVS
            or entry.expires <= now or conn.expires <= now or not entry.slot
        ):  # fmt: skip
            return self.long_way(device, packet, now)

        # What stands before the 24th byte is the same in every packet of a flow, and the header's own sum.
        if size < _LONG:
            total = _number(packet[24:]) % 0xFFFF
            if size & 1:
                total <<= 8
        else:
            total = words(packet[24:])
        if (number + check + size + flow.header) % 0xFFFF or (total + size + flow.segment) % 0xFFFF:
            return self.long_way(device, packet, now)
        # Header length and flags: ACK, with PSH or without, and no options but timestamps.
        if bits in (0x5018, 0x5010):
            end = seq + (size - 40)
        elif bits in (0x8018, 0x8010) and packet[40:44] == _TIMESTAMP and size >= 52:
            end = seq + (size - 52)
        else:
            return self.long_way(device, packet, now)

        mine_end, their_end, own_window, reply = mine.end, theirs.end, mine.maxwin, flow.reply
        if end == mine_end:
            fresh = False
            if state.last_seq == seq and state.last_end == end and state.last_ack == ack and state.last_dir == reply:
                return self.long_way(device, packet, now)  # Perhaps a retransmission, which is counted.
        elif seq == mine_end:
            fresh = True
        else:
            return self.long_way(device, packet, now)
        room, news, offered = mine.maxend - end, ack - mine.maxack, window << mine.scale
        allowed = ack + offered
        more = allowed - theirs.maxend
        if (
            room < 0 or room > 0x3FFFFFFF or news < 0 or news > 0x3FFFFFFF
            or (more > 0x3FFFFFFF or allowed > 0xFFFFFFFF if more > 0 else more < -0x3FFFFFFF)
        ):  # fmt: skip
            return self.long_way(device, packet, now)
        their_flags = theirs.flags
        if ack != their_end:
            behind = their_end - ack
            if behind < 0 or (behind > 66000 and behind > own_window):
                return self.long_way(device, packet, now)
        elif their_flags & UNACKNOWLEDGED:
            # All tests are passed: the packet goes out.
            theirs.flags = their_flags = their_flags & ~UNACKNOWLEDGED

        if own_window < offered:
            mine.maxwin = offered
        if news:
            mine.maxack = ack
        if more > 0:
            theirs.maxend = allowed
        if fresh:
            mine.end = end
            if not mine.flags & UNACKNOWLEDGED:
                mine.flags |= UNACKNOWLEDGED
            expires = now + flows.unacknowledged
        elif (mine.flags | their_flags) & UNACKNOWLEDGED:
            expires = now + flows.unacknowledged
        else:
            expires = now + flows.established
        if expires < entry.expires and entry.slot > expires * SLOTS + 2:
            entry.expires = expires
            self.timers.watch(entry)
        else:
            entry.expires = expires
        state.last_index = _ACK_EVENT
        state.last_dir = reply
        state.last_seq = seq
        state.last_ack = ack
        state.last_end = end
        state.last_win = window
        state.retrans = 0
        conn.expires = now + conn.timeout
        tally = flow.tally
        tally.packets += 1
        tally.octets += size
        if not reply:
            conn.in_packets += 1
        if entry.octets is not None and entry.packets is not None:
            entry.packets[reply] += 1
            entry.octets[reply] += size

        # A checksum is a number modulo 0xFFFF: at most one turn is taken back.
        check += flow.ip_delta
        if check >= 0xFFFF:
            check -= 0xFFFF
        tcp_check += flow.tcp_delta
        if tcp_check >= 0xFFFF:
            tcp_check -= 0xFFFF
        output = Output()
        output.device, output.next_hop = flow.device, flow.hop
        sent = _write(head, number, flow.sent_word, check, flow.ends, seq, ack, bits, window, tcp_check)
        output.packet = sent + packet[38:]
        self.now = now
        self.verdict = "sent"
        self.outputs = outputs = [output]
        return outputs
