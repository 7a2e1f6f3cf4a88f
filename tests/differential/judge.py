"""The whole comparison of a scenario: the datapath plays it twice, with and without its short way for open connections.

Both must be as the kernel; what only one of them does wrong is marked so.
"""

from __future__ import annotations

from dataclasses import replace

from tests.differential import emulated
from tests.differential.compare import Difference, compare
from tests.differential.result import Result
from tests.differential.scenario import Scenario


def judge(scenario: Scenario, kernel: Result | None) -> list[Difference]:
    """Everything that differs, known or not."""
    times = kernel.times if kernel and not kernel.error else ()
    found = compare(scenario, kernel, emulated.play(scenario, times))
    if kernel is None or kernel.error:
        return found
    slow = compare(scenario, kernel, emulated.play(scenario, times, flows=False))
    return [
        *(each if each in slow else _noted(each, "on the short way only") for each in found),
        *(_noted(each, "on the long way only") for each in slow if each not in found),
    ]


def _noted(difference: Difference, words: str) -> Difference:
    return replace(difference, note=f"{difference.note} {words}".strip())
