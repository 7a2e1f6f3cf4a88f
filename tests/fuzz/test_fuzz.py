"""A slice of the fuzzer that is always the same: `python -m tests.fuzz --packets 1000000` is the whole of it."""

from __future__ import annotations

from random import Random

import pytest

from ipvsctl.datapath.ct.table import Conntrack
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.conns import Connections
from ipvsctl.model.snapshot import Snapshot
from tests.fuzz import outputs
from tests.fuzz.__main__ import TWINS
from tests.fuzz.drive import Round, play
from tests.fuzz.formats import findings
from tests.fuzz.packets import corpus
from tests.fuzz.worlds import world

SEED = 2003
ROUNDS = 12
PACKETS = 1600


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_round(number: int) -> None:
    tally = play(SEED, number, PACKETS, TWINS[number % len(TWINS)])
    assert [str(finding) for finding in tally.findings] == []
    assert tally.packets >= PACKETS


def test_what_was_found_before() -> None:
    for number in range(25):
        random = Random(number)
        snapshot = world(random, number % 2 == 0)
        engine = Engine(snapshot, Random(1).randrange)
        for at, (device, packet) in enumerate(corpus()):
            found = engine.receive(device, packet, float(at)) if device else engine.send(packet, float(at))
            assert engine.verdict not in ("", Reason.STOLEN)
            assert list(outputs.wrong(engine, found, False, packet)) == []


def test_everything_that_reads() -> None:
    assert list(findings(SEED, 800)) == []


# -- that the fuzzer sees what it looks for ---------------------------------------------------------------------------


def test_a_round_is_always_the_same() -> None:
    one, two = Round(SEED, 3), Round(SEED, 3)
    assert [one.traffic.event() for _ in range(200)] == [two.traffic.event() for _ in range(200)]


def test_conversations_get_far() -> None:
    """Rounds in which nothing is ever connected would find nothing."""
    seen: set[str] = set()
    flows = 0
    for number in range(12):
        one = Round(SEED, number)
        one.run_without_end(600)
        seen |= {connection.state for connection in one.engine.vs.connections()}
        seen |= {f"{entry.protocol} {entry.state}" for entry in one.engine.ct.report()}
        flows += len(one.engine.flows)
    assert {"ESTABLISHED", "tcp ESTABLISHED", "FIN_WAIT"} <= seen
    assert flows


@pytest.mark.parametrize("what", ["checksum", "lost", "count", "exception", "twin"])
def test_a_mistake_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of check, given a datapath that makes that mistake."""
    match what:
        case "checksum":
            monkeypatch.setattr(Skb, "_fix", lambda self, before, after: None)
        case "lost":
            monkeypatch.setattr(Conntrack, "_give_up", lambda self, entry: None)
            monkeypatch.setattr(Conntrack, "kill", lambda self, entry: False)
        case "count":
            monkeypatch.setattr(Connections, "_unbind", lambda self, conn: None)
        case "exception":
            monkeypatch.setattr(Skb, "has_ports", property(lambda self: 1 // 0))
        case "twin":
            honest = Engine.receive

            def receive(engine: Engine, device: str, packet: bytes, now: float) -> list[Output]:
                found = honest(engine, device, packet, now)
                return found if engine.tracer is None else found[1:]

            monkeypatch.setattr(Engine, "receive", receive)
    assert any(play(SEED, number, PACKETS, "traced").findings for number in range(6))


def test_an_empty_director_takes_everything() -> None:
    engine = Engine(Snapshot(), Random(1).randrange)
    for device, packet in corpus():
        engine.receive(device or "lo", packet, 1.0)
        assert engine.verdict
