"""Which of its IPv6 addresses a host sends from: RFC 6724 as addrconf.c: ipv6_dev_get_saddr does it.

Temporary, deprecated and home addresses do not occur in a snapshot, so their rules decide nothing and are left out.
"""

from __future__ import annotations

from ipvsctl.datapath.interfaces import Address, Interface
from ipvsctl.wire.address import packed

_LABELS = tuple(
    (int.from_bytes(packed(prefix), "big") >> 128 - length, 128 - length, label)
    for prefix, length, label in (
        ("::1", 128, 0), ("::ffff:0:0", 96, 4), ("::", 96, 3), ("2001::", 32, 6), ("2001:10::", 28, 7),
        ("2002::", 16, 2), ("3ffe::", 16, 12), ("fec0::", 10, 11), ("fc00::", 7, 5), ("::", 0, 1),
    )
)  # fmt: skip
"""addrlabel.c: ip6addrlbl_init_table, longest prefix first: prefix, shift, label."""

_LOOPBACK = bytes(15) + b"\1"
LINK_LOCAL = 2


def scope(address: bytes) -> int:
    """__ipv6_addr_src_scope: 2 link-local and ::1, 5 site-local, 14 global; of a multicast address what it says."""
    if address[0] == 0xFF:
        return address[1] & 15
    if (address[0] == 0xFE and address[1] & 0xC0 == 0x80) or address == _LOOPBACK:
        return LINK_LOCAL
    return 5 if address[0] == 0xFE and address[1] & 0xC0 == 0xC0 else 14


def _label(address: bytes) -> int:
    number = int.from_bytes(address, "big")
    for prefix, shift, label in _LABELS:
        if number >> shift == prefix:
            return label
    return -1


def _score(each: Address, device: str, wanted: str, destination: bytes, label: int) -> tuple[int, ...]:
    """The rules in their order, each a number of which the higher is the better."""
    own, needed = scope(each.value), scope(destination)
    common = 128 - (int.from_bytes(each.value, "big") ^ int.from_bytes(destination, "big")).bit_length()
    return (
        each.value == destination,
        -own if own >= needed else own - 128,
        not wanted or device == wanted,
        _label(each.value) == label,
        (each.value[:3] == b"\x20\x01\x00" and each.value[3] >> 4 == 1)
        == (destination[:3] == b"\x20\x01\x00" and destination[3] >> 4 == 1),
        min(common, each.length),
    )


def select6(interfaces: dict[str, Interface], name: str, destination: bytes) -> bytes:
    """A source address towards `destination` by a device ("" for any); b"" when there is none.

    Of equals the first in the order in which `ip address` lists them.
    """
    label = _label(destination)
    near = name and (destination[0] == 0xFF or scope(destination) <= LINK_LOCAL)
    best: tuple[int, ...] = ()
    found = b""
    for interface in [interfaces[name]] if near and name in interfaces else interfaces.values():
        for each in interface.addresses6:
            score = _score(each, interface.name, name, destination, label)
            if not found or score > best:
                best, found = score, each.value
    return found
