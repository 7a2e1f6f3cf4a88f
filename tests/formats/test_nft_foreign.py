"""Tables of nftables that others made, as far as doctor understands them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ipvsctl.errors import UsageError
from ipvsctl.formats.nft_foreign import parse
from ipvsctl.model.foreign import Condition, ForeignChain, ForeignRule

TCP = Condition("protocol", (("tcp", "tcp"),))
V4 = Condition("family", (("ipv4", "ipv4"),))


def listed(*items: dict[str, Any]) -> tuple[ForeignChain, ...]:
    return parse(json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *items]}))


def rules(*expressions: dict[str, Any]) -> tuple[ForeignRule, ...]:
    chain = {"family": "inet", "table": "fw", "name": "c", "handle": 1}
    rule = {"family": "inet", "table": "fw", "chain": "c", "handle": 2, "expr": list(expressions)}
    (found,) = listed({"table": {"family": "inet", "name": "fw"}}, {"chain": chain}, {"rule": rule})
    assert (found.table, found.name, found.hook, found.policy) == ("inet fw", "c", "", "")
    return found.rules


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


@pytest.mark.parametrize(("expression", "conditions"), [
    (match(payload("tcp", "dport"), 80), (TCP, Condition("destination-port", (("80", "80"),)))),
    (match(payload("th", "sport"), {"set": [1, {"range": [5, 9]}]}), (
        Condition("source-port", (("1", "1"), ("5", "9"))),)),
    (match(payload("ip", "saddr"), {"prefix": {"addr": "10.0.0.0", "len": 24}}, "!="), (
        V4, Condition("source", (("10.0.0.0", "10.0.0.255"),), True))),
    (match(payload("ip", "daddr"), {"set": [{"elem": {"val": "10.0.0.1", "comment": "x"}}]}), (
        V4, Condition("destination", (("10.0.0.1", "10.0.0.1"),)))),
    (match(payload("ip6", "nexthdr"), "udp"), (
        Condition("family", (("ipv6", "ipv6"),)), Condition("protocol", (("udp", "udp"),)))),
    (match({"meta": {"key": "iifname"}}, "eth0"), (Condition("in-device", (("eth0", "eth0"),)),)),
    (match({"ct": {"key": "state"}}, ["new", "invalid"], "in"), (
        Condition("state", (("new", "new"), ("invalid", "invalid"))),)),
    # What is not understood
    (match(payload("tcp", "dport"), "@web"), (TCP, Condition(""))),
    (match(payload("tcp", "flags"), "syn"), (Condition(""),)),
    (match({"meta": {"key": "mark"}}, 7), (Condition(""),)),
    (match({"meta": {"key": "iifname"}}, "eth*"), (Condition(""),)),
    (match({"ct": {"key": "mark"}}, 7), (Condition(""),)),
    (match({"&": [{"meta": {"key": "mark"}}, 1]}, 1), (Condition(""),)),
    (match(payload("tcp", "dport"), 80, "<"), (TCP, Condition(""))),
    ({"limit": {"rate": 5, "per": "second"}}, (Condition(""),)),
    ({"counter": {"packets": 0, "bytes": 0}}, ()),
])  # fmt: skip
def test_conditions(expression: dict[str, Any], conditions: tuple[Condition, ...]) -> None:
    assert rules(expression, {"accept": None}) == (ForeignRule("accept", conditions),)


@pytest.mark.parametrize(("expression", "rule"), [
    ({"drop": None}, ForeignRule("drop")),
    ({"reject": {"type": "tcp reset"}}, ForeignRule("drop")),
    ({"return": None}, ForeignRule("return")),
    ({"jump": {"target": "x"}}, ForeignRule("jump", target="x")),
    ({"goto": {"target": "x"}}, ForeignRule("goto", target="x")),
    ({"queue": {"num": 0}}, ForeignRule("?", (Condition(""),))),
    ({"xt": {"type": "target", "name": "X"}}, ForeignRule("?", (Condition(""),))),
    ({"vmap": {"key": {"ct": {"key": "state"}}, "data": "@map"}}, ForeignRule("?", (Condition(""),))),
])  # fmt: skip
def test_verdicts(expression: dict[str, Any], rule: ForeignRule) -> None:
    assert rules(expression) == (rule,)


def test_a_rule_that_decides_nothing_is_none() -> None:
    assert rules({"counter": {"packets": 0, "bytes": 0}}, {"log": {"prefix": "x"}}) == ()


def test_a_map_of_verdicts() -> None:
    pairs = [["invalid", {"drop": None}], [{"set": ["new"]}, {"jump": {"target": "x"}}]]
    found = rules({"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": pairs}}})
    assert [(each.verdict, each.target) for each in found] == [("drop", ""), ("jump", "x")]
    assert found[0].conditions == (Condition("state", (("invalid", "invalid"),)),)


def test_base_chains() -> None:
    base = {"family": "ip6", "table": "fw", "name": "in", "type": "filter", "hook": "input", "policy": "drop"}
    nat = base | {"name": "pre", "type": "nat", "hook": "prerouting", "policy": "accept"}
    first, second = listed({"chain": base}, {"chain": nat})
    assert (first.hook, first.policy) == ("INPUT", "drop")
    assert second.hook == ""


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": [{"rule": {}}]}', '{"nftables": [{"chain": 3}]}'])
def test_what_is_no_listing(text: str) -> None:
    with pytest.raises(UsageError, match="not a listing of nft"):
        parse(text)
