"""Next hops that do not answer: packets wait for them, and after three seconds their senders learn of it.

neighbour.c: __neigh_event_send sends three solicitations a second apart and then gives up: neigh_invalidate hands every
packet that waits to arp_error_report or ndisc_error_report, that is dst_link_failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.icmp4 import HOST_UNREACHABLE, UNREACHABLE
from ipvsctl.datapath.icmp6 import ADDRESS_UNREACHABLE
from ipvsctl.datapath.icmp6 import UNREACHABLE as UNREACHABLE6
from ipvsctl.datapath.skb import Skb
from ipvsctl.model.address import INET

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_PATIENCE = 3.0
"""Seconds: three probes, one a second."""

_ROOM = 212992
"""Bytes that wait for one next hop at most (unres_qlen_bytes); the oldest goes first."""

_OVERHEAD = 576
"""What a packet takes beyond its bytes (skb->truesize), about."""

_MOST = 1024
"""Next hops that are waited for (gc_thresh3): beyond that packets are dropped without a word."""


class _Unresolved:
    """One next hop that is asked for."""

    __slots__ = ("expires", "key", "neighbours", "packets", "room", "slot")

    def __init__(self, neighbours: Neighbours, key: tuple[str, bytes]) -> None:
        self.neighbours = neighbours
        self.key = key
        self.packets: list[Skb] = []
        self.room = 0
        self.expires = neighbours.engine.now + _PATIENCE
        self.slot = 0

    def on_timer(self, now: float) -> None:
        """No answer came."""
        self.neighbours.give_up(now)


class Neighbours:
    """All next hops that packets wait for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._waiting: dict[tuple[str, bytes], _Unresolved] = {}

    def wait(self, skb: Skb, device: str, hop: bytes) -> None:
        """A packet wants to go to a next hop that does not answer."""
        key = (device, hop)
        found = self._waiting.get(key)
        if found is None:
            if len(self._waiting) >= _MOST:
                return
            found = self._waiting[key] = _Unresolved(self, key)
            self.engine.timers.watch(found)
        found.packets.append(skb)
        found.room += len(skb.data) + _OVERHEAD
        while found.room > _ROOM:
            found.room -= len(found.packets.pop(0).data) + _OVERHEAD

    def give_up(self, now: float) -> None:
        """Tell the senders of all packets that have waited long enough, the oldest first."""
        for key, found in list(self._waiting.items()):
            if found.expires > now:
                break
            del self._waiting[key]
            self.engine.timers.forget(found)
            for skb in found.packets:
                skb.primary = False
                if skb.family == INET:
                    self.engine.ip.icmp_error(skb, UNREACHABLE, HOST_UNREACHABLE)
                else:
                    self.engine.ip.icmp_error(skb, UNREACHABLE6, ADDRESS_UNREACHABLE)
