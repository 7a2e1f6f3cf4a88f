"""The IP layer: from a device or a process through the hooks to a device or to the host itself.

IPv4's walk is here (ip_input.c, ip_forward.c, ip_output.c) with what both families share; IPv6's is in ip6.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath import icmp4, icmp6, options, resets
from ipvsctl.datapath.fib import Dst
from ipvsctl.datapath.fragments import CONNTRACK_IN, CONNTRACK_OUT, LOCAL_DELIVER, Fragments
from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN, LOCAL_OUT, POST_ROUTING, PRE_ROUTING
from ipvsctl.datapath.ip6 import Ip6
from ipvsctl.datapath.limits import Limits
from ipvsctl.datapath.neighbours import Neighbours
from ipvsctl.datapath.route4 import ALL_HOSTS
from ipvsctl.datapath.route6 import link_local
from ipvsctl.datapath.skb import UNTRACKED, Broken, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire import ipv4
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_CODES = {
    Reason.NO_ROUTE: icmp4.NET_UNREACHABLE,
    Reason.UNREACHABLE: icmp4.HOST_UNREACHABLE,
    Reason.PROHIBITED: icmp4.FILTERED,
}
"""What route.c: ip_error answers; nothing for all else."""

_UNROUTED = Dst("unreachable", "", input=True)


class Ip:
    """The IP layer of a namespace."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.fragments = Fragments(engine)
        self.limits = Limits(engine)
        self.four = icmp4.Icmp4(engine, self.limits)
        self.six = icmp6.Icmp6(engine, self.limits)
        self._ip6 = Ip6(engine)
        self._interfaces = engine.routing.interfaces
        self._neighbours = Neighbours(engine)

    # -- coming in ----------------------------------------------------------------------------------------------------

    def receive(self, skb: Skb) -> None:
        """A packet comes in by skb.indev: ip_rcv, ip6_rcv, to the end of its walk."""
        skb.outdev = ""
        skb.own = skb.redirect = False
        skb.fragment_max = 0
        if skb.family != INET:
            self._ip6.receive(skb)
            return
        engine = self.engine
        if int.from_bytes(skb.data[: skb.thoff], "big") % 0xFFFF:
            engine.drop(skb, Reason.HEADER)
            return
        if not engine.run(PRE_ROUTING, skb):
            return
        dst = skb.dst
        if dst is None:
            found = engine.routing.four.input(skb)
            if found.__class__ is not Dst:
                assert isinstance(found, Reason)
                self._unrouted(skb, found)
                return
            dst = skb.dst = found
            if engine.tracer is not None:
                self.note_route(skb, dst)
        if skb.thoff > 20 and not self._options(skb):
            return
        if dst.kind == "unicast":
            self._forward(skb, dst)
            return
        if dst.kind != "local" and skb.indev != "lo":
            skb.broadcast = True
        self._deliver(skb)

    def note_route(self, skb: Skb, dst: Dst) -> None:
        """Tell the tracer where a packet that came in goes."""
        tracer = self.engine.tracer
        if tracer is None:
            return
        if dst.kind != "unicast":
            tracer.note(f"route: {readable(skb.destination)} is the host's own ({dst.kind}): delivered", route=dst.kind)
        else:
            way = f" via {readable(dst.gateway)}" if dst.gateway else ""
            tracer.note(f"route: forwarded by {dst.device}{way}", route=dst.kind, device=dst.device)

    def _unrouted(self, skb: Skb, reason: Reason) -> None:
        """ip_error: the sender learns that there is no route, five times at once and then once a second."""
        code = _CODES.get(reason)
        if code is not None and skb.indev in self._interfaces and self.limits.error_allow(skb.source):
            skb.dst = _UNROUTED
            self.four.error(skb, icmp4.UNREACHABLE, code)
        self.engine.drop(skb, reason)

    def _options(self, skb: Skb) -> bool:
        """ip_rcv_options; whether the packet may go on."""
        found = options.check4(skb.data, skb.thoff)
        if found == options.TAKEN:
            return True
        if found != options.REFUSED:
            self.four.error(skb, icmp4.PARAMETER, 0, found << 24)
        self.engine.drop(skb, Reason.OPTIONS)
        return False

    def _deliver(self, skb: Skb) -> None:
        """ip_local_deliver."""
        if (skb.fragment or skb.more) and not self.whole(skb, LOCAL_DELIVER):
            return
        if self.engine.run(LOCAL_IN, skb):
            self.engine.local.deliver(skb)

    def whole(self, skb: Skb, user: int) -> bool:
        """Wait for all fragments of a packet; true when it is whole now. One that waits or is broken is counted."""
        verdict = self.gather(skb, user)
        if verdict is not None:
            self.engine.drop(skb, verdict)
        return verdict is None

    def gather(self, skb: Skb, user: int) -> Verdict:
        """ip_defrag: None when the packet is whole now, else what is with its fragments."""
        whole = self.fragments.add(skb, user)
        if isinstance(whole, Reason):
            return whole
        if self.fragments.last_size or whole is not skb.data:
            try:
                skb.replace_data(whole)
            except Broken:
                return Reason.FRAGMENT_BROKEN
            skb.fragment_max = self.fragments.last_size
        return None

    def defrag(self, skb: Skb) -> Verdict:
        """nf_defrag_ipv4.c: ipv4_conntrack_defrag, nf_defrag_ipv6_hooks.c: ipv6_defrag."""
        if skb.ctinfo == UNTRACKED:
            return None
        if skb.family == INET:
            if not (skb.fragment or skb.more):
                return None
        elif skb.ct is not None or skb.thoff == 40:
            return None
        verdict = self.gather(skb, CONNTRACK_IN if skb.hook == PRE_ROUTING else CONNTRACK_OUT)
        if verdict is None and skb.fragment_max:
            skb.ignore_df = True
        return verdict

    # -- passing through ----------------------------------------------------------------------------------------------

    def _forward(self, skb: Skb, dst: Dst) -> None:
        """ip_forward."""
        engine = self.engine
        if skb.broadcast:
            engine.drop(skb, Reason.MARTIAN_DESTINATION)
            return
        if skb.data[8] <= 1:
            self.four.error(skb, icmp4.TIME_EXCEEDED, 0)
            engine.drop(skb, Reason.TTL)
            return
        length, mtu = len(skb.data), dst.mtu
        if length > mtu and skb.data[6] & 0x40 and (skb.fragment_max > mtu or not skb.ignore_df):
            self.four.error(skb, icmp4.UNREACHABLE, icmp4.FRAGMENTATION_NEEDED, mtu)
            engine.drop(skb, Reason.TOO_BIG)
            return
        skb.decrement_ttl()
        if skb.redirect:
            self._redirect(skb, dst)
        skb.outdev = dst.device
        if engine.run(FORWARD, skb):
            self.dst_output(skb)

    def _redirect(self, skb: Skb, dst: Dst) -> None:
        """ip_rt_send_redirect."""
        if self._interfaces[dst.device].redirects and self.limits.redirect_allow(skb.source):
            gateway = int.from_bytes(dst.gateway or skb.destination, "big")
            self.four.error(skb, icmp4.REDIRECT, icmp4.REDIRECT_HOST, gateway)

    # -- going out ----------------------------------------------------------------------------------------------------

    def local_out(self, skb: Skb) -> None:
        """ip_local_out: a packet that the host has made; skb.dst is set.

        An IPv4 packet without identification gets a random one, unless DF says that it is never cut
        (ip_select_ident; the kernel counts from a number that nobody can know).
        """
        if skb.family == INET:
            data = skb.data
            if not (data[4] or data[5]) and (not data[6] & 0x40 or skb.ignore_df):
                skb.set_header_word(4, self.engine.random(65536))
            ipv4.seal(data)
        self.reinject(skb)

    def reinject(self, skb: Skb) -> None:
        """Once more through LOCAL_OUT, then out: what IPVS does with a packet that it gave a new route."""
        dst = skb.dst
        assert dst is not None
        indev, skb.indev = skb.indev, ""
        skb.outdev = dst.device
        if self.engine.run(LOCAL_OUT, skb):
            skb.indev = indev
            self.dst_output(skb)

    def dst_output(self, skb: Skb) -> None:
        """ip_output, ip_finish_output and their IPv6 twins: POST_ROUTING, the MTU, the link."""
        dst = skb.dst
        assert dst is not None
        skb.outdev = dst.device
        engine = self.engine
        if skb.family == INET6 and self._ip6.barred(skb, dst):
            return
        if dst.kind == "broadcast" or skb.destination == ALL_HOSTS:
            self._heard_here(skb, dst)
        if not engine.run(POST_ROUTING, skb):
            return
        now = skb.dst
        if now is not None:
            dst = now
        if len(skb.data) > dst.mtu or skb.fragment_max:
            self._in_pieces(skb, dst)
        else:
            self._transmit(skb, dst)

    def _heard_here(self, skb: Skb, dst: Dst) -> None:
        """ip_mc_output: the host itself hears what it sends to everybody, on the device by which it leaves."""
        copy = Skb(bytearray(skb.data))
        copy.outdev, copy.mark, copy.dst = skb.outdev, skb.mark, dst
        copy.ct, copy.ctinfo, copy.ipvs = skb.ct, skb.ctinfo, skb.ipvs
        if self.engine.run(POST_ROUTING, copy):
            copy.indev = dst.device
            self.engine.backlog.append(copy)

    def _in_pieces(self, skb: Skb, dst: Dst) -> None:
        """ip_fragment, ip6_fragment."""
        pieces = self.fragments.outgoing(skb, dst.mtu, self._identification6)
        if isinstance(pieces, Reason):
            if pieces is Reason.TOO_BIG:
                if skb.family == INET:
                    self.four.error(skb, icmp4.UNREACHABLE, icmp4.FRAGMENTATION_NEEDED, dst.mtu)
                else:
                    self.six.error(skb, icmp6.TOO_BIG, 0, dst.mtu)
            self.engine.drop(skb, pieces)
            return
        for piece in pieces:
            if piece is skb.data:
                self._transmit(skb, dst)
                continue
            try:
                part = Skb(piece, skb.indev)
            except Broken:
                self.engine.drop(skb, Reason.FRAGMENT_BROKEN)
                return
            # ip_copy_metadata
            part.outdev, part.mark, part.dst, part.primary = skb.outdev, skb.mark, dst, skb.primary
            part.ct, part.ctinfo, part.ipvs = skb.ct, skb.ctinfo, skb.ipvs
            self._transmit(part, dst)

    def _identification6(self) -> int:
        return self.engine.random(0xFFFFFFFF) + 1

    def _transmit(self, skb: Skb, dst: Dst) -> None:
        """ip_finish_output2: to the next hop, if it answers."""
        device = dst.device
        if device == "lo":
            self.engine.transmit(skb, device, skb.destination)
            return
        hop = dst.gateway or skb.destination
        interface = self._interfaces.get(device)
        if (
            interface is not None
            and interface.hosts is not None
            and dst.kind == "unicast"
            and hop not in interface.hosts
        ):
            self._neighbours.wait(skb, device, hop)
            self.engine.drop(skb, Reason.NO_NEIGHBOUR)
            return
        self.engine.transmit(skb, device, hop)

    # -- answers and routes for other parts ---------------------------------------------------------------------------

    def icmp_error(self, skb: Skb, type: int, code: int, info: int = 0) -> None:
        """icmp_send, icmpv6_send: an error about a packet, if it may be answered; `info` the word that it carries."""
        if skb.family == INET:
            self.four.error(skb, type, code, info)
        else:
            self.six.error(skb, type, code, info)

    def tcp_reset(self, skb: Skb, hook: int) -> None:
        """nf_send_reset, nf_send_reset6; the hook makes no difference here."""
        resets.reject(self.engine, skb)

    def route_me_harder(self, skb: Skb, source_type_local: bool) -> bool:
        """ip_route_me_harder, ip6_route_me_harder: a new output route; false: there is none, drop the packet.

        `source_type_local`: take the source as one of the host's (RTN_LOCAL) instead of looking (RTN_UNSPEC).
        """
        routing = self.engine.routing
        if skb.family == INET:
            known = source_type_local or routing.four.address_type(skb.source) in ("local", "unicast")
            way = routing.four.output(skb.destination, skb.source if known else b"", skb.mark, "", True)
        else:
            near = skb.destination[0] == 0xFF or link_local(skb.destination)
            device = skb.dst.device if near and skb.dst is not None else ""
            way = routing.six.output(skb.destination, skb.source, skb.mark, device)
        if isinstance(way, Reason):
            return False
        skb.dst = way
        return True
