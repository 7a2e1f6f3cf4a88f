"""The host's own IPv6: extension headers one after the other, then the transport.

Sources: ip6_input.c: ip6_protocol_deliver_rcu, exthdrs.c (destination options, routing header), reassembly.c,
tcp_ipv6.c, udp.c, icmp.c: icmpv6_rcv. Neighbour discovery and multicast listener reports are swallowed: the emulated
links have no addresses to ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath import options
from ipvsctl.datapath.fragments import LOCAL_DELIVER
from ipvsctl.datapath.icmp6 import HEADER_FIELD, PARAMETER, PORT_UNREACHABLE, UNKNOWN_HEADER, UNREACHABLE
from ipvsctl.datapath.skb import ICMPV6, TCP, UDP, UDPLITE, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.wire import icmp
from ipvsctl.wire.ipv6 import DSTOPTS, FRAGMENT, HOPOPTS, NONE, ROUTING

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.local import Local

_QUIET_ROUTES = (2, 3, 4)
"""Routing headers of mobile hosts, RPL and segment routing, which are off: dropped without an answer."""


class Local6:
    """Delivers IPv6 packets."""

    def __init__(self, engine: Engine, local: Local) -> None:
        self.engine = engine
        self.local = local

    def deliver(self, skb: Skb) -> None:
        """A packet for the host has passed LOCAL_IN."""
        found = self._walk(skb)
        if found is None:
            return
        kind, field = found
        if kind == TCP:
            self.local.tcp(skb)
        elif kind in (UDP, UDPLITE):
            if self.local.udp(skb):
                self.engine.ip.icmp_error(skb, UNREACHABLE, PORT_UNREACHABLE)
        elif kind == ICMPV6:
            self._icmp(skb)
        elif kind == NONE:
            self.engine.delivered(skb)
        else:
            self._problem(skb, UNKNOWN_HEADER, field, Reason.LOCAL_PROTOCOL)

    def _walk(self, skb: Skb) -> tuple[int, int] | None:
        """Take off extension headers: the transport protocol and where it is named; None: the packet ended."""
        field, at = 6, 40
        while True:
            data = skb.data
            kind = data[field]
            if len(data) < at + 8 and kind in (HOPOPTS, DSTOPTS, ROUTING, FRAGMENT):
                self.engine.drop(skb, Reason.TRUNCATED)
                return None
            if kind == HOPOPTS and at == 40:
                field, at = at, at + (data[at + 1] + 1) * 8
            elif kind == DSTOPTS:
                if not self._options(skb, at):
                    return None
                field, at = at, at + (data[at + 1] + 1) * 8
            elif kind == ROUTING:
                if not self._routing(skb, at):
                    return None
                field, at = at, at + (data[at + 1] + 1) * 8
            elif kind == FRAGMENT:
                was = len(data)
                if not self.engine.ip.whole(skb, LOCAL_DELIVER):
                    return None
                if len(skb.data) == was and skb.data[field] == FRAGMENT:
                    field, at = at, at + 8
            else:
                return kind, field

    def _problem(self, skb: Skb, code: int, pointer: int, reason: Reason) -> None:
        self.engine.ip.icmp_error(skb, PARAMETER, code, pointer)
        self.engine.drop(skb, reason)

    def _options(self, skb: Skb, at: int) -> bool:
        verdict = options.check6(skb.data, at, skb.destination[0] == 0xFF, False)
        if verdict is None:
            return True
        if verdict.pointer >= 0:
            self.engine.ip.icmp_error(skb, PARAMETER, verdict.code, verdict.pointer)
        self.engine.drop(skb, Reason.OPTIONS)
        return False

    def _routing(self, skb: Skb, at: int) -> bool:
        """ipv6_rthdr_rcv: only a header whose segments are used up is passed over."""
        kind, left = skb.data[at + 2], skb.data[at + 3]
        if skb.broadcast or skb.destination[0] == 0xFF or kind in _QUIET_ROUTES:
            self.engine.drop(skb, Reason.OPTIONS)
            return False
        if left:
            self._problem(skb, HEADER_FIELD, at + 2, Reason.OPTIONS)
            return False
        return True

    def _icmp(self, skb: Skb) -> None:
        engine, data, at = self.engine, skb.data, skb.thoff
        if len(data) < at + 8:
            engine.drop(skb, Reason.TRUNCATED)
            return
        if not self.local.right(skb, len(data)):
            engine.drop(skb, Reason.LOCAL_CHECKSUM)
            return
        engine.delivered(skb)
        if data[at] == icmp.ECHO_REQUEST6 and not engine.settings.get("net.ipv6.icmp.echo_ignore_all", 0):
            engine.ip.six.echo(skb)
