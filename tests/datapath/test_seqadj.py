"""Sequence adjustment: what nf_conntrack_seqadj.c adds where, around wraps, retransmissions and SACK."""

from __future__ import annotations

from struct import pack

import pytest

from ipvsctl.datapath.ct import seqadj
from ipvsctl.datapath.ct.entry import SEQ_ADJUST, Entry, make_tuple
from ipvsctl.datapath.skb import Skb
from ipvsctl.wire import ipv4, tcp
from ipvsctl.wire.address import packed
from ipvsctl.wire.transport import verify

A, B = packed("10.0.0.1"), packed("10.0.0.2")
ACK = 16


def entry(*changes, direction=1) -> Entry:
    made = Entry(None, make_tuple(6, A, B, 1000, 21), make_tuple(6, B, A, 21, 1000))
    seqadj.ensure(made)
    for seq, delta in changes:
        seqadj.set_adjustment(made, direction, seq, delta)
    return made


def segment(seq=0, ack=0, flags=ACK, options=b"") -> Skb:
    return Skb(ipv4.build(A, B, 6, tcp.build(A, B, 1000, 21, flags, seq, ack, 100, b"payload", options)))


def numbers(skb: Skb) -> tuple[int, int]:
    at = skb.thoff
    return int.from_bytes(skb.data[at + 4 : at + 8]), int.from_bytes(skb.data[at + 8 : at + 12])


def right(skb: Skb) -> bool:
    return verify(skb.data, 2, 6, skb.thoff, A, B)


def test_without_the_extension_nothing_happens():
    made = Entry(None, make_tuple(6, A, B, 1000, 21), make_tuple(6, B, A, 21, 1000))
    seqadj.set_adjustment(made, 0, 5, 5)
    assert made.seqadj is None
    assert not made.status
    assert seqadj.offset(made, 0, 9) == 0
    assert seqadj.adjust(segment(1, 2), made, False)


def test_ensure_keeps_what_there_is():
    made = entry((100, 3))
    before = made.seqadj
    seqadj.ensure(made)
    assert made.seqadj is before


def test_no_change_leaves_no_mark():
    assert not entry((100, 0)).status
    assert entry((100, 1)).status == SEQ_ADJUST


@pytest.mark.parametrize(
    ("changes", "offsets"),
    [
        # The segment that was changed keeps its number; what follows moves.
        ([(100, 5)], {99: 0, 100: 0, 101: 5}),
        # A second change further on: before it the first one's sum.
        ([(100, 5), (200, -2)], {100: 5, 200: 5, 201: 3}),
        # A retransmission of the last changed segment, and an older one, change nothing.
        ([(100, 5), (100, 5)], {100: 0, 101: 5}),
        ([(200, 5), (100, 7)], {200: 0, 201: 5}),
        # Across the wrap.
        ([(0xFFFFFFF0, 5)], {0xFFFFFFF0: 0, 0xFFFFFFFF: 5, 3: 5}),
        ([(0xFFFFFFF0, 5), (8, 5)], {0xFFFFFFF1: 5, 8: 5, 9: 10}),
        # A change that took back the one before: the place may then go back too.
        ([(200, 5), (300, -5)], {300: 5, 301: 0}),
    ],
)
def test_offsets(changes, offsets):
    made = entry(*changes)
    assert {seq: seqadj.offset(made, 1, seq) for seq in offsets} == offsets
    assert seqadj.offset(made, 0, 5000) == 0


def test_equal_sums_let_an_older_place_in():
    made = entry((200, 5), (300, -5), (300, 0))
    # before 5, after 0: not equal, so an older segment is a retransmission.
    seqadj.set_adjustment(made, 1, 250, 9)
    assert seqadj.offset(made, 1, 301) == 0


def test_adjust_sequence_number_of_the_changed_direction():
    made = entry((100, 5))
    skb = segment(101, 777)
    assert seqadj.adjust(skb, made, True)
    assert numbers(skb) == (106, 777)
    assert right(skb)


@pytest.mark.parametrize(
    ("ack", "adjusted"),
    # The receiver acknowledges what it got: 105 is the end of the changed segment, 100 its beginning.
    [(100, 100), (101, 96), (105, 100), (106, 101), (400, 395)],
)
def test_adjust_acknowledgement_of_the_other_direction(ack, adjusted):
    skb = segment(5000, ack)
    assert seqadj.adjust(skb, entry((100, 5)), False)
    assert numbers(skb) == (5000, adjusted)
    assert right(skb)


def test_adjust_wraps():
    made = entry((0xFFFFFF00, 0x200))
    skb = segment(0xFFFFFF01, 0)
    assert seqadj.adjust(skb, made, True)
    assert numbers(skb)[0] == 0x101
    back = segment(0, 0x101)
    assert seqadj.adjust(back, made, False)
    assert numbers(back)[1] == 0xFFFFFF01
    assert right(skb)
    assert right(back)


def test_acknowledgement_without_the_flag_stays():
    skb = segment(5000, 400, flags=2)
    assert seqadj.adjust(skb, entry((100, 5)), False)
    assert numbers(skb) == (5000, 400)


def test_sack_blocks_are_adjusted_with_their_checksum():
    blocks = (300, 400, 500, 600)
    skb = segment(1, 200, options=b"\1\1\5\x12" + pack(">IIII", *blocks))
    assert seqadj.adjust(skb, entry((100, -7)), False)
    at = skb.thoff + 24
    assert skb.data[at : at + 16] == pack(">IIII", *(block + 7 for block in blocks))
    assert numbers(skb) == (1, 207)
    assert right(skb)


def test_sack_blocks_on_both_sides_of_the_change():
    skb = segment(1, 50, options=b"\1\1\5\x0a" + pack(">II", 90, 150))
    assert seqadj.adjust(skb, entry((100, 10)), False)
    assert skb.data[skb.thoff + 24 : skb.thoff + 32] == pack(">II", 90, 140)


@pytest.mark.parametrize(
    ("options", "good"),
    [
        (b"", True),
        (b"\1\1\1\1", True),
        # Behind the end of the list anything may stand.
        (b"\0\5\0\0", True),
        # Options that are cut off, or whose length is less than two: the packet is dropped.
        (b"\1\1\1\5", False),
        (b"\1\1\5\6", False),
        (b"\1\5\1\1", False),
        (b"\2\0\1\1", False),
        # A SACK option of a strange length is passed over.
        (b"\5\4\1\1", True),
    ],
)
def test_options(options, good):
    skb = segment(1, 200, options=options)
    before = bytes(skb.data[skb.thoff + 20 :])
    assert seqadj.adjust(skb, entry((100, 3)), False) is good
    assert bytes(skb.data[skb.thoff + 20 :]) == before


def test_header_that_is_cut_off():
    skb = segment(1, 200)
    skb.data[skb.thoff + 12] = 15 << 4
    assert not seqadj.adjust(skb, entry((100, 3)), False)
    short = Skb(ipv4.build(A, B, 6, bytes(19)))
    assert not seqadj.adjust(short, entry((100, 3)), False)
