"""What every scheduler of IPVS is: a choice among a service's servers, with a state of its own.

`dests` is the service's own list, most recently added first, as the kernel's. A server is never chosen that is over its
threshold (OVERLOAD) or that has weight 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ipvsctl.datapath.vs.entry import OVERLOAD

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Dest, VirtualService
    from ipvsctl.datapath.vs.header import Header

FALLBACK, PORT = 0x8, 0x10
"""Flags of a service for sh and mh: try other servers, hash the client's port as well (IP_VS_SVC_F_SCHED1, _SCHED2)."""


class Scheduler(ABC):
    """A scheduler of one service (struct ip_vs_scheduler): made by init_service, told of every change of a server.

    `flags` are the service's bits; they follow an edit of the service without the state being lost.
    """

    __slots__ = ("dests", "engine", "family", "flags")

    def __init__(self, service: VirtualService, engine: Engine) -> None:
        self.dests = service.dests
        self.family = service.family
        self.flags = service.service.bits
        self.engine = engine

    @abstractmethod
    def pick(self, header: Header, skb: Skb) -> Dest | None:
        """The server of a new connection, None when no server takes it (schedule)."""

    def added(self, dest: Dest) -> None:
        """A server is new at the head of the list (add_dest)."""
        return

    def removed(self, dest: Dest, index: int) -> None:
        """A server has left the list, where it stood at `index` (del_dest)."""
        return

    def edited(self, dest: Dest) -> None:
        """A server has other settings (upd_dest)."""
        return

    def done(self) -> None:
        """The service goes or takes another scheduler (done_service)."""
        return

    def holds(self, dest: Dest) -> bool:
        """Whether it remembers a server that is not in the list any more, which keeps that one's memory alive."""
        return False


def overhead(dest: Dest) -> int:
    """What a server's connections cost: an active one 257 times an inactive one (ip_vs_dest_conn_overhead)."""
    return dest.active * 257 + dest.inactive


def least_loaded(dests: list[Dest]) -> Dest | None:
    """The server of the fewest connections for its weight, the first of equals (ip_vs_wlc.c: ip_vs_wlc_schedule)."""
    least = None
    load = weight = 0
    for dest in dests:
        own = dest.weight
        if own <= 0 or dest.flags & OVERLOAD:
            continue
        cost = dest.active * 257 + dest.inactive
        if least is None or load * own > cost * weight:
            least, load, weight = dest, cost, own
    return least


def unavailable(dest: Dest) -> bool:
    """Quiesced or over its threshold (is_unavailable of ip_vs_sh.c and ip_vs_mh.c)."""
    return dest.weight <= 0 or bool(dest.flags & OVERLOAD)
