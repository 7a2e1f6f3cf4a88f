"""The FTP lines that conntrack's helper understands, read exactly as it reads them (nf_conntrack_ftp.c).

PORT and EPRT from the client, the answers 227 and 229 from the server, at the beginning of a segment. A line that
begins so but cannot be read to its end is "partial": the helper drops it. Numbers run over as the kernel's do.
"""

from __future__ import annotations

from typing import NamedTuple

PORT, PASV, EPRT, EPSV = "PORT", "PASV", "EPRT", "EPSV"

_RETURN = 13
_HEX = frozenset(b"0123456789abcdefABCDEF")
_WORD = 0xFFFFFFFF


class Announced(NamedTuple):
    """An address and a port for a data connection, and where in the segment's payload they are written."""

    kind: str
    offset: int
    length: int
    address: bytes
    port: int


class Partial(NamedTuple):
    """A line that begins as `pattern` but is not all there, or is not as it must be."""

    pattern: str


def search(payload: bytes, reply: bool, sender: bytes) -> Announced | Partial | None:
    """What a segment announces; None for nothing. `sender` is the address that a 229 answer leaves out."""
    return (
        (_find_227(payload, sender) or _find_229(payload, sender))
        if reply
        else (_find_port(payload, sender) or _find_eprt(payload, sender))
    )


def _begins(payload: bytes, pattern: bytes) -> bool | None:
    """Whether the payload begins as the pattern, in any case; None: so far yes, but it is no longer than it."""
    if len(payload) <= len(pattern):
        return None if pattern[: len(payload)] == payload.upper() else False
    return payload[: len(pattern)].upper() == pattern


def _find_port(payload: bytes, sender: bytes) -> Announced | Partial | None:
    begins = _begins(payload, b"PORT")
    if begins is False:
        return None
    at = payload.find(b" ", 4) + 1
    if not begins or not at:
        return Partial("PORT")
    return _six_numbers(PORT, payload, at, sender, _RETURN) or Partial("PORT")


def _find_eprt(payload: bytes, sender: bytes) -> Announced | Partial | None:
    begins = _begins(payload, b"EPRT")
    if begins is False:
        return None
    at = payload.find(b" ", 4) + 1
    if not begins or not at:
        return Partial("EPRT")
    return _eprt(payload, at, sender) or Partial("EPRT")


def _find_227(payload: bytes, sender: bytes) -> Announced | Partial | None:
    begins = _begins(payload, b"227 ")
    if begins is False:
        return None
    if begins:
        for at in range(4, len(payload)):
            if 48 <= payload[at] <= 57:
                return _six_numbers(PASV, payload, at, sender, 0) or Partial("227 ")
    return Partial("227 ")


def _find_229(payload: bytes, sender: bytes) -> Announced | Partial | None:
    begins = _begins(payload, b"229 ")
    if begins is False:
        return None
    at = payload.find(b"(", 4) + 1
    if not begins or not at:
        return Partial("229 ")
    delimiter = _delimiter(payload, at)
    if delimiter and payload[at + 1] == delimiter and payload[at + 2] == delimiter:
        port, end = _port(payload, at + 3, delimiter)
        if end:
            return Announced(EPSV, at, end - at, sender, port)
    return Partial("229 ")


def _numbers(payload: bytes, at: int, count: int, separator: int, end: int) -> tuple[list[int], int]:
    """`count` decimal numbers, and where the byte behind them is, which must be `end` (0: any); [], 0 for none."""
    found = [0] * count
    i = 0
    for place in range(at, len(payload)):
        byte = payload[place]
        if 48 <= byte <= 57:
            found[i] = found[i] * 10 + byte - 48 & _WORD
        elif byte == separator:
            i += 1
            if i == count:
                break
        elif (byte == end or not end) and i == count - 1:
            return found, place
        else:
            break
    return [], 0


def _six_numbers(kind: str, payload: bytes, at: int, sender: bytes, end: int) -> Announced | None:
    """A,B,C,D,P,P as in RFC 959."""
    numbers, last = _numbers(payload, at, 6, 44, end)
    if last <= at:
        return None
    # In a connection over IPv6 the kernel overwrites the first four bytes of the sender's address.
    address = _address4(numbers) + sender[4:]
    return Announced(kind, at, last - at, address, (numbers[4] << 8 | numbers[5]) & 0xFFFF)


def _address4(numbers: list[int]) -> bytes:
    return ((numbers[0] << 24 | numbers[1] << 16 | numbers[2] << 8 | numbers[3]) & _WORD).to_bytes(4)


def _delimiter(payload: bytes, at: int) -> int:
    """The byte that separates in EPRT and 229; 0 for one that cannot, or when too little follows."""
    if len(payload) - at <= 3:
        return 0
    byte = payload[at]
    return byte if 33 <= byte <= 126 and not 48 <= byte <= 57 else 0


def _eprt(payload: bytes, at: int, sender: bytes) -> Announced | None:
    """|1|A.B.C.D|PORT| or |2|IPV6|PORT|."""
    delimiter = _delimiter(payload, at)
    if not delimiter or payload[at + 2] != delimiter:
        return None
    begin = at + 3
    if len(sender) == 4:
        if payload[at + 1] != 49:
            return None
        numbers, last = _numbers(payload, begin, 4, 46, delimiter)
        if last <= begin:
            return None
        address = _address4(numbers)
    else:
        if payload[at + 1] != 50:
            return None
        last = begin
        while last < len(payload) and payload[last] != delimiter and payload[last]:
            last += 1
        found = parse_ipv6(payload[begin:last])
        if found is None:
            return None
        address = found
    port, end = _port(payload, last + 1, delimiter)
    return Announced(EPRT, at, end - at, address, port) if end else None


def _port(payload: bytes, at: int, delimiter: int) -> tuple[int, int]:
    """A decimal port and where the byte behind its delimiter is; 0, 0 for none and for port 0."""
    number = 0
    for place in range(at, len(payload)):
        byte = payload[place]
        if byte == delimiter:
            return (number, place + 1) if number else (0, 0)
        if not 48 <= byte <= 57:
            break
        number = number * 10 + byte - 48 & 0xFFFF
    return 0, 0


def parse_ipv6(text: bytes) -> bytes | None:
    """An IPv6 address in text as in6_pton of net/core/utils.c reads it; None for none.

    Unlike most readers it takes leading zeros without end, and "::" between eight groups, where it stands for none.
    """
    head, gap, tail = text.partition(b"::")
    front = head.split(b":") if head or not gap else [b"0"]
    back = (tail or b"0").split(b":") if gap else []
    last = back if back else front
    quad = b""
    if b"." in last[-1]:
        quad = _quad(last.pop())
        if not quad:
            return None
    room = 6 if quad else 8
    if len(front) + len(back) > room or (not gap and len(front) != room):
        return None
    before, behind = _groups(front), _groups(back)
    if before is None or behind is None:
        return None
    behind += quad
    return before + bytes(16 - len(before) - len(behind)) + behind


def _groups(texts: list[bytes]) -> bytes | None:
    result = b""
    for text in texts:
        if not text or not _HEX.issuperset(text) or (number := int(text, 16)) > 0xFFFF:
            return None
        result += number.to_bytes(2)
    return result


def _quad(text: bytes) -> bytes:
    """Four decimal bytes; b"" for anything else."""
    parts = text.split(b".")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return b""
    shorter = [part.lstrip(b"0") or b"0" for part in parts]
    if any(len(part) > 3 or int(part) > 255 for part in shorter):
        return b""
    return bytes(int(part) for part in shorter)
