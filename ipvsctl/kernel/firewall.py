"""The chains that ipvsctl owns in iptables-legacy's tables.

Ours are the chains whose names begin with IPVSCTL- and the rules that do nothing but jump to one of them with our
comment. A table is read, changed and committed as a whole (libiptc: IPT_SO_SET_REPLACE), under the lock that iptables
takes, and then read again. Rules that stay keep their place and their counters; everybody else's rules stay, even those
that jump to a chain of ours.

A table that is not there is not read: reading creates it, with its hooks. A change creates the table it needs; undoing
it takes the table away again where that harms nobody (empty_tables.py), and leaves it behind, empty, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path

from ipvsctl.errors import IpvsctlError, Refused, Unavailable, UsageError
from ipvsctl.kernel.empty_tables import let_go
from ipvsctl.kernel.tables import Busy, OpenTable, existing_tables, lock
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.director import BACKENDS
from ipvsctl.model.rule import CHAIN_PREFIX, TAG, Match, OwnChain, Rule

LEGACY = "iptables-legacy"

_COMMENT = Match("comment", (("comment", TAG),))
_TRIES = 5


class KernelFirewall:
    """Our chains in the tables of the namespace that the process is in."""

    def backend(self, wanted: str = "auto") -> str:
        """ "iptables-legacy", or Unavailable with what is missing for it; UsageError for a name that is none."""
        if wanted not in BACKENDS:
            raise UsageError(f"firewall back end {wanted!r} is unknown, expected {', '.join(BACKENDS)}")
        if wanted not in ("auto", LEGACY):
            raise Unavailable(f"back end {wanted} is not part of this version, use {LEGACY}")
        if find_spec("iptc") is None or Path("/proc/thread-self/net/ip_tables_names").exists():
            from ipvsctl.kernel.libxtables import library

            library()
            return LEGACY
        # Not yet loaded: then importing python-iptables would load it, and asking must not change the host.
        from ipvsctl.kernel.modules import KernelModules

        feature = KernelModules().feature("iptable_filter")
        if feature.state == "absent":
            raise Unavailable(f"cannot use {LEGACY}: this kernel has no legacy iptables: {feature.evidence}")
        return LEGACY

    def chains(self) -> tuple[OwnChain, ...]:
        """Our chains, sorted by family, table and name.

        `place` of one with a jump is "first", "last", or the number of the rule; `hook` of one without is what its name
        says. Raises NotPermitted, and Unavailable when there are tables but no python-iptables.
        """
        found: list[OwnChain] = []
        for family in (INET, INET6):
            for table in existing_tables(family):
                with OpenTable(family, table) as handle:
                    found += _own_chains(handle)
        return tuple(sorted(found, key=lambda chain: (chain.family, chain.table, chain.name)))

    def tables(self) -> frozenset[tuple[int, str]]:
        """The tables that exist in the namespace. Raises NotPermitted."""
        return frozenset((family, table) for family in (INET, INET6) for table in existing_tables(family))

    def replace(self, change: ReplaceRules) -> None:
        """Make our chains of one table exactly `after`, and see that they are.

        Raises Refused when the kernel takes a rule not at all or differently, everything being as before then, when a
        rule that is not ours stands in the way, or when another program holds the lock for too long.
        """
        self.backend(change.backend)
        what = f"cannot {change}"
        try:
            _check(change)
            if not change.after and change.table not in existing_tables(change.family):
                return
            with lock():
                before, wanted = _commit(change.family, change.table, change.after)
                with OpenTable(change.family, change.table) as handle:
                    found = _own_chains(handle)
                    pristine = handle.is_pristine()
                if _told(found) != _told(wanted):
                    _commit(change.family, change.table, before)
                    raise Refused(f"the kernel has other rules than those committed ({_difference(wanted, found)})")
                if change.drops and pristine:
                    let_go(change.family, change.table)
        except Busy as error:
            raise Refused(f"{what}: {error}") from None
        except IpvsctlError as error:
            raise type(error)(f"{what}: {error}") from None

    def notes(self) -> tuple[str, ...]:
        """Rule sets beside ours that decide about the same packets; nothing for what we may not look at."""
        from ipvsctl.kernel.neighbours import notes

        return notes()


def _check(change: ReplaceRules) -> None:
    names = [chain.name for chain in change.after]
    for chain in change.after:
        if not chain.name.startswith(CHAIN_PREFIX) or len(chain.name) > 28 or names.count(chain.name) > 1:
            raise Refused(f"{chain.name!r} is not a chain of ours: {CHAIN_PREFIX}..., at most 28 characters, once")
        if (chain.family, chain.table) != (change.family, change.table):
            raise Refused(f"chain {chain} is of another table")


def _commit(family: int, table: str, after: Iterable[OwnChain]) -> tuple[tuple[OwnChain, ...], tuple[OwnChain, ...]]:
    """What was there, and what should be there now."""
    for attempt in range(_TRIES):
        with OpenTable(family, table) as handle:
            before = _own_chains(handle)
            wanted = _make(handle, after)
            try:
                handle.commit()
            except Busy:
                # Somebody changed the table between our reading and writing: without the lock, or it is not iptables.
                if attempt == _TRIES - 1:
                    raise
                continue
            except Refused as error:
                raise Refused(f"{error}{_hint(after)}") from None
            return before, wanted
    raise AssertionError("unreachable")


def _own_chains(handle: OpenTable) -> tuple[OwnChain, ...]:
    jumps = _jumps(handle)
    found = []
    for name in handle.own:
        rules = tuple(handle.rules(name))
        places = [(hook, place) for hook, place, target in jumps if target == name]
        hook, index = places[0] if places else (_hook(handle, name), -1)
        last = len(handle.verdicts(hook)) - 1 if places else 0
        place = "" if index < 0 else "first" if index == 0 else "last" if index == last else str(index + 1)
        # Jumps from several built-in chains are no state of ours: naming them all makes it differ from any.
        hooks = ",".join(dict.fromkeys(hook for hook, _ in places)) or hook
        found.append(OwnChain(handle.family, handle.table, name, hooks, rules, place, bool(places)))
    return tuple(found)


def _make(handle: OpenTable, after: Iterable[OwnChain]) -> tuple[OwnChain, ...]:
    """Change the table in memory; the chains as they will be read. Chains come first, for rules may jump to them."""
    wanted = {chain.name: chain for chain in after}
    obsolete = [name for name in handle.own if name not in wanted]
    _check_references(handle, obsolete)
    for name in wanted:
        if name not in handle.own:
            handle.create(name)
    made = []
    for chain in wanted.values():
        rules = [handle.compiled(rule) for rule in chain.rules]
        made.append(replace(chain, rules=tuple(rules)))
        old = handle.rules(chain.name)
        for tag, start, stop, first, last in reversed(SequenceMatcher(None, old, rules, autojunk=False).get_opcodes()):
            if tag != "equal":
                for position in range(stop - 1, start - 1, -1):
                    handle.delete(chain.name, position)
                for new in reversed(rules[first:last]):
                    handle.insert(chain.name, start, new)
    _make_jumps(handle, wanted)
    for name in obsolete:
        for position in range(len(handle.verdicts(name)) - 1, -1, -1):
            handle.delete(name, position)
    for name in obsolete:
        handle.remove(name)
    return tuple(made)


def _check_references(handle: OpenTable, obsolete: list[str]) -> None:
    """A chain that somebody's rule jumps to cannot go, and the rule is not ours to delete."""
    for chain in handle.chains:
        for position, verdict in enumerate(handle.verdicts(chain) if chain not in handle.own else ()):
            if verdict in obsolete and handle.rule(chain, position) != _jump(str(verdict)):
                raise Refused(f"rule {position + 1} of {chain} jumps to {verdict} and is not ours: delete that first")


def _make_jumps(handle: OpenTable, wanted: dict[str, OwnChain]) -> None:
    """One jump to every chain that is to have one. Those that are there stay where they are."""
    missing = [(hook, chain) for chain in wanted.values() if chain.jump for hook in chain.hook.split(",")]
    for hook, chain in missing:
        if hook not in handle.builtin:
            raise Refused(f"{hook!r} is not a built-in chain of table {handle.table}, which {chain.name} is to hang on")
    needed = [(hook, chain.name) for hook, chain in missing]
    surplus = []
    for hook, position, target in _jumps(handle):
        if (hook, target) in needed:
            needed.remove((hook, target))
        else:
            surplus.append((hook, position))
    for hook, position in reversed(surplus):
        handle.delete(hook, position)
    counts: dict[str, int] = {}
    for hook, chain in sorted(missing, key=lambda item: _rank(item[1].place)):
        if (hook, chain.name) not in needed:
            continue
        length = len(handle.verdicts(hook))
        position = _rank(chain.place)
        if position == 0:
            # Several that are to be first come in the order they were named.
            position = counts[hook] = counts.get(hook, -1) + 1
        handle.insert(hook, min(position, length), _jump(chain.name))


def _rank(place: str) -> int:
    """The index that a place means in an endless chain."""
    return int(place) - 1 if place.isdigit() else 1 << 31 if place == "last" else 0


def _jump(name: str) -> Rule:
    return Rule(name, matches=(_COMMENT,))


def _jumps(handle: OpenTable) -> list[tuple[str, int, str]]:
    """Our jumps, in order: built-in chain, index, own chain."""
    found = []
    for hook in handle.builtin:
        for position, verdict in enumerate(handle.verdicts(hook)):
            if verdict and verdict in handle.own and handle.rule(hook, position) == _jump(verdict):
                found.append((hook, position, verdict))
    return found


def _hook(handle: OpenTable, name: str) -> str:
    rest = name.removeprefix(CHAIN_PREFIX)
    return next((hook for hook in handle.builtin if rest == hook or rest.startswith(f"{hook}-")), "")


def _told(chains: Iterable[OwnChain]) -> list[OwnChain]:
    """For comparison: the hook of a chain without a jump is a guess."""
    return sorted((c if c.jump else replace(c, hook="") for c in chains), key=lambda chain: chain.name)


def _difference(wanted: Iterable[OwnChain], found: Iterable[OwnChain]) -> str:
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


def _hint(chains: Iterable[OwnChain]) -> str:
    """The kernel refuses a table with one errno; what it is most often about."""
    rules = (rule for chain in chains for rule in chain.rules)
    helpers = {value for rule in rules for option, value in rule.target_options if option == "helper"}
    if helpers:
        return f": is the conntrack helper {', '.join(sorted(helpers))} loaded?"
    return ": `dmesg` may say which rule it means"

