"""The conntrack port of an emulated director: its table of connection tracking entries."""

from __future__ import annotations

from ipvsctl.emulator.state import State
from ipvsctl.errors import NotFound
from ipvsctl.model.status import ConntrackEntry


class EmulatedConntrack:
    """The conntrack port of an emulated director."""

    def __init__(self, state: State) -> None:
        self._state = state

    def entries(self) -> list[ConntrackEntry]:
        return list(self._state.conntrack)

    def delete(self, entry: ConntrackEntry) -> None:
        flow = _flow(entry)
        for index, found in enumerate(self._state.conntrack):
            if _flow(found) == flow:
                del self._state.conntrack[index]
                return
        raise NotFound(
            f"cannot delete the conntrack entry {entry.protocol} {entry.source}:{entry.source_port} -> "
            f"{entry.destination}:{entry.destination_port}: there is none"
        )


def _flow(entry: ConntrackEntry) -> tuple[str, str, str, int, int]:
    """What identifies an entry: its original direction."""
    return entry.protocol, entry.source, entry.destination, entry.source_port, entry.destination_port
