"""IPv6 headers and extension headers (RFC 8200): to build, to walk, to cut into fragments."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

from ipvsctl.wire.checksum import Buffer

HEADER = 40
MINIMUM_MTU = 1280
MAXIMUM = 65535
"""Bytes of the longest payload, extension headers included."""

HOPOPTS, ROUTING, FRAGMENT, AUTHENTICATION, NONE, DSTOPTS = 0, 43, 44, 51, 59, 60
EXTENSIONS = frozenset({HOPOPTS, ROUTING, FRAGMENT, AUTHENTICATION, DSTOPTS})
"""Headers that another header follows (ipv6_ext_hdr); a mobility header (135) counts as a transport there."""


def build(
    source: bytes, destination: bytes, next_header: int, payload: Buffer, hop_limit: int = 64,
    traffic_class: int = 0, flow_label: int = 0,
) -> bytearray:  # fmt: skip
    """A packet; `payload` begins with the header that `next_header` names.

    Raises ValueError when the payload is longer than 65535 bytes.
    """
    if len(payload) > MAXIMUM:
        raise ValueError(f"{len(payload)} bytes of payload make no IPv6 packet")
    first = 6 << 28 | traffic_class << 20 | flow_label
    data = bytearray(pack(">IHBB16s16s", first, len(payload), next_header, hop_limit, source, destination))
    data += payload
    return data


def extension(next_header: int, body: bytes = b"\1\4\0\0\0\0") -> bytes:
    """A hop-by-hop, destination or routing header: `body` follows its two first bytes; the default is padding.

    Raises ValueError for a body that does not end on a multiple of eight.
    """
    length = len(body) + 2
    if length % 8 or not 8 <= length <= 2048:
        raise ValueError(f"{length} bytes make no extension header")
    return pack(">BB", next_header, (length >> 3) - 1) + body


def fragment_header(next_header: int, offset: int, more: bool, identification: int) -> bytes:
    """A fragment header; `offset` in bytes, a multiple of 8."""
    return pack(">BBHI", next_header, 0, offset | more, identification)


def extensions(data: Buffer, at: int = 0) -> Iterator[tuple[int, int, int]]:
    """The headers that follow the IPv6 header at `at`: the number of each, where it begins, and its length in bytes.

    The last is the one that is no extension header, with all that is left for its length; so is what follows the header
    of a later fragment. Stops before a header that is cut off.
    """
    kind, start, end = data[at + 6], at + HEADER, len(data)
    while kind in EXTENSIONS:
        if start + 8 > end:
            return
        if kind == FRAGMENT:
            length = 8
        elif kind == AUTHENTICATION:
            length = (data[start + 1] + 2) * 4
        else:
            length = (data[start + 1] + 1) * 8
        if start + length > end:
            return
        yield kind, start, length
        if kind == FRAGMENT and (data[start + 2] << 8 | data[start + 3]) & 0xFFF8:
            yield data[start], start + 8, end - start - 8
            return
        kind, start = data[start], start + length
    yield kind, start, end - start


def unfragmentable(data: Buffer) -> tuple[int, int] | None:
    """Where the part ends that every fragment carries, and where its last next-header field is.

    output_core.c: ip6_find_1stfragopt: hop-by-hop and routing headers, and destination options before a routing header;
    destination options that no routing header follows count as well. None: a header is cut off.
    """
    field, at, total = 6, HEADER, len(data)
    routed = False
    while at <= total:
        kind = data[field]
        if kind == ROUTING:
            routed = True
        elif kind not in (HOPOPTS, DSTOPTS) or (kind == DSTOPTS and routed):
            return at, field
        if at + 2 > total:
            return None
        field, at = at, at + (data[at + 1] + 1) * 8
    return None


def fragment(data: Buffer, size: int, identification: int) -> list[bytearray]:
    """Cut a packet into fragments of at most `size` bytes each; none at all when not even 8 bytes of it fit in."""
    found = unfragmentable(data)
    if found is None:
        return []
    length, field = found
    room = size - length - 8
    if room < 8:
        return []
    header = bytearray(data[:length])
    kind, header[field] = header[field], FRAGMENT
    total = len(data)
    pieces = []
    at = length
    while at < total:
        end = total if total - at <= room else at + (room & ~7)
        piece = header + fragment_header(kind, at - length, end < total, identification)
        piece += data[at:end]
        payload = len(piece) - HEADER
        piece[4], piece[5] = payload >> 8, payload & 255
        pieces.append(piece)
        at = end
    return pieces
