"""Rules on an engine: a host with eth0 and eth1, rules as iptables-save text, and packets that are shown to a chain."""

from __future__ import annotations

from random import Random
from typing import Any

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.hooks import HOOK_NAMES
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Verdict
from ipvsctl.formats.iptables_save import parse
from ipvsctl.model.address import INET
from ipvsctl.model.route import Route
from ipvsctl.model.snapshot import Device, SavedTable, Snapshot
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, udp
from ipvsctl.wire.address import packed

CLIENT, SERVER = "10.0.0.2", "192.168.1.100"
CLIENT6, SERVER6 = "fd10::2", "fd20::100"
SNAPSHOT = Snapshot(
    devices=(
        Device("eth0", ("10.0.0.1/24", "fd10::1/64")),
        Device("eth1", ("192.168.1.1/24", "fd20::1/64"), mtu=1400),
    ),
    routes=(Route("0.0.0.0/0", via="10.0.0.254"), Route("::/0", "eth0", "fd10::fe")),
    sysctls={"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"},
)


def engine(*rules: str, table: str = "filter", family: int = INET) -> Engine:
    """An engine with one table; `rules` are lines of iptables-save."""
    made = Engine(SNAPSHOT, Random(7).randrange)
    if rules:
        load(made, *rules, table=table, family=family)
    return made


def load(made: Engine, *rules: str, table: str = "filter", family: int = INET) -> SavedTable:
    (saved,) = parse(f"*{table}\n" + "\n".join(rules) + "\nCOMMIT\n", family)
    made.tables.load(saved)
    return saved


def ask(made: Engine, skb: Skb, chain: str = "INPUT", table: str = "filter") -> Verdict:
    """What the table's chain says of a packet."""
    skb.hook = HOOK_NAMES.index(chain)
    return made.tables.run(made.tables.table(skb.family, table), skb)


def counts(made: Engine, chain: str = "INPUT", table: str = "filter", family: int = INET) -> list[int]:
    """Packets of the rules of a chain, and of its policy last."""
    found = made.tables.table(family, table).chains[chain]
    return [*(rule.packets for rule in found.rules), found.packets]


def packet(
    protocol: int, payload: bytes, source: str = "", destination: str = "", *, six: bool = False, device: str = "eth0",
    ttl: int = 64, tos: int = 0, **fields: Any,
) -> Skb:  # fmt: skip
    """A packet with any payload; `fields` of ipv4.build."""
    a, b = ends(source, destination, six)
    if len(a) == 4:
        data = ipv4.build(a, b, protocol, payload, ttl=ttl, tos=tos, **fields)
    else:
        data = ipv6.build(a, b, protocol, payload, hop_limit=ttl, traffic_class=tos)
    return Skb(bytearray(data), device)


def ends(source: str, destination: str, six: bool) -> tuple[bytes, bytes]:
    return packed(source or (CLIENT6 if six else CLIENT)), packed(destination or (SERVER6 if six else SERVER))


def tcp_skb(
    flags: int = 2, sport: int = 40000, dport: int = 80, source: str = "", destination: str = "", *, six: bool = False,
    options: bytes = b"", payload: bytes = b"", device: str = "eth0", ttl: int = 64, tos: int = 0,
) -> Skb:  # fmt: skip
    a, b = ends(source, destination, six)
    segment = tcp.build(a, b, sport, dport, flags, 1000, 2000, 65535, payload, options)
    return packet(6, bytes(segment), source, destination, six=six, device=device, ttl=ttl, tos=tos)


def udp_skb(sport: int = 40000, dport: int = 53, source: str = "", destination: str = "", *, six: bool = False) -> Skb:
    a, b = ends(source, destination, six)
    return packet(17, bytes(udp.build(a, b, sport, dport, b"hello")), source, destination, six=six)


def icmp_skb(kind: int = 8, code: int = 0, *, six: bool = False) -> Skb:
    a, b = ends("", "", six)
    return packet(58 if six else 1, bytes(icmp.build(a, b, kind, code, b"\0\1\0\1", b"data")), six=six)


def sctp_skb(*chunks: tuple[int, int]) -> Skb:
    """`chunks`: type and flags, each with four bytes."""
    made = [bytes((kind, flags, 0, 8)) + bytes(4) for kind, flags in chunks]
    return packet(132, bytes(sctp.build(1000, 36412, 5, made)))
