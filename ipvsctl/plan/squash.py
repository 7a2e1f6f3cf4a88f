"""Fewer undo entries with the same end: what a long series of small changes needs to be taken back.

A script that sets a weight every minute leaves an entry each time, and only the oldest says what was there before. So
of entries about one object those go that a later entry makes void. In doubt an entry stays: it is run for nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    Change,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    SetSysctl,
    SetTimeouts,
)

_FORWARDING = ("forwarding", "ip_forward")
"""Last parts of sysctls whose setting sets others as well: none of their values is void."""


def squash(entries: Iterable[Change]) -> list[int]:
    """Which of some undo entries, in the order to run them, are needed: their places, in order.

    Running those ends where running all of them does, from the state that they were written for.
    """
    known = list(entries)
    gone = _last_deletions(known)
    needed: list[int] = []
    groups: dict[Hashable, list[int]] = {}
    for place, change in enumerate(known):
        service = _service(change)
        if service is not None and place < gone.get(service, 0):
            continue  # Whatever it does, its service is deleted afterwards.
        key = _key(change)
        if key is None:
            needed.append(place)
        else:
            groups.setdefault(key, []).append(place)
    for places in groups.values():
        needed += _of_one(known, places)
    return sorted(needed)


def _of_one(known: Sequence[Change], places: Sequence[int]) -> list[int]:
    """Of the entries about one object those that decide: the last, and the addition that an edit needs.

    An addition of what is there sets it, and a deletion of what is not there does nothing (plan/execute.py).
    """
    last = places[-1]
    if isinstance(known[last], EditServer | EditService):
        # With a deletion as the first the object is there now, and an edit is enough.
        first = places[0]
        return [first, last] if isinstance(known[first], AddServer | AddService) else [last]
    return [last]


def _last_deletions(known: Sequence[Change]) -> dict[ServiceAddress, int]:
    return {change.service.address: place for place, change in enumerate(known) if isinstance(change, DeleteService)}


def _service(change: Change) -> ServiceAddress | None:
    """The service that a change is about, or whose server."""
    match change:
        case AddService() | EditService() | DeleteService():
            return change.service.address
        case AddServer() | EditServer() | DeleteServer():
            return change.service
    return None


def _key(change: Change) -> Hashable:
    """What a change is about, None when every one of its kind counts."""
    match change:
        case AddService() | EditService():
            return change.service.address
        case AddServer() | EditServer() | DeleteServer():
            return change.service, change.server.address
        case SetTimeouts():
            return SetTimeouts
        case SetSysctl(name) if name.rpartition(".")[2] not in _FORWARDING:
            return name
    return None
