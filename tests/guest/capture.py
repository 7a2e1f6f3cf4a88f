"""A capture of every device of a namespace, both ways: `python -m tests.guest.capture OUT.pcapng`, until SIGTERM.

Packets are taken by AF_PACKET from the IP header on; the socket's packet type tells what was sent and what came in, and
one socket for all devices keeps the order in which the kernel handled them. They are copied into a ring at once: a
packet that waits in a socket's queue shares its bytes with the one that goes on, and when fragments leave the kernel
writes their new headers into both.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from ipvsctl.formats.pcapng import Writer

_SIOCETHTOOL = 0x8946
_ETHTOOL_SET = {"rx checksums": 0x15, "tx checksums": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
_ETH_P_ALL = 3
_IP = (0x0800, 0x86DD)
_OTHER_HOST, _OUTGOING = 3, 4

# include/uapi/linux/if_packet.h
_SOL_PACKET, _RX_RING, _STATISTICS, _VERSION = 263, 5, 6, 10
_TPACKET_V2 = 1
_FRAME, _FRAMES, _BLOCK = 2048, 16384, 1 << 16
_HEADER = struct.Struct("=IIIHHII8xxxHiHB")
"""tpacket2_hdr (status, lengths on the wire and here, offsets, seconds, nanoseconds) and sockaddr_ll behind it."""
_KERNEL, _USER = 0, 1


def whole_packets() -> None:
    """Turn every offload off on the devices of this namespace: a capture shows packets as a wire would have them.

    On veth a sender leaves checksums to the hardware that is not there, and segments to be cut that nobody cuts.
    """
    with socket.socket() as handle:
        for name in _devices().values():
            for command in _ETHTOOL_SET.values():
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                request = struct.pack("16sP16x", name.encode(), ctypes.addressof(value))
                fcntl.ioctl(handle, _SIOCETHTOOL, request)


def _devices() -> dict[int, str]:
    """The lab's devices; beside them there are lo and what tunnel modules bring."""
    return {index: name for index, name in socket.if_nameindex() if name.startswith("eth")}


def capture(path: Path) -> int:
    """Write every IP packet to a file until SIGTERM; how many the kernel could not keep for us."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    everything = socket.htons(_ETH_P_ALL)
    with path.open("wb") as file, socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, everything) as handle:
        handle.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        size = _FRAME * _FRAMES
        handle.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("=IIII", _BLOCK, size // _BLOCK, _FRAME, _FRAMES))
        with mmap.mmap(handle.fileno(), size) as ring:
            devices = _devices()
            writer = Writer(file, devices.values())
            print("ready", flush=True)
            number = 0
            while True:
                last = bool(ended)
                select.select([handle], [], [], 0.1)
                for packet in _packets(ring, number):
                    number += 1
                    _write(writer, devices, packet)
                if last:
                    break
        _, lost = struct.unpack("=II", handle.getsockopt(_SOL_PACKET, _STATISTICS, 8))
    return int(lost)


def _packets(ring: mmap.mmap, number: int) -> Iterator[bytes]:
    """The frames that the kernel has filled, from the one of that number on; each is given back."""
    while True:
        at = number % _FRAMES * _FRAME
        if not struct.unpack_from("=I", ring, at)[0] & _USER:
            return
        yield ring[at : at + _FRAME]
        struct.pack_into("=I", ring, at, _KERNEL)
        number += 1


def _write(writer: Writer, devices: dict[int, str], frame: bytes) -> None:
    _, length, size, _, at, seconds, nanoseconds, protocol, index, _, kind = _HEADER.unpack_from(frame)
    if index not in devices or socket.ntohs(protocol) not in _IP or kind == _OTHER_HOST:
        return
    assert length == size, "a packet does not fit in the ring's frames"
    time = seconds * 10**9 + nanoseconds
    writer.write(time, frame[at : at + size], devices[index], outgoing=kind == _OUTGOING)


if __name__ == "__main__":
    whole_packets()
    sys.exit(f"{lost} packets were lost" if (lost := capture(Path(sys.argv[1]))) else 0)
