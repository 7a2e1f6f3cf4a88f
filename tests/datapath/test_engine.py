"""The engine: what goes in and what comes out, time, the hooks in use, and that nothing stays behind."""

from __future__ import annotations

import gc
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN, LOCAL_OUT, POST_ROUTING, PRE_ROUTING
from ipvsctl.datapath.skb import ACK, SYN
from ipvsctl.datapath.timers import BUDGET, CALL
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats import iptables_save
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import Route
from ipvsctl.model.service import Server, Service
from ipvsctl.model.snapshot import Device, SavedTable, Snapshot
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed

CLIENT, OWN, OTHER, VIRTUAL, SERVER = (
    packed(each) for each in ("10.0.0.2", "10.0.0.1", "192.168.1.9", "10.0.0.100", "192.168.1.2")
)
SIX, OWN6 = packed("fd10::2"), packed("fd10::1")
WEB = ServiceAddress.of("tcp", "10.0.0.100", 80)
SNAPSHOT = Snapshot(
    devices=(
        Device("eth0", ("10.0.0.1/24", "10.0.0.100/32", "fd10::1/64")),
        Device("eth1", ("192.168.1.1/24", "fd20::1/64"), hosts=("192.168.1.2", "192.168.1.9")),
    ),
    routes=(Route("0.0.0.0/0", via="10.0.0.254"),),
    sysctls={"net.ipv4.ip_forward": "1", "net.ipv4.vs.conntrack": "1"},
)
DIRECTOR = replace(
    SNAPSHOT, services=(ServiceWish(Service(WEB, "rr"), (Server(ServerAddress.of("192.168.1.2", 80), "nat"),)),)
)


def engine(snapshot: Snapshot = SNAPSHOT) -> Engine:
    return Engine(snapshot, Random(1).randrange)


def tables(*rules: str, name: str = "filter", family: int = INET) -> tuple[SavedTable, ...]:
    return iptables_save.parse(f"*{name}\n" + "\n".join(rules) + "\nCOMMIT\n", family)


def datagram(source: bytes = CLIENT, destination: bytes = OTHER, port: int = 53, **fields: int) -> bytes:
    body = udp.build(source, destination, 4000, port, b"x")
    return bytes(ipv4.build(source, destination, 17, body, **fields))


def segment(flags: int = SYN, port: int = 4000, source: bytes = CLIENT, destination: bytes = VIRTUAL) -> bytes:
    return bytes(ipv4.build(source, destination, 6, tcp.build(source, destination, port, 80, flags, 1000, 1, 8192)))


def echo(source: bytes = CLIENT, destination: bytes = OWN) -> bytes:
    return bytes(ipv4.build(source, destination, 1, icmp.build(source, destination, 8, 0, b"\0\1\0\1", b"ping")))


# -- packets ----------------------------------------------------------------------------------------------------------


def test_a_packet_that_is_forwarded() -> None:
    made = engine()
    packet = datagram()
    (output,) = found = made.receive("eth0", packet, 7.0)
    assert (output.device, output.next_hop, made.verdict, made.now) == ("eth1", OTHER, "sent", 7.0)
    assert output.packet[8] == packet[8] - 1 and output.packet[20:] == packet[20:]
    assert found is made.outputs and not made.drops and not made.backlog


def test_outputs_of_one_packet_are_not_those_of_the_next() -> None:
    made = engine()
    first = made.receive("eth0", datagram(), 1.0)
    second = made.receive("eth0", datagram(port=54), 1.0)
    assert len(first) == len(second) == 1 and first != second


def test_a_packet_for_the_host_itself() -> None:
    made = engine()
    made.local.listeners.add((17, OWN, 53))
    assert made.receive("eth0", datagram(destination=OWN), 1.0) == []
    assert made.verdict == "delivered"


def test_an_answer_is_no_part_of_the_verdict() -> None:
    made = engine()
    (output,) = made.receive("eth0", echo(), 1.0)
    assert made.verdict == "delivered"
    assert (output.device, output.packet[16:20], output.packet[20]) == ("eth0", CLIENT, 0)


def test_the_drop_of_an_answer_is_counted_and_is_no_verdict() -> None:
    made = engine(replace(SNAPSHOT, tables=tables("-A OUTPUT -p icmp -j DROP")))
    assert made.receive("eth0", echo(), 1.0) == []
    assert made.verdict == "delivered" and made.drops == {Reason.RULE: 1}


def test_a_drop_is_counted_and_is_the_verdict() -> None:
    made = engine(replace(SNAPSHOT, tables=tables("-A FORWARD -p udp -j DROP")))
    for _ in range(2):
        assert made.receive("eth0", datagram(), 1.0) == []
    assert made.verdict is Reason.RULE and made.drops == {Reason.RULE: 2}
    assert made.receive("eth0", datagram(ttl=1), 1.0)  # Time exceeded, for the sender.
    assert made.verdict is Reason.TTL


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(19), bytes(20), b"\x60" + bytes(38), b"\x50" + bytes(60)])
def test_what_is_no_packet(packet: bytes) -> None:
    made = engine()
    for give in (lambda: made.receive("eth0", packet, 1.0), lambda: made.send(packet, 1.0)):
        assert give() == []
        assert made.verdict is Reason.HEADER
    assert made.drops == {Reason.HEADER: 2}


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([segment(), segment(ACK), datagram(), echo()]),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255))),
    st.integers(0, 70),
    st.sampled_from(["eth0", "eth1", "lo", "eth9"]),
)
def test_no_bytes_make_an_exception(packet: bytes, changes: list[tuple[int, int]], length: int, device: str) -> None:
    spoilt = bytearray(packet)
    for at, byte in changes:
        if at < len(spoilt):
            spoilt[at] = byte
    for data in (bytes(spoilt[:length]), bytes(spoilt)):
        HARDENED.receive(device, data, 1.0)
        assert HARDENED.verdict != ""
        HARDENED.send(data, 1.0)
        assert HARDENED.verdict != ""


HARDENED = engine(replace(DIRECTOR, tables=tables("-A INPUT -m state --state ESTABLISHED", "-A FORWARD -j ACCEPT")))


def test_an_unknown_device() -> None:
    made = engine()
    assert made.receive("eth7", datagram(), 1.0) == []
    assert isinstance(made.verdict, Reason)


# -- the host's own packets -------------------------------------------------------------------------------------------


def test_a_packet_of_the_host() -> None:
    made = engine()
    (output,) = made.send(datagram(source=bytes(4), destination=SERVER), 2.0)
    assert (output.device, output.packet[12:16], made.verdict, made.now) == ("eth1", packed("192.168.1.1"), "sent", 2.0)


def test_a_packet_to_the_host_itself_takes_the_loopback_device() -> None:
    made = engine()
    made.local.listeners.add((17, OWN, 53))
    assert made.send(datagram(source=OWN, destination=OWN), 1.0) == []
    assert made.verdict == "delivered" and not made.backlog


def test_two_that_answer_each_other_for_ever_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine()
    monkeypatch.setattr(made.ip, "receive", made.backlog.append)
    assert made.receive("eth0", datagram(), 1.0) == []
    assert not made.backlog


def test_the_mark_of_a_packet_of_the_host() -> None:
    made = engine(replace(SNAPSHOT, tables=tables("-A OUTPUT -m mark --mark 0x7 -j DROP")))
    assert made.send(datagram(source=OWN), 1.0)
    assert made.send(datagram(source=OWN), 1.0, mark=7) == []
    assert made.verdict is Reason.RULE


# -- time -------------------------------------------------------------------------------------------------------------


def test_nothing_is_due_without_connections() -> None:
    made = engine()
    assert made.poll_at() is None
    assert made.poll(5.0) == [] and made.now == 5.0


def test_the_estimator_and_a_connection_are_due() -> None:
    made = engine(DIRECTOR)
    assert made.poll_at() == made.now
    made.poll(1.0)
    assert made.poll_at() == 3.0
    made.receive("eth0", segment(), 1.0)
    made.poll(60.9)
    assert len(made.vs.conns) == 1 and made.poll_at() == 61.0
    made.poll(61.25)
    assert len(made.vs.conns) == made.ct.count == 0


def test_a_neighbour_that_does_not_answer() -> None:
    """What leaves because of time leaves by poll, or with the next packet."""
    for later in (lambda made: made.poll(4.25), lambda made: made.receive("eth9", datagram(), 4.25)):
        made = engine()
        assert made.receive("eth0", datagram(destination=packed("192.168.1.77")), 1.0) == []
        assert made.verdict is Reason.NO_NEIGHBOUR and made.poll_at() == 4.25
        (output,) = later(made)
        assert (output.device, output.packet[9], output.packet[20:22]) == ("eth0", 1, b"\3\1")


def test_very_many_that_end_at_once_are_ended_bit_by_bit() -> None:
    made = engine(DIRECTOR)
    most = BUDGET // CALL
    for number in range(most + 100):
        made.receive("eth0", segment(port=1024 + number), 1.0)
    assert len(made.vs.conns) == most + 100
    made.receive("eth1", datagram(SERVER, CLIENT), 70.0)
    assert len(made.vs.conns) >= most
    made.poll(70.0)
    due = made.poll_at()
    assert 0 < len(made.vs.conns) <= 100 and due is not None and due <= 70.0
    made.poll(70.0)
    assert len(made.vs.conns) == made.ct.count == 0


@pytest.mark.parametrize("talking", [False, True])
def test_ended_connections_leave_nothing_for_the_garbage_collector(talking: bool) -> None:
    snapshot = replace(DIRECTOR, tables=tables("-A INPUT -m state --state ESTABLISHED"))
    made = engine(snapshot)
    number = 1000 if talking else 20_000
    made.receive("eth0", segment(port=1), 1.0)
    gc.collect()
    gc.disable()
    try:
        for port in range(1024, 1024 + number):
            made.receive("eth0", segment(port=port), 1.0)
            if talking:
                answer = tcp.build(SERVER, CLIENT, 80, port, SYN | ACK, 5000, 1001, 8192)
                made.receive("eth1", bytes(ipv4.build(SERVER, CLIENT, 6, answer)), 1.0)
                for seq in (1001, 1001, 1003, 1005):
                    body = tcp.build(CLIENT, VIRTUAL, port, 80, ACK, seq, 5001, 8192, b"xx")
                    made.receive("eth0", bytes(ipv4.build(CLIENT, VIRTUAL, 6, body)), 1.0)
        assert len(made.vs.conns) == made.ct.count == number + 1
        assert len(made.flows) == (number if talking else 0)
        now = 10_000.0
        while len(made.vs.conns) or made.ct.count:
            made.poll(now)
            now += 0.25
        made.outputs = []
        assert len(made.flows) == 0
        assert gc.collect() == 0
    finally:
        gc.enable()


# -- the hooks in use -------------------------------------------------------------------------------------------------


def used(made: Engine, family: int) -> dict[int, list[str]]:
    return {hook: [name for _, name, _ in made._rows[family][hook]] for hook in range(5)}


def test_a_bare_host_has_no_functions_in_its_hooks() -> None:
    made = engine()
    assert not any(name for family in (INET, INET6) for names in used(made, family).values() for name in names)


def test_functions_are_there_while_something_needs_them() -> None:
    made = engine()
    (filter_table,) = tables("-A INPUT -m state --state NEW")
    made.tables.load(filter_table)
    hooks = used(made, INET)
    assert hooks[PRE_ROUTING] == ["nf_defrag", "nf_conntrack_in"]
    assert hooks[LOCAL_IN] == ["filter", "nf_confirm"] and hooks[FORWARD] == ["filter"]
    assert hooks[LOCAL_OUT] == ["nf_defrag", "nf_conntrack_local", "filter"] and hooks[POST_ROUTING] == ["nf_confirm"]
    assert not any(used(made, INET6).values())
    made.vs.add_service(Service(WEB))
    assert used(made, INET)[LOCAL_IN] == ["filter", "ip_vs_out", "ip_vs_in", "nf_confirm"]
    made.tables.unload(INET, "filter")
    assert used(made, INET)[LOCAL_IN] == ["ip_vs_out", "ip_vs_in"] and not used(made, INET)[PRE_ROUTING]
    made.vs.delete_service(WEB)
    assert not any(used(made, INET).values())


def test_the_first_service_of_ipv6_leaves_defragmentation_behind() -> None:
    made = engine()
    address = ServiceAddress.of("tcp", "fd10::1", 80)
    made.vs.add_service(Service(address))
    assert used(made, INET6)[PRE_ROUTING] == ["nf_defrag"]
    made.vs.delete_service(address)
    assert used(made, INET6)[PRE_ROUTING] == ["nf_defrag"] and not used(made, INET6)[LOCAL_IN]
    assert not any(used(made, INET).values())


def test_each_family_has_its_own_tables() -> None:
    made = engine(replace(SNAPSHOT, tables=tables("-A INPUT -j DROP", family=INET6)))
    made.local.listeners.add((17, b"", 53))
    made.receive("eth0", datagram(destination=OWN), 1.0)
    assert made.verdict == "delivered"
    body = udp.build(SIX, OWN6, 4000, 53, b"x")
    made.receive("eth0", bytes(ipv6.build(SIX, OWN6, 17, body)), 1.0)
    assert made.verdict is Reason.RULE


def test_functions_run_in_the_order_of_their_priorities() -> None:
    text = ("-A PREROUTING -j ACCEPT",)
    made = engine(replace(SNAPSHOT, tables=tables(*text, name="mangle") + tables(*text, name="raw")))
    assert used(made, INET)[PRE_ROUTING] == ["raw", "mangle"]
    for family in (INET, INET6):
        for hook in range(5):
            priorities = [priority for priority, _, _ in made._rows[family][hook]]
            assert priorities == sorted(priorities)


def test_a_tracer_sees_every_function_and_its_verdict() -> None:
    made = engine(replace(SNAPSHOT, tables=tables("-A FORWARD -p udp -j DROP")))
    made.tracer = tracer = Tracer()
    made.receive("eth0", datagram(), 1.0)
    assert [(step.hook, step.function) for step in tracer.steps][-1] == ("FORWARD", "filter")
    assert made.verdict is Reason.RULE


# -- outputs ----------------------------------------------------------------------------------------------------------


def test_an_output_is_a_value() -> None:
    (one,) = engine().receive("eth0", datagram(), 1.0)
    (other,) = engine().receive("eth0", datagram(), 1.0)
    (third,) = engine().receive("eth0", datagram(port=54), 1.0)
    assert isinstance(one, Output) and one == other and one != third
    device, packet, hop = one
    assert (device, packet, hop) == ("eth1", one.packet, OTHER)
    assert "eth1" in repr(one)
