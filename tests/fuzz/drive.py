"""One round: a random director, some thousand events, every check; and all of it once more beside a twin.

A round is named by a seed and a number and is always the same. Some rounds run two engines side by side, which must say
the same of everything: one is traced, or goes the long way for every packet.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from random import Random
from time import process_time

from ipvsctl.cli import trace_json, trace_text
from ipvsctl.cli.environment import Environment
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.session import Walk
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import UsageError
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.snapshot import Snapshot
from tests.fuzz import outputs as leaving
from tests.fuzz.rules import Rules
from tests.fuzz.state import Bounds, alive
from tests.fuzz.traffic import Event, Traffic
from tests.fuzz.worlds import world

BATCH = 250
"""Events between two looks into the tables; more in long rounds."""

PATIENCE = 2.0
"""Seconds of the processor that one event may take; a packet takes far less than a hundredth of one."""

_ENOUGH = 5
"""Complaints of a round after which it ends."""


@dataclass(slots=True)
class Finding:
    """Something wrong. `what` in one line; `events` the last ones before it; `trace` of an exception."""

    round: str
    number: int
    what: str
    events: list[str] = field(default_factory=list)
    trace: str = ""

    def __str__(self) -> str:
        return "\n".join([f"round {self.round}, event {self.number}: {self.what}",
                          *(f"    {event}" for event in self.events), self.trace])  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What happened in a round."""

    packets: int = 0
    events: int = 0
    sent: int = 0
    slowest: float = 0.0
    """Seconds of the event that took longest."""
    verdicts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.packets += other.packets
        self.events += other.events
        self.sent += other.sent
        self.slowest = max(self.slowest, other.slowest)
        self.verdicts += other.verdicts
        self.findings += other.findings


class Twin:
    """An engine beside another, that must do the same: `kind` "traced", "slow" (no flows) or "" for none."""

    def __init__(self, kind: str, snapshot: Snapshot, seed: str, share: Random) -> None:
        self.kind = kind
        self.share = share
        self.engine = Engine(snapshot, Random(seed).randrange)
        if kind == "slow":
            self.engine.flows.enabled = False

    def act(self, event: Event) -> list[Output]:
        """Do what the other did; of what a trace says an explanation is asked as well."""
        engine = self.engine
        if self.kind != "traced" or self.share.random() < 0.3:
            return act(engine, event)
        engine.tracer = tracer = Tracer()
        found = act(engine, event)
        engine.tracer = None
        if event.kind in ("in", "send"):
            self._tell(Walk("a packet", event.packet, event.device, engine.verdict, tracer.steps, found))
        return found

    def _tell(self, walk: Walk) -> None:
        """Say of a walk what `ipvsctl trace` would say."""
        chance = self.share.random()
        explain(self.engine, walk)
        if chance < 0.1:
            trace_json.to_dict(self.engine, [walk], "", ())
        if chance < 0.03 and len(walk.packet) < 600:
            env = Environment(stdout=StringIO(), variables={})
            env.verbose = chance < 0.015
            trace_text.show(env, self.engine, [walk], "")


def act(engine: Engine, event: Event) -> list[Output]:
    """Let an event happen."""
    match event.kind:
        case "in":
            return engine.receive(event.device, event.packet, event.at)
        case "send":
            return engine.send(event.packet, event.at, event.mark)
        case "poll":
            return engine.poll(event.at)
    found = engine.poll(event.at)
    match event.kind:
        case "change":
            assert event.change is not None
            engine.vs.apply(event.change)
        case "sysctl":
            engine.settings.write(*event.sysctl)
        case "load":
            assert event.table is not None
            try:
                engine.tables.load(event.table)
            except UsageError:
                return found
        case "flush":
            engine.ct.flush()
        case "zero":
            engine.tables.zero()
            engine.vs.zero(None)
    return found


class Round:
    """A round of a seed and a number."""

    def __init__(self, seed: int, number: int, twin: str = "") -> None:
        self.name = f"{seed}/{number}"
        random = Random(self.name)
        calm = random.random() < 0.45
        self.snapshot = world(random, calm)
        self.engine = Engine(self.snapshot, Random(self.name).randrange)
        scratch = Engine(Snapshot(self.snapshot.devices), Random(0).randrange)
        self.traffic = Traffic(
            random, self.snapshot, [Rules(random, family, scratch) for family in (INET, INET6)], calm
        )
        self.bounds = Bounds(self.engine)
        self.twin = Twin(twin, self.snapshot, self.name, Random(f"share/{self.name}")) if twin else None
        self.tally = Tally()
        self._last: list[Event] = []
        self._sound_fragments = True

    def run(self, packets: int) -> Tally:
        """So many packets, then the end of all time."""
        if self.run_without_end(packets) and not self.tally.findings:
            self._end()
        return self.tally

    def run_without_end(self, packets: int) -> bool:
        """So many packets; false when an exception ended it."""
        batch = max(BATCH, packets // 20)
        while self.tally.packets < packets and len(self.tally.findings) < _ENOUGH:
            event = self.traffic.event()
            if not self._happens(event):
                return False
            if self.tally.events % batch == 0:
                self._look()
        self._look()
        return True

    def _complain(self, what: str, trace: str = "", most: int = 4) -> None:
        self.tally.findings.append(
            Finding(self.name, self.tally.events, what, [str(event) for event in self._last[-most:]], trace)
        )

    def _happens(self, event: Event) -> bool:
        """Let it happen and look at what leaves; false when that raised an exception."""
        tally = self.tally
        tally.events += 1
        self._last.append(event)
        del self._last[:-4]
        sound = self._is_sound(event)
        if event.kind == "sysctl":
            self.bounds.before_write()
        start = process_time()
        try:
            found = act(self.engine, event)
        except Exception:
            self._complain("an exception", traceback.format_exc())
            return False
        took = process_time() - start
        tally.slowest = max(tally.slowest, took)
        if took > PATIENCE:
            self._complain(f"it took {took:.1f} seconds")
        self.traffic.net.take(found)
        tally.sent += len(found)
        if event.packet or event.kind in ("in", "send"):
            tally.packets += 1
            verdict = self.engine.verdict
            tally.verdicts[verdict.name if isinstance(verdict, Reason) else verdict or "(nothing)"] += 1
            if verdict == "" or verdict is Reason.STOLEN:
                self._complain(f"nothing is said of what became of it: {verdict!r}")
        for complaint in leaving.wrong(self.engine, found, sound, event.packet):
            self._complain(complaint, most=1)
        if self.twin is not None:
            self._compare(event, found)
        return True

    def _is_sound(self, event: Event) -> bool:
        if event.kind not in ("in", "send"):
            return True
        if not leaving.is_fragment(event.packet):
            return leaving.right(event.packet) and not leaving.has_odd_mss(event.packet)
        self._sound_fragments &= event.clean
        return self._sound_fragments

    def _compare(self, event: Event, found: Sequence[Output]) -> None:
        assert self.twin is not None
        try:
            others = self.twin.act(event)
        except Exception:
            self._complain(f"an exception in the {self.twin.kind} twin", traceback.format_exc())
            return
        if list(others) != list(found):
            self._complain(f"the {self.twin.kind} twin sends {others}, not {list(found)}")
        elif self.twin.engine.verdict != self.engine.verdict:
            self._complain(f"the {self.twin.kind} twin says {self.twin.engine.verdict!r}, not {self.engine.verdict!r}")

    def _look(self) -> None:
        if self.tally.findings:
            return
        try:
            list(_listed(self.engine))
        except Exception:
            self._complain("an exception in a listing", traceback.format_exc())
            return
        for complaint in self.bounds.broken():
            self._complain(complaint)
        if self.twin is not None:
            for name, mine, other in self._both():
                if mine != other:
                    self._complain(f"the {self.twin.kind} twin has other {name}: {_difference(mine, other)}")

    def _both(self) -> Iterator[tuple[str, Sequence[object], Sequence[object]]]:
        assert self.twin is not None
        for (name, mine), (_, other) in zip(_listed(self.engine), _listed(self.twin.engine), strict=True):
            yield name, mine, other

    def _end(self) -> None:
        """Time passes until nothing can be left, and nothing is."""
        engine = self.engine
        at = self.traffic.at
        try:
            for leap in (1e3, 1e6, 1e9):
                at += leap
                for _ in range(120):
                    at += 61.0
                    for complaint in leaving.wrong(engine, engine.poll(at), True, b""):
                        self._complain(complaint, most=1)
        except Exception:
            self._complain("an exception while time passes", traceback.format_exc())
            return
        for complaint in self.bounds.broken():
            self._complain(complaint)
        for complaint in self.bounds.left():
            self._complain(complaint)


def _listed(engine: Engine) -> Iterator[tuple[str, Sequence[object]]]:
    """Everything that an engine tells of itself."""
    yield "drops", sorted((reason.name, count) for reason, count in engine.drops.items())
    yield "conntrack entries", list(engine.ct.report())
    yield "connections", list(engine.vs.connections())
    yield "services", list(engine.vs.report())
    yield "tables", list(engine.tables.saved())


def _difference(mine: Sequence[object], other: Sequence[object]) -> str:
    """Where two lists begin to differ, in few words."""
    if len(mine) != len(other):
        return f"{len(other)}, not {len(mine)}"
    for one, two in zip(map(str, mine), map(str, other), strict=True):
        for at, (a, b) in enumerate(zip(one, two, strict=False)):
            if a != b:
                return f"{two[max(at - 80, 0) : at + 30]!r}, not {one[max(at - 80, 0) : at + 30]!r}"
    return "nothing that can be seen"


def play(seed: int, number: int, packets: int, twin: str = "") -> Tally:
    """A round, and whether anything of it is still alive when it is over."""
    before = alive()
    one = Round(seed, number, twin)
    tally = one.run(packets)
    if not tally.findings:
        one.twin = None
        left = alive() - before
        if left:
            tally.findings.append(Finding(one.name, tally.events, f"alive when all is over: {dict(left)}"))
    return tally
