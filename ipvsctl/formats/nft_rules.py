"""Rules in iptables' words as nftables' expressions, and back.

Every rule that is written counts. What is read is the rule in iptables-save's words where all its expressions are known
here; else one match "nft" with the option "raw", the expressions as they are: it differs from every rule that ipvsctl
makes, and an undo puts it back.

Several rules of iptables may be one in nftables (`-m state` and `-m conntrack`, the order of multiport's ports). A rule
that would read as another one carries its own words in its comment, "ipvsctl: ...". They count only while the
expressions are those that the words would be written as.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ipvsctl.errors import Refused, UsageError
from ipvsctl.formats.iptables_canonical import canonical, value_and_mask
from ipvsctl.formats.iptables_rule import RuleReader
from ipvsctl.formats.iptables_save import rule_text
from ipvsctl.formats.iptables_words import split
from ipvsctl.formats.nft_matches import FULL, Expression, Reading, Unsaid, cannot, header, options_text, write
from ipvsctl.model.address import INET6
from ipvsctl.model.rule import CHAIN_PREFIX, Match, Options, Rule
from ipvsctl.model.snapshot import SavedRule

WORDS = "ipvsctl: "
"""How a comment begins that carries a rule's own words."""

LONGEST_COMMENT = 127
"""Characters (NFTNL_UDATA_COMMENT_MAXLEN, less the NUL)."""

_REJECTS = {
    "icmp-net-unreachable": "net-unreachable", "icmp-host-unreachable": "host-unreachable",
    "icmp-proto-unreachable": "prot-unreachable", "icmp-port-unreachable": "port-unreachable",
    "icmp-net-prohibited": "net-prohibited", "icmp-host-prohibited": "host-prohibited",
    "icmp-admin-prohibited": "admin-prohibited",
}  # fmt: skip
_REJECTS6 = {
    "icmp6-no-route": "no-route", "icmp6-adm-prohibited": "admin-prohibited",
    "icmp6-addr-unreachable": "addr-unreachable", "icmp6-port-unreachable": "port-unreachable",
    "icmp6-policy-fail": "policy-fail", "icmp6-reject-route": "reject-route",
}  # fmt: skip
_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_LOG_FLAGS = {
    "log-tcp-sequence": "tcp sequence", "log-tcp-options": "tcp options", "log-ip-options": "ip options",
    "log-uid": "skuid",
}  # fmt: skip
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "RETURN": "return"}
_TABLES = {"CT": "raw", "NOTRACK": "raw", "REJECT": "filter"}
"""Targets that iptables has in one table only."""

_COUNTER: Expression = {"counter": None}


def helper_object(helper: str, protocol: str) -> str:
    """The name of the object that gives a connection its helper."""
    return f"{helper}-{protocol}"


def needs_tracking(rule: Rule) -> bool:
    """Whether a rule of table raw has to come after connection tracking, which gives a packet its entry."""
    return rule.target == "CT" and any(name == "helper" for name, _ in rule.target_options)


def helpers(rules: tuple[Rule, ...]) -> Iterator[tuple[str, str]]:
    """Helpers and protocols that rules name."""
    for rule in rules:
        if rule.target == "CT" and (helper := dict(rule.target_options).get("helper")):
            yield helper, rule.protocol


@lru_cache(maxsize=4096)
def written(family: int, table: str, rule: Rule) -> tuple[str, str]:
    """A rule's expressions as JSON, and its comment; `rule` in iptables-save's words. Raises Refused."""
    try:
        expressions, comment = _written(family, table, rule)
    except Refused as error:
        raise Refused(f"rule {rule}: {error}") from None
    return json.dumps(expressions), comment


def _written(family: int, table: str, rule: Rule) -> tuple[list[Expression], str]:
    if rule.matches[:1] and rule.matches[0].name == "nft":
        raw = json.loads(dict(rule.matches[0].options)["raw"])
        return list(raw["expr"]), str(raw["comment"])
    expressions = _expressions(family, table, rule)
    found = _decoded(family, table, expressions)
    comments = [value for match in rule.matches if match.name == "comment" for _, value in match.options]
    if found == rule:
        return expressions, ""
    if len(comments) == 1 and not comments[0].startswith(WORDS) and _commented(found, comments[0]) == rule:
        comment = comments[0]
    else:
        words = rule_text(family, SavedRule(rule))
        comment = WORDS + words.replace('"', "'")
        if "'" in words or "\\" in words:
            raise cannot(f"{words}, as it is written")
    if len(comment.encode()) > LONGEST_COMMENT or '"' in comment:
        raise cannot(f"a comment of more than {LONGEST_COMMENT} characters or with quotation marks: {comment}")
    return expressions, comment


def read(family: int, table: str, expressions: list[Expression], comment: str) -> Rule:
    """The rule that expressions and a comment are."""
    try:
        found = _decoded(family, table, expressions)
    except (Unsaid, LookupError, TypeError, ValueError, AttributeError, Refused, UsageError):
        kept = [{"counter": None} if "counter" in each else each for each in expressions]
        return Rule("", matches=(Match("nft", (("raw", json.dumps({"expr": kept, "comment": comment})),)),))
    if comment.startswith(WORDS) and (rule := _carried(family, table, comment[len(WORDS) :], found)) is not None:
        return rule
    return _commented(found, comment)


def _carried(family: int, table: str, words: str, found: Rule) -> Rule | None:
    """The rule that a comment's words say, when it is written as the one that was found."""
    try:
        (saved,) = RuleReader(family, split(words.replace("'", '"'))).read()
        rule = canonical(family, saved.rule)
        return rule if _decoded(family, table, _expressions(family, table, rule)) == found else None
    except (Unsaid, Refused, UsageError, ValueError):
        return None


def _commented(rule: Rule, comment: str) -> Rule:
    if not comment:
        return rule
    matches = (*rule.matches, Match("comment", (("comment", comment),)))
    return Rule(
        rule.target, rule.protocol, rule.source, rule.destination, rule.in_interface, rule.out_interface, matches,
        rule.target_options,
    )  # fmt: skip


# -- writing ----------------------------------------------------------------------------------------------------------


def _expressions(family: int, table: str, rule: Rule) -> list[Expression]:
    found = list(header(family, rule))
    for match in rule.matches:
        if match.name != "comment":
            found += write(family, rule, match)
    found.append(dict(_COUNTER))
    found += _target(family, table, rule)
    return found


def _target(family: int, table: str, rule: Rule) -> list[Expression]:
    target, options = rule.target, dict(rule.target_options)
    if not target:
        return []
    if target in _VERDICTS or target.startswith(CHAIN_PREFIX):
        if options:
            raise Refused(f"target {target} has no option --{next(iter(options))}")
        return [{_VERDICTS[target]: None} if target in _VERDICTS else {"jump": {"target": f"{table}.{target}"}}]
    if (only := _TABLES.get(target, table)) != table:
        raise Refused(f"target {target} is for table {only}")
    match target, sorted(options):
        case "MARK" | "CONNMARK", ["set-xmark"]:
            return [_set_mark({"meta" if target == "MARK" else "ct": {"key": "mark"}}, options["set-xmark"])]
        case "CONNMARK", ["save-mark"] | ["ctmask", "nfmask", "save-mark"]:
            if {value_and_mask(options.get(name, "0xffffffff"))[0] for name in ("nfmask", "ctmask")} == {FULL}:
                return [_mangle({"ct": {"key": "mark"}}, {"meta": {"key": "mark"}})]
        case "CONNMARK", ["restore-mark"] | ["ctmask", "nfmask", "restore-mark"]:
            if {value_and_mask(options.get(name, "0xffffffff"))[0] for name in ("nfmask", "ctmask")} == {FULL}:
                return [_mangle({"meta": {"key": "mark"}}, {"ct": {"key": "mark"}})]
        case "CT", ["helper"]:
            if rule.protocol not in ("tcp", "udp"):
                raise Refused(f"helper {options['helper']} needs -p tcp or -p udp")
            return [{"ct helper": helper_object(options["helper"], rule.protocol)}]
        case ("CT", ["notrack"]) | ("NOTRACK", []):
            return [{"notrack": None}]
        case "REJECT", ["reject-with"]:
            return [_reject(family, rule.protocol, options["reject-with"])]
        case "LOG", _:
            return [_log(options)]
    raise cannot(f"-j {target} {options_text(rule.target_options)}".rstrip())


def _mangle(key: Expression, value: Any) -> Expression:
    return {"mangle": {"key": key, "value": value}}


def _set_mark(key: Expression, text: str) -> Expression:
    """iptables: mark = (mark & ~mask) ^ value."""
    value, mask = value_and_mask(text)
    if mask == FULL:
        return _mangle(key, value)
    kept: Any = key if not mask else {"&": [key, FULL ^ mask]}
    if not value:
        return _mangle(key, kept)
    return _mangle(key, {"|" if not value & ~mask else "^": [kept, value]})


def _reject(family: int, protocol: str, answer: str) -> Expression:
    if answer == "tcp-reset":
        if protocol != "tcp":
            raise Refused("--reject-with tcp-reset needs -p tcp")
        return {"reject": {"type": "tcp reset"}}
    known = _REJECTS6 if family == INET6 else _REJECTS
    if answer not in known:
        raise cannot(f"-j REJECT --reject-with {answer}")
    return {"reject": {"type": "icmpv6" if family == INET6 else "icmp", "expr": known[answer]}}


def _log(options: dict[str, str]) -> Expression:
    body: dict[str, Any] = {}
    for name, value in options.items():
        if name == "log-prefix" and not set(value) & set("\"'\\$"):
            body["prefix"] = value
        elif name == "log-level" and value.isdigit() and int(value) < len(_LEVELS):
            body["level"] = _LEVELS[int(value)]
        elif name in _LOG_FLAGS:
            body.setdefault("flags", []).append(_LOG_FLAGS[name])
        else:
            raise cannot(f"-j LOG --{name} {value}".rstrip())
    return {"log": body or None}


# -- reading ----------------------------------------------------------------------------------------------------------


def _decoded(family: int, table: str, expressions: list[Expression]) -> Rule:
    """The rule of expressions without their comment; raises Unsaid, or what a wrong shape raises."""
    reading = Reading(family)
    target, counted = "", False
    options: Options = ()
    for each in expressions:
        ((kind, body),) = each.items()
        if target:
            raise Unsaid
        if kind == "match" and not counted:
            reading.match(body)
        elif kind == "limit" and not counted:
            reading.limit(body)
        elif kind == "counter" and not counted:
            counted = True
        else:
            target, options = _target_of(family, table, kind, body)
    if not counted:
        raise Unsaid
    protocol = reading.words.get("protocol", "")
    if target == "CT" and options and options[0][0] == "helper":
        helper, _, needed = options[0][1].rpartition("-")
        if needed != protocol:
            raise Unsaid
        options = (("helper", helper),)
    rule = Rule(target, matches=tuple(reading.matches), target_options=options, **reading.words)
    return canonical(family, rule)


def _target_of(family: int, table: str, kind: str, body: Any) -> tuple[str, Options]:
    for name, verdict in _VERDICTS.items():
        if kind == verdict:
            return name, ()
    if kind == "jump":
        where, _, name = body["target"].partition(".")
        if where != table:
            raise Unsaid
        return name, ()
    if kind == "notrack":
        return "CT", (("notrack", ""),)
    if kind == "ct helper":
        return "CT", (("helper", body),)
    if kind == "reject":
        return "REJECT", (("reject-with", _answer(family, body)),)
    if kind == "log":
        return "LOG", tuple(_log_options(body or {}))
    if kind == "mangle":
        return _marked(body["key"], body["value"])
    raise Unsaid


def _answer(family: int, body: Any) -> str:
    known = _REJECTS6 if family == INET6 else _REJECTS
    if body is None:
        return "icmp6-port-unreachable" if family == INET6 else "icmp-port-unreachable"
    if body["type"] == "tcp reset":
        return "tcp-reset"
    return next(name for name, said in known.items() if said == body.get("expr", "port-unreachable"))


def _log_options(body: Any) -> Iterator[tuple[str, str]]:
    if not set(body) <= {"prefix", "level", "flags"}:
        raise Unsaid
    if "prefix" in body:
        yield "log-prefix", body["prefix"]
    if body.get("level", "warn") != "warn":
        yield "log-level", str(_LEVELS.index(body["level"]))
    flags = body.get("flags", [])
    for name, flag in _LOG_FLAGS.items():
        if flag in ([flags] if isinstance(flags, str) else flags):
            yield name, ""


def _marked(key: Expression, value: Any) -> tuple[str, Options]:
    """The target that sets a mark: value as a function (mark & keep) ^ flip of the mark."""
    meta, ct = {"meta": {"key": "mark"}}, {"ct": {"key": "mark"}}
    full = ("nfmask", "0xffffffff"), ("ctmask", "0xffffffff")
    if (key, value) == (ct, meta):
        return "CONNMARK", (("save-mark", ""), *full)
    if (key, value) == (meta, ct):
        return "CONNMARK", (("restore-mark", ""), *full)
    if key not in (meta, ct):
        raise Unsaid
    keep, flip = _bits(key, value)
    return "MARK" if key == meta else "CONNMARK", (("set-xmark", f"{flip:#x}/{FULL ^ keep:#x}"),)


def _bits(key: Expression, value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return 0, value
    if value == key:
        return FULL, 0
    ((operator, (left, right)),) = value.items()
    keep, flip = _bits(key, left)
    if not isinstance(right, int):
        raise Unsaid
    if operator == "&":
        return keep & right, flip & right
    if operator == "|":
        return keep & ~right, flip & ~right | right
    if operator == "^":
        return keep, flip ^ right
    raise Unsaid
