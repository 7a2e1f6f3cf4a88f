"""The tables of iptables-legacy: loading, walking in their hooks, and their counters (iptable_*.c, ip6table_*.c).

A table is there from when it is loaded, rules or not, and has its hooks from then on. Connection tracking is on while a
rule asks for it (nf_ct_netns_get in its extensions' checkentry); a nat table without rules does not: iptable_nat.c and
nf_nat_core.c register hooks for translation only, which do nothing for packets without an entry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import LOCAL_OUT
from ipvsctl.datapath.nf.compile import Table, compile_table
from ipvsctl.datapath.nf.walk import Chain, HotDrop, Observer, Recorder, walk
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.formats.iptables_save import BUILT_IN
from ipvsctl.model.address import INET
from ipvsctl.model.snapshot import SavedChain, SavedTable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb


class Tables:
    """The tables of both families.

    `recorder`: told of every walk while it is set; for a cache of flows.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.recorder: Recorder | None = None
        self._tables: dict[tuple[int, str], Table] = {}

    # -- loading ------------------------------------------------------------------------------------------------------

    def load(self, saved: SavedTable) -> None:
        """Put a table in the place of the one of its name (IPT_SO_SET_REPLACE).

        Raises UsageError that names the rule and what of it cannot be evaluated; the old table then stays.
        """
        table = compile_table(self.engine, saved)
        key = saved.family, saved.name
        old = self._tables.get(key)
        self._tables[key] = table
        # The new rules' need comes before the old ones' goes: conntrack is not off in between.
        if table.tracks:
            self.engine.ct.use(saved.family)
        if old is not None and old.tracks:
            self.engine.ct.unuse(saved.family)
        self.engine.rebuild()

    def unload(self, family: int, name: str) -> None:
        """Take a table away, with its hooks; KeyError when it is not there."""
        old = self._tables.pop((family, name))
        if old.tracks:
            self.engine.ct.unuse(family)
        self.engine.rebuild()

    def loaded(self, family: int) -> frozenset[str]:
        """The names of the tables that are there."""
        return frozenset(name for known, name in self._tables if known == family)

    def table(self, family: int, name: str) -> Table:
        """A table that is there; KeyError otherwise."""
        return self._tables[family, name]

    def saved(self) -> tuple[SavedTable, ...]:
        """The tables with what was counted, in the order in which iptables-save prints them: last loaded first."""
        self.engine.flows.settle()
        return tuple(_saved(table) for table in reversed(self._tables.values()))

    def zero(self) -> None:
        """Set all counters to zero."""
        self.engine.flows.settle()
        for table in self._tables.values():
            for chain in table.chains.values():
                chain.packets = chain.bytes = 0
                for rule in chain.rules:
                    rule.packets = rule.bytes = 0

    # -- walking ------------------------------------------------------------------------------------------------------

    def run(self, table: Table, skb: Skb) -> Verdict:
        """What a table's chain for `skb.hook` says of a packet."""
        chain = table.hooks[skb.hook]
        if chain is None:
            return None
        observer = None
        if self.engine.tracer is not None or self.recorder is not None:
            observer = Observer(self.engine.tracer, self.recorder)
        elif not chain.rules:
            chain.packets += 1
            chain.bytes += len(skb.data)
            return chain.verdict
        if table.reroutes and skb.hook == LOCAL_OUT and table.name == "mangle":
            return self._mangle_out(chain, skb, observer)
        try:
            return walk(chain, skb, observer)
        except HotDrop:
            return Reason.RULE_TRUNCATED

    def nat(self, skb: Skb) -> Verdict:
        """What the nat table's chain for `skb.hook` says of the first packet of a connection; nothing without it."""
        table = self._tables.get((skb.family, "nat"))
        return None if table is None else self.run(table, skb)

    def _mangle_out(self, chain: Chain, skb: Skb, observer: Observer | None) -> Verdict:
        """A packet of the host's own whose mark, addresses or class were changed gets another route.

        ipt_mangle_out, ip6t_mangle_out; for IPv6 a change of hop limit or flow label does it too.
        """
        before = _routed(skb)
        try:
            verdict = walk(chain, skb, observer)
        except HotDrop:
            return Reason.RULE_TRUNCATED
        if verdict is None and _routed(skb) != before and not self.engine.ip.route_me_harder(skb, False):
            return Reason.NO_ROUTE
        return verdict


def _routed(skb: Skb) -> tuple[bytes, bytes, int, bytes]:
    data = skb.data
    other = bytes(data[1:2]) if skb.family == INET else bytes(data[:4]) + bytes(data[7:8])
    return skb.source, skb.destination, skb.mark, other


def _saved(table: Table) -> SavedTable:
    chains = [table.chains[name] for name in BUILT_IN[table.name]]
    chains += [chain for name, chain in table.chains.items() if name not in BUILT_IN[table.name]]
    return SavedTable(
        table.family,
        table.name,
        tuple(
            SavedChain(
                chain.name,
                chain.policy,
                tuple(replace(rule.saved, packets=rule.packets, bytes=rule.bytes) for rule in chain.rules),
                chain.packets,
                chain.bytes,
            )
            for chain in chains
        ),
    )
