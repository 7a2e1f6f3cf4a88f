"""ICMPv6 errors that the host sends, and everything it may not answer (net/ipv6/icmp.c: icmp6_send).

The kernel gives them a flow label made of a hash with a secret (net.ipv6.auto_flowlabels); here it is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.icmp4 import attach
from ipvsctl.datapath.route6 import ANY, LOOPBACK, link_local
from ipvsctl.datapath.skb import ICMPV6, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.wire import icmp, ipv6

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.limits import Limits

UNREACHABLE, TOO_BIG, TIME_EXCEEDED, PARAMETER = 1, 2, 3, 4
NO_ROUTE, PROHIBITED, NOT_NEIGHBOUR, ADDRESS_UNREACHABLE, PORT_UNREACHABLE = range(5)
HEADER_FIELD, UNKNOWN_HEADER, UNKNOWN_OPTION = range(3)
ECHO_REPLY = 129


class Icmp6:
    """Sends ICMPv6. While it does, no error is told about what it sends: icmpv6_xmit_lock is taken (`_sending`)."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self._sending = False

    def _masked(self, kind: int) -> bool:
        """Whether the limits are for this type: net.ipv6.icmp.ratemask is "0-1,3-127" unless it was set."""
        mask = self.engine.settings.text.get("net.ipv6.icmp.ratemask")
        if mask is None:
            return kind < 128 and kind != TOO_BIG
        for part in mask.split(","):
            first, _, last = part.partition("-")
            if first.strip().isdigit() and int(first) <= kind <= int(last if last.strip().isdigit() else first):
                return True
        return False

    def _may_send(self, limited: bool, destination: bytes, source: bytes, device: str) -> bool:
        """icmpv6_xrlim_allow: the wider the prefix of the route, the more."""
        if not limited:
            return True
        way = self.engine.routing.six.output(destination, source, 0, device)
        if isinstance(way, Reason):
            return False
        if way.device != "lo":
            time = self.engine.settings.get("net.ipv6.icmp.ratelimit", 1000)
            if not self.limits.peer_allow(destination, time, 128 - way.prefix >> 5):
                return False
        self.limits.consume()
        return True

    def error(self, skb: Skb, kind: int, code: int, info: int = 0) -> None:
        """Send an error about a packet, if one may be sent; `info` is the 32-bit word behind the checksum."""
        device = skb.indev or "lo"
        six = self.engine.routing.six
        source = skb.destination if six.has_address(skb.destination, device) or six.is_anycast(skb.destination) else b""
        if skb.destination[0] == 0xFF or skb.broadcast:
            option = kind == PARAMETER and code == UNKNOWN_OPTION
            if kind != TOO_BIG and not (option and _refused(skb, info)):
                return
            source = b""
        target = skb.source
        if target == ANY or target[0] == 0xFF or six.is_anycast(target) or _silent(skb):
            return
        limited = False
        if device != "lo" and self._masked(kind):
            if not self.limits.all_allow():
                return
            limited = True
        if self._sending:
            return
        if not source and skb.indev and not self._prefers(target):
            source = self.engine.routing.select_source(skb.indev, target)
        outdev = device if link_local(target) else ""
        if not self._may_send(limited, target, source, outdev):
            return
        rest = (info & 0xFFFFFFFF).to_bytes(4, "big")
        self._send(skb, target, source, outdev, kind, code, rest, skb.data[: 1280 - ipv6.HEADER - icmp.HEADER], 0, True)

    def _prefers(self, target: bytes) -> bool:
        """icmpv6_rt_has_prefsrc: whether the route says which source to take."""
        hop = self.engine.routing.fib6.lookup(target, b"", 0, "lo")
        return not isinstance(hop, Reason) and bool(hop.source)

    def _send(
        self, skb: Skb, target: bytes, source: bytes, device: str, kind: int, code: int, rest: bytes,
        payload: bytearray, traffic_class: int, related: bool,
    ) -> None:  # fmt: skip
        engine = self.engine
        mark = skb.mark if engine.settings["net.ipv6.fwmark_reflect"] else 0
        way = engine.routing.six.output(target, source, mark, device)
        if isinstance(way, Reason):
            return
        source = way.source or ANY
        message = icmp.build(source, target, kind, code, rest, payload)
        limit = hop_limit(engine, way.device)
        answer = Skb(ipv6.build(source, target, ICMPV6, message, limit, traffic_class))
        answer.dst, answer.mark = way, mark
        answer.ignore_df = True
        if related:
            attach(answer, skb)
            if engine.tracer is not None:
                text = f"tells the sender: ICMPv6 type {kind} code {code}"
                engine.tracer.note(text, minor=True, icmp=(kind, code))
        before, self._sending = self._sending, True
        try:
            engine.ip.local_out(answer)
        finally:
            self._sending = before

    def echo(self, skb: Skb) -> None:
        """icmpv6_echo_reply; the traffic class is the request's."""
        destination, device = skb.destination, skb.indev or "lo"
        settings = self.engine.settings
        six = self.engine.routing.six
        anycast = six.is_anycast(destination)
        if destination[0] == 0xFF and settings.get("net.ipv6.icmp.echo_ignore_multicast", 0):
            return
        if anycast and settings.get("net.ipv6.icmp.echo_ignore_anycast", 0):
            return
        unicast = destination[0] != 0xFF and not anycast
        source = destination if unicast or (anycast and settings.get("net.ipv6.anycast_src_echo_reply", 0)) else b""
        target = skb.source
        # The kernel asks for the route by the device the request came in by, or that has the address it came for.
        outdev = self._arrival(skb, device) if target != LOOPBACK else device
        way = six.output(target, source, skb.mark if settings["net.ipv6.fwmark_reflect"] else 0, outdev)
        if isinstance(way, Reason):
            return
        limited = False
        if device != "lo" and self._masked(ECHO_REPLY):
            if not self.limits.all_allow():
                return
            limited = True
        if not self._may_send(limited, target, source, outdev):
            return
        at = skb.thoff
        traffic_class = (skb.data[0] << 4 | skb.data[1] >> 4) & 255
        rest, payload = bytes(skb.data[at + 4 : at + 8]), skb.data[at + 8 :]
        self._send(skb, target, source, outdev, ECHO_REPLY, skb.data[at + 1], rest, payload, traffic_class, False)

    def _arrival(self, skb: Skb, device: str) -> str:
        """icmp6_iif: of a packet over the loopback device, the device that has the destination address."""
        if device != "lo":
            return device
        return self.engine.routing.six.owner(skb.destination) or device


def hop_limit(engine: Engine, device: str) -> int:
    """output_core.c: ip6_dst_hoplimit."""
    name = f"net.ipv6.conf.{device.replace('.', '/')}.hop_limit"
    return engine.settings.get(name, engine.settings.get("net.ipv6.conf.default.hop_limit", 64))


def _silent(skb: Skb) -> bool:
    """is_ineligible: no error about an ICMPv6 error, nor about what is too short to tell."""
    if skb.protocol != ICMPV6 or skb.fragment:
        return False
    if len(skb.data) <= skb.thoff:
        return not skb.more
    return skb.data[skb.thoff] < 128


def _refused(skb: Skb, at: int) -> bool:
    """opt_unrec: the option asks to be reported even for multicasts."""
    return at >= len(skb.data) or skb.data[at] & 0xC0 == 0x80
