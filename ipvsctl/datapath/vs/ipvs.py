"""IPVS as a whole: its tables, its hook functions, and how it is set up (net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_core.c).

    services, scheduling   what the administrator set up, and which server a new connection gets
    conns                  the connection table
    requests, replies      the hook functions; errors: ICMP errors in both
    transmit, nfct, ftp    forwarding methods, conntrack, the application

There are no synchronisation messages; that a backup daemon runs matters only for backup_only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.fragments import VS_FWD, VS_IN, VS_OUT
from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Verdict
from ipvsctl.datapath.vs.conns import Connections
from ipvsctl.datapath.vs.defense import Defense
from ipvsctl.datapath.vs.entry import AVAILABLE, Conn
from ipvsctl.datapath.vs.ftp import Ftp
from ipvsctl.datapath.vs.icmp import Errors
from ipvsctl.datapath.vs.in_hook import Requests
from ipvsctl.datapath.vs.nfct import Nfct
from ipvsctl.datapath.vs.out_hook import Replies
from ipvsctl.datapath.vs.schedule import Scheduling
from ipvsctl.datapath.vs.services import Services
from ipvsctl.datapath.vs.statistics import Estimator
from ipvsctl.datapath.vs.transmit import Transmit
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
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
from ipvsctl.model.status import Connection, ServiceStatus, Timeouts

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_IN_USE = frozenset({"ipvs"})
_UNUSED: frozenset[str] = frozenset()


class Ipvs:
    """The part `vs` of the engine. `backup`: a backup synchronisation daemon runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.backup = False
        self.services = Services(engine)
        self.conns = Connections(engine)
        self.nfct = Nfct(engine, self.conns)
        self.ftp = Ftp(engine, self.conns, self.nfct)
        self.conns.bind_app = self.ftp.bind
        self.scheduling = Scheduling(engine, self.services, self.conns)
        self.defense = Defense(engine, self.conns)
        self.transmit = Transmit(engine, self.conns, self.nfct)
        self.errors = Errors(self)
        self.requests = Requests(self)
        self.replies = Replies(self)
        self._services_of = {INET: 0, INET6: 0}
        self._total = self.services.total
        self._estimator = Estimator(engine, self.services)
        self.in_hook = self.requests.hook
        self.forward_icmp = self.requests.forward
        self.out_hook = self.replies.hook

    # -- the hooks ----------------------------------------------------------------------------------------------------

    def hooks(self, family: int) -> frozenset[str]:
        """What is in use: the hook functions of a family are there while it has a service (ip_vs_register_hooks)."""
        return _IN_USE if self._services_of[family] else _UNUSED

    def gather(self, skb: Skb) -> Verdict:
        """ip_vs_gather_frags: None when the skb is a whole packet now, else what the hook answers."""
        user = VS_IN if skb.hook == LOCAL_IN else VS_FWD if skb.hook == FORWARD else VS_OUT
        return self.engine.ip.gather(skb, user)

    def count_in(self, conn: Conn, length: int) -> None:
        """ip_vs_in_stats: at the server, its service and in all, while the server is there."""
        dest = conn.dest
        if dest is None or not dest.flags & AVAILABLE:
            return
        counters = dest.stats
        counters.inpkts += 1
        counters.inbytes += length
        if dest.service is not None:
            counters = dest.service.stats
            counters.inpkts += 1
            counters.inbytes += length
        counters = self._total
        counters.inpkts += 1
        counters.inbytes += length

    def count_out(self, conn: Conn, length: int) -> None:
        """ip_vs_out_stats."""
        dest = conn.dest
        if dest is None or not dest.flags & AVAILABLE:
            return
        counters = dest.stats
        counters.outpkts += 1
        counters.outbytes += length
        if dest.service is not None:
            counters = dest.service.stats
            counters.outpkts += 1
            counters.outbytes += length
        counters = self._total
        counters.outpkts += 1
        counters.outbytes += length

    def drop_conntrack(self, conn: Conn) -> None:
        """A connection that used conntrack has ended."""
        self.nfct.drop_conntrack(conn)

    # -- what the administrator does ----------------------------------------------------------------------------------

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Timeouts of states, in seconds; 0 leaves one as it is."""
        self.engine.flows.clear()
        self.conns.states.set_timeouts(timeouts)

    def add_service(self, service: Service) -> None:
        """Add a service; the first of its family brings the hook functions."""
        self.engine.flows.clear()
        self.services.add(service)
        self._count_services(service.address.family, 1)

    def edit_service(self, service: Service) -> None:
        """Replace a service's settings; raises KeyError for one that is not there, as all that follow do."""
        self.engine.flows.clear()
        self.services.edit(service)

    def delete_service(self, address: ServiceAddress) -> None:
        """Delete a service with its servers; the last of its family takes the hook functions along."""
        self.engine.flows.clear()
        self.services.delete(address)
        self._count_services(address.family, -1)

    def _count_services(self, family: int, more: int) -> None:
        before = self._services_of[family]
        self._services_of[family] = before + more
        if not before or not before + more:
            self.engine.rebuild()

    def add_server(self, address: ServiceAddress, server: Server) -> None:
        """Add a server to a service."""
        self.engine.flows.clear()
        self.transmit.ways.forget_server(self.services.add_server(address, server))

    def edit_server(self, address: ServiceAddress, server: Server) -> None:
        """Replace a server's settings."""
        self.engine.flows.clear()
        self.transmit.ways.forget_server(self.services.edit_server(address, server))

    def delete_server(self, address: ServiceAddress, server: ServerAddress) -> None:
        """Take a server out of its service."""
        self.engine.flows.clear()
        self.services.delete_server(address, server)

    def zero(self, address: ServiceAddress | None) -> None:
        """Set counters to 0: of a service, or of all."""
        self.engine.flows.settle()
        self.services.zero(address)

    def apply(self, change: IpvsChange) -> None:
        """Do what a change says."""
        if isinstance(change, AddService):
            self.add_service(change.service)
        elif isinstance(change, EditService):
            self.edit_service(change.service)
        elif isinstance(change, DeleteService):
            self.delete_service(change.service.address)
        elif isinstance(change, AddServer):
            self.add_server(change.service, change.server)
        elif isinstance(change, EditServer):
            self.edit_server(change.service, change.server)
        elif isinstance(change, DeleteServer):
            self.delete_server(change.service, change.server.address)
        elif isinstance(change, ZeroCounters):
            self.zero(change.service)
        elif isinstance(change, SetTimeouts):
            self.set_timeouts(change.timeouts)
        elif isinstance(change, StartDaemon | StopDaemon) and change.daemon.role == "backup":
            self.engine.flows.clear()
            self.backup = isinstance(change, StartDaemon)

    # -- what there is ------------------------------------------------------------------------------------------------

    def report(self) -> list[ServiceStatus]:
        """The services with their servers and counters."""
        self.engine.flows.settle()
        return self.services.report()

    def connections(self) -> list[Connection]:
        """The connection table."""
        return self.conns.report()

    # -- time ---------------------------------------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Do what is due by the clock: defence once a second, rates every two."""
        self.defense.poll(now)
        self._estimator.poll(now)

    def poll_at(self) -> float | None:
        """When `poll` has something to do next."""
        due = [at for at in (self.defense.poll_at(), self._estimator.poll_at()) if at is not None]
        return min(due) if due else None
