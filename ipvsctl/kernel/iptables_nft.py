"""The back end "iptables-nft": our chains in the tables that iptables' nft variant keeps in nftables.

They are read as iptables-nft-save prints them and changed by the commands that iptables-nft-restore --noflush takes; it
commits the lines of a table as one transaction. Only what differs is named, so rules that stay keep their counters.
Rules in our chains go by number, jumps in chains that are not ours by what they are: those may have moved meanwhile.

A table that is not there is not read. One that a plan brought into being is deleted again, by nft, when it is as new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from functools import partial

from ipvsctl.errors import IpvsctlError, Refused, UsageError
from ipvsctl.formats import iptables_save
from ipvsctl.formats.iptables_canonical import canonical
from ipvsctl.formats.iptables_rule import RuleReader
from ipvsctl.formats.iptables_save import BUILT_IN, rule_text
from ipvsctl.formats.iptables_words import split
from ipvsctl.formats.own_chains import check, check_hooks, differ, found_chain, jump_to, order, rank, told
from ipvsctl.kernel import rule_tools
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.rule import CHAIN_PREFIX, Match, OwnChain, Rule
from ipvsctl.model.snapshot import SavedRule, SavedTable

IPTABLES_NFT = "iptables-nft"

_TOOLS = {INET: "iptables-nft", INET6: "ip6tables-nft"}
_KINDS = {INET: "ip", INET6: "ip6"}
_TRIES = 5


class IptablesNft:
    """Our chains in the tables of iptables-nft of the namespace that the process is in."""

    def check(self) -> None:
        """Raises Unavailable with what is missing."""
        programs = [f"{tool}-{verb}" for tool in _TOOLS.values() for verb in ("save", "restore")]
        rule_tools.need(IPTABLES_NFT, "iptables", *programs)

    def chains(self) -> tuple[OwnChain, ...]:
        """Our chains, sorted by family, table and name."""
        return order(chain for family, table in self.tables() for chain in _own(_read(family, table)))

    def tables(self) -> frozenset[tuple[int, str]]:
        """The tables of iptables' names that exist in nftables."""
        there = rule_tools.nftables()
        return frozenset(
            (family, table) for family, kind in _KINDS.items() for table in BUILT_IN if f"{kind} {table}" in there
        )

    def replace(self, change: ReplaceRules) -> None:
        """Make our chains of one table exactly `after`, and see that they are; see FirewallPort."""
        what = f"cannot {change}"
        family, table = change.family, change.table
        try:
            check(change)
            check_hooks(change.after, table)
            wanted = tuple(map(_compiled, change.after))
            before = _own(_read(family, table))
            for _ in range(_TRIES):
                saved = _read(family, table)
                lines = list(_commands(saved, wanted))
                if not lines:
                    break
                try:
                    _commit(family, table, lines)
                except Refused:
                    # What is named by a number may not be there any more.
                    if _read(family, table).chains == saved.chains:
                        raise
                    continue
                found = _own(_read(family, table))
                if told(found) == told(wanted):
                    break
            else:
                _commit(family, table, list(_commands(_read(family, table), before)))
                raise Refused(f"the kernel has other rules than those committed ({differ(wanted, found)})")
            if change.drops and not wanted:
                _let_go(family, table)
        except IpvsctlError as error:
            raise type(error)(f"{what}: {error}") from None


def _read(family: int, table: str) -> SavedTable:
    """A table with its counters; an empty one when it is not there. Raises Refused for what is not iptables' table."""
    if f"{_KINDS[family]} {table}" not in rule_tools.nftables():
        return SavedTable(family, table)
    text = rule_tools.run(f"{_TOOLS[family]}-save", "-c", "-t", table)
    try:
        return next(
            (each for each in iptables_save.parse(text, family) if each.name == table), SavedTable(family, table)
        )
    except UsageError as error:
        raise Refused(f"{_TOOLS[family]}-save prints what is not understood: {error}") from None


def _own(saved: SavedTable) -> tuple[OwnChain, ...]:
    jumps: dict[str, list[tuple[str, int, int]]] = {}
    for chain in saved.chains:
        for index, each in enumerate(chain.rules if chain.policy else ()):
            if each.rule == jump_to(each.rule.target) and not each.goto:
                jumps.setdefault(each.rule.target, []).append((chain.name, index, len(chain.rules)))
    return order(
        found_chain(saved.family, saved.name, chain.name, tuple(map(partial(_as_read, saved.family), chain.rules)),
                    jumps.get(chain.name, ()))
        for chain in saved.chains
        if chain.name.startswith(CHAIN_PREFIX)
    )  # fmt: skip


def _as_read(family: int, saved: SavedRule) -> Rule:
    """The rule; one with -g, which Rule has no word for, differs from every rule that ipvsctl makes."""
    if saved.goto:
        return Rule("", matches=(Match("nft-line", (("raw", rule_text(family, saved)),)),))
    try:
        return canonical(family, saved.rule)
    except Refused:
        return saved.rule


def _compiled(chain: OwnChain) -> OwnChain:
    """The chain as it will be read. Raises Refused for a rule that its words do not say, as one with a line feed."""
    rules = []
    for rule in chain.rules:
        if not (rule.matches and rule.matches[0].name == "nft-line"):
            rule = canonical(chain.family, rule)
            try:
                said = RuleReader(chain.family, split(_words(chain.family, rule))).read()
            except UsageError as error:
                raise Refused(f"rule {rule}: {error}") from None
            if [each.rule for each in said] != [rule]:
                raise Refused(f"rule {rule} cannot be written as a line of iptables-restore")
        rules.append(rule)
    return OwnChain(chain.family, chain.table, chain.name, chain.hook, tuple(rules), chain.place, chain.jump)


def _words(family: int, rule: Rule) -> str:
    if rule.matches and rule.matches[0].name == "nft-line":
        return dict(rule.matches[0].options)["raw"]
    return rule_text(family, SavedRule(rule))


def _commands(saved: SavedTable, wanted: tuple[OwnChain, ...]) -> Iterator[str]:
    """Lines of iptables-restore that make our chains be `wanted`; none when they are."""
    there = {chain.name: chain for chain in saved.chains}
    own = [name for name in there if name.startswith(CHAIN_PREFIX)]
    names = {chain.name for chain in wanted}
    obsolete = [name for name in own if name not in names]
    _check_references(saved, obsolete)
    for chain in wanted:
        if chain.name not in there:
            yield f":{chain.name} - [0:0]"
    for chain in wanted:
        old = [_as_read(saved.family, each) for each in there[chain.name].rules] if chain.name in there else []
        changes = SequenceMatcher(None, old, list(chain.rules), autojunk=False).get_opcodes()
        for tag, start, stop, first, last in reversed(changes):
            if tag != "equal":
                yield from (f"-D {chain.name} {number}" for number in range(stop, start, -1))
                for rule in reversed(chain.rules[first:last]):
                    yield f"-I {chain.name} {start + 1} {_words(saved.family, rule)}"
    yield from _jump_commands(saved, wanted)
    yield from (f"-F {name}" for name in obsolete)
    yield from (f"-X {name}" for name in obsolete)


def _jump_commands(saved: SavedTable, wanted: tuple[OwnChain, ...]) -> Iterator[str]:
    """One jump to every chain that is to have one. Those that are there stay where they are."""
    needed = [(hook, chain.name) for chain in wanted if chain.jump for hook in chain.hook.split(",")]
    lengths = {chain.name: len(chain.rules) for chain in saved.chains}
    for chain in saved.chains:
        for each in chain.rules if chain.policy else ():
            target = each.rule.target
            if not target.startswith(CHAIN_PREFIX) or each.rule != jump_to(target) or each.goto:
                continue
            if (chain.name, target) in needed:
                needed.remove((chain.name, target))
            else:
                lengths[chain.name] -= 1
                yield f"-D {chain.name} {_words(saved.family, jump_to(target))}"
    first: dict[str, int] = {}
    for own in sorted(wanted, key=lambda chain: rank(chain.place)):
        for hook in own.hook.split(",") if own.jump else ():
            if (hook, own.name) not in needed:
                continue
            length = lengths.get(hook, 0)
            position = rank(own.place)
            if not position:
                position = first.get(hook, 0)
                first[hook] = position + 1
            words = _words(saved.family, jump_to(own.name))
            yield f"-A {hook} {words}" if position >= length else f"-I {hook} {position + 1} {words}"
            lengths[hook] = length + 1


def _check_references(saved: SavedTable, obsolete: Iterable[str]) -> None:
    gone = set(obsolete)
    for chain in saved.chains:
        for position, each in enumerate(() if chain.name.startswith(CHAIN_PREFIX) else chain.rules):
            if each.rule.target in gone and (each.rule != jump_to(each.rule.target) or not chain.policy or each.goto):
                jump = f"rule {position + 1} of {chain.name} jumps to {each.rule.target}"
                raise Refused(f"{jump} and is not ours: delete that first")


def _commit(family: int, table: str, lines: list[str]) -> None:
    if lines:
        text = "".join(f"{line}\n" for line in (f"*{table}", *lines, "COMMIT"))
        rule_tools.run(f"{_TOOLS[family]}-restore", "--noflush", "--counters", text=text)


def _let_go(family: int, table: str) -> None:
    """Delete a table that is as iptables-nft makes one; one with anything in it stays, and so does one without nft."""
    saved = _read(family, table)
    if not saved.chains or rule_tools.find("nft") is None:
        return
    if any(chain.rules or chain.policy != "ACCEPT" for chain in saved.chains):
        return
    there = [name for where, name in rule_tools.chains() if where == f"{_KINDS[family]} {table}"]
    # A chain that has got a rule meanwhile is not deleted, and then nothing is.
    lines = [f"delete chain {_KINDS[family]} {table} {name}\n" for name in there]
    try:
        rule_tools.run("nft", "-f", "-", text="".join([*lines, f"delete table {_KINDS[family]} {table}\n"]))
    except Refused:
        return
