"""The schedulers against a real kernel: the same histories, the same server for every client (see vs_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.datapath.skb import TCP
from ipvsctl.datapath.vs.entry import AVAILABLE, Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.datapath.vs.states import INPUT, set_state
from ipvsctl.model.status import Timeouts
from tests.datapath import vs_golden as golden
from tests.datapath.vs_support import Bench

GOLDEN = json.loads((Path(__file__).parent / "vs_golden.json").read_text())
CASES = golden.cases()


def name(number: int) -> str:
    case = CASES[number]
    return f"{number}-{case['scheduler']}-{case['family']}{'-mark' if case['mark'] else ''}"


@pytest.mark.parametrize("number", range(len(CASES)), ids=name)
def test_the_kernels_choice(number: int) -> None:
    case = CASES[number]
    assert replay(case) == GOLDEN["chosen"][number]


def test_the_histories_are_worth_it() -> None:
    chosen = "".join(GOLDEN["chosen"])
    assert len(GOLDEN["chosen"]) == len(CASES)
    assert all(chosen.count(server) > 100 for server in "0123-")


def replay(case: dict[str, Any]) -> str:
    """The case on the tables here: a digit for each client's server, "-" for none."""
    bench = Bench(expire_quiescent_template=int(case["quiescent"]))
    bench.conns.states.set_timeouts(Timeouts(0, golden.FIN_TIMEOUT, 0))
    service = golden.service_of(case)
    address = service.address
    bench.services.add(service)
    chosen = []
    for step in case["steps"]:
        kind, rest = step[0], step[1:]
        if kind == "add":
            bench.services.add_server(address, golden.server_of(case, *rest))
        elif kind == "edit":
            bench.services.edit_server(address, golden.server_of(case, *rest))
        elif kind == "delete":
            bench.services.delete_server(address, golden.server_of(case, *rest).address)
        elif kind == "service":
            bench.services.edit(golden.service_of(case, rest[0]))
        elif kind == "wait":
            bench.wait(golden.WAIT)
        else:
            conn = _packet(bench, case, rest[0], golden.SEGMENTS[kind])
            if kind == "open":
                chosen.append(str(conn.daddr[-1] - 10) if conn else "-")
    return "".join(chosen)


def _packet(bench: Bench, case: dict[str, Any], number: int, flags: int) -> Conn | None:
    client, sport, target, dport = golden.client_of(case, number)
    header = Header(case["family"], TCP, client, target, sport, dport, 0, 20)
    skb = bench.packet(header, flags, "", case["mark"])
    conn = bench.conns.find_in(header)
    if conn is None:
        outcome = bench.scheduling.conn_schedule(skb, header)
        if not isinstance(outcome, Conn):
            return None
        conn = outcome
    elif conn.dest is not None and not conn.dest.flags & AVAILABLE:
        return None  # Its server was deleted: IPVS drops the packet.
    set_state(conn, INPUT, skb, header, bench.engine)
    bench.conns.put(conn, bench.engine.now)
    return conn
