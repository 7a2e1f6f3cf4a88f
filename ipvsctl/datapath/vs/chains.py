"""A dict in which several connections may have one key: the one added last is found, as in the kernel's hash chains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipvsctl.datapath.vs.entry import Conn


class Chains:
    """Connections by key. `newest` may be read directly; the others wait in `_older` until that one goes."""

    __slots__ = ("_older", "newest")

    def __init__(self) -> None:
        self.newest: dict[bytes, Conn] = {}
        self._older: dict[bytes, dict[Conn, None]] = {}

    def add(self, key: bytes, conn: Conn) -> None:
        """Put a connection in front."""
        before = self.newest.get(key)
        if before is not None:
            self._older.setdefault(key, {})[before] = None
        self.newest[key] = conn

    def remove(self, key: bytes, conn: Conn) -> None:
        """Take a connection out; it must be there."""
        older = self._older.get(key) if self._older else None
        if older is None:
            del self.newest[key]
            return
        if self.newest[key] is conn:
            self.newest[key] = older.popitem()[0]
        else:
            del older[conn]
        if not older:
            del self._older[key]

    def __iter__(self) -> Iterator[Conn]:
        yield from self.newest.values()
        for older in self._older.values():
            yield from older
