"""Netfilter's netlink: requests and dumps over one plain socket, attributes as they come.

Conntrack and the list of nftables tables are asked through it. Its messages are few and small, so they are packed here
with `struct`: pyroute2's decoder takes about ten times as long for an entry of a busy director's conntrack table, and
reads the nested CTA_HELP as a string (nfctsocket.py of 0.9.7).

Source: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

CONNTRACK = 1
NFTABLES = 10
"""Subsystems (NFNL_SUBSYS_*); a message's type is the subsystem in the high byte and its own number in the low."""

NESTED = 0x8000

_NETLINK_NETFILTER = 12
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, id
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_TYPE_MASK = 0x3FFF
_DATAGRAM = 1 << 16
_TIMEOUT = 10.0


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute with its header and padding."""
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type; a later one of a type wins, a cut one ends the walk."""
    found = {}
    at, end, unpack = 0, len(data), _ATTRIBUTE.unpack_from
    while at + 4 <= end:
        length, kind = unpack(data, at)
        if not 4 <= length <= end - at:
            break
        found[kind & _TYPE_MASK] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def dump(subsystem: int, message: int, family: int = socket.AF_UNSPEC) -> Iterator[tuple[int, bytes]]:
    """Family and attributes of every object; raises OSError with the kernel's number."""
    for kind, family_found, body in _talk(subsystem << 8 | message, _REQUEST | _DUMP, family, b""):
        if kind >> 8 == subsystem:
            yield family_found, body


def ask(subsystem: int, message: int, family: int, body: bytes) -> None:
    """One request that is acknowledged; raises OSError with the kernel's number."""
    for _ in _talk(subsystem << 8 | message, _REQUEST | _ACK, family, body):
        pass


def _talk(kind: int, flags: int, family: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, family and attributes of each answer, until the kernel says that it was the last."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as channel:
        channel.settimeout(_TIMEOUT)
        channel.bind((0, 0))
        channel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0, family, 0, 0) + body)
        while True:
            data, (sender, _) = channel.recvfrom(_DATAGRAM)
            if sender:
                continue
            at = 0
            while at + 16 <= len(data):
                length, answer, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
                if not 16 <= length <= len(data) - at:
                    raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
                if sequence == 1:
                    if answer in (_ERROR, _DONE):
                        # A dump that breaks off says why in the message that ends it.
                        code = -struct.unpack_from("=i", data, at + 16)[0] if length >= 20 else 0
                        if code:
                            raise OSError(code, os.strerror(code))
                        return
                    if length >= _HEADER.size:
                        yield answer, data[at + 16], data[at + _HEADER.size : at + length]
                at += length + 3 & ~3
