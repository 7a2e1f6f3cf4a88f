"""The host's own stack: what it answers, what it swallows, and how its answers look."""

from __future__ import annotations

import random

import pytest

from ipvsctl.datapath.verdict import Reason
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, transport, udp
from ipvsctl.wire.address import packed
from tests.datapath.ip_rig import Host, datagram, echo, ip, seen, segment

CLIENT, OWN = "10.0.0.9", "10.0.0.1"
CLIENT6, OWN6 = "fd10::9", "fd10::1"
BOTH = pytest.mark.parametrize(("source", "own"), [(CLIENT, OWN), (CLIENT6, OWN6)])


def wrong(packet: bytearray) -> bytearray:
    """The last byte changed, so that the transport checksum no longer fits."""
    packet[-1] ^= 0x55
    return packet


@BOTH
def test_a_closed_tcp_port_answers_with_a_reset(source: str, own: str) -> None:
    host = Host()
    (sent,) = host.receive("eth0", segment(source, own, tcp.SYN, 1000, tos=0x4B))
    assert host.verdict is Reason.NO_LISTENER
    data, at = sent.packet, 40 if ":" in own else 20
    assert (data[at : at + 4], data[at + 13]) == (b"\0\x50\x0f\xa0", tcp.RST | tcp.ACK)
    assert data[at + 4 : at + 12] == b"\0\0\0\0\0\0\x03\xe9"
    assert seen(data)[:5] == (own, source, 6, 64, 0x48)  # the TOS without its ECN bits
    if at == 20:
        assert data[4:8] == b"\0\0\x40\0"
    (sent,) = host.receive("eth0", segment(source, own, tcp.ACK | tcp.PSH, 1000, 555, b"hello"))
    assert (sent.packet[at + 13], sent.packet[at + 4 : at + 8]) == (tcp.RST, (555).to_bytes(4, "big"))


@BOTH
def test_what_tcp_does_not_answer(source: str, own: str) -> None:
    host = Host()
    signature = b"\x13\x12" + bytes(16) + b"\1\1"
    for packet, verdict in (
        (segment(source, own, tcp.RST), Reason.NO_LISTENER),
        (segment(source, own, options=signature), Reason.NO_LISTENER),
        (wrong(segment(source, own)), Reason.LOCAL_CHECKSUM),
        (ip(source, own, 6, bytes(19)), Reason.TRUNCATED),
        (ip(source, own, 6, bytes(12) + b"\x40" + bytes(7)), Reason.TRUNCATED),
        (ip(source, own, 6, bytes(12) + b"\xf0" + bytes(7)), Reason.TRUNCATED),
    ):
        assert host.receive("eth0", packet) == []
        assert host.verdict is verdict


@BOTH
def test_listeners_swallow(source: str, own: str) -> None:
    host = Host()
    host.local.listeners |= {(6, b"", 80), (17, packed(own), 53)}
    assert host.receive("eth0", segment(source, own)) == [] and host.verdict == "delivered"
    assert host.receive("eth0", datagram(source, own)) == [] and host.verdict == "delivered"
    assert len(host.receive("eth0", datagram(source, own, dport=54))) == 1
    assert len(host.receive("eth0", datagram(source, "fd20::1" if ":" in own else "192.168.1.1"))) == 1


def test_a_closed_udp_port_is_reported() -> None:
    host = Host()
    packet = datagram(CLIENT, OWN, b"question")
    (sent,) = host.receive("eth0", packet)
    assert host.verdict is Reason.NO_LISTENER
    assert seen(sent.packet)[5:] == (3, 3, 0, bytes(packet))
    packet = datagram(CLIENT6, OWN6, b"question")
    (sent,) = host.receive("eth0", packet)
    assert seen(sent.packet)[5:] == (1, 4, 0, bytes(packet))


def short(source: str, own: str, said: int) -> bytearray:
    """A datagram whose UDP length is not that of the packet."""
    body = udp.build(packed(source), packed(own), 4000, 53, b"12345678")
    body[4:6] = said.to_bytes(2, "big")
    return ip(source, own, 17, body)


@BOTH
def test_what_udp_does_not_answer(source: str, own: str) -> None:
    host = Host()
    for packet, verdict in (
        (wrong(datagram(source, own)), Reason.LOCAL_CHECKSUM),
        (ip(source, own, 17, bytes(7)), Reason.TRUNCATED),
        (short(source, own, 17), Reason.TRUNCATED),
        (short(source, own, 7), Reason.TRUNCATED),
    ):
        assert host.receive("eth0", packet) == []
        assert host.verdict is verdict
    unsigned = datagram(source, own)
    at = len(unsigned) - 9
    unsigned[at + 6 : at + 8] = b"\0\0"
    # IPv4 may leave the checksum out, IPv6 may not
    assert len(host.receive("eth0", unsigned)) == (0 if ":" in own else 1)
    assert host.verdict is (Reason.LOCAL_CHECKSUM if ":" in own else Reason.NO_LISTENER)


def test_udp_with_padding_behind_it() -> None:
    """The checksum covers what the UDP header says; the rest is cut off."""
    body = udp.build(packed(CLIENT), packed(OWN), 4000, 53, b"12345678") + b"trailer"
    host = Host()
    assert len(host.receive("eth0", ip(CLIENT, OWN, 17, body))) == 1 and host.verdict is Reason.NO_LISTENER


@pytest.mark.parametrize("destination", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_broadcasts_are_not_answered(destination: str) -> None:
    host = Host()
    for packet in (datagram(CLIENT, destination), segment(CLIENT, destination), echo(CLIENT, destination)):
        assert host.receive("eth0", packet) == []
        assert host.verdict in (Reason.NO_LISTENER, "delivered")


def test_broadcast_echo_on_demand() -> None:
    host = Host({"net.ipv4.icmp_echo_ignore_broadcasts": 0})
    (sent,) = host.receive("eth0", echo(CLIENT, "10.0.0.255"))
    assert seen(sent.packet)[:2] == (OWN, CLIENT)


@BOTH
def test_unknown_protocols(source: str, own: str) -> None:
    host = Host()
    (sent,) = host.receive("eth0", ip(source, own, 47, bytes(8)))
    assert host.verdict is Reason.LOCAL_PROTOCOL
    # IPv4: protocol unreachable; IPv6: parameter problem, and where the header is named
    assert seen(sent.packet)[5:8] == ((4, 1, 6) if ":" in own else (3, 2, 0))


def test_protocols_that_the_host_knows() -> None:
    host = Host()
    assert host.receive("eth0", ip(CLIENT, OWN, 2, bytes(8))) == [] and host.verdict == "delivered"
    assert host.receive("eth0", ip(CLIENT6, OWN6, 59, b"")) == [] and host.verdict == "delivered"


def test_echo() -> None:
    host = Host({"net.ipv4.ip_default_ttl": 77})
    (sent,) = host.receive("eth0", echo(CLIENT, "192.168.1.1", b"are you there", tos=0x4B, df=True, identification=5))
    told = seen(sent.packet)
    assert told == ("192.168.1.1", CLIENT, 1, 77, 0x4B, 0, 0, 0x10002, b"are you there")
    assert transport.verify(sent.packet, 2, 1, 20) and ipv4.valid(sent.packet)
    assert sent.packet[6:8] == b"\0\0" and host.verdict == "delivered"
    (sent,) = host.receive("eth0", echo(CLIENT6, "fd20::1", b"are you there", tos=0x4B))
    assert seen(sent.packet) == ("fd20::1", CLIENT6, 58, 64, 0x4B, 129, 0, 0x10002, b"are you there")
    assert transport.verify(sent.packet, 10, 58, 40, packed("fd20::1"), packed(CLIENT6))


def test_echo_to_groups_and_link_local_addresses() -> None:
    host = Host()
    (sent,) = host.receive("eth0", echo("fe80::9", "fe80::a"))
    assert (sent.device, seen(sent.packet)[:2]) == ("eth0", ("fe80::a", "fe80::9"))
    (sent,) = host.receive("eth1", echo("fe80::9", "ff02::1"))
    assert (sent.device, seen(sent.packet)[:2]) == ("eth1", ("fe80::b", "fe80::9"))
    (sent,) = host.receive("eth0", echo(CLIENT6, "fd10::"))  # subnet-router anycast
    assert seen(sent.packet)[:2] == (OWN6, CLIENT6)


def test_a_large_echo_comes_back_in_pieces() -> None:
    host = Host()
    for piece in ipv4.fragment(echo(CLIENT, OWN, bytes(3000), identification=9), 1500):
        sent = host.receive("eth0", piece)
    assert [len(each.packet) for each in sent] == [1500, 1500, 68]


@pytest.mark.parametrize("sysctl", ["net.ipv4.icmp_echo_ignore_all", "net.ipv6.icmp.echo_ignore_all"])
def test_echo_ignored(sysctl: str) -> None:
    host = Host({sysctl: 1})
    four, six = host.receive("eth0", echo(CLIENT, OWN)), list(host.receive("eth0", echo(CLIENT6, OWN6)))
    assert (len(four), len(six)) == ((0, 1) if "ipv4" in sysctl else (1, 0))


@BOTH
def test_icmp_that_is_wrong_or_of_no_interest(source: str, own: str) -> None:
    host = Host()
    protocol = 58 if ":" in own else 1
    for kind in (0, 1, 3, 5, 11, 13, 17, 42, 130, 133, 135, 255):
        body = icmp.build(packed(source), packed(own), kind, 0, bytes(4), bytes(28))
        assert host.receive("eth0", ip(source, own, protocol, body)) == []
        assert host.verdict == "delivered"
    assert host.receive("eth0", wrong(echo(source, own))) == [] and host.verdict is Reason.LOCAL_CHECKSUM
    assert host.receive("eth0", ip(source, own, protocol, bytes(7))) == [] and host.verdict is Reason.TRUNCATED


def test_extension_headers_on_the_way_to_the_transport() -> None:
    host = Host()
    inner = segment(CLIENT6, OWN6)[40:]
    for first, chain in (
        (60, ipv6.extension(6)), (0, ipv6.extension(60) + ipv6.extension(6)),
        (43, ipv6.extension(6, bytes(6))), (44, ipv6.fragment_header(6, 0, False, 7)),
    ):  # fmt: skip
        (sent,) = host.receive("eth0", ip(CLIENT6, OWN6, first, chain + inner))
        assert sent.packet[6] == 6 and host.verdict is Reason.NO_LISTENER


@pytest.mark.parametrize(
    ("first", "chain", "told"),
    [
        (60, ipv6.extension(6, b"\xbe\2\0\0\1\0"), (2, 42)),
        (60, ipv6.extension(6, b"\x7e\2\0\0\1\0"), None),
        (60, ipv6.extension(0) + ipv6.extension(6), (1, 40)),  # hop-by-hop options that are not first
        (43, ipv6.extension(6, b"\0\1\0\0\0\0"), (0, 42)),  # segments left
        (43, ipv6.extension(6, b"\4\1\0\0\0\0"), None),
        (51, b"\6\1" + bytes(10), (1, 6)),
        (60, ipv6.extension(99), (1, 40)),
    ],
)
def test_extension_headers_that_are_refused(first: int, chain: bytes, told: object) -> None:
    host = Host()
    sent = host.receive("eth0", ip(CLIENT6, OWN6, first, chain + segment(CLIENT6, OWN6)[40:]))
    assert [(seen(each.packet).code, seen(each.packet).rest) for each in sent] == ([told] if told else [])
    assert host.verdict in (Reason.OPTIONS, Reason.LOCAL_PROTOCOL)


def test_any_bytes_may_come_in() -> None:
    host = Host(defrag=True)
    chance = random.Random(5)
    seeds: list[bytearray] = [
        segment(CLIENT, OWN), datagram(CLIENT, OWN), echo(CLIENT, OWN), segment(CLIENT6, OWN6), echo(CLIENT6, OWN6),
        datagram(CLIENT, "192.168.1.7", options=bytes(8)), datagram(CLIENT6, "fd20::7"),
        ip(CLIENT6, OWN6, 0, ipv6.extension(44) + ipv6.fragment_header(43, 0, True, 7) + bytes(16)),
        ip(CLIENT6, OWN6, 60, ipv6.extension(43) + ipv6.extension(6, bytes(6)) + segment(CLIENT6, OWN6)[40:]),
    ]  # fmt: skip
    for _ in range(6000):
        packet = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            packet[chance.randrange(len(packet))] = chance.randrange(256)
        del packet[chance.randrange(20, len(packet) + 30) :]
        if (
            packet[0] >> 4 == 4
            and chance.random() < 0.8
            and (packet[0] & 15) >= 5
            and len(packet) >= (packet[0] & 15) * 4
        ):
            packet[2:4] = len(packet).to_bytes(2, "big")
            ipv4.seal(packet)
        elif packet[0] >> 4 == 6 and chance.random() < 0.8 and len(packet) >= 40:
            packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
        host.receive(chance.choice(("eth0", "eth1", "lo")), packet, host.now + 0.01)
    assert len(host.drops) > 10
    host.poll(host.now + 100)


def test_answers_are_not_answered() -> None:
    """A packet that is its own answer's answer ends: resets and errors are never answered."""
    host = Host()
    host.send(segment("0.0.0.0", OWN, dport=9))
    host.send(datagram("0.0.0.0", "127.0.0.1", dport=9))
    host.send(datagram("::", "::1", dport=9))
    host.send(echo("0.0.0.0", OWN))
    assert host.outputs == [] and not host.backlog
