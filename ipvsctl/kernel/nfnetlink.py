"""Netfilter's netlink: requests and dumps, attributes as they come.

Conntrack and the list of nftables tables are asked through it. Its messages are few and small, so they are packed here
with `struct`: pyroute2's decoder takes about ten times as long for an entry of a busy director's conntrack table, and
reads the nested CTA_HELP as a string (nfctsocket.py of 0.9.7).

Source: include/uapi/linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from ipvsctl.kernel.talk import ACK, DUMP, REQUEST, attribute, attributes, talk

__all__ = ["CONNTRACK", "NESTED", "NFTABLES", "ask", "attribute", "attributes", "dump"]

CONNTRACK = 1
NFTABLES = 10
"""Subsystems (NFNL_SUBSYS_*); a message's type is the subsystem in the high byte and its own number in the low."""

NESTED = 0x8000

_NETLINK_NETFILTER = 12
_HEADER = struct.Struct("=BBH")  # nfgenmsg: family, version, id


def dump(subsystem: int, message: int, family: int = socket.AF_UNSPEC) -> Iterator[tuple[int, bytes]]:
    """Family and attributes of every object; raises OSError with the kernel's number."""
    for kind, body in talk(_NETLINK_NETFILTER, subsystem << 8 | message, REQUEST | DUMP, _HEADER.pack(family, 0, 0)):
        if kind >> 8 == subsystem and len(body) >= _HEADER.size:
            yield body[0], body[_HEADER.size :]


def ask(subsystem: int, message: int, family: int, body: bytes) -> None:
    """One request that is acknowledged; raises OSError with the kernel's number."""
    for _ in talk(_NETLINK_NETFILTER, subsystem << 8 | message, REQUEST | ACK, _HEADER.pack(family, 0, 0) + body):
        pass
