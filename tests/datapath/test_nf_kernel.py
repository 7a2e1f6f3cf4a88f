"""The rules of the tables of matches and targets, on this machine's kernel: the same packets give the same counters.

The packets come in by a TUN device in a namespace of their own and meet rules that only count (mangle PREROUTING).
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import select
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl.datapath.skb import Skb
from ipvsctl.formats.iptables_save import parse
from ipvsctl.model.address import INET, INET6
from tests.datapath.nf_rig import ask, engine, packet, tcp_skb
from tests.datapath.test_nf_matches import PACKET, TRANSPORT
from tests.kernel.namespaces import fresh_namespace, run
from tests.needs import need, need_program

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
NOT_HERE = ("udplite", "pkttype")
"""iptables 1.8.9 cannot write the one; the other asks for the link layer, which a TUN device has not."""


def tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


@pytest.fixture
def links() -> Iterator[tuple[int, int]]:
    """eth0 and eth1 of nf_rig's host, as TUN devices of a router."""
    need_program("iptables-legacy-restore")
    need(Path("/dev/net/tun").exists(), "needs /dev/net/tun")
    with fresh_namespace():
        devices = tun("eth0"), tun("eth1")
        try:
            run(
                """
                ip link set lo up
                ip addr add 10.0.0.1/24 dev eth0; ip addr add fd10::1/64 dev eth0 nodad; ip link set eth0 up
                ip link set eth1 mtu 1400
                ip addr add 192.168.1.1/24 dev eth1; ip addr add fd20::1/64 dev eth1 nodad; ip link set eth1 up
                ip route add default via 10.0.0.254; ip route add default via fd10::fe dev eth0
                echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
                """
            )
            yield devices
        finally:
            for device in devices:
                os.close(device)


def kernel_counts(family: int) -> list[int]:
    """Packets of the rules of mangle PREROUTING."""
    text = run(f"{'ip6tables' if family == INET6 else 'iptables'}-legacy-save -c -t mangle")
    (table,) = parse(text, family)
    return [rule.packets for rule in table.chains[0].rules]


def compare(eth0: int, family: int, rules: list[str], packets: list[bytes]) -> None:
    tool = "ip6tables" if family == INET6 else "iptables"
    lines = [f"-A PREROUTING -i eth0 {rule}" for rule in rules]
    # Services by name are this machine's matter; numbers are everybody's.
    text = re.sub(r"port (http|domain)\b", lambda found: f"port {80 if found[1] == 'http' else 53}", "\n".join(lines))
    run(f"{tool}-legacy-restore", f"*mangle\n{text}\nCOMMIT\n")
    host = engine(*lines, table="mangle", family=family)
    before = kernel_counts(family)
    for each in packets:
        os.write(eth0, each)
        ask(host, Skb(bytearray(each), "eth0"), "PREROUTING", "mangle")
    after = kernel_counts(family)
    mine = [rule.packets for rule in host.tables.table(family, "mangle").chains["PREROUTING"].rules]
    assert {r: b - a for r, a, b in zip(rules, before, after, strict=True)} == dict(zip(rules, mine, strict=True))


@pytest.mark.parametrize("family", [INET, INET6])
def test_matches(links: tuple[int, int], family: int) -> None:
    rows = [
        (rule, make()) for rule, make, _ in TRANSPORT + PACKET if not any(f"-m {name}" in rule for name in NOT_HERE)
    ]
    rows = [(rule, skb) for rule, skb in rows if skb.family == family]
    compare(links[0], family, [rule for rule, _ in rows], [bytes(skb.data) for _, skb in rows])


CUT_OFF = [
    "-p tcp -m tcp --dport 5", "-p tcp -m tcp ! --tcp-option 5", "-p tcp -m tcpmss --mss 1:65535",
    "-p udp -m udp --dport 5",
    "-p sctp -m sctp --chunk-types all DATA", "-p sctp -m multiport --ports 5", "-f", "! -f", "-p tcp",
]  # fmt: skip


@pytest.mark.parametrize("rule", CUT_OFF)
def test_what_is_cut_off_is_dropped(links: tuple[int, int], rule: str) -> None:
    """A rule that is not reached does not count: the second one tells of the drop."""
    chance = random.Random(5)
    packets = [packet(protocol, chance.randbytes(size)) for protocol in (6, 17, 132) for size in range(0, 28, 3)]
    for protocol in (6, 17, 132):
        packets += [packet(protocol, bytes(16), fragment=at) for at in (8, 16)]
        packets.append(packet(protocol, bytes(40), options=b"\1\1\1\1"))
    compare(links[0], INET, [rule, "-s 10.0.0.2"], [bytes(skb.data) for skb in packets])


CHANGES = [
    "-p tcp --syn -j TCPMSS --set-mss 1000", "-p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "-j DSCP --set-dscp 10",
    "-j TOS --set-tos 0x10/0x3f", "-j TOS --xor-tos 0x55",
]  # fmt: skip
CHANGES4, CHANGES6 = ["-j TTL --ttl-inc 200", "-j TTL --ttl-dec 9"], ["-j HL --hl-inc 200", "-j HL --hl-set 77"]


def read(device: int, destination: bytes) -> list[bytes]:
    found = []
    while select.select([device], [], [], 0.01)[0]:
        data = os.read(device, 65536)
        if destination in data[16:40]:
            found.append(data)
            break
    return found


@pytest.mark.parametrize("family", [INET, INET6])
def test_changed_packets_are_bit_for_bit_the_same(links: tuple[int, int], family: int) -> None:
    six = family == INET6
    chance = random.Random(9)
    for rule in CHANGES + (CHANGES6 if six else CHANGES4):
        line = f"-A POSTROUTING -o eth1 {rule}"
        run(f"{'ip6tables' if six else 'iptables'}-legacy-restore", f"*mangle\n{line}\nCOMMIT\n")
        host = engine(line, table="mangle", family=family)
        for _ in range(12):
            options = b"\1" * chance.randrange(4) + chance.choice([b"", b"\2\4\5\xb4", b"\2\4\1\0"]) + b"\3\3\7"
            skb = tcp_skb(
                chance.choice([2, 2, 0x12]), chance.randrange(65536), 80, six=six, options=options,
                payload=bytes(chance.choice([0, 0, 5])), tos=chance.randrange(256),
            )  # fmt: skip
            os.write(links[0], bytes(skb.data))
            sent = read(links[1], skb.destination)
            skb.decrement_ttl()
            skb.outdev = "eth1"
            way = host.routing.output(family, skb.destination)
            assert hasattr(way, "mtu")
            skb.dst = way
            assert ask(host, skb, "POSTROUTING", "mangle") is None
            assert sent == [bytes(skb.data)], rule
