"""What IPVS does with connection tracking: net/netfilter/ipvs/ip_vs_nfct.c and ip_vs_notrack of include/net/ip_vs.h.

A connection of IPVS uses conntrack when it has the flag NFCT. Then the reply tuple of a new nat entry is altered to
what the server will send, before the entry is confirmed, so that conntrack and the rules of a firewall see one
connection. Without the flag the packet's entry is thrown away and the packet goes on untracked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct import seqadj
from ipvsctl.datapath.ct.entry import CONFIRMED, DYING, Entry, make_tuple, parts
from ipvsctl.datapath.skb import ESTABLISHED_REPLY, ICMP, ICMPV6, NONE, TCP, Skb
from ipvsctl.datapath.vs.entry import MASQ, METHOD_MASK, NFCT, ONE_PACKET, Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import endpoint

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.verdict import Verdict
    from ipvsctl.datapath.vs.conns import Connections


class Nfct:
    """The bridge between the two tables."""

    __slots__ = ("_conns", "_engine")

    def __init__(self, engine: Engine, conns: Connections) -> None:
        self._engine = engine
        self._conns = conns

    def settle(self, skb: Skb, conn: Conn, request: bool) -> None:
        """What every rewritten packet gets: notrack without the flag NFCT, an altered reply tuple with it."""
        if skb.ct is not None:
            if conn.flags & NFCT:
                self.update(skb, conn, request)
            else:
                self.notrack(skb)

    def notrack(self, skb: Skb) -> None:
        """ip_vs_notrack: an attached entry is let go, the packet is untracked; an INVALID packet stays one."""
        if skb.ct is not None:
            self._engine.ct.untrack(skb)
            if self._engine.tracer is not None:
                self._engine.tracer.note("IPVS does not use conntrack for it: untracked from here on")

    def update(self, skb: Skb, conn: Conn, request: bool) -> None:
        """ip_vs_update_conntrack: `request` for a packet to the server; else the server opened the flow itself."""
        entry = skb.ct
        if entry is None or entry.status & (CONFIRMED | DYING):
            return
        if conn.flags & METHOD_MASK != MASQ or conn.flags & ONE_PACKET or skb.ctinfo >= ESTABLISHED_REPLY:
            return
        old = entry.reply
        if conn.app is not None and old[0] == TCP:
            seqadj.ensure(entry)
        size = (len(old) - 5) >> 1
        ports = old[-4:]
        if request:
            if old[0] not in (ICMP, ICMPV6):
                ports = bytes((conn.dport >> 8, conn.dport & 255)) + ports[2:]
            new = old[:1] + conn.daddr + old[1 + size : 1 + 2 * size] + ports
        else:
            if old[0] not in (ICMP, ICMPV6):
                ports = ports[:2] + bytes((conn.vport >> 8, conn.vport & 255))
            new = old[: 1 + size] + conn.vaddr + ports
        self._alter(entry, new)

    def confirm(self, skb: Skb) -> Verdict:
        """ip_vs_confirm_conntrack and the nf_reset_ct after it: tunnels, whose packets do not come to POSTROUTING."""
        if skb.ct is not None:
            verdict = self._engine.ct.confirm_now(skb)
            if verdict is not None:
                return verdict
            if self._engine.tracer is not None:
                self._engine.tracer.note("the conntrack entry is confirmed here; no helper sees the packet")
        return None

    def forget(self, skb: Skb) -> None:
        """nf_reset_ct: what follows is a flow of its own."""
        skb.ct, skb.ctinfo, skb.template = None, NONE, None

    def uses_old_conntrack(self, conn: Conn, skb: Skb) -> bool:
        """ip_vs_conn_uses_old_conntrack: the packet's entry is confirmed, and it is this connection's to end."""
        return bool(conn.flags & NFCT) and skb.ct is not None and bool(skb.ct.status & CONFIRMED)

    def drop_conntrack(self, conn: Conn) -> None:
        """ip_vs_conn_drop_conntrack: a connection has ended, and its conntrack entry with it.

        It is looked for by client and virtual address: the entry of active FTP data, which began at the server, is not
        found by that.
        """
        if conn.cport:
            found = self._engine.ct.find(make_tuple(conn.protocol, conn.caddr, conn.vaddr, conn.cport, conn.vport))
            if found is not None:
                self._engine.ct.kill(found[0])

    def expect_related(self, master: Entry, conn: Conn) -> bool:
        """ip_vs_nfct_expect_related as ip_vs_ftp calls it: from the client, any port, to the virtual address and port.

        False when conntrack refuses: above all for a control connection without a helper.
        """
        helper = master.helper
        accepted = self._engine.ct.expect(
            master,
            make_tuple(conn.protocol, conn.caddr, conn.vaddr, 0, conn.vport),
            True,
            direction=0,
            on_new=self.expected,
            timeout=float(helper.timeout) if helper is not None else 0.0,
        )
        if self._engine.tracer is not None:
            where = endpoint(conn.vaddr, conn.vport)
            self._engine.tracer.note(
                f"expects a related connection to {where}"
                if accepted
                else f"conntrack refuses to expect a connection to {where}"
                + ("" if helper is not None else ": the control connection has no helper")
            )
        return accepted

    def expected(self, entry: Entry) -> None:
        """ip_vs_nfct_expect_callback: an expected connection begins; its reply is what IPVS will make of it."""
        protocol, source, destination, sport, dport = parts(entry.original)
        family = INET if len(source) == 4 else INET6
        header = Header(family, protocol, source, destination, sport, dport)
        size = len(source)
        old = entry.reply
        conn = self._conns.find_out(header)
        if conn is not None:
            new = old[: 1 + size] + conn.vaddr + old[-4:-2] + bytes((conn.vport >> 8, conn.vport & 255))
        else:
            conn = self._conns.find_in(header)
            if conn is None:
                return
            port = bytes((conn.dport >> 8, conn.dport & 255))
            new = old[:1] + conn.daddr + old[1 + size : 1 + 2 * size] + port + old[-2:]
        if conn.flags & METHOD_MASK == MASQ:
            self._alter(entry, new)
        self._conns.put(conn, self._engine.now)

    def _alter(self, entry: Entry, new: bytes) -> None:
        if self._engine.tracer is not None:
            _, source, destination, sport, dport = parts(new)
            self._engine.tracer.note(
                f"conntrack will know the reply as {endpoint(source, sport)} > {endpoint(destination, dport)}",
                minor=True,
            )
        self._engine.ct.alter_reply(entry, new)
