"""Tuples of packets and of the packets inside ICMP errors, and the tuple of the answer.

Sources: nf_conntrack_core.c (nf_ct_get_tuple, get_l4proto, nf_ct_invert_tuple), nf_conntrack_proto_icmp.c,
nf_conntrack_proto_icmpv6.c and nf_conntrack_proto_gre.c (their pkt_to_tuple and invert functions).
"""

from __future__ import annotations

from ipvsctl.datapath.skb import GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE
from ipvsctl.model.address import INET
from ipvsctl.wire.checksum import Buffer

DCCP = 33

HAVE_PORTS = frozenset({TCP, UDP, SCTP, UDPLITE, DCCP})
"""Protocols whose header begins with the two ports."""

_FIRST = tuple(bytes((protocol,)) for protocol in range(256))
_NOTHING = bytes(4)

_INVERSE4 = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
"""ICMP questions and answers: echo, timestamp, information, address mask."""

_INVERSE6 = {128: 129, 129: 128, 139: 140, 140: 139}
"""ICMPv6: echo and node information."""

_NO_NEXT_HEADER = 59
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = frozenset({0, 43, 60, _FRAGMENT, _AUTHENTICATION})


def make(protocol: int, source: bytes, destination: bytes, data: Buffer, at: int) -> bytes | None:
    """The tuple of a packet whose transport header begins at `at`; None when it is cut off or cannot be tracked."""
    if protocol in HAVE_PORTS:
        ports = data[at : at + 4]
        if len(ports) < 4:
            return None
        return b"".join((_FIRST[protocol], source, destination, ports))
    if protocol in (ICMP, ICMPV6):
        if len(data) < at + 8:
            return None
        return b"".join((_FIRST[protocol], source, destination, data[at + 4 : at + 6], data[at : at + 2]))
    if len(source) == 16 and protocol in _EXTENSIONS:
        return None  # Cut off: what would follow is not there.
    numbers: Buffer = _NOTHING
    if protocol == GRE and len(data) >= at + 4 and data[at + 1] & 7 == 1 and len(data) >= at + 8:
        # PPTP's own GRE. Without its helper the call has no source key.
        if data[at + 2] != 0x88 or data[at + 3] != 0x0B:
            return None
        numbers = b"\0\0" + data[at + 6 : at + 8]
    return b"".join((_FIRST[protocol], source, destination, numbers))


def invert(key: bytes) -> bytes | None:
    """The tuple of the answer; None for an ICMP type that is not half of a pair."""
    end = len(key) - 4
    half = (end + 1) >> 1
    protocol = key[0]
    if protocol in (ICMP, ICMPV6):
        kind = (_INVERSE4 if protocol == ICMP else _INVERSE6).get(key[end + 2])
        if kind is None:
            return None
        return b"".join((key[:1], key[half:end], key[1:half], key[end : end + 2], _FIRST[kind], key[end + 3 :]))
    return b"".join((key[:1], key[half:end], key[1:half], key[end + 2 :], key[end : end + 2]))


def embedded(data: Buffer, at: int, family: int) -> bytes | None:
    """The tuple of the packet whose IP header is at `at`, inside an ICMP error (nf_ct_get_tuplepr); None for none."""
    if family == INET:
        if len(data) < at + 20 or (data[at + 6] & 0x1F) << 8 | data[at + 7]:
            return None
        start = at + (data[at] & 15) * 4
        if start > len(data):
            return None
        return make(data[at + 9], bytes(data[at + 12 : at + 16]), bytes(data[at + 16 : at + 20]), data, start)
    if len(data) < at + 40:
        return None
    protocol, start = data[at + 6], at + 40
    while protocol in _EXTENSIONS:
        if len(data) < start + 8:
            return None
        if protocol == _FRAGMENT:
            if data[start + 2] or data[start + 3] & 0xF8:
                return None
            size = 8
        elif protocol == _AUTHENTICATION:
            size = (data[start + 1] + 2) * 4
        else:
            size = (data[start + 1] + 1) * 8
        protocol, start = data[start], start + size
    if protocol == _NO_NEXT_HEADER:
        return None
    return make(protocol, bytes(data[at + 8 : at + 24]), bytes(data[at + 24 : at + 40]), data, start)
