"""The single values of a director file: what each kind of value must be, and how a wrong one is named.

A reader takes what the TOML parser gave and returns the value the model wants, or raises `Wrong`. TOML's types are
taken literally: `true` is not 1, 5.0 is not 5 and "5" is not 5, because a file that says one and means the other has a
mistake in it somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ipvsctl.errors import UsageError
from ipvsctl.model.address import ServiceAddress, parse_ip
from ipvsctl.model.service import INT_MAX, MAX_PERSISTENCE, TUNNEL_TYPES

if TYPE_CHECKING:
    from ipvsctl.formats.toml_lines import Path

Reader = Callable[[Any], Any]

LONGEST = 255
"""Characters; no name or address of a director is longer, and an error has to fit on a line."""


class Problem(NamedTuple):
    """Something wrong at a path of the file; `first` is the path of what it repeats or contradicts."""

    path: Path
    reason: str
    first: Path | None = None


class Wrong(UsageError):
    """A value is not what it must be; `at` leads from the key to the element of an array that is meant."""

    def __init__(self, reason: str, at: Path = ()) -> None:
        super().__init__(reason)
        self.at = at


def quoted(text: str) -> str:
    """Text of the file as it stands in an error: in double quotes, on one line, shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:60])
    return f'"{shown}{"..." if len(text) > 60 else ""}"'


def shown(value: object) -> str:
    """A value of the file with its type, as it stands in an error."""
    match value:
        case str():
            return f"the string {quoted(value)}" if value else "an empty string"
        case bool():
            return f"the boolean {'true' if value else 'false'}"
        case int():
            return str(value) if -(2**63) <= value < 2**63 else "an integer of more than 64 bits"
        case float():
            return f"the float {value}"
        case list():
            return "an array"
        case dict():
            return "a table"
    return f"the {type(value).__name__} {value}"


def wrong(expected: str, value: object, at: Path = ()) -> Wrong:
    """The error for a value that is not as expected."""
    return Wrong(f"expected {expected}, not {shown(value)}", at)


def integer(low: int, high: int, unit: str = "") -> Reader:
    """Reader of an integer in a range."""
    expected = f"an integer {low}..{high}{unit}"

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise wrong(expected, value)
        return value

    return read


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise wrong("true or false", value)
    return value


def text(expected: str) -> Reader:
    """Reader of printable text that is not empty."""

    def read(value: Any) -> str:
        if type(value) is not str or not value or not value.isprintable():
            raise wrong(expected, value)
        if len(value) > LONGEST:
            raise Wrong(f"expected {expected} of at most {LONGEST} characters, not of {len(value)}")
        return value

    return read


def word(*allowed: str) -> Reader:
    """Reader of one of a few words."""
    rest, last = allowed[:-1], allowed[-1]
    expected = f"{', '.join(map(quoted, rest))} or {quoted(last)}" if rest else quoted(last)

    def read(value: Any) -> str:
        if type(value) is not str or value not in allowed:
            raise wrong(expected, value)
        return value

    return read


def name(what: str, limit: int) -> Reader:
    """Reader of a name the kernel takes: ASCII, 1..limit characters, no blanks."""
    expected = f"{what} of 1..{limit} characters without blanks"

    def read(value: Any) -> str:
        valid = type(value) is str and 0 < len(value) <= limit and value.isascii() and value.isprintable()
        if not valid or " " in value:
            raise wrong(expected, value)
        return str(value)

    return read


def array(element: Reader, expected: str) -> Reader:
    """Reader of an array whose elements differ from each other; returns a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise wrong(f"an array of {expected}", value)
        items: dict[Any, int] = {}
        for index, item in enumerate(value):
            try:
                one = element(item)
            except Wrong as error:
                raise Wrong(str(error), (index, *error.at)) from None
            except UsageError as error:
                raise Wrong(str(error), (index,)) from None
            if one in items:
                raise Wrong(f"{quoted(one)} is given twice, expected once", (index,))
            items[one] = index
        return tuple(items)

    return read


def device(value: Any) -> str:
    """A network device's name as the kernel takes it (net/core/dev.c, dev_valid_name)."""
    valid = type(value) is str and 0 < len(value.encode("utf-8", "replace")) <= 15 and value not in (".", "..")
    if not valid or not value.isprintable() or any(c in "/:" or c.isspace() for c in value):
        raise wrong("a device name of 1..15 characters", value)
    return str(value)


def address(value: Any) -> str:
    """An IPv4 or IPv6 address in its canonical form."""
    try:
        return parse_ip(_address_text(value))[1]
    except Wrong:
        raise
    except UsageError:
        raise wrong("an IPv4 or IPv6 address", value) from None


_address_text = text("an IPv4 or IPv6 address")


def group(value: Any) -> str:
    """A multicast address (ip_vs_ctl.c, ip_vs_genl_new_daemon)."""
    canonical = address(value)
    first = int(canonical.partition(".")[0]) if "." in canonical and ":" not in canonical else 0
    if not (224 <= first <= 239 or canonical.startswith("ff")):
        raise wrong("a multicast address (224.0.0.0/4 or ff00::/8)", value)
    return canonical


def service_address(value: Any) -> ServiceAddress:
    return ServiceAddress.parse(_service_text(value))


_service_text = text("a service such as tcp:192.0.2.1:80, udp:[2001:db8::1]:53 or fwmark:7")

_DURATION = re.compile(r"(?:(\d{1,7})d)?(?:(\d{1,7})h)?(?:(\d{1,7})m)?(?:(\d{1,7})s)?", re.ASCII)


def seconds(value: Any) -> int:
    """A duration of 1 second to 31 days: an integer of seconds, or text such as "5m", "1m30s" or "2d"."""
    expected = f'1..{MAX_PERSISTENCE} seconds, as an integer or as text such as "5m" or "1m30s"'
    number = value
    if type(value) is str:
        match = _DURATION.fullmatch(value) if value else None
        if match is None:
            raise wrong(expected, value)
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        number = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if type(number) is not int or not 1 <= number <= MAX_PERSISTENCE:
        raise wrong(expected, value)
    return number


def timeout(value: Any) -> int:
    """A duration as in `seconds`; 0 has a reason of its own to be refused."""
    if type(value) is int and value == 0:
        raise Wrong("expected 1 second or more, not 0: the kernel takes 0 for no change, leave the key out instead")
    return seconds(value)


def netmask(value: Any) -> str | int:
    """The type of a netmask only: which masks there are depends on the service's family."""
    expected = "a dotted IPv4 mask such as \"255.255.255.0\" or a prefix length 1..32 (IPv6: 1..128)"
    if type(value) is str and 0 < len(value) <= 15 and value.isprintable():
        return value
    if type(value) is int and 1 <= value <= 128:
        return value
    raise wrong(expected, value)


def tunnel(value: Any) -> Any:
    """A tunnel's type, or a table that is read elsewhere."""
    if type(value) is not dict and (type(value) is not str or value not in TUNNEL_TYPES):
        raise wrong('"ipip", "gue" or "gre", or a table { type, port, csum }', value)
    return value


def any_value(value: Any) -> Any:
    """For keys whose value is read elsewhere."""
    return value


count = integer(0, INT_MAX)
port = integer(1, 65535)
_SYSCTL_NAME = re.compile(r"[A-Za-z0-9_./-]{1,255}", re.ASCII)


def sysctl_name(written: str) -> str:
    """A sysctl's name with dots, "/" for a dot in a device name; takes sysctl(8)'s form with slashes as well.

    As there, the separator that comes first is the separator, and the other one stands for a dot. Raises Wrong.
    """
    match = re.search(r"[./]", written)
    dotted = written.translate({46: "/", 47: "."}) if match and match[0] == "/" else written
    parts = dotted.split(".")
    if len(parts) < 2 or not _SYSCTL_NAME.fullmatch(dotted) or any(part.strip("/") == "" for part in parts):
        raise Wrong("expected a name of letters, digits, dots, dashes, slashes and underscores such as"
                    " net.ipv4.vs.conntrack")  # fmt: skip
    return dotted


def sysctl_value(value: Any) -> str:
    """A sysctl's value as text, blanks single as hosts report them; booleans are 1 and 0."""
    if type(value) is bool:
        return "1" if value else "0"
    if type(value) is int and -(2**63) <= value < 2**64:
        return str(value)
    if type(value) is str and len(value) < 4096 and value.replace("\t", " ").isprintable():
        return " ".join(value.split())
    raise wrong("an integer of at most 64 bits, a boolean or a string of one line", value)
