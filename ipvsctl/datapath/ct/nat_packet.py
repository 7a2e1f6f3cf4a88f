"""Rewriting packets for address translation: addresses, ports and checksums (nf_nat_proto.c).

One function serves a packet's own headers and those quoted in an ICMP error, of which the kernel only asks for eight
bytes behind the IP header: a checksum that is not there is not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import DST_NAT, DST_NAT_DONE, SRC_NAT, SRC_NAT_DONE
from ipvsctl.datapath.ct.tuples import DCCP
from ipvsctl.datapath.skb import GRE, ICMP, ICMPV6, RELATED_REPLY, SCTP, TCP, UDP, UDPLITE, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.address import INET
from ipvsctl.wire.checksum import checksum, pseudo, replaced
from ipvsctl.wire.icmp import embedded
from ipvsctl.wire.sctp import seal
from ipvsctl.wire.transport import verify

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.entry import Entry

_QUERIES = frozenset({0, 8, 13, 14, 15, 16, 17, 18})
"""ICMP types whose identifier is the connection's: echo, timestamp, information and address mask."""

_ECHO6 = (128, 129)
_REDIRECT, _REDIRECT6 = 5, 137

# Offset of the checksum that covers the addresses, and how long the header must be for it to be changed.
_CHECKS = {TCP: (16, 20), UDP: (6, 8), UDPLITE: (6, 8), DCCP: (6, 12), ICMPV6: (2, 8)}

_BOTH, _BOTH_DONE = SRC_NAT | DST_NAT, SRC_NAT_DONE | DST_NAT_DONE


def rewrite(skb: Skb, other: bytes, source: bool) -> bool:
    """Make the packet's source, or else destination, what the tuple of the other direction says (nf_nat_manip_pkt).

    False: the packet is too short to be rewritten, or is GRE of an unknown version.
    """
    end = len(other) - 4
    half = (end + 1) >> 1
    if source:
        address, second = other[half:end], end + 2
    else:
        address, second = other[1:half], end
    protocol = other[0]
    if protocol in (ICMP, ICMPV6):
        second = end
    number = other[second] << 8 | other[second + 1]
    thoff = -1 if skb.fragment else skb.thoff
    if not _manipulate(skb.data, 0, thoff, protocol, address, number, source):
        return False
    if source:
        skb.source = address
    else:
        skb.destination = address
    return True


def _manipulate(
    data: bytearray, at: int, thoff: int, protocol: int, address: bytes, number: int, source: bool,
    partial: bool = False,
) -> bool:  # fmt: skip
    """nf_nat_ipv4_manip_pkt, nf_nat_ipv6_manip_pkt: `at` the IP header, `thoff` the transport header or -1 for none.

    `partial`: the skb's checksum is left to the device (CHECKSUM_PARTIAL), as IPVS leaves that of an ICMPv6 error. The
    kernel then changes the quoted checksum as if it were one to be completed: by the other sign.
    """
    if len(address) == 4:
        position = at + 12 if source else at + 16
        field = data[position : position + 4]
    else:
        position = at + 8 if source else at + 24
        field = data[position : position + 16]
    # 2**16 is 1 modulo 0xFFFF: the remainder of the whole address is that of the sum of its words.
    before, after = int.from_bytes(field) % 0xFFFF, int.from_bytes(address) % 0xFFFF
    if thoff >= 0 and not _manipulate_transport(data, thoff, protocol, before, after, number, source, partial):
        return False
    if len(address) == 4:
        check = replaced(data[at + 10] << 8 | data[at + 11], before, after)
        data[at + 10], data[at + 11] = check >> 8, check & 255
    data[position : position + len(address)] = address
    return True


def _manipulate_transport(
    data: bytearray, thoff: int, protocol: int, before: int, after: int, number: int, source: bool, partial: bool
) -> bool:  # fmt: skip
    """l4proto_manip_pkt. `before` and `after` are the sums of the address that the checksum covers."""
    if protocol in _CHECKS or protocol == SCTP:
        if len(data) < thoff + 8:
            return False
        where = thoff if source else thoff + 2
        if protocol == ICMPV6:
            where = thoff + 4 if data[thoff] in _ECHO6 else -1
        if partial:
            before, after = after, before
        if where >= 0:
            if not partial:
                before += data[where] << 8 | data[where + 1]
                after += number
            data[where], data[where + 1] = number >> 8, number & 255
        if protocol == SCTP:
            if len(data) >= thoff + 12 and not partial:
                seal(data, thoff)
            return True
        offset, length = _CHECKS[protocol]
        if len(data) >= thoff + length:
            _carry(data, thoff + offset, protocol, before, after)
        return True
    if protocol == ICMP:
        if len(data) < thoff + 8:
            return False
        if data[thoff] in _QUERIES:
            old = data[thoff + 4] << 8 | data[thoff + 5]
            data[thoff + 4], data[thoff + 5] = number >> 8, number & 255
            _carry(data, thoff + 2, protocol, old, number)
        return True
    if protocol == GRE:
        return _manipulate_gre(data, thoff, number, source)
    return True


def _carry(data: bytearray, at: int, protocol: int, before: int, after: int) -> None:
    check = data[at] << 8 | data[at + 1]
    if not check and protocol == UDP:
        return
    check = replaced(check, before, after)
    if not check and protocol in (UDP, UDPLITE):
        check = 0xFFFF
    data[at], data[at + 1] = check >> 8, check & 255


def _manipulate_gre(data: bytearray, thoff: int, number: int, source: bool) -> bool:
    """gre_manip_pkt: only the call number of version 1 (PPTP), which belongs to the destination."""
    if len(data) < thoff + 8:
        return False
    version = data[thoff + 1] & 7
    if source or version == 0:
        return True
    if version == 1:
        data[thoff + 6], data[thoff + 7] = number >> 8, number & 255
        return True
    return False


# -- ICMP errors ------------------------------------------------------------------------------------------------------


def translate_error(skb: Skb, entry: Entry, source: bool) -> Verdict:
    """An ICMP error about a translated connection: its quotation and its own address (nf_nat_icmp_reply_translation).

    Dropped are errors with a wrong checksum or too short a quotation, and redirects of translated connections.
    """
    data, thoff = skb.data, skb.thoff
    inside = thoff + 8
    if skb.fragment or len(data) < inside + (20 if skb.family == INET else 40):
        return Reason.NAT
    own = ICMP if skb.family == INET else ICMPV6
    if not skb.checked and not verify(data, skb.family, own, thoff, skb.source, skb.destination):
        return Reason.NAT
    status = entry.status
    if data[thoff] == (_REDIRECT if skb.family == INET else _REDIRECT6) and (
        status & _BOTH_DONE != _BOTH_DONE or status & _BOTH
    ):
        return Reason.NAT
    reply = skb.ctinfo == RELATED_REPLY
    if not status & (SRC_NAT if source != reply else DST_NAT):
        return None
    other = entry.original if reply else entry.reply
    if not _rewrite_quotation(data, inside, skb.family, other, not source, skb.partial):
        return Reason.NAT
    data[thoff + 2] = data[thoff + 3] = 0
    start = 0 if skb.family == INET else pseudo(skb.source, skb.destination, ICMPV6, len(data) - thoff)
    skb.set_header_word(thoff + 2, checksum(memoryview(data)[thoff:], start))
    end = len(other) - 4
    half = (end + 1) >> 1
    if source:
        skb.set_source(other[half:end])
    else:
        skb.set_destination(other[1:half])
    return None


def _rewrite_quotation(
    data: bytearray, at: int, family: int, key: bytes, source: bool, partial: bool
) -> bool:  # fmt: skip
    """Make the quoted packet's source, or else destination, that of the tuple `key` itself."""
    end = len(key) - 4
    half = (end + 1) >> 1
    if source:
        address, second = key[1:half], end
    else:
        address, second = key[half:end], end + 2
    protocol = key[0]
    if protocol in (ICMP, ICMPV6):
        second = end
    thoff = at + (data[at] & 15) * 4 if family == INET else _quoted_transport(data, at)
    return _manipulate(data, at, thoff, protocol, address, key[second] << 8 | key[second + 1], source, partial)


def _quoted_transport(data: bytearray, at: int) -> int:
    """Where the transport header of a quoted IPv6 packet begins; -1 when it is not there (ipv6_skip_exthdr)."""
    found = embedded(data, at)
    return -1 if found is None or found.fragment else found.thoff
