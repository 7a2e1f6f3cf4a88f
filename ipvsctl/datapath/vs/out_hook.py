"""Replies: ip_vs_out_hook, handle_response and ip_vs_route_me_harder of net/netfilter/ipvs/ip_vs_core.c.

Packets that servers send to clients through the host pass here: forwarded ones, those of a server on the host itself,
and those for a client on the host itself. Those of nat connections get the virtual address back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import LOCAL_IN
from ipvsctl.datapath.skb import ICMP, ICMPV6, RST, SCTP, TCP, UDP, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs import rewrite
from ipvsctl.datapath.vs.entry import MASQ, METHOD_MASK, Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.datapath.vs.icmp import AH, ESP, Unrelated
from ipvsctl.datapath.vs.states import OUTPUT, set_state
from ipvsctl.model.address import INET
from ipvsctl.wire.address import endpoint

if TYPE_CHECKING:
    from ipvsctl.datapath.vs.ipvs import Ipvs

_SCTP_ABORT = 6


class Replies:
    """The hook function for packets on their way to a client."""

    __slots__ = ("_conns", "_engine", "_settings", "_vs")

    def __init__(self, vs: Ipvs) -> None:
        self._vs = vs
        self._engine = vs.engine
        self._settings = vs.engine.settings
        self._conns = vs.conns

    def hook(self, skb: Skb) -> Verdict:
        """ip_vs_out_hook, at LOCAL_IN, FORWARD and LOCAL_OUT."""
        if skb.ipvs or skb.dst is None:
            return None
        protocol = skb.protocol
        if protocol != TCP and protocol != UDP and protocol != SCTP:
            return self._other(skb)
        if (skb.more or skb.fragment) and skb.family == INET:
            verdict = self._vs.gather(skb)
            if verdict is not None:
                return verdict
        data, at = skb.data, skb.thoff
        if skb.fragment or len(data) < at + 4:
            return None
        header = Header(
            skb.family, protocol, skb.source, skb.destination, data[at] << 8 | data[at + 1],
            data[at + 2] << 8 | data[at + 3], 0, at,
        )  # fmt: skip
        conn = self._conns.find_out(header)
        if conn is not None:
            return self._response(skb, conn, header)
        if self._settings["net.ipv4.vs.nat_icmp_send"]:
            return self._unknown(skb, header)
        return None

    def _other(self, skb: Skb) -> Verdict:
        """ICMP errors, and AH and ESP, which follow the UDP connection of port 500."""
        if skb.protocol == (ICMP if skb.family == INET else ICMPV6):
            verdict = self._vs.errors.outgoing(skb)
            return None if isinstance(verdict, Unrelated) else verdict
        if skb.protocol in (AH, ESP):
            header = Header(skb.family, skb.protocol, skb.source, skb.destination, 0, 0, 0, skb.thoff)
            conn = self._conns.find_out(header)
            if conn is not None:
                return self._response(skb, conn, header)
        return None

    def _response(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """handle_response."""
        tracer = self._engine.tracer
        if tracer is not None:
            tracer.note(
                f"reply of the connection {endpoint(conn.caddr, conn.cport)} to {endpoint(conn.vaddr, conn.vport)}"
            )
        verdict: Verdict = None
        if conn.flags & METHOD_MASK == MASQ:
            before = str(skb) if tracer is not None else ""
            verdict = rewrite.to_client(skb, conn)
            if verdict is None:
                if tracer is not None:
                    tracer.note(f"rewritten: {before} -> {skb}")
                if not self.reroute(skb):
                    verdict = Reason.NO_ROUTE
        if verdict is None:
            self._vs.count_out(conn, len(skb.data))
            set_state(conn, OUTPUT, skb, header, self._engine)
            skb.ipvs = True
            self._vs.nfct.settle(skb, conn, False)
        self._conns.put(conn, self._engine.now)
        return verdict

    def reroute(self, skb: Skb) -> bool:
        """ip_vs_route_me_harder, with snat_reroute: a reply is routed by its new source; false when it cannot be.

        Only towards remote clients: at FORWARD and LOCAL_OUT, and not when the route is local.
        """
        if not self._settings["net.ipv4.vs.snat_reroute"] or skb.hook == LOCAL_IN:
            return True
        dst = skb.dst
        if dst is None or (dst.kind == "local" if skb.family == INET else dst.device == "lo"):
            return True
        before = dst.device
        if not self._engine.ip.route_me_harder(skb, True):
            return False
        if self._engine.tracer is not None and skb.dst is not None:
            self._engine.tracer.note(
                f"snat_reroute: goes by {skb.dst.device} now, not by {before}"
                if skb.dst.device != before
                else f"snat_reroute: goes by {before} still",
                minor=skb.dst.device == before,
            )
        return True

    def _unknown(self, skb: Skb, header: Header) -> Verdict:
        """nat_icmp_send: a nat server that speaks out of turn is told that nobody is there."""
        data, at = skb.data, skb.thoff
        if self._vs.services.find_real_service(skb.family, header.protocol, header.source, header.sport) is None:
            return None
        if header.protocol == TCP:
            if len(data) >= at + 20 and data[at + 13] & RST:
                return None
        elif header.protocol == SCTP and len(data) >= at + 16 and data[at + 12] == _SCTP_ABORT:
            return None
        if skb.family == INET:
            self._engine.ip.icmp_error(skb, 3, 3)
        else:
            self._engine.ip.icmp_error(skb, 1, 4)
        return Reason.IPVS_NO_CONNECTION
