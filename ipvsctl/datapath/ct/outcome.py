"""What a protocol's tracker says of a packet of a connection."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """ACCEPT: the packet belongs to the connection. INVALID: it goes on without one. REPEAT: look it up anew.

    REPEAT comes after the tracker has removed the entry, because the packet begins a new connection of the same tuple.
    """

    ACCEPT = 1
    INVALID = 2
    REPEAT = 3


ACCEPT, INVALID, REPEAT = Outcome.ACCEPT, Outcome.INVALID, Outcome.REPEAT
