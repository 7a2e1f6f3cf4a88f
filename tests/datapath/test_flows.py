"""The short way does what the long way does: random rounds of two engines, and the cases that must not be missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from ipvsctl.datapath import flows
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, SYN
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats import iptables_save
from ipvsctl.model.address import INET, ServerAddress
from ipvsctl.model.change import StartDaemon
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.service import Server, Service
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.model.status import Daemon, Timeouts
from ipvsctl.wire import ipv4, tcp, transport
from ipvsctl.wire.address import packed
from tests.datapath.flow_rig import VIRTUAL, WEB, Counting, Round, kill

CLIENT, SERVER = packed("10.1.0.4"), packed("10.0.2.2")
RULES = """\
*filter
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -d 192.168.1.100/32 -p tcp -m tcp --dport 80 -j ACCEPT
-A INPUT -j DROP
-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DROP
COMMIT
"""
SNAPSHOT = Snapshot(
    (Device("eth0", (f"{VIRTUAL}/24",)), Device("eth1", ("10.0.2.1/24",))),
    (Route("0.0.0.0/0", via="192.168.1.254"),),
    sysctls={"net.ipv4.ip_forward": "1", "net.ipv4.vs.conntrack": "1"},
    tables=iptables_save.parse(RULES, INET),
    services=(
        ServiceWish(Service(WEB, "rr"), (Server(ServerAddress.of("10.0.2.2", 80), "nat"),)),
        ServiceWish(Service(replace(WEB, port=81), "rr")),
    ),
)


def made_of(**parts: Any) -> Connection:
    """An open connection through another director; sysctls are added."""
    parts["sysctls"] = {**SNAPSHOT.sysctls, **parts.get("sysctls", {})}
    return Connection(Counting(replace(SNAPSHOT, **parts), Random(1).randrange))


class Connection:
    """An open connection through a director, whose next packets go the short way."""

    def __init__(self, engine: Counting | None = None, mine: int = 1000, theirs: int = 5000, port: int = 4000) -> None:
        self.engine = engine or Counting(SNAPSHOT, Random(1).randrange)
        self.now = self.engine.now + 1.0
        self.mine, self.theirs, self.port = mine, theirs, port
        self.up(SYN, ack=0)
        self.down(SYN | ACK)
        self.up(ACK)
        self.up(ACK, b"GET")
        self.down(ACK, b"200")

    def segment(self, up: bool, flags: int, data: bytes = b"", **odd: Any) -> bytes:
        seq, ack = (self.mine, self.theirs) if up else (self.theirs, self.mine)
        ends = (CLIENT, packed(VIRTUAL), self.port, 80) if up else (SERVER, CLIENT, 80, self.port)
        seq, ack = odd.pop("seq", seq) & 0xFFFFFFFF, odd.pop("ack", ack) & 0xFFFFFFFF
        window, options = odd.pop("window", 64240), odd.pop("options", b"")
        body = tcp.build(*ends, flags, seq, ack, window, data, options)
        return bytes(ipv4.build(*ends[:2], 6, body, **{"df": True, **odd}))

    def up(self, flags: int = ACK, data: bytes = b"", **odd: Any) -> str:
        return self.send(True, flags, data, **odd)

    def down(self, flags: int = ACK, data: bytes = b"", **odd: Any) -> str:
        return self.send(False, flags, data, **odd)

    def send(self, up: bool, flags: int, data: bytes, **odd: Any) -> str:
        """Which way the next segment goes."""
        packet = self.segment(up, flags, data, **odd)
        if up:
            self.mine += len(data) + bool(flags & SYN)
        else:
            self.theirs += len(data) + bool(flags & SYN)
        return self.way("eth0" if up else "eth1", packet)

    def way(self, device: str, packet: bytes) -> str:
        """Which way a packet goes."""
        before = self.engine.long
        self.engine.receive(device, packet, self.now)
        return "short" if self.engine.long == before else "long"


# -- held against the long way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(14))
def test_calm_rounds(seed: int) -> None:
    made = Round(seed, calm=True)
    made.run(110)


@pytest.mark.parametrize("seed", range(14))
def test_wild_rounds(seed: int) -> None:
    Round(seed).run(110)


def test_rounds_go_the_short_way_often_enough_to_mean_something() -> None:
    packets = long = 0
    for seed in range(4):
        made = Round(f"short/{seed}", calm=True)
        made.run(60)
        packets += made.packets
        long += made.fast.long
        assert made.slow.long == made.packets
    assert packets - long > packets // 5


def near(random: Random, *numbers: int) -> int:
    """One of some sequence numbers, or one that is not far from it."""
    far = random.choice((*(0,) * 20, 1, -1, 100, -100, 1000, -1000, 66000, -66000, -66001, 70000, 2**30, 2**31))
    return random.choice(numbers) + far & 0xFFFFFFFF


def test_any_window_and_any_segment() -> None:
    """Numbers as they may come about, on both sides of zero above all; each is met by the same segment in both ways."""
    random, made, other = Random(7), Connection(), Connection()
    other.engine.flows.enabled = False
    entries = []
    for each in (made, other):
        found = each.engine.ct.find(b"\6" + each.segment(True, ACK)[12:24])
        assert found is not None
        entries.append(found[0])
    short = 0
    for _ in range(3000):
        base = random.choice((0, 0, 0, 2**30, 2**31, 3 * 2**30, random.getrandbits(32)))
        ends = [near(random, base, base - 50), near(random, base - 2**31, base)]
        odd = {
            side: (
                near(random, ends[1 - side], ends[side] + 500, ends[side] + 500, ends[side]),
                random.choice((1, 500, 65535, 2**30)),
                near(random, ends[1 - side], ends[1 - side] - 300, ends[1 - side] - 80000),
                random.choice((0, 0, 7, 14)),
                random.choice((0x20, 0x20, 0x30)),
            )
            for side in (0, 1)
        }
        up, size, scale = random.random() < 0.5, random.choice((0, 0, 1, 100, 1000)), random.random()
        mine, theirs = (0, 1) if up else (1, 0)
        seq = random.choice((ends[mine], ends[mine], ends[mine] - size, near(random, ends[mine]))) & 0xFFFFFFFF
        old = ends[theirs] - random.choice((100, 66000, 66001, 70000))
        ack = random.choice((ends[theirs], old, near(random, ends[theirs]))) & 0xFFFFFFFF
        last = random.choice((0, 2, 3, 4)), random.choice((seq, ack)), random.choice((ack, seq)), random.random() < 0.5
        window, data = random.choice((0, 1, 500, 8000, 65535)), random.randbytes(size)
        for each, entry in zip((made, other), entries, strict=True):
            state = entry.proto
            for side, end, numbers in ((state, ends[0], odd[0]), (state.reply, ends[1], odd[1])):
                side.end = end
                side.maxend, side.maxwin, side.maxack, side.scale, side.flags = numbers
            state.last_index, state.last_seq, state.last_ack, state.last_dir = last[0], last[1], last[2], int(last[3])
            # The last segment's end was noted as its side's end, if that was not later already.
            end = seq + size & 0xFFFFFFFF
            state.last_end, state.last_win = end if end == ends[mine] else end + 1 & 0xFFFFFFFF, window
            state.retrans = int(scale * 3)
            entry.expires = each.now + 300.0
        ways = [each.send(up, ACK, data, seq=seq, ack=ack, window=window) for each in (made, other)]
        assert made.engine.outputs == other.engine.outputs and made.engine.verdict == other.engine.verdict
        assert bytes(entries[0].proto.packed()) == bytes(entries[1].proto.packed())
        assert entries[0].expires == entries[1].expires
        short += ways[0] == "short"
    assert short > 200


# -- what goes the short way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 99, 100, 359, 360, 361, 362, 363, 1447, 1448])
@pytest.mark.parametrize("options", [b"", b"\1\1\x08\x0a" + bytes(range(8))], ids=["plain", "stamped"])
def test_segments_of_both_directions(size: int, options: bytes) -> None:
    made = Connection()
    data = Random(size).randbytes(size)
    for flags in (ACK, ACK | PSH):
        for up in (True, False):
            # What repeats the last one may be a retransmission, which is counted.
            assert made.send(up, flags, data, options=options) == "short"
            (output,) = made.engine.outputs
            assert ipv4.valid(output.packet) and output.packet[8] == 63
            assert transport.verify(output.packet, INET, 6, 20, output.packet[12:16], output.packet[16:20])
            assert made.engine.verdict == "sent"
            assert tuple(output) == (output.device, output.packet, output.next_hop)


@pytest.mark.parametrize("size", [3, 100, 700])
def test_every_spoilt_byte_is_noticed(size: int) -> None:
    made = Connection()
    packet = made.segment(True, ACK, Random(1).randbytes(size))
    for place in range(len(packet)):
        spoilt = bytearray(packet)
        spoilt[place] ^= 1 << place % 8
        assert made.way("eth0", bytes(spoilt)) == "long", place
    assert made.way("eth0", packet) == "short"


@pytest.mark.parametrize(
    "odd",
    [
        {"flags": FIN | ACK}, {"flags": RST}, {"flags": SYN}, {"flags": PSH}, {"flags": ACK | 0x20},
        {"seq": -1}, {"seq": 1, "data": b"gap"}, {"seq": -9, "data": b"a repetition"}, {"seq": 70000}, {"seq": 2**31},
        {"ack": 1}, {"ack": -4}, {"ack": -66001},
        {"window": 0}, {"ttl": 63}, {"ttl": 1}, {"df": False}, {"tos": 8}, {"fragment": 8}, {"more": True},
        {"options": b"\1\1\5\x0a12345678"}, {"options": b"\2\4\5\xb4"}, {"data": bytes(1461)},
    ],
)  # fmt: skip
def test_what_goes_the_long_way(odd: dict[str, Any]) -> None:
    made = Connection()
    assert (made.mine, made.theirs) == (1004, 5004)
    flags, data = odd.pop("flags", ACK), odd.pop("data", b"")
    seq, ack = made.mine + odd.pop("seq", 0), made.theirs + odd.pop("ack", 0)
    assert made.up(flags, data, seq=seq, ack=ack, **odd) == "long"


def test_a_repeated_segment_is_counted_as_a_retransmission() -> None:
    made = Connection()
    packet = made.segment(True, ACK, b"again")
    assert [made.way("eth0", packet) for _ in range(4)] == ["short", "long", "long", "long"]
    state = made.engine.ct.find(b"\6" + packet[12:24])
    assert state is not None and state[0].proto.retrans == 3


def test_a_packet_that_is_longer_than_it_says_or_comes_elsewhere() -> None:
    made = Connection()
    packet = made.segment(True, ACK, b"data")
    assert made.way("eth0", packet + b"\0") == "long"
    assert made.way("eth1", packet) == "long"
    assert made.way("eth0", packet[:39]) == made.way("eth0", b"") == "long"


def test_sequence_numbers_pass_zero() -> None:
    made = Connection(mine=2**32 - 130_000, theirs=2**32 - 120_000)
    ways = []
    for _ in range(200):
        ways += [made.up(ACK, bytes(1000)), made.down(ACK, bytes(1001))]
    assert ways[0] == ways[-1] == "short"
    assert 100 <= ways.count("long") < 180
    (entry,) = made.engine.ct.report()
    assert (entry.state, entry.timeout) == ("ESTABLISHED", 300)


def test_while_a_tracer_looks_every_packet_goes_the_long_way() -> None:
    made = Connection()
    made.engine.tracer = Tracer()
    assert made.up(ACK, b"1") == "long"
    made.engine.tracer = None
    assert made.up(ACK, b"2") == "short"


def test_flows_can_be_turned_off() -> None:
    made = Connection()
    made.engine.flows.enabled = False
    assert [made.up(ACK, b"1") for _ in range(3)] == ["long"] * 3
    made.engine.flows.enabled = True
    assert made.engine.flows.enabled
    assert [made.up(ACK, b"1") for _ in range(3)] == ["long", "short", "short"]


# -- counters ---------------------------------------------------------------------------------------------------------


def counted(engine: Engine, tables_first: bool = False) -> tuple[int, ...]:
    for read in (engine.tables.saved, engine.vs.report) if tables_first else (engine.vs.report, engine.tables.saved):
        if read == engine.vs.report:
            service = engine.vs.report()[0]
        else:
            rules = engine.tables.saved()[0].chains
    stats = service.stats
    return (
        stats.packets_in, stats.bytes_in, stats.packets_out, stats.bytes_out, service.servers[0].stats.packets_in,
        rules[0].rules[0].packets, rules[0].rules[0].bytes, rules[1].rules[0].packets,
    )  # fmt: skip


@pytest.mark.parametrize("tables_first", [False, True])
def test_counters_are_complete_whoever_reads_them(tables_first: bool) -> None:
    made = Connection()
    before = counted(made.engine)
    for _ in range(3):
        assert made.up(ACK, bytes(60)) == made.down(ACK) == "short"
    rise = tuple(after - old for old, after in zip(before, counted(made.engine, tables_first), strict=True))
    assert rise == (3, 300, 3, 120, 3, 3, 300, 3)
    (conn,) = made.engine.vs.conns
    assert conn.in_packets == 6


@pytest.mark.parametrize("tables_first", [False, True])
def test_counters_are_zeroed_with_what_was_counted_last(tables_first: bool) -> None:
    made = Connection()
    made.up(ACK, b"1")
    if tables_first:
        made.engine.tables.zero()
        made.engine.vs.zero(None)
    else:
        made.engine.vs.zero(None)
        made.engine.tables.zero()
    assert counted(made.engine) == (0,) * 8
    assert made.up(ACK, b"2") == "short"
    assert counted(made.engine) == (1, 41, 0, 0, 1, 1, 41, 0)


def test_the_estimator_sees_what_was_counted() -> None:
    made = Connection()
    made.engine.poll(made.now)
    for _ in range(100):
        assert made.up(ACK, b"1") == "short"
    made.engine.poll(made.now + 2.0)
    assert made.engine.vs.report()[0].stats.pps_in >= 12


def test_accounting_of_the_entry() -> None:
    made = made_of(sysctls={"net.netfilter.nf_conntrack_acct": "1"})
    found = made.engine.ct.find(b"\6" + made.segment(True, ACK)[12:24])
    assert found is not None
    packets, octets = found[0].packets, found[0].octets
    assert packets is not None and octets is not None
    before = packets[:] + octets[:]
    assert made.up(ACK, bytes(60)) == made.down(ACK) == "short"
    assert [after - old for old, after in zip(before, packets + octets, strict=True)] == [1, 1, 100, 40]


# -- what ends flows --------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Engine], object]] = {
    "sysctl": lambda engine: engine.settings.write("net.ipv4.vs.conntrack", "1"),
    "rules": lambda engine: [engine.tables.load(each) for each in SNAPSHOT.tables],
    "unload": lambda engine: engine.tables.unload(INET, "filter"),
    "timeouts": lambda engine: engine.vs.set_timeouts(Timeouts(100, 0, 0)),
    "service": lambda engine: engine.vs.edit_service(Service(WEB, "wlc")),
    "no service": lambda engine: engine.vs.delete_service(WEB),
    "another service": lambda engine: engine.vs.add_service(Service(replace(WEB, port=82))),
    "weight": lambda engine: engine.vs.edit_server(WEB, Server(ServerAddress.of("10.0.2.2", 80), "nat", 0)),
    "server": lambda engine: engine.vs.add_server(WEB, Server(ServerAddress.of("10.0.2.3", 80), "nat")),
    "no server": lambda engine: engine.vs.delete_server(WEB, ServerAddress.of("10.0.2.2", 80)),
    "backup": lambda engine: engine.vs.apply(StartDaemon(Daemon("backup", "eth0", 1))),
    "conntrack": lambda engine: engine.ct.flush(),
    "killed": lambda engine: kill(engine, engine.ct.keys()[0]),
    "connections": lambda engine: [engine.vs.conns.delete(conn) for conn in list(engine.vs.conns)],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_the_packet_after_a_change_goes_the_long_way(change: str) -> None:
    made = Connection()
    assert made.up(ACK, b"1") == made.down(ACK, b"2") == "short"
    CHANGES[change](made.engine)
    assert made.up(ACK, b"3") == made.down(ACK, b"4") == "long"


def test_a_server_that_was_deleted_gets_nothing_more() -> None:
    made = Connection()
    assert made.up(ACK, b"1") == "short"
    made.engine.vs.delete_server(WEB, ServerAddress.of("10.0.2.2", 80))
    made.up(ACK, b"2")
    assert made.engine.verdict is Reason.IPVS_SERVER_GONE and not made.engine.outputs


def test_expiry() -> None:
    made = Connection()
    for wait in (299.0, 250.0, 290.0):
        made.now += wait
        made.engine.poll(made.now)
        assert made.up(ACK, b"1") == "short"
    made.now += 300.0
    assert made.up(ACK, b"1") == "long"
    assert made.engine.ct.report()[0].state == "ESTABLISHED"


def test_what_is_over_but_still_there_is_over() -> None:
    """Timers come up to a quarter of a second late; whoever looks an entry up asks for its time himself."""
    unacknowledged = {"net.netfilter.nf_conntrack_tcp_timeout_unacknowledged": "432000"}
    for made, life in ((Connection(), 300.0), (made_of(sysctls=unacknowledged), 900.0)):
        assert made.up(ACK, b"1") == "short"
        last = made.now
        made.engine.poll(last + life - 0.05)
        made.now = last + life + 0.05
        assert made.engine.poll_at() is None or made.now < made.engine.timers.due
        assert made.up(ACK, b"1") == "long"


def test_what_is_due_comes_first() -> None:
    made = Connection()
    body = tcp.build(CLIENT, packed(VIRTUAL), 5000, 80, SYN, 1, 0, 8192)
    made.engine.receive("eth0", bytes(ipv4.build(CLIENT, packed(VIRTUAL), 6, body)), made.now)
    made.now += 130.0
    assert made.up(ACK, b"1") == "long"
    assert (len(made.engine.vs.conns), made.engine.ct.count) == (1, 1)


def test_a_segment_without_flags_closes_ipvs_state_alone() -> None:
    made = Connection()
    assert made.up(0) == "long"
    assert [conn.state for conn in made.engine.vs.connections()] == ["CLOSE"]
    assert made.up(ACK, b"1") == "long"


def test_a_shorter_timeout_of_open_connections() -> None:
    made = made_of(sysctls={"net.netfilter.nf_conntrack_tcp_timeout_established": "50"})
    assert made.up(ACK, b"1") == "short"
    assert made.engine.ct.report()[0].timeout == 50
    assert made.down(ACK) == made.up(ACK) == "short"
    assert made.engine.ct.report()[0].timeout == 50


def test_an_entry_that_has_to_end_sooner_does() -> None:
    made = Connection()
    assert made.down(ACK, b"1") == made.up(ACK) == "short"
    assert made.engine.ct.report()[0].timeout == 432000
    made.engine.poll(made.now + 290.0)
    made.now += 291.0
    assert made.down(ACK, b"1") == "short"
    assert made.engine.ct.report()[0].timeout == 300
    made.engine.poll(made.now + 301.0)
    assert made.engine.ct.count == 0


def test_a_path_that_got_narrower() -> None:
    made = Connection()
    assert made.up(ACK, bytes(1200)) == "short"
    made.engine.vs.transmit.ways.update_pmtu(SERVER, 1000)
    assert made.up(ACK, bytes(1200)) == "long"
    assert made.engine.verdict is Reason.TOO_BIG
    assert made.up(ACK, bytes(960), seq=made.mine - 1200) == "long"
    assert made.engine.verdict == "sent"


def test_the_narrowest_of_two_routes() -> None:
    """A reply is routed twice: as it comes in by its destination, and again by its new source (snat_reroute)."""
    routes = (
        Route("0.0.0.0/0", via="192.168.1.254", mtu=1300), Route("0.0.0.0/0", "eth0", via="192.168.1.253", table=100),
    )  # fmt: skip
    made = made_of(routes=routes, policy=(PolicyRule(INET, 100, source=f"{VIRTUAL}/32", table=100),))
    assert made.down(ACK, bytes(1200)) == "short"
    assert made.engine.outputs[0].next_hop == packed("192.168.1.253")
    assert made.down(ACK, bytes(1300)) == "long"
    assert made.engine.verdict is Reason.TOO_BIG


def test_a_helper_sees_every_segment() -> None:
    rules = RULES.replace("*filter", "*raw\n-A PREROUTING -p tcp -m tcp --dport 80 -j CT --helper ftp\nCOMMIT\n*filter")
    made = made_of(tables=iptables_save.parse(rules, INET))
    assert [made.up(ACK, b"1"), made.down(ACK, b"1")] * 2 == ["long"] * 4


def test_the_application_sees_every_segment() -> None:
    address = replace(WEB, port=21)
    services = (ServiceWish(Service(address, "rr"), (Server(ServerAddress.of("10.0.2.2", 80), "nat"),)),)
    made = made_of(
        services=services, modules=frozenset({"ip_vs_ftp"}), tables=iptables_save.parse("*filter\nCOMMIT\n", INET)
    )
    assert len(made.engine.vs.conns) == 0
    virtual = packed(VIRTUAL)
    numbers = {True: 1000, False: 5000}
    ways = []
    for up, flags, data in ((True, SYN, b""), (False, SYN | ACK, b""), *((True, ACK, b"x"), (False, ACK, b"y")) * 3):
        ends = (CLIENT, virtual, 4001, 21) if up else (SERVER, CLIENT, 80, 4001)
        body = tcp.build(*ends, flags, numbers[up], numbers[not up] if flags & ACK else 0, 8192, data)
        ways.append(made.way("eth0" if up else "eth1", bytes(ipv4.build(ends[0], ends[1], 6, body))))
        numbers[up] += len(data) + bool(flags & SYN)
        assert made.engine.verdict == "sent"
    assert ways == ["long"] * 8


def test_a_connection_leaves_no_flow_behind() -> None:
    for flags in (FIN | ACK, RST | ACK):
        made = Connection()
        assert len(made.engine.flows) == 2
        made.up(flags)
        assert len(made.engine.flows) == 0
    made = Connection()
    made.engine.poll(made.now + 1000.0)
    assert len(made.engine.vs.conns) == len(made.engine.flows) == 0


def test_another_connection_takes_the_reply_over() -> None:
    """Two virtual addresses, one server, one client's port: what the server answers belongs to the newer connection."""
    second = replace(SNAPSHOT.services[0], service=Service(replace(WEB, address="192.168.1.101"), "rr"))
    devices = (Device("eth0", (f"{VIRTUAL}/24", "192.168.1.101/32")), SNAPSHOT.devices[1])
    rules = iptables_save.parse("*filter\n-A FORWARD -m state --state NEW\nCOMMIT\n", INET)
    services = (*SNAPSHOT.services, second)
    made = made_of(devices=devices, services=services, tables=rules)
    assert made.down(ACK, b"1") == "short"
    target = packed("192.168.1.101")
    body = tcp.build(CLIENT, target, made.port, 80, SYN, 77, 0, 8192)
    made.engine.receive("eth0", bytes(ipv4.build(CLIENT, target, 6, body)), made.now)
    assert len(made.engine.vs.conns) == 2
    assert made.down(ACK, b"2") == "long"


def test_no_more_flows_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MOST", 6)
    first = Connection()
    for number in range(1, 5):
        Connection(first.engine, port=4000 + number)
        assert len(first.engine.flows) <= 6
    assert first.up(ACK, b"1") == "long"
    assert first.up(ACK, b"2") == "short"


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -p tcp -m tcp --tcp-flags PSH PSH", "-A INPUT -m limit --limit 5/sec",
        "-A INPUT -m statistic --mode nth --every 3 --packet 0", "-A INPUT -m connmark --mark 0x1",
        "-A INPUT -m length --length 40", "-A INPUT -m conntrack --ctexpire 1:100",
    ],
)  # fmt: skip
def test_a_rule_that_may_answer_otherwise_next_time(rule: str) -> None:
    rules = iptables_save.parse(f"*filter\n{rule}\n-A FORWARD -m state --state NEW\nCOMMIT\n", INET)
    made = made_of(tables=rules)
    assert [made.up(ACK, b"1") for _ in range(3)] == ["long"] * 3
    assert made.down(ACK, b"1") == "short"


def test_what_is_never_learnt() -> None:
    for name, value in (("net.netfilter.nf_conntrack_tcp_max_retrans", "0"), ("net.ipv4.vs.conntrack", "0")):
        made = made_of(sysctls={name: value})
        assert [made.up(ACK, b"1") for _ in range(3)] == ["long"] * 3
    one_legged = (Device("eth0", (f"{VIRTUAL}/24", "10.0.2.1/24")), Device("eth1"))
    made = made_of(devices=one_legged)
    for number in range(3):
        assert made.way("eth0", made.segment(False, ACK, bytes(number))) == "long"
        made.theirs += number
