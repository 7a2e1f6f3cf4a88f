"""Schedulers by a hash of an address: dh, sh and mh (ip_vs_dh.c, ip_vs_sh.c, ip_vs_mh.c).

Each keeps a table of servers by hash. The kernel builds it when a server comes, goes or is edited; here that waits for
the next connection, which sees the same table.
"""

from __future__ import annotations

from abc import abstractmethod
from math import gcd
from typing import TYPE_CHECKING

from ipvsctl.datapath.schedulers.base import FALLBACK, PORT, Scheduler, unavailable
from ipvsctl.datapath.schedulers.hashes import fold, hash_32, hsiphash
from ipvsctl.datapath.skb import SCTP, TCP, UDP

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.vs.entry import Dest, VirtualService
    from ipvsctl.datapath.vs.header import Header

_SIZE = 256
"""Slots of dh and sh."""

_BITS = 8

MAGLEV_SIZE = 4093
"""Slots of mh, and the most servers it takes (CONFIG_IP_VS_MH_TAB_INDEX=12)."""

_MAGLEV_BITS = 6
_OFFSET_KEY, _SKIP_KEY = 2654435761, 2654446892


class _Table(Scheduler):
    """A scheduler with a table of servers."""

    __slots__ = ("_stale", "_table")

    def __init__(self, service: VirtualService, engine: Engine) -> None:
        super().__init__(service, engine)
        self._table: list[Dest] = []
        self._stale = True

    def added(self, dest: Dest) -> None:
        self._stale = True

    def removed(self, dest: Dest, index: int) -> None:
        self._stale = True

    def edited(self, dest: Dest) -> None:
        self._stale = True

    @abstractmethod
    def _fill(self) -> list[Dest]:
        """The table anew; empty without servers."""

    def _current(self) -> list[Dest]:
        if self._stale:
            self._table = self._fill()
            self._stale = False
        return self._table


class DestinationHashing(_Table):
    """dh: by the destination address; servers in turn, whatever their weights."""

    __slots__ = ()

    def _fill(self) -> list[Dest]:
        dests = self.dests
        return [dests[slot % len(dests)] for slot in range(_SIZE)] if dests else []

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        table = self._current()
        if not table:
            return None
        dest = table[hash_32(fold(header.destination, self.family), _BITS)]
        return None if unavailable(dest) else dest


def _client(header: Header, family: int, with_port: bool) -> int:
    """The number that stands for a client: its address, with its port added where asked."""
    if header.inverse:
        value, port = fold(header.destination, family), header.dport
    else:
        value, port = fold(header.source, family), header.sport
    return value + port if with_port and header.protocol in (TCP, UDP, SCTP) else value


class SourceHashing(_Table):
    """sh: by the client's address; each server has as many slots in a row as its weight says."""

    __slots__ = ()

    def _fill(self) -> list[Dest]:
        table: list[Dest] = []
        while self.dests and len(table) < _SIZE:
            for dest in self.dests:
                table += [dest] * min(max(dest.weight, 1), _SIZE - len(table))
        return table

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        table = self._current()
        if not table:
            return None
        slot = hash_32(_client(header, self.family, bool(self.flags & PORT)), _BITS)
        dest = table[slot]
        if not unavailable(dest):
            return dest
        if self.flags & FALLBACK:
            for offset in range(_SIZE):
                dest = table[(offset + slot) % _SIZE + slot & _SIZE - 1]
                if not unavailable(dest):
                    return dest
        return None


class Maglev(_Table):
    """mh: by the client's address; few clients change their server when servers come and go."""

    __slots__ = ()

    def _fill(self) -> list[Dest]:
        dests = self.dests
        if len(dests) > MAGLEV_SIZE:
            return self._table
        divisor = gcd(*(dest.last_weight for dest in dests))
        if not divisor:
            return []
        shift = max((max(dest.last_weight for dest in dests) // divisor).bit_length() - _MAGLEV_BITS, 0)
        shares = [(dest, dest.last_weight // divisor >> shift or 1) for dest in dests if dest.last_weight]
        return _populated([_Walk(dest, self.family, turns) for dest, turns in shares])

    def pick(self, header: Header, skb: Skb) -> Dest | None:
        table = self._current()
        if not table:
            return None
        client = _client(header, self.family, bool(self.flags & PORT))
        slot = hsiphash(client & 0xFFFFFFFF, _OFFSET_KEY) % MAGLEV_SIZE
        dest = table[slot]
        if not unavailable(dest):
            return dest
        if self.flags & FALLBACK and not all(map(unavailable, self.dests)):
            for offset in range(MAGLEV_SIZE):
                value = client + (offset + slot) % MAGLEV_SIZE
                dest = table[hsiphash(value & 0xFFFFFFFF, _OFFSET_KEY) % MAGLEV_SIZE]
                if not unavailable(dest):
                    return dest
        return None


class _Walk:
    """A server's way through mh's table: where it stands, how far it goes on, how many slots it takes in each turn."""

    __slots__ = ("dest", "place", "skip", "turns")

    def __init__(self, dest: Dest, family: int, turns: int) -> None:
        value = fold(dest.address, family) + dest.port
        self.dest = dest
        self.place = hsiphash(value, _OFFSET_KEY) % MAGLEV_SIZE
        self.skip = hsiphash(value, _SKIP_KEY) % (MAGLEV_SIZE - 1) + 1
        self.turns = turns


def _populated(walks: list[_Walk]) -> list[Dest]:
    """Each server in turn takes the next free slots of its own walk through the table (ip_vs_mh_populate)."""
    table: list[Dest | None] = [None] * MAGLEV_SIZE
    left = MAGLEV_SIZE
    while left:
        for walk in walks:
            place = walk.place
            for _ in range(min(walk.turns, left)):
                while table[place] is not None:
                    place = (place + walk.skip) % MAGLEV_SIZE
                table[place] = walk.dest
                left -= 1
            walk.place = place
    return [dest for dest in table if dest is not None]
