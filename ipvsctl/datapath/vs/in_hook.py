"""Requests: ip_vs_in_hook, ip_vs_forward_icmp, ip_vs_try_to_schedule and ip_vs_leave of ip_vs_core.c.

Every packet that comes to the host, or that a process of the host sends, passes here. One of a known connection goes
to that connection's server; one that may open a connection is scheduled when a service wants it; all else goes on.
AH and ESP have no ports and are never scheduled: they follow the UDP connection of port 500 between the same hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import LOCAL_OUT
from ipvsctl.datapath.skb import ICMP, ICMPV6, SCTP, SYN, TCP, UDP, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs import states_sctp, states_tcp
from ipvsctl.datapath.vs.entry import (
    AVAILABLE,
    BYPASS,
    METHOD_MASK,
    METHOD_NAMES,
    NFCT,
    NOOUTPUT,
    ONE_PACKET,
    Conn,
    VirtualService,
)
from ipvsctl.datapath.vs.header import Header, Refusal
from ipvsctl.datapath.vs.icmp import AH, ESP, Unrelated
from ipvsctl.datapath.vs.states import INPUT, name, set_state
from ipvsctl.model.address import INET
from ipvsctl.wire.address import endpoint

if TYPE_CHECKING:
    from ipvsctl.datapath.vs.ipvs import Ipvs

FTP_PORT = 21
_SCTP_INIT = 1
_REUSED = (states_tcp.TIME_WAIT, states_tcp.CLOSE)


class Requests:
    """The hook functions for packets on their way to a server."""

    __slots__ = ("_conns", "_engine", "_settings", "_vs")

    def __init__(self, vs: Ipvs) -> None:
        self._vs = vs
        self._engine = vs.engine
        self._settings = vs.engine.settings
        self._conns = vs.conns

    def hook(self, skb: Skb) -> Verdict:
        """ip_vs_in_hook, at LOCAL_IN and LOCAL_OUT."""
        if skb.ipvs or skb.dst is None or (skb.broadcast and skb.hook != LOCAL_OUT) or self._passive():
            return None
        protocol = skb.protocol
        if protocol != TCP and protocol != UDP and protocol != SCTP:
            return self._other(skb)
        if skb.fragment:
            # Without conntrack IPv6 fragments come in pieces; only the first has ports, and the others go on.
            return None
        data, at = skb.data, skb.thoff
        if len(data) < at + 4:
            return Reason.TRUNCATED
        header = Header(
            skb.family, protocol, skb.source, skb.destination, data[at] << 8 | data[at + 1],
            data[at + 2] << 8 | data[at + 3], 0, at,
        )  # fmt: skip
        conn = self._conns.find_in(header)
        if conn is not None:
            if self._engine.tracer is not None:
                self._note_found(conn)
            if _opens(data, at, protocol):
                outcome = self._reopened(skb, conn)
                if isinstance(outcome, Reason):
                    return outcome
                conn = outcome
            if conn is not None and conn.dest is not None and not conn.dest.flags & AVAILABLE:
                verdict = self._server_gone(skb, conn)
                if verdict is not None:
                    return verdict
                conn = None
        if conn is None:
            found = self.schedule(skb, header)
            if not isinstance(found, Conn):
                return found
            conn = found
        return self._request(skb, conn, header)

    def _request(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """A packet of a connection: counted, its state moved, and sent."""
        self._vs.count_in(conn, len(skb.data))
        set_state(conn, INPUT, skb, header, self._engine)
        verdict = self._vs.transmit.send(skb, conn, header)
        if not conn.flags & ONE_PACKET:
            conn.in_packets += 1
        elif conn.control is not None:
            conn.control.in_packets += 1
        self._conns.put(conn, self._engine.now)
        return verdict

    def forward(self, skb: Skb) -> Verdict:
        """ip_vs_forward_icmp: errors about connections of firewall marks, whose addresses are not the host's own."""
        if skb.protocol != (ICMP if skb.family == INET else ICMPV6) or self._passive():
            return None
        verdict = self._vs.errors.incoming(skb)
        return None if isinstance(verdict, Unrelated) else verdict

    def _passive(self) -> bool:
        """sysctl_backup_only."""
        return self._vs.backup and self._settings["net.ipv4.vs.backup_only"] != 0

    def _other(self, skb: Skb) -> Verdict:
        """A packet of no protocol that is scheduled: an ICMP error, AH, ESP, or one that only ignore_tunneled marks."""
        if skb.protocol == (ICMP if skb.family == INET else ICMPV6):
            verdict = self._vs.errors.incoming(skb)
            if not isinstance(verdict, Unrelated):
                return verdict
        if skb.protocol in (AH, ESP):
            header = Header(skb.family, skb.protocol, skb.source, skb.destination, 0, 0, 0, skb.thoff)
            conn = self._conns.find_in(header)
            if conn is None:
                return None
            if conn.dest is not None and not conn.dest.flags & AVAILABLE:
                return self._server_gone(skb, conn)
            return self._request(skb, conn, header)
        if self._settings["net.ipv4.vs.ignore_tunneled"]:
            skb.ipvs = True
            if self._engine.tracer is not None:
                self._engine.tracer.note("ignore_tunneled: IPVS will not look at what is inside it")
        return None

    # -- connections that must not go on ------------------------------------------------------------------------------

    def _reopened(self, skb: Skb, conn: Conn) -> Conn | Verdict:
        """A packet that opens a connection, and there is one already: the same one to go on with it, None to schedule.

        It is scheduled anew when the old one is over (conn_reuse_mode), or when its server has weight 0 and
        expire_nodest_conn is set. While conntrack knows the old one, the packet is dropped instead: the client's next
        try finds neither.
        """
        dest = conn.dest
        if dest is not None and not dest.weight and self._settings["net.ipv4.vs.expire_nodest_conn"]:
            why = "its server has weight 0 (expire_nodest_conn)"
            old = self._vs.nfct.uses_old_conntrack(conn, skb)
        else:
            mode = self._settings["net.ipv4.vs.conn_reuse_mode"]
            if not mode or not _is_over(conn, mode):
                return conn
            why = "it is over (conn_reuse_mode)"
            old = self._vs.nfct.uses_old_conntrack(conn, skb)
            if conn.controls and old:
                # What it controls still needs it.
                return conn
        if self._engine.tracer is not None:
            self._engine.tracer.note(f"the client opens it again, and {why}: it ends")
        return self._end(conn, old, expires=not conn.controls)

    def _server_gone(self, skb: Skb, conn: Conn) -> Verdict:
        """The server of the connection was deleted: None to schedule the packet anew, else it is dropped."""
        if not self._settings["net.ipv4.vs.expire_nodest_conn"]:
            return Reason.IPVS_SERVER_GONE
        if self._engine.tracer is not None:
            self._engine.tracer.note("its server was deleted (expire_nodest_conn): it ends")
        return self._end(conn, self._vs.nfct.uses_old_conntrack(conn, skb))

    def _end(self, conn: Conn, old: bool, expires: bool = True) -> Verdict:
        """Let a connection expire at once. `old`: its conntrack entry goes with it, and the packet is dropped."""
        if not old:
            # The conntrack entry that the packet has is the next connection's.
            conn.flags &= ~NFCT
        if expires:
            self._conns.expire_now(conn)
        return Reason.IPVS_OLD_CONNTRACK if old else None

    # -- new connections ----------------------------------------------------------------------------------------------

    def schedule(self, skb: Skb, header: Header) -> Conn | Verdict:
        """ip_vs_try_to_schedule: a new connection, or what the hook answers."""
        tracer = self._engine.tracer
        if header.protocol in (AH, ESP):
            return None
        outcome = self._vs.scheduling.conn_schedule(skb, header)
        if isinstance(outcome, Conn):
            if tracer is not None:
                tracer.note(
                    f"new connection {endpoint(outcome.caddr, outcome.cport)} to "
                    f"{endpoint(outcome.vaddr, outcome.vport)}: server {endpoint(outcome.daddr, outcome.dport)} "
                    f"({METHOD_NAMES.get(outcome.flags & METHOD_MASK, '?')})",
                    minor=True,
                )
            return outcome
        if outcome is None:
            if tracer is not None:
                tracer.note(self._why_not(skb, header))
            return None
        if outcome is Refusal.NOT_OURS:
            if tracer is not None:
                tracer.note("never scheduled: FTP data (source port 20), or a reply of a server on the host itself")
            return None
        service = self._vs.scheduling.service
        if outcome is Refusal.NO_DESTINATION and service is not None:
            return self.leave(service, skb, header)
        return self._vs.scheduling.failure

    def leave(self, service: VirtualService, skb: Skb, header: Header) -> Verdict:
        """ip_vs_leave: the service has no server that takes the packet.

        With cache_bypass a packet of a firewall mark goes to its own destination; the client is told that the port is
        unreachable; or the packet goes on to the local stack, when it was only the ftp service that took it.
        """
        engine = self._engine
        if (
            service.fwmark
            and self._settings["net.ipv4.vs.cache_bypass"]
            and not header.inverse
            and not header.icmp
            and self._is_unicast(header)
        ):
            return self._bypass(service, skb, header)
        port = header.sport if header.inverse else header.dport
        if service.port == FTP_PORT and port != FTP_PORT:
            if engine.tracer is not None:
                engine.tracer.note("the ftp service does not take this port, and no other service does: it goes on")
            return None
        if not header.icmp:
            if skb.family == INET:
                engine.ip.icmp_error(skb, 3, 3)
            else:
                engine.ip.icmp_error(skb, 1, 4)
        return Reason.IPVS_NO_DESTINATION

    def _is_unicast(self, header: Header) -> bool:
        """ip_vs_addr_is_unicast: by the routing table, but for IPv6 by the address alone (ipv6_addr_type)."""
        address = header.destination
        if header.family == INET:
            return self._engine.routing.address_type(INET, address) == "unicast"
        first = address[0]
        if 0x20 <= first < 0xE0 or first & 0xFE == 0xFC or (first == 0xFE and address[1] & 0x80):
            return True
        return not any(address[:12]) and any(address[12:])

    def _bypass(self, service: VirtualService, skb: Skb, header: Header) -> Verdict:
        flags = BYPASS | (ONE_PACKET if service.ops and header.protocol == UDP else 0)
        conn = self._conns.new(
            header.family, header.protocol, (header.source, header.sport), (header.destination, header.dport),
            (b"\0" * len(header.source), 0), flags, None, skb.mark,
        )  # fmt: skip
        if self._engine.tracer is not None:
            self._engine.tracer.note("no server takes it: it bypasses the service to its own destination")
        self._vs.count_in(conn, len(skb.data))
        set_state(conn, INPUT, skb, header, self._engine)
        verdict = self._vs.transmit.send(skb, conn, header)
        conn.in_packets += 1
        self._conns.put(conn, self._engine.now)
        return verdict

    # -- for the trace ------------------------------------------------------------------------------------------------

    def _note_found(self, conn: Conn) -> None:
        if self._engine.tracer is not None:
            self._engine.tracer.note(
                f"known connection {endpoint(conn.caddr, conn.cport)} to {endpoint(conn.vaddr, conn.vport)}, "
                f"server {endpoint(conn.daddr, conn.dport)}, {name(conn.protocol, conn.state)}"
            )

    def _why_not(self, skb: Skb, header: Header) -> str:
        if header.inverse:
            address, port = header.source, header.sport
        else:
            address, port = header.destination, header.dport
        service = self._vs.services.lookup(header.family, skb.mark, header.protocol, address, port)
        if service is None:
            return "no service wants it"
        return (
            f"{service.service.address} wants it, but it does not open a connection, and no entry knows it: it goes on"
        )


def _opens(data: bytearray, at: int, protocol: int) -> bool:
    """is_new_conn: a TCP segment with SYN, an SCTP packet that begins with INIT."""
    if protocol == TCP:
        return len(data) >= at + 20 and bool(data[at + 13] & SYN)
    return protocol == SCTP and len(data) >= at + 16 and data[at + 12] == _SCTP_INIT


def _is_over(conn: Conn, mode: int) -> bool:
    """is_new_conn_expected: it may be replaced by a new one; bit 1 of the mode adds FIN_WAIT of one-way ones."""
    if conn.control is not None:
        return False
    if conn.protocol == TCP:
        return conn.state in _REUSED or bool(mode & 2 and conn.state == states_tcp.FIN_WAIT and conn.flags & NOOUTPUT)
    return conn.protocol == SCTP and conn.state == states_sctp.CLOSED
