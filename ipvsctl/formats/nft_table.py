"""Our table of nftables: `ip ipvsctl` or `ip6 ipvsctl`, read from `nft -j list table` and changed by one transaction.

For every table and built-in chain of iptables that our chains hang on there is one base chain, "filter.INPUT", at the
hook and priority that iptables' table has; our chains are regular chains, "filter.IPVSCTL-INPUT", and the base chain
jumps to them in the order of their places. So what one of ours accepts is done with in this base chain, as in iptables;
a chain of another table at the same hook still sees it.

A connection's helper is given by an object, which needs the connection to be there: chains of table raw that do so hang
on "helper.PREROUTING", behind connection tracking (-200), those that turn tracking off on "raw.PREROUTING".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from ipvsctl.errors import Refused
from ipvsctl.formats.iptables_canonical import canonical
from ipvsctl.formats.iptables_save import BUILT_IN
from ipvsctl.formats.nft_rules import helper_object, helpers, needs_tracking, read, written
from ipvsctl.formats.own_chains import check_hooks, found_chain, order, rank
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.rule import CHAIN_PREFIX, TAG, OwnChain, Rule

TABLE = "ipvsctl"
FAMILIES = {INET: "ip", INET6: "ip6"}

HELPER = "helper"
"""In the place of table raw: the base chains behind connection tracking."""

PRIORITIES = {"raw": -300, HELPER: -190, "mangle": -150, "filter": 0, "security": 50}
"""Of base chains (enum nf_ip_hook_priorities); nat's depend on the hook."""

_NAT = {"PREROUTING": -100, "INPUT": 100, "OUTPUT": -100, "POSTROUTING": 100}
_NAME = re.compile(r"[A-Za-z0-9_./-]+")

Command = dict[str, Any]


@dataclass(slots=True)
class Listed:
    """A rule as listed: its handle, expressions and comment."""

    handle: int
    expressions: list[dict[str, Any]]
    comment: str = ""

    def jump(self) -> str | None:
        """The chain that it leads to, when it is a jump as ours are."""
        (only, *rest) = self.expressions or [{}]
        return only["jump"]["target"] if "jump" in only and not rest and self.comment == TAG else None


@dataclass(slots=True)
class Listing:
    """Our table of one family: its chains with their rules, those that are base chains, and its helper objects."""

    family: int
    exists: bool = False
    chains: dict[str, list[Listed]] = field(default_factory=dict)
    bases: set[str] = field(default_factory=set)
    helpers: set[str] = field(default_factory=set)
    foreign: bool = False

    def own(self, table: str | None = None) -> list[str]:
        """The names of our chains, of one table of iptables or of all."""
        return [
            name
            for name in self.chains
            if name.partition(".")[2].startswith(CHAIN_PREFIX) and (table is None or name.startswith(f"{table}."))
        ]


def parse(family: int, document: str) -> Listing:
    """What `nft -j list table` prints; raises Refused for what is not that."""
    listing = Listing(family, exists=True)
    try:
        for item in json.loads(document)["nftables"]:
            ((kind, body),) = item.items()
            if kind == "chain":
                listing.chains[body["name"]] = []
                if "hook" in body:
                    listing.bases.add(body["name"])
            elif kind == "rule":
                rule = Listed(body["handle"], body["expr"], body.get("comment", ""))
                listing.chains[body["chain"]].append(rule)
            elif kind == "ct helper":
                listing.helpers.add(body["name"])
            elif kind not in ("metainfo", "table"):
                listing.foreign = True
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise Refused(f"what `nft -j list table` prints is not understood: {error!r:.80}") from None
    known = {
        *listing.own(),
        *(f"{table}.{hook}" for table in (*BUILT_IN, HELPER) for hook in BUILT_IN.get(table, _NAT)),
    }
    listing.foreign = listing.foreign or not known.issuperset(listing.chains)
    return listing


def own_chains(listing: Listing) -> tuple[OwnChain, ...]:
    """Our chains, sorted by table and name."""
    jumps: dict[str, list[tuple[str, int, int]]] = {}
    for base in listing.bases:
        hook = base.partition(".")[2]
        rules = listing.chains[base]
        for index, rule in enumerate(rules):
            if target := rule.jump():
                jumps.setdefault(target, []).append((hook, index, len(rules)))
    found = []
    for full in listing.own():
        table, _, name = full.partition(".")
        read_back = tuple(read(listing.family, table, rule.expressions, rule.comment) for rule in listing.chains[full])
        places = sorted(jumps.get(full, ()), key=lambda place: list(_NAT).index(place[0]) if place[0] in _NAT else 9)
        found.append(found_chain(listing.family, table, name, read_back, places))
    return order(found)


# -- writing ----------------------------------------------------------------------------------------------------------


def compiled(family: int, table: str, after: Iterable[OwnChain]) -> tuple[OwnChain, ...]:
    """The chains as they will be read. Raises Refused for what nftables cannot say."""
    made = []
    chains = list(after)
    check_hooks(chains, table)
    names = {chain.name for chain in chains}
    for chain in chains:
        if not _NAME.fullmatch(chain.name):
            raise Refused(f"{chain.name!r} is not a name for a chain of nftables")
        rules = tuple(canonical(family, rule) for rule in chain.rules)
        for rule in rules:
            written(family, table, rule)
            if rule.target.startswith(CHAIN_PREFIX) and rule.target not in names:
                raise Refused(f"rule {rule}: there is no chain {rule.target}")
        _base(table, chain, rules)
        made.append(OwnChain(family, table, chain.name, chain.hook, rules, chain.place, chain.jump))
    return tuple(made)


def _base(table: str, chain: OwnChain, rules: tuple[Rule, ...]) -> str:
    """What stands in the place of the table in the name of the base chain that a chain hangs on."""
    if table != "raw" or not any(map(needs_tracking, rules)):
        return table
    if any("notrack" in dict(rule.target_options) or rule.target == "NOTRACK" for rule in rules):
        raise Refused(f"nftables cannot say CT --helper and CT --notrack in one chain: {chain.name}")
    return HELPER


def transaction(listing: Listing, table: str, wanted: tuple[OwnChain, ...]) -> list[Command]:
    """The commands that make our chains of one table of iptables be `wanted`, as `compiled` gives them; none when they
    are. Rules that stay keep their handles, and so their counters."""
    family = listing.family
    here = {"family": FAMILIES[family], "table": TABLE}
    jumps = _jumps(listing, table, wanted)
    commands: list[Command] = []
    if not listing.exists and wanted:
        commands.append({"add": {"table": {"family": FAMILIES[family], "name": TABLE}}})
    for helper, protocol in dict.fromkeys(each for chain in wanted for each in helpers(chain.rules)):
        name = helper_object(helper, protocol)
        if name not in listing.helpers:
            body = {"name": name, "type": helper, "protocol": protocol, "l3proto": FAMILIES[family]}
            commands.append({"add": {"ct helper": here | body}})
    for chain in wanted:
        if f"{table}.{chain.name}" not in listing.chains:
            commands.append({"add": {"chain": here | {"name": f"{table}.{chain.name}"}}})
    for base, targets in jumps.items():
        if targets and base not in listing.chains:
            commands.append({"add": {"chain": here | _hooked(base)}})
    edits = [*_edits(listing, table, wanted), *_jump_edits(listing, jumps)]
    # What comes has its place beside rules that are there, so it comes first.
    commands += [{kind: {"rule": here | body}} for kind, body in edits if kind != "delete"]
    commands += [{kind: {"rule": here | body}} for kind, body in edits if kind == "delete"]
    kept = {f"{table}.{chain.name}" for chain in wanted}
    obsolete = [name for name in listing.own(table) if name not in kept]
    obsolete += [base for base, targets in jumps.items() if not targets and not _foreign_rules(listing, base)]
    if obsolete and not wanted and not listing.foreign and set(obsolete) >= set(listing.chains):
        return [{"delete": {"table": {"family": FAMILIES[family], "name": TABLE}}}]
    commands += [{"flush": {"chain": here | {"name": name}}} for name in obsolete if listing.chains[name]]
    commands += [{"delete": {"chain": here | {"name": name}}} for name in obsolete]
    commands += [{"delete": {"ct helper": here | {"name": name}}} for name in _unused(listing, table, wanted)]
    return commands


def _hooked(base: str) -> dict[str, Any]:
    table, _, hook = base.partition(".")
    kind = "nat" if table == "nat" else "route" if (table, hook) == ("mangle", "OUTPUT") else "filter"
    priority = _NAT[hook] if table == "nat" else PRIORITIES[table]
    return {"name": base, "type": kind, "hook": hook.lower(), "prio": priority, "policy": "accept"}


def _jumps(listing: Listing, table: str, wanted: tuple[OwnChain, ...]) -> dict[str, list[str]]:
    """For each base chain of the table, there or to be, the chains that it is to jump to, in order."""
    found: dict[str, list[str]] = {}
    for base in sorted(listing.bases):
        if base.partition(".")[0] in ((table, HELPER) if table == "raw" else (table,)):
            found[base] = []
    for chain in sorted(wanted, key=lambda chain: rank(chain.place)):
        for hook in chain.hook.split(",") if chain.jump else ():
            found.setdefault(f"{_base(table, chain, chain.rules)}.{hook}", []).append(f"{table}.{chain.name}")
    return found


def _edits(listing: Listing, table: str, wanted: tuple[OwnChain, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for chain in wanted:
        full = f"{table}.{chain.name}"
        there = listing.chains.get(full, [])
        old = [read(listing.family, table, rule.expressions, rule.comment) for rule in there]
        bodies = []
        for rule in chain.rules:
            expressions, comment = written(listing.family, table, rule)
            bodies.append({"expr": json.loads(expressions)} | ({"comment": comment} if comment else {}))
        yield from _moves(full, there, old, list(chain.rules), bodies)


def _jump_edits(listing: Listing, jumps: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for base, targets in jumps.items():
        there = listing.chains.get(base, [])
        old = [rule.jump() for rule in there]
        new: list[str | None] = list(targets)
        if _foreign_rules(listing, base):
            # Somebody's rule in a chain of ours: it stays, behind jumps that are new.
            stay = [jump for jump in old if jump is None or jump in targets]
            new = [*(jump for jump in targets if jump not in stay), *stay]
        bodies = [{"expr": [{"jump": {"target": target}}], "comment": TAG} for target in new]
        yield from _moves(base, there, old, new, bodies)


def _foreign_rules(listing: Listing, base: str) -> bool:
    return any(rule.jump() is None for rule in listing.chains.get(base, ()))


def _moves(
    chain: str, there: list[Listed], old: list[Any], new: list[Any], bodies: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for tag, start, stop, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for body in bodies[first:last]:
            if stop < len(there):
                yield "insert", {"chain": chain, "handle": there[stop].handle} | body
            else:
                yield "add", {"chain": chain} | body
        for rule in there[start:stop]:
            yield "delete", {"chain": chain, "handle": rule.handle}


def _unused(listing: Listing, table: str, wanted: tuple[OwnChain, ...]) -> list[str]:
    """Helper objects that no rule will name any more."""
    if table != "raw" or listing.foreign:
        return []
    used = {helper_object(*each) for chain in wanted for each in helpers(chain.rules)}
    named = {
        str(each["ct helper"])
        for name in listing.chains
        if not name.startswith("raw.")
        for rule in listing.chains[name]
        for each in rule.expressions
        if "ct helper" in each
    }
    return sorted(listing.helpers - used - named)
