"""The tunnels of the method tun: ipip, gre and gue around a packet, and off the packet that an ICMP error quotes.

Sources: ip_vs_tunnel_xmit, ipvs_gue_encap and ipvs_gre_encap of ip_vs_xmit.c, ipvs_udp_decap and ipvs_gre_decap of
ip_vs_core.c, INET_ECN_encapsulate of include/net/inet_ecn.h. Unpredictable in the kernel, and so only plausible here:
the IPv4 identification of an outer header without DF (0 with DF), and the source port of gue.
"""

from __future__ import annotations

from zlib import crc32

from ipvsctl.datapath.skb import GRE, IPIP, TCP, UDP, Skb
from ipvsctl.datapath.vs.header import Header
from ipvsctl.model.address import INET
from ipvsctl.model.service import Tunnel
from ipvsctl.wire import tunnel
from ipvsctl.wire.checksum import fold, pseudo

_REMOTE = 8
"""Bytes of gue's private flags and remote checksum offload."""
_CHECK_AT = {TCP: 16, UDP: 6}


def overhead(kind: Tunnel | None, family: int, remote: bool = False) -> int:
    """Bytes that go around a packet; `family` is that of the outer header."""
    size = 20 if family == INET else 40
    if kind is None:
        return size
    if kind.type == "gue":
        return size + 12 + (_REMOTE if remote else 0)
    return size + (8 if kind.csum == "yes" else 4)


def offloads(kind: Tunnel | None, skb: Skb) -> bool:
    """Whether the inner checksum is left to the receiver: csum remote, and only for packets of the host itself.

    The kernel asks for CHECKSUM_PARTIAL, which a packet from a network has not.
    """
    if kind is None or kind.csum != "remote" or not skb.own or skb.indev or skb.fragment:
        return False
    at = _CHECK_AT.get(skb.protocol)
    return at is not None and len(skb.data) >= skb.thoff + at + 2


def flow_port(skb: Skb, header: Header, low: int, high: int) -> int:
    """udp_flow_src_port (include/net/udp.h): from `low` up to, not including, `high`; a flow keeps its port.

    The kernel's hash of the flow has a secret key.
    """
    key = crc32(b"%b%b%d:%d:%d" % (skb.source, skb.destination, header.sport, header.dport, header.protocol))
    key = (key ^ key << 16) & 0xFFFFFFFF
    return (key * max(high - low, 0) >> 32) + low


def encapsulate(
    skb: Skb, kind: Tunnel | None, source: bytes, destination: bytes, *, df: bool, remote: bool, sport: int,
    identification: int,
) -> bytearray | None:  # fmt: skip
    """The outer packet; None when it would be longer than a packet can be.

    TTL, DSCP and, with `df`, the DF bit are those of the inner packet; a congestion mark (CE) inside becomes ECT(0).
    """
    data = skb.data
    if skb.family == INET:
        tos, ttl = data[1], data[8]
        df = df and bool(data[6] & 0x40)
    else:
        tos, ttl = (data[0] & 15) << 4 | data[1] >> 4, data[7]
        df = False
    if tos & 3 == 3:
        tos = tos & 0xFC | 2
    start: tuple[int, int] | None = None
    if remote:
        # The receiver sums from here and puts the result there; until then the field holds the pseudo header's sum.
        at = skb.thoff + _CHECK_AT[skb.protocol]
        start = skb.thoff, at
        partial = fold(pseudo(skb.source, skb.destination, skb.protocol, len(data) - skb.thoff)) ^ 0xFFFF
        skb.set_header_word(at, partial)
    if len(data) + overhead(kind, INET, remote) > 65535:
        return None
    return tunnel.encapsulate(
        "ipip" if kind is None else kind.type, data, source, destination, ttl, tos, 0 if df else identification, df,
        kind is not None and kind.csum != "no", sport, 0 if kind is None else kind.port, start,
    )  # fmt: skip


def unwrap(data: bytearray, at: int, protocol: int, kind: Tunnel | None) -> int | None:
    """Length of the tunnel headers that begin at `at`, behind the outer IP header; None when they are not ours.

    `protocol` is that of the outer header, `kind` that of the server the tunnel leads to. Only IPv4 inside is known.
    """
    if protocol == IPIP:
        return 0 if kind is None else None
    if kind is None:
        return None
    if protocol == UDP and kind.type == "gue":
        found = tunnel.gue_header(data, at + 8)
        return found[1] + 8 if found is not None and found[0] == IPIP else None
    if protocol == GRE and kind.type == "gre":
        found = tunnel.gre_header(data, at)
        return found[1] if found is not None and found[0] == IPIP else None
    return None
