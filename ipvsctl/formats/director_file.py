"""The director file: TOML text -> Director, and Director -> the text that `export` writes.

    parse     text -> TOML (rtoml) -> director_read.py: keys and rules -> Director
    render    Director -> text in the one order and form; parse(render(director)) == director

A file with nothing wrong is read without positions. When something is wrong, toml_lines.py finds the lines afterwards.
The format is described in ipvsctl.toml(5).
"""

from __future__ import annotations

import gc
import re
from typing import Any

from ipvsctl.errors import FileError
from ipvsctl.formats.director_read import Reading
from ipvsctl.formats.director_values import Problem, quoted
from ipvsctl.model.director import Director, FirewallWish, Nfct, ServiceWish
from ipvsctl.model.service import Server
from ipvsctl.model.status import Daemon, Timeouts

MAX_SIZE = 16 * 2**20
"""Bytes; 1,000 services of 10 servers are 0.8 MB. Whoever reads a file need not read more than one byte beyond."""

SHOWN = 20
"""Problems told at once, the first as the error, the others as its notes."""


def parse(text: str | bytes, file: str) -> Director:
    """The director that a file asks for; `file` is its name in errors.

    Raises FileError with the line, from 1, of the first problem in the file and what was expected there. Further
    problems are the error's notes (`__notes__`), one line "FILE:LINE: REASON" each. A file that names nothing is an
    error: applied with --prune it would remove every service.
    """
    content = decoded(text, file)
    # Thousands of new values and no garbage among them: the cycle collector would only look at them again and again.
    paused = gc.isenabled()
    gc.disable()
    try:
        reading = Reading(tables(content, file))
    finally:
        if paused:
            gc.enable()
    if reading.problems:
        raise report(reading.problems, content, file)
    director = reading.director
    if not (director.services or director.sysctls or director.firewall or director.syncs is not None
            or (director.nfct or Nfct()) != Nfct() or (director.timeouts or Timeouts()) != Timeouts()):  # fmt: skip
        raise FileError(file, 1, "the file names nothing, expected at least one of [nfct], [[service]], [firewall],"
                        " [sysctl], [timeout], [[sync]] with a key in it")  # fmt: skip
    return director


def decoded(text: str | bytes, file: str) -> str:
    """A file's text; raises FileError for one that is too long, is not UTF-8 or holds a NUL byte."""
    if len(text) > MAX_SIZE:
        raise FileError(file, 1, f"the file has {len(text)} bytes, expected at most {MAX_SIZE}")
    try:
        content = text.decode() if isinstance(text, bytes) else text.encode().decode()
    except UnicodeDecodeError as error:
        data, start = error.object, error.start
        line = data.count(b"\n", 0, start) + 1
        raise FileError(file, line, f"byte 0x{data[start]:02x} is not UTF-8, expected UTF-8 text") from None
    except UnicodeEncodeError as error:
        line = error.object.count("\n", 0, error.start) + 1
        raise FileError(file, line, "a surrogate is not a character, expected UTF-8 text") from None
    nul = content.find("\0")
    if nul >= 0:
        raise FileError(file, content.count("\n", 0, nul) + 1, "a NUL byte, expected UTF-8 text")
    return content


def tables(content: str, file: str) -> dict[str, Any]:
    """What TOML makes of a text; raises FileError with the line of the first fault."""
    import rtoml

    try:
        return rtoml.loads(content)
    except rtoml.TomlParsingError as error:
        # Without a place it is a key of too many parts, the only limit that the parser checks afterwards.
        place = re.fullmatch(r"(.*) at line (\d+) column (\d+)", str(error), re.DOTALL)
        lines = content.split("\n")
        if place is None:
            line = max(range(len(lines)), key=lambda number: lines[number].count(".")) + 1
            reason = f"{error}, expected fewer tables in each other"
        else:
            line = min(int(place[2]), len(lines))
            reason = f"{place[1]} (column {place[3]})"
        reason = " ".join(reason.split())
        raise FileError(file, line, f"not TOML: {reason}, in {quoted(lines[line - 1].strip())}") from None


def report(problems: list[Problem], content: str, file: str) -> FileError:
    """The error for the problems of a file, in the order of its lines."""
    from ipvsctl.formats.toml_lines import locate

    lines = locate(content, {path for problem in problems for path in (problem.path, problem.first) if path})
    lines[()] = 1
    told = sorted(
        {(lines[path], f"{reason} (line {lines[first]})" if first else reason) for path, reason, first in problems}
    )
    error = FileError(file, *told[0])
    for line, reason in told[1:SHOWN]:
        error.add_note(f"{file}:{line}: {reason}")
    if len(told) > SHOWN:
        error.add_note(f"{file}: and {len(told) - SHOWN} more")
    return error


# -- writing ----------------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f]')


def _text(value: str) -> str:
    return f'"{_SPECIAL.sub(lambda match: f"{chr(92)}u{ord(match[0]):04x}", value)}"'


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case tuple():
            return f"[{', '.join(map(_value, value))}]"
    return _text(str(value))


def _lines(header: str, *pairs: tuple[str, object]) -> list[str]:
    """A table; keys whose value is None or an empty tuple are left out."""
    lines = [header] if header else []
    return lines + [f"{key} = {_value(value)}" for key, value in pairs if value is not None and value != ()]


def render(director: Director) -> str:
    """The canonical file: `parse` gives the same director back. What has its default and may be left out, is."""
    tables = []
    if director.syncs == ():
        tables.append(["sync = []"])
    if director.nfct is not None:
        names = ("conntrack", "snat_reroute", "be_liberal", "accept_local")
        tables.append(_lines("[nfct]", *((name, getattr(director.nfct, name)) for name in names)))
    for wish in director.services:
        tables += _service(wish)
    if director.firewall is not None:
        tables.append(_firewall(director.firewall))
    if director.sysctls:
        tables.append(["[sysctl]", *(f"{_text(name)} = {_sysctl(value)}" for name, value in director.sysctls)])
    if director.timeouts is not None:
        timeouts = ("tcp", "tcp_fin", "udp")
        tables.append(_lines("[timeout]", *((name, getattr(director.timeouts, name) or None) for name in timeouts)))
    tables += [_sync(daemon) for daemon in director.syncs or ()]
    return "\n".join("\n".join(table) + "\n" for table in tables)


def _service(wish: ServiceWish) -> list[list[str]]:
    service = wish.service
    header = _lines(
        "[[service]]",
        ("address", str(service.address)),
        ("scheduler", service.scheduler),
        ("flags", service.flags),
        ("persistent", service.persistent),
        ("netmask", service.netmask),
        ("pe", service.pe),
        ("helper", wish.helper),
    )
    return [header, *(_server(server, service.address.port) for server in wish.servers)]


def _server(server: Server, service_port: int) -> list[str]:
    address = server.address
    tunnel = server.tunnel
    # The kernel reports "local" for an address of its own, whatever was asked for; asking for dr gives it again.
    forward = server.forward if server.forward in ("nat", "dr", "tun") else "dr"
    return _lines(
        "[[service.server]]",
        ("address", address.address if address.port == service_port else str(address)),
        ("forward", forward),
        ("weight", server.weight),
        ("upper", server.upper or None),
        ("lower", server.lower or None),
        ("tunnel", tunnel.type if tunnel else None),
        ("tunnel_port", tunnel.port or None if tunnel else None),
        ("tunnel_csum", tunnel.csum if tunnel and tunnel.csum != "no" else None),
    )


def _firewall(firewall: FirewallWish) -> list[str]:
    return _lines(
        "[firewall]",
        ("backend", firewall.backend),
        ("protect", firewall.protect),
        ("forward_policy", firewall.forward_policy),
        ("local_clients", firewall.local_clients),
    )


def _sysctl(value: str) -> str:
    return value if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value) else _text(value)


def _sync(daemon: Daemon) -> list[str]:
    return _lines(
        "[[sync]]",
        ("role", daemon.role),
        ("interface", daemon.interface),
        ("id", daemon.id),
        ("maxlen", daemon.maxlen or None),
        ("group", daemon.group or None),
        ("port", daemon.port or None),
        ("ttl", daemon.ttl or None),
    )
