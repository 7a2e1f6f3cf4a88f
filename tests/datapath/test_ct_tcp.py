"""TCP in conntrack: the state table, what begins and what ends a connection (nf_conntrack_proto_tcp.c of 6.1)."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.ct import tcp
from ipvsctl.datapath.ct.entry import make_tuple
from ipvsctl.datapath.ct.tcp_window import Packed, State
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, SYN, URG, Skb
from ipvsctl.wire.address import packed
from tests.datapath.ct_rig import CLIENT, SERVER, Rig, Talk, tcp_packet

TUPLE = make_tuple(6, packed(CLIENT), packed(SERVER), 40000, 80)


def talk(**settings: int) -> Talk:
    return Talk(Rig(**settings))


def test_the_table_has_the_states_of_the_kernel() -> None:
    assert tcp.STATES[tcp.SYN_SENT2] == "SYN_SENT2"
    assert len(tcp.NEXT) == 10
    assert all(len(column) == 10 for column in tcp.NEXT)
    assert tcp.NEXT[tcp.ACK_EVENT][tcp.NONE] == tcp.ESTABLISHED
    assert tcp.NEXT[5 + tcp.ACK_EVENT][tcp.SYN_SENT] == tcp.IGNORE
    assert tcp.NEXT[5 + tcp.SYN_EVENT][tcp.TIME_WAIT] == tcp.SYN_SENT


def test_only_nine_combinations_of_flags_are_sent_by_stacks() -> None:
    valid = {flags & ~0xC8 for flags in range(256) if tcp.EVENTS[flags] != tcp.NO_EVENT}
    assert valid == {
        SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG,
    }  # fmt: skip
    assert tcp.EVENTS[ACK | PSH | 0xC0] == tcp.ACK_EVENT


def test_a_packed_state_is_the_same_state() -> None:
    state = State()
    state.end, state.reply.maxack, state.last_win, state.state = 2**32 - 1, 7, 65535, tcp.CLOSE
    state.flags = state.last_flags = 255
    kept = state.packed()
    assert kept.state == tcp.CLOSE
    state.clear()
    assert (state.end, state.state) == (0, 0)
    kept.state = tcp.FIN_WAIT
    state.load(kept)
    assert (state.end, state.reply.maxack, state.last_win, state.flags) == (2**32 - 1, 7, 65535, 255)
    assert (state.state, state.last_flags) == (tcp.FIN_WAIT, 255)


def proto_of(it: Talk) -> State | Packed:
    found = it.rig.ct.find(make_tuple(6, packed(CLIENT), packed(SERVER), it.sport, 80))
    assert found is not None
    kept = found[0].proto
    assert isinstance(kept, State | Packed)
    return kept


def test_a_connection_keeps_its_state_ready_while_data_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "UNPACKED", 2)
    rig = Rig()
    talks = [Talk(rig, 1000 + number).open() for number in range(3)]
    assert all(isinstance(proto_of(it), Packed) for it in talks)
    for it in talks[:2]:
        it.c(ACK, b"x")
        it.s(ACK, b"y")
    first = proto_of(talks[0])
    assert isinstance(first, State) and isinstance(proto_of(talks[1]), State)
    talks[2].c(ACK, b"x")
    assert isinstance(proto_of(talks[0]), Packed) and isinstance(proto_of(talks[2]), State)
    assert (first.state, proto_of(talks[0]).state) == (tcp.NONE, tcp.ESTABLISHED)
    for it in talks:
        for _ in range(3):
            assert it.c(ACK, b"x") == it.s(ACK, b"y") == "ESTABLISHED"
    ready = proto_of(talks[2])
    talks[2].c(FIN | ACK)
    assert isinstance(proto_of(talks[2]), Packed)
    assert ready.state == tcp.FIN_WAIT


def test_a_connection_from_syn_to_time_wait() -> None:
    it = talk()
    steps = [
        (it.c, SYN, "NEW", "SYN_SENT", 120), (it.s, SYN | ACK, "ESTABLISHED", "SYN_RECV", 60),
        (it.c, ACK, "ESTABLISHED", "ESTABLISHED", 432000), (it.c, FIN | ACK, "ESTABLISHED", "FIN_WAIT", 120),
        (it.s, ACK, "ESTABLISHED", "CLOSE_WAIT", 60), (it.s, FIN | ACK, "ESTABLISHED", "LAST_ACK", 30),
        (it.c, ACK, "ESTABLISHED", "TIME_WAIT", 120),
    ]  # fmt: skip
    for send, flags, seen, state, timeout in steps:
        assert send(flags) == seen
        assert (it.state, it.rig.only.timeout) == (state, timeout)


@pytest.mark.parametrize(
    ("flags", "loose", "seen"),
    [
        (SYN, 0, "NEW"), (ACK, 1, "NEW"), (ACK | PSH, 1, "NEW"), (ACK, 0, "INVALID"), (SYN | ACK, 1, "INVALID"),
        (FIN | ACK, 1, "INVALID"), (RST, 1, "INVALID"), (0, 1, "INVALID"), (SYN | FIN, 1, "INVALID"),
    ],
)  # fmt: skip
def test_what_begins_a_connection(flags: int, loose: int, seen: str) -> None:
    it = talk(tcp_loose=loose)
    assert it.c(flags, ack=1) == seen
    assert it.rig.ct.count == (seen == "NEW")


def test_assured_after_the_handshake_only() -> None:
    it = talk()
    it.c(SYN)
    it.s(SYN | ACK)
    assert "assured" not in it.rig.only.status
    it.c(ACK)
    assert it.rig.only.status == ("seen_reply", "assured", "confirmed")


def test_picked_up_in_the_middle_is_short_lived_until_it_is_answered() -> None:
    it = talk()
    assert it.c(ACK) == "NEW"
    assert (it.state, it.rig.only.timeout) == ("ESTABLISHED", 300)
    assert it.c(ACK, b"x") == "NEW"
    assert it.s(ACK) == "ESTABLISHED"
    assert it.rig.only.timeout == 300
    assert it.s(ACK, b"y") == "ESTABLISHED"
    assert "assured" in it.rig.only.status
    assert it.c(ACK) == "ESTABLISHED"


def test_one_sided_traffic_after_the_syn_is_invalid_and_leaves_the_timeout() -> None:
    it = talk()
    it.c(SYN)
    it.rig.wait(100)
    assert it.c(ACK) == "INVALID"
    assert it.c(ACK, b"GET") == "INVALID"
    assert it.c(SYN, seq=1000) == "NEW"
    assert it.rig.only.timeout == 20
    it.rig.wait(21)
    assert it.rig.ct.count == 0
    assert it.c(ACK) == "NEW"


def test_a_refused_connection_is_forgotten_at_once() -> None:
    it = talk()
    it.c(SYN)
    assert it.s(RST | ACK, seq=0) == "ESTABLISHED"
    assert it.rig.ct.count == 0


def test_an_exact_rst_closes() -> None:
    it = talk().open()
    assert it.s(RST) == "ESTABLISHED"
    assert (it.state, it.rig.only.timeout) == ("CLOSE", 10)


def test_an_inexact_rst_in_the_window_does_not_close() -> None:
    it = talk().open()
    it.c(ACK, b"x" * 10)
    it.s(ACK, b"y" * 10)
    assert it.c(RST, seq=it.seq["c"] + 5) == "ESTABLISHED"
    assert (it.state, it.rig.only.timeout) == ("ESTABLISHED", 10)


def test_an_old_rst_is_invalid_unless_told_otherwise() -> None:
    for ignore, seen in ((0, "INVALID"), (1, "ESTABLISHED")):
        it = talk(tcp_ignore_invalid_rst=ignore).open()
        it.c(ACK, b"x" * 100)
        it.s(ACK)
        assert it.c(RST, seq=it.seq["c"] - 50) == seen


def test_a_rst_behind_the_data_just_sent_closes() -> None:
    it = talk().open()
    it.c(ACK | PSH, b"x" * 19)
    assert it.c(RST) == "ESTABLISHED"
    assert it.state == "CLOSE"


def close(it: Talk) -> None:
    it.c(FIN | ACK)
    it.s(ACK)
    it.s(FIN | ACK)
    it.c(ACK)
    assert it.state == "TIME_WAIT"


def test_a_syn_reopens_a_closed_connection_as_a_new_one() -> None:
    it = talk().open()
    close(it)
    it.seq["c"] = 99999
    assert it.c(SYN) == "NEW"
    assert it.state == "SYN_SENT"
    assert it.rig.only.status == ("confirmed",)


def test_the_server_reopens_and_becomes_the_client() -> None:
    it = talk().open()
    close(it)
    assert it.s(SYN, seq=99999) == "NEW"
    assert it.rig.only.source == SERVER


def test_a_syn_after_a_rst_of_the_same_side_reopens() -> None:
    it = talk().open()
    it.c(RST)
    assert it.state == "CLOSE"
    assert it.c(SYN, seq=77777) == "NEW"
    assert it.state == "SYN_SENT"


def test_a_syn_after_the_servers_rst_is_let_go_and_its_answer_brings_conntrack_into_step() -> None:
    it = talk().open()
    it.s(RST)
    it.seq["c"], it.seq["s"] = 700000, 800000
    assert it.c(SYN) == "ESTABLISHED"
    assert it.state == "CLOSE"
    assert it.s(SYN | ACK) == "ESTABLISHED"
    assert it.state == "SYN_RECV"
    assert it.c(ACK) == "ESTABLISHED"
    assert it.state == "ESTABLISHED"
    assert it.c(ACK, b"hello") == "ESTABLISHED"


def test_an_ignored_syn_that_the_server_resets_closes_the_entry() -> None:
    it = talk().open()
    assert it.c(SYN, seq=700000) == "ESTABLISHED"
    assert it.state == "ESTABLISHED"
    assert it.s(RST | ACK, seq=0, ack=700001) == "ESTABLISHED"
    assert it.state == "CLOSE"


def test_a_challenge_ack_is_not_the_last_ack() -> None:
    it = talk().open()
    it.c(FIN | ACK)
    it.s(ACK)
    it.s(FIN | ACK)
    assert it.state == "LAST_ACK"
    assert it.c(SYN, seq=700000) == "ESTABLISHED"
    assert it.s(ACK, ack=it.seq["c"]) == "ESTABLISHED"
    assert it.state == "LAST_ACK"
    it.seq["c"] = 1002
    assert it.c(ACK) == "ESTABLISHED"
    assert it.state == "TIME_WAIT"


def test_a_half_open_connection_is_ended_by_the_clients_rst() -> None:
    it = talk()
    it.c(SYN)
    assert it.s(ACK, seq=9999, ack=4242) == "ESTABLISHED"
    assert it.state == "SYN_SENT"
    assert it.c(RST, seq=4242) == "ESTABLISHED"
    assert it.state == "CLOSE"


def test_both_sides_open_at_once() -> None:
    it = talk()
    it.c(SYN)
    assert it.s(SYN) == "ESTABLISHED"
    assert it.state == "SYN_SENT2"
    assert it.rig.only.timeout == 120
    assert it.c(SYN | ACK, seq=1000, ack=5001) == "ESTABLISHED"
    assert it.state == "SYN_RECV"
    it.seq["c"] = 1001
    assert it.s(ACK) == "ESTABLISHED"
    assert it.state == "ESTABLISHED"


def test_the_reject_targets_rst_closes() -> None:
    it = talk().open()
    skb = it.rig.enter(it.packet("c", ACK))
    it.rig.ct.close(skb)
    assert (it.state, it.rig.only.timeout) == ("CLOSE", 10)


def test_hooks_that_come_back_take_the_windows_anew() -> None:
    it = talk().open()
    it.seq["c"] += 10_000_000
    assert it.c(ACK, b"x") == "INVALID"
    it.rig.ct.use(2)
    assert it.c(ACK, b"x") == "ESTABLISHED"


def test_timeouts_follow_the_settings_at_once() -> None:
    it = talk(tcp_timeout_established=1000).open()
    assert it.rig.only.timeout == 1000
    it.rig.settings.write("net.netfilter.nf_conntrack_tcp_timeout_established", "50")
    it.c(ACK, b"x")
    assert it.rig.only.timeout == 50
    it.rig.wait(51)
    assert it.rig.ct.count == 0


def test_repeated_acks_shorten_the_timeout() -> None:
    it = talk().open()
    it.s(ACK, b"data")
    for expected in (300, 300, 300, 300):
        assert it.s(ACK, b"data", seq=5001) == "ESTABLISHED"
        assert it.rig.only.timeout == expected
    it.rig.settings.write("net.netfilter.nf_conntrack_tcp_timeout_max_retrans", "77")
    it.s(ACK, b"data", seq=5001)
    assert it.rig.only.timeout == 77


def test_unacknowledged_data_and_a_closed_window_shorten_the_timeout() -> None:
    it = talk().open()
    it.c(ACK, b"x" * 10)
    assert it.rig.only.timeout == 300
    it.s(ACK)
    assert it.rig.only.timeout == 432000
    it.rig.settings.write("net.netfilter.nf_conntrack_tcp_timeout_max_retrans", "88")
    it.s(ACK, window=0)
    assert it.rig.only.timeout == 88


def test_ends_that_both_say_goodbye_out_of_step_do_not_stay_for_days() -> None:
    it = talk().open()
    assert it.c(FIN | ACK, seq=900_000_000) == "INVALID"
    assert it.rig.only.timeout == 432000
    assert it.s(FIN | ACK, seq=900_000_000) == "INVALID"
    assert it.rig.only.timeout == 300


def test_a_wrong_checksum_is_invalid_only_where_it_is_checked() -> None:
    broken = bytearray(tcp_packet(SYN, 1))
    broken[-1] ^= 1
    assert Rig().walk(bytes(broken)) == "INVALID"
    assert Rig(checksum=0).walk(bytes(broken)) == "NEW"


@pytest.mark.parametrize("length", range(20, 40))
def test_a_cut_header_is_invalid(length: int) -> None:
    packet = bytearray(tcp_packet(SYN, 1)[:length])
    packet[2:4] = length.to_bytes(2)
    rig = Rig(checksum=0)
    assert rig.walk(bytes(packet)) == "INVALID"
    assert rig.ct.count == 0


def test_nothing_of_a_dead_connection_stays() -> None:
    it = talk().open()
    found = it.rig.ct.find(TUPLE)
    assert found is not None and not found[1]
    it.rig.ct.kill(found[0])
    skb = Skb(bytearray(it.packet("s", ACK)))
    assert it.rig.ct.find(it.rig.ct.tuple_of(skb) or b"") is None
    assert it.rig.timers.poll(it.rig.now + 10**7) is False


def test_a_rst_of_a_closing_connection_is_not_checked() -> None:
    it = talk().open()
    it.c(ACK, b"x" * 100)
    it.s(ACK)
    it.c(FIN | ACK)
    assert it.c(RST, seq=it.seq["c"] - 90) == "ESTABLISHED"
    assert it.state == "CLOSE"


def test_a_rst_of_number_zero_is_an_answer_to_a_syn_that_was_let_go() -> None:
    it = talk()
    it.c(SYN)
    it.s(SYN | ACK)
    assert it.c(RST, seq=0) == "ESTABLISHED"
    assert it.state == "CLOSE"


def test_the_scale_of_an_ignored_syn_is_remembered() -> None:
    scaled = bytes((2, 4, 5, 180, 1, 3, 3, 7))
    it = talk().open()
    it.s(RST)
    it.seq["c"], it.seq["s"] = 700000, 800000
    it.c(SYN, options=scaled)
    it.s(SYN | ACK, options=scaled)
    state = State()
    state.load(proto_of(it))
    assert (state.scale, state.reply.scale, state.maxend, state.reply.maxend) == (7, 7, 700001 + 65535, 800001)


def test_goodbyes_out_of_step_leave_a_timeout_that_is_short_already() -> None:
    it = talk(tcp_timeout_established=100, tcp_timeout_unacknowledged=50).open()
    it.c(FIN | ACK, seq=900_000_000)
    it.s(FIN | ACK, seq=900_000_000)
    assert it.rig.only.timeout == 100
