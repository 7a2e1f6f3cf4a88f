"""Adds up what the test runs of one tests/run reported, and judges the whole.

`python -m tests.vm.tally [--narrowed] NAME=STATUS=REPORT ...`: one word for each run, with its exit status and its
JUnit file. The last line printed is `N passed, N failed, N skipped`; the exit status is 0 only if nothing failed and
every run executed at least one test - a tier that silently runs nothing must not look like success. Who narrowed the
selection (-k) meant to leave tests out: then one test in all is enough.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# pytest's own exit statuses: all passed, some failed, nothing selected. Anything else is a run that broke.
NOTHING_SELECTED = 5
EXPLAINED = (0, 1, NOTHING_SELECTED)


@dataclass(frozen=True, slots=True)
class Count:
    """How many tests ended which way."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def ran(self) -> int:
        """How many tests were executed to their end."""
        return self.passed + self.failed

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def count(report: str) -> Count:
    """The counts in a JUnit document, test by test: its summary line counts an error in a fixture as a second test."""
    total = Count()
    for case in ET.fromstring(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            total += Count(failed=1)
        elif "skipped" in kinds:
            total += Count(skipped=1)
        else:
            total += Count(passed=1)
    return total


def judge(status: int, report: str | None, may_be_empty: bool = False) -> tuple[Count, str]:
    """A run's counts, and what is wrong with the run itself, if anything is: that counts as one more failure."""
    try:
        counted = count(report) if report is not None else Count()
    except ET.ParseError:
        report, counted = None, Count()
    complaint = ""
    if report is None and status != NOTHING_SELECTED:
        complaint = f"left no report (exit status {status})"
    elif status not in EXPLAINED:
        complaint = f"ended with status {status}"
    elif not counted.ran:
        complaint = "" if may_be_empty else "ran no test"
    elif status and not counted.failed:
        complaint = f"ended with status {status} without a failed test"
    return (counted + Count(failed=1), complaint) if complaint else (counted, "")


def main(arguments: Sequence[str]) -> int:
    """Print each run's counts and the sum."""
    narrowed = "--narrowed" in arguments
    total = Count()
    for argument in arguments:
        if argument == "--narrowed":
            continue
        name, status, path = argument.split("=", 2)
        report = Path(path)
        counted, complaint = judge(int(status), report.read_text() if report.is_file() else None, narrowed)
        print(f"{name}: {counted}" + (f" - the run {complaint}" if complaint else ""))
        total += counted
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 0 if total.ran and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
