"""Making a scenario that differs small: what can be left out while something still differs, is left out.

Delta debugging by whole boots, in pairs: one boot tries to leave out each group of parts for itself, the next one as
many of those that could go as can go together. Groups begin large and end as single parts: steps, rules, servers,
services and sysctls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ipvsctl.formats import iptables_save
from ipvsctl.formats.snapshot_file import RULES
from ipvsctl.model.change import AddServer, DeleteServer, EditServer
from tests.differential.scenario import Scenario

Differs = Callable[[Sequence[Scenario]], list[bool]]
"""Which of some scenarios still differ."""

Part = tuple[str, str, int]
"""Kind ("step", "rule", "server", "service", "sysctl"), name of what it belongs to, number in it."""

BOOTS = 16
AT_ONCE = 80


def shrink(scenario: Scenario, differs: Differs, boots: int = BOOTS) -> Scenario:
    """The smallest variant that was found, under the scenario's own name; itself when nothing can go."""
    gone: frozenset[Part] = frozenset()
    width = max(1, len(scenario.steps) // 6)

    def which(candidates: Sequence[frozenset[Part]]) -> list[frozenset[Part]]:
        variants = [replace(without(scenario, each), name=f"variant-{n}") for n, each in enumerate(candidates)]
        return [each for each, still in zip(candidates, differs(variants), strict=True) if still]

    while boots > 1:
        boots -= 2
        left = [part for part in parts(scenario) if part not in gone]
        groups = [gone | set(left[at : at + width]) for at in range(0, len(left), width)]
        # The end of the story first: what comes after the difference is most of what can go.
        useful = which(groups[::-1][:AT_ONCE])
        if useful:
            together = [useful[0]]
            for each in useful[1:]:
                together.append(together[-1] | each)
            gone = max([useful[0], *which(together[1:])], key=len)
        elif width == 1:
            break
        width = max(1, width // 2)
    return without(scenario, gone)


def size(scenario: Scenario) -> int:
    """How many parts a person has to read."""
    return len(parts(scenario))


def parts(scenario: Scenario) -> list[Part]:
    """Everything that may go, in the order of the file."""
    snapshot = scenario.snapshot
    found: list[Part] = [("sysctl", name, 0) for name in snapshot.sysctls]
    for program, text in scenario.rules.items():
        found += [("rule", program, number) for number, line in enumerate(text.splitlines()) if "-A " in line]
    for wish in snapshot.services:
        address = str(wish.service.address)
        found += [("server", address, number) for number in range(len(wish.servers))]
        found.append(("service", address, 0))
    return found + [("step", "", number) for number in range(len(scenario.steps))]


def without(scenario: Scenario, gone: Iterable[Part]) -> Scenario:
    """A scenario without some of its parts; a change of a server that has gone goes too, and a table without rules."""
    left_out = set(gone)
    snapshot = scenario.snapshot
    services = tuple(
        replace(wish, servers=tuple(
            server for number, server in enumerate(wish.servers)
            if ("server", str(wish.service.address), number) not in left_out
        ))
        for wish in snapshot.services if ("service", str(wish.service.address), 0) not in left_out
    )  # fmt: skip
    there = {(wish.service.address, server.address) for wish in services for server in wish.servers}
    steps = tuple(
        step
        for number, step in enumerate(scenario.steps)
        if ("step", "", number) not in left_out
        and (
            not isinstance(step.change, AddServer | EditServer | DeleteServer)
            or (step.change.service, step.change.server.address) in there
        )
    )
    rules = {program: _rules(program, text, left_out) for program, text in scenario.rules.items()}
    rules = {program: text for program, text in rules.items() if text}
    tables = tuple(table for program, text in rules.items() for table in iptables_save.parse(text, RULES[program]))
    sysctls = {name: value for name, value in snapshot.sysctls.items() if ("sysctl", name, 0) not in left_out}
    return replace(
        scenario, steps=steps, rules=rules,
        snapshot=replace(snapshot, services=services, sysctls=sysctls, tables=tables),
    )  # fmt: skip


def _rules(program: str, text: str, left_out: set[Part]) -> str:
    lines = [line for number, line in enumerate(text.splitlines()) if ("rule", program, number) not in left_out]
    # A table is told from its "*" line to its COMMIT; without a rule and a policy of its own it says nothing.
    kept: list[str] = []
    table: list[str] = []
    for line in lines:
        table.append(line)
        if line == "COMMIT":
            if any("-A " in each or " DROP " in each for each in table):
                kept += table
            table = []
    return "".join(f"{line}\n" for line in kept + table)
