"""Services, servers and daemons to attributes of the family IPVS, and answers back to them.

A director can hold what the model calls wrong: other programs than this one write to it, and the kernel checks little
(ip_vs_ctl.c, ip_vs_genl_parse_service and _dest). Reading never fails on such values. They appear as they are, in
objects that skipped the model's check, and what has no name gets its number as one: protocol "ip-47", forward
"method-5", tunnel "type-7". Encoding such an object gives the kernel's values back, so it can be edited and deleted.
Two things are not shown, as they do nothing there: tunnel attributes of a server that is not reached by a tunnel, and
the port of a tunnel that is not UDP.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from socket import AF_INET, AF_INET6, htons, inet_ntop, inet_pton, ntohs
from typing import Any, TypeVar

from ipvsctl.errors import Refused, UsageError
from ipvsctl.kernel import ipvs_tables as wire
from ipvsctl.kernel.ipvs_tables import DAEMON, DEST, INFO, SERVICE, STATS, STATS64, TOP, Layout, decode, encode
from ipvsctl.model.address import INET, INET6, PROTOCOLS, ServerAddress, ServiceAddress, parse_ip
from ipvsctl.model.service import DEFAULT_NETMASK, Server, Service, Tunnel, flag_names
from ipvsctl.model.status import NO_STATS, Daemon, Info, ServerStatus, Stats, Timeouts

_T = TypeVar("_T")

_PERSISTENT = 0x1
_ALL_FLAGS = 0xFFFFFFFF
_TWO_WORDS = struct.Struct("=II")
_WORD = struct.Struct("=I")

_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_FORWARD_NAMES = ("nat", "local", "tun", "dr", "bypass", "method-5", "method-6", "method-7")
_FORWARDS = {name: number for number, name in enumerate(_FORWARD_NAMES)}
_TUNNEL_NAMES = {1: "gue", 2: "gre"}
_TUNNELS = {name: number for number, name in _TUNNEL_NAMES.items()}
_CSUMS = {"no": 0, "yes": 1, "remote": 2}
_ROLES = {"master": 1, "backup": 2}

_ADDRESS = Layout(SERVICE, ("family", "protocol", "address", "port"))
_MARK = Layout(SERVICE, ("family", "fwmark"))
_SETTINGS = Layout(SERVICE, ("flags", "timeout", "netmask"))
_SERVER = (
    "family", "address", "port", "forward", "weight", "tunnel_type", "tunnel_port", "tunnel_flags", "upper", "lower",
)  # fmt: skip
_SERVER_NEST = Layout(DEST, _SERVER, head=wire.nest_head("dest", Layout(DEST, _SERVER).size))

# What the kernel answers since 5.3, on machines that read unaligned numbers (ip_vs_genl_fill_dest, _fill_stats64).
_COUNTERS = Layout(STATS64, tuple(STATS64.attributes))
_ALL_ZERO = _COUNTERS.encode(NO_STATS)
_STATUS = (
    "address", "port", "forward", "weight", "tunnel_type", "tunnel_port", "tunnel_flags", "upper", "lower",
    "active", "inactive", "persistent", "family", "stats", "stats64",
)  # fmt: skip
_SIZES = {"stats": Layout(STATS, tuple(STATS.attributes)).size, "stats64": _COUNTERS.size}
_STATUS_NEST = Layout(
    DEST, _STATUS, _SIZES, head=struct.pack("=HH", 4 + Layout(DEST, _STATUS, _SIZES).size, TOP.attributes["dest"][0])
)
_UNSAID = {"weight": 1, "stats": b"", "stats64": b""}


def command(number: int) -> bytes:
    """The header of a message: a command of the family."""
    return struct.pack("=BBH", number, wire.VERSION, 0)


# Values to messages.


def service_key(address: ServiceAddress) -> bytes:
    """A SERVICE nest with nothing but what identifies a service. Raises UsageError for an address that is none."""
    body = _key(address)
    return wire.nest_head("service", len(body)) + body


def _key(address: ServiceAddress) -> bytes:
    if address.protocol == "fwmark":
        return _MARK.encode((address.family, address.fwmark))
    number = PROTOCOLS.get(address.protocol) or int(address.protocol[3:])
    return _ADDRESS.encode((address.family, number, _packed(address.address), htons(address.port)))


def service_nest(service: Service) -> bytes:
    """A SERVICE nest with every setting."""
    bits, timeout = service.bits, 0
    if service.persistent is not None:
        bits, timeout = bits | _PERSISTENT, service.persistent
    names = _text("scheduler", service.scheduler)
    if service.pe is not None:
        names += _text("pe", service.pe)
    return _service(service.address, names, bits, timeout, service.netmask)


def address_nest(address: ServiceAddress) -> bytes:
    """A SERVICE nest as ipvsadm sends it where only the address counts: the settings are there, and off."""
    return _service(address, _text("scheduler", ""), 0, 0, None)


def _service(address: ServiceAddress, names: bytes, bits: int, timeout: int, netmask: str | int | None) -> bytes:
    mask = DEFAULT_NETMASK[address.family] if netmask is None else netmask
    packed = _WORD.pack(mask) if isinstance(mask, int) else _packed(mask)
    body = _key(address) + names + _SETTINGS.encode((_TWO_WORDS.pack(bits, _ALL_FLAGS), timeout, packed))
    return wire.nest_head("service", len(body)) + body


@lru_cache(maxsize=64)
def _text(name: str, value: str) -> bytes:
    return encode(SERVICE, ((name, value),))


def _packed(address: str) -> bytes:
    """4 or 16 bytes; packing fills up with zeros where 16 are wanted."""
    try:
        return inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):
        raise UsageError(f"{address!r} is not an IPv4 or IPv6 address") from None


def server_nest(server: Server) -> bytes:
    """A DEST nest with every setting."""
    address, tunnel = server.address, server.tunnel
    kind = port = csum = 0
    if tunnel is not None:
        kind, port, csum = _TUNNELS.get(tunnel.type) or int(tunnel.type[5:]), htons(tunnel.port), _CSUMS[tunnel.csum]
    family = address.family
    try:
        packed = inet_pton(family, address.address)
    except (OSError, ValueError):
        raise UsageError(f"{address.address!r} is not an IPv4 or IPv6 address") from None
    forward = _FORWARDS[server.forward]
    values = family, packed, htons(address.port), forward, server.weight, kind, port, csum, server.upper, server.lower
    return _SERVER_NEST.encode(values)


def daemon_nest(daemon: Daemon) -> bytes:
    """A DAEMON nest with what is asked for: 0 and "" leave a value to the kernel."""
    values: list[tuple[str, Any]] = [
        ("state", _ROLES[daemon.role]), ("interface", daemon.interface), ("id", daemon.id),
    ]  # fmt: skip
    values += ((name, value) for name in ("maxlen", "port", "ttl") if (value := getattr(daemon, name)))
    if daemon.group:
        values.append(("group6" if ":" in daemon.group else "group", _packed(daemon.group)))
    return encode(TOP, (("daemon", encode(DAEMON, values)),))


def role_nest(role: str) -> bytes:
    """A DAEMON nest as ipvsadm sends it to stop a daemon: of a role there is one at most."""
    values = (("state", _ROLES[role]), ("interface", ""), ("id", 0))
    return encode(TOP, (("daemon", encode(DAEMON, values)),))


def timeouts_body(timeouts: Timeouts) -> bytes:
    """The attributes of SET_CONFIG."""
    return encode(TOP, (("tcp", timeouts.tcp), ("tcp_fin", timeouts.tcp_fin), ("udp", timeouts.udp)))


# Answers to values.


def decode_service(message: bytes) -> tuple[Service, Stats]:
    """The service in an answer's attributes. Raises Refused for bytes that are no service."""
    found = decode(SERVICE, _need(decode(TOP, message), "service", "the answer"))
    family = _need(found, "family", "SERVICE")
    if family not in (INET, INET6):
        raise Refused(f"cannot read the kernel's answer: a service of address family {family}")
    if "fwmark" in found:
        address = ServiceAddress("fwmark", family, fwmark=found["fwmark"])
    else:
        number = _need(found, "protocol", "SERVICE")
        protocol = _PROTOCOL_NAMES.get(number) or f"ip-{number}"
        text = _address(family, _need(found, "address", "SERVICE"))
        address = ServiceAddress(protocol, family, text, ntohs(found.get("port", 0)))
    scheduler = found.get("scheduler", "none")
    bits = _TWO_WORDS.unpack(found["flags"])[0] if "flags" in found else 0
    mask: str | int | None = None
    if "netmask" in found:
        mask = inet_ntop(AF_INET, found["netmask"]) if family == INET else _WORD.unpack(found["netmask"])[0]
    service = _build(
        Service, address, scheduler, flag_names(bits, scheduler),
        found.get("timeout", 0) if bits & _PERSISTENT else None, None if mask == DEFAULT_NETMASK[family] else mask,
        found.get("pe"),
    )  # fmt: skip
    return service, _stats(found.get("stats64", b""), found.get("stats", b""))


def decode_server(message: bytes, family: int) -> ServerStatus:
    """The server in an answer's attributes; `family` is its service's, for kernels before 3.18 that do not say it.

    Raises Refused for bytes that are no server.
    """
    values = _STATUS_NEST.decode(message)
    if values is None:
        found = decode(DEST, _need(decode(TOP, message), "dest", "the answer"))
        _need(found, "address", "DEST")
        values = tuple(found.get(name, _UNSAID.get(name, 0)) for name in _STATUS)
    active, inactive, persistent, own, narrow, wide = values[9:]
    return ServerStatus(_server(own or family, *values[:9]), active, inactive, persistent, _stats(wide, narrow))


# Services share servers, and a table that is watched is read again and again.
@lru_cache(maxsize=65536)
def _server(
    family: int, packed: bytes, port: int, method: int, weight: int, kind: int, tunnel_port: int, csum: int,
    upper: int, lower: int,
) -> Server:  # fmt: skip
    if family not in (INET, INET6):
        raise Refused(f"cannot read the kernel's answer: a server of address family {family}")
    forward = _FORWARD_NAMES[method & 7]
    tunnel = None
    if kind and forward == "tun":
        tunnel = _build(
            Tunnel, _TUNNEL_NAMES.get(kind) or f"type-{kind}", 0 if kind == 2 else ntohs(tunnel_port),
            "remote" if csum & 2 else "yes" if csum & 1 else "no",
        )  # fmt: skip
    address = ServerAddress(family, _address(family, packed), ntohs(port))
    return _build(Server, address, forward, weight, upper, lower, tunnel)


def decode_timeouts(message: bytes) -> Timeouts:
    """The timeouts in an answer; 0 for a protocol that the kernel was built without."""
    found = decode(TOP, message)
    return _build(Timeouts, found.get("tcp", 0), found.get("tcp_fin", 0), found.get("udp", 0))


def decode_info(message: bytes) -> Info:
    """Version and table size in an answer to GET_INFO."""
    found = decode(INFO, message)
    version = _need(found, "version", "the answer")
    return Info(f"{version >> 16 & 0xFF}.{version >> 8 & 0xFF}.{version & 0xFF}", found.get("table_size", 0))


def decode_daemon(message: bytes) -> Daemon:
    """The synchronisation daemon in an answer's attributes, with the values that the kernel chose itself."""
    found = decode(DAEMON, _need(decode(TOP, message), "daemon", "the answer"))
    state = _need(found, "state", "DAEMON")
    group = ""
    if "group6" in found:
        group = _address(INET6, found["group6"])
    elif "group" in found:
        group = inet_ntop(AF_INET, found["group"])
    return _build(
        Daemon, next((role for role, number in _ROLES.items() if number == state), f"state-{state}"),
        found.get("interface", ""), found.get("id", 0), found.get("maxlen", 0), group, found.get("port", 0),
        found.get("ttl", 0),
    )  # fmt: skip


def _need(found: dict[str, Any], name: str, nest: str) -> Any:
    if name not in found:
        raise Refused(f"cannot read the kernel's answer: {nest} has no {name}")
    return found[name]


def _address(family: int, packed: bytes) -> str:
    if family == INET:
        return inet_ntop(family, packed[:4])
    text = inet_ntop(family, packed)
    # The C library writes the end of some addresses as IPv4, the model does not.
    return parse_ip(text)[1] if "." in text else text


def _stats(wide: bytes, narrow: bytes) -> Stats:
    """Counters of 64 bits, of 32 from kernels before 4.1."""
    if not wide:
        return Stats(**decode(STATS, narrow)) if narrow else NO_STATS
    if wide == _ALL_ZERO:
        return NO_STATS
    values = _COUNTERS.decode(wide)
    return Stats(**decode(STATS64, wide)) if values is None else Stats._make(values)


def _build(cls: Callable[..., _T], *values: Any) -> _T:
    """`cls(*values)`, and for values that the class refuses an object that was not asked."""
    try:
        return cls(*values)
    except UsageError:
        made: Any = object.__new__(cls)  # type: ignore[arg-type]
        for field, value in zip(fields(made), values, strict=True):
            object.__setattr__(made, field.name, value)
        result: _T = made
        return result
