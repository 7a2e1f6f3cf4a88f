"""UDP datagrams (RFC 768)."""

from __future__ import annotations

from struct import pack

from ipvsctl.wire.checksum import Buffer, checksum, pseudo

PROTOCOL = 17
HEADER = 8


def build(
    source: bytes, destination: bytes, sport: int, dport: int, payload: Buffer = b"", checksummed: bool = True
) -> bytearray:
    """A datagram with a right checksum, or with none (a zero) when it shall not be `checksummed`.

    Raises ValueError when the payload is longer than 65527 bytes.
    """
    length = HEADER + len(payload)
    if length > 65535:
        raise ValueError(f"{length} bytes make no UDP datagram")
    data = bytearray(pack(">HHHH", sport, dport, length, 0))
    data += payload
    if checksummed:
        seal(data, source, destination)
    return data


def seal(datagram: bytearray, source: bytes, destination: bytes) -> None:
    """Compute the checksum of a datagram anew, in place; one that comes out as zero is written as ones."""
    datagram[6] = datagram[7] = 0
    check = checksum(datagram, pseudo(source, destination, PROTOCOL, len(datagram))) or 0xFFFF
    datagram[6], datagram[7] = check >> 8, check & 255
