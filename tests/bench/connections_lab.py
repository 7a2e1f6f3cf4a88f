"""A director with very many connections, in namespaces of the guest's kernel: what the bench and the tests list.

Clients are one raw socket that forges addresses and ports; the real servers' packets end in a dummy device.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VIP, SERVER, PORT = "192.168.1.100", "10.0.2.2", 53
PER_CLIENT = 50_000

SETUP = """\
ip netns add {client}
ip netns add {director}
ip -n {client} link set lo up
ip -n {director} link set lo up
ip link add eth0 netns {director} type veth peer eth0 netns {client}
ip -n {client} addr add 10.0.1.2/24 dev eth0
ip -n {director} addr add 10.0.1.1/24 dev eth0
ip -n {director} addr add {vip}/32 dev eth0
ip -n {client} link set eth0 up
ip -n {director} link set eth0 up
ip -n {client} route add default via 10.0.1.1
ip -n {director} link add eth1 type dummy
ip -n {director} addr add 10.0.2.1/24 dev eth1
ip -n {director} link set eth1 up
ip netns exec {director} sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
"""


def on(namespace: str, *words: str) -> str:
    done = subprocess.run(["ip", "netns", "exec", namespace, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@contextmanager
def director(tag: str) -> Iterator[tuple[str, str]]:
    """The names of the namespaces of clients and director; both are gone afterwards."""
    client, name = f"{tag}-cl", f"{tag}-dir"
    try:
        for line in SETUP.format(client=client, director=name, vip=VIP).splitlines():
            subprocess.run(line.split(), check=True, capture_output=True, timeout=60)
        on(name, "ipvsadm", "-A", "-u", f"{VIP}:{PORT}", "-s", "rr")
        on(name, "ipvsadm", "-a", "-u", f"{VIP}:{PORT}", "-r", SERVER, "-m")
        yield client, name
    finally:
        for each in (client, name):
            subprocess.run(["ip", "netns", "delete", each], capture_output=True, timeout=60)


def send(count: int, port: int = PORT, first: int = 0) -> None:
    """Send a UDP packet of each of so many clients, from the one of a number on: each makes a connection."""
    destination = socket.inet_aton(VIP)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(first, first + count):
            source = bytes((10, 0, 1, 2 + number // PER_CLIENT))
            header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, source, destination)
            udp = struct.pack(">HHHHs", 10_000 + number % PER_CLIENT, port, 9, 0, b"x")
            raw.sendto(header + udp, (VIP, 0))


def fill(client: str, count: int, port: int = PORT, first: int = 0) -> None:
    """Make so many connections through the director."""
    on(client, sys.executable, "-m", "tests.bench.connections_lab", str(count), str(port), str(first))


if __name__ == "__main__":
    send(*map(int, sys.argv[1:]))
