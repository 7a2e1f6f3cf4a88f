"""The Internet checksum (RFC 1071) and its incremental change (RFC 1624).

Of the two zeros of ones' complement the kernel's csum_fold never yields 0xffff for a packet that has a bit set, nor
does anything here: a checksum that is right before a change is, bit for bit, what the kernel makes of it.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview

_number = int.from_bytes
_LONG = 400
"""Bytes from which on four numbers are divided faster as their sum than one is by itself."""


def words(data: Buffer) -> int:
    """The ones' complement sum of the 16-bit words of `data`, odd ones padded with a zero byte: 0 only for zeros.

    2**16 is 1 modulo 65535, so the words of a number add up to the number's remainder: that is three times faster than
    to add them. Long data is taken in four pieces, which add up before they are divided.
    """
    size = len(data)
    if size < _LONG:
        number = _number(data)
        if size & 1:
            number <<= 8
    else:
        one = size >> 2 & ~1
        two, three = one + one, one + one + one
        number = _number(data[three:])
        if size & 1:
            number <<= 8
        number += _number(data[:one]) + _number(data[one:two]) + _number(data[two:three])
    return number % 0xFFFF or (number and 0xFFFF)


def fold(total: int) -> int:
    """The checksum field of a sum of words: carries added in, complemented."""
    total = (total & 0xFFFF) + (total >> 16)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def checksum(data: Buffer, start: int = 0) -> int:
    """The checksum of `data`, with `start` (a pseudo header's sum, say) added in."""
    return fold(words(data) + start)


def replaced(check: int, before: int, after: int) -> int:
    """A checksum after words that sum to `before` were replaced by words that sum to `after`."""
    # -before is congruent to the sum of the complements; 0xFFFF times anything changes nothing but the zero.
    return fold((check ^ 0xFFFF) + after + 0xFFFF * 0x10000 - before)


def pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293, 8200), not folded."""
    return words(source) + words(destination) + protocol + (length & 0xFFFF) + (length >> 16)


def correct(data: Buffer, start: int = 0) -> bool:
    """Whether `data`, its checksum field included, and `start` sum to what a right checksum makes them sum to."""
    return fold(words(data) + start) == 0
