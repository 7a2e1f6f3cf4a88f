"""The other ends of a director's devices, in the guest: frames in, frames out, and who has which link address.

One namespace of a worker holds the peers of all its directors' devices. They have no addresses: a single packet socket
sends and catches everything, and answers who is asked for by ARP or neighbour discovery (only hosts that were not
foreseen; the others are known to the director for good). A host's link address is made of its IP address, so that the
destination of a frame tells the next hop.
"""

from __future__ import annotations

import select
import socket
import struct
from hashlib import blake2b

Caught = list[tuple[str, bytes, bytes]]

_PACKET = 263
_IGNORE_OUTGOING = 23
_RCVBUFFORCE = 33
_ALL = 3
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD

GRACE = 2
"""Milliseconds without a frame after which a director has nothing more to say. Packets are through the kernel before
the call that sends them returns; only a softirq that was put off needs this."""


def link_address(host: bytes) -> bytes:
    """A host's link address."""
    return b"\2\4" + host if len(host) == 4 else b"\2\6" + blake2b(host, digest_size=4).digest()


class Port:
    """A director's device as its peer sees it. `caught` is the director's list of (device, packet, next hop)."""

    def __init__(
        self, wire: Wire, device: str, peer: str, mac: bytes, hosts: list[str] | None, caught: Caught
    ) -> None:  # fmt: skip
        self.wire = wire
        self.device = device
        self.peer = peer
        self.mac = mac
        self.hosts = None if hosts is None else {_packed(host) for host in hosts}
        self.caught = caught

    def send(self, packet: bytes) -> None:
        """A packet to the director."""
        version = packet[0] >> 4 if packet else 4
        mac = self.mac
        if version == 4 and len(packet) >= 20 and (packet[16] & 0xF0 == 0xE0 or packet[16:20] == b"\xff" * 4):
            target = packet[16:20]
            mac = b"\xff" * 6 if target == b"\xff" * 4 else b"\1\0\x5e" + bytes((target[1] & 127,)) + target[2:]
        elif version == 6 and len(packet) >= 40 and packet[24] == 255:
            mac = b"\x33\x33" + packet[36:40]
        self.wire.send(self.peer, mac, _IPV6 if version == 6 else _IPV4, packet)


class Wire:
    """The packet socket of the namespace that this thread is in."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self.socket.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 32 << 20)
        self.socket.setblocking(False)
        self.poll = select.poll()
        self.poll.register(self.socket, select.POLLIN)
        self.ports: dict[str, Port] = {}
        self.known: dict[bytes, bytes] = {}

    def link_address(self, host: bytes) -> bytes:
        """A host's link address, remembered."""
        mac = link_address(host)
        self.known[mac] = host
        return mac

    def send(self, peer: str, mac: bytes, kind: int, packet: bytes) -> None:
        self.socket.sendto(mac + b"\2\2\0\0\0\1" + struct.pack("!H", kind) + packet, (peer, kind))

    def collect(self) -> None:
        """Take all frames until there are no more; each goes to its director's list."""
        while self.poll.poll(GRACE):
            while True:
                try:
                    frame, origin = self.socket.recvfrom(1 << 16)
                except BlockingIOError:
                    break
                except OSError:
                    # A device that has just gone leaves its error in the socket.
                    continue
                port = self.ports.get(origin[0])
                if port is not None:
                    self._take(port, frame)

    def _take(self, port: Port, frame: bytes) -> None:
        kind = frame[12] << 8 | frame[13]
        packet = frame[14:]
        if kind == _ARP:
            self._answer_arp(port, frame)
        elif kind == _IPV4:
            port.caught.append((port.device, packet, self._next_hop(frame[:6], packet[16:20])))
        elif kind == _IPV6 and not self._is_discovery(port, packet):
            port.caught.append((port.device, packet, self._next_hop(frame[:6], packet[24:40])))

    def _next_hop(self, mac: bytes, destination: bytes) -> bytes:
        # To a group or to all: there is no neighbour, the packet's own destination stands for it.
        return destination if mac[0] & 1 else self.known.get(mac, b"")

    def _answer_arp(self, port: Port, frame: bytes) -> None:
        if frame[20:22] != b"\0\1" or (port.hosts is not None and frame[38:42] not in port.hosts):
            return
        mac = self.link_address(frame[38:42])
        answer = frame[14:20] + b"\0\2" + mac + frame[38:42] + frame[22:32]
        self.socket.sendto(port.mac + mac + b"\x08\x06" + answer, (port.peer, _ARP))

    def _is_discovery(self, port: Port, packet: bytes) -> bool:
        """Whether a packet is the host's own housekeeping on the link, which is answered and not caught."""
        if packet[6] == 0 and packet[40:41] == b":" and packet[24] == 255:
            return True  # Multicast listener reports, behind a router alert.
        if packet[6] != 58 or len(packet) < 64 or packet[7] != 255:
            return False
        if packet[40] == 135 and (port.hosts is None or packet[48:64] in port.hosts):
            target = packet[48:64]
            mac = self.link_address(target)
            body = b"\x88\0\0\0\x60\0\0\0" + target + b"\2\1" + mac
            source, destination = target, packet[8:24]
            pseudo = source + destination + struct.pack("!II", len(body), 58)
            check = _checksum(pseudo + body)
            body = body[:2] + struct.pack("!H", check) + body[4:]
            head = b"\x60\0\0\0" + struct.pack("!HBB", len(body), 58, 255) + source + destination
            self.socket.sendto(port.mac + mac + b"\x86\xdd" + head + body, (port.peer, _IPV6))
        return packet[40] in (133, 134, 135, 136, 137)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
