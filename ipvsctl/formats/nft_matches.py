"""Matches of iptables as nftables' expressions, and back (libnftables-json(5)).

Each match writes the expressions that say the same. Reading goes by the expression; what is not one of these is left to
nft_rules.py, which keeps it as it is. What nftables cannot say, or this does not know how to, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ipvsctl.errors import Refused
from ipvsctl.formats.iptables_canonical import STATES, UNITS, value_and_mask
from ipvsctl.formats.iptables_words import protocol_name, protocol_number
from ipvsctl.model.address import INET6
from ipvsctl.model.rule import Match, Options, Rule

Expression = dict[str, Any]
FULL = 0xFFFFFFFF

_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg")
_TYPES = (
    "unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit",
)  # fmt: skip
_STATUS = {"EXPECTED": "expected", "SEEN_REPLY": "seen-reply", "ASSURED": "assured", "CONFIRMED": "confirmed"}
_PER = {"sec": "second", "min": "minute", "hour": "hour", "day": "day"}
_PORTED = ("tcp", "udp", "sctp", "dccp", "udplite")


class Unsaid(Exception):
    """An expression that is not the form of a match."""


def compare(left: Any, right: Any, negated: bool = False, op: str = "==") -> Expression:
    return {"match": {"op": "!=" if negated else op, "left": left, "right": right}}


def _payload(protocol: str, field: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": field}}


def _meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def _ct(key: str) -> Expression:
    return {"ct": {"key": key}}


def cannot(what: str) -> Refused:
    return Refused(f"nftables cannot say {what}")


# -- the header -------------------------------------------------------------------------------------------------------


def header(family: int, rule: Rule) -> Iterator[Expression]:
    """Addresses, devices and protocol. A match on ports brings the protocol along."""
    ip = "ip6" if family == INET6 else "ip"
    for field, text in (("saddr", rule.source), ("daddr", rule.destination)):
        if text:
            plain = text.removeprefix("!")
            address, slash, tail = plain.partition("/")
            left: Any = _payload(ip, field)
            right: Any = address
            if slash and tail.isdigit():
                right = {"prefix": {"addr": address, "len": int(tail)}}
            elif slash:
                left = {"&": [left, tail]}
            yield compare(left, right, text != plain)
    for key, text in (("iifname", rule.in_interface), ("oifname", rule.out_interface)):
        if text:
            plain = text.removeprefix("!")
            if "*" in plain or "\\" in plain or '"' in plain:
                raise cannot(f"the device name {plain!r}")
            yield compare(_meta(key), plain[:-1] + "*" if plain.endswith("+") else plain, text != plain)
    if rule.protocol and not any(_brings_protocol(match, rule.protocol) for match in rule.matches):
        plain = rule.protocol.removeprefix("!")
        yield compare(
            _meta("l4proto"), plain if plain in ("tcp", "udp") else protocol_number(plain), rule.protocol != plain
        )


def _brings_protocol(match: Match, protocol: str) -> bool:
    names = {name for name, _ in match.options}
    if match.name == "multiport":
        return bool(names) and protocol in _PORTED
    return match.name == protocol and bool(names & {"sport", "dport", "tcp-flags"})


# -- writing ----------------------------------------------------------------------------------------------------------


def write(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    """The expressions of a match whose options are in iptables-save's words; raises Refused."""
    writer = _WRITERS.get(match.name)
    if writer is None:
        raise cannot(f"-m {match.name}")
    if match.name in _PORTED and rule.protocol != match.name:
        raise Refused(f"match {match.name} needs -p {match.name}")
    if not match.options:
        raise Refused(f"match {match.name} needs an option")
    yield from writer(family, rule, match)


def _plain(value: str) -> tuple[str, bool]:
    return value.removeprefix("!"), value.startswith("!")


def _unknown(match: Match, option: str) -> Refused:
    return cannot(f"-m {match.name} --{option}")


def _port(text: str) -> Any:
    low, colon, high = text.partition(":")
    return {"range": [int(low), int(high)]} if colon else int(low)


def _ports(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    for option, value in match.options:
        plain, negated = _plain(value)
        if option in ("sport", "dport"):
            yield compare(_payload(match.name, option), _port(plain), negated)
        elif option == "tcp-flags" and match.name == "tcp":
            mask, flags = ([flag.lower() for flag in word.split(",")] for word in plain.split())
            if mask == ["all"]:
                mask = list(_FLAGS)
            if flags == ["none"] or not set(flags) | set(mask) <= set(_FLAGS):
                raise cannot(f"--tcp-flags {plain}")
            yield compare({"&": [_payload("tcp", "flags"), _together(mask)]}, _together(flags), negated)
        else:
            raise _unknown(match, option)


def _together(flags: list[str]) -> Any:
    found: Any = flags[0]
    for flag in flags[1:]:
        found = {"|": [found, flag]}
    return found


def _multiport(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    if rule.protocol not in _PORTED:
        raise Refused("match multiport needs -p tcp")
    for option, value in match.options:
        if option not in ("sports", "dports"):
            raise _unknown(match, option)
        plain, negated = _plain(value)
        ports = _disjoint(plain)
        right = ports[0] if len(ports) == 1 else {"set": ports}
        yield compare(_payload(rule.protocol, option[:-1]), right, negated)


def _disjoint(text: str) -> list[Any]:
    """Ports in order, ranges joined with what they touch, as nft does in a set with ranges."""
    given = sorted({tuple(map(int, (each.split(":") * 2)[:2])) for each in text.split(",")})
    ranges = any(low != high for low, high in given)
    found = [list(given[0])]
    for low, high in given[1:]:
        if ranges and low <= found[-1][1] + 1:
            found[-1][1] = max(found[-1][1], high)
        else:
            found.append([low, high])
    return [low if low == high else {"range": [low, high]} for low, high in found]


def _state(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    for option, value in match.options:
        plain, negated = _plain(value)
        if option in ("ctstate", "state"):
            states = plain.split(",")
            if unknown := [state for state in states if state not in STATES]:
                raise cannot(f"--{option} {unknown[0]}")
            if negated:
                states = [state for state in STATES if state not in states]
            if not states:
                raise cannot(f"--{option} {value}")
            yield compare(_ct("state"), [state.lower() for state in states], op="in")
        elif option == "ctdir" and not negated and plain in ("ORIGINAL", "REPLY"):
            yield compare(_ct("direction"), plain.lower())
        elif option == "ctstatus" and not negated and plain in _STATUS:
            yield compare(_ct("status"), _STATUS[plain], op="in")
        else:
            raise _unknown(match, option)


def _mark(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    for option, value in match.options:
        if option != "mark":
            raise _unknown(match, option)
        plain, negated = _plain(value)
        mark, mask = value_and_mask(plain)
        key = _meta("mark") if match.name == "mark" else _ct("mark")
        yield compare(key if mask == FULL else {"&": [key, mask]}, mark, negated)


def _addrtype(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    names = dict(match.options)
    limits = [
        flag
        for flag, name in (("iif", "limit-iface-in"), ("oif", "limit-iface-out"))
        if names.pop(name, None) is not None
    ]
    for option, value in names.items():
        plain, negated = _plain(value)
        if option not in ("src-type", "dst-type") or plain.lower() not in _TYPES:
            raise cannot(f"-m addrtype --{option} {value}")
        flag = "saddr" if option == "src-type" else "daddr"
        yield compare({"fib": {"result": "type", "flags": [flag, *limits]}}, plain.lower(), negated)


def _iprange(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    for option, value in match.options:
        plain, negated = _plain(value)
        low, dash, high = plain.partition("-")
        if option not in ("src-range", "dst-range"):
            raise _unknown(match, option)
        field = _payload("ip6" if family == INET6 else "ip", "saddr" if option == "src-range" else "daddr")
        yield compare(field, {"range": [low, high]} if dash and low != high else low, negated)


def _helper(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    for option, value in match.options:
        if option != "helper":
            raise _unknown(match, option)
        plain, negated = _plain(value)
        yield compare(_ct("helper"), plain, negated)


def _limit(family: int, rule: Rule, match: Match) -> Iterator[Expression]:
    names = dict(match.options)
    rate, _, unit = names.pop("limit", "3/hour").partition("/")
    burst = names.pop("limit-burst", "5")
    if names or unit not in UNITS or not burst.isdigit():
        raise cannot(f"-m limit with {match.options}")
    yield {"limit": {"rate": int(rate), "burst": int(burst), "per": _PER[unit]}}


_Writer = Callable[[int, Rule, Match], Iterator[Expression]]
_WRITERS: dict[str, _Writer] = {
    "tcp": _ports, "udp": _ports, "sctp": _ports, "multiport": _multiport, "conntrack": _state, "state": _state,
    "mark": _mark, "connmark": _mark, "addrtype": _addrtype, "iprange": _iprange, "helper": _helper, "limit": _limit,
}  # fmt: skip

KNOWN = frozenset({*_WRITERS, "comment"})
"""The matches that have a form in nftables."""


# -- reading ----------------------------------------------------------------------------------------------------------


class Reading:
    """A rule while its expressions are read. Raises Unsaid for one that no match is written as."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.words: dict[str, str] = {}
        self.matches: list[Match] = []

    def match(self, body: Any) -> None:
        op, left, right = body["op"], body["left"], body["right"]
        if op not in ("==", "!=", "in"):
            raise Unsaid
        sign = "!" if op == "!=" else ""
        mask: Any = None
        if set(left) == {"&"}:
            left, mask = left["&"]
        ((kind, inner),) = left.items()
        if kind == "payload":
            self._payload(inner["protocol"], inner["field"], sign, mask, right)
        elif kind == "meta":
            self._meta(inner["key"], sign, mask, right)
        elif kind == "ct":
            self._ct(inner["key"], sign, mask, right)
        elif kind == "fib" and mask is None:
            self._fib(inner, sign, right)
        else:
            raise Unsaid

    def limit(self, body: Any) -> None:
        unit = next((name for name, per in _PER.items() if per == body["per"]), None)
        plain = body.get("rate_unit", "packets") == "packets" and not body.get("inv")
        if unit is None or not plain or not set(body) <= {"rate", "burst", "per", "rate_unit", "burst_unit", "inv"}:
            raise Unsaid
        burst = body.get("burst", 5)
        more = (("limit-burst", str(burst)),) if burst != 5 else ()
        self.matches.append(Match("limit", (("limit", f"{body['rate']}/{unit}"), *more)))

    def _set(self, word: str, value: str) -> None:
        if self.words.setdefault(word, value) != value:
            raise Unsaid

    def _add(self, name: str, option: str, value: str) -> None:
        """An option, in the match before it where that is of the same name and has not got it yet."""
        last = self.matches[-1] if self.matches else None
        joined = name in (*_PORTED, "conntrack", "addrtype", "iprange")
        if joined and last is not None and last.name == name and option not in dict(last.options):
            self.matches[-1] = Match(name, (*last.options, (option, value)))
        else:
            self.matches.append(Match(name, ((option, value),)))

    def _payload(self, protocol: str, field: str, sign: str, mask: Any, right: Any) -> None:
        ip = "ip6" if self.family == INET6 else "ip"
        if protocol == ip and field in ("saddr", "daddr"):
            self._address("source" if field == "saddr" else "destination", sign, mask, right)
        elif protocol == ip and field == "protocol" and mask is None:
            self._set("protocol", sign + _protocol(right))
        elif protocol == "tcp" and field == "flags":
            flags = " ".join(",".join(f.upper() for f in _flags(each)) for each in (mask, right))
            self._set("protocol", "tcp")
            self._add("tcp", "tcp-flags", sign + flags)
        elif protocol in _PORTED and field in ("sport", "dport") and mask is None:
            self._set("protocol", protocol)
            if isinstance(right, dict) and set(right) == {"set"}:
                self._add("multiport", field + "s", sign + ",".join(map(_port_text, right["set"])))
            else:
                self._add(protocol, field, sign + _port_text(right))
        else:
            raise Unsaid

    def _address(self, word: str, sign: str, mask: Any, right: Any) -> None:
        if mask is not None and isinstance(right, str) and isinstance(mask, str):
            self._set(word, f"{sign}{right}/{mask}")
        elif isinstance(right, str) and mask is None:
            self._set(word, sign + right)
        elif mask is None and set(right) == {"prefix"}:
            self._set(word, f"{sign}{right['prefix']['addr']}/{right['prefix']['len']}")
        elif mask is None and set(right) == {"range"}:
            low, high = right["range"]
            self._add("iprange", "src-range" if word == "source" else "dst-range", f"{sign}{low}-{high}")
        else:
            raise Unsaid

    def _meta(self, key: str, sign: str, mask: Any, right: Any) -> None:
        if key == "mark":
            self._add("mark", "mark", sign + _mark_text(mask, right))
        elif key == "l4proto" and mask is None:
            self._set("protocol", sign + _protocol(right))
        elif key in ("iifname", "oifname") and mask is None and isinstance(right, str):
            name = right[:-1] + "+" if right.endswith("*") else right
            self._set("in_interface" if key == "iifname" else "out_interface", sign + name)
        else:
            raise Unsaid

    def _ct(self, key: str, sign: str, mask: Any, right: Any) -> None:
        if key == "mark":
            self._add("connmark", "mark", sign + _mark_text(mask, right))
        elif mask is not None:
            raise Unsaid
        elif key == "state" and not sign:
            states = [state for state in STATES if state.lower() in _flags(right)]
            self._add("conntrack", "ctstate", ",".join(states))
        elif key == "direction" and not sign and right in ("original", "reply"):
            self._add("conntrack", "ctdir", right.upper())
        elif key == "status" and not sign and right in _STATUS.values():
            self._add("conntrack", "ctstatus", right.replace("-", "_").upper())
        elif key == "helper" and isinstance(right, str):
            self._add("helper", "helper", sign + right)
        else:
            raise Unsaid

    def _fib(self, body: Any, sign: str, right: Any) -> None:
        flags = [body["flags"]] if isinstance(body["flags"], str) else list(body["flags"])
        if body["result"] != "type" or right not in _TYPES or flags[0] not in ("saddr", "daddr"):
            raise Unsaid
        self._add("addrtype", "src-type" if flags[0] == "saddr" else "dst-type", sign + right.upper())
        for flag in flags[1:]:
            self._add("addrtype", {"iif": "limit-iface-in", "oif": "limit-iface-out"}[flag], "")


def _flags(value: Any) -> list[str]:
    """The words of a value of several bits, however a version of nft writes them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        ((kind, value),) = value.items()
        if kind not in ("|", "set"):
            raise Unsaid
    return [word for each in value for word in _flags(each)]


def _port_text(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    low, high = value["range"]
    return f"{low}:{high}"


def _mark_text(mask: Any, value: Any) -> str:
    if not isinstance(value, int) or not isinstance(mask, int | None):
        raise Unsaid
    return f"{value:#x}" if mask is None else f"{value:#x}/{mask:#x}"


def _protocol(value: Any) -> str:
    return protocol_name(str(value))


def options_text(options: Options) -> str:
    return " ".join(f"--{name} {value}".rstrip() for name, value in options)
