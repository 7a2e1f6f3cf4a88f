"""The services of IPVS and their servers: lookups of packets, and what the administrator changes (ip_vs_ctl.c).

What the kernel refuses is refused by the emulator's port before, in the kernel's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ipvsctl.datapath.schedulers.base import Scheduler
from ipvsctl.datapath.schedulers.hashing import MAGLEV_SIZE
from ipvsctl.datapath.schedulers.table import SCHEDULERS
from ipvsctl.datapath.vs import statistics
from ipvsctl.datapath.vs.dests import RealServers, Trash, update_overload
from ipvsctl.datapath.vs.entry import AVAILABLE, MASQ, METHODS, Counters, Dest, VirtualService
from ipvsctl.errors import Unavailable, UsageError
from ipvsctl.model.address import INET, PROTOCOLS
from ipvsctl.model.status import ServerStatus, ServiceStatus
from ipvsctl.wire.address import packed

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.model.address import ServerAddress, ServiceAddress
    from ipvsctl.model.service import Server, Service

_TCP = 6
_FTP, _FTP_DATA = 21, 20


class Services:
    """The services of one namespace. `total` counts for all of them; `real` finds servers by their own address."""

    __slots__ = (
        "_any_port", "_engine", "_ftp", "_marks", "_services", "_trash", "_unprivileged", "_virtual", "real", "total",
    )  # fmt: skip

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._services: dict[ServiceAddress, VirtualService] = {}
        self._marks: dict[tuple[int, int], VirtualService] = {}
        self._virtual: dict[bytes, dict[int, VirtualService]] = {}
        """By address, then by protocol << 16 | port."""
        self._ftp = 0
        self._any_port = 0
        self._trash = Trash(engine)
        self.real = RealServers()
        self.total = Counters()
        self._unprivileged = 1024
        engine.settings.watch(self._read_settings)
        self._read_settings()

    def _read_settings(self) -> None:
        self._unprivileged = self._engine.settings.get("net.ipv4.ip_unprivileged_port_start", 1024)

    # -- finding ------------------------------------------------------------------------------------------------------

    def lookup(self, family: int, fwmark: int, protocol: int, address: bytes, port: int) -> VirtualService | None:
        """The service of a packet: by mark, exactly, port 21 for FTP's data, every port (ip_vs_service_find)."""
        if fwmark:
            service = self._marks.get((family, fwmark))
            if service is not None:
                return service
        ports = self._virtual.get(address)
        if ports is None:
            return None
        service = ports.get(protocol << 16 | port)
        if service is not None:
            return service
        if self._ftp and protocol == _TCP and (port == _FTP_DATA or port >= self._unprivileged):
            service = ports.get(_TCP << 16 | _FTP)
            if service is not None:
                return service
        return ports.get(protocol << 16) if self._any_port else None

    def find(self, address: ServiceAddress) -> VirtualService | None:
        """The service of an address as the administrator names it."""
        return self._services.get(address)

    def all(self) -> list[VirtualService]:
        """Every service, in the order in which they were added."""
        return list(self._services.values())

    def __len__(self) -> int:
        return len(self._services)

    def families(self) -> set[int]:
        """The families that have a service: IPVS's hooks are registered for those."""
        return {service.family for service in self._services.values()}

    def has_dest(self, family: int, protocol: int, address: bytes, port: int) -> bool:
        """Whether a nat server has this address and port (ip_vs_has_real_service)."""
        return self.real.find(protocol, address, port) is not None

    def find_real_service(self, family: int, protocol: int, address: bytes, port: int) -> Dest | None:
        """The nat server of this address and port, the newest of several (ip_vs_find_real_service)."""
        return self.real.find(protocol, address, port)

    def find_tunnel(self, family: int, address: bytes, port: int) -> Dest | None:
        """The server reached by tunnel at this address and UDP port, 0 for none (ip_vs_find_tunnel)."""
        return self.real.tunnel(address, port)

    def counters(self) -> Iterator[Counters]:
        """All that have rates."""
        yield self.total
        for service in self._services.values():
            yield service.stats
            for dest in service.dests:
                yield dest.stats

    # -- services -----------------------------------------------------------------------------------------------------

    def add(self, service: Service) -> VirtualService:
        """Add a service (ip_vs_add_service).

        Raises UsageError for a scheduler that IPVS has not, Unavailable for a persistence engine: there is none here.
        """
        self._check(service)
        address = service.address
        size = 4 if address.family == INET else 16
        number = _TCP if address.fwmark else PROTOCOLS[address.protocol]
        packed_address = bytes(size) if address.fwmark else packed(address.address)
        new = VirtualService(service, number, packed_address, address.port)
        new.netmask = _netmask(service)
        new.scheduler = self._scheduler(new)
        self._services[address] = new
        if new.fwmark:
            self._marks[new.family, new.fwmark] = new
        else:
            self._virtual.setdefault(new.address, {})[number << 16 | new.port] = new
        self._ftp += new.port == _FTP
        self._any_port += new.port == 0
        return new

    def edit(self, service: Service) -> VirtualService:
        """Replace a service's settings; its scheduler starts anew only when it is another (ip_vs_edit_service).

        Raises KeyError for a service that is not there, else as `add`.
        """
        self._check(service)
        found = self._services[service.address]
        if service.scheduler == "mh" and len(found.dests) > MAGLEV_SIZE:
            raise UsageError(f"{service.address}: scheduler mh takes at most {MAGLEV_SIZE} servers")
        before, found.service = found.service, service
        found.ops = "ops" in service.flags
        found.persistent = service.persistent or 0
        found.netmask = _netmask(service)
        if service.scheduler != before.scheduler:
            if found.scheduler is not None:
                found.scheduler.done()
            found.scheduler = self._scheduler(found)
        elif found.scheduler is not None:
            found.scheduler.flags = service.bits
        return found

    def delete(self, address: ServiceAddress) -> None:
        """Delete a service; its servers go to the trash, connections stay; raises KeyError (ip_vs_del_service)."""
        service = self._services.pop(address)
        if service.tracked:
            service.tracked = False
            self._engine.ct.unuse(service.family)
        if service.fwmark:
            del self._marks[service.family, service.fwmark]
        else:
            ports = self._virtual[service.address]
            del ports[service.protocol << 16 | service.port]
            if not ports:
                del self._virtual[service.address]
        self._ftp -= service.port == _FTP
        self._any_port -= service.port == 0
        if service.scheduler is not None:
            service.scheduler.done()
            service.scheduler = None
        dests = list(service.dests)
        service.dests.clear()
        for dest in dests:
            self._discard(service, dest)
        if dests:
            self._sweep()

    def _check(self, service: Service) -> None:
        if service.scheduler != "none" and service.scheduler not in SCHEDULERS:
            raise UsageError(f"{service.address}: IPVS has no scheduler {service.scheduler}")
        if service.pe is not None:
            raise Unavailable(f"{service.address}: the datapath does not have the persistence engine {service.pe}")

    def _scheduler(self, service: VirtualService) -> Scheduler | None:
        made = SCHEDULERS.get(service.service.scheduler)
        return made(service, self._engine) if made is not None else None

    def zero(self, address: ServiceAddress | None) -> None:
        """Set the counters of a service and its servers, or of all, to 0; raises KeyError (ip_vs_zero_all)."""
        if address is None:
            statistics.zero(self.total)
        for service in self._services.values() if address is None else [self._services[address]]:
            statistics.zero(service.stats)
            for dest in service.dests:
                statistics.zero(dest.stats)

    # -- servers ------------------------------------------------------------------------------------------------------

    def add_server(self, address: ServiceAddress, server: Server) -> Dest:
        """Add a server at the head of a service's list; one from the trash comes back (ip_vs_add_dest)."""
        service = self._services[address]
        own = packed(server.address.address)
        dest = self._trash.take(service, own, server.address.port)
        if dest is None:
            dest = Dest(server, own)
        else:
            if dest.service is not service:
                statistics.zero(dest.stats)
            self._set(dest, server)
            dest.last_weight = server.weight
        dest.service = service
        self._track(service, dest)
        dest.flags |= AVAILABLE
        self.real.add(dest)
        service.dests.insert(0, dest)
        if service.scheduler is not None:
            service.scheduler.added(dest)
        return dest

    def edit_server(self, address: ServiceAddress, server: Server) -> Dest:
        """Replace a server's settings; it keeps its place and its connections their method (ip_vs_edit_dest)."""
        service = self._services[address]
        dest = service.dests[_index(service, server.address)]
        # What stays under its old method and tunnel keeps its place in the table of real servers.
        moves = dest.method != METHODS[server.forward] or dest.server.tunnel != server.tunnel
        if moves:
            self.real.remove(dest)
        self._set(dest, server)
        if moves:
            self.real.add(dest)
        self._track(service, dest)
        if service.scheduler is not None:
            service.scheduler.edited(dest)
        return dest

    def delete_server(self, address: ServiceAddress, server: ServerAddress) -> None:
        """Take a server out; connections to it stay, and it waits in the trash; raises KeyError (ip_vs_del_dest)."""
        service = self._services[address]
        index = _index(service, server)
        dest = service.dests.pop(index)
        dest.flags &= ~AVAILABLE
        if service.scheduler is not None:
            service.scheduler.removed(dest, index)
        self._discard(service, dest)
        self._sweep()

    @staticmethod
    def _set(dest: Dest, server: Server) -> None:
        dest.server = server
        dest.method = METHODS[server.forward]
        dest.weight = server.weight
        if server.weight:
            dest.last_weight = server.weight
        if (dest.upper, dest.lower) != (server.upper, server.lower):
            dest.upper, dest.lower = server.upper, server.lower
            update_overload(dest, 0)

    def _track(self, service: VirtualService, dest: Dest) -> None:
        """FTP by nat needs connection tracking, from the first such server on (ip_vs_register_conntrack)."""
        if service.port == _FTP and dest.method == MASQ and not service.tracked:
            service.tracked = True
            self._engine.ct.use(service.family)

    def _discard(self, service: VirtualService, dest: Dest) -> None:
        dest.flags &= ~AVAILABLE
        self.real.remove(dest)
        self._trash.add(service, dest)

    def _sweep(self) -> None:
        """With expire_nodest_conn the connections of deleted servers end now (ip_vs_enqueue_expire_nodest_conns)."""
        if self._engine.settings["net.ipv4.vs.expire_nodest_conn"]:
            self._engine.vs.conns.sweep()

    # -- reporting ----------------------------------------------------------------------------------------------------

    def report(self) -> list[ServiceStatus]:
        """Services by address, each with its servers, the most recently added first."""
        found = sorted(self._services.items(), key=lambda item: item[0].sort_key)
        stopped = not self._engine.settings["net.ipv4.vs.run_estimation"]
        return [_status(service, stopped) for _, service in found]


def _status(service: VirtualService, stopped: bool) -> ServiceStatus:
    servers = tuple(
        ServerStatus(dest.server, dest.active, dest.inactive, dest.persistent, statistics.read(dest.stats, stopped))
        for dest in service.dests
    )
    return ServiceStatus(service.service, servers, statistics.read(service.stats, stopped))


def _index(service: VirtualService, address: ServerAddress) -> int:
    for index, dest in enumerate(service.dests):
        if dest.server.address == address:
            return index
    raise KeyError(address)


def _netmask(service: Service) -> bytes:
    """The mask of persistence as bytes; empty for single clients."""
    mask = service.netmask
    if mask is None:
        return b""
    if isinstance(mask, str):
        return packed(mask)
    bits = 32 if service.address.family == INET else 128
    return ((1 << bits) - (1 << bits - mask)).to_bytes(bits // 8)
