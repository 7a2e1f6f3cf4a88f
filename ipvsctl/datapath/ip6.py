"""The IPv6 walk (ip6_input.c, ip6_output.c: ip6_forward): what differs from IPv4's in ip.py.

Fragments for the host itself are put together after LOCAL_IN, by local6.py, as the kernel takes a fragment header for
one of many extension headers. Redirects (ndisc_send_redirect) are not sent: they would need link addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath import options
from ipvsctl.datapath.fib import Dst
from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN, PRE_ROUTING
from ipvsctl.datapath.icmp6 import NO_ROUTE, NOT_NEIGHBOUR, PARAMETER, PROHIBITED, TIME_EXCEEDED, TOO_BIG, UNREACHABLE
from ipvsctl.datapath.route6 import ANY, LOOPBACK, link_local
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_CODES = {Reason.NO_ROUTE: NO_ROUTE, Reason.UNREACHABLE: NO_ROUTE, Reason.PROHIBITED: PROHIBITED}
"""What route.c: ip6_pkt_drop answers; nothing for all else."""

_MINIMUM = 1280


class Ip6:
    """IPv6's walk from a device to the end."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def receive(self, skb: Skb) -> None:
        """ip6_rcv_core, ip6_rcv_finish."""
        engine = self.engine
        source, destination = skb.source, skb.destination
        interface = engine.routing.interfaces.get(skb.indev)
        if interface is not None and interface.disabled6:
            engine.drop(skb, Reason.DISABLED)
            return
        if source[0] == 0xFF or not self._possible(skb, source, destination):
            engine.drop(skb, Reason.MARTIAN_SOURCE if source[0] == 0xFF else Reason.MARTIAN_DESTINATION)
            return
        if not skb.data[6] and not self._options(skb):
            return
        if not engine.run(PRE_ROUTING, skb):
            return
        dst = skb.dst
        if dst is None:
            found = engine.routing.six.input(skb)
            if found.__class__ is not Dst:
                assert isinstance(found, Reason)
                self._unrouted(skb, found)
                return
            dst = skb.dst = found
            if engine.tracer is not None:
                engine.ip.note_route(skb, dst)
        if dst.kind == "unicast":
            self._forward(skb, dst)
            return
        if dst.kind == "multicast" and skb.indev != "lo":
            skb.broadcast = True
        if engine.run(LOCAL_IN, skb):
            engine.local.deliver(skb)

    @staticmethod
    def _possible(skb: Skb, source: bytes, destination: bytes) -> bool:
        """No loopback addresses and no interface-local groups but on the loopback device; no groups of scope 0."""
        if destination[0] == 0xFF:
            scope = destination[1] & 15
            if not scope or (scope == 1 and skb.indev != "lo"):
                return False
        return skb.indev == "lo" or (source != LOOPBACK and destination != LOOPBACK)

    def _options(self, skb: Skb) -> bool:
        """exthdrs.c: ipv6_parse_hopopts; whether the packet may go on."""
        verdict = options.check6(skb.data, 40, skb.destination[0] == 0xFF, True)
        if verdict is None:
            return True
        if verdict.pointer >= 0:
            self.engine.ip.icmp_error(skb, PARAMETER, verdict.code, verdict.pointer)
        self.engine.drop(skb, Reason.OPTIONS)
        return False

    def _unrouted(self, skb: Skb, reason: Reason) -> None:
        """ip6_pkt_drop: the sender learns that there is no route, whether this host forwards or not."""
        code = _CODES.get(reason)
        if code is not None and skb.indev in self.engine.routing.interfaces:
            self.engine.ip.icmp_error(skb, UNREACHABLE, code)
        self.engine.drop(skb, reason)

    def _forward(self, skb: Skb, dst: Dst) -> None:
        """ip6_forward; that forwarding is on was seen when the route was looked up."""
        engine = self.engine
        if skb.broadcast:
            engine.drop(skb, Reason.MARTIAN_DESTINATION)
            return
        if skb.data[7] <= 1:
            engine.ip.icmp_error(skb, TIME_EXCEEDED, 0)
            engine.drop(skb, Reason.TTL)
            return
        if skb.indev != dst.device:
            if skb.source == ANY or skb.source == LOOPBACK:
                engine.drop(skb, Reason.MARTIAN_SOURCE)
                return
            if link_local(skb.source):
                engine.ip.icmp_error(skb, UNREACHABLE, NOT_NEIGHBOUR)
                engine.drop(skb, Reason.MARTIAN_SOURCE)
                return
        # ip6_dst_mtu_maybe_forward: the device's; a route's own is seen to when the packet leaves.
        mtu = max(engine.routing.interfaces[dst.device].device.mtu, _MINIMUM)
        if len(skb.data) > mtu and (skb.fragment_max > mtu or not skb.ignore_df):
            engine.ip.icmp_error(skb, TOO_BIG, 0, mtu)
            engine.drop(skb, Reason.TOO_BIG)
            return
        skb.data[7] -= 1
        skb.outdev = dst.device
        if engine.run(FORWARD, skb):
            engine.ip.dst_output(skb)

    def barred(self, skb: Skb, dst: Dst) -> bool:
        """ip6_output: whether IPv6 is off on the device the packet is to leave by; then it ends here."""
        interface = self.engine.routing.interfaces.get(dst.device)
        if interface is None or not interface.disabled6:
            return False
        self.engine.drop(skb, Reason.DISABLED)
        return True
