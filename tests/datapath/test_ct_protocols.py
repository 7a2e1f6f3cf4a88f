"""UDP, UDP-Lite, ICMP, ICMPv6, GRE and the rest in conntrack (nf_conntrack_proto_*.c of 6.1)."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.skb import ICMP, ICMPV6, UDP, UDPLITE, Skb
from ipvsctl.wire import icmp
from ipvsctl.wire.address import packed
from ipvsctl.wire.checksum import checksum, pseudo
from tests.datapath.ct_rig import CLIENT, OTHER, SERVER, Rig, ip, tcp_packet, udp_packet

C6, S6 = "fd00::2", "fd00:1::100"


def echo(kind: int, source: str = CLIENT, destination: str = SERVER, identifier: int = 7, code: int = 0) -> bytes:
    a, b = packed(source), packed(destination)
    number = ICMP if len(a) == 4 else ICMPV6
    return ip(source, destination, number, bytes(icmp.build(a, b, kind, code, identifier.to_bytes(2) + b"\0\1")))


def error(kind: int, about: bytes, source: str = OTHER, destination: str = CLIENT, code: int = 1) -> bytes:
    a, b = packed(source), packed(destination)
    number = ICMP if len(a) == 4 else ICMPV6
    return ip(source, destination, number, bytes(icmp.build(a, b, kind, code, bytes(4), about)))


# -- UDP --------------------------------------------------------------------------------------------------------------


def test_udp_becomes_a_stream_after_two_seconds() -> None:
    rig = Rig()
    answer = udp_packet(SERVER, CLIENT, 53, 5000)
    assert rig.walk(udp_packet()) == "NEW"
    assert rig.only.timeout == 30
    assert rig.walk(answer) == "ESTABLISHED"
    assert rig.walk(udp_packet()) == "ESTABLISHED"
    assert (rig.only.timeout, "assured" in rig.only.status) == (30, False)
    rig.wait(2.1)
    assert rig.walk(udp_packet()) == "ESTABLISHED"
    assert (rig.only.timeout, "assured" in rig.only.status) == (120, True)


def test_one_sided_udp_stays_new() -> None:
    rig = Rig()
    for _ in range(4):
        assert rig.walk(udp_packet()) == "NEW"
        rig.wait(20)
    rig.wait(11)
    assert rig.ct.count == 0


@pytest.mark.parametrize(("length", "seen"), [(9, "NEW"), (8, "NEW"), (7, "INVALID"), (10, "INVALID")])
def test_the_length_of_a_datagram(length: int, seen: str) -> None:
    packet = bytearray(udp_packet())
    packet[24:26], packet[26:28] = length.to_bytes(2), b"\0\0"
    assert Rig().walk(bytes(packet)) == seen


def test_udp_checksums() -> None:
    packet = bytearray(udp_packet())
    packet[-1] ^= 1
    assert Rig().walk(bytes(packet)) == "INVALID"
    assert Rig(checksum=0).walk(bytes(packet)) == "NEW"
    packet[26:28] = b"\0\0"
    assert Rig().walk(bytes(packet)) == "NEW"


def udplite(covered: int, check: bool = True, number: int = UDP) -> bytes:
    data = bytearray((5000).to_bytes(2) + (53).to_bytes(2) + covered.to_bytes(2) + bytes(2) + b"abcd")
    if check:
        start = pseudo(packed(CLIENT), packed(SERVER), number, len(data))
        data[6:8] = checksum(data[: covered or len(data)], start).to_bytes(2)
    return ip(CLIENT, SERVER, UDPLITE, bytes(data))


def test_udplite_must_have_a_checksum_and_is_a_stream_at_once() -> None:
    rig = Rig()
    assert rig.walk(udplite(8)) == rig.walk(udplite(0)) == "NEW"
    assert rig.walk(udplite(8, check=False)) == rig.walk(udplite(13)) == rig.walk(udplite(7)) == "INVALID"
    assert rig.only.protocol == "udplite"


def test_udplite_with_the_checksum_of_its_own_protocol_is_invalid() -> None:
    """nf_conntrack_proto_udp.c: udplite_error checks it as UDP's."""
    rig = Rig()
    assert rig.walk(udplite(8, number=UDPLITE)) == rig.walk(udplite(0, number=UDPLITE)) == "INVALID"
    rig = Rig(checksum=0)
    assert rig.walk(udplite(8, number=UDPLITE)) == "NEW"


# -- ICMP -------------------------------------------------------------------------------------------------------------


def test_echo_and_its_reply() -> None:
    rig = Rig()
    assert rig.walk(echo(8)) == "NEW"
    assert rig.walk(echo(0, SERVER, CLIENT)) == "ESTABLISHED"
    assert rig.walk(echo(8)) == "ESTABLISHED"
    entry = rig.only
    assert (entry.source_port, entry.destination_port, entry.reply_destination_port) == (7, 8 << 8, 0)
    assert (entry.protocol, entry.timeout, entry.status) == ("icmp", 30, ("seen_reply", "confirmed"))


@pytest.mark.parametrize("kind", [8, 13, 15, 17])
def test_four_icmp_questions_begin_something(kind: int) -> None:
    assert Rig().walk(echo(kind)) == "NEW"


@pytest.mark.parametrize("kind", [0, 14, 16, 18, 1, 9, 10, 19, 255, 3, 11])
def test_nothing_else_does(kind: int) -> None:
    rig = Rig()
    assert rig.walk(echo(kind)) == "INVALID"
    assert rig.ct.count == 0


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_error_about_a_connection_is_related_to_it(kind: int) -> None:
    rig = Rig()
    sent = udp_packet()
    rig.walk(sent)
    skb = rig.enter(error(kind, sent[:28]))
    assert (skb.ctinfo, skb.ct is not None) == (4, True)
    assert rig.walk(error(kind, sent[:28])) == "RELATED"
    # The other way round, about an answer.
    answer = udp_packet(SERVER, CLIENT, 53, 5000)
    assert rig.enter(error(kind, answer[:28], OTHER, SERVER)).ctinfo == 1


def test_errors_that_are_not_related() -> None:
    rig = Rig()
    sent = udp_packet()
    assert rig.walk(error(3, sent[:28])) == "INVALID"
    rig.walk(sent)
    assert rig.walk(error(3, sent[:28], OTHER, "10.9.9.9")) == "INVALID"
    assert rig.walk(error(3, sent[:23])) == "INVALID"
    assert rig.walk(error(3, b"")) == "INVALID"
    fragment = bytearray(sent[:28])
    fragment[7] = 1
    assert rig.walk(error(3, bytes(fragment))) == "INVALID"
    broken = bytearray(error(3, sent[:28]))
    broken[-1] ^= 1
    assert rig.walk(bytes(broken)) == "INVALID"


def test_an_error_after_nat_goes_to_the_translated_address() -> None:
    rig = Rig()
    skb = rig.enter(udp_packet())
    assert skb.ct is not None
    reply = rig.ct.invert(rig.ct.tuple_of(Skb(bytearray(udp_packet(OTHER)))) or b"")
    rig.ct.alter_reply(skb.ct, reply)
    assert rig.ct.confirm(skb) is None
    translated = udp_packet(OTHER)
    assert rig.enter(error(3, translated[:28], SERVER, OTHER)).ctinfo == 4
    assert rig.walk(error(3, translated[:28], SERVER, CLIENT)) == "INVALID"


def test_icmpv6() -> None:
    rig = Rig()
    assert rig.walk(echo(128, C6, S6)) == "NEW"
    assert rig.walk(echo(129, S6, C6)) == "ESTABLISHED"
    assert rig.only.protocol == "icmpv6"
    assert rig.walk(echo(139, C6, S6)) == "NEW"
    for kind in (129, 140, 144, 160, 200):
        assert rig.walk(echo(kind, C6, S6, 99)) == "INVALID"


@pytest.mark.parametrize("kind", [130, 131, 132, 133, 134, 135, 136, 143])
def test_neighbour_discovery_is_never_tracked(kind: int) -> None:
    assert Rig().walk(echo(kind, C6, S6)) == "UNTRACKED"


def test_errors_of_ipv6() -> None:
    rig = Rig()
    sent = udp_packet(C6, S6)
    rig.walk(sent)
    assert rig.walk(error(1, sent, S6, C6)) == "RELATED"
    assert rig.walk(error(100, sent, S6, C6)) == "RELATED"
    assert rig.walk(error(1, sent[:40], S6, C6)) == "INVALID"
    hops = sent[:6] + b"\0" + sent[7:40] + b"\x11\0" + bytes(6) + sent[40:]
    assert rig.walk(error(2, hops, S6, C6)) == "RELATED"


def redirect(about: bytes, source: str, hops: int = 255, option: int = 4, length: int = 1) -> bytes:
    body = bytes(32) + bytes((option, length)) + bytes(6) + about
    data = icmp.build(packed(source), packed(C6), 137, 0, bytes(4), body)
    packet = bytearray(ip(source, C6, ICMPV6, bytes(data)))
    packet[7] = hops
    return bytes(packet)


def test_a_redirect_is_about_the_connection_it_quotes() -> None:
    rig = Rig()
    sent = udp_packet(C6, S6)
    rig.walk(sent)
    assert rig.walk(redirect(sent, "fe80::1")) == "RELATED"
    assert rig.walk(redirect(sent, "fe80::1", hops=64)) == "INVALID"
    assert rig.walk(redirect(sent, "fd00::9")) == "INVALID"
    assert rig.walk(redirect(sent, "fe80::1", length=0)) == "INVALID"
    assert rig.walk(redirect(sent, "fe80::1", option=1)) == "INVALID"


def test_the_other_familys_icmp_is_invalid() -> None:
    assert Rig().walk(ip(CLIENT, SERVER, ICMPV6, bytes((128, 0, 0, 0)) + bytes(4))) == "INVALID"
    assert Rig().walk(ip(C6, S6, ICMP, bytes((8, 0, 0, 0)) + bytes(4))) == "INVALID"


# -- GRE and the rest -------------------------------------------------------------------------------------------------


def test_gre() -> None:
    rig = Rig()
    assert rig.walk(ip(CLIENT, SERVER, 47, b"\0\0\x08\0rest")) == "NEW"
    assert rig.only.timeout == 30
    assert rig.walk(ip(SERVER, CLIENT, 47, b"\x20\0\x08\0keyy")) == "ESTABLISHED"
    assert rig.walk(ip(CLIENT, SERVER, 47, b"")) == "ESTABLISHED"
    assert (rig.only.timeout, "assured" in rig.only.status) == (180, True)
    call = b"\x30\x01\x88\x0b\0\0\x12\x34"
    assert rig.walk(ip(CLIENT, SERVER, 47, call)) == "NEW"
    assert [entry.destination_port for entry in rig.ct.report()] == [0, 0x1234]
    assert rig.walk(ip(CLIENT, SERVER, 47, b"\x30\x01\x08\0\0\0\x12\x34")) == "INVALID"


def test_ipip_is_tracked_by_its_addresses() -> None:
    rig = Rig()
    assert rig.walk(ip(CLIENT, SERVER, 4, tcp_packet(2, 1))) == "NEW"
    assert rig.walk(ip(SERVER, CLIENT, 4, b"")) == "ESTABLISHED"
    assert (rig.only.protocol, rig.only.timeout, rig.only.source_port) == ("4", 600, 0)


def test_a_packet_without_a_next_header_is_invalid() -> None:
    assert Rig().walk(ip(C6, S6, 59, b"")) == "INVALID"
