"""Schedulers that remember where a destination was sent: lblc and lblcr (ip_vs_lblc.c, ip_vs_lblcr.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ipvsctl.datapath.schedulers.base import Scheduler, least_loaded, overhead
from ipvsctl.datapath.schedulers.hashes import fold, hash_32
from ipvsctl.datapath.vs.entry import AVAILABLE, OVERLOAD

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Dest, VirtualService
    from ipvsctl.datapath.vs.header import Header

_BITS = 10
_BUCKETS = 1 << _BITS
_FULL = _BUCKETS * 16
"""Destinations above which unused ones are forgotten early; half as many again and no more are remembered."""

_CHECK = 60.0
_UNUSED = 360.0
_CHECKS_TO_FULL = 30


class _Place:
    """A destination's servers: one, or with lblcr the most recently added first. Times in seconds."""

    __slots__ = ("changed", "servers", "used")

    def __init__(self, server: Dest, now: float) -> None:
        self.servers = [server]
        self.used = self.changed = now


class _Locality(Scheduler):
    """The memory that both have. Its timer runs while there is something to forget."""

    __slots__ = ("_checks", "_places", "_rover", "expires", "slot")

    SETTING: ClassVar[str]

    def __init__(self, service: VirtualService, engine: Engine) -> None:
        super().__init__(service, engine)
        self._places: dict[bytes, _Place] = {}
        self._checks = 1
        self._rover = 0
        self.expires = 0.0
        self.slot = 0

    def done(self) -> None:
        self._places.clear()
        self.engine.timers.forget(self)

    def holds(self, dest: Dest) -> bool:
        return any(dest in place.servers for place in self._places.values())

    def _remember(self, address: bytes, dest: Dest) -> None:
        if len(self._places) >= _FULL * 3 // 2:
            return
        now = self.engine.now
        self._places[address] = _Place(dest, now)
        if not self.slot:
            self.expires = now + _CHECK
            self.engine.timers.watch(self)

    def on_timer(self, now: float) -> None:
        """Forget what was not used for long: all of it every half hour, before that only when there is too much."""
        if not self._places:
            return
        if self._checks % _CHECKS_TO_FULL == 0:
            limit = now - self.engine.settings[self.SETTING]
            self._places = {address: place for address, place in self._places.items() if place.used > limit}
            self._checks = 1
        elif len(self._places) <= _FULL:
            self._checks += 1
        else:
            self._forget_some(now)
        self.expires = now + _CHECK
        self.engine.timers.watch(self)

    def _forget_some(self, now: float) -> None:
        """Bucket after bucket from where the last check ended, until a third more than the excess is gone."""
        goal = min((len(self._places) - _FULL) * 4 // 3, _FULL // 2)
        buckets: dict[int, list[bytes]] = {}
        for address in self._places:
            buckets.setdefault(hash_32(fold(address, self.family), _BITS), []).append(address)
        for _ in range(_BUCKETS):
            self._rover = (self._rover + 1) % _BUCKETS
            for address in buckets.get(self._rover, ()):
                if self._places[address].used + _UNUSED <= now:
                    del self._places[address]
                    goal -= 1
            if goal <= 0:
                return

    def _crowded(self, dest: Dest) -> bool:
        """More active connections than its weight, while some server has less than half of that (is_overloaded)."""
        return dest.active > dest.weight and any(other.active * 2 < other.weight for other in self.dests)


class Locality(_Locality):
    """lblc: a destination keeps its server until that is overloaded."""

    __slots__ = ()

    SETTING: ClassVar[str] = "net.ipv4.vs.lblc_expiration"

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        address = header.destination
        place = self._places.get(address)
        if place is not None:
            place.used = self.engine.now
            dest = place.servers[0]
            if dest.flags & AVAILABLE and dest.weight > 0 and not self._crowded(dest):
                return dest
        least = least_loaded(self.dests)
        if least is not None and (place is None or place.servers[0] is not least):
            self._places.pop(address, None)
            self._remember(address, least)
        return least


class ReplicatedLocality(_Locality):
    """lblcr: a destination has a set of servers, which grows under load and shrinks in time."""

    __slots__ = ()

    SETTING: ClassVar[str] = "net.ipv4.vs.lblcr_expiration"

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        place = self._places.get(header.destination)
        if place is None:
            least = least_loaded(self.dests)
            if least is not None:
                self._remember(header.destination, least)
            return least
        now = self.engine.now
        place.used = now
        dest = _least_of_set(place.servers)
        if len(place.servers) > 1 and now > place.changed + self.engine.settings[self.SETTING]:
            most = _most_of_set(place.servers)
            if most is not None:
                place.servers.remove(most)
                place.changed = now
        if dest is not None and not self._crowded(dest):
            return dest
        dest = least_loaded(self.dests)
        if dest is not None and dest not in place.servers:
            place.servers.insert(0, dest)
            place.changed = now
        return dest


def _least_of_set(servers: list[Dest]) -> Dest | None:
    return least_loaded([dest for dest in servers if dest.flags & AVAILABLE and not dest.flags & OVERLOAD])


def _most_of_set(servers: list[Dest]) -> Dest | None:
    """The server of the most connections for its weight, the first of equals (ip_vs_dest_set_max)."""
    most = None
    load = weight = 0
    for dest in servers:
        if dest.weight > 0:
            cost = overhead(dest)
            if most is None or load * dest.weight < cost * weight:
                most, load, weight = dest, cost, dest.weight
    return most
