"""The generic netlink family IPVS as tables: its commands and the attributes of each nest (uapi/linux/ip_vs.h).

A table says a nest's attributes once; `encode`, `decode` and `Layout` are derived from it. Values are as on the wire:
ports as `htons` gives them, addresses as 16 bytes with IPv4 in the first four, netmasks as four bytes.

A `Layout` is a run of attributes in fixed order compiled into one struct. Requests are packed by layouts; an answer is
unpacked by the layout that today's kernels send, and by walking its attributes when it looks different: attributes
that are unknown are skipped there, missing ones are missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ipvsctl.errors import Refused

FAMILY = "IPVS"
VERSION = 1

# IPVS_CMD_*. Answers come as NEW_* or SET_* of the same thing.
NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
NEW_DAEMON, DEL_DAEMON, GET_DAEMON = 9, 10, 11
SET_CONFIG, GET_CONFIG, SET_INFO, GET_INFO = 12, 13, 14, 15
ZERO, FLUSH = 16, 17

NESTED = 0x8000
_TYPE = 0x3FFF
_HEAD = struct.Struct("=HH")  # nlattr: length with itself and without padding, type
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Nest(NamedTuple):
    """The attributes of one nest: name -> (number, kind).

    A kind is a struct format ("I"), "text" for a string that ends with NUL, or the Nest inside the attribute.
    """

    name: str
    attributes: dict[str, tuple[int, Any]]
    numbers: dict[int, tuple[str, Any]]


def _nest(name: str, **attributes: tuple[int, Any]) -> Nest:
    numbers = {}
    for attribute, (number, kind) in attributes.items():
        numbers[number] = attribute, kind if kind == "text" or isinstance(kind, Nest) else struct.Struct("=" + kind)
    return Nest(name, attributes, numbers)


STATS = _nest(
    "STATS",
    connections=(1, "I"), packets_in=(2, "I"), packets_out=(3, "I"), bytes_in=(4, "Q"), bytes_out=(5, "Q"),
    cps=(6, "I"), pps_in=(7, "I"), pps_out=(8, "I"), bps_in=(9, "I"), bps_out=(10, "I"),
)  # fmt: skip
STATS64 = _nest("STATS64", **{name: (number, "Q") for name, (number, _) in STATS.attributes.items()})

SERVICE = _nest(
    "SERVICE",
    family=(1, "H"), protocol=(2, "H"), address=(3, "16s"), port=(4, "H"), fwmark=(5, "I"), scheduler=(6, "text"),
    pe=(11, "text"), flags=(7, "8s"), timeout=(8, "I"), netmask=(9, "4s"), stats=(10, STATS), stats64=(12, STATS64),
)  # fmt: skip
"""`flags` is two u32 in host order: the bits, and the mask of those that are meant. `timeout` is in seconds."""

DEST = _nest(
    "DEST",
    family=(11, "H"), address=(1, "16s"), port=(2, "H"), forward=(3, "I"), weight=(4, "i"), tunnel_type=(13, "B"),
    tunnel_port=(14, "H"), tunnel_flags=(15, "H"), upper=(5, "I"), lower=(6, "I"), active=(7, "I"), inactive=(8, "I"),
    persistent=(9, "I"), stats=(10, STATS), stats64=(12, STATS64),
)  # fmt: skip

DAEMON = _nest(
    "DAEMON",
    state=(1, "I"), interface=(2, "text"), id=(3, "I"), maxlen=(4, "H"), group=(5, "4s"), group6=(6, "16s"),
    port=(7, "H"), ttl=(8, "B"),
)  # fmt: skip
"""`port` is in host order here. `state` is 1 for master, 2 for backup."""

INFO = _nest("INFO", version=(1, "I"), table_size=(2, "I"))
"""At the top level of an answer to GET_INFO, in place of TOP."""

TOP = _nest(
    "TOP",
    service=(1, SERVICE), dest=(2, DEST), daemon=(3, DAEMON), tcp=(4, "I"), tcp_fin=(5, "I"), udp=(6, "I"),
)  # fmt: skip
"""The top level of every other message; timeouts in seconds."""


def encode(nest: Nest, values: Iterable[tuple[str, Any]]) -> bytes:
    """Attributes of a nest in the order given. A nested one takes the bytes inside it, "text" takes str."""
    parts = []
    for name, value in values:
        number, kind = nest.attributes[name]
        if isinstance(kind, Nest):
            number |= NESTED
        elif kind == "text":
            value = value.encode() + b"\0"
        else:
            value = nest.numbers[number][1].pack(value)
        parts.append(_HEAD.pack(4 + len(value), number) + value + _PADDING[len(value) & 3])
    return b"".join(parts)


def decode(nest: Nest, data: bytes) -> dict[str, Any]:
    """Values by name; what is nested stays bytes, for a `decode` of its own. Raises Refused for a broken attribute."""
    found: dict[str, Any] = {}
    at, size, unpack, numbers = 0, len(data), _HEAD.unpack_from, nest.numbers
    while at + 4 <= size:
        length, kind = unpack(data, at)
        if not 4 <= length <= size - at:
            raise Refused(f"cannot read the kernel's answer: attribute {kind & _TYPE} of {nest.name} is cut short")
        known = numbers.get(kind & _TYPE)
        if known is not None:
            name, form = known
            value = data[at + 4 : at + length]
            if isinstance(form, struct.Struct):
                found[name] = _value(nest, name, form, value)
            else:
                found[name] = value.split(b"\0")[0].decode("utf-8", "replace") if form == "text" else value
        at += length + 3 & ~3
    return found


def _value(nest: Nest, name: str, form: struct.Struct, value: bytes) -> Any:
    if len(value) < form.size:
        if form.format != "=16s" or len(value) < 4:
            raise Refused(
                f"cannot read the kernel's answer: {name} of {nest.name} has {len(value)} bytes, expected {form.size}"
            )
        # An IPv4 address may come as four bytes.
        value = value.ljust(16, b"\0")
    return form.unpack_from(value)[0]


class Layout:
    """Some attributes of a nest in fixed order, as one struct.

    `sizes` gives the length of nested attributes, which stay bytes; `head` is a constant in front of the first.
    """

    def __init__(
        self, nest: Nest, names: Sequence[str], sizes: dict[str, int] | None = None, head: bytes = b""
    ) -> None:
        heads: list[bytes] = []
        form = "="
        for name in names:
            number, kind = nest.attributes[name]
            code = f"{(sizes or {})[name]}s" if isinstance(kind, Nest) else kind
            size = struct.calcsize("=" + code)
            heads.append(head + _HEAD.pack(4 + size, number))
            form += f"{len(heads[-1])}s{code}{-size % 4}x"
            head = b""
        layout = struct.Struct(form)
        self.size = layout.size
        self._heads = tuple(heads)
        self._pack, self._unpack = layout.pack, layout.unpack
        self._arguments: list[Any] = [heads[i // 2] for i in range(2 * len(heads))]

    def encode(self, values: Sequence[Any]) -> bytes:
        """The attributes with their headers, constant in front included."""
        arguments = self._arguments.copy()
        arguments[1::2] = values
        return self._pack(*arguments)

    def decode(self, data: bytes) -> tuple[Any, ...] | None:
        """The values, or None when the data is laid out differently."""
        if len(data) != self.size:
            return None
        fields = self._unpack(data)
        return fields[1::2] if fields[::2] == self._heads else None


def nest_head(name: str, size: int) -> bytes:
    """The header of a top-level nest with so many bytes inside; in requests."""
    return _HEAD.pack(4 + size, TOP.attributes[name][0] | NESTED)
