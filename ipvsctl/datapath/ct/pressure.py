"""What conntrack does when its table is full: drop what is not assured, and collect what ends anyway.

Source: nf_conntrack_core.c (early_drop, early_drop_list, gc_worker). The kernel looks into eight neighbouring hash
buckets, each of about two entries, and removes those that are not assured from the first bucket that has any. A bucket
here is a handful of entries taken at random, from a list of all of them that is made anew when it is used up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, DYING
from ipvsctl.datapath.ct.protocols import closing

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.table import Conntrack

DEFAULT_MAXIMUM = 262_144
"""nf_conntrack_max, and the number of buckets, of a host with more than 4 GiB of memory."""

_MAXIMUM, _OTHER_NAME = "net.netfilter.nf_conntrack_max", "net.nf_conntrack_max"
_BUCKETS_LOOKED_INTO = 8
_BUCKET = 2

_COLLECT_AT_ONCE = 2000
_COLLECT_EVERY = 1.0
"""Seconds between two runs of the collector; the kernel's longest pause is a minute, its shortest one second."""


class Pressure:
    """Makes room. Also the collector's timer: `expires` and `slot` are those of an owner of timers."""

    __slots__ = ("_ct", "_keys", "_waiting", "expires", "slot")

    def __init__(self, ct: Conntrack) -> None:
        self._ct = ct
        self._keys: list[bytes] = []
        self._waiting: list[bytes] = []
        self.expires = 0.0
        self.slot = 0

    def room(self) -> bool:
        """Whether one more entry may be made; when the table is full, after another one had to go."""
        maximum = self.maximum()
        if not maximum or self._ct.count < maximum or self._early_drop():
            return True
        if not self.slot:
            self.expires = self._ct.engine.now + _COLLECT_EVERY
            self._ct.engine.timers.watch(self)
        return False

    def maximum(self) -> int:
        """The most entries; 0: no limit."""
        settings = self._ct.settings
        found = settings.get(_MAXIMUM)
        return settings.get(_OTHER_NAME, DEFAULT_MAXIMUM) if found is None else found

    def _early_drop(self) -> bool:
        ct, keys, random = self._ct, self._keys, self._ct.engine.random
        for _ in range(_BUCKETS_LOOKED_INTO):
            dropped = False
            for _ in range(_BUCKET):
                if not keys:
                    keys += ct.keys()
                    if not keys:
                        return True
                place = random(len(keys))
                key, keys[place] = keys[place], keys[-1]
                keys.pop()
                found = ct.find(key)
                if found is not None and not found[0].status & ASSURED:
                    dropped |= ct.kill(found[0])
            if dropped:
                return True
        return False

    def on_timer(self, now: float) -> None:
        """Collect (gc_worker with early_drop set): above 95 percent, all that is not assured or that is closing.

        The kernel's integers make 95 percent of less than a hundred nothing, and then nothing is collected.
        """
        ct = self._ct
        enough = self.maximum() // 100 * 95
        if not enough:
            return
        waiting = self._waiting = self._waiting or ct.keys()
        for _ in range(min(len(waiting), _COLLECT_AT_ONCE)):
            found = ct.find(waiting.pop())
            if found is None or ct.count < enough:
                continue
            entry = found[0]
            if entry.status & (CONFIRMED | DYING) == CONFIRMED and (not entry.status & ASSURED or closing(entry)):
                ct.kill(entry)
        if waiting:
            self.expires = now + _COLLECT_EVERY / 4
            ct.engine.timers.watch(self)
