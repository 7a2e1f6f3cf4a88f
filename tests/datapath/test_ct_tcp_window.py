"""The TCP window as conntrack sees it (tcp_in_window of 6.1): numbers computed by hand."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from ipvsctl.datapath.ct import seqadj
from ipvsctl.datapath.ct.entry import make_tuple
from ipvsctl.datapath.ct.tcp_window import BE_LIBERAL, SACK_PERM, WINDOW_SCALE, Segment, Side, State, options
from ipvsctl.datapath.skb import ACK, FIN, RST, SYN
from ipvsctl.wire import tcp
from ipvsctl.wire.address import packed
from tests.datapath.ct_rig import CLIENT, SERVER, Rig, Talk

SACKED = tcp.build_options(tcp.Options(mss=1460, sack_permitted=True))
SCALED = tcp.build_options(tcp.Options(mss=1460, sack_permitted=True, wscale=7))
TUPLE = make_tuple(6, packed(CLIENT), packed(SERVER), 40000, 80)


def state_of(it: Talk) -> State:
    found = it.rig.ct.find(TUPLE)
    assert found is not None
    kept = found[0].proto
    if not isinstance(kept, State):
        kept = State()
        kept.load(found[0].proto)
    return kept


def side(of: Side) -> tuple[int, int, int, int]:
    return of.end, of.maxend, of.maxwin, of.maxack


def opened(server: int = 5000, client: int = 1000, **settings: int) -> Talk:
    it = Talk(Rig(**settings), client=client, server=server)
    it.c(SYN, window=8000)
    it.s(SYN | ACK, window=4000)
    it.c(ACK, window=8000)
    return it


def test_what_a_handshake_teaches() -> None:
    state = state_of(opened())
    assert side(state) == (1001, 5001, 8000, 5001)
    assert side(state.reply) == (5001, 13001, 4000, 1001)


def test_windows_scale_only_when_both_offer_it() -> None:
    for answer, scales, offered in ((SCALED, (7, 7), 4000 << 7), (SACKED, (0, 0), 4000)):
        it = Talk(Rig())
        it.c(SYN, options=SCALED)
        it.s(SYN | ACK, options=answer)
        state = state_of(it)
        assert (state.scale, state.reply.scale) == scales
        it.c(ACK)
        it.s(ACK, window=4000)
        assert state_of(it).maxend == 1001 + max(offered, 65535)


def test_a_silly_scale_is_fourteen() -> None:
    it = Talk(Rig())
    it.c(SYN, options=bytes((3, 3, 200)))
    assert state_of(it).scale == 14


@pytest.mark.parametrize(
    ("text", "flags", "scale"),
    [
        (b"", BE_LIBERAL | SACK_PERM, 5),
        (b"\1\1\1\1", BE_LIBERAL, 0),
        (b"\4\2\3\3\7\0", BE_LIBERAL | SACK_PERM | WINDOW_SCALE, 7),
        (b"\0\4\2", BE_LIBERAL, 0),
        (b"\3\1\4\2", BE_LIBERAL, 0),
        (b"\2\4\1\1\3\3\7\3", BE_LIBERAL | WINDOW_SCALE, 7),
        (b"\3\4\7\1\4\2\1\1", BE_LIBERAL | SACK_PERM, 0),
        (b"\1\1\1\3", BE_LIBERAL, 0),
    ],
)  # fmt: skip
def test_options_are_read_as_the_kernel_reads_them(text: bytes, flags: int, scale: int) -> None:
    known = Side()
    known.flags, known.scale = BE_LIBERAL | SACK_PERM, 5
    data = tcp.build(packed(CLIENT), packed(SERVER), 1, 2, SYN, 0, 0, 100, options=text)
    options(Segment(data, 0), known)
    assert (known.flags, known.scale) == (flags, scale)


BOUNDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("the last byte that the window takes", {"seq": 5000, "payload": b"x"}, "ESTABLISHED"),
    ("as far as a keepalive may be", {"seq": 5001}, "ESTABLISHED"),
    ("behind the window by less than another window is let go", {"seq": 9000}, "ESTABLISHED"),
    ("behind that", {"seq": 9001}, "INVALID"),
    ("a little too much data is let go", {"seq": 4999, "payload": b"x" * 10}, "ESTABLISHED"),
    ("begins behind it, ends a little behind it", {"seq": 5002, "payload": b"x" * 10}, "ESTABLISHED"),
    ("far too much data behind it", {"seq": 5002, "payload": b"x" * 9000}, "INVALID"),
    ("all acknowledged already", {"seq": 1, "payload": b"x" * 10}, "ESTABLISHED"),
    ("acknowledges all there is", {"ack": 5001}, "ESTABLISHED"),
    ("acknowledges what was never sent", {"ack": 5002}, "INVALID"),
    ("acknowledges what is long gone", {"ack": 5001 - 66001}, "ESTABLISHED"),
)


@pytest.mark.parametrize(("what", "more", "seen"), BOUNDS, ids=[row[0] for row in BOUNDS])
def test_the_bounds(what: str, more: dict[str, Any], seen: str) -> None:
    it = opened()
    assert it.c(ACK, **more) == seen


def test_odd_segments_teach_nothing_and_do_not_refresh() -> None:
    it = opened()
    it.rig.wait(1000)
    before = state_of(it).packed(), it.rig.only.timeout
    for more in ({"seq": 9001}, {"ack": 5002}, {"seq": -7100, "payload": b"x" * 10}, {"ack": 5001 - 66002}):
        it.c(ACK, **more)
        assert (state_of(it).packed(), it.rig.only.timeout) == before


def test_overshooting_data_is_remembered_for_its_acknowledgement() -> None:
    it = opened()
    assert it.c(ACK, seq=5002, payload=b"x" * 10) == "ESTABLISHED"
    assert state_of(it).end == 5012
    assert it.s(ACK, ack=5012) == "ESTABLISHED"
    assert state_of(it).reply.maxack == 5012


def test_liberal_takes_everything_but_learns_nothing_of_it() -> None:
    it = opened(tcp_be_liberal=1)
    before = side(state_of(it))
    assert it.c(ACK, seq=2**31, payload=b"x") == "ESTABLISHED"
    assert it.c(ACK, ack=5002) == "ESTABLISHED"
    assert side(state_of(it)) == before


def test_numbers_go_round() -> None:
    it = Talk(Rig(), client=2**32 - 3, server=2**32 - 1).open()
    for _ in range(4):
        assert it.c(ACK, b"abcde") == "ESTABLISHED"
        assert it.s(ACK, b"xyz") == "ESTABLISHED"
        assert it.c(ACK) == "ESTABLISHED"
    state = state_of(it)
    assert (state.end, state.reply.end) == ((2**32 - 2 + 20) % 2**32, 12)
    assert it.c(FIN | ACK) == "ESTABLISHED"
    assert it.state == "FIN_WAIT"


def test_a_sack_block_is_an_acknowledgement() -> None:
    blocks = b"\1\1" + pack(">BBII", 5, 10, 1501, 2001)
    it = Talk(Rig())
    it.c(SYN, window=8000, options=SACKED)
    it.s(SYN | ACK, window=4000, options=SACKED)
    it.c(ACK, window=8000)
    it.c(ACK, b"x" * 1000)
    assert it.s(ACK, ack=1001, window=4000, options=blocks) == "ESTABLISHED"
    state = state_of(it)
    assert (state.maxend, state.reply.maxwin) == (6001, 5000)
    too_far = b"\1\1" + pack(">BBII", 5, 10, 2001, 2002)
    assert it.s(ACK, ack=1001, window=4000, options=too_far) == "INVALID"


def test_without_the_option_sack_blocks_say_nothing() -> None:
    it = opened()
    it.c(ACK, b"x" * 1000)
    assert it.s(ACK, ack=1001, options=b"\1\1" + pack(">BBII", 5, 10, 9001, 9999)) == "ESTABLISHED"


def test_an_empty_acknowledgement_of_a_rst_counts_as_right() -> None:
    it = opened()
    assert it.s(RST | ACK, ack=0) == "ESTABLISHED"
    assert it.state == "CLOSE"


def test_a_second_syn_with_higher_numbers_begins_again() -> None:
    it = Talk(Rig())
    it.c(SYN)
    assert it.c(SYN, seq=2000) == "NEW"
    assert state_of(it).end == 2001
    assert it.c(SYN, seq=1500) == "NEW"
    assert state_of(it).end == 2001


def test_a_keepalive_is_not_taken_for_an_answer_in_the_middle() -> None:
    it = Talk(Rig())
    it.c(ACK)
    it.s(ACK, b"z", ack=1001)
    state = state_of(it)
    assert state.end == 1001


def test_acknowledgements_are_counted_back_where_the_payload_grew() -> None:
    it = opened()
    found = it.rig.ct.find(TUPLE)
    assert found is not None
    seqadj.ensure(found[0])
    seqadj.set_adjustment(found[0], 1, 5001, 3)
    it.s(ACK, b"227 something")
    # The client saw 16 bytes where the server wrote 13.
    assert it.c(ACK, ack=5001 + 13 + 3) == "ESTABLISHED"
    assert state_of(it).maxack == 5014
    assert it.c(ACK, ack=5001 + 13 + 4) == "INVALID"


@pytest.mark.parametrize(
    ("more", "learnt"),
    [
        ({"ack": 5001 - 66000}, True),
        ({"ack": 5001 - 66001}, False),
        ({"seq": 1001 - 4000 - 10, "payload": b"x" * 10}, True),
        ({"seq": 1001 - 4001 - 10, "payload": b"x" * 10}, False),
        ({"seq": 5001}, True),
        ({"seq": 5002}, False),
    ],
)
def test_the_last_number_that_is_in_the_window_refreshes(more: dict[str, Any], learnt: bool) -> None:
    it = opened()
    it.rig.wait(1000)
    assert it.c(ACK, **more) == "ESTABLISHED"
    assert (it.rig.only.timeout != 431000) == learnt


def test_a_closed_window_still_takes_one_byte() -> None:
    it = opened()
    it.s(ACK, b"z", window=0)
    assert state_of(it).maxend == 5001
    it.c(ACK, b"x" * 4000)
    it.s(ACK, window=0)
    assert state_of(it).maxend == 5002


def test_data_beyond_the_window_that_was_taken_widens_the_receivers_window() -> None:
    it = opened()
    assert it.c(ACK, b"x" * 4010) == "ESTABLISHED"
    state = state_of(it)
    assert (state.end, state.reply.maxwin) == (5011, 4010)


@pytest.mark.parametrize(("device", "sent"), [("eth0", 5004), ("lo", 5001)])
def test_numbers_are_adjusted_at_the_end_of_the_way_but_not_on_the_loopback_device(device: str, sent: int) -> None:
    it = opened()
    found = it.rig.ct.find(TUPLE)
    assert found is not None
    seqadj.ensure(found[0])
    seqadj.set_adjustment(found[0], 1, 4000, 3)
    skb = it.rig.enter(it.packet("s", ACK))
    skb.indev = device
    assert it.rig.ct.confirm(skb) is None
    assert int.from_bytes(skb.data[24:28]) == sent
