"""Making a scenario that differs small: what can be left out while something still differs, is left out.

Delta debugging by whole boots: every boot tries many variants at once, and the smallest one that still differs is the
next to start from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ipvsctl.formats import iptables_save
from ipvsctl.formats.snapshot_file import RULES
from ipvsctl.model.change import AddServer, DeleteServer, EditServer
from ipvsctl.model.director import ServiceWish
from tests.differential.scenario import Scenario

Differs = Callable[[Sequence[Scenario]], list[bool]]
"""Which of some scenarios still differ."""

BOOTS = 12
AT_ONCE = 60


def shrink(scenario: Scenario, differs: Differs, boots: int = BOOTS) -> Scenario:
    """The smallest variant that was found, under the scenario's own name; itself when nothing can go."""
    best = scenario
    width = max(1, len(scenario.steps) // 2)
    for _ in range(boots):
        variants = [replace(each, name=f"variant-{n}") for n, each in enumerate(_variants(best, width))][:AT_ONCE]
        if not variants:
            break
        hits = [each for each, still in zip(variants, differs(variants), strict=True) if still]
        if hits:
            best = replace(min(hits, key=size), name=scenario.name)
            width = max(1, min(width, len(best.steps) // 2))
        elif width > 1:
            width //= 2
        else:
            break
    return best


def size(scenario: Scenario) -> int:
    """How much a person has to read."""
    rules = sum(text.count("-A ") for text in scenario.rules.values())
    servers = sum(1 + len(wish.servers) for wish in scenario.snapshot.services)
    return 4 * len(scenario.steps) + 3 * rules + 3 * servers + len(scenario.snapshot.sysctls)


def _variants(scenario: Scenario, width: int) -> Iterator[Scenario]:
    """What is left when a part is taken away: steps first, most at once first."""
    steps = scenario.steps
    if len(steps) > 1:
        yield replace(scenario, steps=steps[: len(steps) // 2])
        yield replace(scenario, steps=steps[:-1])
    for start in range(0, len(steps), width):
        yield replace(scenario, steps=steps[:start] + steps[start + width :])
    yield from _without_rules(scenario)
    snapshot = scenario.snapshot
    for index, wish in enumerate(snapshot.services):
        others = snapshot.services[:index] + snapshot.services[index + 1 :]
        if others:
            yield _of_services(scenario, others)
        for number in range(len(wish.servers)):
            fewer = replace(wish, servers=wish.servers[:number] + wish.servers[number + 1 :])
            yield _of_services(scenario, (*snapshot.services[:index], fewer, *snapshot.services[index + 1 :]))
    for name in snapshot.sysctls:
        sysctls = {key: value for key, value in snapshot.sysctls.items() if key != name}
        yield replace(scenario, snapshot=replace(snapshot, sysctls=sysctls))


def _of_services(scenario: Scenario, services: tuple[ServiceWish, ...]) -> Scenario:
    """Other services, and only such changes as are about them."""
    there = {(wish.service.address, server.address) for wish in services for server in wish.servers}
    kept = tuple(
        step
        for step in scenario.steps
        if not isinstance(step.change, AddServer | EditServer | DeleteServer)
        or (step.change.service, step.change.server.address) in there
    )
    return replace(scenario, snapshot=replace(scenario.snapshot, services=services), steps=kept)


def _without_rules(scenario: Scenario) -> Iterator[Scenario]:
    for program, text in scenario.rules.items():
        yield _with(scenario, program, "")
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if "-A " in line:
                yield _with(scenario, program, "\n".join(lines[:number] + lines[number + 1 :]) + "\n")


def _with(scenario: Scenario, program: str, text: str) -> Scenario:
    rules = {name: each for name, each in scenario.rules.items() if name != program}
    if text:
        rules[program] = text
    tables = tuple(table for name, each in rules.items() for table in iptables_save.parse(each, RULES[name]))
    return replace(scenario, rules=rules, snapshot=replace(scenario.snapshot, tables=tables))
