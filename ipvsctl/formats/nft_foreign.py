"""The JSON of `nft -j list table` -> chains of others, for doctor: what is not understood is said to be so.

    {"rule": {"chain": "input", "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field":
    "dport"}}, "right": {"set": [22, {"range": [8000, 8100]}]}}}, {"accept": null}]}}

Source: libnftables-json(5).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from ipvsctl.errors import UsageError
from ipvsctl.model.foreign import Condition, ForeignChain, ForeignRule

_VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return", "continue": ""}
_HARMLESS = ("counter", "log", "mangle", "ct helper", "notrack", "meter", "set", "ct timeout", "ct expectation")
"""Statements that neither decide nor ask anything that decides."""
_META = {
    "iifname": "in-device",
    "oifname": "out-device",
    "iif": "in-device",
    "oif": "out-device",
    "l4proto": "protocol",
}
_PAYLOAD = {
    ("ip", "saddr"): "source", ("ip", "daddr"): "destination", ("ip6", "saddr"): "source",
    ("ip6", "daddr"): "destination", ("ip", "protocol"): "protocol", ("ip6", "nexthdr"): "protocol",
}  # fmt: skip
_PORTS = {"sport": "source-port", "dport": "destination-port"}
_TRANSPORTS = ("tcp", "udp", "sctp")


def parse(text: str) -> tuple[ForeignChain, ...]:
    """The chains of a listing with their rules; raises UsageError for what is not such a listing."""
    try:
        items = list(json.loads(text)["nftables"])
        rules: dict[tuple[str, str], list[ForeignRule]] = {}
        for item in items:
            if "rule" in item:
                data = item["rule"]
                rules.setdefault((_table(data), data["chain"]), []).extend(_rules(data["expr"]))
        return tuple(
            ForeignChain(
                _table(data), data["name"],
                data["hook"].upper() if data.get("type") == "filter" and "hook" in data else "",
                data.get("policy", "accept") if "hook" in data else "",
                tuple(rules.get((_table(data), data["name"]), ())),
            )
            for data in (item["chain"] for item in items if "chain" in item)
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"not a listing of nft: {type(error).__name__} {error}") from None


def _table(data: dict[str, Any]) -> str:
    return f"{data['family']} {data['table']}"


def _rules(expressions: list[dict[str, Any]]) -> Iterator[ForeignRule]:
    """One rule; a verdict map makes one of each of its elements."""
    conditions: list[Condition] = []
    for expression in expressions:
        ((name, body),) = expression.items()
        if name == "match":
            conditions += _match(body)
        elif name in _VERDICTS:
            yield ForeignRule(_VERDICTS[name], tuple(conditions))
            return
        elif name in ("jump", "goto"):
            yield ForeignRule(name, tuple(conditions), body["target"])
            return
        elif name == "vmap":
            yield from _map(body, conditions)
            return
        elif name not in _HARMLESS:
            # A limit, a queue, a set that is looked up: it may or may not be what decides.
            conditions.append(Condition(""))
            if name in ("queue", "xt", "dnat", "redirect", "tproxy", "synproxy"):
                yield ForeignRule("?", tuple(conditions))
                return


def _map(body: dict[str, Any], conditions: list[Condition]) -> Iterator[ForeignRule]:
    data = body["data"]
    if not isinstance(data, dict):
        yield ForeignRule("?", (*conditions, Condition("")))
        return
    for key, verdict in data["set"]:
        found = _match({"op": "==", "left": body["key"], "right": key})
        yield from (
            ForeignRule(each.verdict, (*conditions, *found, *each.conditions), each.target)
            for each in _rules([verdict])
        )


def _match(body: dict[str, Any]) -> list[Condition]:
    left, right, negated = body["left"], body["right"], body["op"] == "!="
    kind, implied = _kind(left)
    values = _values(right)
    if not kind or values is None or body["op"] not in ("==", "!=", "in"):
        return [*implied, Condition("")]
    return [*implied, Condition(kind, values, negated)]


def _kind(left: Any) -> tuple[str, list[Condition]]:
    """What is asked, and what asking it implies: who asks for a TCP port takes no UDP."""
    if not isinstance(left, dict):
        return "", []
    if "meta" in left:
        key = left["meta"]["key"]
        return ("family", []) if key == "nfproto" else (_META.get(key, ""), [])
    if "ct" in left:
        return ("state", []) if left["ct"] == {"key": "state"} else ("", [])
    payload = left.get("payload", {})
    protocol, field = payload.get("protocol", ""), payload.get("field", "")
    if field in _PORTS and protocol in (*_TRANSPORTS, "th"):
        return _PORTS[field], [Condition("protocol", ((protocol, protocol),))] if protocol != "th" else []
    family = {"ip": "ipv4", "ip6": "ipv6"}.get(protocol)
    implied = [Condition("family", ((family, family),))] if family else []
    return _PAYLOAD.get((protocol, field), ""), implied


def _values(right: Any) -> tuple[tuple[str, str], ...] | None:
    """Ranges of texts; None for what is not understood, as a named set."""
    if isinstance(right, bool):
        return None
    if isinstance(right, int):
        return ((str(right), str(right)),)
    if isinstance(right, str):
        return None if right.startswith("@") or "*" in right else ((right, right),)
    if isinstance(right, dict) and len(right) == 1:
        ((name, body),) = right.items()
        if name == "range":
            return ((str(body[0]), str(body[1])),)
        if name == "prefix":
            network = ip_network(f"{body['addr']}/{body['len']}", strict=False)
            return ((str(network[0]), str(network[-1])),)
        if name == "elem":
            return _values(body["val"])
        right = body if name == "set" else None
    if isinstance(right, list):
        parts = [_values(each) for each in right]
        found = [part for part in parts if part is not None]
        return tuple(pair for part in found for pair in part) if len(found) == len(parts) else None
    return None
