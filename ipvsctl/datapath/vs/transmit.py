"""The transmitters, one for each forwarding method: net/netfilter/ipvs/ip_vs_xmit.c.

A transmitter answers None when the hook goes on with the packet (a local server), STOLEN when it has sent it on through
LOCAL_OUT, and else the reason for a drop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import FORWARD
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs import rewrite, tunnel
from ipvsctl.datapath.vs.entry import MASQ, METHOD_MASK, METHOD_NAMES, NFCT, NO_CPORT, Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.datapath.vs.way import Ways
from ipvsctl.model.address import INET
from ipvsctl.wire.address import endpoint

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.routing import Dst
    from ipvsctl.datapath.vs.conns import Connections
    from ipvsctl.datapath.vs.nfct import Nfct

_LOOPBACK6 = b"\0" * 15 + b"\x01"


class Transmit:
    """Sends requests to the server of their connection."""

    __slots__ = ("_conns", "_engine", "_methods", "_nfct", "ways")

    def __init__(self, engine: Engine, conns: Connections, nfct: Nfct) -> None:
        self._engine = engine
        self._conns = conns
        self._nfct = nfct
        self.ways = Ways(engine)
        self._methods = (self._masquerade, self._null, self._tunnel, self._direct, self._bypass)

    def send(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """packet_xmit of the connection. Methods 5 to 7 have no transmitter: the packet goes on as it is."""
        method = conn.flags & METHOD_MASK
        if self._engine.tracer is not None:
            self._engine.tracer.note(
                f"sent by {METHOD_NAMES.get(method, str(method))} to {endpoint(conn.daddr, conn.dport)}",
                server=endpoint(conn.daddr, conn.dport), method=METHOD_NAMES.get(method, str(method)),
            )  # fmt: skip
        return self._methods[method](skb, conn, header) if method < 5 else None

    # -- the methods --------------------------------------------------------------------------------------------------

    def _masquerade(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """ip_vs_nat_xmit, ip_vs_nat_xmit_v6."""
        if conn.flags & NO_CPORT:
            self._conns.fill_cport(conn, header.sport)
        dst = self.ways.to(conn.dest, conn.daddr)
        if dst is None:
            return self.ways.unreachable(skb)
        local = dst.kind == "local"
        verdict = self._may_go(skb, conn, dst, local, False)
        if verdict is not None:
            return verdict
        before = str(skb) if self._engine.tracer is not None else ""
        verdict = rewrite.to_server(skb, conn)
        if verdict is not None:
            return verdict
        if self._engine.tracer is not None:
            self._engine.tracer.note(f"rewritten: {before} -> {skb}")
        return self._go_on(skb, conn, local, True)

    def _direct(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """ip_vs_dr_xmit, ip_vs_dr_xmit_v6: nothing but the next hop changes."""
        dst = self.ways.to(conn.dest, conn.daddr, True)
        if dst is None:
            return self.ways.unreachable(skb)
        local = dst.kind == "local"
        verdict = self.ways.crosses(skb, local, False)
        if verdict is None and not local:
            verdict = self.ways.leave(skb, dst, header.icmp, dst.mtu)
        return verdict if verdict is not None else self._go_on(skb, conn, local, False)

    def _bypass(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """ip_vs_bypass_xmit, ip_vs_bypass_xmit_v6: to the packet's own destination, which is not local."""
        dst = self.ways.to(None, skb.destination)
        if dst is None:
            return self.ways.unreachable(skb)
        verdict = self.ways.crosses(skb, dst.kind == "local", False, allows_local=False)
        if verdict is None:
            verdict = self.ways.leave(skb, dst, header.icmp, dst.mtu)
        return verdict if verdict is not None else self._go_on(skb, conn, False, False)

    def _null(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """ip_vs_null_xmit: the host itself is the server."""
        return self._go_on(skb, conn, True, False)

    def _tunnel(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """ip_vs_tunnel_xmit, ip_vs_tunnel_xmit_v6: the packet in another one, which is a flow of its own."""
        engine = self._engine
        dst = self.ways.to(conn.dest, conn.daddr)
        if dst is None:
            return self.ways.unreachable(skb)
        local = dst.kind == "local"
        verdict = self.ways.crosses(skb, local, False)
        if verdict is not None:
            return verdict
        if local:
            return self._go_on(skb, conn, True, False)
        if conn.dest is None:
            return Reason.IPVS_NO_ROUTE
        kind = conn.dest.server.tunnel
        remote = tunnel.offloads(kind, skb)
        mtu = dst.mtu - tunnel.overhead(kind, conn.daf, remote)
        # The kernel looks at the TTL before it looks at the MTU of the tunnel.
        if skb.ttl > 1 and mtu < (68 if conn.daf == INET else 1280):
            return Reason.IPVS_NO_ROUTE
        pmtu_disc = engine.settings["net.ipv4.vs.pmtu_disc"] != 0
        verdict = self.ways.leave(skb, dst, header.icmp, mtu, not pmtu_disc)
        if verdict is not None:
            return verdict
        skb.ipvs = True
        if conn.flags & NFCT:
            verdict = self._nfct.confirm(skb)
            if verdict is not None:
                return verdict
        self._nfct.forget(skb)
        source = dst.source or engine.routing.select_source(dst.device, conn.daddr)
        outer = tunnel.encapsulate(
            skb, kind, source, conn.daddr, df=pmtu_disc, remote=remote, sport=self._flow_port(skb, header),
            identification=engine.random(65536),
        )  # fmt: skip
        if outer is None:
            return Reason.TOO_BIG
        skb.replace_data(outer)
        if engine.tracer is not None:
            engine.tracer.note(f"wrapped: {skb}")
        # Not local_out: with DF the identification stays 0.
        engine.ip.reinject(skb)
        return Reason.STOLEN

    # -- their common parts -------------------------------------------------------------------------------------------

    def _may_go(self, skb: Skb, conn: Conn, dst: Dst, local: bool, icmp: bool) -> Verdict:
        """The checks of nat: boundary, no loopback server for packets from the world, TTL and MTU."""
        verdict = self.ways.crosses(skb, local, True, not (icmp and skb.hook == FORWARD))
        if verdict is not None:
            return verdict
        if not local:
            return self.ways.leave(skb, dst, icmp, dst.mtu)
        if skb.family == INET:
            if conn.daddr[0] == 127 and skb.dst is not None and skb.dst.input:
                return Reason.IPVS_CROSSES_LOCAL
        elif conn.daddr == _LOOPBACK6 and skb.indev not in ("", "lo"):
            return Reason.IPVS_CROSSES_LOCAL
        return None

    def _go_on(self, skb: Skb, conn: Conn, local: bool, translated: bool) -> Verdict:
        """ip_vs_nat_send_or_cont, ip_vs_send_or_cont: once more through LOCAL_OUT, or on to the local stack."""
        skb.ipvs = True
        if translated:
            self._nfct.settle(skb, conn, True)
        elif not conn.flags & NFCT:
            self._nfct.notrack(skb)
        if local:
            return None
        self._engine.ip.reinject(skb)
        return Reason.STOLEN

    def icmp(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """ip_vs_icmp_xmit, ip_vs_icmp_xmit_v6: an ICMP error about a packet that the server sent.

        `header` describes the packet inside. In FORWARD a server of the host itself is not possible.
        """
        if conn.flags & METHOD_MASK != MASQ:
            verdict = self.send(skb, conn, header)
            conn.in_packets += 1
            return verdict
        dst = self.ways.to(conn.dest, conn.daddr)
        if dst is None:
            return self.ways.unreachable(skb)
        local = dst.kind == "local"
        verdict = self._may_go(skb, conn, dst, local, True)
        if verdict is not None:
            return verdict
        before = str(skb) if self._engine.tracer is not None else ""
        if not rewrite.icmp_error(skb, conn, header, True):
            return Reason.IPVS_ICMP
        skb.ignore_df = True
        if self._engine.tracer is not None:
            self._engine.tracer.note(f"rewritten, inside and outside: {before} -> {skb}")
        return self._go_on(skb, conn, local, True)

    def _flow_port(self, skb: Skb, header: Header) -> int:
        """udp_flow_src_port: a port of net.ipv4.ip_local_port_range by a hash of the flow.

        The kernel's hash has a secret key; only that a flow keeps its port is a fact.
        """
        words = self._engine.settings.text.get("net.ipv4.ip_local_port_range", "32768 60999").split()
        low, high = (int(words[0]), int(words[1])) if len(words) > 1 else (32768, 60999)
        return tunnel.flow_port(skb, header, low, high)
