"""Rewriting of packets and of what ICMP errors quote: every field and every checksum (nf_nat_proto.c)."""

from __future__ import annotations

from struct import pack

import pytest

from ipvsctl.datapath.ct.entry import DST_NAT_DONE, SRC_NAT, SRC_NAT_DONE, Entry, make_tuple
from ipvsctl.datapath.ct.nat_packet import rewrite, translate_error
from ipvsctl.datapath.ct.tuples import embedded, invert, make
from ipvsctl.datapath.skb import RELATED, RELATED_REPLY, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, udp
from ipvsctl.wire.address import packed
from ipvsctl.wire.checksum import checksum, pseudo
from ipvsctl.wire.transport import verify

V4 = tuple(packed(f"10.0.0.{n}") for n in (1, 2, 3, 9))
V6 = tuple(packed(f"2001:db8::{n}") for n in (1, 2, 3, 9))
DONE = SRC_NAT_DONE | DST_NAT_DONE


def packet(source, destination, protocol, payload) -> bytearray:
    return (ipv4 if len(source) == 4 else ipv6).build(source, destination, protocol, payload)


def key_of(skb: Skb) -> bytes:
    made = make(skb.protocol, skb.source, skb.destination, skb.data, skb.thoff)
    assert made is not None
    return made


def transport(protocol, source, destination, sport=1000, dport=80):
    if protocol == 6:
        return tcp.build(source, destination, sport, dport, 2, 1, 0, 100, b"odd")
    if protocol == 17:
        return udp.build(source, destination, sport, dport, b"odd")
    if protocol == 132:
        return sctp.build(sport, dport, 7, [sctp.chunk(1, 0, b"init")])
    if protocol == 136:
        data = bytearray(pack(">HHHH", sport, dport, 8, 0)) + b"body"
        check = checksum(data[:8], pseudo(source, destination, 136, len(data)))
        data[6], data[7] = check >> 8, check & 255
        return data
    echo = 8 if protocol == 1 else 128
    return icmp.build(source, destination, echo, 0, pack(">HH", sport, 5), b"ping")


def target(protocol, source, destination, first=2222, second=3333) -> bytes:
    """The tuple of the other direction that makes a packet look so."""
    if protocol in (1, 58):
        return make_tuple(protocol, destination, source, first, 0 if protocol == 1 else 129 << 8)
    return make_tuple(protocol, destination, source, second, first)


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("protocol", [6, 17, 132, 136, 1, 58])
@pytest.mark.parametrize("source", [True, False])
def test_rewrite(addresses, protocol, source):
    if protocol == (58 if len(addresses[0]) == 4 else 1):
        return
    a, b, c, _ = addresses
    skb = Skb(packet(a, b, protocol, transport(protocol, a, b)))
    other = target(protocol, c, c)
    assert rewrite(skb, other, source)
    assert (skb.source, skb.destination) == ((c, b) if source else (a, c))
    again = Skb(bytearray(skb.data))
    assert (again.source, again.destination) == (skb.source, skb.destination)
    if len(a) == 4:
        assert ipv4.valid(skb.data)
    at = skb.thoff
    if protocol == 136:
        length = len(skb.data) - at
        assert checksum(skb.data[at : at + 8], pseudo(skb.source, skb.destination, 136, length)) == 0
    else:
        assert verify(skb.data, skb.family, protocol, at, skb.source, skb.destination)
    if protocol in (1, 58):
        assert skb.data[at + 4 : at + 6] == pack(">H", 2222)
    else:
        assert (skb.sport, skb.dport) == ((2222, 80) if source else (1000, 3333))


def test_udp_without_a_checksum_stays_without():
    a, b, c, _ = V4
    skb = Skb(packet(a, b, 17, udp.build(a, b, 1, 2, b"x", checksummed=False)))
    assert rewrite(skb, target(17, c, c), True)
    assert skb.data[skb.thoff + 6 : skb.thoff + 8] == b"\0\0"


def test_udp_checksum_that_becomes_zero_is_written_as_ones():
    a, b, c, _ = V4
    for word in range(65536):
        skb = Skb(packet(a, b, 17, udp.build(a, b, 1, 2, pack(">H", word))))
        wanted = udp.build(c, b, 2222, 2, pack(">H", word))
        if wanted[6:8] == b"\xff\xff":
            break
    assert rewrite(skb, target(17, c, c), True)
    assert skb.data[skb.thoff + 6 : skb.thoff + 8] == b"\xff\xff"


def test_wrong_checksum_stays_wrong():
    a, b, c, _ = V4
    skb = Skb(packet(a, b, 6, transport(6, a, b)))
    skb.data[-1] ^= 1
    assert rewrite(skb, target(6, c, c), False)
    assert not verify(skb.data, 2, 6, skb.thoff, skb.source, skb.destination)


def test_icmp_messages_without_identifier_keep_their_bytes():
    a, b, c, _ = V4
    skb = Skb(packet(a, b, 1, icmp.build(a, b, 9, 0, b"abcd")))
    assert rewrite(skb, make_tuple(1, c, c, 5, 0), True)
    assert skb.data[skb.thoff + 4 : skb.thoff + 8] == b"abcd"
    assert skb.source == c


@pytest.mark.parametrize(
    ("protocol", "payload", "good"),
    [
        (6, bytes(7), False),
        (6, bytes(8), True),
        (17, bytes(7), False),
        (132, bytes(7), False),
        (1, bytes(7), False),
        (47, bytes(7), False),
        (47, b"\0\0" + bytes(6), True),
        (47, b"\0\1\x88\x0b" + bytes(4), True),
        (47, b"\0\2" + bytes(6), False),
        (50, b"", True),
    ],
)
def test_short_headers(protocol, payload, good):
    a, b, c, _ = V4
    skb = Skb(packet(a, b, protocol, payload))
    assert rewrite(skb, make_tuple(protocol, c, c, 7, 7), False) is good
    assert skb.destination == (c if good else b)
    if payload[:2] == b"\0\1":
        assert skb.data[skb.thoff + 6 : skb.thoff + 8] == pack(">H", 7)


def test_gre_of_an_unknown_version_passes_as_source():
    a, b, c, _ = V4
    skb = Skb(packet(a, b, 47, b"\0\2" + bytes(6)))
    assert rewrite(skb, make_tuple(47, c, c, 7, 7), True)


def test_ipv6_extension_headers_are_skipped():
    a, b, c, _ = V6
    skb = Skb(ipv6.build(a, b, 60, bytes(ipv6.extension(6)) + bytes(transport(6, a, b))))
    assert skb.protocol == 6
    assert rewrite(skb, target(6, c, c), True)
    assert verify(skb.data, 10, 6, skb.thoff, c, b)


# -- ICMP errors ------------------------------------------------------------------------------------------------------


def masqueraded(addresses, protocol=6) -> Entry:
    """A client's connection (a, port 1000) to b that leaves with source c, port 2222."""
    a, b, c, _ = addresses
    if protocol in (1, 58):
        original = make_tuple(protocol, a, b, 1000, (8 if protocol == 1 else 128) << 8)
        outside = make_tuple(protocol, c, b, 2222, (8 if protocol == 1 else 128) << 8)
    else:
        original = make_tuple(protocol, a, b, 1000, 80)
        outside = make_tuple(protocol, c, b, 2222, 80)
    reply = invert(outside)
    assert reply is not None
    made = Entry(None, original, reply)
    made.status = SRC_NAT | DONE
    return made


def error(addresses, quoted: bytes, sender=None, receiver=None, kind=None, code=1) -> Skb:
    """From a router (d) to c, about a packet from c to b."""
    _, _, c, d = addresses
    sender, receiver = sender or d, receiver or c
    six = len(c) == 16
    kind = (1 if six else 3) if kind is None else kind
    skb = Skb(packet(sender, receiver, 58 if six else 1, icmp.build(sender, receiver, kind, code, bytes(4), quoted)))
    skb.ctinfo = RELATED_REPLY
    return skb


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("protocol", [6, 17, 132, 1])
@pytest.mark.parametrize("length", [8, 12, 100])
def test_error_from_outside_goes_to_the_client(addresses, protocol, length):
    a, b, c, d = addresses
    six = len(a) == 16
    protocol = 58 if six and protocol == 1 else protocol
    whole = packet(c, b, protocol, transport(protocol, c, b, 2222))
    head = len(whole) - len(transport(protocol, c, b))
    skb = error(addresses, whole[: head + length])
    entry = masqueraded(addresses, protocol)
    # The destination is restored in PREROUTING, a manipulation of the destination.
    assert translate_error(skb, entry, False) is None
    assert (skb.source, skb.destination) == (d, a)
    assert verify(skb.data, skb.family, skb.protocol, skb.thoff, skb.source, skb.destination)
    inside = skb.thoff + 8
    assert embedded(skb.data, inside, skb.family) == entry.original
    if six or ipv4.valid(skb.data, inside):
        wanted = packet(a, b, protocol, transport(protocol, a, b, 1000))
        if length == 100:
            assert skb.data[inside:] == wanted
    else:
        raise AssertionError("the quoted header's checksum is wrong")


def test_error_in_the_other_manipulation_is_left_alone():
    entry = masqueraded(V4)
    _, b, c, _ = V4
    skb = error(V4, packet(c, b, 6, transport(6, c, b, 2222)))
    before = bytes(skb.data)
    assert translate_error(skb, entry, True) is None
    assert bytes(skb.data) == before


def test_error_from_the_client_side_leaves_with_the_mapped_address():
    """The client refuses a reply: its error quotes b -> a and must go out as c's, quoting b -> c."""
    a, b, c, _ = V4
    entry = masqueraded(V4)
    skb = error(V4, packet(b, a, 6, transport(6, b, a, 80, 1000)), sender=a, receiver=b)
    skb.ctinfo = RELATED
    assert translate_error(skb, entry, True) is None
    assert (skb.source, skb.destination) == (c, b)
    assert embedded(skb.data, skb.thoff + 8, 2) == entry.reply
    assert verify(skb.data, 2, 1, skb.thoff)
    assert ipv4.valid(skb.data, skb.thoff + 8)


def test_error_with_a_wrong_checksum_is_dropped():
    _, b, c, _ = V4
    skb = error(V4, packet(c, b, 6, transport(6, c, b, 2222)))
    skb.data[-1] ^= 1
    assert translate_error(skb, masqueraded(V4), False) is Reason.NAT


def test_error_that_quotes_too_little_is_dropped():
    _, b, c, _ = V4
    whole = packet(c, b, 6, transport(6, c, b, 2222))
    for length in (0, 19, 20, 27):
        assert translate_error(error(V4, whole[:length]), masqueraded(V4), False) is Reason.NAT
    assert translate_error(error(V4, whole[:28]), masqueraded(V4), False) is None


@pytest.mark.parametrize(("addresses", "kind"), [(V4, 5), (V6, 137)])
@pytest.mark.parametrize(
    ("status", "verdict"),
    [(0, Reason.NAT), (SRC_NAT_DONE, Reason.NAT), (DONE, None), (DONE | SRC_NAT, Reason.NAT)],
)
def test_redirects(addresses, kind, status, verdict):
    _, b, c, _ = addresses
    entry = masqueraded(addresses)
    entry.status = status
    skb = error(addresses, packet(c, b, 6, transport(6, c, b, 2222)), kind=kind)
    assert translate_error(skb, entry, False) is verdict
