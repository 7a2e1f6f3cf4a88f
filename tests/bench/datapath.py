"""How fast the emulated datapath is: `python -m tests.bench.datapath [--connections N]`.

Ratios of one run on one core. The bare loop is what any Python program pays that forwards packets by address
translation: read the headers, write one address, repair two checksums. The director has the firewall of S14, conntrack
on and FTP's helper rule loaded; its packets are those of an open LVS-NAT connection, both ways.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import struct
import sys
import time
from collections.abc import Callable

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.skb import ACK, PSH, SYN
from ipvsctl.formats import iptables_save
from ipvsctl.formats.director_file import parse
from ipvsctl.knowledge.assumed import host_around
from ipvsctl.model.address import INET
from ipvsctl.wire import ipv4, tcp
from ipvsctl.wire.address import packed

VIRTUAL = packed("192.168.1.100")
SERVERS = [packed(f"10.0.2.{n}") for n in range(2, 10)]
CLIENTS, REAL = "eth0", "eth1"

DIRECTOR = """\
[nfct]
conntrack = true
[[service]]
address = "tcp:192.168.1.100:80"
scheduler = "rr"
""" + "".join(f'[[service.server]]\naddress = "10.0.2.{n}"\nforward = "nat"\n' for n in range(2, 10))

RULES = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -d 192.168.1.100/32 -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -d 192.168.1.100/32 -p tcp -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -d 192.168.1.100/32 -p tcp -m tcp --dport 80 -j ACCEPT
-A INPUT -d 192.168.1.100/32 -p tcp -j DROP
-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DROP
COMMIT
"""


def director() -> Engine:
    """The engine under test."""
    from dataclasses import replace

    snapshot, _ = host_around(parse(DIRECTOR, "bench"))
    snapshot = replace(snapshot, tables=iptables_save.parse(RULES, INET))
    return Engine(snapshot, random.Random(1).randrange)


def segment(
    source: bytes, destination: bytes, sport: int, dport: int, flags: int, seq: int, ack: int, data: bytes = b""
) -> bytes:
    """A TCP packet."""
    body = tcp.build(source, destination, sport, dport, flags, seq, ack, 64240, data)
    return bytes(ipv4.build(source, destination, 6, body, df=True))


def client(number: int) -> tuple[bytes, int]:
    """The nth client's address and port: every one another connection."""
    return struct.pack(">I", 0x0A010000 + number // 50000), 1024 + number % 50000


def bare(packet: bytes, address: bytes, new: int) -> bytes:
    """Parse, rewrite one address, fix two checksums; nothing else."""
    head = struct.unpack("!BBHHHBBHII", packet[:20])
    at = (head[0] & 15) * 4
    transport = struct.unpack("!HHIIBBHHH", packet[at : at + 20])
    old = head[9]
    change = (new >> 16) + (new & 0xFFFF) - (old >> 16) - (old & 0xFFFF)
    data = bytearray(packet)
    data[16:20] = address
    for offset, check in ((10, head[7]), (at + 16, transport[7])):
        total = (check ^ 0xFFFF) + change
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", data, offset, total ^ 0xFFFF)
    return bytes(data)


def best(run: Callable[[], int], times: int = 5) -> float:
    """Packets a second, the best of several runs."""
    found = 0.0
    for _ in range(times):
        start = time.perf_counter()
        count = run()
        found = max(found, count / (time.perf_counter() - start))
    return found


def established(connections: int = 200, packets: int = 100_000) -> tuple[float, float]:
    """Packets a second of open connections: the bare loop and the director."""
    engine = director()
    now = 1.0
    flows = []
    for number in range(connections):
        address, port = client(number)
        engine.receive(CLIENTS, segment(address, VIRTUAL, port, 80, SYN, 1000, 0), now)
        server = engine.outputs[0].packet[16:20]
        engine.receive(REAL, segment(server, address, 80, port, SYN | ACK, 5000, 1001), now)
        engine.receive(CLIENTS, segment(address, VIRTUAL, port, 80, ACK, 1001, 5001), now)
        flows.append((address, port, server))
    rounds = packets // (2 * connections)
    # Each round every client and every server sends 100 bytes more, and acknowledges what it has got.
    stream = []
    for turn in range(rounds):
        mine, theirs = 1001 + 100 * turn, 5001 + 100 * turn
        for address, port, server in flows:
            up = segment(address, VIRTUAL, port, 80, PSH | ACK, mine, theirs, b"x" * 100)
            down = segment(server, address, 80, port, PSH | ACK, theirs, mine + 100, b"y" * 100)
            stream += [(CLIENTS, up), (REAL, down)]
    new = int.from_bytes(SERVERS[0], "big")

    def bare_run() -> int:
        for _, packet in stream:
            bare(packet, SERVERS[0], new)
        return len(stream)

    def director_run() -> int:
        receive, at = engine.receive, now
        for device, packet in stream:
            at += 0.00001
            receive(device, packet, at)
        return len(stream)

    rates = best(bare_run), best(director_run, 1)
    assert not engine.drops, engine.drops
    return rates


def opening(connections: int) -> None:
    """New connections a second while the table grows, memory for each, and the longest stall when all of them end."""
    engine = director()
    gc.collect()
    gc.freeze()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now, step = 1.0, max(connections // 10, 1000)
    for first in range(0, connections, step):
        packets = [segment(*_from(number), SYN, 1000, 0) for number in range(first, min(first + step, connections))]
        start = time.perf_counter()
        for packet in packets:
            now += 1e-6
            engine.receive(CLIENTS, packet, now)
        rate = len(packets) / (time.perf_counter() - start)
        print(f"  {first + len(packets):>9,} connections: {rate:>9,.0f} new ones a second")
    assert len(engine.vs.conns) == connections, len(engine.vs.conns)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  memory: {(after - before) * 1024 / connections:,.0f} bytes a connection (conntrack included)")
    longest, polls, total = 0.0, 0, time.perf_counter()
    at = now + 1000
    while engine.poll_at() is not None and (len(engine.vs.conns) or engine.ct.count):
        start = time.perf_counter()
        engine.poll(at)
        longest = max(longest, time.perf_counter() - start)
        polls += 1
        at += 0.001
    total = time.perf_counter() - total
    print(f"  expiry: {polls:,} polls in {total:.1f} s, the longest {longest * 1000:.1f} ms")


def _from(number: int) -> tuple[bytes, bytes, int, int]:
    address, port = client(number)
    return address, VIRTUAL, port, 80


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.datapath")
    parser.add_argument("--connections", type=int, default=100_000, help="how many to open (default: 100,000)")
    options = parser.parse_args(arguments)
    bare_rate, rate = established()
    print("established LVS-NAT TCP with conntrack and the rules of S14, packets a second:")
    print(f"  bare loop {bare_rate:,.0f}, director {rate:,.0f}: {rate / bare_rate:.2f} x")
    print("new connections:")
    opening(options.connections)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
