"""The short way of open LVS-NAT connections: what the hooks decided for one packet, kept for the packets like it.

The first plain segment (ACK, no more than PSH beside it) of an open TCP connection walks the whole table of hooks. If
nothing on its way looked at more than addresses, ports, marks, devices and connection state, the next segments of the
same direction would meet the same functions, rules and routes: only checksums, the TCP window, timers and counters are
left to do; short_way.py does them. Whatever does not fit is left to the long way, which decides alone. Who changes
anything that a hook asks calls `clear` before, who reads a counter of rules or servers calls `settle`; connections tell
when they begin and end. tests/datapath/test_flows.py holds both ways equal.

A State is a connection's for as long as it stays open, and nothing makes its windows unknown again meanwhile: that both
sides have shown one, and this side has acknowledged something, is asked once, when the flow is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from ipvsctl.datapath.ct import tcp
from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, DST_NAT, DYING, FIXED_TIMEOUT, SEEN_REPLY, SRC_NAT, Entry
from ipvsctl.datapath.ct.tcp_window import MAXACK_SET, Side, State
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, TCP, Skb
from ipvsctl.datapath.vs import states_tcp
from ipvsctl.datapath.vs.entry import AVAILABLE, METHOD_MASK, NFCT, TEMPLATE, Conn, Counters, Dest
from ipvsctl.wire.checksum import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.nf.walk import Counter
    from ipvsctl.model.snapshot import Snapshot


@dataclass(slots=True, init=False)
class Output:
    """A packet that leaves a device: `next_hop` is whose link address it goes to (4 or 16 bytes).

    It is made empty and then filled, which takes half the time of a call with arguments.
    """

    device: str
    packet: bytes
    next_hop: bytes

    def __iter__(self) -> Iterator[str | bytes]:
        """The three, for those who want them at once."""
        return iter((self.device, self.packet, self.next_hop))


MOST = 2 * tcp.UNPACKED
"""Flows that are kept, two of each connection that has its State ready; with one more all are learnt anew."""

_FIELDS = ">IHIH12sIIHHH"
HEADERS = Struct(_FIELDS + "2x")
"""Of IPv4 and TCP without options: version, class and length; identification; fragment bits, TTL and protocol;
checksum; addresses and ports; sequence, acknowledgement; header length and flags; window; checksum; urgent pointer."""

WITHOUT_URGENT = Struct(_FIELDS)
"""The same as it is written: what follows it, from the urgent pointer on, is never changed."""

_OPEN, _OPEN_IPVS = tcp.ESTABLISHED, states_tcp.ESTABLISHED
_FIXED = ASSURED | CONFIRMED | SEEN_REPLY
_UNFIT = SRC_NAT | DST_NAT | DYING | FIXED_TIMEOUT
_PREFIX = "net.netfilter.nf_conntrack_tcp_"
_ESTABLISHED, _UNACK, _REPEATS = (
    _PREFIX + name for name in ("timeout_established", "timeout_unacknowledged", "max_retrans")
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

    `mine` and `theirs` are the TCP windows of sender and receiver. `head` and `word` are what packets begin with less
    their length, and the word of TTL and protocol, which is `sent_word` afterwards; `ends` are the new addresses and
    ports. `header` and `segment` are the constant parts of sums, `ip_delta` and `tcp_delta` what is added to checksums,
    `limit` the longest packet that certainly fits everywhere: one that has, or that fits the least MTU of all.
    """

    __slots__ = (
        "conn", "device", "ends", "entry", "head", "header", "hop", "indev", "ip_delta", "limit", "mine", "reply",
        "segment", "sent_word", "state", "tally", "tcp_delta", "theirs", "word",
    )  # fmt: skip

    entry: Entry
    conn: Conn
    state: State
    mine: Side
    theirs: Side
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

    __slots__ = ("_enabled", "_least_mtu", "_numbers", "_tallies", "engine", "established", "table", "unacknowledged")

    def __init__(self, engine: Engine, snapshot: Snapshot) -> None:
        self.engine = engine
        self._enabled = True
        self.table: dict[bytes, Flow] = {}
        self._tallies: dict[tuple[object, ...], Tally] = {}
        self._numbers: dict[int, int] = {}
        self.established = self.unacknowledged = 0
        mtus = [device.mtu for device in snapshot.devices] + [route.mtu for route in snapshot.routes if route.mtu]
        self._least_mtu = min(mtus, default=0)
        engine.vs.conns.on_change = self.forget
        engine.settings.watch(self._read_settings)
        self._read_settings()

    def __len__(self) -> int:
        return len(self.table)

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
        self.established = settings[_ESTABLISHED]
        self.unacknowledged = min(self.established, settings[_UNACK])

    def clear(self) -> None:
        """Forget every flow: something is about to change that may change what becomes of their packets."""
        self.settle()
        self.table.clear()
        self._tallies.clear()
        self._numbers.clear()

    def settle(self) -> None:
        """Carry what was counted here to where it belongs: before counters are read or set."""
        for tally in self._tallies.values():
            if tally.packets:
                tally.settle()

    # -- learning it --------------------------------------------------------------------------------------------------

    def worth(self, packet: bytes) -> bool:
        """Whether a packet that goes the long way may be the first of a flow."""
        if not self._enabled or len(packet) < HEADERS.size or packet[9] != TCP or packet[0] != 0x45:
            return False
        flags = packet[33]
        if flags & (FIN | RST) and self.table:
            self._forget_both(packet)
        return flags & ~PSH == ACK

    def _forget_both(self, packet: bytes) -> None:
        """A segment ends a connection (FIN or RST): its flows, of both directions, are of no more use."""
        found = self.table.get(packet[12:24])
        if found is not None:
            entry = found.entry
            self.forget(entry.original, entry.reply)

    def forget(self, *keys: bytes) -> None:
        """Forget the flows of a connection that begins or ends, by its tuples."""
        if self.table:
            for key in keys:
                self.table.pop(key[1:], None)

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
            or not state.maxwin or not state.reply.maxwin
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
            or (not reply and (conns.find_out_key(key) is not None or engine.vs.transmit.ways.has_learned(conn.daddr)))
        ):  # fmt: skip
            return
        flow = self._make(packet, outputs[0])
        if flow is None:
            return
        mine, theirs = (state.reply, state) if reply else (state, state.reply)
        if not mine.flags & MAXACK_SET:
            return
        flow.entry, flow.conn, flow.state, flow.mine, flow.theirs = entry, conn, state, mine, theirs
        flow.reply = reply
        flow.indev = device
        (flow.limit,) = self._once(max(min(dst.mtu, self._least_mtu), len(packet)))
        if flow.hop == conn.daddr:
            flow.hop = conn.daddr
        flow.tally = self._tally(recorder.counters, conn.dest, reply)
        if len(self.table) >= MOST:
            self.clear()
        self.table[packet[12:24]] = flow

    def _once(self, *numbers: int) -> Iterator[int]:
        """Numbers that most flows have in common, each kept once."""
        return (self._numbers.setdefault(number, number) for number in numbers)

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
        head, number, word, check, _, seq, ack, bits, window, tcp_check = HEADERS.unpack_from(packet)
        flow = Flow()
        flow.device, flow.hop, flow.ends = output.device, output.next_hop, after
        flow.head, flow.word, flow.sent_word = self._once(head - len(packet), word, word - 0x100)
        flow.segment = words(before) + TCP - 20
        flow.header = words(before[:8]) + (head >> 16) + (word >> 16) + (word & 0xFFFF)
        # RFC 1624: what is added to the words is taken from the checksum; one less TTL is 0x100 less.
        flow.ip_delta, flow.tcp_delta = self._once(
            (words(before[:8]) - words(after[:8]) + 0x100) % 0xFFFF, (words(before) - words(after)) % 0xFFFF
        )
        check, tcp_check = (check + flow.ip_delta) % 0xFFFF, (tcp_check + flow.tcp_delta) % 0xFFFF
        sent = (
            WITHOUT_URGENT.pack(head, number, flow.sent_word, check, after, seq, ack, bits, window, tcp_check)
            + packet[38:]
        )
        whole = not word & 0xBFFF0000 and head & 0xFFFF == len(packet)
        return flow if whole and sent == output.packet else None
