"""The state of an emulated director: plain containers that the ports read and change.

It starts as a kernel does after boot: nothing of IPVS or connection tracking is loaded, forwarding is off, no rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface

from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import NO_STATS, ConntrackEntry, Daemon, ServerStatus, ServiceStatus, Stats, Timeouts

KERNEL = "6.1"
"""The kernel whose modules, sysctls and refusals are emulated: that of Debian 12."""


@dataclass(slots=True)
class RealServer:
    """A server with its counts of connections and its counters."""

    server: Server
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    stats: Stats = NO_STATS

    def status(self) -> ServerStatus:
        return ServerStatus(self.server, self.active, self.inactive, self.persistent, self.stats)


@dataclass(slots=True)
class VirtualService:
    """A service with its servers, oldest first.

    The kernel's list is the other way round, because it adds at the head (ip_vs_ctl.c: __ip_vs_update_dest).
    """

    service: Service
    servers: dict[ServerAddress, RealServer] = field(default_factory=dict)
    stats: Stats = NO_STATS

    def status(self) -> ServiceStatus:
        servers = tuple(server.status() for server in reversed(self.servers.values()))
        return ServiceStatus(self.service, servers, self.stats)


@dataclass(slots=True)
class Device:
    """A network device that is up."""

    mtu: int = 1500
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()


def _devices() -> dict[str, Device]:
    return {
        "lo": Device(65536, (IPv4Interface("127.0.0.1/8"), IPv6Interface("::1/128"))),
        "eth0": Device(),
        "eth1": Device(),
    }


@dataclass(slots=True)
class State:
    """Everything the ports see.

    `sysctls` holds those that exist now, by name, `written` the names of those that were ever set; `chains` is by
    family and table.
    """

    devices: dict[str, Device] = field(default_factory=_devices)
    modules: set[str] = field(default_factory=set)
    sysctls: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    services: dict[ServiceAddress, VirtualService] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(900, 120, 300))
    daemons: dict[str, Daemon] = field(default_factory=dict)
    chains: dict[tuple[int, str], tuple[OwnChain, ...]] = field(default_factory=dict)
    conntrack: list[ConntrackEntry] = field(default_factory=list)

    def devices_of_default(self) -> list[str]:
        """Devices that were never given an IPv4 address: giving one makes a device's settings its own."""
        return [
            name
            for name, device in self.devices.items()
            if not any(interface.version == 4 for interface in device.addresses)
        ]
