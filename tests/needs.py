"""What a test needs of its machine. Missing, it is skipped with the reason; under CI=true nothing may go unchecked."""

from __future__ import annotations

import os
import shutil

import pytest


def need(there: bool, reason: str) -> None:
    """End the test when something is not there."""
    if there:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need_root() -> None:
    need(os.geteuid() == 0, "needs root: network namespaces and their rules")


def need_program(name: str) -> None:
    need(shutil.which(name) is not None, f"needs the program {name}, which tests/run installs with root or sudo")
