"""Which packets open a connection, and to which server.

Sources: ip_vs_core.c (ip_vs_schedule), ip_vs_proto_tcp.c, _udp.c and _sctp.c (tcp_conn_schedule and its like).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import RST, SCTP, SYN, TCP, UDP
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs import persistence
from ipvsctl.datapath.vs.conns import key
from ipvsctl.datapath.vs.entry import ONE_PACKET
from ipvsctl.datapath.vs.header import Refusal
from ipvsctl.datapath.vs.states_sctp import CHUNK_ABORT, CHUNK_INIT
from ipvsctl.wire.address import endpoint

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.conns import Connections
    from ipvsctl.datapath.vs.entry import Conn, VirtualService
    from ipvsctl.datapath.vs.header import Header
    from ipvsctl.datapath.vs.services import Services

_FTP_DATA = 20
_LEAST = {TCP: 20, UDP: 8, SCTP: 16}
"""Bytes of the transport header that must be there; of a packet inside an ICMP error only the ports."""


class Scheduling:
    """The scheduling decision. `service` is the one that the last packet was for, None for none.

    `failure` says why the last packet was refused with Refusal.FAILED.
    """

    __slots__ = (
        "_conns", "_engine", "_services", "_sloppy_sctp", "_sloppy_tcp", "failure", "service",
    )  # fmt: skip

    def __init__(self, engine: Engine, services: Services, conns: Connections) -> None:
        self._engine = engine
        self._services = services
        self._conns = conns
        self.service: VirtualService | None = None
        self.failure = Reason.TRUNCATED
        self._sloppy_tcp = self._sloppy_sctp = False
        engine.settings.watch(self._read_settings)
        self._read_settings()

    def _read_settings(self) -> None:
        self._sloppy_tcp = bool(self._engine.settings["net.ipv4.vs.sloppy_tcp"])
        self._sloppy_sctp = bool(self._engine.settings["net.ipv4.vs.sloppy_sctp"])

    def conn_schedule(self, skb: Skb, header: Header) -> Conn | Refusal | None:
        """A new connection for a packet that no connection knows (tcp_, udp_ and sctp_conn_schedule).

        None: no service wants it, or it does not open a connection; it goes on. FAILED: it is cut off, or drop_packet
        takes it.
        """
        self.service = None
        protocol = header.protocol
        least = _LEAST.get(protocol)
        if least is None or header.fragment:
            return None
        data, at = skb.data, header.length
        if len(data) < at + (4 if header.icmp else least):
            self.failure = Reason.TRUNCATED
            return Refusal.FAILED
        if not header.icmp:
            if protocol == TCP:
                flags = data[at + 13]
                if flags & RST or not (flags & SYN or self._sloppy_tcp):
                    return None
            elif protocol == SCTP:
                chunk = data[at + 12]
                if chunk == CHUNK_ABORT or not (chunk == CHUNK_INIT or self._sloppy_sctp):
                    return None
        if header.inverse:
            address, port = header.source, header.sport
        else:
            address, port = header.destination, header.dport
        self.service = service = self._services.lookup(header.family, skb.mark, protocol, address, port)
        if service is None:
            return None
        if self._engine.vs.defense.todrop():
            self.failure = Reason.IPVS_DROP_PACKET
            return Refusal.FAILED
        return self.schedule(service, skb, header)

    def schedule(self, service: VirtualService, skb: Skb, header: Header) -> Conn | Refusal:
        """A new connection to a server of the service (ip_vs_schedule)."""
        if header.inverse:
            caddr, cport, vaddr, vport = header.destination, header.dport, header.source, header.sport
        else:
            caddr, cport, vaddr, vport = header.source, header.sport, header.destination, header.dport
        protocol = header.protocol
        if cport == _FTP_DATA:
            return Refusal.NOT_OURS
        # What a server on this host answers looks like a request of a client.
        own = not skb.indev or skb.indev == "lo"
        if own and self._conns.find_in_key(key(protocol, vaddr, caddr, vport, cport)) is not None:
            return Refusal.NOT_OURS
        # One object each for a million connections.
        if vaddr == service.address:
            vaddr = service.address
        if vport == service.port:
            vport = service.port
        if service.persistent:
            conn: Conn | Refusal = persistence.schedule(
                self._engine, self._conns, service, skb, header, (caddr, cport), (vaddr, vport)
            )  # fmt: skip
            if isinstance(conn, Refusal):
                return conn
        else:
            if vport != service.port and not service.fwmark:
                return Refusal.NO_DESTINATION
            scheduler = service.scheduler
            dest = scheduler.pick(header, skb) if scheduler is not None else None
            if dest is None:
                return Refusal.NO_DESTINATION
            conn = self._conns.new(
                service.family, protocol, (caddr, cport), (vaddr, vport), (dest.address, dest.port or vport),
                ONE_PACKET if protocol == UDP and service.ops else 0, dest, skb.mark,
            )  # fmt: skip
        dest = conn.dest
        if dest is not None:
            dest.stats.connections += 1
        service.stats.connections += 1
        self._services.total.connections += 1
        if self._engine.tracer is not None and dest is not None:
            chosen = endpoint(dest.address, dest.port)
            self._engine.tracer.note(
                f"{service.service.address}: scheduler {service.service.scheduler} chose {chosen}", server=chosen
            )
        return conn
