"""The defences against floods (ip_vs_ctl.c: update_defense_level; ip_vs_conn.c: ip_vs_random_dropentry)."""

from __future__ import annotations

from typing import Any

import pytest

from ipvsctl.datapath.skb import ACK, UDP
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs import states_tcp
from ipvsctl.datapath.vs.entry import TEMPLATE, Conn
from ipvsctl.datapath.vs.header import Refusal
from ipvsctl.model.address import ServiceAddress
from tests.datapath.vs_support import HTTP, Bench


def read(bench: Bench, name: str) -> int:
    value: int = bench.engine.settings[f"net.ipv4.vs.{name}"]
    return value


@pytest.mark.parametrize("name", ["drop_entry", "drop_packet", "secure_tcp"])
def test_the_automatic_moves_between_1_and_2(name: str) -> None:
    bench = Bench()
    bench.write(name, 2)
    assert read(bench, name) == 1
    bench.write("amemthresh", 2**30)
    bench.defense.poll(200.0)
    assert read(bench, name) == 2
    bench.write("amemthresh", 1024)
    bench.defense.poll(202.0)
    assert read(bench, name) == 1
    bench.write(name, 3)
    bench.defense.poll(204.0)
    assert read(bench, name) == 3


def test_it_sleeps_while_all_is_off() -> None:
    bench = Bench()
    assert bench.defense.poll_at() is None
    bench.write("drop_entry", 1)
    assert bench.defense.poll_at() == bench.engine.now
    bench.defense.poll(100.0)
    assert bench.defense.poll_at() == 101.0


def outcomes(bench: Bench, count: int) -> str:
    return "".join("x" if bench.open(f"198.51.100.1:{1024 + n}") is Refusal.FAILED else "." for n in range(count))


def test_drop_packet_drops_one_in_so_many() -> None:
    bench = Bench(drop_packet=3, am_droprate=4)
    bench.add(HTTP, ("10.0.0.1",))
    assert outcomes(bench, 10) == "x...x...x."
    assert bench.open(to="192.0.2.1:81") is None
    bench.write("drop_packet", 0)
    assert outcomes(bench, 10) == "." * 10


def test_the_rate_follows_the_memory_that_is_missing() -> None:
    bench = Bench(drop_packet=1)
    bench.add(HTTP, ("10.0.0.1",))
    bench.defense.free = 2048
    bench.write("amemthresh", 3072)
    bench.defense.poll(200.0)
    assert outcomes(bench, 7) == "..x..x."
    assert bench.scheduling.failure is Reason.IPVS_DROP_PACKET


def test_secure_tcp_at_once_and_back() -> None:
    bench = Bench()
    bench.write("secure_tcp", 3)
    assert bench.conns.states.tcp_table is states_tcp.SECURE_TABLE
    bench.write("secure_tcp", 1)
    assert bench.conns.states.tcp_table is states_tcp.TABLE


def opened(bench: Bench, client: str, **options: Any) -> Conn:
    conn = bench.open(client, **options)
    assert isinstance(conn, Conn)
    return conn


def test_drop_entry_takes_a_share_of_what_is_half_open() -> None:
    bench = Bench(drop_entry=3)
    bench.add(HTTP, ("10.0.0.1",))
    for number in range(6000):
        conn = opened(bench, f"198.51.{number // 5000}.1:{1024 + number % 5000}")
        if number % 2:
            bench.send(conn, ACK)
    bench.defense.poll(101.0)
    left = [conn.state for conn in bench.conns]
    dropped = 6000 - len(left)
    # A 32nd of 3,000 half-open ones, by chance.
    assert 50 < dropped < 150
    assert left.count(states_tcp.ESTABLISHED) == 3000


def test_drop_entry_of_templates() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1",), persistent=1000)
    conn, assured = opened(bench, "198.51.100.1:1"), opened(bench, "198.51.100.2:1")
    bench.send(assured, ACK)
    bench.conns.expire(conn, 0)
    for _ in range(3000):
        bench.defense.drop_entries()
    assert [each.caddr[-1] for each in bench.conns if each.flags & TEMPLATE] == [2]


def test_an_idle_connection_goes_by_its_count_of_packets() -> None:
    bench = Bench()
    bench.add(ServiceAddress.parse("udp:192.0.2.1:53"), ("10.0.0.1",))
    conns = [opened(bench, f"198.51.100.1:{n + 1}", to="192.0.2.1:53", protocol=UDP) for n in range(12)]
    for conn in conns[1:]:
        conn.in_packets = 3
    conns[0].in_packets = 9
    assert [bench.defense._drops(conn) for conn in conns] == [False] * 12
    bench.wait(61)
    assert [bench.defense._drops(conn) for conn in conns] == [False] + ([True] + [False] * 2) * 3 + [True, False]
