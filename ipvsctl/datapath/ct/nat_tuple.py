"""Which tuple a translated connection gets: get_unique_tuple and what it is made of (nf_nat_core.c).

A range of addresses is spread by Bob Jenkins' hash (lookup3) of source and destination, so that a client gets the same
address again; ports are searched from a random place, in ever smaller windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ipvsctl.datapath.ct.entry import make_tuple, parts
from ipvsctl.datapath.ct.tuples import HAVE_PORTS
from ipvsctl.datapath.skb import GRE, ICMP, ICMPV6

ATTEMPTS = 128
"""Ports that are tried in the first window; each further one is half as large, down to 8."""

_LOW, _MIDDLE, _HIGH = (1, 511), (600, 424), (1024, 64512)
"""Without a range of ports a source port stays in its class: (first, how many)."""

_WORD = 0xFFFFFFFF


class Range(NamedTuple):
    """What a target asks for (struct nf_nat_range2).

    `minimum`, `maximum` addresses, None to keep the address; `ports` lowest and highest port or ICMP identifier, None
    to keep it if possible; `base` is the port that maps to the first of `ports` (a shifted port map), None for none.
    `random`: look for a port even when the packet's own is free; `persistent`: hash of the source address alone.
    """

    minimum: bytes | None = None
    maximum: bytes | None = None
    ports: tuple[int, int] | None = None
    base: int | None = None
    random: bool = False
    persistent: bool = False


def source_part(key: bytes) -> bytes:
    """Protocol, source address and source port (or identifier) of a tuple."""
    end = len(key) - 4
    return key[: (end + 1) >> 1] + key[end : end + 2]


def with_source(key: bytes, source: bytes) -> bytes:
    """The tuple with another source part."""
    end = len(key) - 4
    return source[:-2] + key[(end + 1) >> 1 : end] + source[-2:] + key[end + 2 :]


def has_source_in(key: bytes, wish: Range) -> bool:
    """Whether a tuple's source meets the range (nf_in_range)."""
    end = len(key) - 4
    # Addresses of one length compare as numbers do.
    if (low := wish.minimum) is not None and (high := wish.maximum) is not None:
        own = key[1 : (end + 1) >> 1]
        if own < low or own > high:
            return False
    if wish.ports is None:
        return True
    return _number_in(key[0], key[end] << 8 | key[end + 1], wish.ports)


def _number_in(protocol: int, number: int, ports: tuple[int, int]) -> bool:
    if protocol not in HAVE_PORTS and protocol not in (ICMP, ICMPV6, GRE):
        return True
    return ports[0] <= number <= ports[1]


def unique(
    current: bytes, wish: Range, source: bool, used: Callable[[bytes], bool],
    reused: Callable[[bytes, Range], bytes | None], random: Callable[[int], int], expected: bool,
) -> bytes:  # fmt: skip
    """The tuple for a connection that has `current` so far: in the range and not in use, where there is one.

    `source`: translate the source, else the destination. `used` asks whether a tuple's replies belong to another
    connection; `reused` gives a tuple with what its source is already mapped to within the range (find_appropriate_src;
    sources only). `expected`: the connection has a master. At worst the result is in use: confirming it will fail.
    """
    if source and not wish.random:
        if has_source_in(current, wish):
            if not used(current):
                return current
        elif (mapped := reused(current, wish)) is not None and not used(mapped):
            return mapped
    protocol, source_address, destination, first, second = parts(current)
    if wish.minimum is not None and wish.maximum is not None:
        address = best_address(wish, source_address, destination, source)
        if source:
            source_address = address
        else:
            destination = address
    chosen = make_tuple(protocol, source_address, destination, first, second)
    if not wish.random:
        if wish.ports is None:
            if not used(chosen):
                return chosen
        elif wish.base is None:
            number = first if source or protocol in (ICMP, ICMPV6) else second
            if _number_in(protocol, number, wish.ports) and (wish.ports[0] == wish.ports[1] or not used(chosen)):
                return chosen
    return _with_free_number(chosen, wish, source, used, random, expected)


def _with_free_number(
    chosen: bytes, wish: Range, source: bool, used: Callable[[bytes], bool], random: Callable[[int], int],
    expected: bool,
) -> bytes:  # fmt: skip
    """nf_nat_l4proto_unique_tuple."""
    protocol, end = chosen[0], len(chosen) - 4
    at = end if source or protocol in (ICMP, ICMPV6) else end + 2
    old = chosen[at] << 8 | chosen[at + 1]
    if protocol in HAVE_PORTS:
        if wish.ports is not None:
            low, high = min(wish.ports), max(wish.ports)
            size = high - low + 1
        elif not source:
            return chosen
        else:
            low, size = _LOW if old < 512 else _MIDDLE if old < 1024 else _HIGH
    elif protocol in (ICMP, ICMPV6) or (protocol == GRE and expected):
        # The kernel does not put these into order; a size that is not positive would be a division by zero.
        low, high = wish.ports or ((0, 65535) if protocol != GRE else (1, 65535))
        size = max(high - low + 1, 1)
    else:
        return chosen
    place = random(65536) if wish.base is None else (old - wish.base) & 0xFFFF
    attempts = min(size, ATTEMPTS)
    head, tail = chosen[:at], chosen[at + 2 :]
    while True:
        for _ in range(attempts):
            number = low + place % size & 0xFFFF
            place = place + 1 & 0xFFFF
            candidate = b"%b%c%c%b" % (head, number >> 8, number & 255, tail)
            if not used(candidate):
                return candidate
        if attempts >= size or attempts < 16:
            return candidate
        attempts //= 2
        place = random(65536)


# -- spreading over a range of addresses ------------------------------------------------------------------------------


def best_address(wish: Range, source: bytes, destination: bytes, for_source: bool) -> bytes:
    """The address of a range for a pair of addresses (find_best_ips_proto)."""
    minimum, maximum = wish.minimum or b"", wish.maximum or b""
    if minimum == maximum:
        return minimum
    count = len(minimum) // 4
    sources, destinations = _little(source), _little(destination)
    start = 0 if wish.persistent else destinations[-1]
    number = hashed([*sources, 0, 0, 0][:4], start)
    result = bytearray()
    free = False
    for word in range(count):
        low, distance = 0, _WORD
        if not free:
            low = int.from_bytes(minimum[word * 4 : word * 4 + 4])
            distance = int.from_bytes(maximum[word * 4 : word * 4 + 4]) - low + 1 & _WORD
        result += (low + (number * distance >> 32) & _WORD).to_bytes(4)
        # Below the highest prefix every value of the words that follow is in the range.
        free = free or result[word * 4 :] != maximum[word * 4 : word * 4 + 4]
        if not wish.persistent:
            # Of a destination that is being chosen the kernel takes the word it has just written.
            number ^= destinations[word] if for_source else int.from_bytes(result[word * 4 :], "little")
    return bytes(result)


def _little(address: bytes) -> list[int]:
    """The words of an address as a little-endian machine hashes them."""
    return [int.from_bytes(address[at : at + 4], "little") for at in range(0, len(address), 4)]


def _rotated(number: int, bits: int) -> int:
    return (number << bits | number >> 32 - bits) & _WORD


def hashed(words: list[int], start: int = 0) -> int:
    """Bob Jenkins' lookup3 hash of one 32-bit word or more (the kernel's jhash2)."""
    a = b = c = 0xDEADBEEF + 4 * len(words) + start & _WORD
    at = 0
    while len(words) - at > 3:
        a, b, c = a + words[at] & _WORD, b + words[at + 1] & _WORD, c + words[at + 2] & _WORD
        at += 3
        for bits in (4, 6, 8, 16, 19, 4):
            a = (a - c & _WORD) ^ _rotated(c, bits)
            c = c + b & _WORD
            a, b, c = b, c, a
    rest = [*words[at:], 0, 0, 0]
    a, b, c = a + rest[0] & _WORD, b + rest[1] & _WORD, c + rest[2] & _WORD
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, bits) & _WORD
        a, b, c = b, c, a
    return b
