"""The conntrack port of an emulated director: its table of connection tracking entries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ipvsctl.emulator.state import State
from ipvsctl.errors import NotFound, Unavailable
from ipvsctl.model.status import ConntrackEntry, ConntrackEvent, Expectation

POLL = 0.2
"""Seconds between two looks at the table while its events are watched."""

Flow = tuple[str, str, str, int, int]


class EmulatedConntrack:
    """The conntrack port of an emulated director. Entries come of packets; a state may bring some of its own."""

    def __init__(self, state: State) -> None:
        self._state = state

    def entries(self) -> list[ConntrackEntry]:
        return list(self.stream())

    def stream(self) -> Iterator[ConntrackEntry]:
        yield from self._state.conntrack
        if self._state.datapath is not None:
            yield from self._state.datapath.entries()

    def expectations(self) -> list[Expectation]:
        return [] if self._state.datapath is None else self._state.datapath.expectations()

    def check_events(self) -> None:
        """Raises Unavailable when there will never be any."""
        if "nf_conntrack" not in self._state.modules:
            raise Unavailable(
                "cannot watch the connections: the director tracks none, nf_conntrack is not loaded: `ipvsctl nfct "
                "enable` turns tracking on for IPVS"
            )

    def events(self, idle: float) -> Iterator[ConntrackEvent | None]:
        self.check_events()
        return watch(self.entries, idle)

    def delete(self, entry: ConntrackEntry) -> None:
        flow = flow_of(entry)
        for index, found in enumerate(self._state.conntrack):
            if flow_of(found) == flow:
                del self._state.conntrack[index]
                return
        if self._state.datapath is not None:
            self._state.datapath.forget(entry)
            return
        raise NotFound(
            f"cannot delete the conntrack entry {entry.protocol} {entry.source}:{entry.source_port} -> "
            f"{entry.destination}:{entry.destination_port}: there is none"
        )


def watch(entries: Callable[[], list[ConntrackEntry]], idle: float) -> Iterator[ConntrackEvent | None]:
    """The events that make one table of the one before, looked at every now and then."""
    before = {flow_of(entry): entry for entry in entries()}
    yield None
    while True:
        time.sleep(min(idle, POLL))
        after = {flow_of(entry): entry for entry in entries()}
        found = list(differences(before, after))
        before = after
        if not found:
            yield None
        yield from found


def differences(before: dict[Flow, ConntrackEntry], after: dict[Flow, ConntrackEntry]) -> Iterator[ConntrackEvent]:
    """What happened between two looks: an update is told when state, status, mark or helper are others."""
    for flow, entry in before.items():
        if flow not in after:
            yield ConntrackEvent("destroy", entry)
    for flow, entry in after.items():
        old = before.get(flow)
        if old is None:
            yield ConntrackEvent("new", entry)
        elif old._replace(timeout=0) != entry._replace(timeout=0):
            yield ConntrackEvent("update", entry)


def flow_of(entry: ConntrackEntry) -> Flow:
    """What identifies an entry: its original direction."""
    return entry.protocol, entry.source, entry.destination, entry.source_port, entry.destination_port
