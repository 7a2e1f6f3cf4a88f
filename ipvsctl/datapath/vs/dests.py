"""What becomes of a real server beyond its service's list: thresholds, the trash, the table by its own address.

Sources: ip_vs_ctl.c (ip_vs_dest_update_overload, ip_vs_dest_trash_expire, ip_vs_rs_hash).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.vs.entry import MASQ, OVERLOAD, TUNNEL

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.vs.entry import Dest, VirtualService

TRASH_PERIOD = 120.0
"""Seconds that a deleted server stays in the trash after the last connection to it has gone."""


def lower_threshold(dest: Dest) -> int:
    """Connections below which OVERLOAD goes: three quarters of the upper threshold when none was set."""
    return dest.lower or dest.upper - (dest.upper >> 2)


def update_overload(dest: Dest, mode: int) -> None:
    """Set or clear OVERLOAD by the count of connections (__ip_vs_dest_update_overload).

    `mode` 1: one came and reached the upper threshold; -1: one went and left the lower; 0: the thresholds changed.
    """
    upper = dest.upper
    if upper:
        count = dest.active + dest.inactive
        lower = lower_threshold(dest)
        if count >= (lower if mode > 0 else upper):
            dest.flags |= OVERLOAD
            return
        if count >= (upper if mode < 0 else lower):
            return
    dest.flags &= ~OVERLOAD


class Trash:
    """Deleted servers that connections may still have, for the day they come back (ipvs->dest_trash)."""

    __slots__ = ("_dests", "_engine", "expires", "slot")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dests: dict[tuple[object, ...], Dest] = {}
        self.expires = 0.0
        self.slot = 0

    def __len__(self) -> int:
        return len(self._dests)

    @staticmethod
    def _key(service: VirtualService, address: bytes, port: int) -> tuple[object, ...]:
        """The service by what identifies it, so that a server comes back to one that was deleted and added anew."""
        if service.fwmark:
            return service.fwmark, address, port
        return service.protocol, service.address, service.port, address, port

    def add(self, service: VirtualService, dest: Dest) -> None:
        """Keep a server that was taken out of its service."""
        dest.idle_since = 0.0
        self._dests[self._key(service, dest.address, dest.port)] = dest
        if not self.slot:
            self.expires = self._engine.now + TRASH_PERIOD / 2
            self._engine.timers.watch(self)

    def take(self, service: VirtualService, address: bytes, port: int) -> Dest | None:
        """Take a server back out (ip_vs_trash_get_dest)."""
        return self._dests.pop(self._key(service, address, port), None)

    def on_timer(self, now: float) -> None:
        """Once a minute: note who is idle, forget who has been for two."""
        for key, dest in list(self._dests.items()):
            if dest.active + dest.inactive + dest.persistent > 0 or _remembered(dest):
                continue
            if not dest.idle_since:
                dest.idle_since = max(now, 0.001)
            elif now >= dest.idle_since + TRASH_PERIOD:
                del self._dests[key]
        if self._dests:
            self.expires = now + TRASH_PERIOD / 2
            self._engine.timers.watch(self)


def _remembered(dest: Dest) -> bool:
    scheduler = dest.service.scheduler if dest.service is not None else None
    return scheduler is not None and bool(scheduler.holds(dest))


class RealServers:
    """Servers by their own address and port, the newest first: nat servers, and tunnels (ipvs->rs_table)."""

    __slots__ = ("_nat", "_tunnels")

    def __init__(self) -> None:
        self._nat: dict[tuple[bytes, int], list[Dest]] = {}
        self._tunnels: dict[tuple[bytes, int], list[Dest]] = {}

    def add(self, dest: Dest) -> None:
        """Enter a server under its present method."""
        if dest.method == MASQ:
            self._nat.setdefault((dest.address, dest.port), []).insert(0, dest)
        elif dest.method == TUNNEL:
            self._tunnels.setdefault((dest.address, _tunnel_port(dest)), []).insert(0, dest)

    def remove(self, dest: Dest) -> None:
        """Take a server out; call before its method or tunnel changes."""
        if dest.method == MASQ:
            table, key = self._nat, (dest.address, dest.port)
        elif dest.method == TUNNEL:
            table, key = self._tunnels, (dest.address, _tunnel_port(dest))
        else:
            return
        table[key].remove(dest)
        if not table[key]:
            del table[key]

    def find(self, protocol: int, address: bytes, port: int) -> Dest | None:
        """A nat server (ip_vs_find_real_service); servers of a firewall mark have every protocol."""
        for dest in self._nat.get((address, port), ()):
            service = dest.service
            if service is not None and (service.fwmark or service.protocol == protocol):
                return dest
        return None

    def tunnel(self, address: bytes, port: int) -> Dest | None:
        """A server reached by tunnel, by the UDP port of GUE or 0 (ip_vs_find_tunnel)."""
        found = self._tunnels.get((address, port))
        return found[0] if found else None


def _tunnel_port(dest: Dest) -> int:
    return dest.server.tunnel.port if dest.server.tunnel is not None else 0
