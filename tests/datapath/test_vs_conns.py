"""The connection table: keys, timers, control, counters, thresholds (ip_vs_conn.c)."""

from __future__ import annotations

import gc
from typing import Any

from ipvsctl.datapath.skb import ACK, SYN, TCP, UDP
from ipvsctl.datapath.vs.chains import Chains
from ipvsctl.datapath.vs.entry import (
    AVAILABLE,
    HASHED,
    INACTIVE,
    NFCT,
    NO_CPORT,
    NOOUTPUT,
    ONE_PACKET,
    OVERLOAD,
    TEMPLATE,
    Conn,
    Dest,
)
from ipvsctl.datapath.vs.states import OUTPUT
from ipvsctl.model.address import ServiceAddress
from tests.datapath.vs_support import HTTP, Bench, header_of

CLIENT, SERVER = "198.51.100.1:1024", "10.0.0.1:80"
DNS = ServiceAddress.parse("udp:192.0.2.1:53")


def opened(bench: Bench, client: str = CLIENT, **options: Any) -> Conn:
    conn = bench.open(client, **options)
    assert isinstance(conn, Conn)
    return conn


def web(*servers: tuple[Any, ...], **settings: int) -> tuple[Bench, list[Dest]]:
    bench = Bench(**settings)
    return bench, bench.add(HTTP, *(servers or (("10.0.0.1", 1, "nat"),)))


def test_a_nat_connection_is_found_by_both_sides() -> None:
    bench, _ = web()
    conn = opened(bench)
    assert bench.conns.find_in(header_of(CLIENT, "192.0.2.1:80")) is conn
    assert bench.conns.find_out(header_of(SERVER, CLIENT)) is conn
    assert bench.conns.find_in(header_of("192.0.2.1:80", CLIENT)._replace(inverse=True)) is conn
    assert bench.conns.find_out(header_of(CLIENT, SERVER)._replace(inverse=True)) is conn
    assert bench.conns.find_out(header_of("192.0.2.1:80", CLIENT)) is None
    assert bench.conns.find_in(header_of(CLIENT, "192.0.2.1:80", UDP)) is None
    assert not conn.flags & NOOUTPUT


def test_the_reply_of_a_server_behind_dr_comes_from_the_virtual_address() -> None:
    bench, _ = web(("10.0.0.1", 1, "dr"))
    conn = opened(bench)
    assert bench.conns.find_out(header_of("192.0.2.1:80", CLIENT)) is conn
    assert bench.conns.find_out(header_of(SERVER, CLIENT)) is None
    assert conn.flags & NOOUTPUT


def test_a_fragment_without_ports_is_nobodys() -> None:
    bench, _ = web()
    opened(bench)
    assert bench.conns.find_in(header_of(CLIENT, "192.0.2.1:80")._replace(fragment=True)) is None


def test_esp_belongs_to_isakmp() -> None:
    bench = Bench()
    bench.add(ServiceAddress.parse("udp:192.0.2.1:500"), ("10.0.0.1", 1, "dr"))
    conn = opened(bench, "198.51.100.1:500", to="192.0.2.1:500", protocol=UDP)
    assert bench.conns.find_in(header_of("198.51.100.1:0", "192.0.2.1:0", 50)) is conn
    assert bench.conns.find_in(header_of("198.51.100.1:0", "192.0.2.1:0", 47)) is None


def make(bench: Bench, dest: Dest | None, flags: int = 0, client: tuple[bytes, int] = (b"\1\2\3\4", 7)) -> Conn:
    conn = bench.conns.new(2, TCP, client, (b"\5\6\7\x08", 80), (b"\x0a\0\0\1", 80), flags, dest)
    bench.conns.put(conn, bench.engine.now)
    return conn


def test_the_newest_of_several_with_one_key_is_found_and_the_older_ones_return() -> None:
    bench, (dest,) = web()
    first, second, third = (make(bench, dest) for _ in range(3))
    header = header_of("1.2.3.4:7", "5.6.7.8:80")
    assert bench.conns.find_in(header) is third
    bench.conns.delete(second)
    bench.conns.delete(third)
    assert bench.conns.find_in(header) is first
    bench.conns.delete(first)
    assert bench.conns.find_in(header) is None
    assert len(bench.conns) == 0 and not list(bench.conns)


def test_chains_keep_nothing_behind() -> None:
    chains = Chains()
    bench, (dest,) = web()
    conns = [make(bench, dest) for _ in range(4)]
    for conn in conns:
        chains.add(b"key", conn)
    assert len(list(chains)) == 4
    for conn in (conns[1], conns[3], conns[0], conns[2]):
        chains.remove(b"key", conn)
    assert not list(chains) and not chains.newest and not chains._older


def test_a_client_of_port_0_is_never_found_again() -> None:
    bench, (dest,) = web()
    conn = make(bench, dest, client=(b"\1\2\3\4", 0))
    assert bench.conns.find_in(header_of("1.2.3.4:0", "5.6.7.8:80")) is None
    assert bench.conns.find_out(header_of("10.0.0.1:80", "1.2.3.4:0")) is conn


def test_an_unknown_client_port_is_filled_in() -> None:
    bench, (dest,) = web()
    conn = make(bench, dest, NO_CPORT, (b"\1\2\3\4", 0))
    header = header_of("1.2.3.4:4000", "5.6.7.8:80")
    assert bench.conns.find_in(header) is conn
    bench.conns.fill_cport(conn, 4000)
    assert conn.cport == 4000 and not conn.flags & NO_CPORT
    assert bench.conns.find_in(header) is conn
    assert bench.conns.find_in(header_of("1.2.3.4:4001", "5.6.7.8:80")) is None
    assert bench.conns.find_out(header_of("10.0.0.1:80", "1.2.3.4:4000")) is conn


def test_every_packet_puts_the_end_off_and_then_it_comes() -> None:
    bench, (dest,) = web()
    conn = opened(bench)
    bench.wait(59)
    bench.send(conn, SYN)
    bench.wait(59)
    assert bench.conns.find_in(header_of(CLIENT, "192.0.2.1:80")) is conn
    bench.wait(2)
    assert len(bench.conns) == 0
    assert (dest.active, dest.inactive) == (0, 0)


def test_a_lookup_does_not_wait_for_the_timer() -> None:
    bench, (dest,) = web()
    opened(bench)
    bench.engine.now += 60
    assert bench.conns.find_out(header_of(SERVER, CLIENT)) is None
    assert len(bench.conns) == 0 and dest.active == 0


def test_expire_now_counts_until_the_packet_is_done_with() -> None:
    bench, (dest,) = web()
    conn = opened(bench)
    bench.conns.expire_now(conn)
    assert dest.active == 1 and conn.flags & HASHED
    bench.engine.timers.poll(bench.engine.now)
    assert dest.active == 0 and not conn.flags & HASHED


def test_expire_now_is_at_once_when_the_clock_has_just_begun() -> None:
    bench, (dest,) = web()
    bench.engine.now = 0.04
    bench.conns.expire_now(opened(bench))
    bench.engine.timers.poll(bench.engine.now)
    assert dest.active == 0


def test_one_packet_connections_are_not_kept() -> None:
    bench = Bench()
    (dest,) = bench.add(DNS, ("10.0.0.1", 1, "nat"), flags=("ops",))
    conn = opened(bench, to="192.0.2.1:53", protocol=UDP)
    assert not conn.flags & (HASHED | ONE_PACKET)
    assert (len(bench.conns), dest.inactive, dest.stats.connections) == (0, 0, 1)
    bench.conns.put(conn, bench.engine.now)
    bench.conns.expire(conn, bench.engine.now)
    assert (len(bench.conns), dest.inactive) == (0, 0)


def test_a_controller_stays_while_it_controls() -> None:
    bench, (dest,) = web()
    control, data = make(bench, dest), make(bench, dest, client=(b"\1\2\3\4", 8))
    bench.conns.control_add(data, control)
    data.timeout = 500.0
    bench.conns.put(data, bench.engine.now)
    bench.wait(5)
    assert control.flags & HASHED and control.timeout == 60 and control.controls == 1
    bench.wait(500)
    assert not data.flags & HASHED and control.controls == 0
    bench.wait(62)
    assert len(bench.conns) == 0


def test_a_deleted_connection_takes_its_control_along_unless_assured() -> None:
    for assured in (False, True):
        bench = Bench()
        bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=1000)
        conn = opened(bench)
        template = conn.control
        if assured:
            bench.send(conn, ACK)
        bench.conns.delete(conn)
        assert template is not None
        assert bool(template.flags & HASHED) is assured


def test_expiry_by_time_leaves_the_template() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=1000)
    opened(bench)
    bench.wait(62)
    assert [conn.flags & TEMPLATE for conn in bench.conns] == [TEMPLATE]


def test_conntrack_goes_with_the_connection_that_used_it() -> None:
    bench, _ = web(conntrack=1)
    conn = opened(bench)
    assert conn.flags & NFCT
    bench.conns.delete(conn)
    assert bench.dropped == [conn]
    bench.write("conntrack", 0)
    bench.conns.delete(opened(bench))
    assert bench.dropped == [conn]


def test_overload_comes_at_the_upper_threshold_and_goes_below_the_lower() -> None:
    bench, (dest,) = web(("10.0.0.1", 1, "nat", 4, 2))
    conns = [make(bench, dest, client=(b"\1\2\3\4", number)) for number in range(1, 4)]
    assert not dest.flags & OVERLOAD
    conns.append(make(bench, dest, client=(b"\1\2\3\4", 4)))
    assert dest.flags & OVERLOAD
    seen = []
    for conn in conns:
        bench.conns.delete(conn)
        seen.append(bool(dest.flags & OVERLOAD))
    assert seen == [True, True, False, False]


def test_the_lower_threshold_is_three_quarters_by_default() -> None:
    bench, (dest,) = web(("10.0.0.1", 1, "nat", 8))
    conns = [make(bench, dest, client=(b"\1\2\3\4", number)) for number in range(1, 10)]
    seen = []
    for conn in conns:
        bench.conns.delete(conn)
        seen.append(bool(dest.flags & OVERLOAD))
    assert seen == [True, True, True, False, False, False, False, False, False]


def test_thresholds_are_looked_at_when_edited() -> None:
    bench, (dest,) = web()
    for number in range(1, 5):
        make(bench, dest, client=(b"\1\2\3\4", number))
    for upper, lower, overloaded in (
        (4, 1, True),
        (5, 3, True),
        (6, 5, False),
        (5, 4, False),
        (3, 0, True),
        (0, 0, False),
    ):
        bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.1", 1, "nat", upper, lower))
        assert bool(dest.flags & OVERLOAD) is overloaded, (upper, lower)


def test_connections_of_a_deleted_server_stay_or_go() -> None:
    for sweep in (0, 1):
        bench, _ = web(("10.0.0.1", 1, "nat"), ("10.0.0.2", 1, "nat"), expire_nodest_conn=sweep)
        one, two = opened(bench), opened(bench, "198.51.100.1:1025")
        gone = one if one.daddr[-1] == 1 else two
        bench.services.delete_server(HTTP, bench.wish(HTTP, "10.0.0.1").address)
        assert bool(gone.flags & HASHED) is not bool(sweep)
        assert len(bench.conns) == 2 - sweep


def test_the_sweep_takes_templates_along() -> None:
    bench = Bench(expire_nodest_conn=1)
    (dest,) = bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=1000)
    bench.send(opened(bench), ACK)
    bench.services.delete_server(HTTP, bench.wish(HTTP, "10.0.0.1").address)
    assert len(bench.conns) == 0
    assert (dest.active, dest.inactive, dest.persistent) == (0, 0, 0)


def test_a_server_from_the_trash_has_its_connections_again() -> None:
    bench, (dest,) = web()
    conn = opened(bench)
    address = bench.wish(HTTP, "10.0.0.1").address
    bench.services.delete_server(HTTP, address)
    assert not dest.flags & AVAILABLE
    bench.send(conn, ACK)
    bench.wait(600)
    assert bench.server(HTTP, "10.0.0.1", 3, "nat") is dest
    assert dest.flags & AVAILABLE and dest.weight == 3 and dest.active == 1


def test_the_trash_is_emptied_when_nobody_has_the_server_any_more() -> None:
    bench, (dest,) = web()
    bench.conns.delete(opened(bench))
    bench.services.delete_server(HTTP, bench.wish(HTTP, "10.0.0.1").address)
    bench.wait(170)
    assert len(bench.services._trash) == 1
    bench.wait(15)
    assert len(bench.services._trash) == 0
    assert bench.server(HTTP, "10.0.0.1", 1, "nat") is not dest


def test_no_cycle_keeps_an_ended_connection() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=30)
    gc.collect()
    gc.disable()
    try:
        opened(bench)
        bench.wait(200)
        assert len(bench.conns) == 0
        assert not [each for each in gc.get_objects() if isinstance(each, Conn) and each.table is bench.conns]
    finally:
        gc.enable()


def test_the_report_is_as_in_proc() -> None:
    bench = Bench(conntrack=1)
    bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=300, netmask="255.255.255.0")
    bench.send(opened(bench), ACK)
    row, template = bench.conns.report()
    assert (row.protocol, row.client, row.client_port) == ("tcp", "198.51.100.1", 1024)
    assert (row.virtual, row.virtual_port, row.server, row.server_port) == ("192.0.2.1", 80, "10.0.0.1", 80)
    assert (row.state, row.expires, row.flags) == ("ESTABLISHED", 900, ("nat", "conntrack"))
    assert (template.client, template.client_port, template.state, template.expires) == (
        "198.51.100.0",
        0,
        "ASSURED",
        300,
    )
    assert template.flags == ("nat", "template", "inactive", "conntrack")


def test_a_reply_to_port_0_can_hit_a_template_and_breaks_nothing() -> None:
    """The kernel finds templates from inside by their client port 0, and lets the packet act on them."""
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=300)
    opened(bench)
    template = bench.conns.find_out(header_of(SERVER, "198.51.100.1:0"))
    assert template is not None and template.flags & TEMPLATE and template.flags & INACTIVE
    bench.send(template, SYN | ACK, OUTPUT)
    assert bench.conns.report()[-1].state == "ERR!"
