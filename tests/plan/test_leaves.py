"""What a plan leaves alone: own chains of which the file says nothing, source checks that are not strict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipvsctl.errors import NotPermitted, Unavailable
from ipvsctl.host import Host
from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.change import ReplaceRules, SetSysctl
from ipvsctl.model.director import Director, FirewallWish, Found, Nfct, Wanted
from ipvsctl.model.rule import OwnChain, Rule
from ipvsctl.plan.difference import difference
from ipvsctl.plan.observe import attainable

FIREWALL = wanted(Director(nfct=Nfct(True), firewall=FirewallWish(protect=("192.0.2.1",)))).chains or ()
TRACKING = Director(nfct=Nfct(True))
DEVICE, ALL = "net.ipv4.conf.eth1.rp_filter", "net.ipv4.conf.all.rp_filter"


def rules(want: Wanted, found: Found, prune: bool = False) -> list[tuple[str, ...]]:
    changes = difference(want, found, prune).changes
    return [tuple(chain.name for chain in each.after) for each in changes if isinstance(each, ReplaceRules)]


def test_a_file_without_a_firewall_leaves_the_firewall() -> None:
    found = Found(chains=FIREWALL)
    assert rules(wanted(TRACKING), found) == [
        ("IPVSCTL-FORWARD", "IPVSCTL-FORWARD-DROP", "IPVSCTL-INPUT", "IPVSCTL-TRACK")
    ]
    assert rules(wanted(TRACKING), found, prune=True) == [("IPVSCTL-TRACK",)]


def test_a_firewall_in_another_back_end_moves_when_it_is_left() -> None:
    found = Found(backend="nft", elsewhere=(("iptables-legacy", FIREWALL),))
    names = ("IPVSCTL-FORWARD", "IPVSCTL-FORWARD-DROP", "IPVSCTL-INPUT", "IPVSCTL-TRACK")
    assert rules(wanted(TRACKING), found) == [names, ()]


def test_a_chain_that_is_wanted_is_not_left_as_it_is() -> None:
    old = (OwnChain(2, "filter", "IPVSCTL-TRACK", "INPUT", (Rule("DROP"),)),)
    assert rules(wanted(TRACKING), Found(chains=old)) == [("IPVSCTL-TRACK",)]


@pytest.mark.parametrize(
    ("every", "own", "named", "changed"),
    [
        ("0", "0", {}, False), ("0", "1", {}, True), ("1", "0", {}, True), ("1", "1", {}, True), ("2", "1", {}, False),
        ("1", "2", {}, False), ("0", "0", {ALL: "1"}, True), ("1", "0", {ALL: "0"}, False),
    ],
)  # fmt: skip
def test_the_source_check_is_loosened_where_it_is_strict(
    every: str, own: str, named: dict[str, str], changed: bool
) -> None:
    want = Wanted(sysctls=tuple(named.items()), loosen=("eth1",))
    found = Found(sysctls={ALL: every, DEVICE: own})
    made = [each for each in difference(want, found).changes if isinstance(each, SetSysctl) and each.name == DEVICE]
    assert made == ([SetSysctl(DEVICE, "2", own)] if changed else [])


def host(error: Exception | None) -> Host:
    def backend(wanted: str) -> str:
        if error:
            raise error
        return "nft"

    return cast(Host, SimpleNamespace(firewall=SimpleNamespace(backend=backend)))


def test_a_rule_that_only_makes_the_kernel_track_is_no_must() -> None:
    want = wanted(TRACKING)
    assert attainable(host(None), want) == want
    without = attainable(host(Unavailable("no iptables here")), want)
    assert without.chains is None
    assert any("no iptables here" in note for note in without.notes)
    with pytest.raises(NotPermitted):
        attainable(host(NotPermitted("run as root")), want)


def test_other_rules_are_a_must() -> None:
    want: Any = wanted(Director(nfct=Nfct(True), firewall=FirewallWish(protect=("192.0.2.1",))))
    assert attainable(host(Unavailable("no iptables here")), want) is want
