"""What is left out of the comparison, each with its reason. Nothing else is.

A mask never hides whether a value is one that the host makes up or one that it must keep: a value counts as made up
only when no packet of the scenario carried it, and made-up values stand for each other and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from ipvsctl.wire import ipv4
from ipvsctl.wire.checksum import checksum
from tests.differential.scenario import Scenario

MADE_UP = 0xFFFF
SECONDS = 1
"""Timers may differ by so much: the two are not read in the same instant, and both are cut to whole seconds."""


@dataclass(slots=True)
class Context:
    """What a scenario's packets carried, its director's own addresses, and the ports of its GUE servers."""

    identifications: set[int] = field(default_factory=set)
    fragments: set[bytes] = field(default_factory=set)
    own: set[bytes] = field(default_factory=set)
    gue: set[int] = field(default_factory=set)


def context(scenario: Scenario) -> Context:
    """What the masks have to know of a scenario."""
    found = Context()
    for step in scenario.steps:
        for packet in step.packets:
            if len(packet) >= 20 and packet[0] >> 4 == 4:
                found.identifications.add(packet[4] << 8 | packet[5])
            elif (at := _fragment_header(packet)) is not None:
                found.fragments.add(bytes(packet[at + 4 : at + 8]))
        server = getattr(step.change, "server", None)
        if server is not None and server.tunnel is not None:
            found.gue.add(server.tunnel.port)
    for device in scenario.snapshot.devices:
        found.own |= {ip_interface(text).ip.packed for text in device.addresses}
    for wish in scenario.snapshot.services:
        found.gue |= {server.tunnel.port for server in wish.servers if server.tunnel is not None}
    found.gue.discard(0)
    return found


class Mask(NamedTuple):
    """A part of a packet that cannot be compared, why, and how it is taken out."""

    name: str
    reason: str
    apply: Callable[[bytearray, Context], None]


def _identification(packet: bytearray, known: Context) -> None:
    if packet[0] >> 4 == 4 and (packet[4] << 8 | packet[5]) not in known.identifications:
        right = not checksum(packet[: (packet[0] & 15) * 4])
        packet[4:6] = MADE_UP.to_bytes(2, "big")
        if right:
            ipv4.seal(packet)


def _fragment_identification(packet: bytearray, known: Context) -> None:
    at = _fragment_header(packet)
    if at is not None and bytes(packet[at + 4 : at + 8]) not in known.fragments:
        packet[at + 4 : at + 8] = b"\xff\xff\xff\xff"


def _flow_label(packet: bytearray, known: Context) -> None:
    if packet[0] >> 4 == 6 and bytes(packet[8:24]) in known.own:
        packet[1] &= 0xF0
        packet[2:4] = b"\0\0"


def _gue_port(packet: bytearray, known: Context) -> None:
    at = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    source = bytes(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24])
    later = packet[0] >> 4 == 4 and (packet[6] << 8 | packet[7]) & 0x1FFF
    if protocol != 17 or later or source not in known.own or len(packet) < at + 8:
        return
    if packet[at + 2] << 8 | packet[at + 3] in known.gue:
        packet[at : at + 2] = b"\0\0"
        if packet[at + 6] or packet[at + 7]:
            packet[at + 6 : at + 8] = b"\xff\xff"


MASKS = (
    Mask("IPv4 identification", "the kernel starts its counters at random (ip_select_ident)", _identification),
    Mask("IPv6 fragment identification", "random in the kernel (ipv6_select_ident)", _fragment_identification),
    Mask("IPv6 flow label of own packets", "a hash with a random key (ip6_make_flowlabel)", _flow_label),
    Mask("GUE source port", "a hash of the flow with a random key (udp_flow_src_port)", _gue_port),
)


def masked(packet: bytes, known: Context) -> bytes:
    """A packet without what cannot be compared."""
    data = bytearray(packet)
    if len(data) >= 40 or (len(data) >= 20 and data[0] >> 4 == 4):
        for mask in MASKS:
            mask.apply(data, known)
    return bytes(data)


def is_gue(source: str, port: int, known: Context) -> bool:
    """Whether a flow's source port is one of those that a hash chose."""
    return port in known.gue and ip_address(source).packed in known.own


def _fragment_header(packet: bytes | bytearray) -> int | None:
    """Where an IPv6 packet's fragment header is, if it is the first header."""
    if len(packet) >= 48 and packet[0] >> 4 == 6 and packet[6] == 44:
        return 40
    return None
