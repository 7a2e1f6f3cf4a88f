"""Services and servers: lookups, edits, counters and rates (ip_vs_ctl.c, ip_vs_est.c)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipvsctl.datapath.vs.entry import Counters
from ipvsctl.datapath.vs.statistics import Estimator, read, tick, zero
from ipvsctl.errors import Unavailable, UsageError
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.status import Stats
from ipvsctl.wire.address import packed
from tests.datapath.vs_support import HTTP, Bench

VIP, VIP6 = packed("192.0.2.1"), packed("2001:db8::1")
TCP, UDP = 6, 17


def bench_with(*texts: str) -> Bench:
    bench = Bench()
    for text in texts:
        bench.services.add(Service(ServiceAddress.parse(text), "rr", persistent=300))
    return bench


@pytest.mark.parametrize(
    ("mark", "protocol", "address", "port", "expected"),
    [
        (0, TCP, VIP, 80, "tcp:192.0.2.1:80"),
        (0, UDP, VIP, 80, None),
        (0, TCP, packed("192.0.2.2"), 80, None),
        (7, TCP, VIP, 80, "fwmark:7"),
        (7, UDP, packed("203.0.113.1"), 9, "fwmark:7"),
        (8, TCP, VIP, 80, "tcp:192.0.2.1:80"),
        (0, TCP, VIP, 21, "tcp:192.0.2.1:21"),
        (0, TCP, VIP, 20, "tcp:192.0.2.1:21"),
        (0, TCP, VIP, 1024, "tcp:192.0.2.1:21"),
        (0, TCP, VIP, 1023, "tcp:192.0.2.1:0"),
        (0, UDP, VIP, 1024, None),
        (0, TCP, VIP6, 443, "tcp:[2001:db8::1]:0"),
        (0, TCP, VIP6, 1024, "tcp:[2001:db8::1]:0"),
    ],
)
def test_lookup(mark: int, protocol: int, address: bytes, port: int, expected: str | None) -> None:
    bench = bench_with(
        "tcp:192.0.2.1:80", "tcp:192.0.2.1:21", "tcp:192.0.2.1:0", "fwmark:7", "fwmark:7/inet6", "tcp:[2001:db8::1]:0"
    )
    family = INET6 if len(address) == 16 else INET
    found = bench.services.lookup(family, mark, protocol, address, port)
    assert (str(found.service.address) if found else None) == expected


def test_the_ftp_service_ends_with_its_service_and_follows_the_sysctl() -> None:
    bench = bench_with("tcp:192.0.2.1:21")
    assert bench.services.lookup(INET, 0, TCP, VIP, 1100) is not None
    bench.engine.settings.write("net.ipv4.ip_unprivileged_port_start", "2000")
    assert bench.services.lookup(INET, 0, TCP, VIP, 1100) is None
    bench.services.delete(ServiceAddress.parse("tcp:192.0.2.1:21"))
    assert bench.services.lookup(INET, 0, TCP, VIP, 5000) is None


def test_families_and_order() -> None:
    bench = bench_with("tcp:192.0.2.2:80", "tcp:[2001:db8::1]:80", "tcp:192.0.2.1:80")
    assert bench.services.families() == {INET, INET6}
    assert [str(row.service.address) for row in bench.services.report()] == [
        "tcp:192.0.2.1:80", "tcp:192.0.2.2:80", "tcp:[2001:db8::1]:80",
    ]  # fmt: skip


def test_servers_are_listed_newest_first_and_keep_their_place_when_edited() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3))
    bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.2", 9))
    assert [(row.server.address.address, row.server.weight) for row in bench.services.report()[0].servers] == [
        ("10.0.0.3", 3), ("10.0.0.2", 9), ("10.0.0.1", 1),
    ]  # fmt: skip


def test_editing_a_service_keeps_counters_and_the_scheduler_it_has() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2",), scheduler="rr")
    bench.open()
    service = bench.services.all()[0]
    before = service.scheduler
    bench.services.edit(Service(HTTP, "rr", persistent=60, netmask="255.255.255.0"))
    assert service.scheduler is before
    assert (service.persistent, service.netmask, service.stats.connections) == (60, b"\xff\xff\xff\0", 1)
    bench.services.edit(Service(HTTP, "wlc"))
    assert service.scheduler is not before
    assert (service.persistent, service.netmask, service.stats.connections) == (0, b"", 1)


def test_netmask_of_ipv6_is_a_prefix() -> None:
    bench = Bench()
    service = bench.services.add(Service(ServiceAddress.parse("tcp:[2001:db8::1]:80"), persistent=9, netmask=60))
    assert service.netmask == packed("ffff:ffff:ffff:fff0::")


def test_what_is_refused_by_name() -> None:
    bench = Bench()
    with pytest.raises(Unavailable, match="persistence engine sip"):
        bench.services.add(Service(HTTP, pe="sip"))
    with pytest.raises(UsageError, match="scheduler ftp"):
        bench.services.add(Service(HTTP, "ftp"))
    with pytest.raises(KeyError):
        bench.services.edit(Service(HTTP))
    assert not bench.services.all()


def test_last_weight_is_the_last_that_was_not_0() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP, ("10.0.0.1", 5))
    bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.1", 0))
    assert (dest.weight, dest.last_weight) == (0, 5)
    bench.services.delete_server(HTTP, dest.server.address)
    assert bench.server(HTTP, "10.0.0.1", 0) is dest
    assert dest.last_weight == 0


def test_real_servers_are_found_while_they_are_nat() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP, ("10.0.0.1:8080", 1, "nat"))
    own = packed("10.0.0.1")
    find = bench.services.find_real_service
    assert find(INET, TCP, own, 8080) is dest and bench.services.has_dest(INET, TCP, own, 8080)
    assert find(INET, UDP, own, 8080) is None and find(INET, TCP, own, 80) is None
    bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.1:8080", 1, "dr"))
    assert find(INET, TCP, own, 8080) is None
    bench.services.edit_server(HTTP, bench.wish(HTTP, "10.0.0.1:8080", 1, "nat"))
    assert find(INET, TCP, own, 8080) is dest
    bench.services.delete(HTTP)
    assert find(INET, TCP, own, 8080) is None


def test_tunnels_are_found_by_their_port() -> None:
    bench = Bench()
    bench.services.add(Service(HTTP))
    gue = Server(ServerAddress.of("10.0.0.1", 80), "tun", tunnel=Tunnel("gue", 6080))
    dest = bench.services.add_server(HTTP, gue)
    assert bench.services.find_tunnel(INET, packed("10.0.0.1"), 6080) is dest
    assert bench.services.find_tunnel(INET, packed("10.0.0.1"), 0) is None
    bench.services.edit_server(HTTP, replace(gue, tunnel=None))
    assert bench.services.find_tunnel(INET, packed("10.0.0.1"), 0) is dest


def test_ftp_by_nat_asks_for_connection_tracking_once() -> None:
    bench = Bench()
    ftp = ServiceAddress.parse("tcp:192.0.2.1:21")
    bench.add(ftp, ("10.0.0.1", 1, "dr"))
    assert bench.tracked == []
    bench.server(ftp, "10.0.0.2", 1, "nat")
    bench.server(ftp, "10.0.0.3", 1, "nat")
    assert bench.tracked == ["use 2"]
    bench.services.delete(ftp)
    assert bench.tracked == ["use 2", "unuse 2"]


def test_a_deleted_service_comes_back_with_its_servers_but_without_counters() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    bench.open()
    bench.services.delete(HTTP)
    assert bench.services.report() == []
    (again,) = bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    assert again is dest and dest.active == 1
    assert dest.stats.connections == 0
    other = ServiceAddress.parse("tcp:192.0.2.1:81")
    bench.services.delete(HTTP)
    assert bench.add(other, ("10.0.0.1:80", 1, "nat"))[0] is not dest


def test_zero_is_for_one_or_for_all() -> None:
    bench = Bench()
    other = ServiceAddress.parse("tcp:192.0.2.1:81")
    bench.add(HTTP, ("10.0.0.1",))
    bench.add(other, ("10.0.0.1",))
    bench.open()
    bench.open("198.51.100.1:9", to="192.0.2.1:81")
    bench.services.zero(HTTP)
    one, two = bench.services.report()
    assert (one.stats, one.servers[0].stats) == (Stats(), Stats())
    assert (two.stats.connections, two.servers[0].stats.connections) == (1, 1)
    assert bench.services.total.connections == 2
    bench.services.zero(None)
    assert bench.services.total.connections == bench.services.all()[1].stats.connections == 0


def test_rates_are_the_kernels_integers() -> None:
    counters = Counters()
    seen = []
    for number in range(6):
        if number < 3:
            counters.connections += 20
            counters.inbytes += 3000
        tick(counters)
        stats = read(counters)
        seen.append((stats.cps, stats.bps_in))
    # 10 a second and 1500 bytes a second, a quarter of the way each time; then down again.
    assert seen == [(2, 375), (4, 656), (6, 867), (4, 650), (3, 488), (2, 366)]
    zero(counters)
    assert read(counters) == Stats()


def test_the_estimator_ticks_every_two_seconds_and_can_be_stopped() -> None:
    bench = Bench()
    estimator = Estimator(bench.engine, bench.services)
    assert estimator.poll_at() is None
    bench.add(HTTP, ("10.0.0.1",))
    assert estimator.poll_at() == bench.engine.now
    estimator.poll(100.0)
    assert estimator.poll_at() == 102
    bench.services.total.connections = 1000
    estimator.poll(101.9)
    assert read(bench.services.total).cps == 0
    estimator.poll(102.0)
    assert (read(bench.services.total).cps, estimator.poll_at()) == (125, 104)
    bench.write("run_estimation", 0)
    estimator.poll(104.0)
    assert read(bench.services.total).cps == 125
    (service,) = bench.services.all()
    service.stats.connections = 7
    assert bench.services.report()[0].stats == Stats()
    service.stats.rates = None
    tick(service.stats)
    service.stats.connections = 9
    assert bench.services.report()[0].stats.connections == 7
    bench.write("run_estimation", 1)
    assert bench.services.report()[0].stats.connections == 9
    estimator.poll(1e6)
    assert read(bench.services.total).cps == 0
    assert estimator.poll_at() == 1e6 + 2
