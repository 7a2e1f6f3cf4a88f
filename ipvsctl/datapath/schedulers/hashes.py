"""The hash functions of the schedulers, bit for bit those of the kernel on a 64-bit machine."""

from __future__ import annotations

from functools import lru_cache

from ipvsctl.model.address import INET

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_GOLDEN_RATIO = 0x61C88647


def fold(address: bytes, family: int) -> int:
    """An address as 32 bits: IPv4's own, or the words of an IPv6 address xored.

    `family` is the service's: a server of the other family (reached by tun) is read as the kernel reads its union.
    """
    number = int.from_bytes(address)
    if len(address) == 4:
        return number
    if family == INET:
        return number >> 96
    number ^= number >> 64
    return (number ^ number >> 32) & _MASK32


def hash_32(value: int, bits: int) -> int:
    """linux/hash.h: hash_32; `value` is cut to 32 bits."""
    return (value * _GOLDEN_RATIO & _MASK32) >> (32 - bits)


@lru_cache(maxsize=32768)
def hsiphash(value: int, half: int) -> int:
    """hsiphash_1u32 of linux/siphash.h on 64 bits: SipHash-1-3 of four bytes, its low 32 bits.

    `half` is both halves of the key. The last clients' values are remembered: a round of it in Python is dear.
    """
    v0, v1 = 0x736F6D6570736575 ^ half, 0x646F72616E646F6D ^ half
    v2, v3 = 0x6C7967656E657261 ^ half, 0x7465646279746573 ^ half
    block = 4 << 56 | value & _MASK32
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ block)
    v0 ^= block
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return (v0 ^ v1 ^ v2 ^ v3) & _MASK32


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = v0 + v1 & _MASK64
    v1 = (v1 << 13 & _MASK64 | v1 >> 51) ^ v0
    v0 = v0 << 32 & _MASK64 | v0 >> 32
    v2 = v2 + v3 & _MASK64
    v3 = (v3 << 16 & _MASK64 | v3 >> 48) ^ v2
    v0 = v0 + v3 & _MASK64
    v3 = (v3 << 21 & _MASK64 | v3 >> 43) ^ v0
    v2 = v2 + v1 & _MASK64
    v1 = (v1 << 17 & _MASK64 | v1 >> 47) ^ v2
    v2 = v2 << 32 & _MASK64 | v2 >> 32
    return v0, v1, v2, v3
