"""What must hold of the engine's tables at any time: bounds, counters that agree, timers that run; in the end, nothing.

These look inside on purpose: a table that grows without anybody seeing it is what is searched for.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

from ipvsctl.datapath import fib, flows, limits
from ipvsctl.datapath.ct.entry import CONFIRMED, DYING, Entry
from ipvsctl.datapath.ct.expect import MOST, Expectation
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.fragment_queue import QUEUE_SIZE, Pool, Queue
from ipvsctl.datapath.schedulers import locality
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.vs.entry import HASHED, INACTIVE, TEMPLATE, Conn, Dest

_ONE_PACKET_IN_MEMORY = 256 + (1 << 17)
"""A fragment may begin while a queue's pool is just below its limit."""


class Bounds:
    """Watches one engine. The most that conntrack may hold follows the settings, which may be lowered at any time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tracked = 0
        self._longest = 432000
        self._memory: dict[str, int] = {}
        self._templates: set[Dest] = set()
        """Servers that have, or had, templates of persistent clients."""

    def before_write(self) -> None:
        """A limit may be lowered now: what is there already may stay."""
        self._tracked = max(self._tracked, self.engine.ct.count)
        for pool in self._pools():
            self._memory[pool.limit] = max(self._memory.get(pool.limit, 0), pool.memory)

    def _pools(self) -> tuple[Pool, ...]:
        fragments = self.engine.ip.fragments
        return fragments._four, fragments._six, fragments._six_conntrack

    def broken(self) -> Iterator[str]:
        """What does not hold."""
        yield from self._conntrack()
        yield from self._expectations()
        yield from self._connections()
        yield from self._fragments()
        yield from self._caches()
        yield from self._timers()

    # -- conntrack ----------------------------------------------------------------------------------------------------

    def _conntrack(self) -> Iterator[str]:
        engine, ct = self.engine, self.engine.ct
        most = ct._pressure.maximum()
        if most and ct.count > max(most + 1, self._tracked):
            yield f"{ct.count} conntrack entries, nf_conntrack_max is {most}"
        self._tracked = ct.count
        self._longest = max(self._longest, *(value for name, value in engine.settings.items() if "timeout" in name))
        entries = set(ct._table.values())
        if len(entries) != ct.count:
            yield f"conntrack counts {ct.count} entries but has {len(entries)}"
        for key, entry in ct._table.items():
            if key not in (entry.original, entry.reply):
                yield "a conntrack entry stands under a foreign tuple"
            if entry.status & (CONFIRMED | DYING) != CONFIRMED:
                yield f"a conntrack entry of status {entry.status:#x} is in the table"
            if not entry.slot:
                yield "a conntrack entry has no timer"
            if entry.expires > engine.now + 1 + self._longest:
                yield f"a conntrack entry lives for {entry.expires - engine.now} seconds"
            if entry.packets is not None and min(entry.packets) < 0:
                yield "a conntrack entry has counted less than nothing"

    def _expectations(self) -> Iterator[str]:
        engine = self.engine
        found = list(engine.ct.expectations)
        if len(found) != engine.ct.expectations.count:
            yield f"{len(found)} expectations are counted as {engine.ct.expectations.count}"
        if len(found) > MOST:
            yield f"{len(found)} expectations"
        for each in found:
            if each.master.status & DYING:
                yield "an expectation has outlived its master"
            if each not in (each.master.expectations or ()):
                yield "an expectation's master does not know of it"
            if not each.slot:
                yield "an expectation has no timer"

    # -- IPVS ---------------------------------------------------------------------------------------------------------

    def _connections(self) -> Iterator[str]:
        engine = self.engine
        conns = list(engine.vs.conns)
        if len(conns) != len(engine.vs.conns):
            yield f"{len(conns)} IPVS connections are counted as {len(engine.vs.conns)}"
        outer = list(engine.vs.conns._out)
        if set(outer) != set(conns) or len(outer) != len(conns):
            yield "the two tables of IPVS connections do not hold the same"
        counted: Counter[tuple[int, str]] = Counter()
        controls: Counter[Conn] = Counter()
        dests: dict[int, Dest] = {}
        for conn in conns:
            if not conn.flags & HASHED or not conn.slot:
                yield f"an IPVS connection of flags {conn.flags:#x}, slot {conn.slot} is in the table"
            if conn.control is not None:
                controls[conn.control] += 1
                if not conn.control.flags & HASHED:
                    yield "an IPVS connection is controlled by one that is gone"
            if conn.dest is not None:
                dests[id(conn.dest)] = conn.dest
                kind = "persistent" if conn.flags & TEMPLATE else "inactive" if conn.flags & INACTIVE else "active"
                counted[id(conn.dest), kind] += 1
        for conn in conns:
            if conn.controls != controls[conn]:
                yield f"an IPVS connection controls {controls[conn]} others but counts {conn.controls}"
        trash = engine.vs.services._trash._dests.values()
        for service in engine.vs.services.all():
            dests.update((id(dest), dest) for dest in service.dests)
        dests.update((id(dest), dest) for dest in trash)
        for number, dest in dests.items():
            if dest.persistent or (dest.service is not None and dest.service.persistent):
                self._templates.add(dest)
            have = {kind: counted[number, kind] for kind in ("active", "inactive", "persistent")}
            said = {kind: getattr(dest, kind) for kind in have}
            if dest in self._templates:
                # A reply to port 0 finds a template and moves its state, and with it the server's two counts: in the
                # kernel as well (ip_vs_conn_out_get does not ask whether it is one). Their sum stays right.
                for each in (have, said):
                    each["active"] += each.pop("inactive")
            if said != have:
                yield f"server {dest.server.address} counts {said}, has {have}"
            stats = dest.stats
            if min(stats.connections, stats.inpkts, stats.outpkts, stats.inbytes, stats.outbytes) < 0:
                yield f"server {dest.server.address} has counted less than nothing"

    # -- the others ---------------------------------------------------------------------------------------------------

    def _fragments(self) -> Iterator[str]:
        fragments = self.engine.ip.fragments
        for pool in self._pools():
            held = sum(queue.memory for queue in pool.queues.values())
            if pool.memory != held:
                yield f"fragments take {pool.memory} bytes by count, {held} by sum"
            limit = self.engine.settings.get(pool.limit, 4 << 20) + QUEUE_SIZE + _ONE_PACKET_IN_MEMORY
            if pool.memory > max(limit, self._memory.get(pool.limit, 0)):
                yield f"fragments take {pool.memory} bytes, {pool.limit} is {self.engine.settings.get(pool.limit)}"
            self._memory[pool.limit] = pool.memory
            if any(not queue.slot for queue in pool.queues.values()):
                yield "a queue of fragments has no timer"
        if sum(queues for _, queues in fragments._peers.values()) > len(fragments._four.queues):
            yield "more queues of fragments are counted for sources than there are"

    def _caches(self) -> Iterator[str]:
        engine = self.engine
        for name, size, most in (
            ("remembered routes", len(engine.routing.fib4._cache), fib.CACHED),
            ("remembered routes", len(engine.routing.fib6._cache), fib.CACHED),
            ("hosts in the ICMP limit", len(engine.ip.limits._peers), limits.PEERS),
            ("flows", len(engine.flows), flows.MOST),
            ("next hops waited for", len(engine.ip._neighbours._waiting), 1024),
            ("packets the host sent itself", len(engine.backlog), 0),
            *(
                ("remembered destinations", len(scheduler._places), locality._FULL * 3 // 2)
                for service in engine.vs.services.all()
                if isinstance(scheduler := service.scheduler, locality._Locality)
            ),
        ):
            if size > most:
                yield f"{size} {name}, more than {most}"
        if engine.tables.recorder is not None:
            yield "a recorder was left behind"

    def _timers(self) -> Iterator[str]:
        timers = self.engine.timers
        for slot, owners in timers._slots.items():
            for owner in owners:
                if owner.slot != slot:
                    yield f"a {type(owner).__name__} of slot {owner.slot} waits in slot {slot}"

    # -- the end ------------------------------------------------------------------------------------------------------

    def left(self) -> Iterator[str]:
        """What is still there although all time has passed."""
        engine = self.engine
        for name, size in (
            ("conntrack entries", engine.ct.count),
            ("tuples in the conntrack table", len(engine.ct._table)),
            ("expectations", len(list(engine.ct.expectations))),
            ("IPVS connections", len(engine.vs.conns)),
            ("IPVS connections by reply", len(list(engine.vs.conns._out))),
            ("queues of fragments", len(engine.ip.fragments)),
            ("sources of fragments", len(engine.ip.fragments._peers)),
            ("next hops waited for", len(engine.ip._neighbours._waiting)),
            ("flows", len(engine.flows)),
            ("deleted servers", len(engine.vs.services._trash)),
        ):
            if size:
                yield f"{size} {name} are left"
        for service in engine.vs.services.all():
            for dest in service.dests:
                if dest.active + dest.inactive or dest.persistent:
                    yield f"server {dest.server.address} counts connections that are gone"
        kinds = Counter(type(owner).__name__ for owners in engine.timers._slots.values() for owner in owners)
        if kinds:
            yield f"timers of {dict(kinds)} are left"


_KINDS = (Entry, Conn, Expectation, Queue, Skb)


def alive() -> Counter[str]:
    """How many objects of the kinds that come and go are alive anywhere."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, _KINDS))
