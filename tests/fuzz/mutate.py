"""Spoiling packets: bits, lengths, offsets, fields of headers, pieces moved about; and making them right again.

Nothing here trusts the packet: every function takes any bytes at all.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ipvsctl.wire import icmp, ipv4, sctp
from ipvsctl.wire.checksum import checksum, pseudo
from tests.fuzz.places import EDGES8, EDGES16, EDGES32

Operation = Callable[[Random, bytearray], None]


def mutated(random: Random, packet: bytes, others: list[bytes]) -> bytes:
    """The packet with something wrong; `others` to take pieces from."""
    data = bytearray(packet)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if random.random() < 0.04 and others:
            _splice(random, data, random.choice(others))
        elif data:
            random.choices(_OPERATIONS, _WEIGHTS)[0](random, data)
    repair(random, data)
    return bytes(data[:70000])


def repair(random: Random, data: bytearray) -> None:
    """Make lengths and checksums right, most of the time: else the first check is all that is ever reached."""
    if random.random() < 0.75:
        fix_length(data)
    if random.random() < 0.5:
        seal_transport(data)
    if random.random() < 0.93:
        seal_header(data)


# -- making right -----------------------------------------------------------------------------------------------------


def fix_length(data: bytearray) -> None:
    """The IP header says how long the packet is."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        data[2:4] = min(len(data), 65535).to_bytes(2, "big")
    elif len(data) >= 40 and data[0] >> 4 == 6:
        data[4:6] = min(len(data) - 40, 65535).to_bytes(2, "big")


def seal_header(data: bytearray) -> None:
    """IPv4's header checksum."""
    if len(data) >= 20 and data[0] >> 4 == 4 and 20 <= (data[0] & 15) * 4 <= len(data):
        ipv4.seal(data)


def transport(data: bytes | bytearray) -> tuple[int, int]:
    """Protocol and offset of the transport header, as far as that can be said; (-1, 0) where it cannot."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        return (data[9], (data[0] & 15) * 4) if not (data[6] << 8 | data[7]) & 0x3FFF else (-1, 0)
    if len(data) < 40 or data[0] >> 4 != 6:
        return -1, 0
    kind, at = data[6], 40
    while kind in (0, 43, 60, 51) and at + 8 <= len(data):
        kind, at = data[at], at + ((data[at + 1] + 2) * 4 if kind == 51 else (data[at + 1] + 1) * 8)
    return (kind, at) if at <= len(data) else (-1, 0)


def seal_transport(data: bytearray) -> None:
    """The transport checksum, if the header is there."""
    protocol, at = transport(data)
    if protocol < 0 or at < 20:
        return
    source, destination = (data[12:16], data[16:20]) if data[0] >> 4 == 4 else (data[8:24], data[24:40])
    body = data[at:]
    place = {6: 16, 17: 6}.get(protocol)
    if place is not None and len(body) >= place + 2:
        body[place] = body[place + 1] = 0
        check = checksum(body, pseudo(bytes(source), bytes(destination), protocol, len(body)))
        body[place : place + 2] = (check or 0xFFFF if protocol == 17 else check).to_bytes(2, "big")
    elif protocol in (1, 58) and len(body) >= 4:
        over_six = protocol == 58 and data[0] >> 4 == 6
        icmp.seal(body, bytes(source) if over_six else b"", bytes(destination) if over_six else b"")
    elif protocol == 132 and len(body) >= 12:
        sctp.seal(body, 0)
    data[at:] = body


# -- making wrong -----------------------------------------------------------------------------------------------------


def _flip(random: Random, data: bytearray) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _edge(random: Random, data: bytearray) -> None:
    size, values = random.choice(((1, EDGES8), (2, EDGES16), (4, EDGES32)))
    at = random.randrange(len(data))
    if random.random() < 0.7:
        at = min(at, random.randrange(80))
    data[at : at + size] = random.choice(values).to_bytes(size, "big")[: len(data) - at]


def _cut(random: Random, data: bytearray) -> None:
    del data[random.choice((random.randrange(len(data)), random.randrange(min(len(data), 80)), len(data) - 1)) :]


def _longer(random: Random, data: bytearray) -> None:
    data += random.randbytes(random.choice((1, 2, 4, 8, 40, 1400)))


def _remove(random: Random, data: bytearray) -> None:
    at = random.randrange(len(data))
    del data[at : at + random.choice((1, 2, 4, 8, 20, 40))]


def _repeat(random: Random, data: bytearray) -> None:
    at, size = random.randrange(len(data)), random.choice((1, 2, 4, 8, 20, 40))
    data[at:at] = data[at : at + size]


def _swap(random: Random, data: bytearray) -> None:
    size = random.choice((1, 2, 4, 8, 16))
    one, two = sorted((random.randrange(len(data)), random.randrange(len(data))))
    if two - one >= size and two + size <= len(data):
        data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]


def _splice(random: Random, data: bytearray, other: bytes) -> None:
    at = random.randrange(len(data) + 1)
    data[at:] = other[min(at, len(other)) if random.random() < 0.5 else random.randrange(len(other) + 1) :]


def _addresses(random: Random, data: bytearray) -> None:
    """Source and destination change places."""
    if data[0] >> 4 == 4 and len(data) >= 20:
        data[12:16], data[16:20] = data[16:20], data[12:16]
    elif len(data) >= 40:
        data[8:24], data[24:40] = data[24:40], data[8:24]


def _field(random: Random, data: bytearray) -> None:
    """A field of the IP header gets a value of its edge."""
    if data[0] >> 4 == 4:
        at, size = random.choice(
            ((0, 1), (1, 1), (2, 2), (4, 2), (6, 2), (6, 2), (8, 1), (9, 1), (9, 1), (12, 4), (16, 4))
        )
    else:
        at, size = random.choice(((0, 1), (4, 2), (6, 1), (6, 1), (7, 1), (40, 1), (41, 1), (42, 2), (8, 1), (24, 1)))
    if at + size > len(data):
        return
    values = {1: (*EDGES8, 6, 17, 44, 43, 58, 132, 4, 41, 47, 51, 60, 0x45, 0x4F, 0x44, 0x60), 2: EDGES16, 4: EDGES32}
    data[at : at + size] = random.choice(values[size]).to_bytes(size, "big")


def _transport_field(random: Random, data: bytearray) -> None:
    """A field of the transport header, or of what follows it closely, gets a value of its edge."""
    protocol, at = transport(data)
    if protocol < 0 or at >= len(data):
        return
    where = {
        6: ((0, 2), (2, 2), (4, 4), (8, 4), (12, 1), (12, 1), (13, 1), (13, 1), (14, 2), (16, 2), (20, 1), (21, 1)),
        17: ((0, 2), (2, 2), (4, 2), (4, 2), (6, 2), (8, 1), (9, 1), (10, 2)),
        132: ((0, 2), (2, 2), (4, 4), (8, 4), (12, 1), (13, 1), (14, 2), (14, 2), (16, 4)),
        47: ((0, 1), (0, 2), (2, 2), (4, 2)),
    }.get(protocol, ((0, 1), (1, 1), (2, 2), (4, 4), (8, 1), (10, 2), (14, 2), (17, 1)))
    place, size = random.choice(where)
    if at + place + size <= len(data):
        values = {1: EDGES8, 2: EDGES16, 4: EDGES32}[size]
        data[at + place : at + place + size] = random.choice(values).to_bytes(size, "big")


def _near(random: Random, data: bytearray) -> None:
    """A sequence number or port moves a little."""
    protocol, at = transport(data)
    place, size = random.choice(((4, 4), (8, 4), (0, 2), (2, 2), (14, 2)))
    if protocol < 0 or at + place + size > len(data):
        return
    at += place
    value = int.from_bytes(data[at : at + size], "big") + random.choice((-65536, -1460, -2, -1, 1, 2, 1460, 65536))
    data[at : at + size] = (value % (1 << size * 8)).to_bytes(size, "big")


_TABLE: tuple[tuple[Operation, int], ...] = (
    (_flip, 12), (_edge, 12), (_cut, 12), (_longer, 6), (_remove, 6), (_repeat, 6), (_swap, 5), (_addresses, 5),
    (_field, 14), (_transport_field, 20), (_near, 8),
)  # fmt: skip
_OPERATIONS = [operation for operation, _ in _TABLE]
_WEIGHTS = [weight for _, weight in _TABLE]
