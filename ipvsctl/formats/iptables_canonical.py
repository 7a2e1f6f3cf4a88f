"""A rule as iptables-save prints it, whichever of the ways to say the same it was written in.

Measured with iptables 1.8.9: numbers for ports, hexadecimal marks with their mask, states in the kernel's order, rates
in the largest unit that divides them. What is not named here is printed as it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from ipvsctl.errors import Refused, UsageError
from ipvsctl.formats.iptables_words import TEXTS, network, protocol_name, protocol_number
from ipvsctl.model.address import INET6
from ipvsctl.model.rule import Match, Options, OwnChain, Rule

STATES = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
_STATES_AND_NAT = (*STATES, "SNAT", "DNAT")
UNITS = {"sec": 1, "min": 60, "hour": 3600, "day": 86400}
_PRINTED = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
    136: "udplite",
}
_FULL = 0xFFFFFFFF
_LEVELS = ("emerg", "alert", "crit", "error", "warning", "notice", "info", "debug")
_ORDER = {
    "tcp": ("sport", "dport", "tcp-option", "tcp-flags"), "udp": ("sport", "dport"), "sctp": ("sport", "dport"),
    "LOG": ("log-prefix", "log-level", "log-tcp-sequence", "log-tcp-options", "log-ip-options", "log-uid"),
}  # fmt: skip


@lru_cache(maxsize=4096)
def canonical(family: int, rule: Rule) -> Rule:
    """The rule in iptables-save's words; raises Refused for an address, device, protocol or number that is none."""
    try:
        header = {
            "protocol": _signed(rule.protocol, _protocol),
            "source": _signed(rule.source, lambda text: network(family, text)),
            "destination": _signed(rule.destination, lambda text: network(family, text)),
            "in_interface": _signed(rule.in_interface, _device),
            "out_interface": _signed(rule.out_interface, _device),
        }
        matches = tuple(Match(match.name, _options(match.name, match.options)) for match in rule.matches)
        target, options = rule.target, _options(rule.target, rule.target_options)
        if target == "REJECT" and not options:
            options = (("reject-with", "icmp6-port-unreachable" if family == INET6 else "icmp-port-unreachable"),)
        return replace(rule, **header, matches=matches, target_options=options)
    except (UsageError, ValueError) as error:
        raise Refused(f"rule {rule}: {error}") from None


def canonical_chain(chain: OwnChain) -> OwnChain:
    """A chain with its rules in iptables-save's words; rules that are none stay as they are, for the host to refuse."""
    rules = []
    for rule in chain.rules:
        try:
            rules.append(canonical(chain.family, rule))
        except Refused:
            rules.append(rule)
    return replace(chain, rules=tuple(rules))


def _signed(text: str, to: Callable[[str], str]) -> str:
    if not text.startswith("!"):
        return to(text) if text else ""
    found = to(text[1:])
    if not found:
        raise UsageError(f"{text!r} matches nothing")
    return "!" + found


def _protocol(text: str) -> str:
    number = protocol_number(protocol_name(text))
    return _PRINTED.get(number, str(number)) if number else ""


def _device(text: str) -> str:
    if len(text.encode()) > 15 or not text.isprintable() or " " in text or "/" in text:
        raise UsageError(f"{text!r} is not a device name of 1..15 characters")
    return "" if text == "+" else text


def _options(name: str, options: Options) -> Options:
    found = [each for option, value in options if (each := _option(name, option, value)) is not None]
    order = _ORDER.get(name, ())
    if order and all(option in order for option, _ in found):
        found.sort(key=lambda each: order.index(each[0]))
    return tuple(found)


def _option(name: str, option: str, value: str) -> tuple[str, str] | None:
    """One option as it is printed; None for one that says what is so anyway."""
    if option not in TEXTS:
        if not value.isprintable() or any(word.startswith("-") for word in value.split()):
            raise UsageError(f"{value!r} is not a value for --{option}")
    elif not value.isprintable():
        raise UsageError(f"{value!r} is not printable text")
    sign, plain = ("!", value[1:]) if value.startswith("!") and option not in TEXTS else ("", value)
    match name, option:
        case (("tcp" | "udp" | "udplite" | "sctp" | "dccp"), ("sport" | "dport")):
            return option, sign + port_range(plain)
        case "multiport", ("sports" | "dports" | "ports"):
            return option, sign + ",".join(port_range(each) for each in plain.split(","))
        case "conntrack", "ctstate":
            return option, sign + _states(plain, _STATES_AND_NAT)
        case "state", "state":
            return option, sign + _states(plain, STATES)
        case (("mark" | "connmark"), "mark"):
            mark, mask = value_and_mask(plain)
            return option, sign + (f"{mark:#x}" if mask == _FULL else f"{mark:#x}/{mask:#x}")
        case (("MARK" | "CONNMARK"), ("set-mark" | "set-xmark" | "and-mark" | "or-mark" | "xor-mark")):
            mark, mask = value_and_mask(plain)
            if option != "set-xmark":
                # xt_mark's own: (mark & ~mask) ^ value.
                mark, mask = {
                    "set-mark": (mark, mask | mark), "and-mark": (0, _FULL ^ mark), "or-mark": (mark, mark),
                    "xor-mark": (mark, 0),
                }[option]  # fmt: skip
            return "set-xmark", f"{mark:#x}/{mask:#x}"
        case ("limit", "limit"):
            return option, sign + _rate(plain)
        case ("limit", "limit-burst"):
            return None if plain == "5" else (option, plain)
        case ("addrtype", "src-type" | "dst-type") | ("conntrack", "ctdir"):
            return option, sign + plain.upper()
        case ("LOG", "log-level"):
            level = {"warn": "4", "err": "3", "panic": "0"}.get(plain.lower(), plain.lower())
            level = str(_LEVELS.index(level)) if level in _LEVELS else level
            return None if level == "4" else (option, level)
    return option, value


def port_range(text: str) -> str:
    """A port, or a range of ports with both ends; raises UsageError."""
    low, colon, high = text.partition(":")
    ends = [low or "0", (high or "65535") if colon else low]
    if not all(end.isascii() and end.isdigit() and int(end) <= 65535 for end in ends):
        raise UsageError(f"{text!r} is not a port or a range of ports")
    first, last = (int(end) for end in ends)
    if first > last:
        raise UsageError(f"{text!r} is not a range of ports, the first is larger")
    return str(first) if first == last else f"{first}:{last}"


def value_and_mask(text: str) -> tuple[int, int]:
    """The numbers of VALUE or VALUE/MASK; raises UsageError."""
    value, slash, mask = text.partition("/")
    try:
        numbers = int(value, 0), int(mask, 0) if slash else _FULL
    except ValueError:
        numbers = -1, -1
    if not all(0 <= number <= _FULL for number in numbers):
        raise UsageError(f"{text!r} is not a mark, expected a number, or number/mask")
    return numbers


def _states(text: str, known: tuple[str, ...]) -> str:
    states = set(text.upper().split(","))
    if not states <= set(known):
        raise UsageError(f"{text!r} are not states, expected {', '.join(known)}")
    return ",".join(state for state in known if state in states)


def _rate(text: str) -> str:
    """A rate in the unit that libxt_limit prints it in: the largest with a whole number (print_rate)."""
    count, _, unit = text.partition("/")
    seconds = next((each for name, each in UNITS.items() if unit and name.startswith(unit.lower()[:1])), 0)
    seconds = seconds if unit else 1
    if not (count.isascii() and count.isdigit() and int(count)) or not seconds:
        raise UsageError(f"{text!r} is not a rate, expected a number and /sec, /min, /hour or /day")
    # The kernel keeps the time of one packet, in 1/10000 seconds.
    period = 10000 * seconds // int(count)
    if not period:
        raise UsageError(f"{text!r} is more than 10000 a second")
    shown = "day"
    for name in ("hour", "min", "sec"):
        whole, rest = divmod(UNITS[name] * 10000, period)
        if whole < max(rest, 1):
            break
        shown = name
    return f"{UNITS[shown] * 10000 // period}/{shown}"
