"""Our chains of nftables as `nft list table` prints them, without what was counted: `nft -f` takes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ipvsctl.formats.nft_table import FAMILIES, TABLE, Listing, transaction
from ipvsctl.model.rule import OwnChain

_OPERATORS = ("&", "|", "^")


def render(chains: Iterable[OwnChain]) -> list[str]:
    """The lines of our table of every family that has chains; raises Refused for a rule that nftables cannot say."""
    given = list(chains)
    lines: list[str] = []
    for family, name in FAMILIES.items():
        tables = sorted({chain.table for chain in given if chain.family == family})
        if tables:
            lines += [f"table {name} {TABLE} {{", *_body(family, tables, given), "}"]
    return lines


def _body(family: int, tables: list[str], given: list[OwnChain]) -> Iterator[str]:
    helpers: dict[str, dict[str, Any]] = {}
    chains: dict[str, dict[str, Any]] = {}
    rules: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        own = tuple(chain for chain in given if (chain.family, chain.table) == (family, table))
        for command in transaction(Listing(family), table, own):
            ((kind, body),) = command.get("add", {}).items()
            if kind == "ct helper":
                helpers[body["name"]] = body
            elif kind == "chain":
                chains[body["name"]] = body
            elif kind == "rule":
                rules.setdefault(body["chain"], []).append(body)
    for name, body in helpers.items():
        yield f"\tct helper {name} {{"
        yield f'\t\ttype "{body["type"]}" protocol {body["protocol"]}'
        yield f"\t\tl3proto {body['l3proto']}"
        yield "\t}"
    # A chain comes before the first rule that jumps to it.
    for name, body in sorted(chains.items(), key=lambda item: "hook" in item[1]):
        yield f"\tchain {name} {{"
        if "hook" in body:
            hooked = f"type {body['type']} hook {body['hook']} priority {body['prio']}"
            yield f"\t\t{hooked}; policy {body['policy']};"
        for rule in rules.get(name, ()):
            words = [_statement(family, each) for each in rule["expr"]]
            if comment := rule.get("comment"):
                words.append(f'comment "{comment}"')
            yield f"\t\t{' '.join(words)}"
        yield "\t}"


def _statement(family: int, statement: dict[str, Any]) -> str:
    ((kind, body),) = statement.items()
    match kind:
        case "match":
            left, right = _left(body["left"]), _right(body["left"], body["right"])
            return f"{left} != {right}" if body["op"] == "!=" else f"{left} {'== ' * ('&' in body['left'])}{right}"
        case "limit":
            return f"limit rate {body['rate']}/{body['per']} burst {body['burst']} packets"
        case "jump":
            return f"jump {body['target']}"
        case "mangle":
            return f"{_left(body['key'])} set {_value(body['value'])}"
        case "ct helper":
            return f'ct helper set "{body}"'
        case "reject":
            answer = body["type"] if body["type"] == "tcp reset" else f"{body['type']} {body['expr']}"
            return f"reject with {answer}"
        case "log":
            return " ".join(["log", *_log(body or {})])
        case "counter" | "accept" | "drop" | "return" | "notrack":
            return kind
    return f"# {json.dumps(statement)}"


def _left(left: dict[str, Any]) -> str:
    ((kind, body),) = left.items()
    match kind:
        case "&":
            mask = body[1]
            return f"{_left(body[0])} & {_word(mask) if not isinstance(mask, dict) else '(' + _bits(mask) + ')'}"
        case "payload":
            return f"{body['protocol']} {body['field']}"
        case "meta":
            return str(body["key"]) if body["key"] in ("iifname", "oifname") else f"meta {body['key']}"
        case "fib":
            return f"fib {' . '.join(body['flags'])} type"
    return f"ct {body['key']}"


def _right(left: dict[str, Any], right: Any) -> str:
    key = left.get("meta", left.get("ct", {})).get("key", "")
    if key in ("iifname", "oifname", "helper"):
        return f'"{right}"'
    if isinstance(right, int) and (key == "mark" or "&" in left):
        return f"{right:#010x}"
    return _word(right)


def _word(value: Any) -> str:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [low, high]}:
            return f"{low}-{high}"
        case {"set": members}:
            return f"{{ {', '.join(map(_word, members))} }}"
        case {"|": _}:
            return _bits(value)
        case [*members]:
            return ",".join(map(str, members))
        case int() if value > 0xFFFF:
            return f"{value:#010x}"
    return str(value)


def _bits(value: Any) -> str:
    return " | ".join(map(_bits, value["|"])) if isinstance(value, dict) else str(value)


def _value(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:#010x}"
    ((kind, body),) = value.items()
    if kind in _OPERATORS:
        return f"{_value(body[0])} {kind} {_value(body[1])}"
    return _left(value)


def _log(body: dict[str, Any]) -> Iterator[str]:
    if "prefix" in body:
        yield f'prefix "{body["prefix"]}"'
    if "level" in body:
        yield f"level {body['level']}"
    for flag in body.get("flags", []):
        yield f"flags {flag}"
