"""Schedulers that go round: rr and wrr (ip_vs_rr.c, ip_vs_wrr.c)."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

from ipvsctl.datapath.schedulers.base import Scheduler
from ipvsctl.datapath.vs.entry import OVERLOAD

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Dest, VirtualService
    from ipvsctl.datapath.vs.header import Header

_HEAD = -1
"""The position before the first server."""


class RoundRobin(Scheduler):
    """One server after the other. `_at` is where the last one stands."""

    __slots__ = ("_at",)

    def __init__(self, service: VirtualService, engine: Engine) -> None:
        super().__init__(service, engine)
        self._at = _HEAD

    def added(self, dest: Dest) -> None:
        if self._at != _HEAD:
            self._at += 1

    def removed(self, dest: Dest, index: int) -> None:
        # The server before the one that goes takes its place, or the head.
        if index <= self._at:
            self._at -= 1

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        dests = self.dests
        count = len(dests)
        at = self._at
        for _ in range(count):
            at += 1
            if at >= count:
                at = 0
            dest = dests[at]
            if dest.weight > 0 and not dest.flags & OVERLOAD:
                self._at = at
                return dest
        return None


class WeightedRoundRobin(Scheduler):
    """In turn, as often as the weights say: rounds at a falling bar, from the highest weight down by their divisor.

    `_bar` depends on the order in which servers came (the kernel's cw), not on their weights alone.
    """

    __slots__ = ("_at", "_bar", "_highest", "_step")

    def __init__(self, service: VirtualService, engine: Engine) -> None:
        super().__init__(service, engine)
        self._measure()
        self._bar = self._highest

    def _measure(self) -> None:
        weights = [dest.weight for dest in self.dests]
        self._at = _HEAD
        self._step = gcd(*weights) or 1
        self._highest = max(weights, default=0) - (self._step - 1)

    def _changed(self) -> None:
        self._measure()
        if self._bar > self._highest or not self._bar:
            self._bar = self._highest
        elif self._step > 1:
            self._bar = self._bar // self._step * self._step + 1

    def added(self, dest: Dest) -> None:
        self._changed()

    def removed(self, dest: Dest, index: int) -> None:
        self._changed()

    def edited(self, dest: Dest) -> None:
        self._changed()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        if self._highest == 0:
            return None
        dests = self.dests
        count = len(dests)
        at = start = self._at
        stop = _HEAD
        last = restarted = False
        while True:
            bar = self._bar
            while at + 1 < count:
                at += 1
                dest = dests[at]
                if dest.weight >= bar and not dest.flags & OVERLOAD:
                    self._at = at
                    return dest
                if at == stop:
                    self._at = at
                    return None
            at = _HEAD
            bar -= self._step
            if bar <= 0:
                bar = self._highest
                if last or start == _HEAD:
                    self._bar, self._at = bar, _HEAD
                    return None
                restarted = True
            self._bar = bar = self._lowered(bar)
            last = bar <= self._step
            if last and restarted and start != _HEAD:
                stop = start

    def _lowered(self, bar: int) -> int:
        """The bar after the whole rounds in which nobody reaches it: weights of 2 billion end here as well."""
        reached = max((dest.weight for dest in self.dests if not dest.flags & OVERLOAD), default=0)
        floor = max(reached, self._step)
        return bar if bar <= floor else bar - -(-(bar - floor) // self._step) * self._step
