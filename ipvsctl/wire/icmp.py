"""ICMP (RFC 792) and ICMPv6 (RFC 4443) messages, and the packet that an error message quotes.

The family is that of the addresses: 4 bytes for ICMP, 16 for ICMPv6.
"""

from __future__ import annotations

from struct import pack
from typing import NamedTuple

from ipvsctl.wire.checksum import Buffer, checksum, pseudo
from ipvsctl.wire.ipv6 import EXTENSIONS, extensions

PROTOCOL, PROTOCOL6 = 1, 58
HEADER = 8

ECHO_REPLY, UNREACHABLE, SOURCE_QUENCH, REDIRECT, ECHO_REQUEST, TIME_EXCEEDED, PARAMETER = 0, 3, 4, 5, 8, 11, 12
TIMESTAMP, TIMESTAMP_REPLY, INFO, INFO_REPLY, MASK, MASK_REPLY = 13, 14, 15, 16, 17, 18
UNREACHABLE6, TOO_BIG6, TIME_EXCEEDED6, PARAMETER6, ECHO_REQUEST6, ECHO_REPLY6 = 1, 2, 3, 4, 128, 129

FRAGMENTATION_NEEDED = 4
"""The code of "destination unreachable" that carries an MTU."""

ERRORS = frozenset({UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER})
"""Types of ICMP that quote a packet. ICMPv6's are those below 128."""


class Embedded(NamedTuple):
    """The packet that an ICMP error quotes, as far as it is there.

    `at` is where its IP header begins in the data, `thoff` where its transport header does. `fragment` is its offset
    in bytes; `more`: fragments follow. What it says of its length is not looked at: it is cut off on purpose.
    """

    family: int
    protocol: int
    source: bytes
    destination: bytes
    at: int
    thoff: int
    fragment: int
    more: bool

    def ports(self, data: Buffer) -> tuple[int, int] | None:
        """The two first 16-bit numbers of its transport header; None when they are cut off or it has none."""
        at = self.thoff
        if self.fragment or len(data) < at + 4:
            return None
        return data[at] << 8 | data[at + 1], data[at + 2] << 8 | data[at + 3]


def build(source: bytes, destination: bytes, kind: int, code: int, rest: bytes, payload: Buffer = b"") -> bytearray:
    """A message with a right checksum; `rest` are the 4 bytes behind the checksum, `payload` what follows them."""
    data = bytearray(pack(">BBH4s", kind, code, 0, rest))
    data += payload
    seal(data, source, destination)
    return data


def seal(message: bytearray, source: bytes, destination: bytes) -> None:
    """Compute the checksum of a message anew, in place."""
    message[2] = message[3] = 0
    start = pseudo(source, destination, PROTOCOL6, len(message)) if len(source) == 16 else 0
    check = checksum(message, start)
    message[2], message[3] = check >> 8, check & 255


def is_error(protocol: int, kind: int) -> bool:
    """Whether a message of a type quotes a packet; `protocol` 1 or 58."""
    return kind in ERRORS if protocol == PROTOCOL else kind < 128


def embedded(data: Buffer, at: int) -> Embedded | None:
    """Read the IP header at `at` of a quoted packet; None when it is no IP header or is cut off."""
    if len(data) < at + 20:
        return None
    version = data[at] >> 4
    if version == 4:
        length = (data[at] & 15) * 4
        if length < 20 or len(data) < at + length:
            return None
        flags = data[at + 6] << 8 | data[at + 7]
        return Embedded(
            2, data[at + 9], bytes(data[at + 12 : at + 16]), bytes(data[at + 16 : at + 20]), at, at + length,
            (flags & 0x1FFF) * 8, bool(flags & 0x2000),
        )  # fmt: skip
    if version != 6 or len(data) < at + 40:
        return None
    fragment, more, found = 0, False, None
    for kind, start, _ in extensions(data, at):
        found = kind, start
        if fragment:
            break  # Bytes from the middle of a packet: whatever they are called, they are no header.
        if kind == 44:
            offset = data[start + 2] << 8 | data[start + 3]
            fragment, more = offset & 0xFFF8, bool(offset & 1)
    if found is None or found[0] in EXTENSIONS:
        return None
    protocol, thoff = found
    return Embedded(
        10, protocol, bytes(data[at + 8 : at + 24]), bytes(data[at + 24 : at + 40]), at, thoff, fragment, more
    )
