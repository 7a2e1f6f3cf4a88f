"""A capture of every device of a namespace, both ways: `python -m tests.guest.capture OUT.pcapng`, until SIGTERM.

Packets are taken by AF_PACKET from the IP header on; the socket's packet type tells what was sent and what came in, and
one socket for all devices keeps the order in which the kernel handled them.
"""

from __future__ import annotations

import fcntl
import signal
import socket
import struct
import sys
from pathlib import Path

from ipvsctl.formats.pcapng import Writer

_SIOCETHTOOL = 0x8946
_ETHTOOL_SET = {"rx checksums": 0x15, "tx checksums": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
_ETH_P_ALL = 3
_IP = (0x0800, 0x86DD)
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_OTHER_HOST, _OUTGOING = 3, 4
_BUFFER = 64 << 20


def whole_packets() -> None:
    """Turn every offload off on the devices of this namespace: a capture shows packets as a wire would have them.

    On veth a sender leaves checksums to the hardware that is not there, and segments to be cut that nobody cuts.
    """
    with socket.socket() as handle:
        for name in _devices():
            for command in _ETHTOOL_SET.values():
                value = bytearray(struct.pack("=II", command, 0))
                pointer = struct.pack("16sP", name.encode(), _address(value))
                fcntl.ioctl(handle, _SIOCETHTOOL, pointer + bytes(16))


def _devices() -> list[str]:
    """The lab's devices; beside them there are lo and what tunnel modules bring."""
    return [name for _, name in socket.if_nameindex() if name.startswith("eth")]


def _address(value: bytearray) -> int:
    import ctypes

    return ctypes.addressof((ctypes.c_char * len(value)).from_buffer(value))


def capture(path: Path) -> int:
    """Write every IP packet to a file until SIGTERM; how many the kernel could not keep for us."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    everything = socket.htons(_ETH_P_ALL)
    with path.open("wb") as file, socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, everything) as handle:
        handle.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        handle.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        handle.settimeout(0.1)
        writer = Writer(file, _devices())
        print("ready", flush=True)
        while True:
            last = bool(ended)
            try:
                while True:
                    _take(handle, writer)
            except TimeoutError:
                if last:
                    break
        _, lost = struct.unpack("=II", handle.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(lost)


def _take(handle: socket.socket, writer: Writer) -> None:
    data, ancillary, _, (device, protocol, kind, *_) = handle.recvmsg(65536, 64)
    if device == "lo" or protocol not in _IP or kind == _OTHER_HOST:
        return
    seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
    writer.write(seconds * 10**9 + nanoseconds, data, device, outgoing=kind == _OUTGOING)


if __name__ == "__main__":
    whole_packets()
    sys.exit(f"{lost} packets were lost" if (lost := capture(Path(sys.argv[1]))) else 0)
