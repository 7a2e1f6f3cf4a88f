"""What a host reports: services and servers with their counters, daemons, timeouts, conntrack entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ipvsctl.errors import UsageError
from ipvsctl.model.service import Server, Service


class Stats(NamedTuple):
    """Totals since the last zero, and rates per second smoothed by the kernel's estimator (ip_vs_est.c)."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    cps: int = 0
    pps_in: int = 0
    pps_out: int = 0
    bps_in: int = 0
    bps_out: int = 0


NO_STATS = Stats()


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A real server as the host has it. Connections are counts of entries in the IPVS connection table."""

    server: Server
    active_connections: int = 0
    inactive_connections: int = 0
    persistent_connections: int = 0
    stats: Stats = NO_STATS


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as the host has it, its servers in the host's order: most recently added first."""

    service: Service
    servers: tuple[ServerStatus, ...] = ()
    stats: Stats = NO_STATS


@dataclass(frozen=True, slots=True)
class Info:
    """The IPVS version ("1.2.1") and the number of buckets of its connection table."""

    version: str
    table_size: int


@dataclass(frozen=True, slots=True)
class Timeouts:
    """IPVS timeouts in seconds: established TCP, TCP after FIN, UDP. 0 in a request leaves that one as it is."""

    tcp: int = 0
    tcp_fin: int = 0
    udp: int = 0

    def __post_init__(self) -> None:
        for name, value in (("tcp", self.tcp), ("tcp_fin", self.tcp_fin), ("udp", self.udp)):
            if not 0 <= value <= 31 * 86400:
                raise UsageError(f"timeout {name} {value} is out of range, expected 0..{31 * 86400} seconds")


KERNEL_TIMEOUTS = Timeouts(900, 120, 300)
"""What IPVS starts with (ip_vs_proto_tcp.c, ip_vs_proto_udp.c)."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A connection synchronisation daemon of the kernel (ip_vs_sync.c).

    `role` "master" or "backup"; `id` 0..255 (0 on a backup: any); 0 and "" of the others: the kernel's default.
    """

    role: str
    interface: str
    id: int = 0
    maxlen: int = 0
    group: str = ""
    port: int = 0
    ttl: int = 0

    def __post_init__(self) -> None:
        if self.role not in ("master", "backup"):
            raise UsageError(f"sync role {self.role!r} is unknown, expected master or backup")
        if not 0 < len(self.interface) <= 15 or "/" in self.interface or not self.interface.isprintable():
            raise UsageError(f"sync interface {self.interface!r} is not a device name of 1..15 characters")
        for name, value, highest in (
            ("id", self.id, 255), ("maxlen", self.maxlen, 65507), ("port", self.port, 65535), ("ttl", self.ttl, 255),
        ):  # fmt: skip
            if not 0 <= value <= highest:
                raise UsageError(f"sync {name} {value} is out of range, expected 0..{highest}")


@dataclass(frozen=True, slots=True)
class ConntrackEntry:
    """One nf_conntrack entry. `timeout` in seconds; `status` the IPS_* names in lower case; `helper` "" for none."""

    protocol: str
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    reply_source: str = ""
    reply_destination: str = ""
    reply_source_port: int = 0
    reply_destination_port: int = 0
    state: str = ""
    timeout: int = 0
    mark: int = 0
    helper: str = ""
    status: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Connection:
    """An entry of the IPVS connection table: client, virtual address, server; as in /proc/net/ip_vs_conn.

    `protocol` "tcp", "udp", "sctp", or "ip" for a template of a firewall mark's service, whose `virtual` is the mark as
    an address. `state` the kernel's name (ESTABLISHED, UDP, NONE ...); `expires` seconds left.
    """

    protocol: str
    client: str
    client_port: int
    virtual: str
    virtual_port: int
    server: str
    server_port: int
    state: str
    expires: int = 0
    flags: tuple[str, ...] = ()
