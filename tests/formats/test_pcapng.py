"""pcapng: the direction of packets, and files that are written here, read back and looked at byte by byte."""

from __future__ import annotations

import io
from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.errors import UsageError
from ipvsctl.formats.capture import MAXIMUM, Record
from ipvsctl.formats.link_layer import ETHERNET, RAW, SLL
from ipvsctl.formats.packet_text import parse
from ipvsctl.formats.pcap import read
from ipvsctl.formats.pcapng import Writer
from tests.formats.test_pcap import block, interface, section

P4 = parse("udp 10.0.0.1:1 > 10.0.0.2:2 len=5")
TIME = 1_700_000_000_123_456_789


def records(data: bytes) -> list[Record]:
    return list(read(io.BytesIO(data)))


def flagged(order: str, packet: bytes, flags: int | None, *before: tuple[int, bytes]) -> bytes:
    """An enhanced packet block whose options are a comment or so, and the flags."""
    body = pack(order + "IIIII", 0, 0, 0, len(packet), len(packet)) + packet + bytes(-len(packet) % 4)
    for code, value in (*before, *([] if flags is None else [(2, pack(order + "I", flags))])):
        body += pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
    return block(order, 6, body + bytes(4))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("flags", "outgoing"), [(None, False), (0, False), (1, False), (2, True), (3, False), (0xFFFF_FFF2, True)]
)
def test_flags_tell_the_direction(order: str, flags: int | None, outgoing: bool) -> None:
    for packet in (P4, P4 + b"1", P4 + b"123"):
        data = section(order) + interface(order) + flagged(order, packet, flags, (1, b"comment"))
        assert [(each.data, each.outgoing) for each in records(data)] == [(packet, outgoing)]


@pytest.mark.parametrize(("flags", "outgoing"), [(None, True), (0, True), (1, False), (2, True)])
def test_flags_go_before_the_cooked_header(flags: int | None, outgoing: bool) -> None:
    sent = b"\0\4" + bytes(12) + b"\x08\0" + P4
    data = section() + interface("<", SLL) + flagged("<", sent, flags)
    assert [each.outgoing for each in records(data)] == [outgoing]


def test_old_packet_blocks_have_flags_and_simple_ones_none() -> None:
    old = pack("<HHIIII", 0, 0, 0, 9, len(P4), len(P4)) + P4 + bytes(-len(P4) % 4) + pack("<HHIHH", 2, 4, 2, 0, 0)
    simple = pack("<I", len(P4)) + P4 + bytes(-len(P4) % 4)
    data = section() + interface() + block("<", 2, old) + block("<", 3, simple)
    assert [each.outgoing for each in records(data)] == [True, False]


def test_options_that_are_cut_off_are_no_options() -> None:
    body = pack("<IIIII", 0, 0, 0, 4, 4) + P4[:4] + pack("<HHI", 2, 8, 2)
    assert [each.outgoing for each in records(section() + interface() + block("<", 6, body))] == [False]


def test_writer() -> None:
    target = io.BytesIO()
    writer = Writer(target, ["eth0", "a-long-device.1"])
    writer.write(TIME, P4, "eth0", outgoing=True)
    writer.write(TIME + 1, bytearray(P4 + b"1"), "a-long-device.1", 1500, outgoing=False)
    writer.write(0, b"", "later", outgoing=True)
    assert records(target.getvalue()) == [
        Record(TIME, RAW, P4, 0, "eth0", len(P4), True),
        Record(TIME + 1, RAW, P4 + b"1", 1, "a-long-device.1", 1500, False),
        Record(0, RAW, b"", 2, "later", 0, True),
    ]


def test_every_block_of_a_written_file() -> None:
    """Their kinds and lengths as the specification has them (draft-ietf-opsawg-pcapng), for readers other than ours."""
    target = io.BytesIO()
    writer = Writer(target, ["eth0"], ETHERNET)
    writer.write(TIME, b"12345", "eth0", outgoing=True)
    data = target.getvalue()
    blocks = []
    while data:
        kind, size = unpack_from("<II", data)
        assert size % 4 == 0
        assert unpack_from("<I", data, size - 4)[0] == size
        blocks.append((kind, data[8 : size - 4]))
        data = data[size:]
    assert blocks == [
        (0x0A0D0D0A, pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)),
        (1, pack("<HHI", 1, 0, MAXIMUM) + b"\2\0\4\0eth0" + b"\x09\0\1\0\x09\0\0\0" + bytes(4)),
        (6, pack("<IIIII", 0, TIME >> 32, TIME & 0xFFFFFFFF, 5, 5) + b"12345\0\0\0" + b"\2\0\4\0\2\0\0\0" + bytes(4)),
    ]


def test_what_cannot_be_written() -> None:
    writer = Writer(io.BytesIO())
    for time in (-1, 1 << 64):
        with pytest.raises(UsageError, match="seconds are no time of a pcapng file"):
            writer.write(time, P4, "eth0", outgoing=True)
    with pytest.raises(UsageError, match="262145 bytes are no record"):
        writer.write(0, bytes(MAXIMUM + 1), "eth0", outgoing=True)


@given(
    st.lists(
        st.tuples(
            st.integers(0, (1 << 64) - 1), st.binary(max_size=70), st.sampled_from(["eth0", "eth1", "x" * 15]),
            st.booleans(),
        )
    )
)  # fmt: skip
def test_round_trip(packets: list[tuple[int, bytes, str, bool]]) -> None:
    target = io.BytesIO()
    writer = Writer(target, ["eth0"])
    for time, data, device, outgoing in packets:
        writer.write(time, data, device, outgoing=outgoing)
    found = [(each.time, each.data, each.device, each.outgoing) for each in records(target.getvalue())]
    assert found == packets
