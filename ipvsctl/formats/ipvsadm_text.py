"""Words of ipvsadm's output: addresses and ports, service labels, its order of services and servers.

The order is ipvsadm's own: every difference is taken in 32 bits and read as signed, so addresses half a circle apart
come in another order than numbers do, and the relation is not transitive. What comes out then depends on the
algorithm, which is the C library's: a merge sort that splits in the middle. Where all numbers lie within half a circle,
which is nearly always, any sort gives the same result.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from operator import itemgetter
from typing import Protocol, TypeVar

from ipvsctl.model.address import INET, INET6, PROTOCOLS, ServiceAddress
from ipvsctl.model.row import ServerRow, ServiceRow

ENDPOINT_SIZE = 59
"""Bytes that ipvsadm keeps of an address with its port; a longer one loses its end, and with it the port."""

LABEL_SIZE, SERVER_SIZE = 33, 28

_HALF, _CIRCLE = 2**31, 2**32
_WORDS = struct.Struct(">IIII")

_T = TypeVar("_T")


class Resolver(Protocol):
    """Names of addresses and ports; None where there is none."""

    def host_name(self, address: str) -> str | None: ...

    def port_name(self, port: int, protocol: str) -> str | None: ...


@lru_cache(maxsize=65536)
def address_text(address: str) -> str:
    """An address as the C library writes it: the last 32 bits of some IPv6 addresses as IPv4."""
    if not address.startswith("::"):
        return address
    words = IPv6Address(address).packed
    head, tail = int.from_bytes(words[:12]), words[12:]
    if head == 0xFFFF or (head == 0 and tail[:2] != b"\0\0"):
        return f"::{'ffff:' if head else ''}{IPv4Address(tail)}"
    return address


def endpoint(address: str, port: int, protocol: str, names: Resolver | None) -> str:
    """An address with its port, by name where there are names; an IPv6 address in brackets, its name as well."""
    host = service = None
    if names is not None:
        host = names.host_name(address)
        service = names.port_name(port, protocol)
    text = host or address_text(address)
    if ":" in address:
        text = f"[{text}]"
    return cut(f"{text}:{service or port}", ENDPOINT_SIZE)


def cut(text: str, size: int) -> str:
    """The first bytes of a text."""
    if len(text) <= size and text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape")[:size].decode("utf-8", "surrogateescape")


def signed(mark: int) -> int:
    """A firewall mark as ipvsadm's lists show it."""
    return mark - _CIRCLE if mark >= _HALF else mark


def service_label(address: ServiceAddress, names: Resolver | None) -> str:
    """What a service's line begins with; cut where it is no IPv6 address."""
    if address.protocol == "fwmark":
        return f"FWM  {signed(address.fwmark)}" + (" IPv6" if address.family == INET6 else "")
    protocol = address.protocol.upper() if address.protocol in PROTOCOLS else "?"
    text = f"{protocol:<4} {endpoint(address.address, address.port, address.protocol, names)}"
    return text if address.family == INET6 else cut(text, LABEL_SIZE)


def server_label(server: ServerRow, protocol: str, names: Resolver | None) -> str:
    """What a server's line begins with; cut where it is no IPv6 address."""
    if names is None and server.family == INET:
        return f"{server.text}:{server.port}"
    text = endpoint(server.text, server.port, protocol, names)
    return text if server.family == INET6 else cut(text, SERVER_SIZE)


def sort_services(services: Sequence[ServiceRow]) -> list[ServiceRow]:
    """Services in ipvsadm's order; `services` in the host's."""
    return _sort(services, _service_words)


def sort_servers(servers: Sequence[ServerRow]) -> Sequence[ServerRow]:
    """Servers of one service in ipvsadm's order; `servers` in the host's."""
    if len(servers) < 2:
        return servers
    if {server[0] for server in servers} == {INET}:
        ordered = sorted(servers, key=_PLACE)
        # Well within half a circle the bytes of the addresses are in the right order.
        if ordered[-1].address[0] - ordered[0].address[0] < 127:
            return ordered
    return _sort(servers, _server_words)


_PLACE = itemgetter(1, 2)
"""Address and port of a server's row."""


def _service_words(row: ServiceRow) -> tuple[int, ...]:
    address = row.service.address
    if address.protocol == "fwmark":
        return address.fwmark, address.family, 6, 0, 0, 0, 0, 0
    words = _address_words(address.address)
    return address.fwmark, address.family, PROTOCOLS.get(address.protocol, 0), *words, address.port


def _server_words(server: ServerRow) -> tuple[int, ...]:
    return *_WORDS.unpack(server.address.ljust(16, b"\0")), server.port


def _address_words(address: str) -> tuple[int, ...]:
    if ":" in address:
        return _WORDS.unpack(IPv6Address(address).packed)
    first, second, third, fourth = address.split(".")
    return int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth), 0, 0, 0


def _sort(items: Sequence[_T], words: Callable[[_T], tuple[int, ...]]) -> list[_T]:
    """Sort by words that are compared one after the other, each by the sign of its difference in 32 bits."""
    keyed = [(words(item), at) for at, item in enumerate(items)]
    columns = zip(*(key for key, _ in keyed), strict=True)
    if all(max(column) - min(column) < _HALF for column in columns):
        keyed.sort()
    else:
        keyed = _merge_sort(keyed)
    return [items[at] for _, at in keyed]


def _merge_sort(items: list[tuple[tuple[int, ...], int]]) -> list[tuple[tuple[int, ...], int]]:
    if len(items) < 2:
        return items
    middle = len(items) // 2
    left, right = _merge_sort(items[:middle]), _merge_sort(items[middle:])
    merged = []
    i = j = 0
    while i < len(left) and j < len(right):
        if _compare(left[i][0], right[j][0]) <= 0:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


def _compare(left: Sequence[int], right: Sequence[int]) -> int:
    for a, b in zip(left, right, strict=True):
        if a != b:
            return (a - b + _HALF) % _CIRCLE - _HALF
    return 0
