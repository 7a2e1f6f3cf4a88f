"""Differences that are known and meant to stay, each with its reason. An entry that no longer differs is an error."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.differential.compare import Difference


class Known(NamedTuple):
    """`scenario` and `where` are patterns of the shell's kind, for a scenario's name and Difference.where."""

    scenario: str
    where: str
    reason: str

    def covers(self, difference: Difference) -> bool:
        return fnmatchcase(difference.scenario, self.scenario) and fnmatchcase(difference.where, self.where)


KNOWN: tuple[Known, ...] = ()


def unknown(differences: Iterable[Difference], known: tuple[Known, ...] = KNOWN) -> list[Difference]:
    """The differences that no entry covers."""
    return [difference for difference in differences if not any(entry.covers(difference) for entry in known)]


def stale(
    differences: Iterable[Difference], scenarios: Iterable[str], known: tuple[Known, ...] = KNOWN
) -> list[Known]:  # fmt: skip
    """The entries for scenarios that were played in which nothing differs any more."""
    found, names = list(differences), list(scenarios)
    return [
        entry for entry in known
        if any(fnmatchcase(name, entry.scenario) for name in names) and not any(map(entry.covers, found))
    ]  # fmt: skip
