"""Uplinks as a plan: in the order that is safe, replaced where they are in each other's way, undone from any point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.errors import NotFound, PlanFailed
from ipvsctl.journal import FileJournal, Journals
from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    ROUTING_CHANGES,
    AddPolicyRule,
    AddRoute,
    AddServer,
    AddService,
    Change,
    DeletePolicyRule,
    DeleteRoute,
    ReplaceRules,
    SetSysctl,
)
from ipvsctl.model.director import Director, Found, ServiceWish, Uplink, Wanted
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.service import Server, Service
from ipvsctl.plan.difference import difference
from ipvsctl.plan.execute import execute, undo
from ipvsctl.plan.observe import observe, observe_all

VIP = ServiceAddress.parse("tcp:192.0.2.1:80")
ROUTE = Route("0.0.0.0/0", "eth0", "192.0.2.254", 101)
RULE = PolicyRule(INET, 1000, "192.0.2.1/32", table=101)
OTHER = Route("0.0.0.0/0", "eth1", "198.51.100.254", 102)
OTHER_RULE = PolicyRule(INET, 1001, "198.51.100.1/32", table=102)
DIRECTOR = Director(
    services=(ServiceWish(Service(VIP, "rr"), (Server(ServerAddress.parse("10.0.2.2", VIP), "nat"),)),),
    uplinks=(
        Uplink("192.0.2.1", "eth0", "192.0.2.254", 101),
        Uplink("198.51.100.1", "eth1", "198.51.100.254", 102),
        Uplink("2001:db8::1", "eth0", "fe80::1", 101),
    ),
)


def changes(wish: Wanted, found: Found, prune: bool = False) -> tuple[Change, ...]:
    return difference(wish, found, prune).changes


def test_routes_come_behind_what_protects_and_before_services() -> None:
    kinds = [type(change) for change in changes(wanted(DIRECTOR), Found())]
    first = kinds.index(AddRoute)
    assert kinds[first : first + 6] == [AddRoute] * 3 + [AddPolicyRule] * 3
    assert kinds[first + 6 :] == [AddService, AddServer]
    assert not set(kinds[:first]) & set(ROUTING_CHANGES)
    before = [kind for kind in kinds[:first] if kind in (ReplaceRules, SetSysctl)]
    assert before


def test_what_is_there_needs_nothing() -> None:
    found = Found(routes=(ROUTE, OTHER), policy=(RULE, OTHER_RULE))
    assert changes(Wanted(routes=(ROUTE, OTHER), policy=(RULE, OTHER_RULE)), found) == ()
    assert changes(Wanted(), found) == ()


def test_another_gateway_replaces_the_route_only() -> None:
    new = replace(ROUTE, via="192.0.2.253")
    found = Found(routes=(ROUTE, OTHER), policy=(RULE, OTHER_RULE))
    assert changes(Wanted(routes=(new, OTHER), policy=(RULE, OTHER_RULE)), found) == (DeleteRoute(ROUTE), AddRoute(new))


def test_another_table_takes_the_old_one_away() -> None:
    """Its rule would be asked first, and nothing leads to its route any more."""
    route, rule = replace(ROUTE, table=7), replace(RULE, table=7)
    assert changes(Wanted(routes=(route,), policy=(rule,)), Found(routes=(ROUTE,), policy=(RULE,))) == (
        DeletePolicyRule(RULE), DeleteRoute(ROUTE), AddRoute(route), AddPolicyRule(rule),
    )  # fmt: skip


def test_a_table_that_another_rule_leads_to_keeps_its_route() -> None:
    rule, shared = replace(RULE, table=102), replace(OTHER_RULE, table=101)
    found = Found(routes=(ROUTE,), policy=(RULE, shared))
    assert changes(Wanted(routes=(OTHER,), policy=(rule,)), found) == (
        DeletePolicyRule(RULE), AddRoute(OTHER), AddPolicyRule(rule),
    )  # fmt: skip


def test_the_families_have_tables_of_their_own() -> None:
    route6, rule6 = Route("::/0", "eth0", "fe80::1", 101), PolicyRule(INET6, 1000, "2001:db8::1/128", table=101)
    found = Found(routes=(ROUTE, route6), policy=(RULE, rule6))
    moved = replace(ROUTE, table=7), replace(RULE, table=7)
    assert changes(Wanted(routes=moved[:1], policy=moved[1:]), found) == (
        DeletePolicyRule(RULE), DeleteRoute(ROUTE), AddRoute(moved[0]), AddPolicyRule(moved[1]),
    )  # fmt: skip


def test_only_prune_removes_an_uplink_that_is_not_named() -> None:
    found = Found(routes=(ROUTE, OTHER), policy=(RULE, OTHER_RULE))
    wish = Wanted(routes=(ROUTE,), policy=(RULE,))
    assert changes(wish, found) == ()
    assert changes(wish, found, prune=True) == (DeletePolicyRule(OTHER_RULE), DeleteRoute(OTHER))
    assert changes(Wanted(), found, prune=True) == (
        DeletePolicyRule(RULE), DeletePolicyRule(OTHER_RULE), DeleteRoute(ROUTE), DeleteRoute(OTHER),
    )  # fmt: skip


# -- run on a host ----------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedHost]:
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(tmp_path / "run"))
    made = EmulatedHost("plan")
    # The modules stay when everything else is undone, and bring their sysctls: have them from the start.
    for module in ("ip_vs", "nf_conntrack"):
        made.modules.load(module)
    yield made
    made.close()


def plan(host: EmulatedHost, director: Director = DIRECTOR, prune: bool = False) -> tuple[Change, ...]:
    wish = wanted(director)
    return difference(wish, observe(host, wish, prune=prune), prune).changes


def journal(host: EmulatedHost) -> FileJournal:
    return Journals(host.identity).open("apply uplinks.toml", apply=True)


def test_apply_and_roll_back(host: EmulatedHost) -> None:
    before = observe_all(host)
    execute(plan(host), host, journal(host))
    assert plan(host) == plan(host, prune=True) == ()
    assert len(host.routing.routes()) == len(host.routing.policy()) == 3
    (record,) = Journals(host.identity).to_roll_back()
    assert undo(record.undo, host) == []
    assert observe_all(host) == before
    assert undo(record.undo, host) == [], "an undo that was done is done"


def test_a_change_of_gateway_is_undone_to_the_old_one(host: EmulatedHost) -> None:
    execute(plan(host), host, journal(host))
    before = observe_all(host)
    uplinks = (replace(DIRECTOR.uplinks[0], gateway="192.0.2.253", table=9), *DIRECTOR.uplinks[1:])
    execute(plan(host, replace(DIRECTOR, uplinks=uplinks)), host, journal(host))
    assert "192.0.2.253" in {route.via for route in host.routing.routes()}
    assert undo(Journals(host.identity).to_roll_back()[0].undo, host) == []
    assert observe_all(host) == before


def test_a_device_that_is_not_there_leaves_nothing(host: EmulatedHost) -> None:
    before = observe_all(host)
    uplinks = (*DIRECTOR.uplinks[:2], replace(DIRECTOR.uplinks[2], device="eth9"))
    with pytest.raises(PlanFailed, match="there is no device eth9"):
        execute(plan(host, replace(DIRECTOR, uplinks=uplinks)), host, journal(host))
    assert observe_all(host) == before
    with pytest.raises(NotFound):
        Journals(host.identity).to_roll_back()


def test_a_single_change_keeps_the_hosts_own_error(host: EmulatedHost) -> None:
    with pytest.raises(NotFound, match="there is none of ours"):
        execute([DeleteRoute(ROUTE)], host, journal(host), whole=False)


def test_a_route_that_has_nowhere_to_come_back_to_is_named(host: EmulatedHost) -> None:
    execute([AddRoute(ROUTE)], host, journal(host))
    execute([DeleteRoute(ROUTE)], host, journal(host))
    del host.state.devices["eth0"]
    left = undo(Journals(host.identity).to_roll_back()[0].undo, host)
    assert left == ["cannot add route default via 192.0.2.254 dev eth0 table 101: there is no device eth0"]
