"""Services and servers as rows of a list: what status.py says of them, flat, for lists of tens of thousands.

A row of a server is a plain tuple with the address as bytes: it is read, sorted and printed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from ipvsctl.model.address import INET
from ipvsctl.model.service import Service, Tunnel
from ipvsctl.model.status import NO_STATS, ServerStatus, ServiceStatus, Stats


class ServerRow(NamedTuple):
    """A real server: `address` is its 4 or 16 bytes; all else as in Server and ServerStatus."""

    family: int
    address: bytes
    port: int
    forward: str
    weight: int
    tunnel: Tunnel | None
    upper: int
    lower: int
    active: int
    inactive: int
    persistent: int
    stats: Stats = NO_STATS

    @property
    def text(self) -> str:
        """The address in its canonical form."""
        return ".".join(map(str, self.address)) if self.family == INET else _ipv6(self.address)

    @property
    def place(self) -> str:
        """The address with its port, as ServerAddress writes it."""
        return f"{self.text}:{self.port}" if self.family == INET else f"[{self.text}]:{self.port}"


class ServiceRow(NamedTuple):
    """A service with the rows of its servers, in the host's order."""

    service: Service
    servers: Sequence[ServerRow]
    stats: Stats = NO_STATS


@lru_cache(maxsize=65536)
def _ipv6(address: bytes) -> str:
    return str(IPv6Address(address))


def row_of(status: ServiceStatus) -> ServiceRow:
    """A service as a row."""
    return ServiceRow(status.service, [_server_row(each) for each in status.servers], status.stats)


def _server_row(status: ServerStatus) -> ServerRow:
    server = status.server
    place = server.address
    return ServerRow(
        place.family, ip_address(place.address).packed, place.port, server.forward, server.weight, server.tunnel,
        server.upper, server.lower, status.active_connections, status.inactive_connections,
        status.persistent_connections, status.stats,
    )  # fmt: skip
