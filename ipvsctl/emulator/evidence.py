"""What doctor can see of an emulated director beside its ports: its rules. The network around it is assumed."""

from __future__ import annotations

from ipvsctl.emulator.state import KERNEL
from ipvsctl.model.facts import Facts
from ipvsctl.model.snapshot import Snapshot
from ipvsctl.plan.examine import network_of

_MISSING = ("kept", "links", "routes", "neighbours", "listeners")


def read(snapshot: Snapshot) -> Facts:
    """The evidence that an emulated director's snapshot holds."""
    found = network_of(snapshot)
    return Facts(
        release=KERNEL,
        tables=found.tables,
        notes=snapshot.notes,
        missing=dict.fromkeys(_MISSING, "an emulated director has no network of its own"),
    )
