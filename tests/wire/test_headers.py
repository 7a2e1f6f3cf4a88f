"""Headers of IP and of the transports: against bytes worked out by hand and the checks of RFCs."""

from __future__ import annotations

from struct import unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, transport, udp
from ipvsctl.wire.address import packed
from ipvsctl.wire.checksum import checksum, fold, replaced, words

A, B = packed("10.0.1.2"), packed("192.168.1.100")
A6, B6 = packed("fd00::2"), packed("fd00::1")


def slow_words(data: bytes) -> int:
    data += b"\0" * (len(data) & 1)
    return sum(unpack(f">{len(data) // 2}H", data))


@given(st.binary(max_size=100))
def test_the_sum_folds_like_the_sum_of_words(data: bytes) -> None:
    assert fold(words(data)) == fold(slow_words(data))
    assert fold(words(memoryview(data))) == fold(words(bytearray(data)))


@given(st.binary(min_size=2, max_size=41), st.binary(min_size=4, max_size=4))
def test_a_checksum_follows_a_change(data: bytes, new: bytes) -> None:
    data = b"\x45\0\0\0" + data
    assert replaced(checksum(data), words(data[:4]), words(new)) == checksum(new + data[4:]) or not any(new + data[4:])


def test_rfc1071_example() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_ipv4_header() -> None:
    data = ipv4.build(packed("192.168.0.1"), packed("192.168.0.199"), 17, bytes(95), df=True)
    assert data[:20].hex() == "45000073000040004011b861c0a80001c0a800c7"
    assert ipv4.valid(data)
    data[8] -= 1
    assert not ipv4.valid(data)
    ipv4.seal(data)
    assert ipv4.valid(data)
    assert not ipv4.valid(data[:19])


def test_ipv4_refuses_what_is_too_long() -> None:
    assert len(ipv4.build(A, B, 17, bytes(65515))) == 65535
    with pytest.raises(ValueError, match="65536"):
        ipv4.build(A, B, 17, bytes(65516))
    with pytest.raises(ValueError, match="header"):
        ipv4.build(A, B, 17, b"", options=bytes(41))
    with pytest.raises(ValueError, match="65536"):
        ipv6.build(A6, B6, 17, bytes(65536))


def test_ipv4_fragments() -> None:
    # Record route (7) is not copied, router alert (0x94) is.
    options = bytes.fromhex("070704000000009404000001")[:11] + b"\0"
    whole = ipv4.build(A, B, 17, bytes(range(100)), identification=7, df=True, options=options)
    pieces = ipv4.fragment(whole, 32 + 44)
    assert [(len(piece), piece[6:8].hex()) for piece in pieces] == [(72, "2000"), (72, "2005"), (52, "000a")]
    assert all(ipv4.valid(piece) for piece in pieces)
    assert b"".join(piece[32:] for piece in pieces) == whole[32:]
    assert pieces[0][20:32] == options
    assert pieces[1][20:32].hex() == "01" * 7 + options[7:].hex()
    assert [piece[6] >> 6 for piece in ipv4.fragment(whole, 76, df=True)] == [1, 1, 1]
    again = ipv4.fragment(pieces[1], 32 + 24)
    assert [piece[6:8].hex() for piece in again] == ["2005", "2008"]
    assert ipv4.fragment(whole, 39) == []
    assert len(ipv4.fragment(whole, 132)) == 1


@pytest.mark.parametrize(
    ("options", "kept"),
    [("010100", "010100"), ("07", "07"), ("0703", "0703"), ("0701aa", "0701aa"), ("4403aa8203bb", "0101018203bb")],
)
def test_options_of_later_fragments(options: str, kept: str) -> None:
    assert ipv4.copied_options(bytes.fromhex(options)).hex() == kept


def test_ipv6_header_and_extensions() -> None:
    payload = ipv6.extension(60) + ipv6.extension(44) + ipv6.fragment_header(6, 0, True, 9) + b"x" * 24
    data = ipv6.build(A6, B6, 0, payload, hop_limit=5, traffic_class=0xB8, flow_label=0x12345)
    assert data[:8].hex() == "6b812345" + f"{len(payload):04x}" + "0005"
    assert list(ipv6.extensions(data)) == [(0, 40, 8), (60, 48, 8), (44, 56, 8), (6, 64, 24)]
    assert list(ipv6.extensions(data[:63])) == [(0, 40, 8), (60, 48, 8)]
    later = ipv6.build(A6, B6, 44, ipv6.fragment_header(60, 8, False, 9) + b"x" * 8)
    assert list(ipv6.extensions(later)) == [(44, 40, 8), (60, 48, 8)]
    with pytest.raises(ValueError, match="9 bytes"):
        ipv6.extension(6, bytes(7))


def test_ipv6_fragments() -> None:
    datagram = udp.build(A6, B6, 1, 2, bytes(3000))
    whole = ipv6.build(A6, B6, 0, ipv6.extension(17) + datagram)
    pieces = ipv6.fragment(whole, 1280, 0xDEADBEEF)
    assert [len(piece) for piece in pieces] == [1280, 1280, 40 + 8 + 8 + 3008 - 2 * 1224]
    assert [piece[48:56].hex() for piece in pieces] == ["11000001deadbeef", "110004c9deadbeef", "11000990deadbeef"]
    assert all(piece[6] == 0 and piece[40] == 44 for piece in pieces)
    assert all(piece[4] << 8 | piece[5] == len(piece) - 40 for piece in pieces)
    assert b"".join(piece[56:] for piece in pieces) == datagram
    assert ipv6.fragment(whole, 48 + 8 + 7, 1) == []


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([6], (40, 6)),
        ([0, 60, 6], (56, 48)),  # destination options without a routing header behind them count as well
        ([60, 43, 60, 6], (56, 48)),
        ([43, 6], (48, 40)),
        ([51, 6], (40, 6)),
    ],
)
def test_where_fragmentation_begins(kinds: list[int], expected: tuple[int, int]) -> None:
    payload = b"".join(ipv6.extension(following) for following in kinds[1:]) + bytes(20)
    assert ipv6.unfragmentable(ipv6.build(A6, B6, kinds[0], payload)) == expected


def test_a_cut_off_extension_header_is_no_place_to_fragment() -> None:
    assert ipv6.unfragmentable(ipv6.build(A6, B6, 0, b"\x06")) is None
    assert ipv6.unfragmentable(ipv6.build(A6, B6, 0, b"\x06\xff" + bytes(6))) is None
    assert ipv6.fragment(ipv6.build(A6, B6, 0, b"\x06"), 1280, 1) == []


def test_tcp_segment_and_options() -> None:
    wanted = tcp.Options(1460, 7, True, (), (1, 2))
    built = tcp.build_options(wanted)
    assert built.hex() == "020405b40402080a000000010000000201030307"
    segment = tcp.build(A, B, 40000, 80, tcp.SYN, 1000, 0, 64240, b"abc", built)
    assert transport.verify(segment, 2, 6, 0, A, B)
    assert not transport.verify(segment, 2, 6, 0, B6[:4], B)
    assert tcp.options(segment, 0) == wanted
    assert tcp.header_length(segment, 0) == 40
    blocks = tcp.Options(sack=((5, 6), (8, 9)), timestamps=(3, 4))
    assert tcp.options(tcp.build(A6, B6, 1, 2, 0, 0, 0, 0, options=tcp.build_options(blocks)), 0) == blocks
    with pytest.raises(ValueError, match="44 bytes"):
        tcp.build(A, B, 1, 2, 0, 0, 0, 0, options=bytes(41))


@given(st.binary(max_size=80), st.integers(0, 90))
def test_any_bytes_have_options(data: bytes, at: int) -> None:
    tcp.options(data, at)
    list(sctp.chunks(data, at))
    icmp.embedded(data, at)
    for protocol in (1, 6, 17, 58, 132, 136, 47):
        for family in (2, 10):
            transport.verify(data, family, protocol, at, A, B)


def test_udp_checksums() -> None:
    datagram = udp.build(A, B, 1, 2, b"odd")
    assert transport.verify(datagram, 2, 17, 0, A, B)
    datagram[8] ^= 1
    assert not transport.verify(datagram, 2, 17, 0, A, B)
    none = udp.build(A, B, 1, 2, b"odd", checksummed=False)
    assert none[6:8] == b"\0\0"
    assert transport.verify(none, 2, 17, 0, A, B)
    # 0xFFFF stands for a sum that comes out as zero.
    zero = next(d for n in range(65536) if (d := udp.build(A, B, 1, 2, n.to_bytes(2, "big")))[6:8] == b"\xff\xff")
    assert transport.verify(zero, 2, 17, 0, A, B)
    with pytest.raises(ValueError, match="65536"):
        udp.build(A, B, 1, 2, bytes(65528))


def test_crc32c_vectors() -> None:
    assert sctp.crc32c(b"123456789") == 0xE3069283
    assert sctp.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert sctp.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert sctp.crc32c(bytes(range(32))) == 0x46DD794E
    assert sctp.crc32c(b"6789", sctp.crc32c(b"12345")) == 0xE3069283


def test_sctp_packet() -> None:
    data = sctp.build(5000, 36412, 7, [sctp.chunk(sctp.INIT, body=bytes(16)), sctp.chunk(sctp.DATA, 3, b"abcde")])
    assert list(sctp.chunks(data, 0)) == [(1, 0, bytes(16)), (0, 3, b"abcde")]
    assert sctp.valid(data, 0)
    assert transport.verify(b"--" + data, 2, 132, 2)
    data[0] ^= 1
    assert not sctp.valid(data, 0)
    sctp.seal(data, 0)
    assert sctp.valid(data, 0)
    assert list(sctp.chunks(data[:-4], 0)) == [(1, 0, bytes(16))]
    assert list(sctp.chunks(data[:12] + b"\0\0\0\3", 0)) == []
    short = bytearray(11)
    sctp.seal(short, 0)
    assert not any(short)


def test_icmp_and_what_it_quotes() -> None:
    quoted = ipv4.build(B, A, 17, udp.build(B, A, 53, 4000), fragment=0, more=True)
    message = icmp.build(A, B, 3, 4, b"\0\0\5\xdc", quoted[:28])
    assert transport.verify(message, 2, 1, 0)
    found = icmp.embedded(message, 8)
    assert found == (2, 17, B, A, 8, 28, 0, True)
    assert found.ports(message) == (53, 4000)
    assert found.ports(message[:30]) is None
    assert icmp.embedded(message[:27], 8) is None
    later = icmp.embedded(ipv4.build(B, A, 17, bytes(8), fragment=1480), 0)
    assert later is not None
    assert later.fragment == 1480
    assert later.ports(bytes(100)) is None


def test_icmp6_and_what_it_quotes() -> None:
    quoted = ipv6.build(B6, A6, 60, ipv6.extension(44) + ipv6.fragment_header(6, 1232, True, 1) + b"12345678")
    message = icmp.build(A6, B6, 2, 0, b"\0\0\5\0", quoted)
    assert transport.verify(message, 10, 58, 0, A6, B6)
    assert not transport.verify(message, 10, 58, 0, A6, A6)
    assert icmp.embedded(message, 8) == (10, 6, B6, A6, 8, 64, 1232, True)
    assert icmp.embedded(message[:50], 8) is None
    bare = icmp.embedded(ipv6.build(B6, A6, 6, b""), 0)
    assert bare is not None
    assert bare.thoff == 40


def test_what_is_an_error() -> None:
    assert [kind for kind in range(20) if icmp.is_error(1, kind)] == [3, 4, 5, 11, 12]
    assert icmp.is_error(58, 127)
    assert not icmp.is_error(58, 128)


def test_udplite_covers_what_it_says() -> None:
    data = bytearray(b"\0\1\0\2\0\10\0\0" + b"payload!")
    check = fold(words(A) + words(B) + 136 + 16 + words(data[:8]))
    data[6:8] = check.to_bytes(2, "big")
    assert transport.verify(data, 2, 136, 0, A, B)
    data[10] ^= 1
    assert transport.verify(data, 2, 136, 0, A, B)
    data[0] ^= 1
    assert not transport.verify(data, 2, 136, 0, A, B)
