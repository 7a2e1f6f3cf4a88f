"""What is left out of the comparison, each with its reason. Nothing else is.

A mask never hides whether a value is one that the host makes up or one that it must keep: a value counts as made up
only when no packet of the scenario carried it, and made-up values stand for each other and for nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from ipvsctl.model.status import ConntrackEntry
from ipvsctl.wire import icmp, ipv4, sctp, tunnel
from ipvsctl.wire.checksum import checksum, replaced
from tests.differential.scenario import Scenario

MADE_UP = 0xFFFF
_LOWEST = 512
"""A port below is translated to one below (nf_nat_core.c), and those are few enough to be known."""

_NUMBER = re.compile(r"\b\d{1,5}\b")
_COMMAS = re.compile(r"(?:\d+,){4}(\d{1,3}),(\d{1,3})")
_BARS = re.compile(r"\|(\d{1,5})\|")
SECONDS = 1
"""Timers may differ by so much: the two are not read in the same instant, and both are cut to whole seconds."""


@dataclass(slots=True)
class Context:
    """What a scenario's packets carried, its director's own addresses, and the ports of its GUE servers.

    `identifications` of IPv4 go with their protocol, so that a made-up one of an ICMP error or a tunnel's packet is
    hardly ever taken for one of theirs. `ports` are those of the packets, of the services and their servers, and every
    number that rules or payloads name.
    """

    identifications: set[tuple[int, int]] = field(default_factory=set)
    fragments: set[bytes] = field(default_factory=set)
    own: set[bytes] = field(default_factory=set)
    gue: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)


def context(scenario: Scenario) -> Context:
    """What the masks have to know of a scenario."""
    found = Context()
    for step in scenario.steps:
        for packet in step.packets:
            if len(packet) >= 20 and packet[0] >> 4 == 4:
                found.identifications.add((packet[9], packet[4] << 8 | packet[5]))
            elif (at := _fragment_header(packet)) is not None:
                found.fragments.add(bytes(packet[at + 4 : at + 8]))
            found.ports |= _ports(packet)
        server = getattr(step.change, "server", None)
        if server is not None and server.tunnel is not None:
            found.gue.add(server.tunnel.port)
    for device in scenario.snapshot.devices:
        found.own |= {ip_interface(text).ip.packed for text in device.addresses}
    for wish in scenario.snapshot.services:
        found.gue |= {server.tunnel.port for server in wish.servers if server.tunnel is not None}
    for wish in scenario.snapshot.services:
        found.ports |= {wish.service.address.port, *(server.address.port for server in wish.servers)}
    for text in scenario.rules.values():
        found.ports |= {int(number) for number in _NUMBER.findall(text)}
    found.gue.discard(0)
    return found


def _ports(packet: bytes) -> set[int]:
    """The ports of a packet, and those that an FTP command or reply in it names."""
    at = (packet[0] & 15) * 4 if packet and packet[0] >> 4 == 4 else 40
    found = {packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3]} if len(packet) >= at + 4 else set()
    text = packet[at:].decode("latin-1")
    found |= {int(high) << 8 | int(low) for high, low in _COMMAS.findall(text)}
    return found | {int(number) for number in _BARS.findall(text)}


class Mask(NamedTuple):
    """A part of a packet that cannot be compared, why, and how it is taken out."""

    name: str
    reason: str
    apply: Callable[[bytearray, Context], None]


def _identification(packet: bytearray, known: Context) -> None:
    if packet[0] >> 4 == 4 and (packet[9], packet[4] << 8 | packet[5]) not in known.identifications:
        right = not checksum(packet[: (packet[0] & 15) * 4])
        packet[4:6] = MADE_UP.to_bytes(2, "big")
        if right:
            ipv4.seal(packet)


def _fragment_identification(packet: bytearray, known: Context) -> None:
    at = _fragment_header(packet)
    if at is not None and bytes(packet[at + 4 : at + 8]) not in known.fragments:
        packet[at + 4 : at + 8] = b"\xff\xff\xff\xff"


def _gue_port(packet: bytearray, known: Context) -> None:
    at = _transport(packet, 17)
    if at is not None and _source(packet) in known.own and packet[at + 2] << 8 | packet[at + 3] in known.gue:
        _set_source_port(packet, at, at + 6)


def _nat_port(packet: bytearray, known: Context) -> None:
    for protocol, check in ((6, 16), (17, 6)):
        at = _transport(packet, protocol)
        if at is not None and (port := packet[at] << 8 | packet[at + 1]) not in known.ports and port >= _LOWEST:
            _set_source_port(packet, at, at + check)
    at = _transport(packet, 132)
    if at is not None and packet[at] << 8 | packet[at + 1] not in known.ports:
        right = sctp.valid(packet, at)
        packet[at : at + 2] = MADE_UP.to_bytes(2, "big")
        if right:
            sctp.seal(packet, at)


def _set_source_port(packet: bytearray, at: int, check: int) -> None:
    """The checksum follows, right or wrong as it was; UDP's zero stays."""
    port = packet[at] << 8 | packet[at + 1]
    packet[at : at + 2] = MADE_UP.to_bytes(2, "big")
    before = packet[check : check + 2]
    if len(before) == 2 and any(before):
        packet[check : check + 2] = replaced(int.from_bytes(before, "big"), port, MADE_UP).to_bytes(2, "big")


def _inner(packet: bytearray, known: Context) -> None:
    # Sums over it stay as they are: an identification and the header's checksum change against each other.
    for port in known.gue or {tunnel.GUE_PORT}:
        at = tunnel.decapsulate(packet, port)
        if at is not None and at < len(packet) - 20:
            packet[at:] = masked(bytes(packet[at:]), known)
            return


def _quote(packet: bytearray, known: Context) -> None:
    at = _transport(packet, 1) or _transport(packet, 58)
    if at is None or not icmp.is_error(1 if packet[0] >> 4 == 4 else 58, packet[at]) or len(packet) < at + 28:
        return
    before = bytes(packet[at + 8 :])
    quoted = bytearray(masked(before, known))
    start = _transport(quoted, 6) or _transport(quoted, 17) or _transport(quoted, 132)
    if start is not None and (quoted[start + 2] << 8 | quoted[start + 3]) not in known.ports:
        # A packet on its way back, to a port that was translated.
        _set_quoted_port(quoted, start)
    if quoted != before:
        right = packet[at + 2 : at + 4] == _sealed(packet, at)
        packet[at + 8 :] = quoted
        if right:
            packet[at + 2 : at + 4] = _sealed(packet, at)


def _set_quoted_port(quoted: bytearray, start: int) -> None:
    """Put another destination port into a quoted packet, and nothing for the checksum that may have followed it."""
    quoted[start + 2 : start + 4] = MADE_UP.to_bytes(2, "big")
    if _transport(quoted, 132) is not None:
        quoted[start + 8 : start + 12] = bytes(len(quoted[start + 8 : start + 12]))
        return
    check = start + (16 if _transport(quoted, 6) is not None else 6)
    quoted[check : check + 2] = bytes(len(quoted[check : check + 2]))


def _sealed(packet: bytearray, at: int) -> bytes:
    """The checksum that an ICMP message should have."""
    message = packet[at:]
    icmp.seal(message, *_addresses(packet))
    return bytes(message[2:4])


def _transport(packet: bytearray, protocol: int) -> int | None:
    """Where the transport header of a protocol begins, in a whole packet or a first fragment."""
    if packet[0] >> 4 == 4:
        later = (packet[6] << 8 | packet[7]) & 0x1FFF
        at, found = (packet[0] & 15) * 4, packet[9]
    elif (start := _fragment_header(packet)) is not None:
        later = (packet[start + 2] << 8 | packet[start + 3]) & 0xFFF8
        at, found = start + 8, packet[start]
    else:
        later, at, found = 0, 40, packet[6]
    return at if found == protocol and not later and len(packet) >= at + 8 else None


def _addresses(packet: bytearray) -> tuple[bytes, bytes]:
    if packet[0] >> 4 == 4:
        return bytes(packet[12:16]), bytes(packet[16:20])
    return bytes(packet[8:24]), bytes(packet[24:40])


def _source(packet: bytearray) -> bytes:
    return _addresses(packet)[0]


MASKS = (
    Mask("IPv4 identification", "the kernel starts its counters at random (ip_select_ident)", _identification),
    Mask("IPv6 fragment identification", "random in the kernel (ipv6_select_ident)", _fragment_identification),
    Mask("inside of tunnels", "packets there are masked as those outside", _inner),
    Mask("packets that ICMP errors quote", "they are masked as the packets themselves were", _quote),
    Mask("GUE source port", "a hash of the flow with a random key (udp_flow_src_port)", _gue_port),
    Mask("translated source port", "random when the own one is taken (nf_nat_l4proto_unique_tuple)", _nat_port),
)


def masked(packet: bytes, known: Context) -> bytes:
    """A packet without what cannot be compared."""
    data = bytearray(packet)
    if len(data) >= 40 or (len(data) >= 20 and data[0] >> 4 == 4):
        for mask in MASKS:
            mask.apply(data, known)
    return bytes(data)


def plain_entry(entry: ConntrackEntry, known: Context) -> ConntrackEntry:
    """A conntrack entry without ports that were chosen at random."""
    own = ip_address(entry.source).packed in known.own
    if entry.protocol == "udp" and entry.destination_port in known.gue and own:
        return replace(entry, source_port=0, reply_destination_port=0)
    if entry.protocol in ("tcp", "udp", "sctp") and entry.reply_destination_port not in known.ports:
        return replace(entry, reply_destination_port=MADE_UP)
    return entry


def _fragment_header(packet: bytes | bytearray) -> int | None:
    """Where an IPv6 packet's fragment header is, if it is the first header."""
    if len(packet) >= 48 and packet[0] >> 4 == 6 and packet[6] == 44:
        return 40
    return None
