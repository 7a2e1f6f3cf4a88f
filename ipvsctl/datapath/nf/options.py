"""What the builders of matches and targets share: the options of an extension as values, and where the rule stands.

An option that nobody took is refused, so that no rule becomes wider than it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.datapath.nf.walk import Target, Test
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_words import TEXTS, network_numbers
from ipvsctl.model.address import INET6

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.model.rule import Options as Pairs
    from ipvsctl.model.rule import Rule

U32 = 0xFFFFFFFF

SERVICES = {
    "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68,
    "tftp": 69, "http": 80, "pop3": 110, "ntp": 123, "imap2": 143, "imap": 143, "snmp": 161, "ldap": 389, "https": 443,
    "submission": 587, "ldaps": 636, "imaps": 993, "pop3s": 995,
}  # fmt: skip
"""Names of ports that people write into rules; iptables-save prints numbers."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where an extension stands: `hooks` the hooks that reach its rule, `protocol` the rule's (0: any or negated)."""

    engine: Engine
    family: int
    table: str
    hooks: frozenset[int]
    protocol: int
    rule: Rule

    @property
    def six(self) -> bool:
        return self.family == INET6


class Matching(NamedTuple):
    """A match ready to be asked: `stable` as of a rule, `tracks` whether its module asks for connection tracking."""

    tests: tuple[Test, ...]
    stable: bool = True
    tracks: bool = False


class Doing(NamedTuple):
    """A target ready to be called: `tracks` as of a match, `steady` as of a rule.

    `reroutes`: it changes what a route depends on.
    """

    target: Target
    tracks: bool = False
    reroutes: bool = False
    steady: bool = False


class Options:
    """The options of one match or target, taken one by one."""

    def __init__(self, pairs: Pairs) -> None:
        self._left: dict[str, tuple[bool, str]] = {}
        for name, value in pairs:
            plain = name.removeprefix("!")
            if plain in self._left:
                raise UsageError(f"--{plain} is there twice")
            inverted = plain != name
            if value.startswith("!") and (plain not in TEXTS or plain == "helper"):
                inverted, value = not inverted, value[1:]
            self._left[plain] = inverted, value

    def take(self, name: str) -> tuple[bool, str] | None:
        """Whether an option is negated, and its value; None when it is not there."""
        return self._left.pop(name, None)

    def plain(self, name: str) -> str | None:
        """The value of an option that cannot be negated; None when it is not there."""
        found = self.take(name)
        if found is None:
            return None
        if found[0]:
            raise UsageError(f"--{name} cannot be negated")
        return found[1]

    def needed(self, name: str) -> tuple[bool, str]:
        """As `take`, for one that has to be there."""
        found = self.take(name)
        if found is None or not found[1]:
            raise UsageError(f"--{name} is missing")
        return found

    def flag(self, name: str) -> bool:
        """Whether an option without a value is there."""
        return self.plain(name) is not None

    def end(self) -> None:
        """Refuse what nobody took."""
        for name in self._left:
            raise UsageError(f"option --{name} cannot be evaluated")


MatchBuilder = Callable[[Context, Options], Matching]
TargetBuilder = Callable[[Context, Options], Doing]


def number(text: str, highest: int, what: str) -> int:
    """A number as iptables reads it: decimal, 0x hexadecimal, 0 octal; raises UsageError for what is none."""
    try:
        if not (text.isascii() and text[:1].isdigit()):
            raise ValueError
        lower = text.lower()
        found = int(text, 16 if lower.startswith("0x") else 8 if text.startswith("0") and len(text) > 1 else 10)
    except ValueError:
        found = highest + 1
    if found > highest:
        raise UsageError(f"{text!r} is not {what}, expected a number up to {highest}")
    return found


def span(text: str, highest: int, what: str, separator: str = ":") -> tuple[int, int]:
    """A number or a range LOW:HIGH, either end of which may be left out; raises UsageError."""
    low, colon, high = text.partition(separator)
    if not colon:
        both = number(low, highest, what)
        return both, both
    found = (number(low, highest, what) if low else 0), (number(high, highest, what) if high else highest)
    if found[0] > found[1]:
        raise UsageError(f"{text!r} is a range that ends before it begins")
    return found


def port(text: str) -> int:
    """A port by number or by a usual name; raises UsageError."""
    return SERVICES[text] if text in SERVICES else number(text, 65535, "a port")


def ports(text: str, separator: str = ":") -> tuple[int, int]:
    """A port or a range of ports; raises UsageError."""
    low, colon, high = text.partition(separator)
    if not colon:
        return port(low), port(low)
    return span(f"{port(low) if low else ''}{separator}{port(high) if high else ''}", 65535, "a port", separator)


def masked(text: str, full: int = U32) -> tuple[int, int]:
    """VALUE or VALUE/MASK, the mask all ones when it is not there; raises UsageError."""
    value, slash, mask = text.partition("/")
    return number(value, full, "a value"), number(mask, full, "a mask") if slash else full


def flags(text: str, names: dict[str, int]) -> int:
    """Bits by name, separated by commas; raises UsageError for a name that is none."""
    bits = 0
    for name in text.split(","):
        if name.upper() not in names:
            raise UsageError(f"{name!r} is none of {', '.join(names)}")
        bits |= names[name.upper()]
    return bits


def network_test(family: int, text: str) -> Callable[[bytes], bool]:
    """A test of an address against ADDRESS[/LENGTH or /MASK]; raises UsageError."""
    value, mask = network_numbers(family, text)
    size = 16 if family == INET6 else 4
    wanted, bits = value.to_bytes(size, "big"), mask.bit_count()
    if mask == (1 << size * 8) - (1 << size * 8 - bits):
        if bits == size * 8:
            return wanted.__eq__
        if bits % 8 == 0:
            end = bits // 8
            prefix = wanted[:end]
            return lambda address: address[:end] == prefix
    from_bytes = int.from_bytes
    return lambda address: from_bytes(address, "big") & mask == value
