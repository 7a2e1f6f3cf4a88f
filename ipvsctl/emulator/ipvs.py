"""The IPVS port of an emulated director: the tables of ip_vs_ctl.c, and its refusals in their order.

Every change gives the errno that the kernel gives for it; `host.refusal` makes the words of it, so that they are the
same on both hosts. Orders are those of ip_vs_genl_set_cmd, ip_vs_add_service, ip_vs_add_dest, ip_vs_new_dest and
start_sync_thread in Linux 6.1.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from ipvsctl.emulator.modules import request
from ipvsctl.emulator.state import RealServer, State, VirtualService
from ipvsctl.errors import IpvsctlError, NotFound
from ipvsctl.host import BatchError, refusal
from ipvsctl.knowledge.schedulers import SCHEDULERS
from ipvsctl.model.address import ServerAddress, ServiceAddress, parse_ip
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    ZeroCounters,
)
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import NO_STATS, Daemon, Info, ServiceStatus, Timeouts

VERSION = "1.2.1"
TABLE_SIZE = 4096

_ENGINES = {"sip": "ip_vs_pe_sip"}

# ip_vs_sync.c: IP_VS_SYNC_GROUP, IP_VS_SYNC_PORT, and what a message may hold under the headers.
SYNC_GROUP = "224.0.0.81"
SYNC_PORT = 8848
_SYNC_MTU = 1500
_SYNC_BACKUP_LEAST = 1024
_HEADERS = {4: 28, 6: 48}

_MAPPED = IPv6Network("::ffff:0:0/96")


class EmulatedIpvs:
    """The IPVS port of an emulated director."""

    def __init__(self, state: State) -> None:
        self._state = state

    def info(self) -> Info:
        self._load()
        return Info(VERSION, TABLE_SIZE)

    def services(self) -> list[ServiceStatus]:
        self._load()
        found = sorted(self._state.services.items(), key=lambda item: item[0].sort_key)
        return [service.status() for _, service in found]

    def service(self, address: ServiceAddress) -> ServiceStatus:
        self._load()
        service = self._state.services.get(address)
        if service is None:
            raise NotFound(f"there is no service {address}")
        return service.status()

    def timeouts(self) -> Timeouts:
        self._load()
        return self._state.timeouts

    def daemons(self) -> list[Daemon]:
        self._load()
        return [self._state.daemons[role] for role in ("master", "backup") if role in self._state.daemons]

    def apply(self, changes: Sequence[IpvsChange]) -> None:
        """Make the changes in order, going on after a refused one; raises BatchError when there was any.

        Raises UsageError, with nothing done, for a group that is no address.
        """
        for change in changes:
            if isinstance(change, StartDaemon) and change.daemon.group:
                parse_ip(change.daemon.group)
        if changes:
            self._load()
        outcome: list[IpvsctlError | None] = []
        for change in changes:
            number = self._make(change)
            outcome.append(refusal(change, number, os.strerror(number)) if number else None)
        if any(outcome):
            raise BatchError(outcome)

    def _load(self) -> None:
        """Asking for the netlink family IPVS loads ip_vs (its alias net-pf-16-proto-16-family-IPVS)."""
        request(self._state, "ip_vs")

    def _make(self, change: IpvsChange) -> int:
        """Make one change; 0, or the errno and nothing changed."""
        match change:
            case AddService(service):
                return self._add_service(service)
            case EditService(service):
                return self._edit_service(service)
            case DeleteService(service):
                return 0 if self._state.services.pop(service.address, None) else errno.ESRCH
            case AddServer(address, server):
                return self._add_server(address, server)
            case EditServer(address, server):
                return self._edit_server(address, server)
            case DeleteServer(address, server):
                return self._delete_server(address, server)
            case ZeroCounters(where):
                return self._zero(where)
            case SetTimeouts(timeouts):
                now = self._state.timeouts
                self._state.timeouts = Timeouts(
                    timeouts.tcp or now.tcp, timeouts.tcp_fin or now.tcp_fin, timeouts.udp or now.udp
                )
                return 0
            case StartDaemon(daemon):
                return self._start_daemon(daemon)
            case StopDaemon(daemon):
                return 0 if self._state.daemons.pop(daemon.role, None) else errno.ESRCH

    # -- services -----------------------------------------------------------------------------------------------------

    def _add_service(self, service: Service) -> int:
        if service.address in self._state.services:
            return errno.EEXIST
        if not self._has_engines(service):
            return errno.ENOENT
        self._state.services[service.address] = VirtualService(service)
        return 0

    def _edit_service(self, service: Service) -> int:
        found = self._state.services.get(service.address)
        if found is None:
            return errno.ESRCH
        if not self._has_engines(service):
            return errno.ENOENT
        found.service = service
        return 0

    def _has_engines(self, service: Service) -> bool:
        """Load the modules of scheduler and persistence engine, as the kernel does; whether both are there.

        "none" is a service without a scheduler. The kernel loads any module of the right name ("ftp": ip_vs_ftp).
        """
        scheduler = service.scheduler
        if scheduler != "none" and not (request(self._state, f"ip_vs_{scheduler}") and scheduler in SCHEDULERS):
            return False
        return service.pe is None or (request(self._state, f"ip_vs_pe_{service.pe}") and service.pe in _ENGINES)

    def _zero(self, where: ServiceAddress | None) -> int:
        found = self._state.services.get(where) if where is not None else None
        if where is not None and found is None:
            return errno.ESRCH
        for service in [found] if found is not None else self._state.services.values():
            service.stats = NO_STATS
            for server in service.servers.values():
                server.stats = NO_STATS
        return 0

    # -- servers ------------------------------------------------------------------------------------------------------

    def _add_server(self, address: ServiceAddress, server: Server) -> int:
        service = self._state.services.get(address)
        if service is None:
            return errno.ESRCH
        if not self._families_fit(address, server):
            return errno.EINVAL
        if server.address in service.servers:
            return errno.EEXIST
        if not self._is_unicast(server.address):
            return errno.EINVAL
        service.servers[server.address] = RealServer(server)
        return 0

    def _edit_server(self, address: ServiceAddress, server: Server) -> int:
        service = self._state.services.get(address)
        if service is None:
            return errno.ESRCH
        if not self._families_fit(address, server):
            return errno.EINVAL
        found = service.servers.get(server.address)
        if found is None:
            return errno.ENOENT
        found.server = server
        return 0

    def _delete_server(self, address: ServiceAddress, server: Server) -> int:
        service = self._state.services.get(address)
        if service is None:
            return errno.ESRCH
        return 0 if service.servers.pop(server.address, None) else errno.ENOENT

    def _families_fit(self, address: ServiceAddress, server: Server) -> bool:
        """A server of the other family: by tunnel only, and never beside a synchronisation daemon."""
        if server.address.family == address.family:
            return True
        return server.forward == "tun" and not self._state.daemons

    def _is_unicast(self, server: ServerAddress) -> bool:
        """Whether the kernel takes the address for a server's (inet_addr_type, ipv6_addr_type)."""
        address = ip_address(server.address)
        local = [interface for device in self._state.devices.values() for interface in device.addresses]
        if isinstance(address, IPv6Address):
            if address.is_link_local:
                return any(interface.ip == address for interface in local)
            return not (address.is_unspecified or address.is_multicast or address in _MAPPED)
        if int(address) in (0, 0xFFFFFFFF) or address.is_multicast:
            return False
        return not any(address == interface.network.broadcast_address for interface in local)

    # -- synchronisation ----------------------------------------------------------------------------------------------

    def _start_daemon(self, daemon: Daemon) -> int:
        group = ip_address(daemon.group or SYNC_GROUP)
        if not group.is_multicast or self._has_mixed_families():
            return errno.EINVAL
        device = self._state.devices.get(daemon.interface)
        if device is None:
            return errno.ENODEV
        if daemon.role in self._state.daemons:
            return errno.EEXIST
        if daemon.role == "master" and group.version == 6 and daemon.interface == "lo":
            # The loopback device has no route for IPv6 multicast, and the sender connects.
            return errno.ENETUNREACH
        self._state.daemons[daemon.role] = replace(
            daemon,
            group=str(group),
            port=daemon.port or SYNC_PORT,
            ttl=daemon.ttl or 1,
            maxlen=_sync_maxlen(daemon, device.mtu, group),
        )
        return 0

    def _has_mixed_families(self) -> bool:
        return any(
            server.family != service.family
            for service, found in self._state.services.items()
            for server in found.servers
        )


def _sync_maxlen(daemon: Daemon, mtu: int, group: IPv4Address | IPv6Address) -> int:
    """Bytes of a synchronisation message (ip_vs_sync.c: start_sync_thread)."""
    headers = _HEADERS[group.version]
    backup = daemon.role == "backup"
    if daemon.maxlen:
        return min(max(daemon.maxlen, _SYNC_BACKUP_LEAST if backup else 1), 65535 - headers)
    return (min(max(mtu, _SYNC_MTU), 65535) if backup else _SYNC_MTU) - headers
