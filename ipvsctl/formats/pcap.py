"""Captured packets in files: pcap (either byte order, microseconds or nanoseconds) and pcapng, record by record.

Nothing is kept but the record at hand, so a file may be of any length, and a pipe. The objects passed in are asked for
read(n) and write(data) only.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, pack, unpack_from
from typing import NamedTuple, Protocol

from ipvsctl.errors import UsageError
from ipvsctl.formats.link_layer import RAW

MAXIMUM = 262144
"""Bytes of the longest record; libpcap's MAXIMUM_SNAPLEN. What claims to be longer is taken for a broken file."""

_BLOCK = 16 << 20
_SECOND = 10**9

_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}  # fmt: skip
"""Byte order, and nanoseconds in the unit of the fractions."""

_SECTION = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6


class Source(Protocol):
    """Something to read bytes from; fewer than asked for is no end yet, none is."""

    def read(self, size: int, /) -> bytes: ...


class Target(Protocol):
    """Something to write bytes to."""

    def write(self, data: bytes, /) -> object: ...


class Record(NamedTuple):
    """A captured frame. `time` in nanoseconds since 1970; `link` its link type (link_layer.py).

    `interface` counts the section's interfaces (0 in pcap), `device` is that one's name, "" when the file does not say.
    `length` is what it had on the wire; more than `data` when the capture cut it off.
    """

    time: int
    link: int
    data: bytes
    interface: int = 0
    device: str = ""
    length: int = 0


class _Bytes:
    """A source with an offset, which every complaint names."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.name = name
        self.offset = 0

    def take(self, size: int, what: str) -> bytes:
        """Exactly so many bytes, else UsageError; b"" at the end of the file when `what` is ""."""
        data = self.source.read(size)
        while data and len(data) < size:
            more = self.source.read(size - len(data))
            if not more:
                break
            data += more
        if len(data) < size and (data or what):
            raise self.broken(f"the file ends inside {what or 'a record'}, {size - len(data)} bytes too early")
        self.offset += len(data)
        return data

    def skip(self, size: int, what: str) -> None:
        while size > 0:
            size -= len(self.take(min(size, 65536), what))

    def broken(self, reason: str, back: int = 0) -> UsageError:
        """The error of what is wrong `back` bytes before where we are."""
        return UsageError(f"{self.name}: byte {self.offset - back}: {reason}")


def read(source: Source, name: str = "the capture") -> Iterator[Record]:
    """The records of a capture, one after the other; `name` is what errors call it.

    Raises UsageError that names the byte where the file is broken, cut off or no capture; what came before it has been
    given by then.
    """
    stream = _Bytes(source, name)
    magic = stream.take(4, "its first bytes")
    if magic == _SECTION:
        yield from _sections(stream)
    elif magic in _MAGIC:
        yield from _records(stream, *_MAGIC[magic])
    elif magic[:2] == b"\x1f\x8b" or magic == b"\x28\xb5\x2f\xfd":
        raise stream.broken("this is compressed, expected a capture: unpack it first", 4)
    else:
        raise stream.broken(f"{magic.hex()} begins neither a pcap nor a pcapng file", 4)


def _records(stream: _Bytes, order: str, unit: int) -> Iterator[Record]:
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
        yield Record(seconds * _SECOND + fraction * unit, link, stream.take(size, "a record"), length=length)


class _Interface(NamedTuple):
    link: int
    snaplen: int
    name: str = ""
    ticks: int = 1000000
    """Of a second."""
    offset: int = 0
    """Seconds to be added."""


def _sections(stream: _Bytes) -> Iterator[Record]:
    """What follows the first block type of a pcapng file."""
    order = _section(stream)
    interfaces: list[_Interface] = []
    time = 0
    while head := stream.take(4, ""):
        if head == _SECTION:
            order, interfaces = _section(stream), []
            continue
        kind = unpack_from(order + "I", head)[0]
        size = _size(stream, unpack_from(order + "I", stream.take(4, "a block header"))[0], 8)
        if kind not in (_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED):
            stream.skip(size, "a block")
            _trailer(stream, order, size + 12)
            continue
        begin = stream.offset
        body = stream.take(size, "a block")
        _trailer(stream, order, size + 12)
        if kind == _INTERFACE:
            interfaces.append(_interface(stream, order, body))
        else:
            record = _packet(stream, order, kind, body, interfaces, time, stream.offset - begin)
            time = record.time
            yield record


def _size(stream: _Bytes, total: int, back: int) -> int:
    """Bytes of a block's body, from its total length."""
    if total < 12 or total % 4 or total > _BLOCK:
        raise stream.broken(f"a block of {total} bytes, expected a multiple of 4 from 12 to {_BLOCK}", back)
    return total - 12


def _trailer(stream: _Bytes, order: str, total: int) -> None:
    again = unpack_from(order + "I", stream.take(4, "a block"))[0]
    if again != total:
        raise stream.broken(f"the block's length is {total} at its begin and {again} at its end", 4)


def _section(stream: _Bytes) -> str:
    """Read a section header behind its block type; its byte order."""
    head = stream.take(8, "a section header")
    order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(head[4:])
    if order is None:
        raise stream.broken(f"{head[4:].hex()} is no byte-order magic", 4)
    size = _size(stream, unpack_from(order + "I", head)[0], 8)
    if size < 16:
        raise stream.broken(f"a section header of {size + 12} bytes, expected 28 at least", 8)
    major = unpack_from(order + "H", stream.take(4, "a section header"))[0]
    if major != 1:
        raise stream.broken(f"pcapng version {major} is unknown, expected 1", 4)
    stream.skip(size - 8, "a section header")
    _trailer(stream, order, size + 12)
    return order


def _interface(stream: _Bytes, order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise stream.broken("an interface description is too short", len(body) + 4)
    link, snaplen = unpack_from(order + "HxxI", body)
    found = _Interface(link, snaplen)
    at = 8
    while at + 4 <= len(body):
        code, length = unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if not code or len(value) < length:
            break
        if code == 2:
            found = found._replace(name=value.rstrip(b"\0").decode(errors="replace"))
        elif code == 9 and length == 1:
            power = value[0] & 0x7F
            found = found._replace(ticks=1 << power if value[0] & 0x80 else 10**power)
        elif code == 14 and length == 8:
            found = found._replace(offset=unpack_from(order + "q", value)[0])
        at += 4 + (length + 3 & ~3)
    return found


def _packet(
    stream: _Bytes, order: str, kind: int, body: bytes, interfaces: list[_Interface], time: int, back: int
) -> Record:
    """A record of a packet block. A simple one has no time: it gets that of the one before it."""
    fields = order + {_ENHANCED: "IIIII", _OLD_PACKET: "HHIIII", _SIMPLE: "I"}[kind]
    form = Struct(fields)
    if len(body) < form.size:
        raise stream.broken("a packet block is too short", back)
    values = form.unpack_from(body)
    number = 0 if kind == _SIMPLE else values[0]
    if number >= len(interfaces):
        raise stream.broken(f"interface {number} is not described, there are {len(interfaces)}", back)
    interface = interfaces[number]
    if kind == _SIMPLE:
        length = values[0]
        size = min(length, interface.snaplen or length, len(body) - 4)
    else:
        high, low, size, length = values[-4:]
        time = (high << 32 | low) * _SECOND // interface.ticks + interface.offset * _SECOND
    if size > MAXIMUM or form.size + size > len(body):
        raise stream.broken(f"a packet of {size} bytes does not fit in its block", back)
    return Record(time, interface.link, body[form.size : form.size + size], number, interface.name, length)


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
        seconds, nanoseconds = divmod(time, _SECOND)
        if not 0 <= seconds <= 0xFFFFFFFF:
            raise UsageError(f"{seconds} seconds are no time of a pcap file, expected 0..4294967295")
        if len(data) > MAXIMUM:
            raise UsageError(f"{len(data)} bytes are no record of a pcap file, expected {MAXIMUM} at most")
        self.target.write(pack("<IIII", seconds, nanoseconds, len(data), length or len(data)) + bytes(data))
