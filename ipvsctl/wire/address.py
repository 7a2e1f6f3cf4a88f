"""Addresses as they stand in a packet: 4 or 16 bytes."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address


@lru_cache(maxsize=65536)
def packed(text: str) -> bytes:
    """The bytes of an address in text; raises ValueError for what is none."""
    return ip_address(text).packed


def readable(address: bytes) -> str:
    """The canonical text of 4 or 16 bytes."""
    if len(address) == 4:
        return "{}.{}.{}.{}".format(*address)
    return str(IPv6Address(address))


def endpoint(address: bytes, port: int) -> str:
    """ADDRESS:PORT, an IPv6 address in brackets."""
    return f"[{readable(address)}]:{port}" if len(address) == 16 else f"{readable(address)}:{port}"
