"""The hosts around a director that is being made up: they hear what it sends them, and answer by that."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ipvsctl.datapath.flows import Output
from ipvsctl.wire import tunnel

_REMEMBERED = 400


class Heard(NamedTuple):
    """A packet that reached a host, taken out of its tunnel; source and destination with their ports."""

    device: str
    packet: bytes
    protocol: int
    source: tuple[bytes, int]
    destination: tuple[bytes, int]


class Net:
    """Remembers what left the director lately."""

    def __init__(self, gue: int = tunnel.GUE_PORT) -> None:
        self.gue = gue
        self.last: list[Heard] = []
        self.log: deque[Heard] = deque(maxlen=_REMEMBERED)
        self.wire: deque[tuple[str, bytes]] = deque(maxlen=_REMEMBERED)
        self._identification = 0

    def identification(self) -> int:
        """A new IPv4 identification; small, so that one of the director's own is hardly ever the same."""
        self._identification += 1
        return self._identification

    def take(self, outputs: Sequence[Output]) -> None:
        """What left the director because of the last packet."""
        self.last = []
        for output in outputs:
            packet = output.packet
            self.wire.append((output.device, packet))
            at = tunnel.decapsulate(packet, self.gue)
            if at is not None:
                packet = packet[at:]
            heard = _heard(output.device, packet)
            if heard is not None:
                self.last.append(heard)
                self.log.append(heard)

    def heard(self, port: int, protocol: int, to_client: bool = False) -> Heard | None:
        """What arrived of the last packet, which was sent from a port; or to it, at a client.

        None when its port was translated: to which, the kernel would throw dice for, so nobody could answer.
        """
        for each in reversed(self.last):
            if each.protocol == protocol and port == (each.destination if to_client else each.source)[1]:
                return each
        return None


def _heard(device: str, packet: bytes) -> Heard | None:
    if len(packet) < 28 or (packet[0] >> 4 == 6 and len(packet) < 48):
        return None
    if packet[0] >> 4 == 4:
        if (packet[6] << 8 | packet[7]) & 0x1FFF:
            return None
        at, protocol, source, destination = (packet[0] & 15) * 4, packet[9], packet[12:16], packet[16:20]
    else:
        at, protocol, source, destination = 40, packet[6], packet[8:24], packet[24:40]
    ports = packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3]
    return Heard(device, packet, protocol, (source, ports[0]), (destination, ports[1]))
