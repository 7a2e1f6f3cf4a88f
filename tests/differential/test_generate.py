"""Generated scenarios can be made again, written and read back; shrinking finds the step that matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.differential import emulated
from tests.differential.generate import generate
from tests.differential.generate_state import SCHEDULERS
from tests.differential.jobs import job
from tests.differential.judge import judge
from tests.differential.scenario import Scenario, parse, render
from tests.differential.shrink import shrink, size

SEED = 5


@pytest.fixture(scope="module")
def some() -> list[Scenario]:
    return [generate(SEED, number) for number in range(40)]


def test_a_seed_and_a_number_name_a_scenario(some: list[Scenario]) -> None:
    assert generate(SEED, 3) == some[3]
    assert generate(SEED + 1, 3) != some[3]


def test_generated_scenarios_are_written_and_read_back(some: list[Scenario]) -> None:
    for scenario in some:
        again = parse(render(scenario), "again", scenario.name)
        assert again.snapshot == scenario.snapshot
        assert again.steps == scenario.steps
        assert job(scenario)["steps"]


def test_a_scenario_plays_as_it_was_generated(some: list[Scenario]) -> None:
    for scenario in some[:10]:
        result = emulated.play(scenario)
        assert not result.error
        assert judge(scenario, result) == []


def test_generated_scenarios_are_of_many_kinds_and_mostly_forward(some: list[Scenario]) -> None:
    services = [wish.service for scenario in some for wish in scenario.snapshot.services]
    servers = [s for scenario in some for wish in scenario.snapshot.services for s in wish.servers]
    assert {service.address.protocol for service in services} == {"tcp", "udp", "sctp", "fwmark"}
    assert {service.scheduler for service in services} == set(SCHEDULERS)
    assert {server.forward for server in servers} == {"nat", "dr", "tun"}
    kinds = Counter(step.do for scenario in some for step in scenario.steps)
    assert set(kinds) == {"in", "send", "change", "sysctl"}
    went_in = sum(scenario.packets for scenario in some)
    came_out = sum(len(step) for scenario in some for step in emulated.play(scenario).steps)
    assert went_in / len(some) > 33
    assert came_out > went_in * 0.6


def test_shrinking_keeps_what_differs(some: list[Scenario]) -> None:
    scenario = max(some, key=size)
    wanted = scenario.steps[len(scenario.steps) // 2]

    def differs(variants: Sequence[Scenario]) -> list[bool]:
        return [any(step.packets == wanted.packets for step in variant.steps) for variant in variants]

    small = shrink(scenario, differs, boots=60)
    assert [step.packets for step in small.steps] == [wanted.packets]
    assert small.rules == {}
    assert small.name == scenario.name
    assert size(small) < size(scenario) / 4
