"""The short way of open LVS-NAT connections: what the hooks decided for one packet, kept for the packets like it.

The first plain segment (ACK, no more than PSH beside it) of an open TCP connection walks the whole table of hooks. If
nothing on its way looked at more than addresses, ports, marks, devices and connection state, the next segments of the
same direction would meet the same functions, rules and routes: only checksums, the TCP window, timers and counters are
left to do, and they are done here. Whatever does not fit is left to the long way, which decides alone; both ways are
held equal by the differential corpus, which runs with and without flows.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.datapath.ct import tcp
from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, DST_NAT, DYING, SEEN_REPLY, SRC_NAT, Entry
from ipvsctl.datapath.ct.tcp_window import MASK, MAXACK_SET, SIGN, UNACKNOWLEDGED, Side, State
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, TCP, Skb
from ipvsctl.datapath.timers import SLOTS
from ipvsctl.datapath.vs import states_tcp
from ipvsctl.datapath.vs.entry import AVAILABLE, METHOD_MASK, NFCT, TEMPLATE, Conn, Counters
from ipvsctl.wire.checksum import words

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.nf.walk import Counter


class Output(NamedTuple):
    """A packet that leaves a device: `next_hop` is whose link address it goes to (4 or 16 bytes)."""

    device: str
    packet: bytes
    next_hop: bytes


MOST = 50_000
"""Flows that are kept; with one more all are forgotten and learnt anew."""

_read = Struct(">6H12xIIHHH").unpack_from
_IPV4 = 0x4500
_PLAIN = frozenset({0x5010, 0x5018})
_STAMPED = frozenset({0x8010, 0x8018})
"""Header length and flags of a segment without options, and of one with timestamps."""
_TIMESTAMP = b"\x01\x01\x08\x0a"
_HEADERS = 40
_new = tuple.__new__
_number = int.from_bytes
_OPEN, _OPEN_IPVS, _ACK_EVENT = tcp.ESTABLISHED, states_tcp.ESTABLISHED, tcp.ACK_EVENT
_FIXED = ASSURED | CONFIRMED | SEEN_REPLY
_PREFIX = "net.netfilter.nf_conntrack_tcp_"
_ESTABLISHED, _UNACK, _NO_WINDOW = (
    _PREFIX + name for name in ("timeout_established", "timeout_unacknowledged", "timeout_max_retrans")
)


class Recorder:
    """What one packet met: the counters it counted in, and whether everything it was asked is the same for the next."""

    __slots__ = ("counters", "stable")

    def __init__(self) -> None:
        self.counters: list[Counter] = []
        self.stable = True


class Flow:
    """One direction of a connection.

    `mine` and `theirs` are the sides of its TCP windows, `change` what is added to the packet's first 40 bytes, taken
    as one number; `header` and `segment` are constant parts of its checksums.
    """

    __slots__ = (
        "change", "conn", "counters", "device", "entry", "header", "hop", "indev", "ip_delta", "limit", "mine",
        "octets", "packets", "reply", "segment", "state", "stats", "tcp_delta", "theirs",
    )  # fmt: skip

    entry: Entry
    conn: Conn
    state: State
    mine: Side
    theirs: Side
    counters: list[Counter]
    stats: tuple[Counters, ...]
    indev: str
    device: str
    hop: bytes
    reply: int
    limit: int
    header: int
    segment: int
    change: int
    ip_delta: int
    tcp_delta: int
    packets: int
    octets: int


class Flows:
    """The flows by addresses and ports as they stand in the packet."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.enabled = True
        self._flows: dict[bytes, Flow] = {}
        self._established = self._unacknowledged = self._no_window = 0
        engine.settings.watch(self._read_settings)
        self._read_settings()

    def _read_settings(self) -> None:
        settings = self.engine.settings
        self.clear()
        self._established = settings[_ESTABLISHED]
        self._unacknowledged = min(self._established, settings[_UNACK])
        self._no_window = min(self._established, settings[_NO_WINDOW])

    def clear(self) -> None:
        """Forget every flow: something changed that may change what becomes of their packets."""
        self.settle()
        self._flows.clear()

    def settle(self) -> None:
        """Carry what was counted here to where it belongs; called before counters are read or set."""
        for flow in self._flows.values():
            if flow.packets:
                self._settle(flow)

    def _settle(self, flow: Flow) -> None:
        packets, octets = flow.packets, flow.octets
        flow.packets = flow.octets = 0
        for counter in flow.counters:
            counter.packets += packets
            counter.bytes += octets
        entry = flow.entry
        if entry.packets is not None and entry.octets is not None:
            entry.packets[flow.reply] += packets
            entry.octets[flow.reply] += octets
        if flow.reply:
            for stats in flow.stats:
                stats.outpkts += packets
                stats.outbytes += octets
        else:
            flow.conn.in_packets += packets
            for stats in flow.stats:
                stats.inpkts += packets
                stats.inbytes += octets

    # -- the short way ------------------------------------------------------------------------------------------------

    def forward(self, device: str, packet: bytes, now: float) -> list[Output] | None:
        """Forward a packet of a known flow; None, and nothing done, when it must go the long way."""
        flow = self._flows.get(packet[12:24])
        if flow is None or flow.indev != device:
            return None
        size = len(packet)
        if not _HEADERS <= size <= flow.limit:
            return None
        entry, conn, state = flow.entry, flow.conn, flow.state
        first, length, number, offset, hops, check, seq, ack, bits, window, tcp_check = _read(packet)
        if (
            first != _IPV4 or length != size or offset & 0xBFFF or hops & 0xFF != 6 or hops < 0x200
            or state.state != _OPEN or conn.state != _OPEN_IPVS or entry.expires <= now or conn.expires <= now
            or not (entry.slot and conn.slot)
        ):  # fmt: skip
            return None
        if bits in _PLAIN:
            end = seq + size - 40
        elif bits in _STAMPED and packet[40:44] == _TIMESTAMP and size >= 52:
            end = seq + size - 52
        else:
            return None
        value = _number(packet, "big")
        if (first + size + number + offset + hops + check + flow.header) % 0xFFFF or (
            value + size + flow.segment
        ) % 0xFFFF:
            return None

        mine, theirs = flow.mine, flow.theirs
        their_end, own_window = theirs.end, mine.maxwin
        if (
            end > MASK or (end != mine.end and seq != mine.end) or (mine.maxend - end) & SIGN
            or not own_window or not theirs.maxwin
        ):  # fmt: skip
            return None
        if ack != their_end and (
            not (ack - their_end - 1) & SIGN
            or not (their_end - (own_window if own_window > 66000 else 66000) - 1 - ack) & SIGN
        ):
            return None
        reply = flow.reply
        if state.last_seq == seq and state.last_end == end and state.last_ack == ack and state.last_dir == reply:
            return None
        offered = window << mine.scale
        if own_window < offered:
            mine.maxwin = offered
        own_flags, their_flags = mine.flags, theirs.flags
        if mine.end != end:
            mine.end = end
            if not own_flags & UNACKNOWLEDGED:
                mine.flags = own_flags = own_flags | UNACKNOWLEDGED
        if not own_flags & MAXACK_SET:
            mine.maxack = ack
            mine.flags = own_flags = own_flags | MAXACK_SET
        elif (mine.maxack - ack) & SIGN:
            mine.maxack = ack
        allowed = ack + (offered or 1)
        if (theirs.maxend - allowed) & SIGN:
            theirs.maxend = allowed & MASK
        if ack == their_end and their_flags & UNACKNOWLEDGED:
            theirs.flags = their_flags = their_flags & ~UNACKNOWLEDGED
        state.last_index = _ACK_EVENT
        state.last_dir = reply
        state.last_seq = seq
        state.last_ack = ack
        state.last_end = end
        state.last_win = window
        state.retrans = 0
        if (own_flags | their_flags) & UNACKNOWLEDGED:
            expires = now + self._unacknowledged
        elif window:
            expires = now + self._established
        else:
            expires = now + self._no_window
        entry.expires = expires
        engine = self.engine
        if entry.slot > expires * SLOTS + 1:
            engine.timers.watch(entry)
        conn.expires = now + conn.timeout

        flow.packets += 1
        flow.octets += size
        change = flow.change
        # A checksum is a number modulo 0xFFFF: at most one turn is taken back.
        if check + flow.ip_delta >= 0xFFFF:
            change -= 0xFFFF << 224
        if tcp_check + flow.tcp_delta >= 0xFFFF:
            change -= 0xFFFF << 16
        engine.now = now
        engine.verdict = "sent"
        engine.outputs = outputs = [
            _new(Output, (flow.device, (value + (change << (size - _HEADERS) * 8)).to_bytes(size, "big"), flow.hop))
        ]
        return outputs

    # -- learning it --------------------------------------------------------------------------------------------------

    def worth(self, packet: bytes) -> bool:
        """Whether a packet that goes the long way may be the first of a flow."""
        if not self.enabled or len(packet) < _HEADERS or packet[0] != 0x45 or packet[9] != TCP:
            return False
        flags = packet[33]
        if flags & (FIN | RST) and self._flows:
            self.forget(packet)
        return flags & ~PSH == ACK

    def forget(self, packet: bytes) -> None:
        """A segment ends a connection (FIN or RST): its flows, of both directions, are of no more use."""
        found = self._flows.get(packet[12:24])
        if found is None:
            return
        conn = found.conn
        client = conn.cport.to_bytes(2, "big")
        for key in (
            conn.caddr + conn.vaddr + client + conn.vport.to_bytes(2, "big"),
            conn.daddr + conn.caddr + conn.dport.to_bytes(2, "big") + client,
        ):
            flow = self._flows.pop(key, None)
            if flow is not None:
                self._settle(flow)

    def learn(self, device: str, packet: bytes, skb: Skb, recorder: Recorder) -> None:
        """A packet has gone the long way: keep what was decided, if it is all that decides for the next one too."""
        engine = self.engine
        entry, outputs = skb.ct, engine.outputs
        if not recorder.stable or len(outputs) != 1 or entry is None or engine.verdict != "sent" or engine.backlog:
            return
        state = entry.proto
        if (
            not isinstance(state, State) or state.state != _OPEN or entry.status & _FIXED != _FIXED
            or entry.status & (SRC_NAT | DST_NAT | DYING)
            or entry.helper is not None or entry.seqadj is not None or entry.expectations
        ):  # fmt: skip
            return
        key = b"\6" + packet[12:24]
        conns = engine.vs.conns
        conn, reply = conns.find_in_key(key), 0
        if conn is None:
            conn, reply = conns.find_out_key(key), 1
        if (
            conn is None or conn.flags & METHOD_MASK or conn.flags & TEMPLATE or not conn.flags & NFCT
            or conn.state != _OPEN_IPVS or conn.app is not None or conn.dest is None
            or not conn.dest.flags & AVAILABLE or not conn.slot or (entry.original != key) != bool(reply)
        ):  # fmt: skip
            return
        flow = self._make(packet, outputs[0], entry, conn, reply)
        if flow is None:
            return
        flow.counters = recorder.counters
        dest = conn.dest
        flow.stats = (dest.stats, engine.vs.services.total, *((dest.service.stats,) if dest.service else ()))
        flow.indev = device
        if len(self._flows) >= MOST:
            self.clear()
        known = self._flows.get(packet[12:24])
        if known is not None:
            self._settle(known)
        self._flows[packet[12:24]] = flow

    def _make(self, packet: bytes, output: Output, entry: Entry, conn: Conn, reply: int) -> Flow | None:
        """The flow; None when its short way would not make of the packet what the long way has made."""
        before, after = packet[12:24], output.packet[12:24]
        shift = words(after) - words(before)
        flow = Flow()
        flow.entry, flow.conn, flow.reply = entry, conn, reply
        flow.state = state = entry.proto
        flow.mine, flow.theirs = (state.reply, state) if reply else (state, state.reply)
        flow.device, flow.hop = output.device, output.next_hop
        flow.limit = self.engine.routing.devices[output.device].mtu
        flow.header = words(before[:8])
        flow.segment = words(before[:8]) + 6 - 20
        # RFC 1624: what is added to the words is taken from the checksum; one less TTL is 0x100 less.
        flow.ip_delta = (words(before[:8]) - words(after[:8]) + 0x100) % 0xFFFF
        flow.tcp_delta = -shift % 0xFFFF
        moved = int.from_bytes(after, "big") - int.from_bytes(before, "big")
        flow.change = (moved << 128) - (1 << 248) + (flow.ip_delta << 224) + (flow.tcp_delta << 16)
        flow.packets = flow.octets = 0
        return flow if self._changed(flow, packet) == output.packet else None

    def _changed(self, flow: Flow, packet: bytes) -> bytes:
        """The packet as the flow sends it on."""
        check, tcp_check = int.from_bytes(packet[10:12], "big"), int.from_bytes(packet[36:38], "big")
        change = flow.change
        if check + flow.ip_delta >= 0xFFFF:
            change -= 0xFFFF << 224
        if tcp_check + flow.tcp_delta >= 0xFFFF:
            change -= 0xFFFF << 16
        size = len(packet)
        return (int.from_bytes(packet, "big") + (change << (size - _HEADERS) * 8)).to_bytes(size, "big")
