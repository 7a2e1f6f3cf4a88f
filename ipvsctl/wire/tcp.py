"""TCP segments (RFC 9293) and their options (RFC 7323, 2018)."""

from __future__ import annotations

from struct import pack, unpack_from
from typing import NamedTuple

from ipvsctl.wire.checksum import Buffer, checksum, pseudo

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
PROTOCOL = 6
HEADER = 20

END, NOP, MSS, WSCALE, SACK_PERMITTED, SACK, TIMESTAMPS = 0, 1, 2, 3, 4, 5, 8
"""Kinds of options."""


class Options(NamedTuple):
    """What a header's options say; None or empty for what is not there. `sack` are (left, right) edges."""

    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    timestamps: tuple[int, int] | None = None


def build(
    source: bytes, destination: bytes, sport: int, dport: int, flags: int, seq: int, ack: int, window: int,
    payload: Buffer = b"", options: bytes = b"", urgent: int = 0,
) -> bytearray:  # fmt: skip
    """A segment with a right checksum; the addresses (4 or 16 bytes) are in it. `options` are padded to words.

    Raises ValueError when the options are longer than 40 bytes.
    """
    options += b"\0" * (-len(options) % 4)
    if len(options) > 40:
        raise ValueError(f"{len(options)} bytes of TCP options are more than 40")
    offset = (HEADER + len(options)) << 2
    data = bytearray(pack(">HHIIBBHHH", sport, dport, seq, ack, offset, flags, window, 0, urgent))
    data += options
    data += payload
    seal(data, source, destination)
    return data


def seal(segment: bytearray, source: bytes, destination: bytes) -> None:
    """Compute the checksum of a segment anew, in place."""
    segment[16] = segment[17] = 0
    check = checksum(segment, pseudo(source, destination, PROTOCOL, len(segment)))
    segment[16], segment[17] = check >> 8, check & 255


def header_length(data: Buffer, thoff: int) -> int:
    """Bytes of the header that begins at `thoff`; 0 when it is cut off or too short to be one."""
    if len(data) < thoff + HEADER:
        return 0
    length = (data[thoff + 12] >> 4) * 4
    return length if length >= HEADER and thoff + length <= len(data) else 0


def options(data: Buffer, thoff: int) -> Options:
    """The options of the header that begins at `thoff`; what is broken, and what follows it, is left out."""
    at, end = thoff + HEADER, thoff + header_length(data, thoff)
    mss = wscale = timestamps = None
    permitted = False
    blocks: tuple[tuple[int, int], ...] = ()
    while at < end and data[at] != END:
        kind = data[at]
        if kind == NOP:
            at += 1
            continue
        length = data[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            break
        if kind == MSS and length == 4:
            mss = data[at + 2] << 8 | data[at + 3]
        elif kind == WSCALE and length == 3:
            wscale = data[at + 2]
        elif kind == SACK_PERMITTED and length == 2:
            permitted = True
        elif kind == SACK and length >= 10 and not (length - 2) % 8:
            edges = unpack_from(f">{(length - 2) // 4}I", data, at + 2)
            blocks = tuple(zip(edges[::2], edges[1::2], strict=True))
        elif kind == TIMESTAMPS and length == 10:
            timestamps = unpack_from(">II", data, at + 2)
        at += length
    return Options(mss, wscale, permitted, blocks, timestamps)


def build_options(wanted: Options) -> bytes:
    """The bytes of options in Linux's order, with its padding (tcp_output.c: tcp_options_write)."""
    data = b""
    if wanted.mss is not None:
        data += pack(">BBH", MSS, 4, wanted.mss)
    if wanted.timestamps is not None:
        data += b"\4\2" if wanted.sack_permitted else b"\1\1"
        data += pack(">BBII", TIMESTAMPS, 10, *wanted.timestamps)
    elif wanted.sack_permitted:
        data += b"\1\1\4\2"
    if wanted.wscale is not None:
        data += pack(">BBBB", NOP, WSCALE, 3, wanted.wscale)
    if wanted.sack:
        data += pack(">BBBB", NOP, NOP, SACK, 2 + 8 * len(wanted.sack))
        for left, right in wanted.sack:
            data += pack(">II", left, right)
    return data
