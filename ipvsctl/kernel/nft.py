"""The back end "nft": our chains in tables of our own, `ip ipvsctl` and `ip6 ipvsctl`, through nft's JSON.

A change is one transaction; the kernel takes all of it or nothing. Then the table is listed again and compared. Rules
that stay keep their handles and counters. The table goes with the last of our chains; what was before is there again.
"""

from __future__ import annotations

import json

from ipvsctl.errors import IpvsctlError, Refused
from ipvsctl.formats.nft_table import FAMILIES, TABLE, Command, Listing, compiled, own_chains, parse, transaction
from ipvsctl.formats.own_chains import check, differ, order, told
from ipvsctl.kernel import rule_tools
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.rule import OwnChain

NFT = "nft"

_TRIES = 5


class Nft:
    """Our chains in nftables' tables of the namespace that the process is in."""

    def check(self) -> None:
        """Raises Unavailable with what is missing."""
        rule_tools.need("nft", "nftables", "nft")

    def chains(self) -> tuple[OwnChain, ...]:
        """Our chains, sorted by family, table and name."""
        return order(chain for family in FAMILIES for chain in own_chains(_list(family)))

    def tables(self) -> frozenset[tuple[int, str]]:
        """The tables of iptables that we have a chain for; in nftables one comes and goes with its chains."""
        return frozenset((chain.family, chain.table) for chain in self.chains())

    def replace(self, change: ReplaceRules) -> None:
        """Make our chains of one table exactly `after`, and see that they are; see FirewallPort."""
        what = f"cannot {change}"
        try:
            check(change)
            wanted = compiled(change.family, change.table, change.after)
            before = _own(change.family, change.table)
            for _ in range(_TRIES):
                listing = _list(change.family)
                commands = transaction(listing, change.table, wanted)
                if not commands:
                    return
                try:
                    _commit(commands)
                except Refused as error:
                    # A rule that another program took away meanwhile is not there to be found.
                    if _list(change.family) == listing:
                        raise Refused(f"{error}{_hint(change)}") from None
                    continue
                found = _own(change.family, change.table)
                if told(found) == told(wanted):
                    return
            _commit(transaction(_list(change.family), change.table, before))
            raise Refused(f"nftables has other rules than those committed ({differ(wanted, found)})")
        except IpvsctlError as error:
            raise type(error)(f"{what}: {error}") from None


def _list(family: int) -> Listing:
    if f"{FAMILIES[family]} {TABLE}" not in rule_tools.nftables():
        return Listing(family)
    return parse(family, rule_tools.run("nft", "-j", "list", "table", FAMILIES[family], TABLE))


def _own(family: int, table: str) -> tuple[OwnChain, ...]:
    return tuple(chain for chain in own_chains(_list(family)) if chain.table == table)


def _commit(commands: list[Command]) -> None:
    if commands:
        document = {"nftables": [{"metainfo": {"json_schema_version": 1}}, *commands]}
        rule_tools.run("nft", "-j", "-f", "-", text=json.dumps(document))


def _hint(change: ReplaceRules) -> str:
    rules = (rule for chain in change.after for rule in chain.rules)
    helpers = {value for rule in rules for option, value in rule.target_options if option == "helper"}
    return f": is the conntrack helper {', '.join(sorted(helpers))} there?" if helpers else ""
