"""The IP packet behind the link header of a captured frame; link types are those of tcpdump.org/linktypes.html."""

from __future__ import annotations

from typing import NamedTuple

NULL, ETHERNET, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 0, 1, 101, 108, 113, 228, 229, 276
NAMES = {
    NULL: "NULL", ETHERNET: "EN10MB", RAW: "RAW", LOOP: "LOOP", SLL: "LINUX_SLL", IPV4: "IPV4", IPV6: "IPV6",
    SLL2: "LINUX_SLL2",
}  # fmt: skip
"""Link types that `strip` knows."""

_TAGS = frozenset({0x8100, 0x88A8, 0x9100})
"""Ethertypes of VLAN tags (802.1Q, 802.1ad, and what came before that)."""

_ETHERTYPES = {0x0800: "ipv4", 0x86DD: "ipv6", 0x0806: "arp"}
_FAMILIES = {2: "ipv4", 10: "ipv6", 24: "ipv6", 28: "ipv6", 30: "ipv6"}
"""AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD and Darwin: as in the capturing host's headers."""


class Frame(NamedTuple):
    """What is in a frame: `kind` "ipv4" or "ipv6" with the `packet` (and a padding behind it), or what else it is.

    `packet` is empty for all else: "arp", "ethertype 0x88cc", "cut off", "link type 105", "broken ipv4" ... `vlans` are
    the numbers of VLAN tags, outermost first.
    """

    kind: str
    packet: bytes = b""
    vlans: tuple[int, ...] = ()


OTHER_HOST, OUTGOING = 3, 4
"""Packet types of cooked headers (linux/if_packet.h): seen on the way to somebody else; sent by the capturing host."""


def packet_type(link: int, data: bytes) -> int | None:
    """The packet type in a frame's cooked header; no other header has one."""
    if link == SLL and len(data) >= 16:
        return data[0] << 8 | data[1]
    return data[10] if link == SLL2 and len(data) >= 20 else None


def strip(link: int, data: bytes) -> Frame:
    """Take the link header off a frame."""
    if link == ETHERNET:
        return _ethernet(data)
    if link in (SLL, SLL2):
        length, at = (16, 14) if link == SLL else (20, 0)
        if len(data) < length:
            return Frame("cut off")
        return _typed(data[at] << 8 | data[at + 1], data, length, ())
    if link in (NULL, LOOP):
        if len(data) < 4:
            return Frame("cut off")
        family = int.from_bytes(data[:4], "big")
        if link == NULL and family > 0xFFFF:  # written by a host of the other byte order
            family = int.from_bytes(data[:4], "little")
        return _ip(_FAMILIES[family], data[4:], ()) if family in _FAMILIES else Frame(f"address family {family}")
    if link in (RAW, 12, 14):  # 12 and 14: what some systems write for it
        version = data[0] >> 4 if data else 0
        return _ip(f"ipv{version}", data, ()) if version in (4, 6) else Frame(f"IP version {version}")
    if link in (IPV4, IPV6):
        return _ip("ipv4" if link == IPV4 else "ipv6", data, ())
    return Frame(f"link type {link}")


def _ethernet(data: bytes) -> Frame:
    vlans: list[int] = []
    at = 12
    while len(data) >= at + 2:
        kind = data[at] << 8 | data[at + 1]
        if kind not in _TAGS:
            return _typed(kind, data, at + 2, tuple(vlans))
        vlans.append((data[at + 2] << 8 | data[at + 3]) & 0xFFF if len(data) >= at + 4 else 0)
        at += 4
    return Frame("cut off")


def _typed(kind: int, data: bytes, at: int, vlans: tuple[int, ...]) -> Frame:
    name = _ETHERTYPES.get(kind)
    if name in ("ipv4", "ipv6"):
        return _ip(name, data[at:], vlans)
    return Frame(name or (f"ethertype {kind:#06x}" if kind >= 0x0600 else "802.3"), vlans=vlans)


def _ip(kind: str, packet: bytes, vlans: tuple[int, ...]) -> Frame:
    if not packet or packet[0] >> 4 != (4 if kind == "ipv4" else 6):
        return Frame(f"broken {kind}", vlans=vlans)
    return Frame(kind, packet, vlans)
