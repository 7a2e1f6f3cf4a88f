"""ICMP errors that the host sends, and everything it may not answer (net/ipv4/icmp.c: __icmp_send, icmp_reply).

Their IPv4 identification is the kernel's hashed counter and so cannot be foretold: here it is random. DF is never set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.fib import LINK
from ipvsctl.datapath.interfaces import select4
from ipvsctl.datapath.skb import ICMP, RELATED, RELATED_REPLY, UNTRACKED, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET
from ipvsctl.wire import icmp, ipv4

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.limits import Limits

UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER = 3, 4, 5, 11, 12
NET_UNREACHABLE, HOST_UNREACHABLE, PROTOCOL_UNREACHABLE, PORT_UNREACHABLE, FRAGMENTATION_NEEDED = range(5)
REDIRECT_HOST, FILTERED = 1, 13
HIGHEST = 18
"""NR_ICMP_TYPES: what is above is taken for an error."""

ERRORS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12})
"""icmp_pointers[].error: the types the kernel calls errors, the undefined ones among them."""

LONGEST = 576
"""Bytes of an error message at most, its IP header included."""

NOBODY = b"\xc0\0\0\x08"
"""192.0.0.8: the source when the host has no address at all."""


class Icmp4:
    """Sends ICMP. While it does, no error is told about what it sends: icmp_xmit_lock is taken (`_sending`)."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self._sending = False

    def _masked(self, kind: int, code: int) -> bool:
        """Whether the limits are for this type: icmpv4_mask_allow, the other way round."""
        if kind > HIGHEST or (kind == UNREACHABLE and code == FRAGMENTATION_NEEDED):
            return False
        return bool(1 << kind & self.engine.settings.get("net.ipv4.icmp_ratemask", 0x1818))

    def _may_send(self, limited: bool, device: str, destination: bytes) -> bool:
        """icmpv4_xrlim_allow."""
        if not limited:
            return True
        ratelimit = self.engine.settings.get("net.ipv4.icmp_ratelimit", 1000)
        if device != "lo" and not self.limits.peer_allow(destination, ratelimit):
            return False
        self.limits.consume()
        return True

    def error(self, skb: Skb, kind: int, code: int, info: int = 0) -> None:
        """Send an error about a packet, if one may be sent; `info` is the 32-bit word behind the checksum."""
        dst = skb.dst
        if dst is None or not self._answerable(skb, kind) or dst.kind in ("broadcast", "multicast"):
            return
        engine = self.engine
        limited = False
        if skb.indev != "lo" and self._masked(kind, code):
            if not self.limits.all_allow():
                return
            limited = True
        if self._sending:
            return
        if dst.device == "lo" or dst.kind == "local":
            source = skb.destination
        elif dst.input and engine.settings.get("net.ipv4.icmp_errors_use_inbound_ifaddr", 0):
            source = select4(engine.routing.interfaces, skb.indev, skb.source, LINK)
        else:
            source = b""
        mark = skb.mark if engine.settings["net.ipv4.fwmark_reflect"] else 0
        way = engine.routing.output(INET, skb.source, source, mark)
        if isinstance(way, Reason) or not self._may_send(limited, way.device, skb.source):
            return
        room = min(way.mtu, LONGEST) - ipv4.HEADER - icmp.HEADER
        if room <= ipv4.HEADER:
            return
        tos = skb.data[1] & 0x1E | 0xC0 if kind in ERRORS else skb.data[1]
        source = way.source or NOBODY
        message = icmp.build(source, skb.source, kind, code, (info & 0xFFFFFFFF).to_bytes(4, "big"), skb.data[:room])
        answer = Skb(self._packet(source, skb.source, message, tos))
        answer.dst, answer.mark = way, mark
        if kind in ERRORS:
            attach(answer, skb)
        if engine.tracer is not None:
            engine.tracer.note(f"tells the sender: ICMP type {kind} code {code}", minor=True, icmp=(kind, code))
        self._out(answer)

    def _answerable(self, skb: Skb, kind: int) -> bool:
        if skb.broadcast or skb.fragment:
            return False
        if skb.protocol != ICMP or kind not in ERRORS:
            return True
        if len(skb.data) <= skb.thoff:
            return False
        about = skb.data[skb.thoff]
        return about <= HIGHEST and about not in ERRORS

    def _packet(self, source: bytes, destination: bytes, message: bytearray, tos: int) -> bytearray:
        ttl = self.engine.settings["net.ipv4.ip_default_ttl"]
        return ipv4.build(source, destination, ICMP, message, ttl, tos)

    def reply(self, skb: Skb, message: bytearray) -> None:
        """icmp_reply: answer a request; `message` is checksummed. TOS is the request's."""
        engine = self.engine
        limited = False
        if self._masked(message[0], message[1]):
            if not self.limits.all_allow():
                return
            limited = True
        mark = skb.mark if engine.settings["net.ipv4.fwmark_reflect"] else 0
        way = engine.routing.output(INET, skb.source, engine.routing.four.way_back(skb), mark)
        if isinstance(way, Reason) or not self._may_send(limited, way.device, skb.source):
            return
        answer = Skb(self._packet(way.source, skb.source, message, skb.data[1]))
        answer.dst, answer.mark = way, mark
        self._out(answer)

    def _out(self, answer: Skb) -> None:
        before, self._sending = self._sending, True
        try:
            self.engine.ip.local_out(answer)
        finally:
            self._sending = before


def attach(answer: Skb, about: Skb) -> None:
    """nf_conntrack_core.c: nf_conntrack_attach: an answer belongs to the connection of the packet it is about."""
    if about.ct is not None:
        answer.ct = about.ct
        answer.ctinfo = RELATED if about.ctinfo >= 3 else RELATED_REPLY
    elif about.ctinfo == UNTRACKED:
        # No entry, but not nothing either: it cannot be made untracked, and conntrack looks at it.
        answer.ctinfo = RELATED
