"""Routes and policy rules of ours: what becomes of them, and what is refused in which words."""

from __future__ import annotations

import subprocess

import pytest

from ipvsctl.errors import AlreadyExists, IpvsctlError, NotFound, Refused
from ipvsctl.host import Host
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import AddPolicyRule, AddRoute, DeletePolicyRule, DeleteRoute, RoutingChange
from ipvsctl.model.route import PolicyRule, Route

FIRST = Route("0.0.0.0/0", "eth0", "192.0.2.254", 101)
SECOND = Route("0.0.0.0/0", "eth1", "198.51.100.254", 2**32 - 1)
FIRST6 = Route("::/0", "eth0", "2001:db8:1::ff", 101)
LINK6 = Route("::/0", "eth1", "fe80::1", 102)
ROUTES = (
    FIRST,
    SECOND,
    FIRST6,
    LINK6,
    Route("203.0.113.0/24", "eth0", "192.0.2.253", 101, metric=7, mtu=1400),
    Route("203.0.113.0/24", "eth1", "198.51.100.253", 101, metric=8, source="198.51.100.2"),
    Route("203.0.113.0/25", "eth1", table=254),
    Route("10.9.0.0/16", table=300, kind="blackhole"),
    Route("10.8.0.0/16", table=300, kind="unreachable"),
    Route("2001:db8:9::/48", "eth1", "2001:db8:2::ff", 70000, metric=5, mtu=1300),
    Route("2001:db8:a::/48", "eth0", "2001:db8:1::fe", 254),
)
POLICY = (
    PolicyRule(INET, 1000, "192.0.2.1", table=101),
    PolicyRule(INET, 1001, "198.51.100.1/32", table=2**32 - 1),
    PolicyRule(INET, 1001, "198.51.100.128/25", "203.0.113.0/24", table=101),
    PolicyRule(INET, 1002, mark=7, mask=0xFF, in_device="eth1", table=101),
    PolicyRule(INET, 1003, "192.0.2.2", out_device="eth0", action="prohibit"),
    PolicyRule(INET6, 1000, "2001:db8::1", table=101),
    PolicyRule(INET6, 1001, "2001:db8:5::/64", table=102),
)


@pytest.fixture
def router(host: Host) -> Host:
    """A director whose devices have networks; those of an emulated one have every neighbour."""
    if host.name == "kernel":
        # An address that is being checked for duplicates is none yet, and its network comes later.
        lines = [
            f"addr add {address} dev {device}{' nodad' if ':' in address else ''}"
            for device, address in (
                ("eth0", "192.0.2.2/24"), ("eth1", "198.51.100.2/24"),
                ("eth0", "2001:db8:1::2/64"), ("eth1", "2001:db8:2::2/64"),
            )
        ]  # fmt: skip
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    return host


def add(host: Host, *things: Route | PolicyRule) -> None:
    for thing in things:
        host.routing.apply(AddRoute(thing) if isinstance(thing, Route) else AddPolicyRule(thing))


def test_there_are_none_at_first(host: Host) -> None:
    assert host.routing.routes() == host.routing.policy() == ()


def test_what_is_made_is_told_and_taken_back(router: Host) -> None:
    add(router, *ROUTES, *POLICY)
    found = router.routing.routes()
    assert sorted(map(repr, found)) == sorted(map(repr, ROUTES))
    assert router.routing.policy() == POLICY
    assert found == tuple(sorted(found, key=lambda r: (":" in r.destination, r.table, r.destination, r.metric)))
    for route in ROUTES:
        router.routing.apply(DeleteRoute(route))
    for rule in POLICY:
        router.routing.apply(DeletePolicyRule(rule))
    assert router.routing.routes() == router.routing.policy() == ()


def test_inverses_bring_back_what_was(router: Host) -> None:
    add(router, FIRST, POLICY[0])
    for change in (DeletePolicyRule(POLICY[0]), DeleteRoute(FIRST)):
        router.routing.apply(change)
        (back,) = change.inverse()
        assert isinstance(back, AddRoute | AddPolicyRule)
        router.routing.apply(back)
    assert (router.routing.routes(), router.routing.policy()) == ((FIRST,), (POLICY[0],))


def refused(host: Host, change: RoutingChange) -> IpvsctlError:
    before = host.routing.routes(), host.routing.policy()
    with pytest.raises(IpvsctlError) as caught:
        host.routing.apply(change)
    assert (host.routing.routes(), host.routing.policy()) == before
    return caught.value


def test_refusals(router: Host) -> None:
    add(router, FIRST, FIRST6, POLICY[0])
    for change, error, words in (
        (AddRoute(FIRST), AlreadyExists, "table 101 has a route to 0.0.0.0/0 already"),
        (AddRoute(Route("0.0.0.0/0", "eth1", "198.51.100.254", 101)), AlreadyExists, "table 101 has a route to"),
        (AddRoute(FIRST6), AlreadyExists, "table 101 has a route to ::/0 already"),
        (AddPolicyRule(POLICY[0]), AlreadyExists, "it is there already"),
        (AddRoute(Route("0.0.0.0/0", "eth9", "192.0.2.254", 7)), NotFound, "there is no device eth9"),
        (AddRoute(Route("::/0", "eth9", "fe80::1", 7)), NotFound, "there is no device eth9"),
        (AddRoute(Route("0.0.0.0/0", "lo", "192.0.2.254", 7)), Refused, "no network on lo has 192.0.2.254"),
        (AddRoute(Route("::/0", "lo", "2001:db8:1::ff", 7)), Refused, "no network on lo has 2001:db8:1::ff"),
        (AddRoute(Route("::/0", "eth0", "::1", 7)), Refused, "the kernel calls it invalid"),
        (DeleteRoute(SECOND), NotFound, "there is none of ours"),
        (DeleteRoute(Route("0.0.0.0/0", "eth0", "192.0.2.253", 101)), NotFound, "there is none of ours"),
        (DeleteRoute(Route("0.0.0.0/0", "eth0", "192.0.2.254", 102)), NotFound, "there is none of ours"),
        (DeleteRoute(Route("::/0", "eth0", "2001:db8:1::ff", 101, metric=9)), NotFound, "there is none of ours"),
        (DeleteRoute(Route("0.0.0.0/0", "eth9", "192.0.2.254", 101)), NotFound, "eth9"),
        (DeletePolicyRule(POLICY[1]), NotFound, "there is none of ours"),
        (DeletePolicyRule(PolicyRule(INET, 1001, "192.0.2.1", table=101)), NotFound, "there is none of ours"),
    ):  # fmt: skip
        found = refused(router, change)
        assert (type(found), str(found).startswith(f"cannot {change}: ")) == (error, True), found
        assert words in str(found)


def test_words(host: Host) -> None:
    """A change reads as ip(8) would be told it."""
    assert str(AddRoute(FIRST)) == "add route default via 192.0.2.254 dev eth0 table 101"
    assert str(DeleteRoute(ROUTES[7])) == "delete route blackhole 10.9.0.0/16 table 300"
    assert str(AddPolicyRule(POLICY[0])) == "add policy rule from 192.0.2.1 lookup 101 priority 1000"
    assert str(DeletePolicyRule(POLICY[3])) == (
        "delete policy rule from all fwmark 0x7/0xff iif eth1 lookup 101 priority 1002"
    )
