"""The plan of `doctor --fix`: what findings say is safe to change, made as the commands they name would make it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.cli.rules import look, plan, with_helpers
from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.change import Change, LoadModule, ReplaceRules, SetSysctl
from ipvsctl.model.director import FirewallWish, Wanted
from ipvsctl.plan.difference import Plan

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.finding import Finding


def plan_of(host: Host, findings: Iterable[Finding]) -> Plan:
    """One plan of everything that the findings' mends ask for; raises what the host raises."""
    mends = [finding.mend for finding in findings if finding.mend]
    sysctls = dict(pair for mend in mends for pair in mend.sysctls)
    modules = tuple(dict.fromkeys(name for mend in mends for name in mend.modules))
    kinds = {mend.rules for mend in mends}
    plans = [plan(host, Wanted(modules=modules, sysctls=tuple(sysctls.items())))] if modules or sysctls else []
    if "firewall" in kinds:
        plans.append(_firewall(host))
    if "nfct" in kinds:
        from ipvsctl.cli.nfct_plan import enabled

        devices = sorted({device for mend in mends for device in mend.accept_local})
        plans.append(enabled(host, None, None, devices, insist=False))
    notes = tuple(dict.fromkeys(note for each in plans for note in each.notes))
    return Plan(tuple(_merged(each.changes for each in plans)), notes)


def _firewall(host: Host) -> Plan:
    """Our rules as the director that is there means them."""
    director, notes = with_helpers(look(host)[1])
    addresses = tuple(dict.fromkeys(filter(None, (wish.service.address.address for wish in director.services))))
    firewall = director.firewall or FirewallWish(protect=addresses, forward_policy="accept")
    return plan(host, replace(wanted(replace(director, firewall=firewall)), sysctls=()), notes)


def _merged(parts: Iterable[tuple[Change, ...]]) -> Iterator[Change]:
    """Modules, rules, sysctls, in that order as in any plan; what two parts ask for once, the later one's rules."""
    modules: dict[str, Change] = {}
    rules: dict[tuple[int, str, str], Change] = {}
    sysctls: dict[str, Change] = {}
    others: list[Change] = []
    for changes in parts:
        for change in changes:
            if isinstance(change, LoadModule):
                modules.setdefault(change.module, change)
            elif isinstance(change, ReplaceRules):
                rules[change.family, change.table, change.backend] = change
            elif isinstance(change, SetSysctl):
                sysctls.setdefault(change.name, change)
            else:
                others.append(change)
    yield from (*modules.values(), *rules.values(), *sysctls.values(), *others)
