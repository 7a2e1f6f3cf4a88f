"""KernelIpvs against a real kernel, with ipvsadm as the second witness. Uses the guest's own namespace."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from ipvsctl.errors import AlreadyExists, NotFound, Refused, Unavailable
from ipvsctl.kernel.ipvs import KernelIpvs
from ipvsctl.kernel.ipvs_codec import _build
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    ZeroCounters,
)
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.status import NO_STATS, Daemon, Timeouts
from tests.guest.ipvs_port import WEB, WEB6, empty_port, many, refused, saved, server
from tests.guest.lab import must

pytestmark = pytest.mark.guest

DEVICE, VIP = "ipvs-port0", "10.255.0.1"
SIP = ServiceAddress.parse("udp:10.0.0.1:5060")


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """A device with the address VIP, for synchronisation and for traffic of our own."""
    must("ip", "link", "set", "lo", "up")
    must("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "ipvs-port1")
    must("ip", "link", "set", DEVICE, "up")
    must("ip", "link", "set", "ipvs-port1", "up")
    must("ip", "address", "add", f"{VIP}/32", "dev", DEVICE)
    yield DEVICE
    must("ip", "link", "delete", DEVICE)


@pytest.fixture
def port() -> Iterator[KernelIpvs]:
    with empty_port() as made:
        yield made


# Services and servers, and what ipvsadm -Sn says of each. Servers in the order they are added.
TABLE: list[tuple[Service, str, list[tuple[Server, str]]]] = [
    (Service(WEB, "rr"), "-A -t 10.0.0.1:80 -s rr", [
        (server("10.1.0.2:8080", forward="nat", weight=5, upper=10, lower=3), "-r 10.1.0.2:8080 -m -w 5"),
        (server("10.1.0.3", weight=0), "-r 10.1.0.3:80 -g -w 0"),
        (server("10.1.0.4", forward="tun", weight=2**31 - 1), "-r 10.1.0.4:80 -i -w 2147483647 --tun-type ipip"),
        (server("10.1.0.5", forward="tun", tunnel=Tunnel("gue", 6080, "remote")),
         "-r 10.1.0.5:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum"),
        (server("10.1.0.6", forward="tun", tunnel=Tunnel("gre", csum="yes")),
         "-r 10.1.0.6:80 -i -w 1 --tun-type gre --tun-csum"),
        (server("[fd00::7]:80", forward="tun"), "-r [fd00::7]:80 -i -w 1 --tun-type ipip"),
    ]),
    (Service(WEB6, "wlc", persistent=300, netmask=64), "-A -t [2001:db8::1]:80 -s wlc -p 300 -M 64", [
        (server("[fd00::2]:8080", forward="nat"), "-r [fd00::2]:8080 -m -w 1"),
        (server("10.1.0.9:80", forward="tun"), "-r 10.1.0.9:80 -i -w 1 --tun-type ipip"),
    ]),
    (Service(SIP, "rr", ("ops",), 2678400, "255.255.255.0", "sip"),
     "-A -u 10.0.0.1:5060 -s rr -p 2678400 -M 255.255.255.0 --pe sip -o", []),
    (Service(ServiceAddress.parse("sctp:10.0.0.1:36412"), "wrr"), "-A --sctp-service 10.0.0.1:36412 -s wrr", []),
    (Service(ServiceAddress.of_mark(1), "sh", ("sh-fallback", "sh-port")), "-A -f 1 -s sh -b sh-fallback,sh-port", [
        (server("10.1.0.2:0", forward="nat"), "-r 10.1.0.2:0 -m -w 1"),
    ]),
    (Service(ServiceAddress.of_mark(1, 10), "mh", ("mh-port",), 60), "-A -f 1 -6 -s mh -p 60 -b mh-port", []),
    (Service(ServiceAddress.parse("tcp:10.0.0.2:0"), "lblcr", ("flag-3",), 360),
     "-A -t 10.0.0.2:0 -s lblcr -p 360 -b flag-3", []),
]  # fmt: skip


def table_changes() -> list[IpvsChange]:
    changes: list[IpvsChange] = []
    for service, _, servers in TABLE:
        changes += [AddService(service), *(AddServer(service.address, one) for one, _ in servers)]
    return changes


def table_lines() -> list[str]:
    lines = []
    for _, line, servers in TABLE:
        where = line.split(" -s ")[0].replace("-A", "-a", 1)
        lines += [line, *(f"{where} {words}" for _, words in servers)]
    return lines


def check_table(port: KernelIpvs, thresholds: bool) -> None:
    found = port.services()
    wanted = sorted(TABLE, key=lambda row: row[0].address.sort_key)
    assert [status.service for status in found] == [service for service, _, _ in wanted]
    for status, (service, _, servers) in zip(found, wanted, strict=True):
        expected = [one for one, _ in reversed(servers)]
        if not thresholds:
            expected = [_build(Server, one.address, one.forward, one.weight, 0, 0, one.tunnel) for one in expected]
        assert [one.server for one in status.servers] == expected
        assert status.stats == NO_STATS
        assert port.service(service.address) == status


def test_info(port: KernelIpvs) -> None:
    info = port.info()
    banner = f"IP Virtual Server version {info.version} (size={info.table_size})"
    assert must("ipvsadm", "-Ln").splitlines()[0] == banner


def unload() -> None:
    """Take IPVS out of the kernel, as far as it is in."""
    loaded = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines() if line.startswith("ip_vs")]
    # Schedulers and engines first: they hold the module they are for.
    for name in sorted(loaded, key="ip_vs".__eq__):
        must("rmmod", name)


def test_the_module_comes_and_goes(port: KernelIpvs) -> None:
    """Linux 6.1 loads it for us, 5.10 does not; where it is missing, the next call looks again."""
    loader = Path("/proc/sys/kernel/modprobe")
    before = loader.read_text().strip()
    for _ in range(2):
        unload()
        loader.write_text("/bin/false")
        try:
            with pytest.raises(Unavailable, match=r"no IPVS: .*`modprobe ip_vs`.*--host emulator$"):
                port.services()
        finally:
            loader.write_text(before)
        must("modprobe", "ip_vs")
        assert port.services() == []
        unload()
        must("modprobe", "ip_vs")
        assert port.info().version == "1.2.1"


def test_tables_that_we_write(port: KernelIpvs) -> None:
    port.apply(table_changes())
    assert sorted(saved()) == sorted(table_lines())
    check_table(port, thresholds=True)
    assert f"  -> {'10.1.0.2:8080':28} {10:<10} {3:<10} {0:<10} {0:<10}" in must("ipvsadm", "-Ln", "--thresholds")


def test_tables_that_ipvsadm_writes(port: KernelIpvs) -> None:
    must("sh", "-c", "ipvsadm -R <<'END'\n" + "\n".join(table_lines()) + "\nEND")
    check_table(port, thresholds=False)


def test_edit_and_delete(port: KernelIpvs) -> None:
    port.apply(table_changes())
    web, *_ = TABLE
    plain, full = Service(WEB, "wrr", ("flag-1",), 50, "255.255.0.0", "sip"), web[0]
    first = web[2][0][0]
    other = server("10.1.0.2:8080", forward="tun", weight=7, upper=9, tunnel=Tunnel("gue", 99))
    port.apply([EditService(plain, full), EditServer(WEB, other, first)])
    lines = saved()
    assert "-A -t 10.0.0.1:80 -s wrr -p 50 -M 255.255.0.0 --pe sip -b flag-1" in lines
    assert "-a -t 10.0.0.1:80 -r 10.1.0.2:8080 -i -w 7 --tun-type gue --tun-port 99 --tun-nocsum" in lines
    status = port.service(WEB)
    assert status.service == plain
    assert status.servers[-1].server == other, "an edited server keeps its place"
    port.apply([EditService(full, plain), EditServer(WEB, first, other)])
    check_table(port, thresholds=True)

    port.apply([DeleteServer(WEB, one.server) for one in status.servers])
    assert port.service(WEB).servers == ()
    port.apply([DeleteService(service) for service, _, _ in TABLE])
    assert saved() == []
    assert port.services() == []
    with pytest.raises(NotFound, match=r"^there is no service tcp:10\.0\.0\.1:80$"):
        port.service(WEB)


def test_changes_undone_by_their_inverse(port: KernelIpvs) -> None:
    port.apply(table_changes())
    status = port.service(WEB)
    delete = DeleteService(status.service, tuple(one.server for one in status.servers))
    port.apply([delete])
    port.apply(cast(Sequence[IpvsChange], delete.inverse()))
    assert port.service(WEB) == status


def counted(port: KernelIpvs, address: ServiceAddress) -> int:
    """Connections of a service as soon as the kernel shows them: its estimator sums the counters every 2 seconds."""
    for _ in range(10_000):
        stats = port.service(address).stats
        if stats.connections:
            return stats.connections
    raise AssertionError("no connection was counted")


def test_zero(port: KernelIpvs, device: str) -> None:
    addresses = [ServiceAddress.of("udp", VIP, 5000), ServiceAddress.of("udp", VIP, 5001)]
    udp = socket.AF_INET, socket.SOCK_DGRAM
    with socket.socket(*udp) as sink, socket.socket(*udp) as own:
        sink.bind((VIP, 0))
        for address in addresses:
            target = Server(ServerAddress.of(VIP, sink.getsockname()[1]), "nat")
            port.apply([AddService(Service(address, "rr")), AddServer(address, target)])
            own.sendto(b"hello", (VIP, address.port))
        assert [counted(port, address) for address in addresses] == [1, 1]
        before = port.service(addresses[0])
        assert before.stats.packets_in == before.servers[0].stats.packets_in == 1
        assert before.stats.bytes_in == before.servers[0].stats.bytes_in == 33
        assert before.servers[0].inactive_connections == 1
        listed = must("ipvsadm", "-Ln", "--stats", "--exact").splitlines()
        assert f"UDP  {VIP}:5000".ljust(33) + "        1        1        0       33        0" in listed

        port.apply([ZeroCounters(addresses[0])])
        assert port.service(addresses[0]).stats.connections == 0
        assert port.service(addresses[0]).servers[0].stats.connections == 0
        assert port.service(addresses[1]).stats.connections == 1
        port.apply([ZeroCounters()])
        assert port.service(addresses[1]).stats.connections == 0


def test_timeouts(port: KernelIpvs) -> None:
    before = port.timeouts()
    port.apply([SetTimeouts(Timeouts(100, 200, 0), before)])
    assert port.timeouts() == Timeouts(100, 200, before.udp)
    assert must("ipvsadm", "-L", "--timeout") == f"Timeout (tcp tcpfin udp): 100 200 {before.udp}\n"
    port.apply(cast(Sequence[IpvsChange], SetTimeouts(Timeouts(), before).inverse()))
    assert port.timeouts() == before


def test_daemons(port: KernelIpvs, device: str) -> None:
    assert port.daemons() == []
    master = Daemon("master", device, 7)
    backup = Daemon("backup", device, 5, 1400, "ff02::5", 9000, 2)
    port.apply([StartDaemon(backup), StartDaemon(master)])
    assert port.daemons() == [Daemon("master", device, 7, 1472, "224.0.0.81", 8848, 1), backup]
    assert must("ipvsadm", "-L", "--daemon").splitlines() == [
        f"master sync daemon (mcast={device}, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)",
        f"backup sync daemon (mcast={device}, syncid=5, maxlen=1400, group=ff02::5, port=9000, ttl=2)",
    ]
    (again,) = refused(port, StartDaemon(master))
    assert isinstance(again, AlreadyExists)

    mixed = AddServer(WEB, server("[fd00::2]:80", forward="tun"))
    done, failed = refused(port, AddService(Service(WEB)), mixed)
    assert (done, type(failed)) == (None, Refused)
    port.apply([StopDaemon(master), StopDaemon(backup), mixed])
    assert port.daemons() == []
    assert [type(error) for error in refused(port, StopDaemon(master), StartDaemon(master))] == [NotFound, Refused]
    port.apply([DeleteService(Service(WEB))])
    assert [type(error) for error in refused(port, StartDaemon(Daemon("backup", "nosuch")))] == [NotFound]
    (error,) = refused(port, StartDaemon(Daemon("backup", device, group="10.0.0.1")))
    assert isinstance(error, Refused)
    assert "multicast" in str(error)


def test_a_large_table(port: KernelIpvs) -> None:
    changes: list[IpvsChange] = []
    for address in many(1000):
        changes.append(AddService(Service(address, "rr")))
        changes += (
            AddServer(address, Server(ServerAddress.of(f"172.16.{number}.1", 8080), "nat", number))
            for number in range(10)
        )
    port.apply(changes)
    found = port.services()
    assert [status.service.address for status in found] == many(1000)
    for status in found:
        assert [one.server.weight for one in status.servers] == list(range(9, -1, -1))
        assert {one.server.address.address for one in status.servers} == {f"172.16.{number}.1" for number in range(10)}
    assert len(saved()) == 11_000
