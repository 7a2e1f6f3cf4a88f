"""Values as plain dictionaries and back: the JSON of the command line, the journal, and the emulator's socket.

Services and what a host reports of them are here, rules and changes in changes.py: listing needs only the former.

The keys are the words of the director file. Reading is strict: a dictionary of another shape raises UsageError, never
KeyError or TypeError, because what is read here may come from a socket that anybody of the same user can write to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ipvsctl.errors import UsageError
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.status import ConntrackEntry, Daemon, Info, ServerStatus, ServiceStatus, Stats, Timeouts

Dict = dict[str, Any]
T = TypeVar("T")


def strict(reader: Callable[[Any], T]) -> Callable[[Any], T]:
    """Any failure of a reader that is due to the data's shape becomes UsageError."""

    @wraps(reader)
    def read(data: Any) -> T:
        try:
            return reader(data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            what = reader.__name__.removesuffix("_from_dict").replace("_", " ")
            raise UsageError(f"not a {what}: {type(error).__name__} {error}") from None

    return read


def text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r} is not text")
    return value


def number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a number")
    return value


def _optional_number(value: Any) -> int | None:
    return None if value is None else number(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text(item) for item in list(value))


# -- services and servers ---------------------------------------------------------------------------------------------


def service_to_dict(service: Service) -> Dict:
    return {
        "address": str(service.address),
        "scheduler": service.scheduler,
        "flags": list(service.flags),
        "persistent": service.persistent,
        "netmask": service.netmask,
        "pe": service.pe,
    }


@strict
def service_from_dict(data: Any) -> Service:
    mask = data["netmask"]
    return Service(
        ServiceAddress.parse(text(data["address"])),
        text(data["scheduler"]),
        _texts(data["flags"]),
        _optional_number(data["persistent"]),
        mask if mask is None or type(mask) in (str, int) else text(mask),
        None if data["pe"] is None else text(data["pe"]),
    )


def server_to_dict(server: Server) -> Dict:
    tunnel = server.tunnel
    return {
        "address": str(server.address),
        "forward": server.forward,
        "weight": server.weight,
        "upper": server.upper,
        "lower": server.lower,
        "tunnel": None if tunnel is None else {"type": tunnel.type, "port": tunnel.port, "csum": tunnel.csum},
    }


_NO_SERVICE = ServiceAddress("tcp", 2)


@strict
def server_from_dict(data: Any) -> Server:
    tunnel = data["tunnel"]
    return Server(
        ServerAddress.parse(text(data["address"]), _NO_SERVICE),
        text(data["forward"]),
        number(data["weight"]),
        number(data["upper"]),
        number(data["lower"]),
        None if tunnel is None else Tunnel(text(tunnel["type"]), number(tunnel["port"]), text(tunnel["csum"])),
    )


def stats_to_dict(stats: Stats) -> Dict:
    return stats._asdict()


@strict
def stats_from_dict(data: Any) -> Stats:
    return Stats(*(number(data[field]) for field in Stats._fields))


def server_status_to_dict(status: ServerStatus) -> Dict:
    return {
        **server_to_dict(status.server),
        "active_connections": status.active_connections,
        "inactive_connections": status.inactive_connections,
        "persistent_connections": status.persistent_connections,
        "stats": stats_to_dict(status.stats),
    }


@strict
def server_status_from_dict(data: Any) -> ServerStatus:
    return ServerStatus(
        server_from_dict(data),
        number(data["active_connections"]),
        number(data["inactive_connections"]),
        number(data["persistent_connections"]),
        stats_from_dict(data["stats"]),
    )


def status_to_dict(status: ServiceStatus) -> Dict:
    """A service as `list -j` shows it."""
    return {
        **service_to_dict(status.service),
        "servers": [server_status_to_dict(server) for server in status.servers],
        "stats": stats_to_dict(status.stats),
    }


@strict
def status_from_dict(data: Any) -> ServiceStatus:
    servers = tuple(server_status_from_dict(server) for server in list(data["servers"]))
    return ServiceStatus(service_from_dict(data), servers, stats_from_dict(data["stats"]))


# -- the rest of IPVS and conntrack -----------------------------------------------------------------------------------


def info_to_dict(info: Info) -> Dict:
    return {"version": info.version, "table_size": info.table_size}


@strict
def info_from_dict(data: Any) -> Info:
    return Info(text(data["version"]), number(data["table_size"]))


def timeouts_to_dict(timeouts: Timeouts) -> Dict:
    return {"tcp": timeouts.tcp, "tcp_fin": timeouts.tcp_fin, "udp": timeouts.udp}


@strict
def timeouts_from_dict(data: Any) -> Timeouts:
    return Timeouts(number(data["tcp"]), number(data["tcp_fin"]), number(data["udp"]))


def daemon_to_dict(daemon: Daemon) -> Dict:
    return {name: getattr(daemon, name) for name in Daemon.__slots__}


@strict
def daemon_from_dict(data: Any) -> Daemon:
    return Daemon(
        text(data["role"]),
        text(data["interface"]),
        number(data["id"]),
        number(data["maxlen"]),
        text(data["group"]),
        number(data["port"]),
        number(data["ttl"]),
    )


def conntrack_to_dict(entry: ConntrackEntry) -> Dict:
    return {name: list(v) if isinstance(v := getattr(entry, name), tuple) else v for name in ConntrackEntry.__slots__}


@strict
def conntrack_from_dict(data: Any) -> ConntrackEntry:
    values: Dict = {}
    for name in ConntrackEntry.__slots__:
        value = data[name]
        values[name] = _texts(value) if name == "status" else value
        numeric = name.endswith("port") or name in ("timeout", "mark")
        if name != "status" and type(value) is not (int if numeric else str):
            raise TypeError(f"{name} {value!r}")
    return ConntrackEntry(**values)
