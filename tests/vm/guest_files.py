"""Which test files the guest has to read: `python -m tests.vm.guest_files OUTPUT [PYTEST ARGUMENTS]`.

Python in the guest is some twenty times slower than outside, and pytest imports every file it is shown before it
deselects anything. So the files with a selected test are found out here, and the guest is shown no others. OUTPUT gets
one path a line; if the collection itself fails there is no OUTPUT, and the guest's own run will tell why.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


class Files:
    """A pytest plugin that remembers where the selected tests are."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Called once, after -m and -k have done their work."""
        self.found = sorted({str(item.path) for item in session.items})


def main(arguments: Sequence[str]) -> int:
    """Collect, and write the list."""
    output, *extra = arguments
    files = Files()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        status = pytest.main(["--collect-only", "-p", "no:cacheprovider", "-m", "guest", *extra], plugins=[files])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(status)
    Path(output).write_text("".join(f"{path}\n" for path in files.found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
