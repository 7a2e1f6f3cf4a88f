"""Captured packets in files: pcap (either byte order, microseconds or nanoseconds) and pcapng, record by record.

Nothing is kept but the record at hand, so a file may be of any length, and a pipe. The objects passed in are asked for
read(n) and write(data) only.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, pack

from ipvsctl.errors import UsageError
from ipvsctl.formats import pcapng
from ipvsctl.formats.capture import MAXIMUM, SECOND, Record, Source, Stream, Target
from ipvsctl.formats.link_layer import OUTGOING, RAW, packet_type

_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}  # fmt: skip
"""Byte order, and nanoseconds in the unit of the fractions."""


def read(source: Source, name: str = "the capture") -> Iterator[Record]:
    """The records of a capture, one after the other; `name` is what errors call it.

    Raises UsageError that names the byte where the file is broken, cut off or no capture; what came before it has been
    given by then.
    """
    stream = Stream(source, name)
    magic = stream.take(4, "its first bytes")
    if magic == pcapng.MAGIC:
        yield from pcapng.records(stream)
    elif magic in _MAGIC:
        yield from _records(stream, *_MAGIC[magic])
    elif magic[:2] == b"\x1f\x8b" or magic == b"\x28\xb5\x2f\xfd":
        raise stream.broken("this is compressed, expected a capture: unpack it first", 4)
    else:
        raise stream.broken(f"{magic.hex()} begins neither a pcap nor a pcapng file", 4)


def _records(stream: Stream, order: str, unit: int) -> Iterator[Record]:
    """What follows the magic number of a pcap file."""
    major, _, _, _, _, link = Struct(order + "HHIIII").unpack(stream.take(20, "the file header"))
    if major != 2:
        raise stream.broken(f"pcap version {major} is unknown, expected 2", 20)
    link &= 0x03FFFFFF  # above it: the length of frame check sequences
    header = Struct(order + "IIII")
    while raw := stream.take(16, ""):
        seconds, fraction, size, length = header.unpack(raw)
        if size > MAXIMUM:
            raise stream.broken(f"a record of {size} bytes, expected {MAXIMUM} at most", 8)
        data = stream.take(size, "a record")
        time = seconds * SECOND + fraction * unit
        yield Record(time, link, data, length=length, outgoing=packet_type(link, data) == OUTGOING)


class Writer:
    """Writes a pcap file with nanoseconds. `link` is its one link type; packets from the IP header on are RAW."""

    def __init__(self, target: Target, link: int = RAW) -> None:
        self.target = target
        target.write(pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, MAXIMUM, link))

    def write(self, time: int, data: bytes, length: int = 0) -> None:
        """Write a record; `time` in nanoseconds since 1970, `length` that on the wire when it was longer.

        Raises UsageError for a time that the format cannot say (before 1970, after 2106), or data of more than 262144
        bytes.
        """
        seconds, nanoseconds = divmod(time, SECOND)
        if not 0 <= seconds <= 0xFFFFFFFF:
            raise UsageError(f"{seconds} seconds are no time of a pcap file, expected 0..4294967295")
        if len(data) > MAXIMUM:
            raise UsageError(f"{len(data)} bytes are no record of a pcap file, expected {MAXIMUM} at most")
        self.target.write(pack("<IIII", seconds, nanoseconds, len(data), length or len(data)) + bytes(data))
