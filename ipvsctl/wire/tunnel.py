"""Packets inside packets: IPIP (4 in 4, 6 in 4, 4 in 6, 6 in 6; RFC 2003, 4213, 2473), GRE (RFC 2784) and GUE.

GUE is version 0 of draft-ietf-intarea-gue, as the kernel speaks it (include/net/gue.h): a UDP datagram whose payload
begins with a header of four bytes that names the protocol inside.
"""

from __future__ import annotations

from struct import pack

from ipvsctl.wire import ipv4, ipv6, udp
from ipvsctl.wire.checksum import Buffer, checksum

IPIP, IPV6, GRE, UDP = 4, 41, 47, 17
ETHERTYPES = {IPIP: 0x0800, IPV6: 0x86DD}
"""What GRE calls the protocol inside."""

GRE_CHECKSUM = 0x8000
GUE_PRIVATE = 0x0001
GUE_REMOTE_CHECKSUM = 0x80000000
GUE_PORT = 6080
"""The port that IANA gave to GUE."""


def inner_protocol(packet: Buffer) -> int:
    """4 for an IPv4 packet, 41 for an IPv6 packet: what an outer header says of it."""
    return IPV6 if packet[0] >> 4 == 6 else IPIP


def outer(
    source: bytes, destination: bytes, protocol: int, payload: Buffer, ttl: int = 64, tos: int = 0,
    identification: int = 0, df: bool = False, flow_label: int = 0,
) -> bytearray:  # fmt: skip
    """A header of the addresses' family before a payload; identification and DF are IPv4's, the flow label IPv6's."""
    if len(source) == 16:
        return ipv6.build(source, destination, protocol, payload, ttl, tos, flow_label)
    return ipv4.build(source, destination, protocol, payload, ttl, tos, identification, df)


def ipip(
    packet: Buffer, source: bytes, destination: bytes, ttl: int = 64, tos: int = 0, identification: int = 0,
    df: bool = False,
) -> bytearray:  # fmt: skip
    """The packet behind an outer header."""
    return outer(source, destination, inner_protocol(packet), packet, ttl, tos, identification, df)


def gre_payload(packet: Buffer, checksummed: bool = False) -> bytearray:
    """The packet behind a GRE header of 4 bytes, or of 8 with a checksum (ip_tunnels.h: gre_build_header)."""
    kind = ETHERTYPES[inner_protocol(packet)]
    if not checksummed:
        return bytearray(pack(">HH", 0, kind)) + packet
    data = bytearray(pack(">HHHH", GRE_CHECKSUM, kind, 0, 0)) + packet
    data[4:6] = pack(">H", checksum(data))
    return data


def gre(
    packet: Buffer, source: bytes, destination: bytes, ttl: int = 64, tos: int = 0, identification: int = 0,
    df: bool = False, checksummed: bool = False,
) -> bytearray:  # fmt: skip
    """The packet behind an outer header and a GRE header."""
    return outer(source, destination, GRE, gre_payload(packet, checksummed), ttl, tos, identification, df)


def gue_payload(packet: Buffer, remote: tuple[int, int] | None = None) -> bytearray:
    """The packet behind a GUE header; `remote`: checksum start and offset, for remote checksum offload."""
    if remote is None:
        return bytearray(pack(">BBH", 0, inner_protocol(packet), 0)) + packet
    header = pack(">BBHIHH", 2, inner_protocol(packet), GUE_PRIVATE, GUE_REMOTE_CHECKSUM, *remote)
    return bytearray(header) + packet


def gue(
    packet: Buffer, source: bytes, destination: bytes, sport: int, dport: int = GUE_PORT, ttl: int = 64, tos: int = 0,
    identification: int = 0, df: bool = False, checksummed: bool = False, remote: tuple[int, int] | None = None,
) -> bytearray:  # fmt: skip
    """The packet behind an outer header, a UDP header (without a checksum unless `checksummed`) and a GUE header."""
    datagram = udp.build(source, destination, sport, dport, gue_payload(packet, remote), checksummed)
    return outer(source, destination, UDP, datagram, ttl, tos, identification, df)


def encapsulate(
    kind: str, packet: Buffer, source: bytes, destination: bytes, ttl: int = 64, tos: int = 0,
    identification: int = 0, df: bool = False, checksummed: bool = False, sport: int = 0, dport: int = GUE_PORT,
    remote: tuple[int, int] | None = None,
) -> bytearray:  # fmt: skip
    """The packet in a tunnel of a kind: "ipip", "gre" or "gue"; what the kind does not have is left out."""
    if kind == "ipip":
        return ipip(packet, source, destination, ttl, tos, identification, df)
    if kind == "gre":
        return gre(packet, source, destination, ttl, tos, identification, df, checksummed)
    return gue(
        packet, source, destination, sport, dport, ttl, tos, identification, df, checksummed, remote
    )  # fmt: skip


def gre_header(data: Buffer, at: int) -> tuple[int, int] | None:
    """Protocol inside (4 or 41) and length of the GRE header at `at`; None for what the kernel's IPVS does not take.

    Only version 0 with at most a checksum, and an IP packet inside.
    """
    if len(data) < at + 4:
        return None
    flags = data[at] << 8 | data[at + 1]
    kind = data[at + 2] << 8 | data[at + 3]
    length = 8 if flags & GRE_CHECKSUM else 4
    if flags & ~GRE_CHECKSUM or len(data) < at + length:
        return None
    for protocol, ethertype in ETHERTYPES.items():
        if kind == ethertype:
            return protocol, length
    return None


def gue_header(data: Buffer, at: int) -> tuple[int, int] | None:
    """Protocol inside (4 or 41) and length of the GUE header at `at`, behind the UDP header; None for others.

    Only data messages of version 0, with an IP packet inside.
    """
    if len(data) < at + 4 or data[at] & 0xE0 or data[at + 1] not in ETHERTYPES:
        return None
    length = 4 + (data[at] & 31) * 4
    return (data[at + 1], length) if len(data) >= at + length else None


def decapsulate(data: Buffer, gue_port: int = GUE_PORT) -> int | None:
    """Where the inner packet begins in a tunnel packet; None for what is no tunnel packet, or a fragment of one.

    A UDP datagram is one when it goes to `gue_port`. That the inner packet is whole is not checked.
    """
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        protocol, at = data[9], (data[0] & 15) * 4
        if (data[6] << 8 | data[7]) & 0x3FFF:
            return None
    elif data[0] >> 4 == 6 and len(data) >= 40:
        protocol, at = data[6], 40
        for kind, start, _ in ipv6.extensions(data):
            if kind == ipv6.FRAGMENT:
                return None
            protocol, at = kind, start
    else:
        return None
    found: tuple[int, int] | None = None
    if protocol in ETHERTYPES:
        found = protocol, 0
    elif protocol == GRE:
        found = gre_header(data, at)
    elif protocol == UDP and len(data) >= at + 8 and data[at + 2] << 8 | data[at + 3] == gue_port:
        at += 8
        found = gue_header(data, at)
    if found is None or len(data) <= at + found[1]:
        return None
    at += found[1]
    return at if data[at] >> 4 == (6 if found[0] == IPV6 else 4) else None
