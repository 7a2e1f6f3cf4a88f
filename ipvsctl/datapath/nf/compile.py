"""Saved tables made ready to be walked, and what the kernel checks when a table is loaded.

translate_table, mark_source_chains and find_check_entry of ip_tables.c: jumps lead to chains that are there and never
in a circle (ELOOP), extensions stand in the tables and hooks they are for. What cannot be evaluated is refused with
table, chain, number and text of the rule: leaving it out would make the rule another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import HOOK_NAMES
from ipvsctl.datapath.nf import matches, targets
from ipvsctl.datapath.nf.header import entry_flags, fragment_test, header_tests
from ipvsctl.datapath.nf.options import Context, Options
from ipvsctl.datapath.nf.walk import COUNT, DECIDE, GOTO, JUMP, RETURN, TARGET, Chain, CompiledRule, Test
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_save import BUILT_IN, rule_text
from ipvsctl.formats.iptables_words import protocol_number
from ipvsctl.model.address import INET, INET6

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.model.rule import Rule
    from ipvsctl.model.snapshot import SavedChain, SavedRule, SavedTable

NAMES = ("raw", "mangle", "nat", "filter")
"""The tables that can be evaluated."""

_VERSION = {INET: 4, INET6: 6}
_VERDICTS: dict[str, Verdict] = {"ACCEPT": None, "DROP": Reason.RULE}


class Table:
    """A table ready to be walked: `hooks` its built-in chain by the number of the hook, None where it has none.

    `tracks`: its rules ask for connection tracking; `reroutes`: a rule changes what a route depends on.
    """

    __slots__ = ("chains", "family", "hooks", "name", "reroutes", "tracks")

    def __init__(self, family: int, name: str, chains: dict[str, Chain], tracks: bool, reroutes: bool) -> None:
        self.family, self.name, self.chains = family, name, chains
        self.tracks, self.reroutes = tracks, reroutes
        self.hooks = tuple(chains.get(hook) if hook in BUILT_IN[name] else None for hook in HOOK_NAMES)


def compile_table(engine: Engine, saved: SavedTable) -> Table:
    """A table of what was saved; raises UsageError for what the kernel or this datapath does not take."""
    return _Compiler(engine, saved).table()


class _Compiler:
    def __init__(self, engine: Engine, saved: SavedTable) -> None:
        if saved.family not in (INET, INET6) or saved.name not in NAMES:
            raise UsageError(f"table {saved.name} cannot be evaluated, only {', '.join(NAMES)}")
        self._engine = engine
        self._saved = saved
        self._built_in = BUILT_IN[saved.name]
        self._tracks = self._reroutes = False
        self._chains: dict[str, Chain] = {}
        self._source: dict[str, SavedChain] = {}
        for chain in saved.chains:
            self._add_chain(chain)
        for name in self._built_in:
            if name not in self._chains:
                self._chains[name] = Chain(saved.family, saved.name, name, "ACCEPT", None)

    def _add_chain(self, saved: SavedChain) -> None:
        where = f"table {self._saved.name}, chain {saved.name}"
        if saved.name in self._chains:
            raise UsageError(f"{where}: it is there twice")
        built_in = saved.name in self._built_in
        if built_in and saved.policy not in _VERDICTS:
            raise UsageError(f"{where}: policy {saved.policy!r} is neither ACCEPT nor DROP")
        if not built_in and saved.policy:
            raise UsageError(f"{where}: only built-in chains have a policy")
        verdict = Reason.POLICY if saved.policy == "DROP" else None
        chain = Chain(self._saved.family, self._saved.name, saved.name, saved.policy, verdict)
        chain.packets, chain.bytes = saved.packets, saved.bytes
        self._chains[saved.name] = chain
        self._source[saved.name] = saved

    def table(self) -> Table:
        reached = self._reach()
        for name, saved in self._source.items():
            rules = [
                self._rule(name, number, each, reached[name].get(number, frozenset()))
                for number, each in enumerate(saved.rules, 1)
            ]
            self._chains[name].fill(rules)
        return Table(self._saved.family, self._saved.name, self._chains, self._tracks, self._reroutes)

    # -- which hooks reach which rules --------------------------------------------------------------------------------

    def _reach(self) -> dict[str, dict[int, frozenset[int]]]:
        """By chain and number of the rule, the hooks that may come to it; raises UsageError for a circle.

        As in the kernel nothing behind a rule without conditions that has a verdict is reached.
        """
        reached: dict[str, dict[int, set[int]]] = {name: {} for name in self._chains}
        for hook, name in enumerate(HOOK_NAMES):
            if name in self._built_in:
                self._follow(name, hook, reached)
        return {
            name: {number: frozenset(hooks) for number, hooks in numbers.items()} for name, numbers in reached.items()
        }

    def _follow(self, start: str, hook: int, reached: dict[str, dict[int, set[int]]]) -> None:
        visited = {start}
        stack = [(start, iter(self._reached_rules(start)))]
        while stack:
            name, rules = stack[-1]
            for number, saved in rules:
                reached[name].setdefault(number, set()).add(hook)
                target = saved.rule.target
                if target in self._chains:
                    path = [each for each, _ in stack]
                    if target in path:
                        circle = " > ".join([*path[path.index(target) :], target])
                        raise self._refusal(name, number, saved, f"it makes a loop: {circle}")
                    if target not in visited:
                        visited.add(target)
                        stack.append((target, iter(self._reached_rules(target))))
                        break
            else:
                stack.pop()

    def _reached_rules(self, name: str) -> list[tuple[int, SavedRule]]:
        found: list[tuple[int, SavedRule]] = []
        saved = self._source.get(name)
        for number, each in enumerate(saved.rules if saved is not None else (), 1):
            found.append((number, each))
            rule = each.rule
            bare = not (
                rule.protocol or rule.source or rule.destination or rule.in_interface or rule.out_interface
                or rule.matches
            )  # fmt: skip
            if bare and rule.target in ("ACCEPT", "DROP", "RETURN"):
                break
        return found

    # -- rules --------------------------------------------------------------------------------------------------------

    def _refusal(self, chain: str, number: int, saved: SavedRule, reason: str) -> UsageError:
        text = _text(self._saved.family, saved)
        return UsageError(f"table {self._saved.name}, chain {chain}, rule {number} ({text}): {reason}")

    def _rule(self, chain: str, number: int, saved: SavedRule, hooks: frozenset[int]) -> CompiledRule:
        try:
            return self._compile(chain, number, saved, hooks)
        except (UsageError, ValueError) as error:
            raise self._refusal(chain, number, saved, str(error)) from None

    def _compile(self, chain: str, number: int, saved: SavedRule, hooks: frozenset[int]) -> CompiledRule:
        rule, family = saved.rule, self._saved.family
        compiled = CompiledRule(self._saved.name, chain, number, saved, _text(family, saved))
        fragment, goto = entry_flags(rule, family)
        protocol = protocol_number(rule.protocol.removeprefix("!"))
        inverted = rule.protocol.startswith("!")
        if protocol:
            compiled.protocol, compiled.only = protocol, not inverted
        tests, compiled.destination = header_tests(rule, family, hooks)
        compiled.header = len(tests)
        if fragment:
            tests.append(fragment_test(fragment))
            compiled.stable = False
        context = Context(self._engine, family, self._saved.name, hooks, 0 if inverted else protocol, rule)
        tests += self._matches(context, compiled)
        compiled.tests = tuple(tests)
        self._target(context, compiled, saved.goto or goto)
        return compiled

    def _matches(self, context: Context, compiled: CompiledRule) -> list[Test]:
        tests: list[Test] = []
        for match in context.rule.matches:
            if match.name == "entry":
                continue
            build = matches.MATCHES.get(match.name)
            if build is None or matches.ONLY.get(match.name, _VERSION[context.family]) != _VERSION[context.family]:
                raise UsageError(f"match {match.name} cannot be evaluated")
            try:
                options = Options(match.options)
                made = build(context, options)
                options.end()
            except UsageError as error:
                raise UsageError(f"match {match.name}: {error}") from None
            tests += made.tests
            compiled.stable &= made.stable
            self._tracks |= made.tracks
        return tests

    def _target(self, context: Context, compiled: CompiledRule, goto: bool) -> None:
        rule: Rule = context.rule
        name = rule.target
        chain = self._chains.get(name)
        if goto and (chain is None or name in self._built_in):
            raise UsageError(f"there is no chain {name} to go to")
        if chain is not None and name in self._built_in:
            raise UsageError(f"nothing can jump to the built-in chain {name}")
        if (chain is not None or name in _VERDICTS or name in ("", "RETURN")) and rule.target_options:
            raise UsageError(f"target {name} has no options")
        if chain is not None:
            compiled.kind, compiled.next = (GOTO if goto else JUMP), chain
        elif name in _VERDICTS:
            compiled.kind, compiled.verdict = DECIDE, _VERDICTS[name]
        elif name == "RETURN":
            compiled.kind = RETURN
        elif not name:
            compiled.kind = COUNT
        else:
            self._extension(context, compiled)

    def _extension(self, context: Context, compiled: CompiledRule) -> None:
        name = context.rule.target
        known = targets.TARGETS.get(name)
        if known is None or targets.ONLY.get(name, _VERSION[context.family]) != _VERSION[context.family]:
            raise UsageError(f"target {name} is no chain and cannot be evaluated")
        if known.tables and context.table not in known.tables:
            raise UsageError(f"target {name} is for table {' and '.join(known.tables)}")
        if known.hooks and context.hooks - known.hooks:
            names = ", ".join(HOOK_NAMES[hook] for hook in sorted(known.hooks))
            raise UsageError(f"target {name} is for {names}")
        try:
            options = Options(context.rule.target_options)
            made = known.build(context, options)
            options.end()
        except UsageError as error:
            raise UsageError(f"target {name}: {error}") from None
        compiled.kind, compiled.target, compiled.steady = TARGET, made.target, made.steady
        self._tracks |= made.tracks
        self._reroutes |= made.reroutes


def _text(family: int, saved: SavedRule) -> str:
    """The rule's text; of one with an address that is none, as good as it can be said."""
    try:
        return rule_text(family, saved)
    except (UsageError, ValueError):
        return str(saved.rule)
