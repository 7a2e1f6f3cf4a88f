"""Expectations (nf_conntrack_expect.c of 6.1): who is refused, who is related, what ends them."""

from __future__ import annotations

import gc

from ipvsctl.datapath.ct.entry import ASSURED, Entry, make_tuple
from ipvsctl.datapath.ct.expect import Expectation
from ipvsctl.datapath.skb import ACK, RELATED, SYN
from ipvsctl.wire.address import packed
from tests.datapath.ct_rig import CLIENT, OTHER, SERVER, Rig, tcp_packet


class Helper:
    """A helper that lets a connection expect two others."""

    name = "like"
    max_expected = 2
    timeout = 300.0

    def help(self, engine: object, skb: object, entry: object) -> None:
        return None


def match(source: str = CLIENT, sport: int = 0, dport: int = 2000, destination: str = SERVER) -> bytes:
    return make_tuple(6, packed(source), packed(destination), sport, dport)


def master(rig: Rig, sport: int = 40000, helper: object | None = None) -> Entry:
    skb = rig.enter(tcp_packet(SYN, 1, sport=sport, dport=21))
    assert skb.ct is not None
    skb.ct.helper = helper
    skb.ct.mark = 9
    rig.ct.confirm(skb)
    return skb.ct


def expect(rig: Rig, entry: Entry, wanted: bytes, any_port: bool = True, timeout: float = 300.0) -> bool:
    return rig.ct.expect(entry, wanted, any_port, direction=0, timeout=timeout)


def test_an_expected_connection_is_related_and_has_its_masters_mark() -> None:
    rig = Rig()
    entry = master(rig, helper=Helper())
    called: list[Entry] = []
    assert rig.ct.expect(entry, match(), True, direction=1, on_new=called.append, helper=Helper(), timeout=300)
    skb = rig.enter(tcp_packet(SYN, 1, sport=5555, dport=2000))
    assert skb.ct is not None
    assert (skb.ctinfo, skb.ct.master, skb.ct.mark, skb.ct.helper.name) == (RELATED, entry, 9, "like")
    assert called == [skb.ct]
    assert rig.ct.confirm(skb) is None
    assert rig.ct.report()[1].status == ("expected", "confirmed", "helper")
    assert rig.ct.expectations.count == 0
    # A second one is nothing special, and an answer makes the first one established.
    assert rig.walk(tcp_packet(SYN, 1, sport=5556, dport=2000)) == "NEW"
    answer = tcp_packet(SYN | ACK, 7, 2, source=SERVER, destination=CLIENT, sport=2000, dport=5555)
    assert rig.walk(answer) == "ESTABLISHED"
    assert rig.walk(tcp_packet(ACK, 2, 8, sport=5555, dport=2000)) == "ESTABLISHED"


def test_what_does_not_match() -> None:
    rig = Rig()
    entry = master(rig, helper=Helper())
    assert expect(rig, entry, match(sport=4444), any_port=False)
    for more in ({"sport": 1}, {"source": OTHER}, {"dport": 2001}, {"destination": OTHER}):
        packet = tcp_packet(SYN, 1, **{"sport": 4444, "dport": 2000, **more})
        assert rig.walk(packet) == "NEW"
    assert rig.walk(tcp_packet(SYN, 1, sport=4444, dport=2000)) == "RELATED"


def test_any_source() -> None:
    rig = Rig()
    assert expect(rig, master(rig, helper=Helper()), match("0.0.0.0"))
    assert rig.walk(tcp_packet(SYN, 1, source="10.7.7.7", dport=2000)) == "RELATED"


def test_a_permanent_one_stays() -> None:
    rig = Rig()
    assert rig.ct.expect(master(rig, helper=Helper()), match(), True, direction=0, timeout=300, permanent=True)
    assert [rig.walk(tcp_packet(SYN, 1, sport=port, dport=2000)) for port in (1, 2)] == ["RELATED", "RELATED"]


def test_refused_without_a_helper_and_for_the_dying() -> None:
    rig = Rig()
    entry = master(rig)
    assert not expect(rig, entry, match())
    entry.helper = Helper()
    rig.ct.kill(entry)
    assert not expect(rig, entry, match())


def test_refused_when_another_one_could_take_the_same_packet() -> None:
    rig = Rig()
    first, second = master(rig, 1, Helper()), master(rig, 2, Helper())
    assert expect(rig, first, match())
    assert not expect(rig, second, match(sport=7), any_port=False)
    assert not expect(rig, second, match("0.0.0.0"))
    assert not expect(rig, second, match())
    assert expect(rig, second, match(OTHER))
    assert expect(rig, second, match(dport=2001))


def test_the_same_one_again_takes_the_place_of_the_first() -> None:
    rig = Rig()
    entry = master(rig, helper=Helper())
    assert expect(rig, entry, match())
    rig.wait(30)
    assert expect(rig, entry, match())
    assert rig.ct.expectations.count == 1
    (only,) = rig.ct.expectations
    assert only.expires == rig.now + 300


def test_beyond_the_helpers_number_the_oldest_goes() -> None:
    rig = Rig()
    entry = master(rig, helper=Helper())
    entry.status |= ASSURED
    for port in (2000, 2001, 2002):
        assert expect(rig, entry, match(dport=port))
    assert {parts[-2:] for parts in (each.match for each in rig.ct.expectations)} == {
        (2001).to_bytes(2), (2002).to_bytes(2),
    }  # fmt: skip


def test_no_more_than_expect_max() -> None:
    rig = Rig(expect_max=1)
    assert expect(rig, master(rig, 1, Helper()), match())
    assert not expect(rig, master(rig, 2, Helper()), match(dport=2001))


def test_they_end_by_time() -> None:
    rig = Rig()
    entry = master(rig, helper=Helper())
    assert expect(rig, entry, match(), timeout=5)
    rig.now += 5
    assert rig.walk(tcp_packet(SYN, 1, dport=2000)) == "NEW"
    assert (rig.ct.expectations.count, entry.expectations) == (0, None)
    assert expect(rig, entry, match(), timeout=5)
    rig.wait(5.5)
    assert rig.ct.expectations.count == 0


def test_they_end_with_their_master() -> None:
    rig = Rig()
    entry = master(rig, helper=Helper())
    expect(rig, entry, match())
    rig.ct.kill(entry)
    assert (rig.ct.expectations.count, entry.expectations) == (0, None)
    assert rig.walk(tcp_packet(SYN, 1, dport=2000)) == "NEW"


def test_a_master_that_is_not_confirmed_has_told_nobody() -> None:
    rig = Rig()
    skb = rig.enter(tcp_packet(SYN, 1, dport=21))
    assert skb.ct is not None
    skb.ct.helper = Helper()
    assert expect(rig, skb.ct, match())
    assert rig.walk(tcp_packet(SYN, 1, sport=2, dport=2000)) == "NEW"
    rig.ct.untrack(skb)
    assert rig.ct.expectations.count == 0


def test_no_cycle_outlives_the_master() -> None:
    rig = Rig()
    gc.collect()
    gc.disable()
    try:
        entry: Entry | None = master(rig, helper=Helper())
        assert entry is not None
        expect(rig, entry, match())
        rig.walk(tcp_packet(SYN, 1, dport=2000))
        expect(rig, entry, match(dport=2001))
        entry = None
        rig.ct.flush()
        assert not [each for each in gc.get_objects() if isinstance(each, Entry | Expectation)]
    finally:
        gc.enable()
