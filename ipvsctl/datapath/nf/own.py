"""The tables that a director file's chains make on a host that has no other rules (kernel/firewall.py writes them)."""

from __future__ import annotations

from collections.abc import Iterable

from ipvsctl.formats.iptables_save import BUILT_IN
from ipvsctl.model.rule import TAG, Match, OwnChain, Rule
from ipvsctl.model.snapshot import SavedChain, SavedRule, SavedTable


def tables_of(chains: Iterable[OwnChain]) -> tuple[SavedTable, ...]:
    """Tables with the jumps to the chains, in the places they ask for, and the chains; policies are ACCEPT.

    Chains that are to be first come in the order in which they are named; "last" and numbers count what is there then.
    """
    grouped: dict[tuple[int, str], list[OwnChain]] = {}
    for chain in chains:
        grouped.setdefault((chain.family, chain.table), []).append(chain)
    return tuple(
        SavedTable(family, name, (*_built_in(name, own), *map(_own, own))) for (family, name), own in grouped.items()
    )


def _own(chain: OwnChain) -> SavedChain:
    return SavedChain(chain.name, "", tuple(SavedRule(rule) for rule in chain.rules))


def _built_in(table: str, own: list[OwnChain]) -> list[SavedChain]:
    jumps: dict[str, list[str]] = {name: [] for name in BUILT_IN.get(table, ())}
    first: dict[str, int] = {}
    missing = [(hook, chain) for chain in own if chain.jump for hook in chain.hook.split(",")]
    for hook, chain in sorted(missing, key=lambda item: _rank(item[1].place)):
        there = jumps.setdefault(hook, [])
        position = _rank(chain.place)
        if not position:
            position = first.get(hook, 0)
            first[hook] = position + 1
        there.insert(min(position, len(there)), chain.name)
    tag = Match("comment", (("comment", TAG),))
    return [
        SavedChain(hook, "ACCEPT", tuple(SavedRule(Rule(name, matches=(tag,))) for name in names))
        for hook, names in jumps.items()
    ]


def _rank(place: str) -> int:
    """The index that a place means in an endless chain."""
    return int(place) - 1 if place.isdigit() else 1 << 31 if place == "last" else 0
