"""The walk of a packet through a chain and those it jumps to: ipt_do_table and ip6t_do_table (ip_tables.c).

A rule is a tuple of tests and what to do when all of them hold. Protocol and exact destination address are not tested
packet by packet: each chain keeps, for each of both that occurs, the rules that are left to ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ipvsctl.datapath.verdict import Verdict
from ipvsctl.model.address import INET6

if TYPE_CHECKING:
    from ipvsctl.datapath.skb import Skb
    from ipvsctl.datapath.trace import Tracer
    from ipvsctl.model.snapshot import SavedRule

Test = Callable[["Skb"], bool]

DECIDE, TARGET, JUMP, GOTO, RETURN, COUNT = range(6)
"""What a rule does: a verdict, an extension's target, a chain, back to the caller, or nothing but counting."""

_HEADERS6 = frozenset((0, 43, 44, 51, 60))
"""Extension headers of IPv6, of which ipv6_find_hdr cannot say what follows in a later fragment."""


class Counter(Protocol):
    """What counts packets and the bytes of them, from the IP header on: a rule, or a policy."""

    packets: int
    bytes: int


class Continue(Enum):
    """What a target says that does not decide (XT_CONTINUE)."""

    CONTINUE = "go on with the next rule"


CONTINUE = Continue.CONTINUE
Outcome = Verdict | Continue
Target = Callable[["Skb"], Outcome]


class HotDrop(Exception):
    """A match cannot read what it must: the packet is dropped whatever the rules say (acpar.hotdrop)."""


class CompiledRule:
    """A rule ready to be asked. `packets` and `bytes` count what matched; a cached flow may add to them.

    `protocol` -1 for any, else the number that it must be, or with `only` false must not be; `destination` the one
    address it is for, b"" for others; `header` how many of the tests come before that of the protocol. `stable`:
    whether it matches depends on nothing but family, protocol, addresses, ports, devices, mark and what never changes
    of the conntrack entry and its state. `steady`: its target does the same to every packet of a flow.
    """

    __slots__ = (
        "bytes", "chain_name", "destination", "header", "kind", "next", "number", "only", "packets", "protocol",
        "saved", "stable", "steady", "table_name", "target", "tests", "text", "verdict",
    )  # fmt: skip

    def __init__(self, table_name: str, chain_name: str, number: int, saved: SavedRule, text: str) -> None:
        self.table_name, self.chain_name, self.number = table_name, chain_name, number
        self.saved, self.text = saved, text
        self.packets, self.bytes = saved.packets, saved.bytes
        self.tests: tuple[Test, ...] = ()
        self.protocol, self.only, self.destination = -1, True, b""
        self.header = 0
        self.stable = self.steady = True
        self.kind = COUNT
        self.verdict: Verdict = None
        self.target: Target = _nothing
        self.next: Chain | None = None

    @property
    def unconditional(self) -> bool:
        """Whether it matches every packet that its chain asks it about, without a test."""
        return not self.tests

    def fits(self, protocol: int, destination: bytes | None) -> bool:
        """Whether a packet may match; `destination` None for an address that no rule of the chain names alone."""
        if self.protocol >= 0 and (protocol == self.protocol) != self.only:
            return False
        return not self.destination or self.destination == destination

    def broken(self) -> CompiledRule:
        """The rule for packets whose protocol cannot be found: one that asks for it drops them."""
        other = CompiledRule(self.table_name, self.chain_name, self.number, self.saved, self.text)
        other.tests = (*self.tests[: self.header], _hot_drop)
        other.destination = self.destination
        return other


def _nothing(_skb: Skb) -> Outcome:
    return CONTINUE


def _hot_drop(_skb: Skb) -> bool:
    raise HotDrop


class Chain:
    """A chain. `verdict` what its policy says, when it is a built-in one; `packets` and `bytes` those of the policy."""

    __slots__ = ("bytes", "family", "index", "name", "other", "packets", "policy", "rules", "table_name", "verdict")

    def __init__(self, family: int, table_name: str, name: str, policy: str, verdict: Verdict) -> None:
        self.family, self.table_name, self.name, self.policy, self.verdict = family, table_name, name, policy, verdict
        self.packets = self.bytes = 0
        self.rules: tuple[CompiledRule, ...] = ()
        self.index: dict[bytes, dict[int, tuple[CompiledRule, ...]]] = {}
        self.other: dict[int, tuple[CompiledRule, ...]] = {}

    def fill(self, rules: Iterable[CompiledRule]) -> None:
        """Take its rules, once."""
        self.rules = tuple(rules)
        self.index = {rule.destination: {} for rule in self.rules if rule.destination}

    def select(self, skb: Skb) -> tuple[CompiledRule, ...]:
        """The rules that packets of this protocol to this destination may match; remembered."""
        protocol, destination = skb.protocol, skb.destination
        named = self.index.get(destination)
        lost = self.family == INET6 and bool(skb.fragment) and protocol in _HEADERS6
        found: list[CompiledRule] = []
        for rule in self.rules:
            if lost and rule.protocol >= 0:
                if not rule.destination or rule.destination == destination:
                    found.append(rule.broken())
            elif rule.fits(protocol, destination if named is not None else None):
                found.append(rule)
                if rule.kind == DECIDE and rule.unconditional:
                    break
        rules = tuple(found)
        (self.other if named is None else named)[protocol] = rules
        return rules


class Recorder(Protocol):
    """What a cache of flows wants to know of walks.

    `counters` gets the rules that matched and the chains whose policies decided, in order; `stable` becomes false when
    a rule was asked, or a target called, whose answer may be another one for the next packet of the flow.
    """

    counters: list[Counter]
    stable: bool


class Observer:
    """Tells a tracer and a recorder what happens in a walk."""

    __slots__ = ("_recorder", "_tracer")

    def __init__(self, tracer: Tracer | None, recorder: Recorder | None) -> None:
        self._tracer, self._recorder = tracer, recorder

    def watch(self, rules: tuple[CompiledRule, ...]) -> Iterator[CompiledRule]:
        """The rules, one by one as they are asked."""
        recorder = self._recorder
        for rule in rules:
            if recorder is not None and not rule.stable:
                recorder.stable = False
            yield rule

    def matched(self, rule: CompiledRule) -> None:
        """A rule has matched."""
        if self._recorder is not None:
            self._recorder.counters.append(rule)
            if not rule.steady:
                self._recorder.stable = False
        if self._tracer is not None and rule.kind != COUNT:
            self._tracer.rule(rule.table_name, rule.chain_name, rule.number, rule.text)

    def decided(self, chain: Chain) -> None:
        """A policy decides."""
        if self._recorder is not None:
            self._recorder.counters.append(chain)
        if self._tracer is not None:
            self._tracer.rule(chain.table_name, chain.name, 0, chain.policy)


def walk(base: Chain, skb: Skb, observer: Observer | None = None) -> Verdict:
    """Ask the rules of a built-in chain; raises HotDrop.

    RETURN at the end of what was jumped to goes on behind the jump; a chain that was gone to has no place to return to
    but its caller's. RETURN in a built-in chain is the policy.
    """
    stack: list[Iterator[CompiledRule]] = []
    chain: Chain | None = base
    while True:
        if chain is not None:
            rules = chain.index.get(skb.destination, chain.other).get(skb.protocol)
            if rules is None:
                rules = chain.select(skb)
            here = iter(rules) if observer is None else observer.watch(rules)
        elif stack:
            here = stack.pop()
        else:
            break
        chain = None
        for rule in here:
            for test in rule.tests:
                if not test(skb):
                    break
            else:
                rule.packets += 1
                rule.bytes += len(skb.data)
                if observer is not None:
                    observer.matched(rule)
                kind = rule.kind
                if kind == DECIDE:
                    return rule.verdict
                if kind == TARGET:
                    outcome = rule.target(skb)
                    if outcome is not CONTINUE:
                        return outcome
                elif kind == JUMP:
                    stack.append(here)
                    chain = rule.next
                    break
                elif kind == GOTO:
                    chain = rule.next
                    break
                elif kind == RETURN:
                    break
    base.packets += 1
    base.bytes += len(skb.data)
    if observer is not None:
        observer.decided(base)
    return base.verdict
