"""Corpus and generated scenarios on the datapath and on a real kernel: everything in one boot.

What differs is played once more, in a boot of its own: a guest that stalls for a moment mixes up the timers of a
scenario, and does not stall at the same place twice; what the datapath does wrong differs every time.

IPVSCTL_DIFFERENTIAL_COUNT (300) generated scenarios of IPVSCTL_DIFFERENTIAL_SEED (2003), on the kernel of
IPVSCTL_DIFFERENTIAL_SUITE (bookworm).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipvsctl.errors import UsageError
from tests.differential import kernel, show
from tests.differential.compare import Difference
from tests.differential.generate import generate
from tests.differential.judge import judge
from tests.differential.known import KNOWN, stale, unknown
from tests.differential.result import Result
from tests.differential.scenario import Scenario, read

pytestmark = [pytest.mark.differential, pytest.mark.timeout(3000)]

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.toml"))
COUNT = int(os.environ.get("IPVSCTL_DIFFERENTIAL_COUNT", "300"))
SEED = int(os.environ.get("IPVSCTL_DIFFERENTIAL_SEED", "2003"))
SUITE = os.environ.get("IPVSCTL_DIFFERENTIAL_SUITE", "bookworm")
CHUNK = 25
PACKETS_EACH = 33
"""Packets that generated scenarios must have on average, so that 300 of them are 10,000."""


class Played:
    """Every scenario with what differs in it."""

    def __init__(self, scenarios: list[Scenario], results: dict[str, Result], broken: dict[str, str]) -> None:
        self.broken = broken
        self.scenarios = {scenario.name: scenario for scenario in scenarios}
        self.results = results
        self._found: dict[str, list[Difference]] = {}

    def differences(self, name: str) -> list[Difference]:
        if name not in self._found:
            self._found[name] = judge(self.scenarios[name], self.results.get(name))
        return self._found[name]

    def differing(self) -> list[Scenario]:
        """The scenarios in which something differs that is not known to."""
        return [scenario for name, scenario in self.scenarios.items() if unknown(self.differences(name))]

    def replaced(self, results: dict[str, Result]) -> None:
        """Take what the kernel did the second time."""
        for name, result in results.items():
            self.results[name] = result
            self._found.pop(name, None)

    def check(self, names: list[str]) -> None:
        """Fails with what differs in any of the scenarios."""
        lines: list[str] = []
        for name in names:
            if name in self.broken:
                lines.append(self.broken[name])
                continue
            found = unknown(self.differences(name))
            if found:
                lines += show.differences(self.scenarios[name], found)
        assert not lines, "\n".join(["the datapath and the kernel differ", *lines])


def generated_name(number: int) -> str:
    return f"generated-{SEED}-{number}"


@pytest.fixture(scope="module")
def played() -> Played:
    scenarios: list[Scenario] = []
    broken: dict[str, str] = {}
    for path in CORPUS:
        try:
            scenarios.append(read(path))
        except UsageError as error:
            # One file that cannot be read is one failure; the boot is for the others.
            broken[path.stem] = str(error)
    scenarios += [generate(SEED, number) for number in range(COUNT)]
    found = Played(scenarios, kernel.play(scenarios, SUITE), broken)
    if again := found.differing():
        print(f"played a second time: {' '.join(scenario.name for scenario in again)}")
        found.replaced(kernel.play(again, SUITE))
    return found


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(played: Played, path: Path) -> None:
    played.check([path.stem])


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_generated(played: Played, first: int) -> None:
    played.check([generated_name(number) for number in range(first, min(first + CHUNK, COUNT))])


def test_enough_packets_were_compared(played: Played) -> None:
    packets = sum(scenario.packets for scenario in played.scenarios.values() if scenario.name in played.results)
    assert packets >= COUNT * PACKETS_EACH


def test_known_differences_still_differ(played: Played) -> None:
    everything = [difference for name in played.scenarios for difference in played.differences(name)]
    assert stale(everything, played.scenarios, KNOWN) == []
