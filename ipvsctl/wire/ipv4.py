"""IPv4 headers (RFC 791): to build, to seal, to check, to cut into fragments.

An address is 4 bytes; offsets of fragments are in bytes, as nobody wants to think in eights.
"""

from __future__ import annotations

from struct import pack

from ipvsctl.wire.checksum import Buffer, checksum, correct

HEADER = 20
MAXIMUM = 65535
"""Bytes of the longest packet, its header included."""

DF, MF, OFFSET = 0x4000, 0x2000, 0x1FFF


def build(
    source: bytes, destination: bytes, protocol: int, payload: Buffer, ttl: int = 64, tos: int = 0,
    identification: int = 0, df: bool = False, fragment: int = 0, more: bool = False, options: bytes = b"",
) -> bytearray:  # fmt: skip
    """A packet with a right header checksum. `fragment` is the offset in bytes, a multiple of 8; `options` are padded.

    Raises ValueError when it gets longer than 65535 bytes, or the options longer than 40.
    """
    options += b"\0" * (-len(options) % 4)
    length = HEADER + len(options)
    total = length + len(payload)
    if length > 60 or total > MAXIMUM:
        raise ValueError(f"{total} bytes ({length} of header) make no IPv4 packet")
    flags = (DF if df else 0) | (MF if more else 0) | fragment >> 3
    data = bytearray(
        pack(
            ">BBHHHBBH4s4s", 0x40 | length >> 2, tos, total, identification, flags, ttl, protocol, 0,
            source, destination,
        )
    )  # fmt: skip
    data += options
    seal(data)
    data += payload
    return data


def seal(data: bytearray, at: int = 0) -> None:
    """Compute the checksum of the header that begins at `at` anew, in place."""
    data[at + 10] = data[at + 11] = 0
    check = checksum(data[at : at + (data[at] & 15) * 4])
    data[at + 10], data[at + 11] = check >> 8, check & 255


def valid(data: Buffer, at: int = 0) -> bool:
    """Whether the checksum of the header that begins at `at` is right; false as well for one that is cut off."""
    end = at + (data[at] & 15) * 4
    return end <= len(data) and correct(data[at:end])


def fragment(data: Buffer, size: int, df: bool = False) -> list[bytearray]:
    """Cut a packet into fragments of at most `size` bytes each; none at all when not even 8 bytes of it fit in.

    Later fragments carry only options that ask for it, the others are made no-operations (ip_options.c:
    ip_options_fragment). `df` sets that bit in every one, else none has it (ip_output.c: ip_frag_next). A fragment can
    be cut again.
    """
    length = (data[0] & 15) * 4
    room = size - length
    if room < 8:
        return []
    total = len(data)
    flags = data[6] << 8 | data[7]
    offset, last_more = (flags & OFFSET) * 8, flags & MF
    header = bytearray(data[:length])
    found = []
    at = length
    while at < total:
        end = total if total - at <= room else at + (room & ~7)
        piece = header + data[at:end]
        flags = (offset >> 3) | (DF if df else 0) | (MF if end < total else last_more)
        piece[2], piece[3] = len(piece) >> 8, len(piece) & 255
        piece[6], piece[7] = flags >> 8, flags & 255
        seal(piece)
        found.append(piece)
        if not offset and length > HEADER:
            header[HEADER:] = copied_options(header[HEADER:])
        offset += end - at
        at = end
    return found


def copied_options(options: Buffer) -> bytearray:
    """The options as a later fragment has them: what is not to be copied is made no-operations of the same length."""
    kept = bytearray(options)
    at = 0
    while at < len(kept) and kept[at]:
        if kept[at] == 1:
            at += 1
            continue
        length = kept[at + 1] if at + 1 < len(kept) else 0
        if length < 2 or at + length > len(kept):
            break
        if not kept[at] & 0x80:
            kept[at : at + length] = b"\1" * length
        at += length
    return kept
