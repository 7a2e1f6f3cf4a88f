"""pcapng, read and written: sections of blocks, an interface with a name for each device, and packets' directions.

Every packet block says on which interface it was captured; its flags may say whether the host received or sent it.
pcap.py's `read` is the way in for files of either format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct, pack, unpack_from
from typing import NamedTuple

from ipvsctl.errors import UsageError
from ipvsctl.formats.capture import MAXIMUM, SECOND, Record, Stream, Target
from ipvsctl.formats.link_layer import OUTGOING, RAW, packet_type

MAGIC = b"\x0a\x0d\x0d\x0a"
"""The type of a section header block, the same in either byte order."""

_BLOCK = 16 << 20
_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_END, _FLAGS, _NAME, _RESOLUTION, _OFFSET = 0, 2, 2, 9, 14
"""Codes of options: the flags of a packet, and what an interface has."""
_INBOUND, _OUTBOUND = 1, 2
"""Directions in a packet's flags; 0 when nobody knows."""


class _Interface(NamedTuple):
    link: int
    snaplen: int
    name: str = ""
    ticks: int = 1000000
    """Of a second."""
    offset: int = 0
    """Seconds to be added."""


def records(stream: Stream) -> Iterator[Record]:
    """What follows the first block type of a pcapng file."""
    order = _section(stream)
    interfaces: list[_Interface] = []
    time = 0
    while head := stream.take(4, ""):
        if head == MAGIC:
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


def _size(stream: Stream, total: int, back: int) -> int:
    """Bytes of a block's body, from its total length."""
    if total < 12 or total % 4 or total > _BLOCK:
        raise stream.broken(f"a block of {total} bytes, expected a multiple of 4 from 12 to {_BLOCK}", back)
    return total - 12


def _trailer(stream: Stream, order: str, total: int) -> None:
    again = unpack_from(order + "I", stream.take(4, "a block"))[0]
    if again != total:
        raise stream.broken(f"the block's length is {total} at its begin and {again} at its end", 4)


def _section(stream: Stream) -> str:
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


def _interface(stream: Stream, order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise stream.broken("an interface description is too short", len(body) + 4)
    link, snaplen = unpack_from(order + "HxxI", body)
    found = _Interface(link, snaplen)
    for code, value in _options(order, body, 8):
        if code == _NAME:
            found = found._replace(name=value.rstrip(b"\0").decode(errors="replace"))
        elif code == _RESOLUTION and len(value) == 1:
            power = value[0] & 0x7F
            found = found._replace(ticks=1 << power if value[0] & 0x80 else 10**power)
        elif code == _OFFSET and len(value) == 8:
            found = found._replace(offset=unpack_from(order + "q", value)[0])
    return found


def _options(order: str, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Code and value of the options that begin at an offset."""
    while at + 4 <= len(body):
        code, length = unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == _END or len(value) < length:
            return
        yield code, value
        at += 4 + (length + 3 & ~3)


def _packet(
    stream: Stream, order: str, kind: int, body: bytes, interfaces: list[_Interface], time: int, back: int
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
        time = (high << 32 | low) * SECOND // interface.ticks + interface.offset * SECOND
    end = form.size + size
    if size > MAXIMUM or end > len(body):
        raise stream.broken(f"a packet of {size} bytes does not fit in its block", back)
    data = body[form.size : end]
    direction = 0
    end = end + 3 & ~3
    if kind != _SIMPLE and end < len(body):
        for code, value in _options(order, body, end):
            if code == _FLAGS and len(value) == 4:
                direction = unpack_from(order + "I", value)[0] & 3
    outgoing = direction == _OUTBOUND if direction else packet_type(interface.link, data) == OUTGOING
    return Record(time, interface.link, data, number, interface.name, length, outgoing)


class Writer:
    """Writes a pcapng file of one section, with nanoseconds. `link` is the link type of every interface."""

    def __init__(self, target: Target, devices: Iterable[str] = (), link: int = RAW) -> None:
        self.target = target
        self.link = link
        self._numbers: dict[str, int] = {}
        self._put(0x0A0D0D0A, pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        for device in devices:
            self._interface(device)

    def write(self, time: int, data: bytes, device: str, length: int = 0, *, outgoing: bool) -> None:
        """Write a packet that a device received or sent; one that was not named before gets an interface now.

        `time` in nanoseconds since 1970, `length` that on the wire when it was longer. Raises UsageError for a time
        that the format cannot say, or data of more than 262144 bytes.
        """
        if not 0 <= time < 1 << 64:
            raise UsageError(
                f"{time // SECOND} seconds are no time of a pcapng file, expected 0..{(1 << 64) // SECOND}"
            )
        if len(data) > MAXIMUM:
            raise UsageError(f"{len(data)} bytes are no record of a pcapng file, expected {MAXIMUM} at most")
        number = self._numbers.get(device)
        if number is None:
            number = self._interface(device)
        head = pack("<IIIII", number, time >> 32, time & 0xFFFFFFFF, len(data), length or len(data))
        options = pack("<HHIHH", _FLAGS, 4, _OUTBOUND if outgoing else _INBOUND, _END, 0)
        self._put(_ENHANCED, head + data + bytes(-len(data) % 4) + options)

    def _interface(self, device: str) -> int:
        name = device.encode()
        options = pack("<HH", _NAME, len(name)) + name + bytes(-len(name) % 4)
        options += pack("<HHBxxxHH", _RESOLUTION, 1, 9, _END, 0)
        self._put(_INTERFACE, pack("<HHI", self.link, 0, MAXIMUM) + options)
        number = self._numbers[device] = len(self._numbers)
        return number

    def _put(self, kind: int, body: bytes) -> None:
        size = pack("<I", len(body) + 12)
        self.target.write(pack("<I", kind) + size + body + size)
