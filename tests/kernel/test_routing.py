"""Our routes and policy rules in a real network namespace, beside those of others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipvsctl.errors import AlreadyExists, NotFound, NotPermitted, Refused
from ipvsctl.kernel import routes
from ipvsctl.kernel.routing import KernelRouting
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import AddPolicyRule, AddRoute, DeletePolicyRule, DeleteRoute, RoutingChange
from ipvsctl.model.route import OUR_PROTOCOL, PolicyRule, Route
from tests.kernel.namespaces import as_nobody, fresh_namespace, run

DEVICES = """\
link set lo up
link add eth0 type veth peer name peer0
link add eth1 type veth peer name peer1
link set eth0 up
link set eth1 up
link set peer0 up
link set peer1 up
addr add 192.0.2.2/24 dev eth0
addr add 198.51.100.2/24 dev eth1
addr add 2001:db8:1::2/64 dev eth0 nodad
addr add 2001:db8:2::2/64 dev eth1 nodad
"""
ROUTE = Route("0.0.0.0/0", "eth0", "192.0.2.254", 101)
ROUTE6 = Route("::/0", "eth1", "fe80::7", 102)
RULE = PolicyRule(INET, 1000, "192.0.2.1", table=101)
RULE6 = PolicyRule(INET6, 1001, "2001:db8:5::/64", table=102)
OURS: tuple[RoutingChange, ...] = (AddRoute(ROUTE), AddRoute(ROUTE6), AddPolicyRule(RULE), AddPolicyRule(RULE6))


@pytest.fixture
def routing() -> Iterator[KernelRouting]:
    with fresh_namespace():
        run("ip -batch -", DEVICES)
        yield KernelRouting()


def everything() -> str:
    """Rules and routes of both families, but for what comes by itself once a device's other end is up."""
    text = "".join(run(f"ip {family} {words}") for family in ("-4", "-6") for words in ("rule", "route show table all"))
    late = ("fe80::/64", "local fe80::", "multicast ff00::/8")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(late))


def refused(routing: KernelRouting, change: RoutingChange) -> Exception:
    with pytest.raises((NotFound, AlreadyExists, Refused, NotPermitted)) as caught:
        routing.apply(change)
    return caught.value


def test_what_others_made_is_neither_told_nor_touched(routing: KernelRouting) -> None:
    for words in (
        "route add default via 192.0.2.254 dev eth0 table 101", "rule add from 192.0.2.1 lookup 101 priority 1000",
        "-6 route add default via fe80::7 dev eth1 table 102",
        "-6 rule add from 2001:db8:5::/64 lookup 102 priority 1001",
        "route add 10.1.0.0/16 nexthop via 192.0.2.254 nexthop via 198.51.100.254",
        "rule add not from 10.0.0.1 priority 5",
    ):  # fmt: skip
        run(f"ip {words}")
    before = everything()
    assert routing.routes() == routing.policy() == ()
    for change in OURS:
        (deletion,) = change.inverse()
        assert isinstance(deletion, DeleteRoute | DeletePolicyRule)
        assert type(refused(routing, deletion)) is NotFound
    # A route is there once; a rule of ours stands beside one of somebody else's, and goes without it.
    assert [type(refused(routing, change)) for change in OURS[:2]] == [AlreadyExists] * 2
    for change in OURS[2:]:
        routing.apply(change)
    assert routing.policy() == (RULE, RULE6)
    assert everything().count(f"proto {OUR_PROTOCOL}") == 2
    for rule in (RULE, RULE6):
        routing.apply(DeletePolicyRule(rule))
    assert everything() == before


def test_ours_come_and_go_without_a_trace(routing: KernelRouting) -> None:
    before = everything()
    for change in OURS:
        routing.apply(change)
    assert everything().count(f"proto {OUR_PROTOCOL}") == 4
    # A snapshot of the host has ours and everybody's.
    assert {ROUTE, Route("::/0", "eth1", "fe80::7", 102, metric=1024)} <= set(routes.routes())
    assert set(routes.policy()) == {RULE, RULE6}
    for change in reversed(OURS):
        (deletion,) = change.inverse()
        assert isinstance(deletion, DeleteRoute | DeletePolicyRule)
        routing.apply(deletion)
    assert everything() == before


def test_a_device_that_is_down(routing: KernelRouting) -> None:
    first6 = Route("::/0", "eth0", "2001:db8:1::ff", 101)
    for route in (ROUTE, first6):
        routing.apply(AddRoute(route))
    run("ip link set eth0 down")
    assert routing.routes() == ()
    for route in (ROUTE, first6):
        found = refused(routing, AddRoute(route))
        assert (type(found), str(found).endswith("eth0 is down: `ip link set eth0 up`")) == (Refused, True), found
        assert type(refused(routing, DeleteRoute(route))) is NotFound


def test_ipv6_that_is_turned_off(routing: KernelRouting) -> None:
    run("sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1")
    found = refused(routing, AddRoute(ROUTE6))
    assert (type(found), str(found).endswith("IPv6 is turned off on eth1")) == (Refused, True), found


def test_nobody_may_look_but_not_change(routing: KernelRouting) -> None:
    routing.apply(AddRoute(ROUTE))
    routing.apply(AddPolicyRule(RULE))
    with as_nobody():
        assert (routing.routes(), routing.policy()) == ((ROUTE,), (RULE,))
        for change in (AddRoute(ROUTE6), DeleteRoute(ROUTE), AddPolicyRule(RULE6), DeletePolicyRule(RULE)):
            found = refused(routing, change)
            assert (type(found), "needs CAP_NET_ADMIN" in str(found)) == (NotPermitted, True), found
