"""What a command imports is what it costs to start: which modules are not there on the paths that are taken often.

No clock: a module that is not imported costs nothing on any machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DUMP = """
import os, sys
from ipvsctl.cli.main import main
status = main({words!r})
open({out!r}, "w").write("\\n".join(sorted(sys.modules)))
sys.exit(status)
"""

HEAVY = {"rich", "pyroute2", "iptc", "rtoml", "asyncio", "subprocess", "logging", "tempfile", "concurrent", "tomllib"}
"""No command that only looks at something needs these."""

HOST = {"ipvsctl.model", "ipvsctl.host", "ipvsctl.pick", "ipvsctl.kernel", "ipvsctl.emulator", "socket"}
THOUGHT = {"ipvsctl.plan", "ipvsctl.journal", "ipvsctl.knowledge", "ipvsctl.formats.changes", "ipvsctl.model.change",
           "ipvsctl.formats.director_file"}  # fmt: skip
LIGHT = {*HEAVY, *HOST, *THOUGHT, "json", "ipvsctl.formats", "ipvsctl.cli.run", "ipvsctl.cli.output"}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(run))
    monkeypatch.delenv("IPVSCTL_HOST", raising=False)
    yield tmp_path
    from ipvsctl.emulator.client import running, stop

    for each in running():
        stop(each["name"])


def imported(directory: Path, *words: str, status: int = 0, **variables: str) -> set[str]:
    """The modules that are there when a command line has run, by every prefix of their names."""
    out = directory / "modules"
    code = DUMP.format(words=words, out=str(out))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done
    names = out.read_text().split("\n")
    return {name[:end] for name in names for end in [*(i for i, c in enumerate(name) if c == "."), len(name)]}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list", "--help"], ["service", "--help"]])
def test_help_and_version_touch_nothing(directory: Path, words: list[str]) -> None:
    assert not imported(directory, *words) & LIGHT


@pytest.mark.parametrize("line", ["ipvsctl li", "ipvsctl list --st", "ipvsctl service ", "ipvsctl server add --fo"])
def test_completion_of_words_touches_nothing(directory: Path, line: str) -> None:
    found = imported(directory, _IPVSCTL_COMPLETE="bash_complete", COMP_WORDS=line)
    assert "click.shell_completion" in found
    assert not found & LIGHT


def test_completion_of_a_command_imports_no_command(directory: Path) -> None:
    found = imported(directory, _IPVSCTL_COMPLETE="bash_complete", COMP_WORDS="ipvsctl li")
    assert not {name for name in found if name.startswith("ipvsctl.cli.")} - {
        "ipvsctl.cli.main", "ipvsctl.cli.environment", "ipvsctl.cli.tree", "ipvsctl.cli.complete",
    }  # fmt: skip


def test_completion_of_a_known_value_asks_no_host(directory: Path) -> None:
    line = "ipvsctl service add x --scheduler "
    found = imported(directory, _IPVSCTL_COMPLETE="bash_complete", COMP_WORDS=line)
    assert "ipvsctl.knowledge.schedulers" in found
    assert not found & (HEAVY | HOST)


def test_completion_of_a_live_value_is_a_list(directory: Path) -> None:
    imported(directory, "list", IPVSCTL_HOST="emulator")
    line = "ipvsctl --host emulator list tcp:"
    found = imported(directory, _IPVSCTL_COMPLETE="bash_complete", COMP_WORDS=line)
    assert "ipvsctl.emulator.client" in found
    # Which emulators run is asked of a module that can start them.
    assert not found & ((HEAVY - {"subprocess"}) | THOUGHT)


@pytest.mark.parametrize("words", [["list"], ["-j", "list"], ["list", "--stats"], ["timeout", "show"]])
def test_looking_at_an_emulator(directory: Path, words: list[str]) -> None:
    imported(directory, "--host", "emulator", "list")
    found = imported(directory, "--host", "emulator", *words)
    assert "ipvsctl.emulator.client" in found
    assert not found & (HEAVY | THOUGHT)
    assert "ipvsctl.kernel" not in found


def test_looking_at_the_kernel(directory: Path) -> None:
    """Of pyroute2 its netlink messages, and not the rest of it: that would take four times as long as all else."""
    there = Path("/proc/net/ip_vs").exists() and os.geteuid() == 0
    found = imported(directory, "--host", "kernel", "-j", "list", status=0 if there else 4)
    assert "ipvsctl.kernel.ipvs" in found
    assert not found & (HEAVY - {"pyroute2", "logging"} | THOUGHT)
    assert not found & {"pyroute2.ndb", "pyroute2.iproute", "pyroute2.netlink.core", "ipvsctl.emulator", "iptc"}


def test_validate_needs_no_host(directory: Path) -> None:
    file = directory / "director.toml"
    file.write_text('[[service]]\naddress = "fwmark:1"\n')
    found = imported(directory, "validate", str(file))
    assert "rtoml" in found
    assert not found & (HEAVY - {"rtoml"})
    assert not found & {"ipvsctl.pick", "ipvsctl.kernel", "ipvsctl.emulator", "ipvsctl.journal", "socket"}


def test_colours_are_imported_where_they_are_wanted(directory: Path) -> None:
    assert "rich" not in imported(directory, "--host", "emulator", "list", "--color", "never")
    assert "rich" in imported(directory, "--host", "emulator", "list", "--color", "always")
    assert "rich" not in imported(directory, "--host", "emulator", "list", "-j", "--color", "always")
