"""An address that a client may have: for conversations that nobody named a client for."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import packed

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

CLIENT_PORT = 40000
_FAR_AWAY = {INET: "192.0.2.1", INET6: "2001:db8:ffff::1"}
"""Documentation's addresses."""


def stranger(engine: Engine, family: int, device: str | None = None) -> tuple[bytes, str] | None:
    """A client far away, or a neighbour on a device that no server is behind, and the device that it comes in by.

    None when no client (on `device`) can be reached.
    """
    servers = {dest.address for service in engine.vs.services.all() for dest in service.dests}
    ways = (engine.routing.output(INET6 if len(address) == 16 else INET, address) for address in servers)
    behind = {way.device for way in ways if not isinstance(way, Reason)}
    for shy in (True, False):
        for text in _candidates(engine, family):
            address = packed(text)
            way = engine.routing.output(family, address)
            if isinstance(way, Reason) or way.kind != "unicast" or device not in (None, way.device):
                continue
            if address not in servers and not (shy and way.device in behind):
                return address, way.device
    return None


def _candidates(engine: Engine, family: int) -> Iterator[str]:
    yield _FAR_AWAY[family]
    for known in engine.routing.devices.values():
        for text in known.addresses:
            own = ip_interface(text)
            if (own.version == 6) == (family == INET6) and known.name != "lo" and not own.ip.is_link_local:
                for index in range(1, min(4, own.network.num_addresses)):
                    yield str(own.network[index])
