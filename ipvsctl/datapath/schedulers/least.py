"""Schedulers that count connections: lc, wlc, sed, nq, and twos, which compares only two (ip_vs_lc.c and so on)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.schedulers.base import Scheduler, least_loaded, overhead
from ipvsctl.datapath.vs.entry import OVERLOAD

if TYPE_CHECKING:
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Dest
    from ipvsctl.datapath.vs.header import Header


class LeastConnections(Scheduler):
    """lc: the fewest connections; weights count only as zero or not."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        least = None
        load = 0
        for dest in self.dests:
            if dest.weight and not dest.flags & OVERLOAD:
                cost = dest.active * 257 + dest.inactive
                if least is None or cost < load:
                    least, load = dest, cost
        return least


class WeightedLeastConnections(Scheduler):
    """wlc: the fewest connections for its weight."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        return least_loaded(self.dests)


class ShortestDelay(Scheduler):
    """sed: the fewest active connections for its weight, the new one counted."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        return _shortest_delay(self.dests)


class NeverQueue(Scheduler):
    """nq: the first server without an active connection, else as sed."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        for dest in self.dests:
            if not dest.active and dest.weight and not dest.flags & OVERLOAD:
                return dest
        return _shortest_delay(self.dests)


def _shortest_delay(dests: list[Dest]) -> Dest | None:
    least = None
    load = weight = 0
    for dest in dests:
        own = dest.weight
        if own <= 0 or dest.flags & OVERLOAD:
            continue
        cost = dest.active + 1
        if least is None or load * own > cost * weight:
            least, load, weight = dest, cost, own
    return least


class PowerOfTwo(Scheduler):
    """twos: chance, by weight, picks two servers; the less loaded one gets the connection (ip_vs_twos.c)."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        able = [dest for dest in self.dests if dest.weight > 0 and not dest.flags & OVERLOAD]
        if not able:
            return None
        # The kernel draws from 0 to the sum inclusive: the first server is a little more likely than its weight says.
        total = sum(dest.weight for dest in able) + 1
        first = _at_weight(able, self.engine.random(total))
        second = _at_weight(able, self.engine.random(total))
        better = first.weight * overhead(second) < second.weight * overhead(first)
        return second if better else first


def _at_weight(dests: list[Dest], number: int) -> Dest:
    for dest in dests:
        number -= dest.weight
        if number <= 0:
            return dest
    return dests[-1]
