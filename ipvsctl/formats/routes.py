"""Routes and policy rules as plain dictionaries and back: `plan -j`, the journal, and the emulator's socket.

The keys are the words of a saved state's [[route]] and [[rule]], whose readers check what comes in.
"""

from __future__ import annotations

from typing import Any

from ipvsctl.errors import UsageError
from ipvsctl.formats.snapshot_values import TABLES
from ipvsctl.formats.values import Dict, strict
from ipvsctl.model.address import FAMILY_NAMES
from ipvsctl.model.route import PolicyRule, Route

_FAMILIES = {name: family for family, name in FAMILY_NAMES.items()}
_RULE_KEYS = {"source": "from", "destination": "to"}
_RULE_FIELDS = {key: name for name, key in _RULE_KEYS.items()}


def route_to_dict(route: Route) -> Dict:
    """What the route names; numbers that are 0 and texts that are empty are left out, but for the table."""
    data = {name: getattr(route, name) for name in ("destination", "device", "via", "kind", "source", "metric", "mtu")}
    return {name: value for name, value in data.items() if value} | {"table": route.table}


@strict
def route_from_dict(data: Any) -> Route:
    route = Route(**_read("[[route]]", data))
    families = {":" in text for text in (route.destination, route.via, route.source) if text}
    if len(families) > 1:
        raise UsageError("not a route: its addresses are of two families")
    return route


def policy_rule_to_dict(rule: PolicyRule) -> Dict:
    """What the rule names."""
    names = ("source", "destination", "mark", "mask", "in_device", "out_device")
    data = {_RULE_KEYS.get(name, name): value for name in names if (value := getattr(rule, name))}
    head = {"family": FAMILY_NAMES[rule.family], "priority": rule.priority, "action": rule.action}
    return head | data | {"table": rule.table}


@strict
def policy_rule_from_dict(data: Any) -> PolicyRule:
    got = {_RULE_FIELDS.get(key, key): value for key, value in _read("[[rule]]", data).items()}
    family = _FAMILIES[got.pop("family")]
    rule = PolicyRule(family, **got)
    if any((":" in text) != (FAMILY_NAMES[family] == "inet6") for text in (rule.source, rule.destination) if text):
        raise UsageError("not a policy rule: its addresses are not of its family")
    return rule


def _read(where: str, data: Any) -> Dict:
    readers = TABLES[where]
    return {key: readers[key](value) for key, value in dict(data).items()}
