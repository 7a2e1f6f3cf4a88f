"""A network around a director: what a trace assumes of devices and routes where it is told only of services.

Clients come in by one device, behind the default route; real servers are neighbours on the other; virtual addresses are
the host's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.director import Director, ServiceWish
from ipvsctl.model.route import Route
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.model.status import Timeouts

CLIENTS, SERVERS = "eth0", "eth1"
"""Devices where none are named; the servers' is the first of nfct.accept_local that is not the clients'."""

_CLIENT_ADDRESSES = ("10.255.255.1/30", "fdff:ffff::1/126")
_SERVER_ADDRESSES = ("10.255.255.5/30", "fdff:ffff:1::1/126")
_GATEWAYS = {"0.0.0.0/0": "10.255.255.2", "::/0": "fdff:ffff::2"}


def network_around(
    services: Iterable[ServiceWish], accept_local: Iterable[str] = (), client_device: str = CLIENTS
) -> tuple[tuple[Device, ...], tuple[Route, ...]]:
    """Devices and routes that reach every server of the services, and every client."""
    named = (*accept_local, SERVERS, CLIENTS)
    server_device = next(name for name in named if name != client_device)
    virtual, servers = set[str](), set[str]()
    for wish in services:
        virtual.add(wish.service.address.address)
        servers.update(server.address.address for server in wish.servers)
    virtual.discard("")
    devices = (
        Device("lo", tuple(str(ip_network(address)) for address in sorted(virtual))),
        Device(client_device, _CLIENT_ADDRESSES),
        Device(server_device, _SERVER_ADDRESSES),
    )
    routes = (
        *(Route(destination, client_device, via=gateway) for destination, gateway in _GATEWAYS.items()),
        *(Route(str(ip_network(address)), server_device) for address in sorted(servers - virtual)),
    )
    return devices, routes


def note(devices: Iterable[Device]) -> str:
    """What a person should know of a snapshot in such a network."""
    _, clients, servers = (device.name for device in devices)
    return f"devices and routes are assumed: clients come in by {clients}, real servers are neighbours on {servers}"


def host_around(director: Director, client_device: str = CLIENTS) -> tuple[Snapshot, tuple[OwnChain, ...]]:
    """The assumed host of a director file, without its firewall tables, and the chains of rules that the file makes."""
    want = wanted(director)
    services = want.services or ()
    accepting = director.nfct.accept_local if director.nfct else ()
    devices, routes = network_around(services, accepting, client_device)
    return Snapshot(
        devices=devices,
        routes=routes,
        sysctls=dict(want.sysctls),
        modules=frozenset(want.modules),
        services=services,
        timeouts=want.timeouts or Timeouts(),
        notes=(note(devices),),
    ), want.chains or ()


def accepting_devices(sysctls: Mapping[str, str]) -> list[str]:
    """The devices whose accept_local is on."""
    return [
        name.split(".")[3].replace("/", ".")
        for name, value in sysctls.items()
        if name.startswith("net.ipv4.conf.") and name.endswith(".accept_local") and value != "0"
    ]
