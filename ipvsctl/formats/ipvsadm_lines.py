"""The lines that `ipvsadm -S` writes and `-R` runs: services and servers to lines, and a whole file back to services.

    -A -t 192.0.2.1:80 -s wlc -p 300
    -a -t 192.0.2.1:80 -r 10.0.2.2:8080 -m -w 1

`save_lines` writes what ipvsadm would; with `whole` also what ipvsadm forgets but reads: thresholds, and a mask without
persistence. `read` takes a file for the description of a table: services and their servers, each once, `#` comments,
blank lines. Nothing is looked at but the text, so every bad line is known before anything happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ipvsctl.errors import FileError, Refused, UsageError
from ipvsctl.formats.ipvsadm_args import INT_MAX, Command, Hint, Names, parse
from ipvsctl.formats.ipvsadm_text import Resolver, endpoint, sort_servers, sort_services
from ipvsctl.formats.ipvsadm_values import address_of, server_of, service_of
from ipvsctl.model.address import INET, PROTOCOLS, ServerAddress, ServiceAddress, parse_ip
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.row import ServerRow, ServiceRow
from ipvsctl.model.service import Server, Service, flag_names

_METHODS = {"nat": "-m", "dr": "-g", "local": "-g", "tun": "-i"}
_CHECKSUMS = {"no": "--tun-nocsum", "yes": "--tun-csum", "remote": "--tun-remcsum"}
_FORWARDS = {"m": "nat", "g": "dr", "i": "tun"}

_PLAIN_SETTINGS = re.compile(r"-([gm]) -w ([0-9]{1,9})")
_OCTETS = frozenset(map(str, range(256)))


_EXPORT = "`ipvsctl export` describes all that a director can be"


def save_lines(
    services: Iterable[ServiceRow], names: Resolver | None = None, *, whole: bool = False
) -> Iterator[str]:
    """The lines for services in the host's order, a service with its servers at a time, in ipvsadm's order.

    With `whole` raises Refused for what no line can say, such as a forwarding method that has no option.
    """
    for row in sort_services(list(services)):
        service = row.service
        option = service_option(service.address, names)
        lines = [_service_line(option, service, whole)]
        if whole:
            _check_service(service, lines[0])
        protocol = service.address.protocol
        for server in sort_servers(row.servers):
            if whole:
                _check_server(service.address, server)
            lines.append(_server_line(option, server, protocol, names, whole))
        yield "\n".join(lines) + "\n"


def _check_service(service: Service, line: str) -> None:
    """Raise Refused for a service that its line does not describe: one with what no option of ipvsadm says."""
    reason = "its protocol"
    if service.address.protocol in (*PROTOCOLS, "fwmark"):
        try:
            if service_of(parse(_words(line), NumericNames(), stream=True)) == service:
                return
            reason = "its settings"
        except UsageError as error:
            reason = f"its settings ({str(error).strip()})"
    raise Refused(f"cannot save {service.address}: ipvsadm has no line for {reason}; {_EXPORT}")


def _check_server(address: ServiceAddress, server: ServerRow) -> None:
    """Raise Refused for a server that has something no option of ipvsadm says."""
    if server.forward not in ("nat", "dr", "tun"):
        what = f"forward {server.forward}"
    elif server.tunnel is not None and server.tunnel.type not in ("gue", "gre"):
        what = f"tunnel {server.tunnel.type}"
    elif server.forward != "nat" and address.protocol != "fwmark" and server.port != address.port:
        what = f"forward {server.forward} to another port than the service's"
    elif server.forward != "tun" and server.family != address.family:
        what = f"forward {server.forward} to the other address family"
    elif not (0 <= server.weight <= INT_MAX and 0 <= server.lower <= server.upper <= INT_MAX):
        what = f"weight {server.weight}, thresholds {server.upper} and {server.lower}"
    else:
        return
    raise Refused(f"cannot save server {server.place} of {address}: ipvsadm has no line for {what}; {_EXPORT}")


class NumericNames:
    """Addresses as lines have them, and no names."""

    def ipv4(self, text: str) -> str | None:
        return None if ":" in text else _parsed(text)

    def ipv6(self, text: str) -> str | None:
        return _parsed(text) if ":" in text else None

    def host(self, text: str) -> str | None:
        return None

    def port(self, text: str, protocol: str) -> int | None:
        return None


def _parsed(text: str) -> str | None:
    try:
        return parse_ip(text)[1]
    except UsageError:
        return None


def service_option(address: ServiceAddress, names: Resolver | None = None) -> str:
    """`-t ADDRESS:PORT` and its like. A mark is written so that it can be read again (ipvsadm_differences)."""
    if address.protocol == "fwmark":
        return f"-f {address.fwmark}" + (" -6" if address.family == 10 else "")
    place = endpoint(address.address, address.port, address.protocol, names)
    short = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}.get(address.protocol, "--xxx-service")
    return f"{short} {place}"


def _service_line(option: str, service: Service, whole: bool) -> str:
    line = f"-A {option} -s {service.scheduler}"
    if service.persistent is not None:
        line += f" -p {service.persistent}"
    if service.netmask is not None and (whole or service.persistent is not None):
        line += f" -M {service.netmask}"
    if service.pe is not None:
        line += f" --pe {service.pe}"
    bits = service.bits
    if bits & 0x4:
        line += " -o"
    if bits & 0x38:
        line += f" -b {','.join(flag_names(bits & 0x38, service.scheduler))}"
    return line


def _server_line(option: str, server: ServerRow, protocol: str, names: Resolver | None, whole: bool) -> str:
    if names is None and server.family == INET:
        place = f"{server.text}:{server.port}"
    else:
        place = endpoint(server.text, server.port, protocol if protocol in PROTOCOLS else "", names)
    line = f"-a {option} -r {place} {_METHODS.get(server.forward, '-g')} -w {server.weight}"
    if whole and server.upper:
        line += f" -x {server.upper}"
    if whole and server.lower:
        line += f" -y {server.lower}"
    if server.forward == "tun":
        tunnel = server.tunnel
        if tunnel is None:
            line += " --tun-type ipip"
        elif tunnel.type in ("gue", "gre"):
            port = f" --tun-port {tunnel.port}" if tunnel.type == "gue" else ""
            line += f" --tun-type {tunnel.type}{port} {_CHECKSUMS[tunnel.csum]}"
    return line


# -- back to services -------------------------------------------------------------------------------------------------


class _Reading:
    """Services in the making: what the lines up to here have said.

    What `-S -n` writes of a server without a tunnel, behind its service's line, has a short way of its own (`_plain`).
    It may only give up, never refuse: what it gives up on is read as any other line.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.services: dict[ServiceAddress, tuple[Service, dict[ServerAddress, Server]]] = {}
        self.lines: dict[ServiceAddress, int] = {}
        self._prefix = "\n"
        self._port = 0
        self._servers: dict[ServerAddress, Server] = {}
        self._settings: dict[str, tuple[str, int]] = {}
        self._ports: dict[str, int] = {}

    def add(self, line: str, number: int) -> None:
        """Take a line in; raises UsageError."""
        if line.startswith(self._prefix) and self._plain(line[len(self._prefix) :]):
            return
        words = _words(line)
        if not words:
            return
        try:
            command = parse(words, self.names)
        except Hint:
            raise UsageError(f"{words[0]!r} is no command, expected -A or -a") from None
        match command.name:
            case "add-service":
                self._add_service(command, words, number)
            case "add-server":
                self._add_server(address_of(command), server_of(command))
            case other:
                raise UsageError(f"--{other} changes a table, and a file describes one: expected -A or -a")

    def _add_service(self, command: Command, words: list[str], number: int) -> None:
        service = service_of(command)
        address = service.address
        if address in self.services:
            raise UsageError(f"{address} is there already, in line {self.lines[address]}")
        self.services[address] = service, {}
        self.lines[address] = number
        # Its servers are likely to follow, and to tell of it in the same words.
        self._prefix = f"-a {words[1]} {words[2]} -r " if words[1] in ("-t", "-u") and address.family == INET else "\n"
        self._port = address.port
        self._servers = self.services[address][1]

    def _plain(self, rest: str) -> bool:
        """Take in the rest of a line behind -r, for a server of the last service; False when it is not as usual."""
        place, _, words = rest.partition(" ")
        settings = self._settings.get(words)
        if settings is None:
            found = _PLAIN_SETTINGS.fullmatch(words)
            if found is None:
                return False
            settings = self._settings[words] = _FORWARDS[found[1]], int(found[2])
        host, _, text = place.rpartition(":")
        octets = host.split(".")
        if len(octets) != 4 or not _OCTETS.issuperset(octets):
            return False
        port = self._ports.get(text)
        if port is None:
            if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
                return False
            port = self._ports[text] = int(text)
        forward, weight = settings
        address = ServerAddress(INET, host, port if forward == "nat" else self._port)
        server = Server(address, forward, weight)
        return self._servers.setdefault(address, server) is server

    def _add_server(self, address: ServiceAddress, server: Server) -> None:
        known = self.services.get(address)
        if known is None:
            raise UsageError(f"there is no service {address} in the lines before: its -A line is missing")
        if server.address in known[1]:
            raise UsageError(f"{server.address} is a server of {address} already")
        known[1][server.address] = server


def _words(line: str) -> list[str]:
    """The words up to a comment; `ipvsadm` in front is not told."""
    words = line.split()
    for at, word in enumerate(words):
        if word.startswith("#"):
            del words[at:]
            break
    return [word for word in words if word != "ipvsadm"]


def read(text: str, file: str, names: Names) -> tuple[ServiceWish, ...]:
    """The services that lines describe, in their order; `file` is its name in errors.

    Raises FileError for the first bad line; further ones are its notes, one line "FILE:LINE: REASON" each.
    """
    reading = _Reading(names)
    problems: list[FileError] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reading.add(line, number)
        except UsageError as error:
            problems.append(FileError(file, number, str(error).rstrip()))
    if problems:
        for other in problems[1:]:
            problems[0].add_note(str(other))
        raise problems[0]
    return tuple(ServiceWish(service, tuple(servers.values())) for service, servers in reading.services.values())
