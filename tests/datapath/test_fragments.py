"""Fragments: what comes together, what is thrown away, what leaves in pieces."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.fragment_queue import Whole
from ipvsctl.datapath.fragments import CONNTRACK_IN, LOCAL_DELIVER, VS_IN, Fragments
from ipvsctl.datapath.skb import Broken, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats.iptables_save import parse
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.wire import ipv4, ipv6, udp
from ipvsctl.wire.address import packed

A, B = packed("10.0.1.2"), packed("192.168.1.100")
A6, B6 = packed("fd00::2"), packed("fd00::1")
WAIT, BROKEN, FULL = Reason.FRAGMENT, Reason.FRAGMENT_BROKEN, Reason.FRAGMENT_FULL


class Fake:
    """What Fragments needs of an engine."""

    def __init__(self, **sysctls: int) -> None:
        self.now = 100.0
        self.timers = Timers()
        self.settings = {name.replace("__", "."): value for name, value in sysctls.items()}
        self.errors: list[tuple[bytes, int, int, int]] = []
        self.drops: list[Reason] = []
        self.route: Any = SimpleNamespace(kind="unicast")
        self.routing = SimpleNamespace(input=lambda skb: self.route)
        self.ip = SimpleNamespace(icmp_error=self.error)

    def error(self, skb: Skb, kind: int, code: int, info: int = 0) -> None:
        self.errors.append((bytes(skb.data), kind, code, info))

    def drop(self, skb: Skb, reason: Reason) -> None:
        self.drops.append(reason)

    def poll(self, now: float) -> None:
        self.now = now
        while self.timers.poll(now):
            pass


def make(**sysctls: int) -> tuple[Fake, Fragments]:
    engine = Fake(**sysctls)
    return engine, Fragments(cast(Any, engine))


def four(begin: int, end: int, last: bool = False, ident: int = 7, tos: int = 0, df: bool = False) -> Skb:
    """A piece of a packet whose payload counts 0, 1, 2 ..."""
    payload = (bytes(range(256)) * 257)[begin:end]
    return Skb(ipv4.build(A, B, 17, payload, 64, tos, ident, df, begin, not last))


def six(begin: int, end: int, last: bool = False, ident: int = 7, before: bytes = b"", tos: int = 0) -> Skb:
    payload = (bytes(range(256)) * 257)[begin:end]
    body = ipv6.fragment_header(17, begin, not last, ident) + payload
    if before:
        return Skb(ipv6.build(A6, B6, 0, before + body, traffic_class=tos))
    return Skb(ipv6.build(A6, B6, 44, body, traffic_class=tos))


WHOLE = (bytes(range(256)) * 257)[:104]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("user", [LOCAL_DELIVER, CONNTRACK_IN, VS_IN])
def test_ipv4_in_any_order(order: tuple[int, ...], user: int) -> None:
    engine, fragments = make()
    pieces = [four(0, 48), four(48, 96), four(96, 104, last=True)]
    results = [fragments.add(pieces[at], user) for at in order]
    assert results[:2] == [WAIT, WAIT]
    assert results[2] == ipv4.build(A, B, 17, WHOLE, identification=7)
    assert fragments.last_size == 68
    assert len(fragments) == 0
    assert fragments._four.memory == 0
    assert fragments._peers == {}
    assert engine.timers.poll_at() is None or not any(engine.timers._slots.values())


def test_ipv4_queues_are_apart() -> None:
    _, fragments = make()
    assert fragments.add(four(0, 48), LOCAL_DELIVER) is WAIT
    assert fragments.add(four(48, 56, last=True), CONNTRACK_IN) is WAIT
    assert fragments.add(four(48, 56, last=True, ident=8), LOCAL_DELIVER) is WAIT
    other = Skb(ipv4.build(A, B, 6, b"12345678", identification=7, fragment=48))
    assert fragments.add(other, LOCAL_DELIVER) is WAIT
    assert len(fragments) == 4
    assert isinstance(fragments.add(four(48, 56, last=True), LOCAL_DELIVER), bytearray)


@pytest.mark.parametrize(
    ("pieces", "result"),
    [
        ([(0, 48), (0, 48)], WAIT),  # a duplicate is ignored
        ([(0, 48), (8, 40)], WAIT),  # so is what a run holds already
        ([(0, 48), (48, 96), (8, 80)], WAIT),  # even across fragments
        ([(48, 96), (0, 48), (40, 56)], BROKEN),  # not across runs, though every byte is there
        ([(0, 48), (40, 96)], BROKEN),
        ([(48, 96), (40, 56)], BROKEN),
        ([(48, 96), (0, 56)], BROKEN),
        ([(8, 16), (0, 96)], BROKEN),
        ([(0, 48), (96, 96)], BROKEN),  # no payload
    ],
)
def test_ipv4_overlaps(pieces: list[tuple[int, int]], result: Reason) -> None:
    _, fragments = make()
    results = [fragments.add(four(begin, end), CONNTRACK_IN) for begin, end in pieces]
    assert results == [WAIT] * (len(pieces) - 1) + [result]
    assert len(fragments) == (result is WAIT)
    if result is BROKEN:  # the rest of the packet starts a new queue
        assert fragments.add(four(96, 104, last=True), CONNTRACK_IN) is WAIT
        assert len(fragments) == 1


def test_ipv4_contradictions_about_the_end() -> None:
    for first, second in [
        (four(96, 104, last=True), four(104, 112)),
        (four(96, 104, last=True), four(104, 112, last=True)),
        (four(96, 104, last=True), four(88, 96, last=True)),
        (four(96, 104), four(88, 96, last=True)),
    ]:
        _, fragments = make()
        assert fragments.add(first, CONNTRACK_IN) is WAIT
        assert fragments.add(second, CONNTRACK_IN) is BROKEN
        assert len(fragments) == 0


def test_ipv4_a_middle_piece_is_cut_to_eights() -> None:
    _, fragments = make()
    assert fragments.add(four(0, 51), CONNTRACK_IN) is WAIT
    whole = fragments.add(four(48, 50, last=True), CONNTRACK_IN)
    assert not isinstance(whole, Reason)
    assert whole[20:] == WHOLE[:50]


def test_ipv4_too_long() -> None:
    _, fragments = make()
    assert fragments.add(four(0, 65000), CONNTRACK_IN) is WAIT
    assert fragments.add(four(65000, 65516, last=True), CONNTRACK_IN) is BROKEN
    assert len(fragments) == 0
    assert fragments.add(four(0, 65000), CONNTRACK_IN) is WAIT
    assert isinstance(fragments.add(four(65000, 65515, last=True), CONNTRACK_IN), bytearray)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0, 0, 0), (2, 2, 2), (2, 1, 2), (2, 3, 3), (3, 1, 3), (3, 3, 3), (0, 2, None), (0, 3, None), (1, 0, None)],
)
def test_ecn(first: int, second: int, expected: int | None) -> None:
    _, fragments = make()
    fragments.add(four(0, 48, tos=first), CONNTRACK_IN)
    whole = fragments.add(four(48, 50, last=True, tos=second), CONNTRACK_IN)
    assert (None if isinstance(whole, Reason) else whole[1]) == expected
    fragments.add(six(0, 48, tos=first), CONNTRACK_IN)
    whole = fragments.add(six(48, 50, last=True, tos=second), CONNTRACK_IN)
    assert (None if isinstance(whole, Reason) else whole[1] >> 4) == expected


def test_df_of_the_largest_fragment_survives() -> None:
    for df, expected in [((True, True), 0x40), ((True, False), 0x40), ((False, True), 0)]:
        _, fragments = make()
        fragments.add(four(0, 48, df=df[0]), CONNTRACK_IN)
        whole = fragments.add(four(48, 50, last=True, df=df[1]), CONNTRACK_IN)
        assert not isinstance(whole, Reason)
        assert whole[6] == expected
        assert ipv4.valid(whole)


def test_mark_of_the_first_fragment() -> None:
    _, fragments = make()
    head, tail = four(0, 48), four(48, 50, last=True)
    head.mark, tail.mark = 5, 6
    fragments.add(tail, LOCAL_DELIVER)
    fragments.add(head, LOCAL_DELIVER)
    assert head.mark == 5
    head, tail = four(0, 48), four(48, 50, last=True)
    head.mark, tail.mark = 5, 6
    fragments.add(head, LOCAL_DELIVER)
    fragments.add(tail, LOCAL_DELIVER)
    assert tail.mark == 5


@pytest.mark.parametrize(
    ("user", "kind", "told"),
    [
        (LOCAL_DELIVER, "local", 1),
        (VS_IN, "unicast", 1),
        (CONNTRACK_IN, "unicast", 0),
        (CONNTRACK_IN, "local", 1),
    ],
)
def test_ipv4_timeout(user: int, kind: str, told: int) -> None:
    engine, fragments = make()
    engine.route = SimpleNamespace(kind=kind)
    fragments.add(four(0, 48), user)
    engine.poll(129.9)
    assert len(fragments) == 1
    engine.poll(130.5)
    assert len(fragments) == 0
    assert engine.errors == [(bytes(four(0, 48).data), 11, 1, 0)] * told
    assert engine.drops == [Reason.FRAGMENT_TIMEOUT]


def test_timeouts_that_nobody_hears_of() -> None:
    engine, fragments = make(net__ipv4__ipfrag_time=5)
    fragments.add(four(48, 96), LOCAL_DELIVER)
    engine.poll(106)
    assert len(fragments) == 0
    engine.route = Reason.NO_ROUTE
    fragments.add(four(0, 48), LOCAL_DELIVER)
    engine.poll(112)
    assert len(fragments) == 0
    assert engine.errors == []


def test_ipv6_timeout() -> None:
    engine, fragments = make()
    fragments.add(six(0, 48), CONNTRACK_IN)
    fragments.add(six(48, 96, ident=8), CONNTRACK_IN)
    engine.poll(159)
    assert len(fragments) == 2
    engine.poll(160.5)
    assert len(fragments) == 0
    assert engine.errors == [(bytes(six(0, 48).data), 3, 1, 0)]


def test_memory_is_bounded() -> None:
    engine, fragments = make()
    results = [fragments.add(four(0, 1480, ident=ident), CONNTRACK_IN) for ident in range(3000)]
    # 4 MiB of queues (208 bytes) and fragments of 1500 bytes (2304): the one that goes over it still gets in.
    assert results.index(FULL) == 4194304 // (208 + 2304) + 1
    assert fragments.add(four(1480, 1490, last=True, ident=0), CONNTRACK_IN) is FULL
    for _ in range(100):
        engine.poll(131)
    assert fragments._four.memory == 0
    assert fragments.add(four(0, 48), CONNTRACK_IN) is WAIT
    _, off = make(net__ipv4__ipfrag_high_thresh=0)
    assert off.add(four(0, 48), CONNTRACK_IN) is FULL


def test_too_many_others_between() -> None:
    for others, complete in [(64, True), (65, False)]:
        engine, fragments = make()
        fragments.add(four(0, 48), CONNTRACK_IN)
        for ident in range(100, 100 + others - 1):
            fragments.add(four(0, 8, ident=ident), CONNTRACK_IN)
        engine.now = 120.0
        result = fragments.add(four(48, 50, last=True), CONNTRACK_IN)
        assert isinstance(result, bytearray) == complete
        if not complete:  # and it has a whole timeout again
            assert isinstance(fragments.add(four(0, 48), CONNTRACK_IN), bytearray)
    _, fragments = make(net__ipv4__ipfrag_max_dist=0)
    fragments.add(four(0, 48), CONNTRACK_IN)
    for ident in range(100, 300):
        fragments.add(four(0, 8, ident=ident), CONNTRACK_IN)
    assert isinstance(fragments.add(four(48, 50, last=True), CONNTRACK_IN), bytearray)


@pytest.mark.parametrize("user", [LOCAL_DELIVER, CONNTRACK_IN])
@pytest.mark.parametrize("before", [b"", ipv6.extension(44)], ids=["plain", "hop-by-hop"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ipv6_in_any_order(user: int, before: bytes, order: tuple[int, ...]) -> None:
    _, fragments = make()
    pieces = [six(0, 96, before=before), six(96, 104, last=True, before=before)]
    results = [fragments.add(pieces[at], user) for at in order]
    assert results[0] is WAIT
    inner = ipv6.extension(17) if before else b""
    assert results[1] == ipv6.build(A6, B6, 0 if before else 17, inner + WHOLE)
    assert fragments.last_size == 40 + len(before) + 8 + 96
    assert len(fragments) == 0


def test_ipv6_overlap() -> None:
    for user in (LOCAL_DELIVER, CONNTRACK_IN):
        _, fragments = make()
        assert fragments.add(six(0, 48), user) is WAIT
        assert fragments.add(six(0, 48), user) is WAIT
        assert fragments.add(six(40, 96), user) is BROKEN
        assert len(fragments) == 0


def test_ipv6_contradiction_spares_conntracks_queue() -> None:
    for user, left in [(LOCAL_DELIVER, 0), (CONNTRACK_IN, 1)]:
        _, fragments = make()
        fragments.add(six(96, 104, last=True), user)
        assert fragments.add(six(104, 112), user) is BROKEN
        assert len(fragments) == left


def test_ipv6_key_has_a_device_for_link_local_only() -> None:
    for destination, together in [("fe80::1", False), ("ff02::1", False), ("fd00::1", True)]:
        _, fragments = make()
        results = []
        for begin, device in ((0, "eth0"), (48, "eth1")):
            body = ipv6.fragment_header(17, begin, begin == 0, 7) + WHOLE[begin : begin + 48]
            results.append(fragments.add(Skb(ipv6.build(A6, packed(destination), 44, body), device), CONNTRACK_IN))
        assert isinstance(results[1], bytearray) == together


def test_ipv6_what_conntrack_lets_pass_the_stack_answers() -> None:
    odd = six(0, 49)
    headless = Skb(ipv6.build(A6, B6, 44, ipv6.fragment_header(6, 0, True, 7) + bytes(16)))
    for skb, error in [(odd, (4, 0, 4)), (headless, (4, 3, 0))]:
        engine, fragments = make()
        assert fragments.add(skb, CONNTRACK_IN) is skb.data
        assert fragments.last_size == 0
        assert engine.errors == []
        assert fragments.add(skb, LOCAL_DELIVER) is BROKEN
        assert engine.errors == [(bytes(skb.data), *error)]


def test_ipv6_end_behind_the_longest_packet() -> None:
    body = ipv6.fragment_header(17, 65528, False, 7) + bytes(16)
    skb = Skb(ipv6.build(A6, B6, 44, body))
    engine, fragments = make()
    assert fragments.add(skb, CONNTRACK_IN) is BROKEN
    assert fragments.add(skb, LOCAL_DELIVER) is BROKEN
    assert [error[1:] for error in engine.errors] == [(4, 0, 42)]


def test_ipv6_atomic_fragment() -> None:
    _, fragments = make()
    skb = six(0, 20, last=True)
    assert fragments.add(skb, CONNTRACK_IN) == ipv6.build(A6, B6, 17, WHOLE[:20])
    assert fragments.last_size == 68
    assert fragments.add(skb, LOCAL_DELIVER) is skb.data
    plain = Skb(ipv6.build(A6, B6, 17, bytes(8)))
    assert fragments.add(plain, CONNTRACK_IN) is plain.data


# -- going out ---------------------------------------------------------------------------------------------------------


def number() -> int:
    return 99


def test_ipv4_leaving() -> None:
    skb = Skb(ipv4.build(A, B, 17, WHOLE, df=True))
    assert Fragments.outgoing(skb, 124, number) == [skb.data]
    assert Fragments.outgoing(skb, 123, number) is Reason.TOO_BIG
    skb.ignore_df = True
    pieces = Fragments.outgoing(skb, 70, number)
    assert isinstance(pieces, list)
    assert [(len(piece), piece[6:8].hex()) for piece in pieces] == [(68, "2000"), (68, "2006"), (28, "000c")]
    assert Fragments.outgoing(skb, 27, number) is BROKEN


@pytest.mark.parametrize(
    ("df", "ignore_df", "largest", "mtu", "expected"),
    [
        # It came in fragments: it leaves in fragments that are no larger, though it would fit.
        (False, False, 68, 1500, [68, 68, 28]),
        (False, False, 68, 60, [60, 60, 44]),
        # They had DF: the sender is told when the device takes no such fragments, and ignore_df does not help.
        (True, True, 68, 67, Reason.TOO_BIG),
        (True, True, 68, 68, [68, 68, 28]),
        (True, False, 68, 1500, Reason.TOO_BIG),
        (False, True, 200, 1500, [124]),
    ],
)
def test_ipv4_fragment_max(df: bool, ignore_df: bool, largest: int, mtu: int, expected: list[int] | Reason) -> None:
    skb = Skb(ipv4.build(A, B, 17, WHOLE, df=df))
    skb.ignore_df, skb.fragment_max = ignore_df, largest
    pieces = Fragments.outgoing(skb, mtu, number)
    if isinstance(pieces, Reason):
        assert pieces is expected
    else:
        assert [len(piece) for piece in pieces] == expected
        assert all(bool(piece[6] & 0x40) == df for piece in pieces)
        assert b"".join(piece[20:] for piece in pieces) == WHOLE


def uneven(user: int = CONNTRACK_IN) -> tuple[Fragments, Skb]:
    _, fragments = make()
    fragments.add(four(48, 56, df=True), user)
    fragments.add(four(0, 48, df=True), user)
    skb = four(56, 104, last=True, df=True)
    whole = fragments.add(skb, user)
    assert not isinstance(whole, Reason)
    skb.replace_data(whole)
    skb.fragment_max, skb.ignore_df = fragments.last_size, True
    return fragments, skb


def test_uneven_fragments_leave_as_they_came_without_df() -> None:
    _, skb = uneven()
    assert skb.dont_fragment
    skb.set_destination(packed("10.9.9.9"))
    pieces = Fragments.outgoing(skb, 1500, number)
    assert isinstance(pieces, list)
    assert [(len(piece), piece[6:8].hex()) for piece in pieces] == [(68, "2000"), (28, "2006"), (68, "0007")]
    assert all(ipv4.valid(piece) and piece[16:20] == packed("10.9.9.9") for piece in pieces)
    assert b"".join(piece[20:] for piece in pieces)[8:] == WHOLE[8:]  # the checksum followed the address


def test_a_changed_length_is_cut_anew_with_df() -> None:
    _, skb = uneven()
    skb.data[2:4] = b"\0\x74"
    del skb.data[116:]
    pieces = Fragments.outgoing(skb, 1500, number)
    assert isinstance(pieces, list)
    assert [(len(piece), piece[6:8].hex()) for piece in pieces] == [(68, "6000"), (68, "4006")]


def test_ipv6_leaving() -> None:
    skb = Skb(ipv6.build(A6, B6, 17, bytes(2000)))
    assert Fragments.outgoing(skb, 2040, number) == [skb.data]
    assert Fragments.outgoing(skb, 1500, number) is Reason.TOO_BIG
    skb.ignore_df = True
    pieces = Fragments.outgoing(skb, 1500, number)
    assert isinstance(pieces, list)
    assert [len(piece) for piece in pieces] == [1496, 600]
    assert pieces[0][40:48].hex() == "1100000100000063"
    skb.fragment_max = 1400
    pieces = Fragments.outgoing(skb, 9000, number)
    assert isinstance(pieces, list)
    assert [len(piece) for piece in pieces] == [1400, 696]
    skb.fragment_max = 600  # never below the smallest MTU of IPv6
    pieces = Fragments.outgoing(skb, 9000, number)
    assert isinstance(pieces, list)
    assert [len(piece) for piece in pieces] == [1280, 816]
    skb.fragment_max = 1400
    assert Fragments.outgoing(skb, 1399, number) is Reason.TOO_BIG
    skb.fragment_max = 5000
    assert Fragments.outgoing(skb, 9000, number) == [skb.data]


def test_uneven_ipv6_fragments_leave_as_they_came() -> None:
    _, fragments = make()
    fragments.add(six(0, 48), CONNTRACK_IN)
    fragments.add(six(48, 56), CONNTRACK_IN)
    skb = six(56, 104, last=True)
    whole = fragments.add(skb, CONNTRACK_IN)
    assert not isinstance(whole, Reason)
    skb.replace_data(whole)
    skb.fragment_max, skb.ignore_df = fragments.last_size, True
    pieces = Fragments.outgoing(skb, 1500, number)
    assert isinstance(pieces, list)
    assert [len(piece) for piece in pieces] == [96, 56, 96]
    assert [piece[40:48].hex() for piece in pieces] == [
        "1100000100000063", "1100003100000063", "1100003800000063",
    ]  # fmt: skip


# -- everything --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(28, 300), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_what_is_cut_comes_together(mtu: int, length: int, shuffler: Any) -> None:
    _, fragments = make()
    whole = ipv4.build(A, B, 17, udp.build(A, B, 1, 2, bytes(length)), identification=5)
    whole6 = ipv6.build(A6, B6, 17, udp.build(A6, B6, 1, 2, bytes(length)))
    for packet, family, extra in ((whole, INET, 0), (whole6, INET6, 40)):
        pieces = Fragments.split(packet, mtu + extra, family, identification=5)
        assert all(len(piece) <= mtu + extra for piece in pieces)
        shuffler.shuffle(pieces)
        if len(pieces) < 2:
            continue
        results = [fragments.add(Skb(piece), CONNTRACK_IN) for piece in pieces]
        assert results[:-1] == [WAIT] * (len(pieces) - 1)
        assert results[-1] == packet


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=90), st.booleans(), st.booleans()), max_size=12))
def test_any_fragments(pieces: list[tuple[int, bytes, bool, bool]]) -> None:
    engine, fragments = make()
    for offset, payload, more, local in pieces:
        user = LOCAL_DELIVER if local else CONNTRACK_IN
        body = ipv6.fragment_header(payload[0] if payload else 0, offset * 8, more, 1) + payload
        for packet in (
            ipv4.build(A, B, 17, payload, fragment=offset * 8, more=more),
            ipv6.build(A6, B6, 44, body),
            ipv6.build(A6, B6, 0, payload),
        ):
            try:
                skb = Skb(packet)
            except Broken:
                continue
            if skb.fragment or skb.more or skb.family == INET6:
                result = fragments.add(skb, user)
                if not isinstance(result, Reason):
                    Fragments.outgoing(skb, 68, number)
    engine.poll(1000)
    assert len(fragments) == 0
    assert not (fragments._four.memory or fragments._six.memory or fragments._six_conntrack.memory)


# -- through the whole datapath: sizes and flags as Linux 6.1.192 sent them on, conntrack in use -----------------------

RULES = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
C4, S4, C6, S6 = packed("10.0.1.2"), packed("10.0.2.2"), packed("fd01::2"), packed("fd02::2")


def router(mtu: int = 1500) -> Engine:
    devices = Device("r0", ("10.0.1.1/24", "fd01::1/64")), Device("r1", ("10.0.2.1/24", "fd02::1/64"), mtu)
    sysctls = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
    tables = (*parse(RULES, INET), *parse(RULES, INET6))
    return Engine(Snapshot(devices, sysctls=sysctls, tables=tables), random.Random(1).randrange)


def cut(six: bool, sizes: list[int], df: bool) -> list[bytes]:
    ends = (C6, S6) if six else (C4, S4)
    datagram = udp.build(*ends, 4000, 5000, bytes(sum(sizes) - 8))
    pieces, at = [], 0
    for size in sizes:
        more = at + size < len(datagram)
        if six:
            body = ipv6.fragment_header(17, at, more, 7) + datagram[at : at + size]
            pieces.append(bytes(ipv6.build(*ends, 44, body)))
        else:
            part = datagram[at : at + size]
            pieces.append(bytes(ipv4.build(*ends, 17, part, 64, 0, 7, df, at, more)))
        at += size
    return pieces


@pytest.mark.parametrize(
    ("six", "sizes", "df", "mtu", "expected"),
    [
        (False, [800, 800, 200], False, 1500, [(820, "2000"), (820, "2064"), (220, "00c8")]),
        (False, [800, 200, 600], False, 1500, [(820, "2000"), (220, "2064"), (620, "007d")]),
        (False, [800, 200, 600], True, 1500, [(820, "2000"), (220, "2064"), (620, "007d")]),
        (False, [560, 200, 800], False, 600, [(596, "2000"), (596, "2048"), (428, "0090")]),
        (True, [800, 200, 600], False, 1500, [(848, "0001"), (248, "0321"), (648, "03e8")]),
    ],
)
def test_as_the_kernel_forwards_them(
    six: bool, sizes: list[int], df: bool, mtu: int, expected: list[tuple[int, str]]
) -> None:
    engine = router(mtu)
    outputs = [output for piece in cut(six, sizes, df) for output in engine.receive("r0", piece, 10.0)]
    assert {output.device for output in outputs} == {"r1"}
    at = 42 if six else 6
    assert [(len(output.packet), output.packet[at : at + 2].hex()) for output in outputs] == expected


def test_as_the_kernel_refuses_fragments_with_df() -> None:
    engine = router(600)
    outputs = [output for piece in cut(False, [800, 800, 200], True) for output in engine.receive("r0", piece, 10.0)]
    assert [(output.device, len(output.packet), output.packet[20:28].hex()) for output in outputs] == [
        ("r0", 576, "030418c100000258")
    ]


def test_as_the_kernel_tells_of_a_timeout() -> None:
    engine = router()
    assert engine.receive("r0", cut(False, [800, 200], False)[0], 10.0) == []
    assert engine.poll(45.0) == []
    assert engine.receive("r0", cut(True, [800, 200], False)[0], 46.0) == []
    outputs = engine.poll(107.0)
    assert [(output.device, len(output.packet), output.packet[40:48].hex()) for output in outputs] == [
        ("r0", 896, "030162ee00000000")
    ]
    assert engine.drops[Reason.FRAGMENT_TIMEOUT] == 2


def tcp_pieces(*sizes: int) -> list[int]:
    """What leaves of a TCP packet that came in pieces of these sizes: the payload of each piece."""
    header = ipv4.build(packed("10.0.0.1"), packed("10.0.0.2"), 6, bytes(sum(sizes)))
    return [len(piece) - 20 for piece in Fragments.split(Whole(header, list(sizes)), 820 + 20, INET)]


def test_a_tcp_header_in_two_pieces_is_put_together() -> None:
    """tcp_v4_early_demux pulls it out of them, and ip_do_fragment cuts the packet anew."""
    assert tcp_pieces(24, 776, 820) == [24, 776, 820]
    assert tcp_pieces(16, 784, 820) == [816, 804]
