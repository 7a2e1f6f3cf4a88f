"""Broken director files through the command: status 2 and FILE:LINE, never a traceback."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.conftest import Cli
from tests.formats.broken import broken_files

COMMANDS = (["validate"], ["plan"], ["apply"], ["apply", "--confirm", "60s", "-j"], ["plan", "--check", "-q"])


def test_every_broken_file_is_status_2_with_its_line(cli: Cli) -> None:
    path = Path("broken.toml")
    count = 0
    for count, (name, content, line) in enumerate(broken_files(), 1):
        path.write_bytes(content)
        result = cli(*COMMANDS[count % len(COMMANDS)], str(path), status=2)
        first, *more = result.err.splitlines()
        match = re.match(r"broken\.toml:(\d+): .", first)
        assert match, (name, first)
        assert line is None or int(match[1]) == line, (name, first)
        assert all(each.startswith("broken.toml:") for each in more), (name, more)
        assert result.out == ""
    assert count >= 200
    # None of them was taken for a plan, and none reached a host.
    assert cli("emulate", "list", "-j").json == {"emulators": []}


def test_some_of_them_as_processes_and_from_standard_input(cli: Cli) -> None:
    path = Path("broken.toml")
    for name, content, line in list(broken_files())[::60]:
        path.write_bytes(content)
        done = cli.process("apply", str(path))
        assert (done.returncode, done.stdout) == (2, ""), name
        assert done.stderr.startswith("broken.toml:" if line is None else f"broken.toml:{line}: "), name
        with path.open() as file:
            done = cli.process("validate", "-", stdin=file)
        assert done.returncode == 2
        assert done.stderr.startswith("<stdin>:"), name
