"""Whether a packet's transport checksum is right, whatever its protocol.

The checks are those of conntrack (nf_conntrack_proto_*.c, netfilter/utils.c: nf_checksum): all that follows the
transport header is covered, whatever UDP's length field says, and a UDP checksum of zero is right over IPv6 as well.
The receiving host's own stack is stricter in both (net/ipv6/udp.c).
"""

from __future__ import annotations

from ipvsctl.wire import sctp
from ipvsctl.wire.checksum import Buffer, correct, pseudo

_LEAST = {6: 20, 17: 8, 58: 8, 136: 8}
"""Bytes of the shortest header of the protocols whose checksum covers the addresses: UDP-Lite is 136."""


def verify(data: Buffer, family: int, protocol: int, thoff: int, source: bytes = b"", destination: bytes = b"") -> bool:
    """Whether the checksum in the transport header at `thoff` is right; the packet ends with `data`.

    `family` 2 or 10. False for a header that is cut off; true for a protocol that has no checksum of its own.
    """
    length = len(data) - thoff
    least = _LEAST.get(protocol)
    if least is not None:
        if protocol == 58 and family != 10:
            return True
        if length < least:
            return False
        covered = length
        if protocol == 17 and not (data[thoff + 6] or data[thoff + 7]):
            return True
        if protocol == 136:
            covered = (data[thoff + 4] << 8 | data[thoff + 5]) or length
            if not 8 <= covered <= length:
                return False
        start = pseudo(source, destination, protocol, length)
        return correct(memoryview(data)[thoff : thoff + covered], start)
    if protocol == 1 and family == 2:
        return length >= 8 and correct(memoryview(data)[thoff:])
    if protocol == sctp.PROTOCOL:
        return sctp.valid(data, thoff)
    return True
