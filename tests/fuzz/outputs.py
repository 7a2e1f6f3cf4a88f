"""What must hold of every packet that leaves: whole headers, right lengths and checksums, no larger than the link."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire import ipv4, tunnel
from ipvsctl.wire.checksum import correct
from ipvsctl.wire.transport import verify
from tests.fuzz.mutate import transport
from tests.fuzz.places import GUE

_LARGEST_ROUTE = 1400
"""The MTU that some routes of worlds.py have."""


def right(packet: bytes) -> bool:
    """Whether a packet that is no fragment has a right transport checksum; lengths and the IP header are whole."""
    four = packet[:1] and packet[0] >> 4 == 4
    if four and len(packet) >= 20:
        packet = packet[: int.from_bytes(packet[2:4], "big")]
    elif len(packet) >= 40:
        packet = packet[: 40 + int.from_bytes(packet[4:6], "big")]
    protocol, at = transport(packet)
    if protocol < 0 or at > len(packet):
        return False
    if protocol == 1 and not any(packet[at:]):
        return True  # All zeros: its checksum is 0xffff or, after a change that made it so, 0, here and in the kernel.
    if four:
        return verify(packet, INET, protocol, at, packet[12:16], packet[16:20])
    return verify(packet, INET6, protocol, at, packet[8:24], packet[24:40])


def has_odd_mss(packet: bytes) -> bool:
    """Whether a segment's MSS option begins at an odd byte: xt_TCPMSS.c then makes the checksum wrong, and so do we."""
    protocol, at = transport(packet)
    if protocol != 6 or len(packet) < at + 20:
        return False
    options = packet[at + 20 : at + (packet[at + 12] >> 4) * 4]
    return b"\2\4" in (options[place : place + 2] for place in range(1, len(options), 2))


def is_fragment(packet: bytes) -> bool:
    """Whether a packet says that it is a piece of another."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        return bool((packet[6] << 8 | packet[7]) & 0x3FFF)
    return transport(packet)[0] == 44


def wrong(engine: Engine, outputs: Sequence[Output], sound: bool, given: bytes) -> Iterator[str]:
    """What is wrong with what left; `sound`: what came in was right, so that all that leaves must be.

    `given` is what came in: what leaves in a tunnel may be just that, and is looked at inside.
    """
    for output in outputs:
        found = _header(engine, output)
        if found:
            yield f"{found}: {output.device} {output.packet.hex()}"
        elif sound and not is_fragment(output.packet):
            found = _checksums(output.packet, given)
            if found:
                yield f"{found}: {output.device} {output.packet.hex()}"
    if sound:
        for whole in _joined(outputs):
            if not right(whole):
                yield f"its fragments make a packet with a wrong transport checksum: {whole.hex()}"


def _header(engine: Engine, output: Output) -> str:
    packet = output.packet
    device = engine.routing.devices.get(output.device)
    if device is None:
        return "leaves by an unknown device"
    # A route's own MTU counts even when it is larger than the device's (ip_dst_mtu_maybe_forward).
    mtu = max(device.mtu, _LARGEST_ROUTE)
    if len(packet) > mtu:
        return f"{len(packet)} bytes are more than the MTU of {mtu}"
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        if packet[0] & 15 < 5 or (packet[0] & 15) * 4 > len(packet):
            return "broken header length"
        if int.from_bytes(packet[2:4], "big") != len(packet):
            return f"it says {int.from_bytes(packet[2:4], 'big')} bytes but has {len(packet)}"
        if not ipv4.valid(packet):
            return "wrong header checksum"
        return "" if len(output.next_hop) in (4, 16) else "no next hop"
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        if int.from_bytes(packet[4:6], "big") + 40 != len(packet):
            return f"it says {int.from_bytes(packet[4:6], 'big') + 40} bytes but has {len(packet)}"
        return "" if len(output.next_hop) in (4, 16) else "no next hop"
    return "no IP packet"


def _checksums(packet: bytes, given: bytes) -> str:
    if not right(packet):
        return "wrong transport checksum"
    protocol, at = transport(packet)
    summed = protocol == tunnel.GRE and packet[at : at + 1] == b"\x80" and tunnel.gre_header(packet, at)
    if summed and not correct(packet[at:]) and transport(given)[0] != tunnel.GRE:
        return "wrong GRE checksum"
    inner = tunnel.decapsulate(packet, GUE)
    if inner is None or tunnel.decapsulate(given, GUE) is not None or is_fragment(packet[inner:]):
        return ""
    if protocol == tunnel.UDP and packet[at + 8] & 31:
        return ""  # Remote checksum offload: the inner checksum is the receiver's to make.
    return "" if right(packet[inner:]) else "wrong transport checksum inside a tunnel"


def _joined(outputs: Sequence[Output]) -> Iterator[bytes]:
    """The packets that the fragments among the outputs make, where all of them are there."""
    pieces: dict[bytes, list[tuple[int, bool, bytes, bytes]]] = {}
    for output in outputs:
        packet = output.packet
        if packet[0] >> 4 == 4:
            word = packet[6] << 8 | packet[7]
            if word & 0x3FFF:
                length = (packet[0] & 15) * 4
                start = packet[:6] + b"\0\0" + packet[8:length]
                pieces.setdefault(packet[4:6] + packet[9:10] + packet[12:20], []).append(
                    ((word & 0x1FFF) * 8, bool(word & 0x2000), start, packet[length:])
                )
        else:
            protocol, at = transport(packet)
            if protocol == 44 and len(packet) >= at + 8:
                word = packet[at + 2] << 8 | packet[at + 3]
                header = bytearray(packet[:at])
                field, place = 6, 40
                while place < at:
                    field, place = (
                        place,
                        place + ((packet[place + 1] + 2) * 4 if packet[field] == 51 else (packet[place + 1] + 1) * 8),
                    )
                header[field] = packet[at]
                pieces.setdefault(packet[at + 4 : at + 8] + packet[8:40], []).append(
                    (word & 0xFFF8, bool(word & 1), bytes(header), packet[at + 8 :])
                )
    for found in pieces.values():
        found.sort(key=lambda piece: piece[0])
        body = b""
        for begin, _, _, payload in found:
            if begin != len(body):
                break
            body += payload
        else:
            if not found[-1][1]:
                whole = bytearray(found[0][2] + body)
                if len(whole) <= 65535:
                    at, length = (2, len(whole)) if whole[0] >> 4 == 4 else (4, len(whole) - 40)
                    whole[at : at + 2] = length.to_bytes(2, "big")
                    yield bytes(whole)
