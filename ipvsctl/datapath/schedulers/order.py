"""Schedulers that fill one server before the next: fo and ovf (ip_vs_fo.c, ip_vs_ovf.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.schedulers.base import Scheduler
from ipvsctl.datapath.vs.entry import OVERLOAD

if TYPE_CHECKING:
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Dest
    from ipvsctl.datapath.vs.header import Header


class Failover(Scheduler):
    """fo: the highest weight, the first of equals."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        best = None
        highest = 0
        for dest in self.dests:
            if dest.weight > highest and not dest.flags & OVERLOAD:
                best, highest = dest, dest.weight
        return best


class Overflow(Scheduler):
    """ovf: the highest weight among the servers that have not more active connections than their weight."""

    __slots__ = ()

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        best = None
        highest = 0
        for dest in self.dests:
            weight = dest.weight
            if weight > highest and dest.active <= weight and not dest.flags & OVERLOAD:
                best, highest = dest, weight
        return best
