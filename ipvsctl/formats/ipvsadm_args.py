"""A command line of ipvsadm to a command with its values, with ipvsadm's order of errors and its messages.

    popt's walk      the first option is a command; then each option: given twice? its value?
    the rest         words left over, scheduler flags, then the rules between command and options in the table's order
    the values       what `Command.service`, `.server` ... make of them for a plan

Names of hosts and ports are looked up by the caller's `Names`: nothing here asks a system.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from ipvsctl.errors import UsageError
from ipvsctl.formats.ipvsadm_options import COLUMNS, COMMANDS, DISPLAY_CONFLICTS, MATRIX, TUNNEL_COLUMNS, TUNNEL_MATRIX
from ipvsctl.formats.ipvsadm_popt import OptionError, Words
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.service import MAX_PERSISTENCE, SCHEDULER_FLAGS

__all__ = ["Command", "Hint", "Names", "OptionError", "parse"]

INT_MAX = 2**31 - 1
DEFAULT_PERSISTENCE = 360
"""Seconds, of `-p` without a value; the manual page of ipvsadm says 300."""

_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")
_ATOI = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")
_FLAG_BITS = {"flag-1": 0x8, "flag-2": 0x10, "flag-3": 0x20}
_CHECKSUMS = {"tun-nocsum": "no", "tun-csum": "yes", "tun-remcsum": "remote"}
_FORWARDS = {"gatewaying": "dr", "ipip": "tun", "masquerading": "nat"}
_NUMBERS = {
    # option -> lowest, highest, what is wrong otherwise
    "weight": (0, INT_MAX, "illegal weight specified"),
    "u-threshold": (0, INT_MAX, "illegal u_threshold specified"),
    "l-threshold": (0, INT_MAX, "illegal l_threshold specified"),
    "tun-port": (1, 65535, "illegal tunnel port specified"),
    "syncid": (0, 255, "illegal syncid specified"),
    "mcast-port": (1, 65535, "illegal mcast-port specified"),
    "mcast-ttl": (1, 255, "illegal mcast-ttl specified"),
    "sync-maxlen": (1, 65507, "illegal sync-maxlen specified"),
}  # fmt: skip


class Hint(UsageError):
    """A command line that does not begin with a command: all that is said is where help is."""


class Names(Protocol):
    """Addresses and ports from what people write, as the C library reads it; None for what it does not know."""

    def ipv4(self, text: str) -> str | None:
        """Canonical text of what inet_aton takes for an address, in all its laxness."""

    def ipv6(self, text: str) -> str | None:
        """Canonical text of an IPv6 address."""

    def host(self, text: str) -> str | None:
        """The first IPv4 address of a host's name."""

    def port(self, text: str, protocol: str) -> int | None:
        """The port of a service's name."""


@dataclass(slots=True)
class Command:
    """A command line that was understood. `options` are the names given; what was not given has ipvsadm's default.

    `fwmark` 0: by address. `family` 0 and `protocol` "": no service was named. `netmask` None: the family's default.
    """

    name: str
    options: set[str] = field(default_factory=set)
    family: int = 0
    protocol: str = ""
    address: str = ""
    port: int = 0
    fwmark: int = 0
    scheduler: str = ""
    persistent: int | None = None
    netmask: str | int | None = None
    pe: str = ""
    flags: int = 0
    server_family: int = 0
    server_address: str = ""
    server_port: int = 0
    forward: str = "dr"
    tunnel: str = "ipip"
    csum: str = "no"
    role: str = ""
    interface: str = ""
    group: str = ""
    timeouts: tuple[int, int, int] = (0, 0, 0)
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def service(self) -> ServiceAddress | None:
        """The service that was named, None where there is none: also `0.0.0.0:0`, which the kernel takes for none."""
        if self.fwmark:
            return ServiceAddress("fwmark", self.family, fwmark=self.fwmark)
        if not self.protocol:
            return None
        return ServiceAddress(self.protocol, self.family, self.address, self.port)

    @property
    def server(self) -> ServerAddress:
        return ServerAddress(self.server_family, self.server_address, self.server_port)


def parse(words: Sequence[str], names: Names, *, posix: bool = False, stream: bool = False) -> Command:
    """The command of a line without the program's name; no words at all is a list.

    Raises Hint (status 255), OptionError (255) or UsageError (2) with ipvsadm's message. `posix`: the first word that
    is no option ends them. `stream`: a line of standard input, where a restore inside a restore is none.
    """
    if not words:
        return Command("list")
    walk = Words(words, posix)
    try:
        first = walk.option()
    except OptionError:
        raise Hint from None
    if first is None or first[0].key not in COMMANDS or (stream and first[0].key == "restore"):
        raise Hint
    command = Command(first[0].key)
    if command.name in ("help", "version"):
        return command
    if command.name in ("start-daemon", "stop-daemon"):
        command.role = first[1] or ""
        if command.role not in ("master", "backup"):
            what = "start-daemon parameter" if command.name == "start-daemon" else "start_daemon"
            raise UsageError(f"illegal {what} specified")
    flags = ""
    while (found := walk.option()) is not None:
        spelling, value = found
        if spelling.option:
            if spelling.option in command.options:
                raise UsageError(f"multiple '{spelling.option}' options specified")
            command.options.add(spelling.option)
        elif spelling.key in COMMANDS:
            raise UsageError(f"invalid option `{walk.last}'")
        if spelling.key == "sched-flags":
            flags = value or ""
        else:
            _take(command, spelling.key, value, names)
    rest = walk.leftover
    if command.name == "set":
        rest = _timeouts(command, rest)
    if rest:
        raise UsageError(f"unexpected argument {rest[0]}")
    if flags:
        command.flags = _flags(flags, command.scheduler or "wlc")
    _check(command)
    return command


def _take(command: Command, key: str, value: str | None, names: Names) -> None:
    """Read one option into the command."""
    match key, value:
        case "tcp-service" | "udp-service" | "sctp-service", str():
            command.protocol = key.removesuffix("-service")
            place = _endpoint(value, command.protocol, names)
            if place is None:
                raise UsageError("illegal virtual server address[:port] specified")
            command.family, command.address, port = place
            command.port = port or 0
            if command.family == INET6:
                command.netmask = None
        case "fwmark-service", str():
            command.fwmark = _number(value, 1, 2**32 - 1) or 0
            if not command.fwmark:
                raise UsageError(f"invalid fwmark value `{value}' specified")
            command.family, command.protocol = INET, "tcp"
        case "ipv6", _:
            if not command.fwmark:
                raise UsageError("-6 used before -f\n")
            command.family, command.netmask = INET6, None
        case "persistent", _:
            seconds = DEFAULT_PERSISTENCE if value is None else _number(value, 1, MAX_PERSISTENCE)
            if seconds is None:
                raise UsageError(f"invalid timeout value `{value}' specified")
            command.persistent = seconds
        case "netmask", str():
            command.netmask = _netmask(value, command.family, names)
        case "real-server", str():
            place = _endpoint(value, command.protocol, names)
            if place is None:
                raise UsageError("illegal real server address[:port] specified")
            command.server_family, command.server_address, port = place
            command.server_port = command.port if port is None else port
        case "gatewaying" | "ipip" | "masquerading", _:
            command.forward = _FORWARDS[key]
        case "tun-type", str():
            if value not in TUNNEL_COLUMNS:
                raise UsageError("illegal tunnel type specified")
            command.tunnel = value
        case "tun-nocsum" | "tun-csum" | "tun-remcsum", _:
            command.csum = _CHECKSUMS[key]
        case "mcast-group", str():
            command.group = _group(value, names)
        case "scheduler", str():
            command.scheduler = _cut(value, 15)
        case "pe", str():
            command.pe = _cut(value, 16)
        case "mcast-interface", str():
            command.interface = _cut(value, 15)
        case _, str() if key in _NUMBERS:
            lowest, highest, wrong = _NUMBERS[key]
            number = _number(value, lowest, highest)
            if number is None:
                raise UsageError(wrong)
            command.numbers[key] = number


def _cut(text: str, size: int) -> str:
    """Text that the kernel has room for only so many bytes of."""
    return text if len(text) * 4 <= size else text.encode("utf-8", "surrogateescape")[:size].decode("utf-8", "replace")


def _number(text: str, lowest: int, highest: int) -> int | None:
    """A number as strtol reads the whole of a text, None out of range."""
    if not _NUMBER.fullmatch(text):
        return None
    value = int(text)
    return value if lowest <= value <= highest else None


def _timeouts(command: Command, words: list[str]) -> list[str]:
    """Take the three values of `--set`; the words after them."""
    found = []
    for word in words[:3]:
        value = _number(word, 0, MAX_PERSISTENCE)
        if value is None:
            raise UsageError(f"invalid timeout value `{word}' specified")
        found.append(value)
    if len(found) < 3:
        raise UsageError("--set option requires 3 timeout values")
    command.timeouts = (found[0], found[1], found[2])
    return words[3:]


def _endpoint(text: str, protocol: str, names: Names) -> tuple[int, str, int | None] | None:
    """Family, address and port (None: none given) of HOST[:PORT], None for what is none."""
    if not text or (text.isascii() and text.isdigit()):
        return None
    host, after = text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            return None
        after = rest[1:]
    address = names.ipv6(host)
    if address is not None:
        if after is None:
            return INET6, address, None
        port = _port(after, protocol, names)
        return None if port is None else (INET6, address, port)
    # What stood behind a bracket is lost here, as it is in ipvsadm.
    name, colon, port_text = host.rpartition(":")
    found = _host(name if colon else host, names)
    if found is None:
        return None
    if not colon:
        return INET, found, None
    port = _port(port_text, protocol, names)
    return None if port is None else (INET, found, port)


def _host(text: str, names: Names) -> str | None:
    return names.ipv4(text) or names.host(text)


def _port(text: str, protocol: str, names: Names) -> int | None:
    port = _number(text, 0, 65535)
    return names.port(text, protocol) if port is None and protocol else port


def _netmask(text: str, family: int, names: Names) -> str | int:
    if family == INET6:
        number = _ATOI.match(text)
        length = int(number.group()) if number else 0
        if not 1 <= length <= 128:
            raise UsageError("illegal ipv6 netmask specified")
        return length
    mask = _host(text, names)
    if mask is None:
        raise UsageError("illegal virtual server persistent mask specified")
    return mask


def _group(text: str, names: Names) -> str:
    if ":" in text:
        group = names.ipv6(text)
        if group is None or not group.startswith("ff"):
            raise UsageError(f"invalid IPv6 mcast-group `{text}'")
        return group
    group = names.ipv4(text)
    if group is None or not 224 <= int(group.partition(".")[0]) <= 239:
        raise UsageError(f"invalid IPv4 mcast-group `{text}'")
    return group


def _flags(text: str, scheduler: str) -> int:
    bits = 0
    for flag in filter(None, _cut(text, 127).split(",")):
        owner = next((name for name, own in SCHEDULER_FLAGS.items() if flag in own), None)
        if owner is None and flag not in _FLAG_BITS:
            raise UsageError(f"invalid scheduler flag `{flag}'")
        if owner not in (None, scheduler):
            raise UsageError(f"incompatible scheduler flag `{flag}'")
        bits |= SCHEDULER_FLAGS[owner][flag] if owner else _FLAG_BITS[flag]
    return bits


def _check(command: Command) -> None:
    """The rules between a command and its options, in ipvsadm's order."""
    column, title = COMMANDS[command.name]
    given = command.options
    _matrix(given, _column(column), title, "command")
    match command.name:
        case "add-service" | "edit-service":
            if not command.fwmark:
                if command.port == 0 and command.persistent is None:
                    raise UsageError("Zero port specified for non-persistent service")
                if "ops" in given and command.protocol != "udp":
                    raise UsageError("One-Packet Scheduling is only for UDP virtual services")
        case "add-server" | "edit-server":
            _check_server(command)
        case "list":
            if any(left in given and right in given for left, right in DISPLAY_CONFLICTS):
                raise UsageError("options conflicts in the list command")


@cache
def _column(letter: str) -> dict[str, str]:
    """The rules of a command, by option; those that only allow one are left out."""
    at = COLUMNS.index(letter)
    return {name: row[at] for name, row in MATRIX.items() if row[at] != "o"}


def _matrix(given: set[str], column: dict[str, str], title: str, noun: str) -> None:
    exclusive = ""
    for name, rule in column.items():
        if name not in given:
            if rule == "+":
                raise UsageError(f"You need to supply the '{name}' option for the '{title}' {noun}")
        elif rule == ".":
            raise UsageError(f"Illegal '{name}' option with the '{title}' {noun}")
        elif rule == "1":
            if exclusive:
                raise UsageError(f"The option '{name}' conflicts with the '{exclusive}' option in the '{title}' {noun}")
            exclusive = name


def _check_server(command: Command) -> None:
    if command.forward != "nat" and not command.fwmark:
        # Only NAT changes ports: whatever port was given is not told.
        command.server_port = command.port
    if command.server_family != command.family and command.forward != "tun":
        raise UsageError("Different address family is allowed only for tunneling servers")
    tunnel = {"tun-type", *TUNNEL_MATRIX} & command.options
    if command.forward != "tun":
        if tunnel:
            raise UsageError("Tunnel options conflict with forward method")
        return
    at = TUNNEL_COLUMNS.index(command.tunnel)
    _matrix(command.options, {name: row[at] for name, row in TUNNEL_MATRIX.items()}, command.tunnel, "tunnel type")


