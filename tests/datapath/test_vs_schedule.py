"""Which packets open a connection, where to, and under which template (ip_vs_core.c)."""

from __future__ import annotations

from typing import Any

import pytest

from ipvsctl.datapath.skb import ACK, FIN, RST, SCTP, SYN, TCP, UDP
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import ONE_PACKET, TEMPLATE, Conn
from ipvsctl.datapath.vs.header import Refusal
from ipvsctl.datapath.vs.persistence import masked
from ipvsctl.model.address import ServiceAddress
from ipvsctl.wire.address import packed, readable
from tests.datapath.vs_support import HTTP, Bench, header_of

CLIENT = "198.51.100.7:1024"


def opened(bench: Bench, client: str = CLIENT, **options: Any) -> Conn:
    conn = bench.open(client, **options)
    assert isinstance(conn, Conn)
    return conn


@pytest.mark.parametrize(
    ("flags", "sloppy", "scheduled"),
    [(SYN, 0, True), (SYN | ACK, 0, True), (ACK, 0, False), (FIN | ACK, 0, False), (RST, 0, False),
     (SYN | RST, 0, False), (0, 0, False), (ACK, 1, True), (RST | ACK, 1, False), (0, 1, True)],
)  # fmt: skip
def test_which_segments_open_a_connection(flags: int, sloppy: int, scheduled: bool) -> None:
    bench = Bench(sloppy_tcp=sloppy)
    bench.add(HTTP, ("10.0.0.1",))
    assert isinstance(bench.open(flags=flags), Conn) is scheduled


@pytest.mark.parametrize(("chunk", "sloppy", "scheduled"), [(1, 0, True), (0, 0, False), (0, 1, True), (6, 1, False)])
def test_which_chunks_open_an_association(chunk: int, sloppy: int, scheduled: bool) -> None:
    bench = Bench(sloppy_sctp=sloppy)
    bench.add(ServiceAddress.parse("sctp:192.0.2.1:80"), ("10.0.0.1",))
    assert isinstance(bench.open(protocol=SCTP, flags=chunk), Conn) is scheduled


def test_what_is_not_for_ipvs_goes_on() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",))
    assert bench.open(to="192.0.2.1:81") is None
    assert bench.scheduling.service is None
    assert bench.open(protocol=UDP) is None
    assert bench.open(protocol=47) is None
    header = header_of(CLIENT, "192.0.2.1:80")._replace(fragment=True)
    assert bench.scheduling.conn_schedule(bench.packet(header), header) is None


@pytest.mark.parametrize(("protocol", "least"), [(TCP, 20), (UDP, 8), (SCTP, 16)])
def test_a_packet_that_is_cut_off_is_dropped(protocol: int, least: int) -> None:
    name = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}[protocol]
    bench = Bench()
    bench.add(ServiceAddress.parse(f"{name}:192.0.2.1:80"), ("10.0.0.1",))
    header = header_of(CLIENT, "192.0.2.1:80", protocol)
    skb = bench.packet(header, SYN if protocol == TCP else 1)
    del skb.data[header.length + least :]
    assert isinstance(bench.scheduling.conn_schedule(skb, header), Conn)
    for length in range(header.length + least):
        del skb.data[length:]
        skb.data.extend(bytes(length - len(skb.data)))
        assert bench.scheduling.conn_schedule(skb, header) is Refusal.FAILED
        assert bench.scheduling.failure is Reason.TRUNCATED


def test_the_packet_inside_an_error_needs_only_its_ports() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",))
    header = header_of("192.0.2.1:80", CLIENT)._replace(icmp=True, inverse=True)
    skb = bench.packet(header, 0)
    del skb.data[header.length + 8 :]
    conn = bench.scheduling.conn_schedule(skb, header)
    assert isinstance(conn, Conn)
    assert (readable(conn.caddr), conn.cport, readable(conn.vaddr), conn.vport) == (
        "198.51.100.7", 1024, "192.0.2.1", 80,
    )  # fmt: skip


def test_ftp_data_and_replies_of_local_servers_are_never_scheduled() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",))
    assert bench.open("198.51.100.7:20") is Refusal.NOT_OURS
    back = ServiceAddress.parse("tcp:198.51.100.7:1024")
    bench.add(back, ("10.0.0.1",))
    opened(bench)
    for device, expected in (("", False), ("lo", False), ("eth0", True)):
        assert isinstance(bench.open("192.0.2.1:80", to=CLIENT, indev=device), Conn) is expected, device


def test_ports_of_server_and_service() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1:8080", 1, "nat"))
    bench.add(ServiceAddress.of_mark(9), ("10.0.0.2:0", 1, "nat"))
    assert opened(bench).dport == 8080
    conn = opened(bench, to="203.0.113.1:4711", mark=9)
    assert (conn.dport, conn.vport, conn.fwmark) == (4711, 4711, 9)


def test_port_0_without_persistence_serves_nobody() -> None:
    bench = Bench()
    bench.add(ServiceAddress.parse("tcp:192.0.2.1:0"), ("10.0.0.1",))
    assert bench.open(to="192.0.2.1:4711") is Refusal.NO_DESTINATION
    assert bench.scheduling.service is bench.services.all()[0]


def test_connections_are_counted_at_server_service_and_in_all() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP, ("10.0.0.1",))
    opened(bench)
    opened(bench, "198.51.100.7:1025")
    service = bench.services.all()[0]
    assert dest.stats.connections == service.stats.connections == bench.services.total.connections == 2


def template_of(conn: Conn) -> tuple[int, str, int, str, int, str, int, float]:
    template = conn.control
    assert template is not None and template.flags & TEMPLATE
    return (
        template.protocol, readable(template.caddr), template.cport, readable(template.vaddr), template.vport,
        readable(template.daddr), template.dport, template.timeout,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("service", "server", "target", "mark", "expected", "dport"),
    [
        ("tcp:192.0.2.1:80", "10.0.0.1:8080", "192.0.2.1:80", 0, (6, "192.0.2.1", 80, 8080), 8080),
        ("tcp:192.0.2.1:21", "10.0.0.1:21", "192.0.2.1:21", 0, (6, "192.0.2.1", 0, 0), 21),
        ("tcp:192.0.2.1:21", "10.0.0.1:21", "192.0.2.1:5000", 0, (6, "192.0.2.1", 0, 0), 5000),
        ("tcp:192.0.2.1:0", "10.0.0.1:0", "192.0.2.1:5000", 0, (6, "192.0.2.1", 0, 0), 5000),
        ("fwmark:258", "10.0.0.1:0", "203.0.113.9:443", 258, (0, "0.0.1.2", 0, 0), 443),
    ],
)
def test_templates(
    service: str, server: str, target: str, mark: int, expected: tuple[int, str, int, int], dport: int
) -> None:
    bench = Bench()
    bench.add(ServiceAddress.parse(service), (server, 1, "nat"), persistent=77, netmask="255.255.255.0")
    conn = opened(bench, to=target, mark=mark)
    protocol, virtual, vport, tport = expected
    assert template_of(conn) == (protocol, "198.51.100.0", 0, virtual, vport, "10.0.0.1", tport, 77.0)
    assert (conn.dport, readable(conn.caddr)) == (dport, "198.51.100.7")


def test_the_mark_of_ipv6_as_an_address() -> None:
    bench = Bench()
    bench.add(ServiceAddress.of_mark(5, 10), ("[fd00::1]:0", 1, "nat"), persistent=77, netmask=64)
    conn = opened(bench, "[2001:db8:1:2::3]:1024", to="[2001:db8::1]:80", mark=5)
    assert template_of(conn)[:4] == (0, "2001:db8:1:2::", 0, "0:5::")


def test_a_network_keeps_its_server_while_weights_say_otherwise() -> None:
    bench = Bench()
    one, two = bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2",), scheduler="rr", persistent=300, netmask="255.255.255.0")
    assert opened(bench).dest is two
    bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.2", 0))
    assert opened(bench, "198.51.100.200:5").dest is two
    assert opened(bench, "198.51.101.1:5").dest is one
    assert (two.persistent, one.persistent) == (1, 1)


def test_a_template_that_cannot_be_used_is_replaced() -> None:
    bench = Bench(expire_quiescent_template=1)
    one, two = bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2",), scheduler="rr", persistent=300)
    old = opened(bench).control
    bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.2", 0))
    conn = opened(bench, "198.51.100.7:1025")
    assert conn.dest is one and conn.control is not old
    assert old is not None and (old.vport, old.dport, old.cport) == (65535, 65535, 0)
    bench.services.delete_server(HTTP, one.server.address)
    assert bench.open("198.51.100.7:1026") is Refusal.NO_DESTINATION
    assert two.persistent == one.persistent == 1


def test_a_template_that_outlived_its_time_goes_on_by_minutes() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",), persistent=30)
    template = opened(bench).control
    assert template is not None
    bench.wait(31)
    assert (template.timeout, template.controls) == (60, 1)
    again = opened(bench, "198.51.100.7:1025")
    assert again.control is template and template.expires == bench.engine.now + 60


def test_one_packet_scheduling_is_for_udp_only() -> None:
    bench = Bench()
    mark = ServiceAddress.of_mark(9)
    (dest,) = bench.add(mark, ("10.0.0.2:0", 1, "nat"), flags=("ops",), persistent=60)
    tcp = opened(bench, mark=9)
    assert not tcp.flags & ONE_PACKET and len(bench.conns) == 2
    opened(bench, "198.51.100.8:9", protocol=UDP, mark=9)
    assert [conn.flags & TEMPLATE for conn in bench.conns] == [0, TEMPLATE, TEMPLATE]
    assert [conn.controls for conn in bench.conns] == [0, 1, 0]
    assert dest.stats.connections == 2


def test_masked() -> None:
    assert masked(packed("10.1.2.3"), b"") == packed("10.1.2.3")
    assert masked(packed("10.1.2.3"), packed("255.0.255.0")) == packed("10.0.2.0")
