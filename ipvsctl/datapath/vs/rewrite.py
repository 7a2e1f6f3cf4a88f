"""Address translation of IPVS: snat_handler and dnat_handler of ip_vs_proto_{tcp,udp,sctp}.c, ip_vs_nat_icmp.

Checksums are changed, not made anew, wherever the kernel does it so: one that was wrong stays wrong. Two exceptions are
the kernel's own: a UDP packet without a checksum gets one, and SCTP's is computed anew when the port changes.
"""

from __future__ import annotations

from ipvsctl.datapath.skb import ICMPV6, SCTP, TCP, UDP, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs.entry import Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.model.address import INET6
from ipvsctl.wire import sctp, transport
from ipvsctl.wire.checksum import checksum, pseudo

_LEAST = {TCP: 20, UDP: 8, SCTP: 12}
"""Bytes of the transport header that must be there to be rewritten; AH and ESP have no ports."""


def checksum_is_right(skb: Skb) -> bool:
    """ip_vs_checksum_common_check: packets of the host itself are not looked at, nor those that conntrack verified."""
    if skb.own or skb.checked or not skb.indev:
        return True
    return transport.verify(skb.data, skb.family, skb.protocol, skb.thoff, skb.source, skb.destination)


def to_server(skb: Skb, conn: Conn) -> Verdict:
    """The dnat_handlers and the change of the destination address; what the application does comes first."""
    protocol = skb.protocol
    least = _LEAST.get(protocol)
    if least is None:
        skb.set_destination(conn.daddr)
        return None
    if len(skb.data) < skb.thoff + least:
        return Reason.TRUNCATED
    if conn.app is not None:
        if not checksum_is_right(skb):
            return Reason.LOCAL_CHECKSUM
        if not conn.app.incoming(conn, skb):
            return Reason.IPVS_APPLICATION
    port = skb.dport
    skb.set_dport(conn.dport)
    skb.set_destination(conn.daddr)
    if protocol == UDP:
        _complete_udp(skb)
    elif protocol == SCTP and port != conn.dport:
        sctp.seal(skb.data, skb.thoff)
    return None


def to_client(skb: Skb, conn: Conn) -> Verdict:
    """The snat_handlers and the change of the source address; what the application does comes first."""
    protocol = skb.protocol
    least = _LEAST.get(protocol)
    if least is None:
        skb.set_source(conn.vaddr)
        return None
    if len(skb.data) < skb.thoff + least:
        return Reason.TRUNCATED
    if conn.app is not None:
        if not checksum_is_right(skb):
            return Reason.LOCAL_CHECKSUM
        if not conn.app.outgoing(conn, skb):
            return Reason.IPVS_APPLICATION
    port = skb.sport
    skb.set_sport(conn.vport)
    skb.set_source(conn.vaddr)
    if protocol == UDP:
        _complete_udp(skb)
    elif protocol == SCTP and port != conn.vport:
        sctp.seal(skb.data, skb.thoff)
    return None


def _complete_udp(skb: Skb) -> None:
    """A UDP checksum of 0 (none was made) is computed, as the kernel's handlers do."""
    data, at = skb.data, skb.thoff
    if data[at + 6] or data[at + 7]:
        return
    start = pseudo(skb.source, skb.destination, UDP, len(data) - at)
    skb.set_header_word(at + 6, checksum(memoryview(data)[at:], start) or 0xFFFF)


def icmp_error(skb: Skb, conn: Conn, header: Header, request: bool) -> bool:
    """ip_vs_nat_icmp and ip_vs_nat_icmp_v6: an ICMP error and the packet inside it; false when too little is there.

    `request`: on its way to the server, else to the client. The transport checksum inside stays as it was, as in the
    kernel: too little of that packet is there to know it.
    """
    data = skb.data
    ports = header.protocol in (TCP, UDP, SCTP)
    if len(data) < header.length + (4 if ports else 0):
        return False
    address = conn.daddr if request else conn.vaddr
    if request:
        skb.set_destination(address)
    else:
        skb.set_source(address)
    inner = header.offset
    skb.partial = skb.family == INET6
    if skb.family == INET6:
        at = inner + (8 if request else 24)
        data[at : at + 16] = address
    else:
        at = inner + (12 if request else 16)
        data[at : at + 4] = address
        skb.set_header_word(inner + 10, 0)
        skb.set_header_word(inner + 10, checksum(memoryview(data)[inner : header.length]))
    if ports:
        if request:
            skb.set_header_word(header.length, conn.dport)
        else:
            skb.set_header_word(header.length + 2, conn.vport)
    seal_icmp(skb)
    return True


def seal_icmp(skb: Skb) -> None:
    """Compute the checksum of an ICMP packet anew."""
    data, at = skb.data, skb.thoff
    skb.set_header_word(at + 2, 0)
    start = pseudo(skb.source, skb.destination, ICMPV6, len(data) - at) if skb.family == INET6 else 0
    skb.set_header_word(at + 2, checksum(memoryview(data)[at:], start))
