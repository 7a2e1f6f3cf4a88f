"""Rates of services and servers, smoothed as the kernel does it: in integers, every two seconds (ip_vs_est.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.model.status import Stats

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.vs.entry import Counters
    from ipvsctl.datapath.vs.services import Services

PERIOD = 2.0

_SHIFTS = (9, 9, 9, 4, 4)
"""Connections and packets are kept times 1024, bytes times 32; half of that in each period of two seconds."""

_MISSED = 128
"""After that many periods without a packet every rate has come down to 0."""


class Rates:
    """Of one Counters: the totals at the last tick, and the averages, scaled; connections, packets, bytes."""

    __slots__ = ("averages", "last")

    def __init__(self) -> None:
        self.last = (0, 0, 0, 0, 0)
        self.averages = [0, 0, 0, 0, 0]


def _totals(counters: Counters) -> tuple[int, int, int, int, int]:
    return counters.connections, counters.inpkts, counters.outpkts, counters.inbytes, counters.outbytes


def tick(counters: Counters) -> None:
    """Two seconds are over (estimation_timer)."""
    totals = _totals(counters)
    rates: Rates | None = counters.rates
    if rates is None:
        if not any(totals):
            return
        rates = counters.rates = Rates()
    averages = rates.averages
    for at, shift in enumerate(_SHIFTS):
        averages[at] += ((totals[at] - rates.last[at] << shift) - averages[at]) >> 2
    rates.last = totals


def zero(counters: Counters) -> None:
    """Set totals and rates to 0 (ip_vs_zero_stats)."""
    counters.connections = counters.inpkts = counters.outpkts = counters.inbytes = counters.outbytes = 0
    counters.rates = None


def read(counters: Counters, stopped: bool = False) -> Stats:
    """Totals, and rates per second (ip_vs_copy_stats, ip_vs_read_estimator).

    The kernel shows the totals of its last tick. Only while the estimator is `stopped` (run_estimation) is it so here.
    """
    rates: Rates | None = counters.rates
    if rates is None:
        return Stats() if stopped else Stats(*_totals(counters))
    averages = rates.averages
    packets = [average + 0x1FF >> 10 for average in averages[:3]]
    octets = [average + 0xF >> 5 for average in averages[3:]]
    return Stats(*(rates.last if stopped else _totals(counters)), *packets, *octets)


class Estimator:
    """The timer of all of them. It sleeps while there is no service."""

    __slots__ = ("_engine", "_next", "_services")

    def __init__(self, engine: Engine, services: Services) -> None:
        self._engine = engine
        self._services = services
        self._next: float | None = None

    def poll_at(self) -> float | None:
        """When the next tick is due; at once when the phase is not set yet."""
        if not len(self._services):
            return None
        return self._engine.now if self._next is None else self._next

    def poll(self, now: float) -> None:
        """Tick as often as two seconds have passed; the first call sets the phase."""
        if self._next is None:
            self._next = now + PERIOD
            return
        if now < self._next:
            return
        passed = int((now - self._next) // PERIOD) + 1
        self._next += passed * PERIOD
        if self._engine.settings["net.ipv4.vs.run_estimation"]:
            for _ in range(min(passed, _MISSED)):
                for counters in self._services.counters():
                    tick(counters)
