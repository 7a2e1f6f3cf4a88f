"""The firewall port of an emulated director: our own chains in the tables of three back ends.

What iptables, nft and the kernel refuse is refused: chains, hooks, matches, options and targets that are not there, a
port without its protocol, a helper without its module. Loading follows: a rule brings its table's module and those of
its extensions, and with them connection tracking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ipvsctl.emulator.modules import request
from ipvsctl.emulator.state import State
from ipvsctl.errors import Refused, UsageError
from ipvsctl.formats import nft_table
from ipvsctl.formats.iptables_canonical import canonical
from ipvsctl.formats.own_chains import check, check_hooks, hook_of, order
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.director import BACKENDS
from ipvsctl.model.rule import Match, Options, OwnChain, Rule

LEGACY, IPTABLES_NFT, NFT = "iptables-legacy", "iptables-nft", "nft"

_TABLES_OF = {LEGACY: (), IPTABLES_NFT: ("nf_tables", "nft_compat"), NFT: ("nf_tables",)}
_NFT_MODULES = {
    "xt_conntrack": "nft_ct", "xt_state": "nft_ct", "xt_helper": "nft_ct", "xt_connmark": "nft_ct", "xt_CT": "nft_ct",
}  # fmt: skip


class _Extension(NamedTuple):
    """A match or target: its module, its options, the protocols it needs (any of them), the tables it is for."""

    module: str
    options: frozenset[str] = frozenset()
    protocols: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


def _extension(module: str, options: str = "", protocols: str = "", tables: str = "") -> _Extension:
    names = options.split()
    both = frozenset([*names, *(f"!{name}" for name in names)])
    return _Extension(module, both, tuple(protocols.split()), tuple(tables.split()))


_MATCHES = {
    "tcp": _extension("xt_tcpudp", "sport dport tcp-flags syn tcp-option", "tcp 6"),
    "udp": _extension("xt_tcpudp", "sport dport", "udp 17"),
    "sctp": _extension("xt_sctp", "sport dport chunk-types", "sctp 132"),
    "multiport": _extension("xt_multiport", "sports dports ports", "tcp udp udplite dccp sctp 6 17 33 132 136"),
    "conntrack": _extension(
        "xt_conntrack",
        "ctstate ctproto ctorigsrc ctorigdst ctreplsrc ctrepldst ctorigsrcport ctorigdstport ctstatus ctexpire ctdir",
    ),
    "state": _extension("xt_state", "state"),
    "helper": _extension("xt_helper", "helper"),
    "comment": _extension("xt_comment", "comment"),
    "mark": _extension("xt_mark", "mark"),
    "connmark": _extension("xt_connmark", "mark"),
    "addrtype": _extension("xt_addrtype", "src-type dst-type limit-iface-in limit-iface-out"),
    "ipvs": _extension("xt_ipvs", "ipvs vproto vaddr vport vdir vmethod vportctl"),
    "limit": _extension("xt_limit", "limit limit-burst"),
    "iprange": _extension("xt_iprange", "src-range dst-range"),
}
_TARGETS = {
    "CT": _extension("xt_CT", "helper notrack zone ctevents expevents timeout", tables="raw"),
    "NOTRACK": _extension("xt_CT", tables="raw"),
    "LOG": _extension("xt_LOG", "log-prefix log-level log-uid log-tcp-sequence log-tcp-options log-ip-options"),
    "MARK": _extension("xt_mark", "set-xmark"),
    "CONNMARK": _extension("xt_connmark", "set-xmark save-mark restore-mark nfmask ctmask mask"),
    "REJECT": _extension("REJECT", "reject-with", tables="filter"),
}
_VERDICTS = ("ACCEPT", "DROP", "RETURN")
_HELPERS = {
    "amanda": "udp", "ftp": "tcp", "irc": "tcp", "pptp": "tcp", "sane": "tcp", "sip": "tcp udp", "snmp": "udp",
    "tftp": "udp",
}  # fmt: skip


class EmulatedFirewall:
    """The firewall port of an emulated director."""

    def __init__(self, state: State) -> None:
        self._state = state

    def backend(self, wanted: str = "auto") -> str:
        """Where our chains are, else iptables-legacy; every named one is there."""
        if wanted not in BACKENDS:
            raise UsageError(f"firewall back end {wanted!r} is unknown, expected {', '.join(BACKENDS)}")
        return wanted if wanted != "auto" else next(iter(self.owners()), LEGACY)

    def owners(self) -> tuple[str, ...]:
        holding = {backend for (backend, _, _), chains in self._state.chains.items() if chains}
        return tuple(backend for backend in BACKENDS if backend in holding)

    def chains(self, backend: str = "auto") -> tuple[OwnChain, ...]:
        name = self.backend(backend)
        return order(chain for key, chains in self._state.chains.items() if key[0] == name for chain in chains)

    def tables(self, backend: str = "auto") -> frozenset[tuple[int, str]]:
        name = self.backend(backend)
        return frozenset((family, table) for known, family, table in self._state.chains if known == name)

    def notes(self) -> tuple[str, ...]:
        return ()

    def replace(self, change: ReplaceRules) -> None:
        backend = self.backend(change.backend)
        key = (backend, change.family, change.table)
        if not change.after:
            if change.drops or backend == NFT:
                self._state.chains.pop(key, None)
                if backend == LEGACY:
                    # A table goes with its module; there is no other namespace here that could have it.
                    self._state.modules.discard(_table_module(change))
            elif key in self._state.chains:
                self._state.chains[key] = ()
            return
        try:
            after = _read_back(backend, change)
            modules = [*_TABLES_OF[backend], *_modules(backend, change)]
        except Refused as error:
            raise Refused(f"cannot {change}: {error}") from None
        for module in modules:
            if not request(self._state, module):
                raise Refused(f"cannot {change}: module {module} is not there")
        self._state.chains[key] = after


def _read_back(backend: str, change: ReplaceRules) -> tuple[OwnChain, ...]:
    """The chains as the table will have them: of one without a jump only the name tells the hook. Raises Refused."""
    check(change)
    if change.family not in (INET, INET6):
        raise Refused(f"there is no table {change.table!r}")
    check_hooks(change.after, change.table)
    if backend == NFT:
        found = nft_table.compiled(change.family, change.table, change.after)
    else:
        found = tuple(replace(c, rules=tuple(canonical(c.family, rule) for rule in c.rules)) for c in change.after)
    return tuple(
        chain if chain.jump else replace(chain, hook=hook_of(change.table, chain.name), place="") for chain in found
    )


def _table_module(change: ReplaceRules) -> str:
    return f"ip{'6' if change.family == INET6 else ''}table_{change.table}"


def _modules(backend: str, change: ReplaceRules) -> Iterator[str]:
    """Check the rules of a change, and name the modules that they load; raises Refused."""
    if backend == LEGACY:
        yield _table_module(change)
    for chain in change.after:
        if chain.jump and backend != NFT:
            yield "xt_comment"
        for rule in chain.rules:
            try:
                found = list(_rule_modules(change, canonical(change.family, rule)))
            except Refused as error:
                raise Refused(f"rule {rule}: {error}") from None
            # nftables' own expressions load modules of their own names; only connection tracking's is told of.
            yield from found if backend != NFT else (
                name if name.startswith("nf_conntrack_") else _NFT_MODULES.get(name, "nf_tables") for name in found
            )


def _rule_modules(change: ReplaceRules, rule: Rule) -> Iterator[str]:
    for match in rule.matches:
        yield from _match_modules(rule, match)
    if rule.target in ("", *_VERDICTS) or any(rule.target == chain.name for chain in change.after):
        return
    target = _TARGETS.get(rule.target)
    if target is None:
        raise Refused(f"there is no target {rule.target}")
    if target.tables and change.table not in target.tables:
        raise Refused(f"target {rule.target} is for table {' '.join(target.tables)}")
    _check_options(rule.target, rule.target_options, target)
    if rule.target == "REJECT":
        yield "ip6t_REJECT" if change.family == INET6 else "ipt_REJECT"
        return
    yield target.module
    helper = dict(rule.target_options).get("helper")
    if helper is not None:
        if rule.protocol not in _HELPERS.get(helper, "").split():
            raise Refused(f"there is no helper {helper!r} for protocol {rule.protocol or 'any'}")
        yield f"nf_conntrack_{helper}"


def _match_modules(rule: Rule, match: Match) -> Iterator[str]:
    known = _MATCHES.get(match.name)
    if known is None:
        raise Refused(f"there is no match {match.name}")
    if known.protocols and rule.protocol not in known.protocols:
        raise Refused(f"match {match.name} needs -p {known.protocols[0]}")
    _check_options(match.name, match.options, known)
    yield known.module


def _check_options(name: str, options: Options, known: _Extension) -> None:
    for option, _ in options:
        if option not in known.options:
            raise Refused(f"{name} has no option --{option}")
