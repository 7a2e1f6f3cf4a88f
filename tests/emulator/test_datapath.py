"""The datapath behind an emulated director: it follows the configuration, and what was there stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipvsctl.emulator.client import RemoteHost
from ipvsctl.emulator.connections import Datapath
from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.errors import NotFound, Unavailable, UsageError
from ipvsctl.formats.packet_text import parse
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    EditServer,
    IpvsChange,
    SetTimeouts,
    ZeroCounters,
)
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Timeouts

DNS = ServiceAddress.parse("udp:192.0.2.1:53")
FIRST, SECOND = (Server(ServerAddress.of(f"10.0.2.{number}", 53), "nat") for number in (2, 3))


class Clock:
    """The time as a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(clock: Clock) -> EmulatedHost:
    made = EmulatedHost("datapath")
    made.state.datapath = Datapath(made.state, clock)
    made.ipvs.apply([AddService(Service(DNS, "rr")), AddServer(DNS, FIRST)])
    made.sysctl.set("net.ipv4.ip_forward", "1")
    return made


def query(port: int) -> bytes:
    return parse(f"udp 198.51.100.7:{port} > 192.0.2.1:53 len=5")


def ask(host: EmulatedHost, *ports: int) -> list[str]:
    return [fate.verdict for fate in host.inject("eth0", map(query, ports))]


def servers(host: EmulatedHost) -> list[str]:
    return [each.server for each in host.connections()]


def apply(host: EmulatedHost, *changes: IpvsChange) -> None:
    host.ipvs.apply(changes)


def test_nothing_comes_of_nothing() -> None:
    host = EmulatedHost("empty")
    assert list(host.connections()) == []
    assert not any(host.totals())


def test_packets_make_connections_and_counters(host: EmulatedHost) -> None:
    assert ask(host, 1, 2, 2) == ["forward"] * 3
    assert [(each.client_port, each.state, each.expires) for each in host.connections()] == [
        (1, "UDP", 300), (2, "UDP", 300)
    ]  # fmt: skip
    (status,) = host.ipvs.services()
    assert (status.stats.connections, status.stats.packets_in) == (2, 3)
    assert status.servers[0].inactive_connections == 2
    assert host.ipvs.service(DNS) == status
    assert host.totals()[:2] == (2, 3)


def test_time_passes(host: EmulatedHost, clock: Clock) -> None:
    ask(host, 1)
    clock.now += 100
    assert [each.expires for each in host.connections()] == [200]
    clock.now += 500
    assert list(host.connections()) == []
    assert host.ipvs.service(DNS).servers[0].inactive_connections == 0


def test_changes_of_services_keep_connections(host: EmulatedHost) -> None:
    ask(host, 1, 2)
    apply(host, AddServer(DNS, SECOND))
    ask(host, 3, 4)
    assert sorted(servers(host)) == ["10.0.2.2"] * 3 + ["10.0.2.3"]
    drained = Server(FIRST.address, "nat", 0)
    apply(host, EditServer(DNS, drained, FIRST))
    ask(host, 5, 6)
    assert sorted(servers(host)) == ["10.0.2.2"] * 3 + ["10.0.2.3"] * 3
    assert {each.server.weight for each in host.ipvs.service(DNS).servers} == {0, 1}
    apply(host, ZeroCounters(None))
    assert host.ipvs.service(DNS).stats.packets_in == 0
    apply(host, SetTimeouts(Timeouts(udp=20), Timeouts()))
    ask(host, 7)
    assert [each.expires for each in host.connections() if each.client_port == 7] == [20]


def test_a_deleted_servers_connections_stay_until_they_may_not(host: EmulatedHost) -> None:
    ask(host, 1)
    apply(host, DeleteServer(DNS, FIRST))
    assert ask(host, 1) == ["drop"]
    assert servers(host) == ["10.0.2.2"]
    apply(host, AddServer(DNS, FIRST))
    assert ask(host, 1) == ["forward"]
    host.sysctl.set("net.ipv4.vs.expire_nodest_conn", "1")
    apply(host, DeleteServer(DNS, FIRST))
    assert servers(host) == []


def test_conntrack_follows_its_sysctl_and_rules(host: EmulatedHost) -> None:
    from ipvsctl.model.change import ReplaceRules
    from ipvsctl.model.rule import Match, OwnChain, Rule

    ask(host, 1)
    assert host.conntrack.entries() == []
    rule = Rule("ACCEPT", matches=(Match("conntrack", (("ctstate", "NEW"),)),))
    chain = OwnChain(2, "filter", "IPVSCTL-INPUT", "INPUT", rules=(rule,))
    host.firewall.replace(ReplaceRules("iptables-legacy", 2, "filter", before=(), after=(chain,)))
    host.sysctl.set("net.ipv4.vs.conntrack", "1")
    ask(host, 2)
    (entry,) = host.conntrack.entries()
    assert (entry.source_port, entry.reply_source) == (2, "10.0.2.2")
    assert [each.client_port for each in host.connections()] == [1, 2]
    host.conntrack.delete(entry)
    assert host.conntrack.entries() == []
    with pytest.raises(NotFound):
        host.conntrack.delete(entry)


def test_a_new_server_in_another_network_is_reached(host: EmulatedHost) -> None:
    """The assumed network has a route for each server: it follows, and connections stay."""
    ask(host, 1)
    far = Server(ServerAddress.of("172.16.9.9", 53), "nat", 100)
    apply(host, AddServer(DNS, far))
    ask(host, 2, 3)
    assert sorted(servers(host)) == ["10.0.2.2", "10.0.2.2", "172.16.9.9"]


def test_what_the_datapath_cannot_have_is_told(host: EmulatedHost) -> None:
    ask(host, 1)
    sip = Service(ServiceAddress.parse("udp:192.0.2.1:5060"), "rr", persistent=60, pe="sip")
    apply(host, AddService(sip))
    assert list(host.connections()) == []
    with pytest.raises(Unavailable, match="sip"):
        ask(host, 2)
    from ipvsctl.model.change import DeleteService

    apply(host, DeleteService(sip))
    assert ask(host, 2) == ["forward"]


def test_a_device_that_is_not_there(host: EmulatedHost) -> None:
    with pytest.raises(UsageError, match="no device eth9, expected one of lo, eth0, eth1"):
        host.inject("eth9", [query(1)])


@pytest.fixture
def remote(lab: RemoteHost) -> Iterator[RemoteHost]:
    lab.ipvs.apply([AddService(Service(DNS, "rr")), AddServer(DNS, FIRST)])
    lab.sysctl.set("net.ipv4.ip_forward", "1")
    yield lab


def test_the_same_over_the_socket(remote: RemoteHost) -> None:
    (fate,) = remote.inject("eth0", [query(1)])
    assert (fate.verdict, fate.outputs[0][0]) == ("forward", "eth1")
    assert fate.outputs[0][1][16:20] == bytes((10, 0, 2, 2))
    (quiet,) = remote.inject("eth0", [query(2)], outputs=False)
    assert quiet.outputs == ()
    assert [each.client_port for each in remote.connections()] == [1, 2]
    assert remote.totals().packets_in == 2
    with pytest.raises(UsageError, match="no device"):
        list(remote.inject("eth9", [query(1)]))


def test_a_hundred_thousand_connections(remote: RemoteHost) -> None:
    """Written as they stand in a packet: describing each in words would take longer than the rest."""
    packet = bytearray(query(1))
    count = 100_000

    def packets() -> Iterator[bytes]:
        for number in range(count):
            packet[12:16] = (0x0A000000 + number // 50_000).to_bytes(4, "big")
            packet[20:22] = (1024 + number % 50_000).to_bytes(2, "big")
            packet[26:28] = packet[10:12] = b"\0\0"
            packet[10:12] = checksum(packet[:20])
            yield bytes(packet)

    verdicts = {fate.verdict for fate in remote.inject("eth0", packets(), outputs=False)}
    assert verdicts == {"forward"}
    assert len({each[:3] for each in remote.connections()}) == count
    assert remote.ipvs.service(DNS).servers[0].inactive_connections == count


def checksum(header: bytes | bytearray) -> bytes:
    return (-int.from_bytes(header, "big") % 0xFFFF).to_bytes(2, "big")
