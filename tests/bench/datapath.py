"""How fast the emulated datapath is: `python -m tests.bench.datapath [--connections N] [--data N] [--rounds N]`.

Processor time of one core (best: `taskset -c 1`). Ratios are of the best of many turns of both sides, which alternate;
memory is that of a process that has done nothing else. A million connections take 1.2 GB and two minutes.

The bare loop is what any Python program pays that forwards packets by address translation: read the headers, write one
address, repair two checksums. The director has the firewall of S14, conntrack on and FTP's helper rule loaded; its
packets are those of open LVS-NAT connections, both ways. It verifies both checksums of each, which for long packets is
most of the work; the bare loop verifies nothing.

The cyclic garbage collector is held off while the clock runs. Whoever lets an engine run for long must mind it too. A
connection makes about ten objects and no cycle, so all of them are freed as they end, without the collector; but its
full runs look at every object there is, 0.1 s and more for each 100,000 connections, at a moment of their choosing. So
call `gc.freeze()` when the engine is set up, and `gc.set_threshold(100_000, 50, 1_000_000)` or `gc.disable()`.
"""

from __future__ import annotations

import argparse
import gc
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
DATA = 100
"""Bytes of each of the three segments that a talking connection sends each way."""

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

Packet = tuple[str, bytes]


def director(most: int = 262_144) -> Engine:
    """The engine under test, with room for so many conntrack entries."""
    snapshot, _ = host_around(parse(DIRECTOR, "bench"))
    sysctls = {**snapshot.sysctls, "net.netfilter.nf_conntrack_max": str(most)}
    snapshot = replace(snapshot, tables=iptables_save.parse(RULES, INET), sysctls=sysctls)
    return Engine(snapshot, random.Random(1).randrange)


def segment(
    source: bytes, destination: bytes, sport: int, dport: int, flags: int, seq: int, ack: int, data: bytes = b"",
    stamp: int = 0,
) -> bytes:  # fmt: skip
    """A TCP packet; `stamp`, unless it is 0, is its timestamp."""
    options = struct.pack(">IQ", 0x0101080A, stamp) if stamp else b""
    seq, ack = seq & 0xFFFFFFFF, ack & 0xFFFFFFFF
    body = tcp.build(source, destination, sport, dport, flags, seq, ack, 64240, data, options)
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


class Talk:
    """An open connection: both ends' next sequence numbers."""

    def __init__(self, engine: Engine, number: int, now: float, stamp: int = 0) -> None:
        self.address, self.port = client(number)
        chance = random.Random(number)
        self.mine, self.theirs = chance.getrandbits(32), chance.getrandbits(32)
        self.stamp = stamp
        engine.receive(CLIENTS, self.up(SYN), now)
        self.mine += 1
        self.server = engine.outputs[0].packet[16:20]
        engine.receive(REAL, self.down(SYN | ACK), now)
        self.theirs += 1
        engine.receive(CLIENTS, self.up(ACK), now)

    def up(self, flags: int, data: bytes = b"") -> bytes:
        """The client's next packet."""
        packet = segment(
            self.address, VIRTUAL, self.port, 80, flags, self.mine, self.theirs if flags & ACK else 0, data, self.stamp
        )  # fmt: skip
        self.mine += len(data)
        return packet

    def down(self, flags: int, data: bytes = b"") -> bytes:
        """The server's next packet."""
        packet = segment(self.server, self.address, 80, self.port, flags, self.theirs, self.mine, data, self.stamp)
        self.theirs += len(data)
        return packet


def rate(run: Callable[[list[Packet]], None], stream: list[Packet]) -> float:
    """Packets a second of one run."""
    start = time.process_time()
    run(stream)
    return len(stream) / (time.process_time() - start)


def established(size: int, stamp: int, rounds: int, connections: int = 200) -> tuple[float, float]:
    """Packets a second of open connections that send `size` bytes in turn: the bare loop and the director."""
    engine = director()
    now = 1.0
    talks = [Talk(engine, number, now, stamp) for number in range(connections)]
    new = int.from_bytes(SERVERS[0], "big")

    def bare_run(stream: list[Packet]) -> None:
        for _, packet in stream:
            bare(packet, SERVERS[0], new)

    def director_run(stream: list[Packet]) -> None:
        receive, at = engine.receive, now
        for device, packet in stream:
            at += 0.00001
            receive(device, packet, at)

    payload = random.Random(size).randbytes(size)
    bests = {bare_run: 0.0, director_run: 0.0}
    for turn in range(rounds + 1):
        stream: list[Packet] = []
        # So few that they are in the processor's cache, as packets are that were just read.
        for _ in range(4):
            for talk in talks:
                stream.append((CLIENTS, talk.up(PSH | ACK, payload)))
                stream.append((REAL, talk.down(PSH | ACK, payload)))
        gc.collect()
        gc.freeze()
        gc.disable()
        for run in (bare_run, director_run) if turn & 1 else (director_run, bare_run):
            found = rate(run, stream)
            if turn:  # The first time each direction is learnt.
                bests[run] = max(bests[run], found)
        gc.enable()
        gc.unfreeze()
        now += len(stream) * 0.00001
    assert not engine.drops, engine.drops
    return bests[bare_run], bests[director_run]


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def opening(connections: int, data: bool) -> None:
    """New connections a second while the table grows, memory for each, and the longest stall when all of them end."""
    engine = director(2 * connections)
    gc.collect()
    gc.freeze()
    gc.disable()
    before = resident()
    now, step = 1.0, max(connections // 10, 1000)
    for first in range(0, connections, step):
        numbers = range(first, min(first + step, connections))
        if data:
            for number in numbers:
                now += 1e-6
                talk = Talk(engine, number, now)
                for _ in range(3):
                    engine.receive(CLIENTS, talk.up(PSH | ACK, bytes(DATA)), now)
                    engine.receive(REAL, talk.down(PSH | ACK, bytes(DATA)), now)
            continue
        packets = [segment(*_from(number), SYN, 1000, 0) for number in numbers]
        start = time.process_time()
        for packet in packets:
            now += 1e-6
            engine.receive(CLIENTS, packet, now)
        print(
            f"  {numbers.stop:>9,} connections: {len(packets) / (time.process_time() - start):>9,.0f} new ones a second"
        )
    assert len(engine.vs.conns) == engine.ct.count == connections, (len(engine.vs.conns), engine.ct.count)
    print(f"  memory: {(resident() - before) / connections:,.0f} bytes a connection (conntrack included)")
    longest, polls, total = 0.0, 0, time.process_time()
    at = now + 1000
    while engine.poll_at() is not None and (len(engine.vs.conns) or engine.ct.count):
        start = time.process_time()
        engine.poll(at)
        longest = max(longest, time.process_time() - start)
        polls += 1
        at += 0.001
    total = time.process_time() - total
    print(f"  expiry: {polls:,} polls in {total:.1f} s, the longest {longest * 1000:.1f} ms")
    found = gc.collect()
    print(f"  left for the garbage collector: {found} objects")
    gc.enable()
    gc.unfreeze()


def _from(number: int) -> tuple[bytes, bytes, int, int]:
    address, port = client(number)
    return address, VIRTUAL, port, 80


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.datapath")
    parser.add_argument("--connections", type=int, default=100_000, help="how many to open (default: 100,000)")
    parser.add_argument(
        "--data", type=int, default=50_000, help="how many of them that say something (default: 50,000)"
    )
    parser.add_argument("--rounds", type=int, default=50, help="how often to measure established ones (default: 50)")
    parser.add_argument("--open", choices=("silent", "talking"), help="do nothing but open connections of this kind")
    options = parser.parse_args(arguments)
    if options.open:
        opening(options.connections, options.open == "talking")
        return 0
    print("established LVS-NAT TCP with conntrack and the rules of S14, packets a second:")
    for text, size, stamp in (
        ("100 bytes", 100, 0), ("100 bytes, timestamps", 100, 1), ("1,460 bytes", 1460, 0),
    ):  # fmt: skip
        bare_rate, rate = established(size, stamp, options.rounds)
        print(f"  {text}: bare loop {bare_rate:,.0f}, director {rate:,.0f}: {rate / bare_rate:.2f} x")
    for text, kind, count in (
        ("new connections", "silent", options.connections), ("established ones that have said something", "talking",
         options.data),
    ):  # fmt: skip
        print(f"{text}, {count:,}:", flush=True)
        command = [sys.executable, "-m", "tests.bench.datapath", "--open", kind, "--connections", str(count)]
        subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
