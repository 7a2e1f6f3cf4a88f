"""One netlink conversation over a plain socket: a request, and the answers until the kernel says that was the last.

Source: include/uapi/linux/netlink.h, net/netlink/af_netlink.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
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


def talk(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each answer to one request of a netlink protocol; raises OSError with the kernel's number."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as channel:
        channel.settimeout(_TIMEOUT)
        channel.bind((0, 0))
        channel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            data, (sender, _) = channel.recvfrom(_DATAGRAM)
            if sender:
                continue
            at = 0
            while at + _HEADER.size <= len(data):
                length, answer, _, sequence, _ = _HEADER.unpack_from(data, at)
                if not _HEADER.size <= length <= len(data) - at:
                    raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
                if sequence == 1:
                    if answer in (_ERROR, _DONE):
                        # A dump that breaks off says why in the message that ends it.
                        code = -struct.unpack_from("=i", data, at + _HEADER.size)[0] if length >= 20 else 0
                        if code:
                            raise OSError(code, os.strerror(code))
                        return
                    yield answer, data[at + _HEADER.size : at + length]
                at += length + 3 & ~3
