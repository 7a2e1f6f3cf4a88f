"""Packets in their short notation: what it means, what it refuses, and that nothing gets lost on the way and back."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipvsctl.errors import UsageError
from ipvsctl.formats.packet_text import describe, parse
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, transport, tunnel, udp
from ipvsctl.wire.address import packed

A, B = packed("10.0.1.2"), packed("192.168.1.100")
A6, B6 = packed("fd00::2"), packed("fd00::1")
SYN = "tcp 10.0.1.2:40000 > 192.168.1.100:80 S seq=1000 mss=1460"


def test_tcp() -> None:
    segment = tcp.build(A, B, 40000, 80, tcp.SYN, 1000, 0, 64240, options=b"\2\4\5\xb4")
    assert parse(SYN) == ipv4.build(A, B, 6, segment)
    assert parse(SYN.replace(">", "->")) == parse(SYN)
    data = parse('tcp [fd00::2]:40000 > [fd00::1]:80 PA seq=1001 ack=2001 data="GET / HTTP/1.0\\r\\n\\r\\n"')
    segment = tcp.build(A6, B6, 40000, 80, tcp.PSH | tcp.ACK, 1001, 2001, 64240, b"GET / HTTP/1.0\r\n\r\n")
    assert data == ipv6.build(A6, B6, 6, segment)
    data = parse(
        "tcp 10.0.1.2:1 > 10.0.1.3:2 A window=5 urg=9 sackok ts=1:2 wscale=7 sack=1-2,3-4 ttl=3 tos=0x10 df id=7"
    )
    assert tcp.options(data, 20) == tcp.Options(None, 7, True, ((1, 2), (3, 4)), (1, 2))
    assert data[:10].hex() == f"4510{len(data):04x}000740000306"
    assert data[34:36] + data[38:40] == b"\0\5\0\x09"


def test_udp() -> None:
    assert parse("udp 10.0.1.2:5 > 192.168.1.100:53 len=3") == ipv4.build(A, B, 17, udp.build(A, B, 5, 53, b"\0\1\2"))
    data = parse('udp 10.0.1.2:5 > 192.168.1.100:53 data="ab" len=4 nosum')
    assert data == ipv4.build(A, B, 17, udp.build(A, B, 5, 53, b"ab\2\3", checksummed=False))
    assert parse("udp 10.0.1.2:5 > 192.168.1.100:53 hex=00ff")[28:] == b"\0\xff"
    assert parse(r'udp 10.0.1.2:5 > 192.168.1.100:53 data="\"\\\x41\0\t]["')[28:] == b'"\\A\0\t]['


@pytest.mark.parametrize(
    "text",
    [
        "tcp 10.0.1.2:1 > 10.0.1.3:2 S badsum", "udp 10.0.1.2:1 > 10.0.1.3:2 len=9 badsum",
        "icmp 10.0.1.2 > 10.0.1.3 echo-request badsum", "icmpv6 fd00::1 > fd00::2 echo-request badsum",
        "sctp 10.0.1.2:1 > 10.0.1.3:2 INIT badsum", "tcp [fd00::2]:1 > [fd00::1]:2 S sum=0x1234",
    ],
)  # fmt: skip
def test_wrong_checksums(text: str) -> None:
    for words, right in ((text, False), (text.rpartition(" ")[0], True)):
        data = parse(words)
        six = data[0] >> 4 == 6
        ends = (data[8:24], data[24:40]) if six else (data[12:16], data[16:20])
        protocol, at = (data[6], 40) if six else (data[9], 20)
        assert transport.verify(data, 10 if six else 2, protocol, at, *ends) is right
        assert ("sum" in describe(data)) is not right


def test_wrong_header_checksum() -> None:
    data = parse(SYN + " badipsum")
    assert not ipv4.valid(data)
    assert data[20:] == parse(SYN)[20:]
    assert parse(SYN + " ipsum=0xabcd")[10:12] == b"\xab\xcd"


def test_icmp() -> None:
    echo = icmp.build(A, B, 8, 0, b"\0\1\0\2", b"\0\1\2\3")
    assert parse("icmp 10.0.1.2 > 192.168.1.100 echo-request id=1 seq=2 len=4 ipid=9") == ipv4.build(
        A, B, 1, echo, identification=9
    )
    quoted = parse("tcp 192.168.1.100:80 > 10.0.1.2:40000 S seq=1 len=100")
    text = "icmp 10.0.1.2 > 192.168.1.100 {} [tcp 192.168.1.100:80 > 10.0.1.2:40000 S seq=1 len=100]"
    expected = ipv4.build(A, B, 1, icmp.build(A, B, 3, 4, b"\0\0\x05\x78", quoted[:28]))
    assert parse(text.format("fragmentation-needed mtu=1400")) == expected
    assert parse(text.format("type=3 code=4 mtu=1400")) == expected
    assert parse(text.format("type=3 code=4 rest=00000578 quote=30"))[28:] == quoted[:30]
    assert parse(text.format("host-redirect gateway=10.9.8.7"))[20:28].hex()[8:] == "0a090807"
    assert parse(text.format("parameter-problem pointer=20"))[20:28].hex()[8:] == "14000000"


def test_icmpv6() -> None:
    quoted = parse("udp [fd00::1]:80 > [fd00::2]:40000 len=1400")
    data = parse("icmpv6 fd00::2 > [fd00::1] packet-too-big mtu=1280 [udp [fd00::1]:80 > [fd00::2]:40000 len=1400]")
    assert data == ipv6.build(A6, B6, 58, icmp.build(A6, B6, 2, 0, b"\0\0\5\0", quoted[:1232]))
    assert len(data) == 1280
    data = parse("icmpv6 fd00::2 > fd00::1 echo-reply id=7 seq=8 hop=255 tclass=1 flow=0x12345")
    assert data[:8].hex() == "60112345" + "00083aff"


def test_sctp() -> None:
    data = parse("sctp 10.0.1.2:5000 > 192.168.1.100:36412 INIT tag=0")
    assert [(kind, len(body)) for kind, _, body in sctp.chunks(data, 20)] == [(sctp.INIT, 16)]
    assert sctp.valid(data, 20)
    data = parse('sctp 10.0.1.2:1 > 10.0.1.3:2 COOKIE-ECHO:0102,DATA/1,64/255:aa tag=9 data="hi"')
    assert list(sctp.chunks(data, 20)) == [
        (10, 0, b"\1\2"), (0, 1, b"\0\0\0\1" + bytes(8) + b"hi"), (64, 255, b"\xaa"),
    ]  # fmt: skip
    assert data[24:28] == b"\0\0\0\x09"


def test_tunnels() -> None:
    inner = parse(SYN)
    inner6 = parse("udp [fd00::2]:1 > [fd00::1]:2")
    for text, expected in [
        (f"ipip 10.0.1.2 > 192.168.1.100 [{SYN}]", tunnel.ipip(inner, A, B)),
        ("ipip 10.0.1.2 > 192.168.1.100 [udp [fd00::2]:1 > [fd00::1]:2]", tunnel.ipip(inner6, A, B)),
        (f"ipip fd00::2 > fd00::1 [{SYN}] hop=9", tunnel.ipip(inner, A6, B6, 9)),
        (f"gre 10.0.1.2 > 192.168.1.100 [{SYN}] csum", tunnel.gre(inner, A, B, checksummed=True)),
        (f"gue 10.0.1.2:33333 > 192.168.1.100:6080 [{SYN}]", tunnel.gue(inner, A, B, 33333)),
        (f"gue 10.0.1.2:3 > 192.168.1.100:9 [{SYN}] csum remcsum=20:36", tunnel.gue(
            inner, A, B, 3, 9, checksummed=True, remote=(20, 36)
        )),
    ]:  # fmt: skip
        assert parse(text) == expected


def test_fragments() -> None:
    later = parse("udp 10.0.1.2 > 192.168.1.100 frag=1480 len=100 id=7")
    assert later == ipv4.build(A, B, 17, bytes(range(100)), identification=7, fragment=1480)
    first = parse("udp 10.0.1.2 > 192.168.1.100 frag=0+ hex=0001 id=7")
    assert first == ipv4.build(A, B, 17, b"\0\1", identification=7, more=True)
    whole = udp.build(A, B, 1, 2, bytes(range(200)) * 20)
    data = parse("udp 10.0.1.2:1 > 192.168.1.100:2 frag=0+ ulen=4008 len=192 sum=0x0000")
    assert data[20:26] == whole[:6]
    six = parse("udp fd00::2 > fd00::1 frag=1232 len=8 id=0xdeadbeef ext=hopopts,dstopts:0104000000000104000000000000")
    extensions = list(ipv6.extensions(six))
    assert [each[:2] for each in extensions] == [(0, 40), (60, 48), (44, 64), (17, 72)]
    assert six[64:].hex() == "110004d0deadbeef0001020304050607"


def test_other_protocols() -> None:
    assert parse("ip 10.0.1.2 > 192.168.1.100 proto=89 len=20") == ipv4.build(A, B, 89, bytes(range(20)))
    assert parse("ip 10.0.1.2 > 192.168.1.100 proto=2 ipoptions=94040000")[20:24].hex() == "94040000"
    assert parse("raw 4500") == b"\x45\0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing is no protocol, expected one of: tcp, udp"),
        ("tpc 1.2.3.4:1 > 1.2.3.5:2", "'tpc' is no protocol"),
        ("tcp 1.2.3.4:1 1.2.3.5:2", "expected: tcp SOURCE > DESTINATION"),
        ("tcp 1.2.3.4 > 1.2.3.5", "'1.2.3.4' has no port, expected tcp ADDRESS:PORT"),
        ("tcp 1.2.3.4:1 > 1.2.3.5", "'1.2.3.5' has no port, expected 1.2.3.5:PORT"),
        ("tcp fd00::1 > [fd00::2]:1", "'fd00::1' has no port, expected [fd00::1]:PORT"),
        ("tcp 1.2.3.4:99999 > 1.2.3.5:1", "'99999' is not a port"),
        ("tcp 1.2.3.999:9 > 1.2.3.5:1", "'1.2.3.999' is not an IPv4 or IPv6 address"),
        ("tcp 1.2.3.4:1 > [fd00::1]:1", "'[fd00::1]:1' is not of the family of '1.2.3.4:1'"),
        ("tcp [fd00::1:1 > [fd00::1]:1", "ends too early, expected ]"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 ]", "a ] too many"),
        ('udp 1.2.3.4:1 > 1.2.3.5:1 data="x', "expected a closing quote"),
        ("udp 1.2.3.4:1 > 1.2.3.5:1 data=x", "is not quoted"),
        ('udp 1.2.3.4:1 > 1.2.3.5:1 data="\\q"', "\\q is no escape"),
        ('udp 1.2.3.4:1 > 1.2.3.5:1 data="\\x4"', "not hexadecimal"),
        ('udp 1.2.3.4:1 > 1.2.3.5:1 data="a"b"c"', "goes on behind"),
        ("udp 1.2.3.4:1 > 1.2.3.5:1 hex=0", "'hex=0' is not hexadecimal"),
        ('udp 1.2.3.4:1 > 1.2.3.5:1 hex=00 data="a"', "exclude each other"),
        ("udp 1.2.3.4:1 > 1.2.3.5:1 hex=0011 len=1", "out of range, expected 2..65535"),
        ("udp 1.2.3.4:1 > 1.2.3.5:1 len=65535", "make no UDP datagram"),
        ("udp 1.2.3.4:1 > 1.2.3.5:1 len=65510", "make no IPv4 packet"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 SX", "'SX' is no word of a packet of tcp, expected one of: ttl="),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 S A", "'A' is no word"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 sequence=4", "'sequence=4' is no word"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 seq=-4", "'-4' is not a number, expected 0..4294967295"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 seq=1 seq=2", "seq is there twice"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 df df", "df is there twice"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 df nodf", "exclude each other"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 ttl=256", "'ttl=256': 256 is out of range, expected 0..255"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 ts=4", "expected ts=NUMBER:NUMBER"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 mss=4 options=01", "exclude each other"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 options=" + "01" * 41, "44 bytes of TCP options"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 flow=1", "'flow=1' is no word"),
        ("tcp 1.2.3.4:1 > 1.2.3.5:1 [tcp 1.2.3.4:1 > 1.2.3.5:1]", "'[tcp 1.2.3.4:1 > 1.2.3.5:1]' is no word"),
        ("udp 1.2.3.4:1 > 1.2.3.5:1 frag=8", "a later fragment has no ports"),
        ("udp 1.2.3.4 > 1.2.3.5 frag=9", "expected a multiple of 8"),
        ("icmp 1.2.3.4:1 > 1.2.3.5:2 echo-request", "icmp has no ports"),
        ("icmp 1.2.3.4 > 1.2.3.5", "nothing is no type of message"),
        ("icmp 1.2.3.4 > 1.2.3.5 ping", "'ping' is no type of message, expected type=NUMBER or one of: echo-reply"),
        ("icmp 1.2.3.4 > 1.2.3.5 echo-reply type=0", "exclude each other"),
        ("icmp 1.2.3.4 > 1.2.3.5 port-unreachable rest=00", "has 1 bytes, expected 4"),
        ("icmp 1.2.3.4 > 1.2.3.5 redirect gateway=fd00::1", "not an IPv4 address"),
        ("icmp 1.2.3.4 > 1.2.3.5 echo-reply [raw 45]", "no error quotes no packet"),
        ("icmp 1.2.3.4 > 1.2.3.5 port-unreachable [raw 45] quote=2", "expected 0..1"),
        ("icmp 1.2.3.4 > 1.2.3.5 port-unreachable [udp 1.2.3.4 > 1.2.3.5]", "'1.2.3.4' has no port"),
        ("icmp 1.2.3.4 > 1.2.3.5 port-unreachable [raw 45] [raw 45]", "one packet in brackets"),
        ("icmp fd00::1 > fd00::2 echo-reply", "expected icmpv6"),
        ("icmpv6 1.2.3.4 > 1.2.3.5 echo-reply", "expected icmp"),
        ("sctp 1.2.3.4:1 > 1.2.3.5:1 INIT,BLA", "'BLA' is no chunk"),
        ("sctp 1.2.3.4:1 > 1.2.3.5:1 INIT len=4", "no DATA chunk"),
        ("sctp 1.2.3.4:1 > 1.2.3.5:1 DATA len=65530", "make no SCTP chunk"),
        ("ipip 1.2.3.4 > 1.2.3.5", "expected [PACKET]"),
        ("gue 1.2.3.4:1 > 1.2.3.5:2 remcsum=1:70000 [raw 45]", "out of range"),
        ("ip 1.2.3.4 > 1.2.3.5", "expected proto=NUMBER"),
        ("ip fd00::1 > fd00::2 proto=1 ext=ah", "'ah' is unknown, expected one of: hopopts, routing, dstopts"),
        ("ip fd00::1 > fd00::2 proto=1 ext=hopopts:00", "make no extension header"),
        ("raw 45 00", "expected: raw HEX"),
        ("raw xy", "not hexadecimal"),
        ("ipip 1.2.3.4 > 1.2.3.5 [" * 20 + "raw 45" + "]" * 20, "more than 8 packets"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in str(caught.value)


WRITTEN = [
    "tcp 10.0.1.2:40000 > 192.168.1.100:80 S seq=1000 mss=1460",
    "tcp 10.0.1.2:40000 > 192.168.1.100:80 S seq=1000 mss=1460 wscale=7 sackok ts=5:0 ttl=63 df",
    'tcp [fd00::2]:40000 > [fd00::1]:80 PA seq=1001 ack=2001 window=512 data="GET /\\r\\n" flow=0x9',
    "tcp 10.0.1.2:40000 > 192.168.1.100:80 - seq=0 options=0303030303000000",
    "udp 10.0.1.2:40000 > 192.168.1.100:53 len=100 id=7 ttl=3",
    "udp 10.0.1.2:40000 > 192.168.1.100:53 nosum hex=00ff",
    "udp 10.0.1.2:40000 > 192.168.1.100:53 badsum ulen=9 len=100",
    "udp 10.0.1.2 > 192.168.1.100 len=8 frag=1480",
    "udp 10.0.1.2:1 > 192.168.1.100:2 sum=0x1234 ulen=3008 len=1472 id=7 frag=0+",
    "udp fd00::2 > fd00::1 len=8 id=7 frag=1232+ ext=hopopts",
    "icmp 10.0.1.2 > 10.0.1.3 len=16 frag=0+",
    "icmp 10.0.1.2 > 10.0.1.3 echo-request id=1 seq=2 len=56 ipid=5 df badipsum",
    "icmp 10.0.1.2 > 10.0.1.3 fragmentation-needed mtu=1400 [tcp 10.0.1.3:80 > 10.0.1.9:1024 seq=1 len=1460]",
    "icmp 10.0.1.2 > 10.0.1.3 port-unreachable [udp 10.0.1.3:80 > 10.0.1.9:1024 sum=0x1234 len=1460]",
    "icmp 10.0.1.2 > 10.0.1.3 ttl-exceeded quote=44 [tcp 10.0.1.3:80 > 10.0.1.9:1024 SA seq=1 ack=2 mss=1460]",
    "icmp 10.0.1.2 > 10.0.1.3 network-unreachable rest=00000001 hex=4500",
    "icmp 10.0.1.2 > 10.0.1.3 type=3 code=77 quote=20 [ip 10.0.1.3 > 10.0.1.9 proto=89 len=9]",
    "icmpv6 fd00::2 > fd00::1 packet-too-big mtu=1280 [udp [fd00::1]:80 > [fd00::2]:4000 sum=0xabcd len=1400]",
    "icmpv6 fd00::2 > fd00::1 bad-header pointer=6 hop=255",
    "sctp 10.0.1.2:5000 > 192.168.1.100:36412 INIT:00000001 tag=0",
    "sctp 10.0.1.2:5000 > 192.168.1.100:36412 INIT tag=0",
    "sctp 10.0.1.2:5000 > 192.168.1.100:36412 DATA/7:00000001,ABORT badsum tag=9",
    "ipip 10.0.1.2 > 10.0.1.3 ttl=9 [udp [fd00::2]:1 > [fd00::1]:2]",
    "ipip fd00::2 > fd00::1 [ipip 10.0.1.2 > 10.0.1.3 [ip 10.0.1.2 > 10.0.1.3 proto=89]]",
    "gre 10.0.1.2 > 10.0.1.3 csum [udp 10.0.1.2:1 > 10.0.1.3:2]",
    "gue 10.0.1.2:33333 > 10.0.1.3:6080 [udp 10.0.1.2:1 > 10.0.1.3:2]",
    "gue [fd00::2]:33333 > [fd00::1]:6080 csum remcsum=20:26 [udp 10.0.1.2:1 > 10.0.1.3:2]",
    "udp 10.0.1.2:33333 > 10.0.1.3:6080 hex=2004",
    "ip 10.0.1.2 > 10.0.1.3 proto=89 hex=0200 tos=192 ipoptions=94040000",
    "ip fd00::2 > fd00::1 proto=59 ext=routing:000400000000,dstopts",
    "raw 4500",
    "raw",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_describe_writes(text: str) -> None:
    assert describe(parse(text)) == text


NUMBERS = st.integers(0, 65535)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_there_and_back(data: st.DataObject) -> None:
    six, payload = data.draw(st.booleans()), data.draw(st.binary(max_size=40))
    ends = (A6, B6) if six else (A, B)
    ports = data.draw(NUMBERS), data.draw(st.one_of(NUMBERS, st.just(6080)))
    kind = data.draw(st.integers(0, 255))
    protocol, body = data.draw(
        st.sampled_from([
            (6, tcp.build(*ends, *ports, kind, 5, kind, 99, payload[8:], payload[:8])),
            (17, udp.build(*ends, *ports, payload, bool(kind & 1))),
            (58 if six else 1, icmp.build(*ends, kind, kind & 7, payload[:4].ljust(4, b"\0"), payload[4:])),
            (58 if six else 1, icmp.build(*ends, 3, 1, bytes(4), tunnel.ipip(parse(SYN), *ends)[: 60 + kind])),
            (132, sctp.build(*ports, 7, [sctp.chunk(kind, 1, payload), payload])),
            (47, tunnel.gre_payload(tunnel.ipip(parse(SYN), *ends), bool(kind & 1))),
            (17, udp.build(*ends, 1, 6080, tunnel.gue_payload(parse(SYN)))),
            (kind, bytearray(payload)),
        ])
    )  # fmt: skip
    if data.draw(st.booleans()) and body:
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if six:
        packet = ipv6.build(*ends, protocol, body, kind, 3, 0x12345)
    else:
        packet = ipv4.build(*ends, protocol, body, kind, 3, 7, bool(kind & 2), options=payload[:4])
    if data.draw(st.integers(0, 3)) == 0:
        packet = data.draw(
            st.sampled_from((ipv6.fragment(packet, 72, 5) if six else ipv4.fragment(packet, 44)) or [packet])
        )
    text = describe(bytes(packet))
    assert parse(text) == packet
    assert not text.startswith("raw") or six


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"\x45\0\0\x50", b"\x60\0\0\0\0\x28"]), st.integers(0, 255))
@example(b"", b"", 0)
def test_any_bytes_can_be_said(data: bytes, head: bytes, protocol: int) -> None:
    packet = bytearray(head + data)
    if len(packet) > 10:
        packet[9 if head[:1] == b"\x45" else 6] = protocol
    assert parse(describe(bytes(packet))) == packet


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WRITTEN), st.integers(0, 200), st.text('[]" =:,/>-+0aA\\x²', max_size=4))
def test_a_broken_text_is_refused_or_read(text: str, at: int, noise: str) -> None:
    try:
        data = parse(text[:at] + noise + text[at:])
    except UsageError:
        return
    assert parse(describe(data)) == data


def test_packets_in_packets_do_not_take_for_ever() -> None:
    packet = bytes(ipv4.build(A, B, 89, b""))
    for _ in range(200):
        packet = bytes(tunnel.gre(packet, A, B))
        packet = packet[:22] + b"\x08\0" + packet[24:]
    assert parse(describe(packet)) == packet
    quoted = b"\x45\0\0\x14"
    for _ in range(100):
        quoted = bytes(ipv4.build(A, B, 1, icmp.build(A, B, 3, 1, bytes(4), quoted)))
    assert parse(describe(quoted)) == quoted
