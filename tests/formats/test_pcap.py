"""Captures: files put together here byte by byte, read back; broken ones; and in constant memory."""

from __future__ import annotations

import io
import tracemalloc
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsctl.errors import UsageError
from ipvsctl.formats.capture import MAXIMUM, Record
from ipvsctl.formats.link_layer import ETHERNET, IPV4, IPV6, LOOP, NULL, RAW, SLL, SLL2, packet_type, strip
from ipvsctl.formats.packet_text import parse
from ipvsctl.formats.pcap import Writer, read

P4 = parse("udp 10.0.0.1:1 > 10.0.0.2:2 len=5")
P6 = parse("udp [fd00::1]:1 > [fd00::2]:2 len=5")


def pcap(order: str, magic: int, *records: tuple[int, int, bytes], link: int = RAW) -> bytes:
    data = pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65535, link)
    for seconds, fraction, packet in records:
        data += pack(order + "IIII", seconds, fraction, len(packet), len(packet) + 7) + packet
    return data


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return pack(order + "II", kind, len(body) + 12) + body + pack(order + "I", len(body) + 12)


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str = "<", link: int = RAW, *options: tuple[int, bytes], snaplen: int = 0) -> bytes:
    body = pack(order + "HHI", link, 0, snaplen)
    for code, value in options:
        body += pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
    return block(order, 1, body + (bytes(4) if options else b""))


def enhanced(order: str, number: int, ticks: int, packet: bytes) -> bytes:
    head = pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet) + 7)
    return block(order, 6, head + packet + bytes(-len(packet) % 4) + b"\1\0\2\0hi\0\0\0\0\0\0")


def records(data: bytes) -> list[Record]:
    return list(read(io.BytesIO(data)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap(order: str, magic: int, unit: int) -> None:
    assert records(pcap(order, magic, (5, 7, P4), (0xFFFFFFFF, 999, P6))) == [
        Record(5 * 10**9 + 7 * unit, RAW, P4, 0, "", len(P4) + 7),
        Record(0xFFFFFFFF * 10**9 + 999 * unit, RAW, P6, 0, "", len(P6) + 7),
    ]
    assert records(pcap(order, magic)) == []
    assert records(pcap(order, magic, (0, 0, b""), link=0x10000000 | ETHERNET))[0].link == ETHERNET


@pytest.mark.parametrize("order", "<>")
def test_pcapng(order: str) -> None:
    data = section(order) + interface(order, RAW)
    data += interface(order, ETHERNET, (2, b"eth0\0"), (9, b"\x09"), (14, pack(order + "q", -3)))
    data += interface(order, SLL, (9, b"\x8a")) + block(order, 5, b"statistics, say.")
    data += enhanced(order, 0, 1 << 40, P4) + enhanced(order, 1, 5 * 10**9 + 1, P6) + enhanced(order, 2, 2048 + 1, P4)
    data += block(order, 3, pack(order + "I", len(P6)) + P6)
    data += block(order, 2, pack(order + "HHIIII", 1, 0, 0, 9, len(P4), len(P4)) + P4)
    other = ">" if order == "<" else "<"
    data += section(other) + interface(other, IPV4, snaplen=20) + block(other, 3, pack(other + "I", len(P4)) + P4[:20])
    assert records(data) == [
        Record((1 << 40) * 1000, RAW, P4, 0, "", len(P4) + 7),
        Record(2 * 10**9 + 1, ETHERNET, P6, 1, "eth0", len(P6) + 7),
        Record(2 * 10**9 + 976562, SLL, P4, 2, "", len(P4) + 7),
        Record(2 * 10**9 + 976562, RAW, P6, 0, "", len(P6)),
        Record(9 - 3 * 10**9, ETHERNET, P4, 1, "eth0", len(P4)),
        Record(9 - 3 * 10**9, IPV4, P4[:20], 0, "", len(P4)),
    ]


NG = section() + interface()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "byte 0: the file ends inside its first bytes, 4 bytes too early"),
        (b"\xd4\xc3", "byte 0: the file ends inside its first bytes, 2 bytes too early"),
        (b"GIF89a", "byte 0: 47494638 begins neither a pcap nor a pcapng file"),
        (b"\x1f\x8b\x08\x00", "byte 0: this is compressed"),
        (pcap("<", 0xA1B2C3D4)[:20], "byte 4: the file ends inside the file header, 4 bytes too early"),
        (pack("<IHHIIII", 0xA1B2C3D4, 9, 0, 0, 0, 0, 1), "byte 4: pcap version 9"),
        (pcap("<", 0xA1B2C3D4) + bytes(15), "byte 24: the file ends inside a record, 1 bytes too early"),
        (pcap("<", 0xA1B2C3D4, (1, 1, P4))[:-1], "byte 40: the file ends inside a record, 1 bytes too early"),
        (pcap("<", 0xA1B2C3D4) + pack("<IIII", 0, 0, MAXIMUM + 1, 0), "byte 32: a record of 262145 bytes"),
        (section()[:8] + b"abcd", "byte 8: 61626364 is no byte-order magic"),
        (section()[:12] + b"\2\0\0\0", "byte 12: pcapng version 2"),
        (pack("<4sII", b"\x0a\x0d\x0d\x0a", 12, 0x1A2B3C4D), "byte 4: a section header of 12 bytes"),
        (section()[:-1], "ends inside a block"),
        (NG + b"\1\0\0", "byte 48: the file ends inside a record"),
        (NG + pack("<II", 6, 13), "byte 48: a block of 13 bytes"),
        (NG + pack("<II", 6, 1 << 30), "byte 48: a block of 1073741824 bytes"),
        (NG + pack("<IIII", 6, 16, 0, 20), "byte 60: the block's length is 16 at its begin and 20 at its end"),
        (NG + block("<", 6, bytes(16)), "byte 56: a packet block is too short"),
        (NG + enhanced("<", 1, 0, P4), "byte 56: interface 1 is not described, there are 1"),
        (NG + block("<", 6, pack("<IIIII", 0, 0, 0, 5, 5) + b"abcd"), "a packet of 5 bytes does not fit"),
        (section() + block("<", 1, bytes(4)), "an interface description is too short"),
        (section() + block("<", 3, bytes(4)), "interface 0 is not described, there are 0"),
    ],
)  # fmt: skip
def test_broken_files(data: bytes, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(read(io.BytesIO(data), "a.pcap"))
    assert str(caught.value).startswith("a.pcap: byte ")
    assert message in str(caught.value)


def test_what_came_before_the_break_is_given() -> None:
    seen = []
    with pytest.raises(UsageError):
        for record in read(io.BytesIO(pcap("<", 0xA1B2C3D4, (1, 1, P4), (2, 2, P6))[:-1])):
            seen.append(record.data)
    assert seen == [P4]


class Dribble:
    """A pipe that gives a few bytes at a time, and makes records for ever."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data = io.BytesIO(data)
        self.size = size

    def read(self, size: int, /) -> bytes:
        return self.data.read(min(size, self.size))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_short_reads_are_no_end(size: int) -> None:
    data = NG + enhanced("<", 0, 1000, P4) + block("<", 99, bytes(1000)) + enhanced("<", 0, 2000, P6)
    assert [record.data for record in read(Dribble(data, size))] == [P4, P6]


class Endless:
    """A capture of many records that exists only as it is read."""

    def __init__(self, head: bytes, each: bytes, count: int) -> None:
        self.buffer, self.each, self.count = head, each, count

    def read(self, size: int, /) -> bytes:
        while len(self.buffer) < size and self.count:
            self.buffer += self.each
            self.count -= 1
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data


@pytest.mark.parametrize(
    ("head", "each"),
    [
        (pcap("<", 0xA1B2C3D4), pcap("<", 0xA1B2C3D4, (1, 1, bytes(20000)))[24:]),
        (NG, enhanced("<", 0, 1, bytes(20000))),
    ],
    ids=["pcap", "pcapng"],
)
def test_constant_memory(head: bytes, each: bytes) -> None:
    tracemalloc.start()
    assert sum(1 for _ in read(Endless(head, each, 2000))) == 2000  # 40 MB
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_huge_block_of_another_kind_is_not_kept() -> None:
    tracemalloc.start()
    size = (8 << 20) + 12
    data = Endless(NG + pack("<II", 77, size), bytes(65536), 128)
    with pytest.raises(UsageError, match="ends inside a block"):
        list(read(data))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


ETHER = bytes(12)


@pytest.mark.parametrize(
    ("link", "data", "kind", "packet", "vlans"),
    [
        (ETHERNET, ETHER + b"\x08\0" + P4 + bytes(9), "ipv4", P4 + bytes(9), ()),
        (ETHERNET, ETHER + b"\x86\xdd" + P6, "ipv6", P6, ()),
        (ETHERNET, ETHER + b"\x81\0\x20\x05\x08\0" + P4, "ipv4", P4, (5,)),
        (ETHERNET, ETHER + b"\x88\xa8\0\1\x81\0\x0f\xff\x86\xdd" + P6, "ipv6", P6, (1, 4095)),
        (ETHERNET, ETHER + b"\x08\x06" + bytes(28), "arp", b"", ()),
        (ETHERNET, ETHER + b"\x88\xcc" + bytes(28), "ethertype 0x88cc", b"", ()),
        (ETHERNET, ETHER + b"\0\x26" + bytes(28), "802.3", b"", ()),
        (ETHERNET, ETHER + b"\x08\0" + P6, "broken ipv4", b"", ()),
        (ETHERNET, ETHER + b"\x08\0", "broken ipv4", b"", ()),
        (ETHERNET, ETHER + b"\x08", "cut off", b"", ()),
        (ETHERNET, ETHER + b"\x81\0\0", "cut off", b"", ()),
        (RAW, P4, "ipv4", P4, ()),
        (RAW, P6, "ipv6", P6, ()),
        (RAW, b"\x55", "IP version 5", b"", ()),
        (RAW, b"", "IP version 0", b"", ()),
        (IPV4, P4, "ipv4", P4, ()),
        (IPV4, P6, "broken ipv4", b"", ()),
        (IPV6, P6, "ipv6", P6, ()),
        (SLL, bytes(14) + b"\x08\0" + P4, "ipv4", P4, ()),
        (SLL, bytes(15), "cut off", b"", ()),
        (SLL2, b"\x86\xdd" + bytes(18) + P6, "ipv6", P6, ()),
        (SLL2, b"\x86\xdd" + bytes(17), "cut off", b"", ()),
        (NULL, b"\2\0\0\0" + P4, "ipv4", P4, ()),
        (NULL, b"\0\0\0\2" + P4, "ipv4", P4, ()),
        (NULL, b"\x1e\0\0\0" + P6, "ipv6", P6, ()),
        (NULL, b"\x07\0\0\0" + P6, "address family 7", b"", ()),
        (LOOP, b"\0\0\0\x18" + P6, "ipv6", P6, ()),
        (LOOP, b"\0\0", "cut off", b"", ()),
        (105, P4, "link type 105", b"", ()),
    ],
)  # fmt: skip
def test_link_headers(link: int, data: bytes, kind: str, packet: bytes, vlans: tuple[int, ...]) -> None:
    assert strip(link, data) == (kind, packet, vlans)


@pytest.mark.parametrize(
    ("link", "data", "expected"),
    [
        (SLL, b"\0\4" + bytes(14), 4), (SLL, bytes(16), 0), (SLL, b"\0\4" + bytes(13), None),
        (SLL2, bytes(10) + b"\4" + bytes(9), 4), (SLL2, bytes(10) + b"\3" + bytes(9), 3),
        (SLL2, bytes(10) + b"\4" + bytes(8), None), (ETHERNET, b"\0\4" + bytes(30), None), (RAW, P4, None),
    ],
)  # fmt: skip
def test_packet_types(link: int, data: bytes, expected: int | None) -> None:
    assert packet_type(link, data) == expected


@pytest.mark.parametrize("order", "<>")
def test_a_cooked_header_tells_what_was_sent(order: str) -> None:
    sent, got = (b"\0" + kind + bytes(12) + b"\x08\0" + P4 for kind in (b"\4", b"\0"))
    file = pcap(order, 0xA1B2C3D4, (1, 1, sent), (1, 2, got), link=SLL)
    assert [record.outgoing for record in records(file)] == [True, False]


def test_writer() -> None:
    target = io.BytesIO()
    writer = Writer(target)
    writer.write(1_700_000_000_123_456_789, P4)
    writer.write(0, bytearray(P6), 1500)
    assert records(target.getvalue()) == [
        Record(1_700_000_000_123_456_789, RAW, P4, 0, "", len(P4)), Record(0, RAW, P6, 0, "", 1500),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="4294967296 seconds"):
        writer.write(2**32 * 10**9, P4)
    with pytest.raises(UsageError, match="-1 seconds"):
        writer.write(-1, P4)
    with pytest.raises(UsageError, match="262145 bytes"):
        writer.write(0, bytes(MAXIMUM + 1))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", pcap("<", 0xA1B2C3D4, (5, 7, P4)), NG + enhanced("<", 0, 5, P4) + section(">")]),
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=5)), max_size=3),
    st.binary(max_size=40),
)
def test_any_bytes(data: bytes, changes: list[tuple[int, bytes]], tail: bytes) -> None:
    data += tail
    for at, value in changes:
        data = data[:at] + value + data[at + len(value) :]
    try:
        found = records(data)
    except UsageError:
        return
    for record in found:
        for link in (NULL, ETHERNET, RAW, SLL, SLL2, record.link):
            strip(link, record.data)
