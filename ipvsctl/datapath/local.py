"""The host's own IPv4 and transport: what becomes of packets that are for it, and its processes' packets.

Nothing listens but what `listeners` names, and those swallow what they get: a closed TCP port answers with a reset, a
closed UDP port and an unknown protocol with an ICMP error, an echo request with a reply. Timestamp requests, redirects
and all other ICMP are swallowed. Sources: ip_input.c: ip_protocol_deliver_rcu, tcp_ipv4.c, udp.c, icmp.c: icmp_rcv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath import resets
from ipvsctl.datapath.icmp4 import FRAGMENTATION_NEEDED, PORT_UNREACHABLE, PROTOCOL_UNREACHABLE, UNREACHABLE
from ipvsctl.datapath.local6 import Local6
from ipvsctl.datapath.route4 import ZERO
from ipvsctl.datapath.route6 import ANY
from ipvsctl.datapath.skb import ICMP, NONE, TCP, UDP, UDPLITE, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire import icmp, transport

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_IGMP = 2


class Local:
    """The host itself. `listeners`: (protocol, address, port), address b"" for every address of both families."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.listeners: set[tuple[int, bytes, int]] = set()
        self._six = Local6(engine, self)

    def send(self, skb: Skb) -> None:
        """A process's packet: a route, a source if it has none (address of zeros), LOCAL_OUT, and out.

        IPv4 packets that are too long are cut unless DF is set; IPv6 ones always, as the socket layer would.
        """
        source = skb.source
        chosen = source == (ZERO if skb.family == INET else ANY)
        way = self.engine.routing.output(
            skb.family, skb.destination, b"" if chosen else source, skb.mark, any_source=True
        )
        if isinstance(way, Reason):
            self.engine.drop(skb, way)
            return
        if chosen and way.source:
            skb.set_source(way.source)
        skb.dst = way
        skb.ignore_df = skb.family == INET6
        self.engine.ip.local_out(skb)

    def listens(self, protocol: int, address: bytes, port: int) -> bool:
        """Whether a socket takes it."""
        return (protocol, address, port) in self.listeners or (protocol, b"", port) in self.listeners

    def deliver(self, skb: Skb) -> None:
        """A packet for the host has passed LOCAL_IN."""
        if skb.family == INET6:
            self._six.deliver(skb)
            return
        protocol = skb.protocol
        if protocol == TCP:
            self.tcp(skb)
        elif protocol in (UDP, UDPLITE):
            if self.udp(skb):
                self.engine.ip.icmp_error(skb, UNREACHABLE, PORT_UNREACHABLE)
        elif protocol == ICMP:
            self._icmp(skb)
        elif protocol == _IGMP:
            self.engine.delivered(skb)
        else:
            self.engine.ip.icmp_error(skb, UNREACHABLE, PROTOCOL_UNREACHABLE)
            self.engine.drop(skb, Reason.LOCAL_PROTOCOL)

    def right(self, skb: Skb, end: int) -> bool:
        """Whether the transport checksum is right; of our own packets over the loopback device nobody looks."""
        if skb.indev == "lo":
            return True
        data = skb.data if end == len(skb.data) else skb.data[:end]
        return transport.verify(data, skb.family, skb.protocol, skb.thoff, skb.source, skb.destination)

    def tcp(self, skb: Skb) -> None:
        """tcp_v4_rcv, tcp_v6_rcv without a connection."""
        engine, data, at = self.engine, skb.data, skb.thoff
        if skb.broadcast:
            engine.drop(skb, Reason.NO_LISTENER)
            return
        length = len(data) - at
        if length < 20 or not 20 <= (data[at + 12] >> 4) * 4 <= length:
            engine.drop(skb, Reason.TRUNCATED)
            return
        if not self.right(skb, len(data)):
            engine.drop(skb, Reason.LOCAL_CHECKSUM)
            return
        if self.listens(TCP, skb.destination, skb.dport):
            engine.delivered(skb)
            return
        resets.local(engine, skb)
        engine.drop(skb, Reason.NO_LISTENER)

    def udp(self, skb: Skb) -> bool:
        """__udp4_lib_rcv, __udp6_lib_rcv; true when the sender is to learn that the port is closed."""
        engine, data, at = self.engine, skb.data, skb.thoff
        length = len(data) - at
        said = data[at + 4] << 8 | data[at + 5] if length >= 8 else 0
        if skb.protocol == UDPLITE or (not said and skb.family == INET6):
            said = max(length, 0)
        if length < 8 or not 8 <= said <= length:
            engine.drop(skb, Reason.TRUNCATED)
            return False
        if self.listens(skb.protocol, skb.destination, skb.dport):
            engine.delivered(skb)
            return False
        if skb.broadcast or (skb.dst is not None and skb.dst.kind in ("broadcast", "multicast")):
            engine.drop(skb, Reason.NO_LISTENER)
            return False
        unsigned = not (data[at + 6] or data[at + 7])
        if (unsigned and skb.family == INET6) or not self.right(skb, at + said):
            engine.drop(skb, Reason.LOCAL_CHECKSUM)
            return False
        engine.drop(skb, Reason.NO_LISTENER)
        # nf_reset_ct: the error finds its connection by the packet that it quotes, or none.
        skb.ct, skb.ctinfo = None, NONE
        return True

    def _icmp(self, skb: Skb) -> None:
        engine, data, at = self.engine, skb.data, skb.thoff
        if len(data) < at + 8:
            engine.drop(skb, Reason.TRUNCATED)
            return
        if not self.right(skb, len(data)):
            engine.drop(skb, Reason.LOCAL_CHECKSUM)
            return
        engine.delivered(skb)
        if data[at] == UNREACHABLE and data[at + 1] == FRAGMENTATION_NEEDED:
            self._path_mtu(skb)
        if data[at] != icmp.ECHO_REQUEST or engine.settings.get("net.ipv4.icmp_echo_ignore_all", 0):
            return
        to_all = skb.dst is not None and skb.dst.kind != "local"
        if to_all and engine.settings.get("net.ipv4.icmp_echo_ignore_broadcasts", 1):
            return
        message = data[at:]
        message[0] = icmp.ECHO_REPLY
        icmp.seal(message, skb.destination, skb.source)
        engine.ip.four.reply(skb, message)

    def _path_mtu(self, skb: Skb) -> None:
        """udp_err, icmp_err: the path MTU to where a UDP packet or an echo reply of the host was on its way.

        So IPVS learns of gue also from routers that quote too little for it to know its tunnel.
        """
        engine, data, at = self.engine, skb.data, skb.thoff
        quoted = icmp.embedded(data, at + 8)
        if (
            quoted is None or quoted.family != INET or len(data) < quoted.thoff + 8
            or (quoted.protocol != UDP and (quoted.protocol != ICMP or data[quoted.thoff] != icmp.ECHO_REPLY))
            or engine.settings.get("net.ipv4.ip_no_pmtu_disc", 0)
            or skb.dst is None or skb.dst.kind != "local"
            or engine.routing.address_type(INET, quoted.source) != "local"
        ):  # fmt: skip
            return
        engine.vs.transmit.ways.update_pmtu(quoted.destination, data[at + 6] << 8 | data[at + 7])
