"""What an ipvsadm command line means as values: the service, server or daemon it names, with ipvsadm's defaults."""

from __future__ import annotations

from typing import Any

from ipvsctl.formats.ipvsadm_args import Command
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.service import Server, Service, Tunnel, flag_names
from ipvsctl.model.status import Daemon, Timeouts

_NO_NAME = "?"
"""In place of a name that no module, engine or device can have: the host knows none of it and says so."""


def service_of(command: Command) -> Service:
    """The service of `-A` and `-E`."""
    scheduler = _name(command.scheduler or "wlc")
    bits = command.flags | (0x4 if "ops" in command.options else 0)
    return Service(
        address_of(command), scheduler, flag_names(bits, scheduler), command.persistent, command.netmask,
        _name(command.pe) if command.pe else None,
    )  # fmt: skip


def server_of(command: Command) -> Server:
    """The server of `-a` and `-e`; raises UsageError when its lower threshold is above the upper one."""
    tunnel = None
    if command.forward == "tun" and command.tunnel != "ipip":
        tunnel = Tunnel(command.tunnel, command.numbers.get("tun-port", 0), command.csum)
    number = command.numbers.get
    return Server(
        command.server, command.forward, number("weight", 1), number("u-threshold", 0), number("l-threshold", 0), tunnel
    )


def daemon_of(command: Command) -> Daemon:
    """The daemon of `--start-daemon` and `--stop-daemon`."""
    names = {"id": "syncid", "maxlen": "sync-maxlen", "port": "mcast-port", "ttl": "mcast-ttl"}
    values: dict[str, Any] = {name: command.numbers.get(option, 0) for name, option in names.items()}
    interface = command.interface or "eth0"
    plain = interface.isprintable() and "/" not in interface
    return Daemon(command.role, interface if plain else _NO_NAME, group=command.group, **values)


def timeouts_of(command: Command) -> Timeouts:
    return Timeouts(*command.timeouts)


def address_of(command: Command) -> ServiceAddress:
    """The service that a command which needs one names."""
    address = command.service
    assert address is not None, "the parser has asked for a service"
    return address


def _name(text: str) -> str:
    return text if text.isascii() and text.isprintable() and " " not in text else _NO_NAME
