"""The state machines of IPVS against the tables of the kernel (ip_vs_proto_tcp.c, ip_vs_proto_sctp.c, _udp.c)."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ipvsctl.datapath.skb import ACK, FIN, RST, SCTP, SYN, UDP
from ipvsctl.datapath.vs import states, states_sctp, states_tcp
from ipvsctl.datapath.vs.entry import INACTIVE, NOOUTPUT, TEMPLATE, Conn
from ipvsctl.datapath.vs.states import INPUT, OUTPUT
from ipvsctl.model.status import Timeouts
from tests.datapath.vs_support import HTTP, Bench, header_of

FACTS = json.loads((Path(__file__).parent / "ipvs_states.json").read_text())
DIRECTIONS = ("INPUT", "OUTPUT", "INPUT_ONLY")


@pytest.mark.parametrize(
    ("facts", "module", "table"),
    [
        ("tcp", states_tcp, states_tcp.TABLE),
        ("tcp_secure", states_tcp, states_tcp.SECURE_TABLE),
        ("sctp", states_sctp, states_sctp.TABLE),
    ],
)
def test_every_cell_is_the_kernels(facts: str, module: ModuleType, table: tuple[bytes, ...]) -> None:
    names, events = module.STATES, module.EVENTS
    assert list(FACTS[facts]) == list(names)
    cells = 0
    for state, by_direction in FACTS[facts].items():
        for direction, by_event in by_direction.items():
            for event, following in by_event.items():
                row = table[DIRECTIONS.index(direction) * len(events) + events.index(event)]
                assert names[row[names.index(state)]] == following, (state, direction, event)
                cells += 1
    assert cells == len(names) * 3 * (10 if facts == "sctp" else 4)


def test_timeouts_and_active_states() -> None:
    assert dict(zip(states_tcp.STATES, states_tcp.TIMEOUTS, strict=True)) == FACTS["tcp_timeouts_s"]
    assert dict(zip(states_sctp.STATES, states_sctp.TIMEOUTS, strict=True)) == FACTS["sctp_timeouts_s"]
    assert [name for name, on in zip(states_tcp.STATES, states_tcp.ACTIVE, strict=False) if on] == FACTS["tcp_active"]


@pytest.mark.parametrize(
    ("flags", "event"),
    [(SYN, "syn"), (SYN | ACK, "syn"), (FIN | ACK, "fin"), (ACK, "ack"), (RST | ACK, "rst"), (RST | SYN, "rst"),
     (SYN | FIN, "syn"), (0, "none"), (8, "none"), (32, "none")],
)  # fmt: skip
def test_events_of_flags(flags: int, event: str) -> None:
    assert states_tcp.EVENTS[states_tcp.EVENT_OF[flags]] == event


def opened(bench: Bench, **options: Any) -> Conn:
    conn = bench.open(**options)
    assert isinstance(conn, Conn)
    return conn


def test_a_nat_connection_from_open_to_closed() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    conn = opened(bench)
    seen = [(states_tcp.STATES[conn.state], conn.timeout, dest.active, dest.inactive)]
    for direction, flags in [
        (OUTPUT, SYN | ACK), (INPUT, ACK), (OUTPUT, ACK), (INPUT, FIN | ACK), (OUTPUT, FIN | ACK), (INPUT, ACK)
    ]:  # fmt: skip
        bench.send(conn, flags, direction)
        seen.append((states_tcp.STATES[conn.state], conn.timeout, dest.active, dest.inactive))
    assert seen == [
        ("SYN_RECV", 60, 1, 0), ("SYN_RECV", 60, 1, 0), ("ESTABLISHED", 900, 1, 0), ("ESTABLISHED", 900, 1, 0),
        ("CLOSE_WAIT", 60, 0, 1), ("TIME_WAIT", 120, 0, 1), ("TIME_WAIT", 120, 0, 1),
    ]  # fmt: skip


def test_a_one_way_connection_has_its_own_table_until_a_reply_passes() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "dr"))
    conn = opened(bench)
    assert conn.flags & NOOUTPUT
    bench.send(conn, ACK)
    bench.send(conn, FIN | ACK)
    assert conn.state == states_tcp.FIN_WAIT
    bench.send(conn, ACK, OUTPUT)
    assert not conn.flags & NOOUTPUT
    bench.send(conn, FIN | ACK)
    assert conn.state == states_tcp.TIME_WAIT


def test_a_segment_without_flags_closes() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    conn = opened(bench)
    bench.send(conn, 8)
    assert (conn.state, conn.timeout, dest.active) == (states_tcp.CLOSE, 10, 0)


def test_set_timeouts_concern_three_states_from_the_next_packet_on() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    conn = opened(bench)
    bench.send(conn, ACK)
    bench.conns.states.set_timeouts(Timeouts(100, 20, 30))
    assert conn.timeout == 900
    bench.send(conn, ACK)
    assert conn.timeout == 100
    bench.send(conn, FIN, OUTPUT)
    assert conn.timeout == 20
    bench.conns.states.set_timeouts(Timeouts(0, 0, 7))
    assert bench.conns.states.timeouts == Timeouts(100, 20, 7)


def test_udp_is_never_active_and_a_reply_assures_the_template() -> None:
    bench = Bench()
    address = HTTP.parse("udp:192.0.2.1:53")
    (dest,) = bench.add(address, ("10.0.0.1", 1, "nat"), persistent=60)
    conn = opened(bench, to="192.0.2.1:53", protocol=UDP)
    assert conn.control is not None and not conn.control.state
    assert (conn.timeout, dest.active, dest.inactive, dest.persistent) == (300, 0, 1, 1)
    assert conn.flags & INACTIVE
    bench.send(conn, 0, OUTPUT)
    assert conn.control.state == states.ASSURED


def test_tcp_assures_the_template_when_established() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "nat"), persistent=60)
    conn = opened(bench)
    template = conn.control
    assert template is not None and template.flags & TEMPLATE
    bench.send(conn, SYN | ACK, OUTPUT)
    assert not template.state
    bench.send(conn, ACK)
    assert template.state == states.ASSURED


def test_secure_tcp_changes_the_table() -> None:
    bench = Bench(secure_tcp=3)
    bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    conn = opened(bench)
    bench.send(conn, ACK)
    assert conn.state == states_tcp.SYN_RECV
    bench.write("secure_tcp", 0)
    bench.send(conn, ACK)
    assert conn.state == states_tcp.ESTABLISHED


def test_sctp_events() -> None:
    def packet(*chunks: bytes) -> bytes:
        return bytes(12) + b"".join(chunks)

    assert states_sctp.event(packet(b"\x01\0\0\4"), 0) == states_sctp.EVENTS.index("init")
    assert states_sctp.event(packet(b"\x0a\0\0\7abc\0", b"\x06\0\0\4"), 0) == states_sctp.ABORT
    assert states_sctp.event(packet(b"\x0a\0\0\7abc\0", b"\x00\0\0\4"), 0) == states_sctp.EVENTS.index("cookie_echo")
    assert states_sctp.event(packet(b"\x0b\0\0\3", b"\x06\0\0\4"), 0) == states_sctp.EVENTS.index("cookie_ack")
    assert states_sctp.event(packet(b"\x00\0\0\4", b"\x06\0\0\4"), 0) == states_sctp.EVENTS.index("data")
    assert states_sctp.event(packet(b"\xc0\0\0\4"), 0) == states_sctp.EVENTS.index("data")
    assert states_sctp.event(packet(b"\x01\0\0"), 0) == -1


def test_sctp_association() -> None:
    bench = Bench()
    (dest,) = bench.add(HTTP.parse("sctp:192.0.2.1:80"), ("10.0.0.1", 1, "nat"))
    conn = opened(bench, protocol=SCTP, flags=1)
    seen = [states_sctp.STATES[conn.state]]
    for direction, chunk in [(OUTPUT, 2), (INPUT, 10), (OUTPUT, 11), (INPUT, 0), (INPUT, 7), (OUTPUT, 8), (INPUT, 14)]:
        bench.send(conn, chunk, direction)
        seen.append(states_sctp.STATES[conn.state])
        assert (dest.active, dest.inactive) == ((1, 0) if seen[-1] == "ESTABLISHED" else (0, 1))
    assert seen == [
        "INIT1", "COOKIE_SENT", "COOKIE_REPLIED", "ESTABLISHED", "ESTABLISHED", "SHUTDOWN_RECEIVED",
        "SHUTDOWN_ACK_SENT", "CLOSED",
    ]  # fmt: skip


def test_short_packets_change_nothing() -> None:
    bench = Bench()
    bench.add(HTTP, ("10.0.0.1", 1, "nat"))
    conn = opened(bench)
    header = header_of("198.51.100.1:1024", "192.0.2.1:80")
    skb = bench.packet(header, ACK)
    del skb.data[39:]
    states.set_state(conn, INPUT, skb, header, bench.engine)
    assert conn.state == states_tcp.SYN_RECV


def test_every_number_of_a_state_leads_somewhere() -> None:
    for table, count in ((states_tcp.TABLE, 11), (states_tcp.SECURE_TABLE, 11), (states_sctp.TABLE, 14)):
        assert all(len(row) == 16 and max(row) < count for row in table)


def test_names() -> None:
    assert [states.name(*case) for case in [(6, 1), (6, 99), (17, 0), (132, 4), (0, 0), (47, 0)]] == [
        "ESTABLISHED", "ERR!", "UDP", "C-REPLIED", "NONE", "ERR!",
    ]  # fmt: skip
    assert [states.name(6, number, template=True) for number in range(3)] == ["NONE", "ASSURED", "ERR!"]
