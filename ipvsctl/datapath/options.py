"""IPv4 options and IPv6 options: what a host that receives them checks, whoever they are for.

Source routes are refused (net.ipv4.conf.*.accept_source_route is off). Record route and timestamp are checked, but no
address or time is written into them: the packet goes on as it came. Only that a timestamp found no room is counted.
"""

from __future__ import annotations

from ipvsctl.wire import ipv4
from ipvsctl.wire.checksum import Buffer

_END, _NOOP, _RECORD, _TIMESTAMP, _ALERT = 0, 1, 7, 68, 148
_ROUTES = (131, 137)
"""Loose and strict source route."""

TAKEN, REFUSED = -1, -2


def check4(data: bytearray, length: int) -> int:
    """ip_options.c: __ip_options_compile: TAKEN, or where the first mistake is, for the parameter problem message.

    `length` is that of the header, which is sealed again if it is changed. REFUSED: a source route, which
    ip_rcv_options drops without an answer.
    """
    at, routed = 20, False
    seen: set[int] = set()
    while at < length:
        kind = data[at]
        if kind == _END:
            break
        if kind == _NOOP:
            at += 1
            continue
        if length - at < 2 or not 2 <= data[at + 1] <= length - at:
            return at
        size = data[at + 1]
        if kind in _ROUTES or kind in (_RECORD, _TIMESTAMP):
            wrong = _pointed(data, at, kind, size, seen)
            if wrong >= 0:
                return wrong
            routed = routed or kind in _ROUTES
        elif kind == _ALERT and size < 4:
            return at + 1
        at += size
    return REFUSED if routed else TAKEN


def _pointed(data: bytearray, at: int, kind: int, size: int, seen: set[int]) -> int:
    """An option with a pointer: once only, long enough, and with room for what the pointer points at."""
    name = _ROUTES[0] if kind in _ROUTES else kind
    stamps = kind == _TIMESTAMP
    if size < (4 if stamps else 3):
        return at + 1
    pointer = data[at + 2]
    if pointer < (5 if stamps else 4):
        return at + 2
    if name in seen:
        return at
    seen.add(name)
    if name == _ROUTES[0]:
        return TAKEN
    if pointer <= size:
        needed = 7 if stamps and data[at + 3] & 15 in (1, 3) else 3
        return at + 2 if pointer + needed > size else TAKEN
    if stamps and data[at + 3] & 15 != 3:
        if data[at + 3] >> 4 == 15:
            return at + 3
        data[at + 3] += 16
        ipv4.seal(data)
    return TAKEN


class Verdict6:
    """What exthdrs.c: ip6_parse_tlv makes of options: drop it, and report `code` at `pointer` unless that is -1."""

    __slots__ = ("code", "pointer")

    def __init__(self, code: int = 0, pointer: int = -1) -> None:
        self.code = code
        self.pointer = pointer


_SILENT = Verdict6()
_ROUTER_ALERT, _IOAM, _JUMBO, _CALIPSO, _HOME_ADDRESS = 5, 0x31, 0xC2, 7, 0xC9
_MOST = 8
"""Options in one header at most (net.ipv6.max_hbh_opts_number, max_dst_opts_number)."""


def check6(data: Buffer, at: int, multicast: bool, hop_by_hop: bool) -> Verdict6 | None:
    """The hop-by-hop or destination options header at `at`; None: taken. One that is cut off is dropped in silence."""
    if len(data) < at + 8 or len(data) < (end := at + (data[at + 1] + 1) * 8):
        return _SILENT
    at += 2
    padding = count = 0
    while at < end:
        kind = data[at]
        if kind == 0:
            padding += 1
            at += 1
            if padding > 7:
                return _SILENT
            continue
        if end - at < 2 or data[at + 1] + 2 > end - at:
            return _SILENT
        size = data[at + 1] + 2
        if kind == 1:
            padding += size
            if padding > 7 or any(data[at + 2 : at + size]):
                return _SILENT
        else:
            padding = 0
            count += 1
            if count > _MOST:
                return _SILENT
            verdict = _option6(data, at, kind, size, multicast, hop_by_hop)
            if verdict is not None:
                return verdict
        at += size
    return None


def _option6(data: Buffer, at: int, kind: int, size: int, multicast: bool, hop_by_hop: bool) -> Verdict6 | None:
    if hop_by_hop and kind == _ROUTER_ALERT:
        return None if size == 4 else _SILENT
    if hop_by_hop and kind == _IOAM:
        return _SILENT if at & 3 else None
    if hop_by_hop and kind == _JUMBO:
        if size != 6 or at & 3 != 2:
            return _SILENT
        # A packet as long as a jumbogram must be does not come in here.
        short = int.from_bytes(data[at + 2 : at + 6], "big") <= 65535
        return Verdict6(0, at + 2 if short else at)
    if (hop_by_hop and kind == _CALIPSO) or (not hop_by_hop and kind == _HOME_ADDRESS):
        return _SILENT
    action = kind >> 6
    if action == 0:
        return None
    if action == 1 or (action == 3 and multicast):
        return _SILENT
    return Verdict6(2, at)
