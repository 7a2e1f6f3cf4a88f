"""The short way of open LVS-NAT connections: what the hooks decided for one packet, kept for the packets like it.

The first plain segment (ACK, no more than PSH beside it) of an open TCP connection walks the whole table of hooks. If
nothing on its way looked at more than addresses, ports, marks, devices and connection state, the next segments of the
same direction would meet the same functions, rules and routes: only checksums, the TCP window, timers and counters are
left to do, and they are done here. Whatever does not fit is left to the long way, which decides alone: every test
comes before the first change. Who changes anything that a hook asks calls `clear` before, who reads a counter of rules
or servers calls `settle`. tests/datapath/test_flows.py holds both ways equal.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.datapath.ct import tcp
from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, DST_NAT, DYING, FIXED_TIMEOUT, SEEN_REPLY, SRC_NAT, Entry
from ipvsctl.datapath.ct.tcp_window import MAXACK_SET, UNACKNOWLEDGED, Side, State
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, TCP, Skb
from ipvsctl.datapath.timers import SLOTS
from ipvsctl.datapath.vs import states_tcp
from ipvsctl.datapath.vs.entry import AVAILABLE, METHOD_MASK, NFCT, TEMPLATE, Conn, Counters, Dest
from ipvsctl.wire.checksum import words

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.nf.walk import Counter
    from ipvsctl.model.snapshot import Snapshot


class Output(NamedTuple):
    """A packet that leaves a device: `next_hop` is whose link address it goes to (4 or 16 bytes)."""

    device: str
    packet: bytes
    next_hop: bytes


MOST = 65_536
"""Flows that are kept; with one more all are forgotten and learnt anew."""

_HEADERS = Struct(">IHIH12sIIHHH")
"""Of IPv4 and TCP without options: version, class and length; identification; fragment bits, TTL and protocol;
checksum; addresses and ports; sequence, acknowledgement; header length and flags; window; checksum."""

_read, _write = _HEADERS.unpack_from, _HEADERS.pack
_LEAST = 40
_PLAIN, _PLAIN_PUSH, _STAMPED, _STAMPED_PUSH = 0x5010, 0x5018, 0x8010, 0x8018
"""Header length and flags: without options, and with those of timestamps."""
_TIMESTAMP = b"\x01\x01\x08\x0a"
_LONG = 600
"""Bytes from which on `words` adds faster than one division does."""
_FAR = 0x3FFFFFFF
"""No sequence number is this far from another that is compared with it here; those that are, or that lie on the two
sides of 0, go the long way. So they compare as plain numbers do."""
_LEAST_ACK_WINDOW = 66000
_new = tuple.__new__
_number = int.from_bytes
_OPEN, _OPEN_IPVS, _ACK_EVENT = tcp.ESTABLISHED, states_tcp.ESTABLISHED, tcp.ACK_EVENT
_FIXED = ASSURED | CONFIRMED | SEEN_REPLY
_UNFIT = SRC_NAT | DST_NAT | DYING | FIXED_TIMEOUT
_PREFIX = "net.netfilter.nf_conntrack_tcp_"
_ESTABLISHED, _UNACK, _NO_WINDOW, _REPEATS = (
    _PREFIX + name for name in ("timeout_established", "timeout_unacknowledged", "timeout_max_retrans", "max_retrans")
)


class Recorder:
    """What one packet met: the counters it counted in, and whether everything it was asked is the same for the next."""

    __slots__ = ("counters", "stable")

    def __init__(self) -> None:
        self.counters: list[Counter] = []
        self.stable = True


class Tally:
    """What the flows of one way through the rules to one server have in common: where their packets are counted."""

    __slots__ = ("counters", "octets", "packets", "reply", "stats")

    def __init__(self, counters: list[Counter], stats: tuple[Counters, ...], reply: int) -> None:
        self.counters = counters
        self.stats = stats
        self.reply = reply
        self.packets = self.octets = 0

    def settle(self) -> None:
        """Carry what was counted to where it belongs."""
        packets, octets = self.packets, self.octets
        self.packets = self.octets = 0
        for counter in self.counters:
            counter.packets += packets
            counter.bytes += octets
        for stats in self.stats:
            if self.reply:
                stats.outpkts += packets
                stats.outbytes += octets
            else:
                stats.inpkts += packets
                stats.inbytes += octets


class Flow:
    """One direction of a connection.

    `parts` are its entries and its TCP windows: `mine` of the sender, `theirs` of the receiver. `head` and `word` are
    what packets begin with less their length, and the word of TTL and protocol, which is `sent_word` afterwards; `ends`
    are the new addresses and ports. `header` and `segment` are the constant parts of sums, `ip_delta` and `tcp_delta`
    what is added to checksums, `limit` the longest packet that certainly fits everywhere.
    """

    __slots__ = (
        "device", "ends", "head", "header", "hop", "indev", "ip_delta", "limit", "parts", "reply", "segment",
        "sent_word", "tally", "tcp_delta", "word",
    )  # fmt: skip

    parts: tuple[Entry, Conn, State, Side, Side]
    tally: Tally
    indev: str
    device: str
    hop: bytes
    ends: bytes
    reply: int
    limit: int
    head: int
    word: int
    sent_word: int
    header: int
    segment: int
    ip_delta: int
    tcp_delta: int


class Flows:
    """The flows by addresses and ports as they stand in the packet."""

    __slots__ = ("_enabled", "_established", "_flows", "_least_mtu", "_tallies", "_unacknowledged", "engine")

    def __init__(self, engine: Engine, snapshot: Snapshot) -> None:
        self.engine = engine
        self._enabled = True
        self._flows: dict[bytes, Flow] = {}
        self._tallies: dict[tuple[object, ...], Tally] = {}
        self._established = self._unacknowledged = 0
        mtus = [device.mtu for device in snapshot.devices] + [route.mtu for route in snapshot.routes if route.mtu]
        self._least_mtu = min(mtus, default=0)
        engine.vs.conns.on_change = self.forget
        engine.settings.watch(self._read_settings)
        self._read_settings()

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def enabled(self) -> bool:
        """Whether there are flows at all."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.clear()
        self._enabled = enabled

    def _read_settings(self) -> None:
        settings = self.engine.settings
        self.clear()
        self._established = settings[_ESTABLISHED]
        self._unacknowledged = min(self._established, settings[_UNACK])

    def clear(self) -> None:
        """Forget every flow: something is about to change that may change what becomes of their packets."""
        self.settle()
        self._flows.clear()
        self._tallies.clear()

    def settle(self) -> None:
        """Carry what was counted here to where it belongs: before counters are read or set."""
        for tally in self._tallies.values():
            if tally.packets:
                tally.settle()

    # -- the short way ------------------------------------------------------------------------------------------------

    def forward(self, device: str, packet: bytes, now: float) -> list[Output] | None:
        """Forward a packet of a known flow; None, and nothing done, when it must go the long way."""
        size = len(packet)
        if size < _LEAST:
            return None
        head, number, word, check, key, seq, ack, bits, window, tcp_check = _read(packet)
        flow = self._flows.get(key)
        if (
            flow is None or head - size != flow.head or word != flow.word or size > flow.limit
            or device != flow.indev or not window
        ):  # fmt: skip
            return None
        entry, conn, state, mine, theirs = flow.parts
        if (
            state.state != _OPEN or conn.state != _OPEN_IPVS or entry.expires <= now or conn.expires <= now
            or not entry.slot or not conn.slot
        ):  # fmt: skip
            return None
        if bits == _PLAIN_PUSH or bits == _PLAIN:
            end = seq + size - 40
        elif (bits == _STAMPED_PUSH or bits == _STAMPED) and packet[40:44] == _TIMESTAMP and size >= 52:
            end = seq + size - 52
        else:
            return None
        # The header's sum is right, so that of the whole packet is the segment's.
        if (number + check + size + flow.header) % 0xFFFF:
            return None
        total = _number(packet, "big") % 0xFFFF if size < _LONG else words(packet)
        if ((total << 8 if size & 1 and size < _LONG else total) + size + flow.segment) % 0xFFFF:
            return None

        mine_end, their_end, own_window = mine.end, theirs.end, mine.maxwin
        if (seq != mine_end and end != mine_end) or not own_window or not theirs.maxwin:
            return None
        room = mine.maxend - end
        if room < 0 or room > _FAR:
            return None
        if ack != their_end:
            behind = their_end - ack
            if behind < 0 or (behind > _LEAST_ACK_WINDOW and behind > own_window) or behind > _FAR:
                return None
        own_flags, their_flags = mine.flags, theirs.flags
        news = ack - mine.maxack
        if news < 0 or news > _FAR or not own_flags & MAXACK_SET:
            return None
        offered = window << mine.scale
        allowed = ack + offered
        more = allowed - theirs.maxend
        if more > _FAR or more < -_FAR or allowed > 0xFFFFFFFF:
            return None
        reply = flow.reply
        if state.last_seq == seq and state.last_end == end and state.last_ack == ack and state.last_dir == reply:
            return None

        if own_window < offered:
            mine.maxwin = offered
        if mine_end != end:
            mine.end = end
            own_flags |= UNACKNOWLEDGED
            mine.flags = own_flags
        if news:
            mine.maxack = ack
        if more > 0:
            theirs.maxend = allowed
        if ack == their_end and their_flags & UNACKNOWLEDGED:
            their_flags &= ~UNACKNOWLEDGED
            theirs.flags = their_flags
        state.last_index = _ACK_EVENT
        state.last_dir = reply
        state.last_seq = seq
        state.last_ack = ack
        state.last_end = end
        state.last_win = window
        state.retrans = 0
        engine = self.engine
        expires = now + (self._unacknowledged if (own_flags | their_flags) & UNACKNOWLEDGED else self._established)
        if expires < entry.expires and entry.slot > expires * SLOTS + 1:
            entry.expires = expires
            engine.timers.watch(entry)
        else:
            entry.expires = expires
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
        sent = _write(head, number, flow.sent_word, check, flow.ends, seq, ack, bits, window, tcp_check)
        engine.now = now
        engine.verdict = "sent"
        engine.outputs = outputs = [_new(Output, (flow.device, sent + packet[38:], flow.hop))]
        return outputs

    # -- learning it --------------------------------------------------------------------------------------------------

    def worth(self, packet: bytes) -> bool:
        """Whether a packet that goes the long way may be the first of a flow."""
        if not self._enabled or len(packet) < _LEAST or packet[9] != TCP or packet[0] != 0x45:
            return False
        flags = packet[33]
        if flags & (FIN | RST) and self._flows:
            self._forget_both(packet)
        return flags & ~PSH == ACK

    def _forget_both(self, packet: bytes) -> None:
        """A segment ends a connection (FIN or RST): its flows, of both directions, are of no more use."""
        found = self._flows.get(packet[12:24])
        if found is not None:
            entry = found.parts[0]
            self.forget(entry.original, entry.reply)

    def forget(self, *keys: bytes) -> None:
        """Forget the flows of a connection that begins or ends, by its tuples."""
        if self._flows:
            for key in keys:
                self._flows.pop(key[1:], None)

    def learn(self, device: str, packet: bytes, skb: Skb, recorder: Recorder) -> None:
        """A packet has gone the long way: keep what was decided, if it is all that decides for the next one too."""
        engine = self.engine
        entry, outputs, dst = skb.ct, engine.outputs, skb.dst
        if (
            not recorder.stable or len(outputs) != 1 or entry is None or dst is None or skb.redirect
            or engine.verdict != "sent" or engine.backlog or engine.settings[_REPEATS] <= 0
        ):  # fmt: skip
            return
        state = entry.proto
        if (
            not isinstance(state, State) or state.state != _OPEN or entry.status & _FIXED != _FIXED
            or entry.status & _UNFIT or entry.helper is not None or entry.seqadj is not None or entry.expectations
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
            or (not reply and conns.find_out_key(key) is not None)
        ):  # fmt: skip
            return
        flow = self._make(packet, outputs[0])
        if flow is None:
            return
        flow.parts = (entry, conn, state, state.reply, state) if reply else (entry, conn, state, state, state.reply)
        flow.reply = reply
        flow.indev = device
        flow.limit = max(min(dst.mtu, self._least_mtu), len(packet))
        flow.tally = self._tally(recorder.counters, conn.dest, reply)
        if len(self._flows) >= MOST:
            self.clear()
        self._flows[packet[12:24]] = flow

    def _tally(self, counters: list[Counter], dest: Dest, reply: int) -> Tally:
        service = dest.service
        key = (dest, service, reply, *counters)
        tally = self._tallies.get(key)
        if tally is None:
            stats = (dest.stats, self.engine.vs.services.total, *((service.stats,) if service is not None else ()))
            tally = self._tallies[key] = Tally(counters, stats, reply)
        return tally

    def _make(self, packet: bytes, output: Output) -> Flow | None:
        """The flow; None when its short way would not make of the packet what the long way has made."""
        before, after = packet[12:24], output.packet[12:24]
        head, number, word, check, _, seq, ack, bits, window, tcp_check = _read(packet)
        flow = Flow()
        flow.device, flow.hop, flow.ends = output.device, output.next_hop, after
        flow.head, flow.word, flow.sent_word = head - len(packet), word, word - 0x100
        flow.segment = words(before[:8]) + TCP - 20
        flow.header = words(before[:8]) + (head >> 16) + (word >> 16) + (word & 0xFFFF)
        # RFC 1624: what is added to the words is taken from the checksum; one less TTL is 0x100 less.
        flow.ip_delta = (words(before[:8]) - words(after[:8]) + 0x100) % 0xFFFF
        flow.tcp_delta = (words(before) - words(after)) % 0xFFFF
        check, tcp_check = (check + flow.ip_delta) % 0xFFFF, (tcp_check + flow.tcp_delta) % 0xFFFF
        sent = _write(head, number, flow.sent_word, check, after, seq, ack, bits, window, tcp_check) + packet[38:]
        whole = not word & 0xBFFF0000 and head & 0xFFFF == len(packet)
        return flow if whole and sent == output.packet else None
