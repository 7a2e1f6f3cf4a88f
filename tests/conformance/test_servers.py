"""Real servers: every kind, their order, edited, deleted, and every refusal."""

from __future__ import annotations

import pytest

from ipvsctl.errors import AlreadyExists, IpvsctlError, NotFound, Refused
from ipvsctl.host import Host
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import AddServer, AddService, DeleteServer, EditServer, IpvsChange
from ipvsctl.model.service import INT_MAX, TUNNEL_CHECKSUMS, Server, Service, Tunnel
from tests.conformance.support import WEB, WEB6, attempt, must, server, servers_of, service, state, web

KINDS = (
    server("10.0.2.2"),
    server("10.0.2.2:8080"),
    server("10.0.2.2:0"),
    server("10.0.2.3", "dr", 0),
    server("10.0.2.4", "tun", INT_MAX),
    server("10.0.2.5", "local"),
    server("10.0.2.6", "bypass"),
    server("10.0.2.7", upper=100, lower=10),
    server("10.0.2.8", upper=5, lower=5),
    server("10.0.2.9", upper=INT_MAX, lower=INT_MAX),
    server("10.0.3.1", "tun", tunnel=Tunnel("gue", 6080)),
    server("10.0.3.2", "tun", tunnel=Tunnel("gue", 65535, "yes")),
    server("10.0.3.3", "tun", tunnel=Tunnel("gue", 1, "remote")),
    server("10.0.3.4", "tun", tunnel=Tunnel("gre")),
    server("10.0.3.5", "tun", tunnel=Tunnel("gre", csum="yes")),
    server("[2001:db8::2]:80", "tun"),
    server("[2001:db8::3]:80", "tun", tunnel=Tunnel("gue", 6080, "remote")),
    server("[::102:304]:80", "tun"),
    server("127.0.0.1"),
    server("169.254.1.1"),
    server("240.0.0.1"),
    server("0.0.0.1"),
)


def test_every_kind_reads_as_it_was_added(host: Host) -> None:
    web(host, *KINDS)
    assert servers_of(host) == list(reversed(KINDS))
    assert host.ipvs.services() == [host.ipvs.service(WEB)]
    must(host, *(DeleteServer(WEB, each) for each in KINDS))
    assert servers_of(host) == []


def test_servers_of_an_ipv6_service_and_of_a_mark(host: Host) -> None:
    mark, mark6 = ServiceAddress.of_mark(7), ServiceAddress.of_mark(7, WEB6.family)
    kinds = [server("[2001:db8::2]:80"), server("[2001:db8::2]:81", "dr"), server("10.0.2.2", "tun")]
    for address in (WEB6, mark6):
        web(host, *kinds, address=address)
        assert servers_of(host, address) == list(reversed(kinds))
    web(host, server("10.0.2.2:0", "dr"), address=mark)
    assert servers_of(host, mark) == [server("10.0.2.2:0", "dr")]


def test_order_new_servers_come_first_and_edited_ones_stay(host: Host) -> None:
    a, b, c = (server(f"10.0.2.{n}") for n in (2, 3, 4))
    web(host, a, b, c)
    assert servers_of(host) == [c, b, a]
    heavy = server("10.0.2.3", "dr", 5)
    must(host, EditServer(WEB, heavy, b))
    assert servers_of(host) == [c, heavy, a]
    must(host, DeleteServer(WEB, a), AddServer(WEB, a))
    assert servers_of(host) == [a, c, heavy]
    must(host, DeleteServer(WEB, c))
    assert servers_of(host) == [a, heavy]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (server("10.0.2.2"), server("10.0.2.2", "dr", 7, upper=10, lower=5)),
        (server("10.0.2.2", upper=10, lower=5), server("10.0.2.2")),
        (server("10.0.2.2", "tun", tunnel=Tunnel("gue", 6080, "yes")), server("10.0.2.2", "tun")),
        (server("10.0.2.2", "tun", tunnel=Tunnel("gue", 6080)), server("10.0.2.2", "tun", tunnel=Tunnel("gre"))),
        (server("10.0.2.2", "tun", tunnel=Tunnel("gre")), server("10.0.2.2")),
        (server("[2001:db8::2]:80", "tun"), server("[2001:db8::2]:80", "tun", 0)),
    ],
    ids=str,
)
def test_editing_replaces_every_setting(host: Host, before: Server, after: Server) -> None:
    web(host, server("10.0.2.9"), before, server("10.0.2.10"))
    change = EditServer(WEB, after, before)
    must(host, change)
    assert servers_of(host) == [server("10.0.2.10"), after, server("10.0.2.9")]
    must(host, *change.inverse())
    assert servers_of(host) == [server("10.0.2.10"), before, server("10.0.2.9")]


UNICAST = {
    "10.0.2.2": True, "127.0.0.1": True, "127.255.255.254": True, "128.0.0.0": True, "223.255.255.255": True,
    "240.0.0.0": True, "255.255.255.254": True, "0.0.0.1": True, "192.0.2.255": True, "127.0.0.0": True,
    "0.0.0.0": False, "255.255.255.255": False, "224.0.0.0": False, "239.255.255.255": False,
    "127.255.255.255": False,
    "2001:db8::2": True, "::1": True, "::2": True, "::102:304": True, "fec0::1": True, "fc00::1": True,
    "100::1": True, "4000::1": True, "e000::1": True, "febf::1": False, "fe80::1": False, "::": False,
    "::ffff:102:304": False, "ff02::1": False, "ffff::1": False, "64:ff9b::1": True, "fe00::1": True,
}  # fmt: skip


def test_only_unicast_addresses_are_servers(host: Host) -> None:
    must(host, AddService(Service(WEB, "rr")), AddService(Service(WEB6, "rr")))
    changes = [
        AddServer(WEB6 if ":" in text else WEB, server(f"[{text}]:80" if ":" in text else text)) for text in UNICAST
    ]
    outcome = attempt(host, *changes)
    taken = {str(change.server.address.address): error is None for change, error in zip(changes, outcome, strict=True)}
    assert taken == UNICAST
    for error in outcome:
        assert error is None or (type(error) is Refused and "not a unicast address" in str(error))


SIX = server("[2001:db8::2]:80")
THERE = server("10.0.2.2")
GONE = server("10.0.2.9")
REFUSED: tuple[tuple[IpvsChange, type[IpvsctlError], str], ...] = (
    (AddServer(WEB, THERE), AlreadyExists, "the server exists already in tcp:192.0.2.1:80"),
    (AddServer(WEB, server("10.0.2.2", "dr", 5)), AlreadyExists, "the server exists already"),
    (AddServer(WEB, server("224.0.0.1")), Refused, "not a unicast address"),
    (AddServer(WEB, SIX), Refused, "tunnel and family do not go together"),
    (AddServer(WEB, server("[2001:db8::2]:80", "dr")), Refused, "tunnel and family do not go together"),
    (AddServer(WEB6, THERE), Refused, "tunnel and family do not go together"),
    (EditServer(WEB, GONE, GONE), NotFound, "there is no such server in tcp:192.0.2.1:80"),
    (EditServer(WEB, server("10.0.2.2:81"), GONE), NotFound, "there is no such server"),
    (EditServer(WEB, SIX, SIX), Refused, "tunnel and family do not go together"),
    (EditServer(WEB, server("224.0.0.1"), GONE), NotFound, "there is no such server"),
    (DeleteServer(WEB, GONE), NotFound, "there is no such server in tcp:192.0.2.1:80"),
    (DeleteServer(WEB, server("10.0.2.2:0")), NotFound, "there is no such server"),
    (DeleteServer(WEB, SIX), NotFound, "there is no such server"),
)


@pytest.mark.parametrize(("change", "error", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_refusals_change_nothing(host: Host, change: IpvsChange, error: type[IpvsctlError], words: str) -> None:
    web(host, THERE)
    must(host, AddService(Service(WEB6, "rr")))
    before = state(host)
    (failure,) = attempt(host, change)
    assert type(failure) is error
    assert str(failure).startswith(f"cannot {change}: ")
    assert words in str(failure)
    assert state(host) == before


def test_a_failure_in_the_middle_of_a_batch_leaves_the_rest_done(host: Host) -> None:
    changes: list[IpvsChange] = [
        AddService(service("tcp:192.0.2.1:80")),
        AddServer(WEB, THERE),
        AddServer(WEB, THERE),
        AddService(service("tcp:192.0.2.2:80", "nosuch")),
        AddServer(WEB, GONE),
    ]
    kinds = [None if error is None else type(error) for error in attempt(host, *changes)]
    assert kinds == [None, None, AlreadyExists, Refused, None]
    assert servers_of(host) == [GONE, THERE]
    assert len(host.ipvs.services()) == 1


def test_a_long_batch_tells_exactly_what_was_done(host: Host) -> None:
    web(host, server("10.9.0.1"))
    changes = [AddServer(WEB, server(f"10.9.{n // 250}.{n % 250 + 1}")) for n in range(1500)]
    outcome = attempt(host, *changes)
    assert type(outcome[0]) is AlreadyExists
    done = [change.server for change, error in zip(changes, outcome, strict=True) if error is None]
    # A host may stop after a failure, but not before the messages that were under way with it.
    assert 100 < len(done) <= 1499
    assert servers_of(host) == [*reversed(done), server("10.9.0.1")]
    assert all(error is not None for error in outcome[len(done) + 1 :])


def test_an_empty_batch_is_none(host: Host) -> None:
    host.ipvs.apply([])
    assert host.ipvs.services() == []


def test_the_kinds_are_complete() -> None:
    assert {kind.forward for kind in KINDS} == {"nat", "dr", "tun", "local", "bypass"}
    assert {kind.tunnel and kind.tunnel.type for kind in KINDS} == {None, "gue", "gre"}
    assert {kind.tunnel.csum for kind in KINDS if kind.tunnel} == set(TUNNEL_CHECKSUMS)
