"""What holds for our own chains in every back end: their names, where the jumps to them go, and how two sets differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ipvsctl.errors import Refused
from ipvsctl.formats.iptables_save import BUILT_IN, LONGEST_CHAIN
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.rule import CHAIN_PREFIX, TAG, Match, OwnChain, Rule

_TAGGED = (Match("comment", (("comment", TAG),)),)


def check(change: ReplaceRules) -> None:
    """Raise Refused for chains that are not ours, or not of the table that the change is about."""
    names = [chain.name for chain in change.after]
    for chain in change.after:
        plain = chain.name.isascii() and chain.name.isprintable() and " " not in chain.name
        ours = plain and chain.name.startswith(CHAIN_PREFIX) and len(chain.name) <= LONGEST_CHAIN
        if not ours or names.count(chain.name) > 1:
            ours_are = f"{CHAIN_PREFIX}..., at most {LONGEST_CHAIN} characters, once"
            raise Refused(f"{chain.name!r} is not a chain of ours: {ours_are}")
        if (chain.family, chain.table) != (change.family, change.table):
            raise Refused(f"chain {chain} is of another table")


def check_hooks(chains: Iterable[OwnChain], table: str) -> None:
    """Raise Refused for a table that iptables does not have, or a chain that is to hang where the table has no hook."""
    if table not in BUILT_IN:
        raise Refused(f"there is no table {table!r}")
    for chain in chains:
        for hook in chain.hook.split(",") if chain.jump else ():
            if hook not in BUILT_IN[table]:
                raise Refused(f"{hook!r} is not a built-in chain of table {table}, which {chain.name} is to hang on")


def jump_to(name: str) -> Rule:
    """The rule that leads from a built-in chain into one of ours."""
    return Rule(name, matches=_TAGGED)


def rank(place: str) -> int:
    """The index that a place means in an endless chain."""
    return int(place) - 1 if place.isdigit() else 1 << 31 if place == "last" else 0


def place_of(index: int, length: int) -> str:
    """The place of a jump that is the rule `index`, from 0, of `length`."""
    return "first" if index == 0 else "last" if index == length - 1 else str(index + 1)


def hook_of(table: str, name: str) -> str:
    """The built-in chain that the name of a chain without a jump tells of; "" when it tells of none."""
    rest = name.removeprefix(CHAIN_PREFIX)
    return next((hook for hook in BUILT_IN.get(table, ()) if rest == hook or rest.startswith(f"{hook}-")), "")


def found_chain(
    family: int, table: str, name: str, rules: tuple[Rule, ...], jumps: Iterable[tuple[str, int, int]]
) -> OwnChain:
    """A chain as a host has it, and the jumps to it: built-in chain, index, and how many rules that chain has.

    Jumps from several built-in chains are no state of ours: naming them all makes it differ from any.
    """
    places = list(jumps)
    if not places:
        return OwnChain(family, table, name, hook_of(table, name), rules, "", False)
    hooks = ",".join(dict.fromkeys(hook for hook, _, _ in places))
    _, index, length = places[0]
    return OwnChain(family, table, name, hooks, rules, place_of(index, length), True)


def order(chains: Iterable[OwnChain]) -> tuple[OwnChain, ...]:
    """Sorted by family, table and name, as the port gives them."""
    return tuple(sorted(chains, key=lambda chain: (chain.family, chain.table, chain.name)))


def told(chains: Iterable[OwnChain]) -> list[OwnChain]:
    """For comparison: the hook of a chain without a jump is a guess."""
    return sorted((c if c.jump else replace(c, hook="") for c in chains), key=lambda chain: chain.name)


def differ(wanted: Iterable[OwnChain], found: Iterable[OwnChain]) -> str:
    """In a few words what the first difference is."""
    here = {chain.name: chain for chain in found}
    for chain in wanted:
        other = here.get(chain.name)
        if other is None:
            return f"chain {chain.name} is missing"
        for mine, theirs in zip(chain.rules, other.rules, strict=False):
            if mine != theirs:
                return f"{chain.name}: {mine!s} became {theirs!s}"
        if len(chain.rules) != len(other.rules):
            return f"{chain.name} has {len(other.rules)} rules, not {len(chain.rules)}"
    return "jumps or chains"
