"""Timers of very many entries: one slot for each quarter of a second, and nothing to do when a timer is put off.

An owner has `expires`, a time in seconds that it may move at will. Moved later, it is found too early in its old slot
and put into a new one; moved earlier, it must be watched again. The kernel's own wheel fires a 60-second timer up to
two seconds late (kernel/time/timer.c); here it is a quarter of one at most, and whoever looks an entry up compares
`expires` himself.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from typing import Protocol

SLOTS = 4
"""Slots a second."""

BUDGET = 8000
"""What one poll does at most, so that a million owners whose time comes at once do not stall the loop: one that is only
put into another slot counts 1, one that is called `CALL`. The caller of `poll` comes back at once for the rest."""

CALL = 8
SHARE = 160
"""What is done at most when a packet comes: the rest is left to `poll`."""

FARTHEST = 16384
"""Slots that an owner is put ahead at most, then it is looked at again: there are never more slots than that."""

CROWD = 32768
"""Owners of a slot at most; more go into the next ones. A dict that grows copies all that it has, and takes about a
millisecond for that many."""


class Owner(Protocol):
    """Something with a timer. `slot` belongs to Timers: 0 while it is not watched."""

    expires: float
    slot: int

    def on_timer(self, now: float) -> None:
        """The time has come; called when the owner is no longer watched."""


class Timers:
    """Owners by slot."""

    __slots__ = ("_last", "_numbers", "_order", "_slots", "due")

    def __init__(self) -> None:
        self.due = inf
        """When `poll` has something to do next; an empty slot may make it earlier than it need be."""
        self._slots: dict[int, dict[Owner, None]] = {}
        self._numbers: dict[int, int] = {}
        """Each slot's number once, for the many owners that have it."""
        self._order: list[int] = []
        self._last = 0
        """The latest slot that was due at the last poll that found any."""

    def watch(self, owner: Owner) -> None:
        """See that `owner.on_timer` is called after `owner.expires`; cheap when it is watched early enough already."""
        # One more than the slot in which it ends, and another one for what should have ended before the clock began.
        slot = int(owner.expires * SLOTS + 1) + 1
        if owner.slot:
            if owner.slot <= slot:
                return
            del self._slots[owner.slot][owner]
        if slot > self._last + FARTHEST:
            slot = self._last + FARTHEST
        owners = self._slots.get(slot)
        while owners is not None and len(owners) >= CROWD:
            slot += 1
            owners = self._slots.get(slot)
        if owners is None:
            owners = self._slots[slot] = {}
            self._numbers[slot] = slot
            heappush(self._order, slot)
            if slot - 1 < self.due * SLOTS:
                self.due = (slot - 1) / SLOTS
        owner.slot = self._numbers[slot]
        owners[owner] = None

    def forget(self, owner: Owner) -> None:
        """Watch it no longer."""
        if owner.slot:
            del self._slots[owner.slot][owner]
            owner.slot = 0

    def poll(self, now: float, budget: int = BUDGET) -> bool:
        """Call the owners whose time has come; whether some are left because the budget is used up."""
        if now < self.due:
            return False
        order, slots = self._order, self._slots
        self._last = last = int(now * SLOTS) + 1
        while order and order[0] <= last:
            first = order[0]
            owners = slots[first]
            while owners:
                if budget <= 0:
                    return True
                owner, _ = owners.popitem()
                owner.slot = 0
                if owner.expires > now:
                    budget -= 1
                    self.watch(owner)
                else:
                    budget -= CALL
                    owner.on_timer(now)
            if order[0] == first:
                del slots[first], self._numbers[heappop(order)]
        self.due = (order[0] - 1) / SLOTS if order else inf
        return False

    def poll_at(self) -> float | None:
        """`due`, or None for never."""
        return self.due if self._order else None
