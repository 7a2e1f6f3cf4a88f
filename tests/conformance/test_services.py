"""Virtual services: every kind, edited, deleted, and every refusal."""

from __future__ import annotations

import pytest

from ipvsctl.errors import AlreadyExists, IpvsctlError, NotFound, Refused
from ipvsctl.host import Host
from ipvsctl.knowledge.schedulers import SCHEDULERS
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    ZeroCounters,
)
from ipvsctl.model.service import Service
from ipvsctl.model.status import NO_STATS, ServiceStatus
from tests.conformance.support import WEB, attempt, must, server, servers_of, service, state, web

KINDS = (
    service("tcp:192.0.2.1:80"),
    service("udp:192.0.2.1:80"),
    service("sctp:192.0.2.1:80"),
    service("tcp:192.0.2.1:443", "wlc", persistent=300),
    service("tcp:192.0.2.2:80", "wrr", persistent=1, netmask="255.255.255.0"),
    service("tcp:192.0.2.2:81", "wrr", persistent=2678400, netmask="255.0.255.0"),
    service("tcp:192.0.2.2:82", "wrr", netmask="255.255.0.0"),
    service("tcp:192.0.2.3:0", "lc", persistent=360),
    service("udp:192.0.2.3:53", "rr", "ops"),
    service("udp:192.0.2.3:5060", "rr", persistent=60, pe="sip"),
    service("tcp:192.0.2.4:1", "sh", "sh-port"),
    service("tcp:192.0.2.4:2", "sh", "sh-fallback", "sh-port"),
    service("tcp:192.0.2.4:3", "mh", "mh-port"),
    service("tcp:192.0.2.4:4", "mh", "mh-fallback"),
    service("tcp:192.0.2.4:5", "rr", "flag-1", "flag-2", "flag-3"),
    service("tcp:192.0.2.4:6", "rr", "ops"),
    service("tcp:192.0.2.4:7", "none"),
    service("tcp:192.0.2.4:65535"),
    service("tcp:224.0.0.1:80"),
    service("tcp:0.0.0.0:80"),
    service("tcp:[2001:db8::1]:80"),
    service("udp:[2001:db8::1]:80"),
    service("tcp:[2001:db8::1]:81", "wlc", persistent=300, netmask=64),
    service("tcp:[2001:db8::1]:82", "wlc", persistent=300, netmask=1),
    service("tcp:[2001:db8:0:0:1::1]:80"),
    service("tcp:[::102:304]:80"),
    service("tcp:[::ffff:102:304]:80"),
    service("fwmark:1"),
    service("fwmark:1/inet6"),
    service("fwmark:4294967295", "sh", "ops", "sh-port", persistent=300, netmask="255.255.255.128"),
)
LATER = {name for name, row in SCHEDULERS.items() if row.kernels}


def test_every_kind_reads_as_it_was_added(host: Host) -> None:
    assert host.ipvs.services() == []
    must(host, *map(AddService, KINDS))
    wanted = sorted((ServiceStatus(kind) for kind in KINDS), key=lambda status: status.service.address.sort_key)
    assert host.ipvs.services() == wanted
    assert [host.ipvs.service(status.service.address) for status in wanted] == wanted
    must(host, *map(DeleteService, KINDS))
    assert host.ipvs.services() == []


def test_every_scheduler(host: Host) -> None:
    names = [name for name in SCHEDULERS if name not in LATER]
    services = [service(f"tcp:192.0.2.1:{port}", name) for port, name in enumerate(names, 1)]
    must(host, *map(AddService, services))
    assert [status.service.scheduler for status in host.ipvs.services()] == names
    for name in names:
        assert host.modules.feature(f"ip_vs_{name}").state == "loaded"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (service("tcp:192.0.2.1:80"), service("tcp:192.0.2.1:80", "wlc")),
        (service("tcp:192.0.2.1:80"), service("tcp:192.0.2.1:80", persistent=300, netmask="255.255.255.0")),
        (service("tcp:192.0.2.1:80", persistent=300, netmask="255.255.255.0"), service("tcp:192.0.2.1:80")),
        (service("tcp:192.0.2.1:80", "sh", "sh-port", "sh-fallback"), service("tcp:192.0.2.1:80", "sh", "sh-port")),
        (service("tcp:192.0.2.1:80", "sh", "sh-port"), service("tcp:192.0.2.1:80", "rr", "flag-2")),
        (service("tcp:192.0.2.1:80", "rr"), service("tcp:192.0.2.1:80", "none")),
        (service("udp:192.0.2.1:80", "rr", persistent=60, pe="sip"), service("udp:192.0.2.1:80", persistent=60)),
        (service("udp:192.0.2.1:80", "rr"), service("udp:192.0.2.1:80", "rr", "ops", persistent=9, pe="sip")),
        (service("tcp:[2001:db8::1]:80", netmask=64), service("tcp:[2001:db8::1]:80", netmask=65)),
        (service("fwmark:7"), service("fwmark:7", "wrr", persistent=60)),
    ],
    ids=lambda value: f"{value.scheduler}-{value.address}",
)
def test_editing_replaces_every_setting(host: Host, before: Service, after: Service) -> None:
    real = server("10.0.2.2", "tun")
    must(host, AddService(before), AddServer(before.address, real))
    change = EditService(after, before)
    must(host, change)
    status = host.ipvs.service(before.address)
    assert status.service == after
    assert [each.server for each in status.servers] == [real]
    must(host, *change.inverse())
    assert host.ipvs.service(before.address).service == before


def test_deleting_takes_the_servers_along_and_its_inverse_brings_all_back(host: Host) -> None:
    web(host, *(server(f"10.0.2.{n}", weight=n) for n in range(1, 6)))
    before = host.ipvs.service(WEB)
    change = DeleteService(before.service, tuple(servers_of(host)))
    must(host, change)
    assert host.ipvs.services() == []
    must(host, AddService(before.service))
    assert servers_of(host) == []
    must(host, DeleteService(before.service), *change.inverse())
    assert host.ipvs.services() == [before]


def test_zeroing_changes_nothing_else(host: Host) -> None:
    web(host, server("10.0.2.2"))
    before = state(host)
    must(host, ZeroCounters(), ZeroCounters(WEB))
    assert state(host) == before
    assert host.ipvs.service(WEB).stats == NO_STATS


def test_a_service_that_is_not_there_is_not_found(host: Host) -> None:
    web(host)
    for text in ("tcp:192.0.2.1:81", "udp:192.0.2.1:80", "tcp:192.0.2.2:80", "fwmark:1", "tcp:[2001:db8::1]:80"):
        with pytest.raises(NotFound) as found:
            host.ipvs.service(ServiceAddress.parse(text))
        assert str(found.value) == f"there is no service {text}"


MISSING = service("tcp:192.0.2.9:80")
REFUSED: tuple[tuple[IpvsChange, type[IpvsctlError], str], ...] = (
    (AddService(service("tcp:192.0.2.1:80")), AlreadyExists, "the service exists already"),
    (AddService(service("tcp:192.0.2.1:80", "nosuch")), AlreadyExists, "the service exists already"),
    (AddService(service("tcp:192.0.2.9:80", "nosuch")), Refused, "no scheduler 'nosuch' here"),
    (AddService(service("tcp:192.0.2.9:80", "RR")), Refused, "no scheduler 'RR' here"),
    (AddService(service("tcp:192.0.2.9:80", "pe_sip")), Refused, "no scheduler 'pe_sip' here"),
    (AddService(service("tcp:192.0.2.9:80", "rr", pe="nosuch")), Refused, "or persistence engine 'nosuch' here"),
    (EditService(MISSING, MISSING), NotFound, "there is no such service"),
    (EditService(service("tcp:192.0.2.9:80", "nosuch"), MISSING), NotFound, "there is no such service"),
    (EditService(service("tcp:192.0.2.1:80", "nosuch"), MISSING), Refused, "no scheduler 'nosuch' here"),
    (EditService(service("tcp:192.0.2.1:80", "wlc", pe="nosuch"), MISSING), Refused, "engine 'nosuch' here"),
    (DeleteService(MISSING), NotFound, "there is no such service"),
    (ZeroCounters(MISSING.address), NotFound, "there is no such service"),
    (AddServer(MISSING.address, server("10.0.2.2")), NotFound, "there is no service tcp:192.0.2.9:80"),
    (EditServer(MISSING.address, server("10.0.2.2"), server("10.0.2.2")), NotFound, "there is no service"),
    (DeleteServer(MISSING.address, server("10.0.2.2")), NotFound, "there is no service tcp:192.0.2.9:80"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "error", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_change_nothing(host: Host, change: IpvsChange, error: type[IpvsctlError], words: str) -> None:
    web(host, server("10.0.2.2"))
    before = state(host)
    (failure,) = attempt(host, change)
    assert type(failure) is error
    assert str(failure).startswith(f"cannot {change}: ")
    assert words in str(failure)
    assert state(host) == before
