"""ICMP errors about packets of IPVS: ip_vs_in_icmp, ip_vs_out_icmp and their _v6 forms, handle_response_icmp.

The packet that an error quotes goes the other way, so its connection is looked up by reversed addresses. An error from
a server's side is translated on its way to the client, one from the client's side on its way to the server. Errors
about IPVS's own tunnel packets are for the host itself: the tunnel's headers are taken off, and the client gets an
error of its own. Source: net/netfilter/ipvs/ip_vs_core.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import GRE, IPIP, SCTP, TCP, UDP, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs import rewrite, tunnel
from ipvsctl.datapath.vs.entry import MASQ, METHOD_MASK, Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.model.address import INET
from ipvsctl.wire.address import endpoint
from ipvsctl.wire.icmp import embedded

if TYPE_CHECKING:
    from ipvsctl.datapath.vs.ipvs import Ipvs

UNREACHABLE, QUENCH, TIME_EXCEEDED, FRAGMENTATION_NEEDED = 3, 4, 11, 4
AH, ESP = 51, 50
_PORTS = frozenset({TCP, UDP, SCTP})


class Unrelated:
    """What is no ICMP error: the hook goes on with it as with any packet of a protocol IPVS does not know."""

    __slots__ = ()


UNRELATED = Unrelated()


class Errors:
    """ICMP errors in the hooks of IPVS. Its functions answer UNRELATED, or what the hook answers."""

    __slots__ = ("_engine", "_vs")

    def __init__(self, vs: Ipvs) -> None:
        self._vs = vs
        self._engine = vs.engine

    # -- from the client's side ---------------------------------------------------------------------------------------

    def incoming(self, skb: Skb) -> Verdict | Unrelated:
        """ip_vs_in_icmp, ip_vs_in_icmp_v6."""
        verdict = self._readable(skb)
        if verdict is not None:
            return verdict
        data, at = skb.data, skb.thoff + 8
        stripped = 0
        if skb.family == INET:
            found = self._tunnel(skb, at)
            if found is None:
                return None
            stripped = found
        header = self._quoted(skb, at + stripped, not stripped)
        if header is None:
            return None
        conn = self._vs.conns.find_in(header)
        new = conn is None
        if conn is None:
            if stripped or not self._engine.settings["net.ipv4.vs.schedule_icmp"]:
                return None
            outcome = self._vs.requests.schedule(skb, header)
            if not isinstance(outcome, Conn):
                return outcome
            conn = outcome
        self._note(conn, "from the client's side")
        if (stripped or conn.flags & METHOD_MASK == MASQ) and not rewrite.checksum_is_right(skb):
            verdict = Reason.LOCAL_CHECKSUM
        elif stripped:
            verdict = self._about_tunnel(skb, conn, header, at, stripped)
        else:
            self._vs.count_in(conn, len(data))
            verdict = self._vs.transmit.icmp(skb, conn, header)
        if new:
            self._vs.conns.put(conn, self._engine.now)
        return verdict

    def _tunnel(self, skb: Skb, at: int) -> int | None:
        """Length of the outer headers when the quoted packet (at `at`) is a tunnel packet of IPVS; 0 for another.

        None: the packet goes on, nothing of this is IPVS's business.
        """
        data = skb.data
        if len(data) < at + 20 or data[at] >> 4 != 4 or data[at] & 15 < 5:
            return None
        protocol, length = data[at + 9], (data[at] & 15) * 4
        local = skb.dst is not None and skb.dst.kind == "local"
        if protocol != IPIP and not (protocol in (UDP, GRE) and local):
            return 0
        if (data[at + 6] & 0x1F or data[at + 7]) or not local:
            return None
        port = 0
        if protocol == UDP:
            if len(data) < at + length + 8:
                return 0
            port = data[at + length + 2] << 8 | data[at + length + 3]
        dest = self._vs.services.find_tunnel(INET, bytes(data[at + 16 : at + 20]), port)
        inner = None if dest is None else tunnel.unwrap(data, at + length, protocol, dest.server.tunnel)
        if inner is None:
            return None if protocol == IPIP else 0
        return length + inner

    def _about_tunnel(self, skb: Skb, conn: Conn, header: Header, at: int, stripped: int) -> Verdict:
        """An error about a tunnel packet: the path MTU is learned, and the client gets an error about its packet."""
        data, engine = skb.data, self._engine
        kind, code = data[skb.thoff], data[skb.thoff + 1]
        info = int.from_bytes(data[skb.thoff + 4 : skb.thoff + 8], "big")
        inner = header.offset
        engine.delivered(skb)  # To IPVS: the error ends here, whatever comes of it.
        if kind == UNREACHABLE and code == FRAGMENTATION_NEEDED:
            mtu = info & 0xFFFF
            ways = self._vs.transmit.ways
            ways.update_pmtu(bytes(data[at + 16 : at + 20]), mtu)
            if not data[inner + 6] & 0x40:
                return Reason.STOLEN
            mtu = ways.kept_mtu(conn.dest) or mtu
            if mtu > 68 + stripped:
                mtu -= stripped
            info = mtu
        skb.data = data[inner:]
        skb.source, skb.destination, skb.protocol = header.source, header.destination, header.protocol
        skb.thoff, skb.fragment, skb.more = header.length - inner, 0, bool(data[inner + 6] & 0x20)
        engine.ip.icmp_error(skb, kind, code, info)
        self._vs.count_out(conn, len(skb.data))
        return Reason.STOLEN

    # -- from the servers' side ---------------------------------------------------------------------------------------

    def outgoing(self, skb: Skb) -> Verdict | Unrelated:
        """ip_vs_out_icmp, ip_vs_out_icmp_v6."""
        verdict = self._readable(skb)
        if verdict is not None:
            return verdict
        header = self._quoted(skb, skb.thoff + 8, True)
        if header is None:
            return None
        conn = self._vs.conns.find_out(header)
        if conn is None:
            return None
        self._note(conn, "from the server's side")
        return self._response(skb, conn, header)

    def _response(self, skb: Skb, conn: Conn, header: Header) -> Verdict:
        """handle_response_icmp."""
        if conn.flags & METHOD_MASK == MASQ:
            if not rewrite.checksum_is_right(skb):
                return Reason.LOCAL_CHECKSUM
            before = str(skb) if self._engine.tracer is not None else ""
            if not rewrite.icmp_error(skb, conn, header, False):
                return Reason.IPVS_ICMP
            if self._engine.tracer is not None:
                self._engine.tracer.note(f"rewritten, inside and outside: {before} -> {skb}")
            if not self._vs.replies.reroute(skb):
                return Reason.NO_ROUTE
        self._vs.count_out(conn, len(skb.data))
        skb.ipvs = True
        self._vs.nfct.settle(skb, conn, False)
        return None

    # -- their common parts -------------------------------------------------------------------------------------------

    def _readable(self, skb: Skb) -> Verdict | Unrelated:
        """None for an ICMP error that quotes a packet. Fragments of IPv4 are put together first."""
        if skb.family == INET:
            if skb.fragment or skb.more:
                verdict = self._vs.gather(skb)
                if verdict is not None:
                    return verdict
            if len(skb.data) < skb.thoff + 8:
                return Reason.TRUNCATED
            return None if skb.data[skb.thoff] in (UNREACHABLE, QUENCH, TIME_EXCEEDED) else UNRELATED
        if len(skb.data) < skb.thoff + 8:
            return Reason.TRUNCATED
        if skb.data[skb.thoff] & 0x80:
            return UNRELATED
        return Reason.IPVS_ICMP if skb.fragment or skb.more else None

    def _quoted(self, skb: Skb, at: int, inverse: bool) -> Header | None:
        """The quoted packet that begins at `at`; None when IPVS has nothing to do with it."""
        quoted = embedded(skb.data, at)
        if quoted is None or quoted.family != skb.family:
            return None
        ports: tuple[int, int] | None
        if quoted.protocol in _PORTS:
            ports = quoted.ports(skb.data)
        else:
            ports = (0, 0) if quoted.protocol in (AH, ESP) else None
        if ports is None:
            return None
        return Header(
            quoted.family, quoted.protocol, quoted.source, quoted.destination, ports[0], ports[1], at, quoted.thoff,
            True, inverse,
        )  # fmt: skip

    def _note(self, conn: Conn, side: str) -> None:
        if self._engine.tracer is not None:
            self._engine.tracer.note(
                f"an ICMP error {side} about the connection {endpoint(conn.caddr, conn.cport)} to "
                f"{endpoint(conn.vaddr, conn.vport)}"
            )
