"""The datapath behind an emulated director: packets are handed in, and connections, conntrack and counters live.

It comes into being with the first packet, set up as the director is then. From there on it follows every change:

* of services and servers at once, as the kernel's would (a deleted server's connections, thresholds, counters);
* of sysctls, modules, rules, devices and routes before the next packet or change of a service.

Connections, conntrack entries and counters stay through all of them; rules that are replaced begin counting anew. Only
a configuration that the datapath has no way to follow (a persistence engine) ends it: then the connections are gone,
and the next packet is refused with the reason. Time is the real time, so timers run as on a director.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ipvsctl.errors import IpvsctlError, NotFound, Refused, UsageError
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import IpvsChange
from ipvsctl.model.connection import Fate
from ipvsctl.model.status import NO_STATS, Connection, ConntrackEntry, Expectation, ServiceStatus, Stats

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.emulator.state import State
    from ipvsctl.model.snapshot import Snapshot

_TURNS = 100_000
"""Deadlines that are caught up with at most when nobody has looked for long."""


class Datapath:
    """The engine of one state. `clock` gives seconds and never goes back."""

    def __init__(self, state: State, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._start = 0.0
        self._engine: Engine | None = None
        self._sysctls: dict[str, str] = {}
        self._snapshot: Snapshot | None = None

    # -- packets ------------------------------------------------------------------------------------------------------

    def inject(self, device: str, packets: Iterable[bytes]) -> list[Fate]:
        """Packets (from their IP headers on) come in by a device, one after the other, now.

        Raises UsageError for a device that is not there, and what the datapath cannot follow raises.
        """
        engine = self._current()
        if device not in engine.routing.devices:
            names = ", ".join(engine.routing.devices)
            raise UsageError(f"the emulated director has no device {device}, expected one of {names}")
        fates = []
        for packet in packets:
            outputs = engine.receive(device, packet, self._now())
            verdict, reason = _verdict(engine)
            fates.append(Fate(verdict, reason, tuple((each.device, each.packet) for each in outputs)))
        return fates

    def _now(self) -> float:
        return self._clock() - self._start

    def _current(self) -> Engine:
        """The engine, set up as the state is now."""
        from ipvsctl.emulator.snapshot import read

        snapshot = read(self._state)
        if self._engine is None:
            self._engine = self._make(snapshot)
        else:
            self._follow_sysctls(self._engine)
            self._follow(self._engine, snapshot)
        self._snapshot = snapshot
        self._catch_up(self._engine)
        return self._engine

    def _make(self, snapshot: Snapshot) -> Engine:
        from ipvsctl.datapath.engine import Engine

        try:
            engine = Engine(snapshot, random.Random().randrange)
        except ValueError as error:
            raise Refused(f"the emulated datapath cannot be set up as the director is: {error}") from None
        self._start = self._clock()
        self._sysctls = dict(self._written())
        engine.vs.backup = "backup" in self._state.daemons
        return engine

    def _follow(self, engine: Engine, snapshot: Snapshot) -> None:
        """Take over what has changed beside services and sysctls."""
        before = self._snapshot
        assert before is not None
        engine.modules |= self._state.modules
        network = snapshot.devices, snapshot.routes, snapshot.policy
        if network != (before.devices, before.routes, before.policy):
            engine.reroute(snapshot)
        if snapshot.tables != before.tables:
            old = {(table.family, table.name): table for table in before.tables}
            for table in snapshot.tables:
                if old.pop((table.family, table.name), None) != table:
                    engine.tables.load(table)
            for family, name in old:
                engine.tables.unload(family, name)

    def _written(self) -> Iterator[tuple[str, str]]:
        written = self._state.written
        return ((name, value) for name, value in self._state.sysctls.items() if name in written)

    def _follow_sysctls(self, engine: Engine) -> None:
        for name, value in self._written():
            if self._sysctls.get(name) != value:
                engine.settings.write(name, value)
                self._sysctls[name] = value

    def _catch_up(self, engine: Engine) -> None:
        """Do what was due since somebody looked last."""
        now = self._now()
        for _ in range(_TURNS):
            due = engine.poll_at()
            if due is None or due > now:
                break
            engine.poll(min(max(due, engine.now), now))
        engine.now = max(engine.now, now)

    # -- changes ------------------------------------------------------------------------------------------------------

    def change(self, change: IpvsChange) -> None:
        """A change of the state's services has been made: make it here too."""
        engine = self._engine
        if engine is None:
            return
        self._follow_sysctls(engine)
        self._catch_up(engine)
        try:
            engine.vs.apply(change)
        except (IpvsctlError, KeyError, ValueError):
            # A service that the datapath cannot have: the next packet is refused, and says why.
            self._engine = None

    # -- what there is ------------------------------------------------------------------------------------------------

    def _looked_at(self) -> Engine | None:
        if self._engine is not None:
            self._catch_up(self._engine)
        return self._engine

    def services(self) -> dict[ServiceAddress, ServiceStatus]:
        """The services with their counters, by address; empty before the first packet."""
        engine = self._looked_at()
        return {} if engine is None else {each.service.address: each for each in engine.vs.report()}

    def totals(self) -> Stats:
        """What was counted for all services together."""
        engine = self._looked_at()
        return NO_STATS if engine is None else engine.vs.totals()

    def connections(self) -> Iterator[Connection]:
        """The connection table: to be read before anything else is asked of the director."""
        engine = self._looked_at()
        return iter(()) if engine is None else engine.vs.conns.rows()

    def entries(self) -> Iterator[ConntrackEntry]:
        """The conntrack table, likewise."""
        engine = self._looked_at()
        return iter(()) if engine is None else engine.ct.rows()

    def expectations(self) -> list[Expectation]:
        """What conntrack expects."""
        engine = self._looked_at()
        if engine is None:
            return []
        from ipvsctl.datapath.ct.listing import report_expectation

        return [report_expectation(each, engine.now) for each in engine.ct.expectations if each.expires > engine.now]

    def forget(self, entry: ConntrackEntry) -> None:
        """End a conntrack entry; raises NotFound."""
        engine = self._looked_at()
        if engine is not None:
            from ipvsctl.datapath.ct.listing import key_of

            found = engine.ct.find(key_of(entry))
            if found is not None and not found[1]:
                engine.flows.clear()
                engine.ct.kill(found[0])
                return
        raise NotFound(
            f"cannot delete the conntrack entry {entry.protocol} {entry.source}:{entry.source_port} -> "
            f"{entry.destination}:{entry.destination_port}: there is none"
        )


def _verdict(engine: Engine) -> tuple[str, str]:
    """The word for what became of the packet handed in last, and why."""
    from ipvsctl.datapath.verdict import LOCAL, Reason

    found = engine.verdict
    if isinstance(found, Reason):
        return ("local" if found in LOCAL else "wait" if found is Reason.FRAGMENT else "drop"), found.value
    return {"sent": "forward", "delivered": "local"}.get(found, "lost"), ""
