"""The table of connections: confirmation, clashes, expiry, limits, templates, listing (nf_conntrack_core.c of 6.1)."""

from __future__ import annotations

import gc
import random

import pytest

from ipvsctl.datapath.ct import tuples
from ipvsctl.datapath.ct.entry import (
    ASSURED,
    CONFIRMED,
    HELPER,
    NAT_CLASH,
    SRC_NAT_DONE,
    Entry,
    make_tuple,
    parts,
)  # fmt: skip
from ipvsctl.datapath.hooks import LOCAL_IN, LOCAL_OUT, PRE_ROUTING
from ipvsctl.datapath.skb import ACK, ESTABLISHED_REPLY, NONE, RELATED, RELATED_REPLY, SYN, UNTRACKED, Broken, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.status import ConntrackEntry
from ipvsctl.wire.address import packed
from tests.datapath.ct_rig import CLIENT, OTHER, SERVER, Rig, Talk, tcp_packet, udp_packet


def key(source: str, destination: str, sport: int, dport: int, protocol: int = 6) -> bytes:
    return make_tuple(protocol, packed(source), packed(destination), sport, dport)


def test_tuples_are_those_of_entry() -> None:
    rig = Rig()
    for packet, expected in (
        (tcp_packet(SYN, 1), key(CLIENT, SERVER, 40000, 80)),
        (udp_packet("fd00::1", "fd00::2"), key("fd00::1", "fd00::2", 5000, 53, 17)),
    ):
        found = rig.ct.tuple_of(Skb(bytearray(packet)))
        assert found == expected
        protocol, source, destination, first, second = parts(expected)
        assert rig.ct.invert(expected) == make_tuple(protocol, destination, source, second, first)
        assert rig.ct.invert(rig.ct.invert(expected)) == expected


@pytest.mark.parametrize(("kind", "answer"), [(8, 0), (0, 8), (13, 14), (15, 16), (17, 18), (3, None), (200, None)])
def test_icmp_is_inverted_by_its_type(kind: int, answer: int | None) -> None:
    found = tuples.invert(key(CLIENT, SERVER, 7, kind << 8 | 1, 1))
    assert found == (None if answer is None else key(SERVER, CLIENT, 7, answer << 8 | 1, 1))
    assert (Rig().ct.invert(key(CLIENT, SERVER, 7, kind << 8, 1)) == b"") == (answer is None)


def test_an_entry_is_in_the_table_only_when_it_is_confirmed() -> None:
    rig = Rig()
    skb = rig.enter(tcp_packet(SYN, 1))
    assert skb.ct is not None
    assert (rig.ct.count, rig.ct.find(skb.ct.original), skb.ct.slot) == (0, None, 0)
    rig.wait(500)
    assert rig.ct.confirm(skb) is None
    assert (rig.ct.count, rig.only.timeout) == (1, 120)
    assert rig.ct.find(skb.ct.original) == (skb.ct, False)
    assert rig.ct.find(skb.ct.reply) == (skb.ct, True)


def test_an_entry_past_its_time_is_dead_before_the_timer_fires() -> None:
    rig = Rig()
    rig.walk(udp_packet())
    rig.now += 30
    assert rig.ct.report() == []
    assert rig.ct.find(key(CLIENT, SERVER, 5000, 53, 17)) is None
    assert (rig.ct.count, rig.ct.keys()) == (0, [])


def test_a_timer_that_is_put_off_keeps_the_entry_and_one_that_is_moved_up_ends_it() -> None:
    it = Talk(Rig()).open()
    it.rig.wait(200)
    assert it.rig.ct.count == 1
    it.s(4)
    it.rig.wait(10.5)
    assert it.rig.ct.count == 0


def test_a_packet_that_has_an_entry_or_is_untracked_is_left_alone() -> None:
    rig = Rig()
    skb = rig.enter(tcp_packet(SYN, 1))
    first = skb.ct
    assert rig.ct.conntrack_in(skb) is None
    assert skb.ct is first
    rig.ct.untrack(skb)
    assert (skb.ct, skb.ctinfo) == (None, UNTRACKED)
    assert rig.ct.conntrack_in(skb) is None
    assert skb.ct is None
    assert rig.ct.confirm(skb) is rig.ct.confirm_now(skb) is None


def test_templates() -> None:
    rig = Rig()
    assert rig.walk(tcp_packet(SYN, 1), {"notrack": True}) == "UNTRACKED"
    skb = rig.enter(tcp_packet(SYN, 1, dport=21), {"helper": "ftp"})
    assert skb.ct is not None and skb.template is None
    assert (skb.ct.helper.name, skb.ct.status & HELPER) == ("ftp", HELPER)
    assert rig.ct.confirm(skb) is None
    assert (rig.only.helper, rig.only.status) == ("ftp", ("confirmed", "helper"))
    assert rig.enter(tcp_packet(SYN, 1, sport=1), {"helper": "unheard-of"}).ct is not None


def test_fragments_are_not_looked_at() -> None:
    packet = bytearray(udp_packet())
    packet[7] = 1
    assert Rig().walk(bytes(packet)) == "INVALID"
    packet[6], packet[7] = 0x20, 0
    skb = Skb(packet)
    skb.hook, skb.template = LOCAL_OUT, {"helper": "ftp"}
    rig = Rig()
    assert rig.ct.conntrack_in(skb) is None
    assert (skb.ct, skb.ctinfo, skb.template) == (None, NONE, None)
    skb.hook = PRE_ROUTING
    rig.ct.conntrack_in(skb)
    assert skb.ct is not None


def test_a_flow_to_itself_is_found_as_its_own_answer() -> None:
    rig = Rig()
    packet = udp_packet(CLIENT, CLIENT, 53, 53)
    assert [rig.walk(packet), rig.walk(packet)] == ["NEW", "ESTABLISHED"]
    assert rig.only.status == ("seen_reply", "confirmed")
    rig.wait(31)
    assert rig.ct.count == 0


# -- clashes -----------------------------------------------------------------------------------------------------------


def clash(rig: Rig, protocol: int, done: int = 0, flag: int = 0) -> tuple[Skb, Entry, Verdict]:
    """Two flows whose servers answer from the same address and port, as IPVS makes them when it balances."""
    make = tcp_packet if protocol == 6 else None
    first = rig.enter(make(SYN, 1) if make else udp_packet(sport=40000))
    second = rig.enter(make(SYN, 1, destination=OTHER) if make else udp_packet(destination=OTHER, sport=40000))
    assert first.ct is not None and second.ct is not None
    reply = key("172.16.0.2", CLIENT, 8080, 40000, protocol)
    for skb in (first, second):
        assert skb.ct is not None
        rig.ct.alter_reply(skb.ct, reply)
    first.ct.status |= done
    assert rig.ct.confirm(first) is None
    if flag:
        rig.ct.alter_reply(second.ct, key("172.16.0.3", CLIENT, 8080, 40000, protocol))
        second.ct.original = first.ct.original
    return second, first.ct, rig.ct.confirm(second)


def test_a_tcp_clash_drops_the_second() -> None:
    rig = Rig()
    skb, _, verdict = clash(rig, 6)
    assert verdict is Reason.CONNTRACK_CLASH
    assert rig.ct.count == 1
    assert skb.ct is not None and not skb.ct.status & CONFIRMED


def test_a_udp_clash_without_nat_goes_on_with_the_first() -> None:
    rig = Rig(acct=1)
    skb, first, verdict = clash(rig, 17)
    assert (verdict, skb.ct) == (None, first)
    assert (rig.ct.count, first.packets) == (1, [2, 0])


def test_a_udp_clash_with_nat_in_the_reply_drops() -> None:
    rig = Rig()
    assert clash(rig, 17, SRC_NAT_DONE)[2] is Reason.CONNTRACK_CLASH


def test_a_udp_clash_with_nat_in_the_original_direction_only_stays_for_a_second_and_for_answers() -> None:
    rig = Rig()
    skb, first, verdict = clash(rig, 17, SRC_NAT_DONE, flag=1)
    assert verdict is None
    assert skb.ct is not first and skb.ct is not None and skb.ct.status & NAT_CLASH
    assert (rig.ct.count, len(rig.ct.report())) == (2, 1)
    assert rig.ct.find(first.original) == (first, False)
    assert rig.ct.find(skb.ct.reply) == (skb.ct, True)
    answer = udp_packet("172.16.0.3", CLIENT, 8080, 40000)
    assert rig.walk(answer) == "ESTABLISHED"
    rig.wait(1.3)
    assert (rig.ct.count, rig.ct.find(first.original)) == (1, (first, False))


def test_taken() -> None:
    rig = Rig()
    skb = rig.enter(tcp_packet(SYN, 1))
    assert skb.ct is not None
    rig.ct.confirm(skb)
    other = Entry(rig.ct, key(OTHER, SERVER, 1, 2), key(SERVER, OTHER, 2, 1))
    same = Entry(rig.ct, skb.ct.original, other.reply)
    assert rig.ct.taken(skb.ct.reply, other)
    assert rig.ct.taken(skb.ct.original, other)
    assert not rig.ct.taken(skb.ct.reply, skb.ct)
    assert not rig.ct.taken(skb.ct.reply, same)
    assert not rig.ct.taken(other.reply, skb.ct)
    rig.now += 120
    assert not rig.ct.taken(skb.ct.reply, other)


def test_the_reply_is_altered_only_before_the_confirmation() -> None:
    rig = Rig()
    skb = rig.enter(tcp_packet(SYN, 1))
    assert skb.ct is not None
    wanted = key("172.16.0.2", CLIENT, 8080, 40000)
    rig.ct.alter_reply(skb.ct, wanted)
    rig.ct.confirm(skb)
    rig.ct.alter_reply(skb.ct, key(OTHER, CLIENT, 1, 2))
    assert skb.ct.reply == wanted
    assert rig.walk(tcp_packet(SYN | ACK, 5, 2, source="172.16.0.2", destination=CLIENT, sport=8080, dport=40000)) == (
        "ESTABLISHED"
    )


def test_a_killed_entry_is_not_confirmed() -> None:
    rig = Rig()
    skb = rig.enter(tcp_packet(SYN, 1))
    assert skb.ct is not None
    assert rig.ct.kill(skb.ct) and not rig.ct.kill(skb.ct)
    assert rig.ct.confirm(skb) is Reason.CONNTRACK_CLASH
    assert rig.ct.count == 0


def test_answers_of_the_host_belong_to_what_they_answer() -> None:
    rig = Rig()
    asked = rig.enter(tcp_packet(SYN, 1))
    answer = Skb(bytearray(tcp_packet(4, 0, source=SERVER, destination=CLIENT)))
    rig.ct.attach(answer, asked)
    assert (answer.ct, answer.ctinfo) == (asked.ct, RELATED_REPLY)
    assert rig.ct.conntrack_in(answer) is None
    assert rig.ct.confirm(answer) is None
    assert rig.ct.count == 0
    asked.ctinfo = ESTABLISHED_REPLY
    rig.ct.attach(answer, asked)
    assert answer.ctinfo == RELATED


# -- users, limits, counters -------------------------------------------------------------------------------------------


def test_hooks_are_there_while_somebody_uses_them() -> None:
    rig = Rig()
    assert rig.ct.hooks(INET) == frozenset()
    rig.ct.use(INET)
    rig.ct.use(INET)
    assert (rig.ct.hooks(INET), rig.ct.hooks(INET6), rig.rebuilt) == (frozenset({"conntrack"}), frozenset(), 1)
    rig.ct.unuse(INET)
    assert rig.rebuilt == 1
    rig.ct.unuse(INET)
    rig.ct.unuse(INET)
    assert (rig.ct.hooks(INET), rig.rebuilt) == (frozenset(), 2)


def test_a_full_table_drops_what_is_not_assured_for_the_new() -> None:
    rig = Rig(max=20)
    for port in range(60):
        assert rig.walk(udp_packet(sport=1000 + port)) == "NEW"
        assert rig.ct.count <= 20


def test_a_full_table_of_assured_entries_drops_the_new() -> None:
    rig = Rig(max=20)
    for port in range(20):
        Talk(rig, 1000 + port).open()
    assert rig.walk(udp_packet()) == "CONNTRACK_FULL"
    assert rig.walk(tcp_packet(ACK, 1001, 5001, sport=1000)) == "ESTABLISHED"
    assert rig.ct.count == 20


def test_the_collector_ends_what_closes_when_the_table_is_full_of_assured_entries() -> None:
    rig = Rig(max=200)
    talks = [Talk(rig, 1000 + port).open() for port in range(200)]
    for talk in talks[:50]:
        talk.c(17)
    assert rig.walk(udp_packet()) == "CONNTRACK_FULL"
    rig.wait(1.5)
    # It stops when less than 95 of 100 are left.
    assert rig.ct.count == 189
    assert sum(entry.state == "FIN_WAIT" for entry in rig.ct.report()) == 39
    assert rig.walk(udp_packet()) == "NEW"


def test_the_collector_does_nothing_for_a_limit_below_a_hundred() -> None:
    rig = Rig(max=99)
    for port in range(99):
        Talk(rig, 1000 + port).open().c(17)
    assert rig.walk(udp_packet()) == "CONNTRACK_FULL"
    rig.wait(1.5)
    assert rig.ct.count == 99


def test_no_limit_and_the_other_name_of_the_limit() -> None:
    rig = Rig()
    rig.settings.write("net.nf_conntrack_max", "1")
    assert [rig.walk(tcp_packet(ACK, 1)), rig.walk(tcp_packet(ACK, 1, sport=2))] == ["NEW", "NEW"]
    assert rig.ct.count == 1
    rig.settings.write("net.netfilter.nf_conntrack_max", "0")
    assert rig.walk(tcp_packet(ACK, 1, sport=3)) == "NEW"
    assert rig.ct.count == 2


def test_accounting_counts_both_directions_from_the_ip_header_on() -> None:
    it = Talk(Rig(acct=1)).open()
    it.c(ACK, b"x" * 10)
    found = it.rig.ct.find(key(CLIENT, SERVER, 40000, 80))
    assert found is not None
    assert (found[0].packets, found[0].octets) == ([3, 1], [130, 40])
    it = Talk(Rig()).open()
    found = it.rig.ct.find(key(CLIENT, SERVER, 40000, 80))
    assert found is not None and found[0].packets is None


# -- listing -----------------------------------------------------------------------------------------------------------


def test_the_listing_is_that_of_ctnetlink() -> None:
    it = Talk(Rig()).open()
    found = it.rig.ct.find(key(CLIENT, SERVER, 40000, 80))
    assert found is not None
    found[0].mark = 5
    it.rig.wait(10.5)
    assert it.rig.only == ConntrackEntry(
        "tcp", CLIENT, SERVER, 40000, 80, SERVER, CLIENT, 80, 40000, "ESTABLISHED", 431989, 5, "",
        ("seen_reply", "assured", "confirmed"),
    )  # fmt: skip


def test_flush() -> None:
    rig = Rig()
    for port in range(10):
        rig.walk(udp_packet(sport=1 + port))
    rig.ct.flush()
    assert (rig.ct.count, rig.ct.report(), rig.ct.keys()) == (0, [], [])


def test_the_trace_says_why_a_packet_is_invalid() -> None:
    rig = Rig()
    notes: list[str] = []

    class Tracer:
        def note(self, text: str, **data: object) -> None:
            notes.append(text)

    rig.tracer = Tracer()
    rig.walk(tcp_packet(SYN | ACK, 1))
    assert notes == ["INVALID: no packet that begins a TCP connection"]


# -- any bytes ---------------------------------------------------------------------------------------------------------


def test_no_bytes_raise() -> None:
    chance = random.Random(3)
    rig = Rig(checksum=0, acct=1)
    seeds = [udp_packet(), tcp_packet(SYN, 1), tcp_packet(ACK, 2, 3), udp_packet("fd00::1", "fd00::2")]
    protocols = (1, 6, 17, 33, 47, 58, 132, 136, 4, 59, 255)
    for _ in range(6000):
        packet = bytearray(chance.choice(seeds))
        packet += chance.randbytes(chance.randrange(60))
        six = packet[0] >> 4 == 6
        packet[6 if six else 9] = chance.choice(protocols)
        for _ in range(chance.randrange(4)):
            packet[chance.randrange(40 if six else 20, len(packet))] = chance.randrange(256)
        del packet[chance.randrange(21, len(packet) + 1) :]
        length = len(packet)
        packet[4 if six else 2 : 6 if six else 4] = (max(length - 40, 0) if six else length).to_bytes(2)
        try:
            skb = Skb(packet, "eth0")
        except Broken:
            continue
        skb.hook = chance.choice((PRE_ROUTING, LOCAL_OUT))
        if rig.ct.conntrack_in(skb) is None:
            skb.hook = LOCAL_IN
            rig.ct.confirm(skb)
        rig.wait(chance.random() / 10)
    assert rig.ct.count == len(rig.ct.report())
    rig.wait(500_000)
    while rig.timers.poll(rig.now):
        pass
    assert rig.ct.count == 0


def test_nothing_is_left_to_the_garbage_collector() -> None:
    rig = Rig()
    gc.collect()
    gc.disable()
    try:
        for port in range(50):
            Talk(rig, 1000 + port).open()
            rig.walk(udp_packet(sport=1000 + port))
        rig.ct.flush()
        assert not [each for each in gc.get_objects() if isinstance(each, Entry)]
    finally:
        gc.enable()
    assert ASSURED and rig.ct.count == 0
