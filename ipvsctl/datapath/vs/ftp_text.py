"""FTP commands and replies as ip_vs_ftp reads them: ip_vs_ftp_get_addrport of net/netfilter/ipvs/ip_vs_ftp.c.

The kernel's reader is neither RFC 959 nor RFC 2428: what it takes, and what it does not, is a fact of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from ipvsctl.model.address import INET
from ipvsctl.wire.address import packed

ACTIVE, PASV, EPSV = range(3)
"""What a client asked for last."""

STOP = -1
"""The segment is not read any further."""


class Place(NamedTuple):
    """An address and a port in a payload, and where their text begins and ends. `address` b"": none was given."""

    address: bytes
    port: int
    start: int
    end: int


def passive_request(payload: bytes, family: int) -> int:
    """PASV or EPSV anywhere in a client's segment; ACTIVE for neither, STOP for an EPSV of another family or ALL."""
    upper = payload.upper()
    at = 0
    while True:
        extended = upper.find(b"EPSV", at)
        if extended < 0 or extended > len(upper) - 6:
            extended = -1
        plain = upper.find(b"PASV\r\n", at) if family == INET else -1
        if plain >= 0 and (extended < 0 or plain < extended):
            return PASV
        if extended < 0:
            return ACTIVE
        following = upper[extended + 4]
        if following == 0x0D:
            return EPSV
        if following == 0x20:
            wanted = b"1\r" if family == INET else b"2\r"
            return EPSV if upper[extended + 5 : extended + 7] == wanted else STOP
        at = extended + 1


def plain_address(payload: bytes, pattern: bytes, skip: int) -> Place | None:
    """`h1,h2,h3,h4,p1,p2` behind a command or reply; `skip` is the character that may come before it."""
    at = _after(payload, pattern, skip, True)
    if at is None:
        return None
    start = at
    numbers = [0]
    while at < len(payload):
        byte = payload[at]
        if 0x30 <= byte <= 0x39:
            numbers[-1] = numbers[-1] * 10 + byte - 0x30
            if numbers[-1] > 255:
                return None
        elif byte == 0x2C and len(numbers) < 6:
            numbers.append(0)
        else:
            break
        at += 1
    if at == len(payload) or len(numbers) != 6:
        return None
    return Place(bytes(numbers[:4]), numbers[4] << 8 | numbers[5], start, at)


def extended_address(payload: bytes, pattern: bytes, skip: int, family: int, bare: bool) -> Place | None:
    """`|1|192.0.2.1|1234|` with any delimiter; `bare`: family and address may be missing (reply to EPSV)."""
    at = _after(payload, pattern, skip, False)
    if at is None or at >= len(payload):
        return None
    start, mark = at, payload[at]
    if not 33 <= mark <= 126 or 0x30 <= mark <= 0x39:
        return None
    fields = payload[at + 1 :].split(bytes((mark,)), 3)
    if len(fields) < 4:
        return None
    kind, text, digits, _ = fields
    address = b""
    if not kind:
        if not bare or text:
            return None
    else:
        if kind != (b"1" if family == INET else b"2"):
            return None
        found = _address(text, family)
        if found is None:
            return None
        address = found
    if not digits or not digits.isdigit() or len(digits) > 4096:
        return None
    port = int(digits)
    if not 0 < port <= 65535:
        return None
    return Place(address, port, start, start + 4 + len(kind) + len(text) + len(digits))


def _after(payload: bytes, pattern: bytes, skip: int, digits: bool) -> int | None:
    """Where the text begins behind `pattern` and a run of `skip`; with `digits` a digit ends the search as well."""
    if payload[: len(pattern)].upper() != pattern:
        return None
    at, found = len(pattern), False
    while at < len(payload):
        byte = payload[at]
        if found:
            if byte != skip:
                return at
        elif digits and 0x30 <= byte <= 0x39:
            return at
        elif byte == skip:
            found = True
        at += 1
    return None


def _address(text: bytes, family: int) -> bytes | None:
    if family == INET:
        groups = text.split(b".")
        if len(groups) != 4 or not all(group.isdigit() and len(group) < 16 for group in groups):
            return None
        values = [int(group) for group in groups]
        return bytes(values) if max(values) <= 255 else None
    if b":" not in text or b"%" in text or len(text) > 45:
        return None
    try:
        return packed(text.decode("ascii"))
    except ValueError:
        return None
