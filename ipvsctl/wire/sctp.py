"""SCTP packets (RFC 9260): chunks, and the CRC32c that is their checksum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import pack, unpack

from ipvsctl.wire.checksum import Buffer

PROTOCOL = 132
HEADER = 12

DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR = range(10)
COOKIE_ECHO, COOKIE_ACK, ECNE, CWR, SHUTDOWN_COMPLETE = range(10, 15)
CHUNK_NAMES = (
    "DATA", "INIT", "INIT-ACK", "SACK", "HEARTBEAT", "HEARTBEAT-ACK", "ABORT", "SHUTDOWN", "SHUTDOWN-ACK", "ERROR",
    "COOKIE-ECHO", "COOKIE-ACK", "ECNE", "CWR", "SHUTDOWN-COMPLETE",
)  # fmt: skip
"""By type."""

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, its bits reversed."""


def _tables() -> tuple[tuple[int, ...], ...]:
    """Remainders of each byte, and of each byte with one, two and three zero bytes behind it."""
    first = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        first.append(byte)
    tables = [tuple(first)]
    for _ in range(3):
        tables.append(tuple(first[value & 255] ^ value >> 8 for value in tables[-1]))
    return tuple(tables)


_ONE, _TWO, _THREE, _FOUR = _tables()


def crc32c(data: Buffer, crc: int = 0) -> int:
    """The CRC32c of `data`; `crc` that of what went before."""
    one, two, three, four = _ONE, _TWO, _THREE, _FOUR
    crc ^= 0xFFFFFFFF
    whole = len(data) & ~3
    for word in unpack(f"<{whole >> 2}I", memoryview(data)[:whole]):
        crc ^= word
        crc = four[crc & 255] ^ three[crc >> 8 & 255] ^ two[crc >> 16 & 255] ^ one[crc >> 24]
    for byte in data[whole:]:
        crc = one[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def chunk(kind: int, flags: int = 0, body: bytes = b"") -> bytes:
    """A chunk, padded to words; its length field leaves the padding out.

    Raises ValueError when it is longer than 65535 bytes.
    """
    if len(body) > 65531:
        raise ValueError(f"{4 + len(body)} bytes make no SCTP chunk")
    return pack(">BBH", kind, flags, 4 + len(body)) + body + b"\0" * (-len(body) % 4)


def build(sport: int, dport: int, tag: int, chunks: Iterable[bytes]) -> bytearray:
    """A packet with a right checksum; `tag` is the verification tag."""
    data = bytearray(pack(">HHII", sport, dport, tag, 0))
    for each in chunks:
        data += each
    seal(data, 0)
    return data


def chunks(data: Buffer, thoff: int) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each chunk of the packet whose SCTP header begins at `thoff`.

    Ends at a chunk whose length is no chunk's or runs over the packet's end.
    """
    at, end = thoff + HEADER, len(data)
    while at + 4 <= end:
        length = data[at + 2] << 8 | data[at + 3]
        if length < 4 or at + length > end:
            return
        yield data[at], data[at + 1], bytes(data[at + 4 : at + length])
        at += length + 3 & ~3


def seal(data: bytearray, thoff: int) -> None:
    """Compute the checksum anew, in place, of a packet whose SCTP header begins at `thoff` and which ends with `data`.

    Does nothing when the header is cut off.
    """
    if len(data) < thoff + HEADER:
        return
    data[thoff + 8 : thoff + 12] = b"\0\0\0\0"
    data[thoff + 8 : thoff + 12] = pack("<I", crc32c(memoryview(data)[thoff:]))


def valid(data: Buffer, thoff: int) -> bool:
    """Whether the checksum is right; false as well when the header is cut off."""
    if len(data) < thoff + HEADER:
        return False
    view = memoryview(data)
    crc = crc32c(view[thoff + 12 :], crc32c(b"\0\0\0\0", crc32c(view[thoff : thoff + 8])))
    return bool(data[thoff + 8 : thoff + 12] == pack("<I", crc))
