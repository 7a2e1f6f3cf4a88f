"""The schedulers one by one, with choices worked out by hand or by another implementation (see test_vs_golden.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from ipvsctl.datapath.schedulers import hashes, locality
from ipvsctl.datapath.schedulers.hashing import MAGLEV_SIZE
from ipvsctl.datapath.schedulers.table import SCHEDULERS
from ipvsctl.datapath.skb import UDP
from ipvsctl.datapath.vs.entry import OVERLOAD, Conn
from ipvsctl.datapath.vs.header import Header, Refusal
from ipvsctl.knowledge import schedulers as known
from ipvsctl.model.address import ServiceAddress
from ipvsctl.wire.address import packed
from tests.datapath.vs_support import HTTP, Bench, header_of

MARK = ServiceAddress.of_mark(1)


def test_every_scheduler_that_is_known_is_here() -> None:
    assert set(SCHEDULERS) == set(known.SCHEDULERS)


def picks(bench: Bench, count: int, address: ServiceAddress = HTTP, **options: Any) -> str:
    """The last digits of the servers of so many clients."""
    found = ""
    for number in range(count):
        conn = bench.open(f"198.51.100.{number % 250 + 1}:{1024 + number}", **options)
        found += str(conn.daddr[-1]) if isinstance(conn, Conn) else "-"
    return found


def test_rr_goes_on_from_the_predecessor_of_a_deleted_server() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2",), ("10.0.0.3",), scheduler="rr")
    assert picks(bench, 4) == "3213"
    assert picks(bench, 1) == "2"
    bench.services.delete_server(HTTP, bench.wish(HTTP, "10.0.0.2").address)
    assert picks(bench, 3) == "131"
    bench.server(HTTP, "10.0.0.4")
    assert picks(bench, 3) == "431"


def test_rr_passes_over_quiesced_and_overloaded_servers() -> None:
    bench = Bench()
    one, two = bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2", 0), scheduler="rr")
    assert picks(bench, 2) == "11"
    one.flags |= OVERLOAD
    assert picks(bench, 1) == "-"
    assert two.weight == 0


def test_wrr_interleaves_by_weight() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 4), ("10.0.0.2", 3), ("10.0.0.3", 2), scheduler="wrr")
    assert Counter(picks(bench, 90)) == {"1": 40, "2": 30, "3": 20}


def test_wrr_with_weights_of_billions_comes_to_an_end() -> None:
    bench = Bench()
    one, _ = bench.add(HTTP, ("10.0.0.1", 2**31 - 1), ("10.0.0.2", 2), scheduler="wrr")
    one.flags |= OVERLOAD
    assert picks(bench, 4) == "2222"


@pytest.mark.parametrize("weights", [(4, 3, 2), (10, 5, 0), (1, 7, 7), (6, 9, 3), (0, 0, 0), (50, 20, 1)])
@pytest.mark.parametrize("overloaded", [(), (0,), (1,), (0, 2), (0, 1, 2)])
def test_wrr_jumps_only_over_empty_rounds(weights: tuple[int, ...], overloaded: tuple[int, ...]) -> None:
    """The same choices as a bar that falls step by step."""
    benches = [Bench(), Bench()]
    for bench in benches:
        dests = bench.add(HTTP, *((f"10.0.0.{n + 1}", weight) for n, weight in enumerate(weights)), scheduler="wrr")
        for number in overloaded:
            dests[number].flags |= OVERLOAD
    slow = benches[1].services.all()[0].scheduler
    step_by_step = type("Slow", (type(slow),), {"__slots__": (), "_lowered": lambda self, bar: bar})
    slow.__class__ = step_by_step
    assert picks(benches[0], 60) == picks(benches[1], 60)


def test_lc_ignores_weights_and_wlc_does_not() -> None:
    for scheduler, expected in (("lc", "212121"), ("wlc", "211121")):
        bench = Bench()
        bench.add(HTTP, ("10.0.0.1", 3), ("10.0.0.2", 1), scheduler=scheduler)
        assert picks(bench, 6) == expected, scheduler


def test_an_active_connection_costs_257_inactive_ones() -> None:
    bench = Bench()
    one, two = bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2",), scheduler="lc")
    two.active, one.inactive = 1, 256
    assert picks(bench, 1) == "1"
    one.active, one.inactive = 0, 258
    assert picks(bench, 1) == "2"


def test_sed_and_nq() -> None:
    for scheduler, expected in (("sed", "11121"), ("nq", "21111")):
        bench = Bench()
        bench.add(HTTP, ("10.0.0.1", 4), ("10.0.0.2", 1), scheduler=scheduler)
        assert picks(bench, 5) == expected, scheduler


def test_fo_and_ovf() -> None:
    for scheduler, expected in (("fo", "11111"), ("ovf", "11122-")):
        bench = Bench()
        bench.add(HTTP, ("10.0.0.1", 2), ("10.0.0.2", 1), scheduler=scheduler)
        assert picks(bench, len(expected)) == expected, scheduler


def test_none_never_chooses() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",), scheduler="none")
    assert bench.open() is Refusal.NO_DESTINATION


def test_hash_32_and_folding() -> None:
    assert hashes.hash_32(1, 8) == 0x61
    assert hashes.hash_32(0xC0A80101, 8) == (0xC0A80101 * 0x61C88647 & 0xFFFFFFFF) >> 24
    assert hashes.fold(packed("192.168.1.1"), 2) == 0xC0A80101
    assert hashes.fold(packed("2001:db8::1"), 10) == 0x20010DB8 ^ 1
    assert hashes.fold(packed("2001:db8::1"), 2) == 0x20010DB8


def test_hsiphash_is_siphash_1_3() -> None:
    """CPython's own hash of bytes is SipHash-1-3, with a key of zeros when PYTHONHASHSEED is 0."""
    assert sys.hash_info.algorithm == "siphash13"
    script = "print(*(hash(number.to_bytes(4, 'little')) for number in (0, 1, 0xC0A80101, 0xFFFFFFFF)))"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    expected = [int(word) & 0xFFFFFFFF for word in done.stdout.split()]
    assert [hashes.hsiphash(number, 0) for number in (0, 1, 0xC0A80101, 0xFFFFFFFF)] == expected


def test_sh_gives_a_client_the_same_server_and_weight_its_slots() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 3), ("10.0.0.2", 1), scheduler="sh")
    once = picks(bench, 250)
    assert once == picks(bench, 250)
    assert 0.65 < once.count("1") / 250 < 0.85


def test_sh_fallback_and_its_absence() -> None:
    for flags in ((), ("sh-fallback",)):
        bench = Bench()
        bench.add(HTTP, ("10.0.0.1", 1), ("10.0.0.2", 0), scheduler="sh", flags=flags)
        assert set(picks(bench, 60)) == ({"1"} if flags else {"1", "-"})


def test_flags_follow_an_edit_of_the_service() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1), ("10.0.0.2", 0), scheduler="sh")
    service = bench.services.all()[0]
    scheduler = service.scheduler
    bench.services.edit(type(service.service)(HTTP, "sh", ("sh-fallback",)))
    assert service.scheduler is scheduler
    assert set(picks(bench, 60)) == {"1"}


def test_port_flag_of_an_error_takes_the_other_port() -> None:
    bench = Bench()
    bench.add(HTTP, *((f"10.0.0.{n}",) for n in range(1, 9)), scheduler="mh", flags=("mh-port",))
    scheduler = bench.services.all()[0].scheduler
    for port in range(2000, 2040):
        there = header_of(f"198.51.100.1:{port}", "192.0.2.1:80")
        back = header_of("192.0.2.1:80", f"198.51.100.1:{port}")._replace(inverse=True)
        skb = bench.packet(there)
        assert scheduler.pick(there, skb) is scheduler.pick(back, skb)


def test_mh_spreads_evenly_and_moves_few() -> None:
    bench = Bench()
    bench.add(HTTP, *((f"10.0.0.{n}",) for n in range(1, 6)), scheduler="mh", flags=("mh-port",))
    before = picks(bench, 1000)
    assert all(150 < before.count(str(n)) < 250 for n in range(1, 6))
    bench.services.delete_server(HTTP, bench.wish(HTTP, "10.0.0.3").address)
    after = picks(bench, 1000)
    moved = sum(a != b for a, b in zip(before, after, strict=True) if a != "3")
    assert moved < 100 and "3" not in after


def test_mh_with_every_server_quiesced_is_quick() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",), ("10.0.0.2",), scheduler="mh", flags=("mh-fallback",))
    for host in ("10.0.0.1", "10.0.0.2"):
        bench.services.edit_server(HTTP, bench.wish(HTTP, host, 0))
    hashes.hsiphash.cache_clear()
    assert picks(bench, 5) == "-----"
    assert hashes.hsiphash.cache_info().misses < 20 < MAGLEV_SIZE


def test_twos_takes_the_less_loaded_of_two() -> None:
    bench = Bench()
    one, two = bench.add(HTTP, ("10.0.0.1", 1), ("10.0.0.2", 1), scheduler="twos")
    two.active = 1000
    chosen = Counter(picks(bench, 300))
    # Drawn from 0 to 2 inclusive: the head of the list, the second server, for 0 and 1, and both times in 4 of 9.
    assert 90 < chosen["2"] < 180
    assert chosen["1"] == one.active


def marked(bench: Bench, target: str, number: int = 0) -> str:
    conn = bench.open(f"198.51.100.9:{1024 + number}", to=f"{target}:80", mark=1)
    return str(conn.daddr[-1]) if isinstance(conn, Conn) else "-"


def test_dh_is_by_destination_and_ignores_weights() -> None:
    bench = Bench()
    bench.add(MARK, ("10.0.0.1:0", 1), ("10.0.0.2:0", 50), scheduler="dh")
    table = ["2", "1"]
    for host in range(1, 30):
        slot = hashes.hash_32(hashes.fold(packed(f"203.0.113.{host}"), 2), 8)
        assert marked(bench, f"203.0.113.{host}", host) == table[slot % 2]


def test_lblc_keeps_a_destinations_server_until_it_is_overloaded() -> None:
    bench = Bench()
    one, two = bench.add(MARK, ("10.0.0.1:0", 4), ("10.0.0.2:0", 4), scheduler="lblc")
    assert [marked(bench, "203.0.113.1", n) for n in range(5)] == ["2"] * 5
    assert two.active == 5 > two.weight and one.active * 2 < one.weight
    assert marked(bench, "203.0.113.1", 5) == "1"
    assert marked(bench, "203.0.113.1", 6) == "1"


def test_lblcr_has_a_set_and_lets_the_most_loaded_go_in_time() -> None:
    bench = Bench()
    bench.engine.settings["net.ipv4.vs.lblcr_expiration"] = 50
    _, two = bench.add(MARK, ("10.0.0.1:0", 4), ("10.0.0.2:0", 4), scheduler="lblcr")
    scheduler = bench.services.all()[0].scheduler
    for number in range(6):
        marked(bench, "203.0.113.1", number)
    place = scheduler._places[packed("203.0.113.1")]
    assert [dest.address[-1] for dest in place.servers] == [1, 2]
    bench.engine.now += 51
    marked(bench, "203.0.113.1", 7)
    assert two not in place.servers


def test_locality_is_forgotten_and_bounded() -> None:
    bench = Bench()
    bench.add(MARK, ("10.0.0.1:0", 1), scheduler="lblc")
    scheduler = bench.services.all()[0].scheduler
    skb = bench.packet(header_of("198.51.100.1:1024", "203.0.113.1:80"), mark=1)
    for number in range(locality._FULL * 3 // 2 + 10):
        scheduler.pick(Header(2, UDP, b"\1\2\3\4", number.to_bytes(4), 1, 2), skb)
    assert len(scheduler._places) == locality._FULL * 3 // 2
    bench.engine.now += 361
    scheduler.on_timer(bench.engine.now)
    assert locality._FULL // 2 < len(scheduler._places) <= locality._FULL * 3 // 2 - locality._FULL // 2
    for _ in range(40):
        bench.engine.now += 86400
        scheduler.on_timer(bench.engine.now)
    assert not scheduler._places


def test_a_deleted_service_leaves_no_timer() -> None:
    bench = Bench()
    bench.add(MARK, ("10.0.0.1:0", 1), scheduler="lblc")
    marked(bench, "203.0.113.1")
    scheduler = bench.services.all()[0].scheduler
    assert scheduler.slot
    bench.services.delete(MARK)
    assert not scheduler.slot and not scheduler._places
