"""TCP resets: those of the target REJECT and those of the host's own stack for segments that nothing waits for.

Both have IPv4 identification 0 with DF set, no window and no options; the differences are TOS, TTL and the connection.
Sources: nf_reject_ipv4.c, nf_reject_ipv6.c, tcp_ipv4.c: tcp_v4_send_reset, tcp_ipv6.c: tcp_v6_send_response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.icmp4 import attach
from ipvsctl.datapath.icmp6 import hop_limit
from ipvsctl.datapath.route6 import ANY, strict
from ipvsctl.datapath.skb import ACK, FIN, RST, SYN, TCP, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire import ipv4, ipv6, tcp, transport

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine


def _segment(skb: Skb) -> bytearray:
    """The reset that answers a segment; it is there at least up to the options."""
    data, at = skb.data, skb.thoff
    flags = data[at + 13]
    if flags & ACK:
        sequence, acknowledged, answer = int.from_bytes(data[at + 8 : at + 12], "big"), 0, RST
    else:
        end = int.from_bytes(data[at + 4 : at + 8], "big") + bool(flags & SYN) + bool(flags & FIN)
        acknowledged = end + len(data) - at - (data[at + 12] >> 4) * 4 & 0xFFFFFFFF
        sequence, answer = 0, RST | ACK
    return tcp.build(skb.destination, skb.source, skb.dport, skb.sport, answer, sequence, acknowledged, 0)


def reject(engine: Engine, skb: Skb) -> None:
    """nf_send_reset, nf_send_reset6: REJECT --reject-with tcp-reset."""
    if skb.protocol != TCP or skb.fragment or len(skb.data) < skb.thoff + 20 or skb.flags & RST:
        return
    if not skb.own and not transport.verify(skb.data, skb.family, TCP, skb.thoff, skb.source, skb.destination):
        return
    answer = _reject4(engine, skb) if skb.family == INET else _reject6(engine, skb)
    if answer is None:
        return
    attach(answer, skb)
    engine.ct.close(skb)
    engine.ip.local_out(answer)


def _reject4(engine: Engine, skb: Skb) -> Skb | None:
    dst = skb.dst
    if dst is None:
        way = engine.routing.output(INET, skb.source)
        if isinstance(way, Reason):
            return None
        dst = way
    if dst.kind in ("broadcast", "multicast"):
        return None
    ttl = engine.settings["net.ipv4.ip_default_ttl"]
    answer = Skb(ipv4.build(skb.destination, skb.source, TCP, _segment(skb), ttl, df=True))
    answer.dst = dst
    answer.mark = skb.mark if engine.settings["net.ipv4.fwmark_reflect"] else 0
    if not engine.ip.route_me_harder(answer, False) or len(answer.data) > answer.dst.mtu:
        return None
    return answer


def _reject6(engine: Engine, skb: Skb) -> Skb | None:
    for address in (skb.source, skb.destination):
        if address == ANY or address[0] == 0xFF:
            return None
    mark = skb.mark if engine.settings["net.ipv6.fwmark_reflect"] else 0
    way = engine.routing.output(INET6, skb.source, skb.destination, mark)
    if isinstance(way, Reason):
        return None
    limit = hop_limit(engine, way.device)
    answer = Skb(ipv6.build(skb.destination, skb.source, TCP, _segment(skb), limit))
    answer.dst, answer.mark = way, mark
    return answer


def local(engine: Engine, skb: Skb) -> None:
    """The reset of a host where nothing listens. A segment signed with MD5 gets none: there is no key for it."""
    data, at = skb.data, skb.thoff
    if skb.flags & RST or _signed(data, at):
        return
    if skb.family == INET:
        mark = skb.mark if engine.settings["net.ipv4.fwmark_reflect"] else 0
        way = engine.routing.output(INET, skb.source, skb.destination, mark)
        if isinstance(way, Reason):
            return
        ttl = engine.settings["net.ipv4.ip_default_ttl"]
        packet = ipv4.build(skb.destination, skb.source, TCP, _segment(skb), ttl, data[1] & 0xFC, df=True)
    else:
        mark = skb.mark if engine.settings["net.ipv6.fwmark_reflect"] else 0
        device = skb.indev if strict(skb.source) else ""
        way = engine.routing.output(INET6, skb.source, skb.destination, mark, device)
        if isinstance(way, Reason):
            return
        traffic_class = (data[0] << 4 | data[1] >> 4) & 0xFC
        limit = hop_limit(engine, way.device)
        packet = ipv6.build(skb.destination, skb.source, TCP, _segment(skb), limit, traffic_class)
    answer = Skb(packet)
    answer.dst, answer.mark = way, mark
    engine.ip.local_out(answer)


def _signed(data: bytearray, at: int) -> bool:
    """tcp_input.c: tcp_parse_md5sig_option."""
    end = at + (data[at + 12] >> 4) * 4
    at += 20
    while at < end:
        kind = data[at]
        if kind == 0:
            return False
        if kind == 1:
            at += 1
            continue
        if end - at < 2 or not 2 <= data[at + 1] <= end - at:
            return False
        if kind == 19:
            return data[at + 1] == 18
        at += data[at + 1]
    return False
