"""The kernel's side of the comparison: one boot of the guest plays all scenarios that are given."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.differential.jobs import job
from tests.differential.result import Result, from_kernel
from tests.differential.scenario import Scenario
from tests.vm import guest, kernels
from tests.vm.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
START = 60.0
EACH = 1.0
"""Seconds that a boot may take: to begin with, and for each scenario."""


def play(scenarios: Sequence[Scenario], suite: str, keep: Path | None = None) -> dict[str, Result]:
    """What the kernel of a suite did in each scenario, by its name; a scenario that is missing was not reached.

    `keep` is a folder for what goes in and out. Raises LabError when the guest itself does not work.
    """
    kernel = kernels.fetch(kernels.SUITES[suite], kernels.cache_folder())
    with tempfile.TemporaryDirectory(prefix="ipvsctl-differential-") as scratch:
        share = keep or Path(scratch)
        share.mkdir(parents=True, exist_ok=True)
        for old in share.glob("results.*"):
            old.unlink()
        (share / "jobs.json").write_text(json.dumps([job(scenario) for scenario in scenarios]))
        longest = max((step.at for scenario in scenarios for step in scenario.steps), default=0.0)
        output: list[bytes] = []
        command = [sys.executable, "-m", "tests.differential.guest", "/share/jobs.json", "/share/results"]
        # What runs in the guest shall not be slower for finding only sources.
        limit = START + EACH * len(scenarios) + 3 * longest
        status = guest.run(kernel, guest.Job(command, ROOT, {}, limit, share), output.append)
        text = b"".join(output).decode(errors="replace").strip()
        if text:
            print(text, file=sys.stderr)
        if status:
            raise LabError(f"the guest's part of the comparison ended with status {status}")
        return results(share)


def results(share: Path) -> dict[str, Result]:
    """What lies in a folder that `play` kept."""
    found: dict[str, Result] = {}
    for file in sorted(share.glob("results.*")):
        for line in file.read_text().splitlines():
            data: dict[str, Any] = json.loads(line)
            found[data["name"]] = from_kernel(data)
    return found
