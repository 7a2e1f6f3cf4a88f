"""Connections that a helper or IPVS expects: FTP's data connections.

Source: nf_conntrack_expect.c (nf_ct_expect_related, nf_ct_find_expectation). An expectation belongs to a connection,
its master, and ends with it. Here a timer removes those that nobody looks up; the kernel leaves them to its collector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipvsctl.datapath.ct.entry import CONFIRMED, DYING, HELPER, Entry

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

MOST = 4096
"""nf_conntrack_expect_max where it was not set: four for each 256 of 262,144 buckets."""

_MAXIMUM = "net.netfilter.nf_conntrack_expect_max"


class Expectation:
    """One connection to come. `any_source` and `any_port`: what the source address and port may be.

    `direction` (0 original, 1 reply) is the master's direction that announced it; `helper` the one that the new
    connection gets. `expires` in seconds of the engine's clock.
    """

    __slots__ = (
        "any_port", "any_source", "direction", "expires", "helper", "master", "match", "on_new", "permanent", "slot",
        "table",
    )  # fmt: skip

    def __init__(self, table: Expectations, master: Entry, match: bytes, any_port: bool) -> None:
        half = (len(match) - 3) >> 1
        self.table = table
        self.master = master
        self.match = match
        self.any_port = any_port
        self.any_source = not any(match[1:half])
        self.direction = 0
        self.on_new: Callable[[Entry], None] | None = None
        self.helper: Any = None
        self.permanent = False
        self.expires = 0.0
        self.slot = 0

    def on_timer(self, now: float) -> None:
        """Nobody came."""
        self.table.remove(self)

    def meets(self, other: bytes, any_source: bool, any_port: bool) -> bool:
        """Whether a tuple has the same source, as far as neither this nor the other side says "any"."""
        match = self.match
        end = len(match) - 4
        half = (end + 1) >> 1
        return (any_source or self.any_source or match[1:half] == other[1:half]) and (
            any_port or self.any_port or match[end : end + 2] == other[end : end + 2]
        )


class Expectations:
    """All expectations, by protocol, destination address and port."""

    __slots__ = ("_engine", "_found", "count")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._found: dict[bytes, list[Expectation]] = {}
        self.count = 0

    def add(
        self, master: Entry, match: bytes, any_port: bool, *, direction: int, on_new: Callable[[Entry], None] | None,
        helper: Any, timeout: float, permanent: bool,
    ) -> bool:  # fmt: skip
        """Expect a connection (nf_ct_expect_related); false when it is refused.

        Refused: the master has no helper, another expectation could take the same packet, or there are too many. The
        same expectation of the same master takes the old one's place; beyond the helper's own number the oldest goes.
        """
        if (master.helper is None and not master.status & HELPER) or master.status & DYING:
            return False
        new = Expectation(self, master, match, any_port)
        now = self._engine.now
        for other in tuple(self._found.get(_key(match), ())):
            if other.expires <= now:
                self.remove(other)
            elif other.master is master and other.match == match and other.any_port == any_port:
                self.remove(other)
                break
            elif other.meets(match, new.any_source, any_port):
                return False
        self._make_room(master, now)
        if self.count >= self._engine.settings.get(_MAXIMUM, MOST):
            return False
        new.direction, new.on_new, new.helper, new.permanent = direction, on_new, helper, permanent
        new.expires = now + timeout
        # Newest first, as the kernel's lists have them.
        self._found.setdefault(_key(match), []).insert(0, new)
        if master.expectations is None:
            master.expectations = []
        master.expectations.insert(0, new)
        self.count += 1
        self._engine.timers.watch(new)
        return True

    def _make_room(self, master: Entry, now: float) -> None:
        most = getattr(master.helper, "max_expected", 0)
        if not most or len(master.expectations or ()) < most:
            return
        for other in tuple(master.expectations):
            if other.expires <= now:
                self.remove(other)
        if master.expectations and len(master.expectations) >= most:
            self.remove(master.expectations[-1])

    def take(self, key: bytes) -> Expectation | None:
        """The expectation that a new connection of this tuple fulfils, which is thereby used up; None for none."""
        if not self.count:
            return None
        now = self._engine.now
        for found in tuple(self._found.get(_key(key), ())):
            if found.expires <= now:
                self.remove(found)
            elif found.meets(key, False, False):
                # A master that is not in the table: nobody can have seen the announcement yet.
                if found.master.status & (CONFIRMED | DYING) != CONFIRMED:
                    return None
                if not found.permanent:
                    self.remove(found)
                return found
        return None

    def remove(self, expectation: Expectation) -> None:
        """Expect it no longer; nothing happens when it is gone already."""
        key = _key(expectation.match)
        chain = self._found.get(key)
        if chain is None or expectation not in chain:
            return
        chain.remove(expectation)
        if not chain:
            del self._found[key]
        self.count -= 1
        own = expectation.master.expectations
        own.remove(expectation)
        if not own:
            expectation.master.expectations = None
        self._engine.timers.forget(expectation)

    def forget(self, master: Entry) -> None:
        """Remove all that a connection expects (nf_ct_remove_expectations): it ends."""
        for expectation in tuple(master.expectations or ()):
            self.remove(expectation)

    def __iter__(self) -> Any:
        """All of them, for tests and listings."""
        return (expectation for chain in self._found.values() for expectation in chain)


def _key(match: bytes) -> bytes:
    end = len(match) - 4
    return match[:1] + match[(end + 1) >> 1 : end] + match[end + 2 :]
