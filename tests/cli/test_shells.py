"""TAB in real shells: a command, an option, a value, a service with its colons."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.needs import need_program

TOP = Path(__file__).parents[2]
COMPLETIONS = TOP / "completions"
WEB = "tcp:192.0.2.1:80"

CASES = {
    "li": "list ",
    "service cl": "service clear ",
    "list --thr": "list --thresholds ",
    "service add udp:192.0.2.1:53 --scheduler wl": "service add udp:192.0.2.1:53 --scheduler wlc ",
    "service delete tc": f"service delete {WEB} ",
    "service delete tcp:192.0": f"service delete {WEB} ",
    "service delete tcp:192.0.2.1:": f"service delete {WEB} ",
    f"server edit {WEB} 10.0.2.2:": f"server edit {WEB} 10.0.2.2:8080 ",
    "--host emulator:def": "--host emulator:default ",
    "validate ft": "validate ftp.toml ",
}


@pytest.fixture
def director(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A running director, and `ipvsctl` as a shell finds it. Returns a home without anybody's start-up files."""
    cli("service", "add", WEB)
    cli("server", "add", WEB, "10.0.2.2:8080", "--forward", "nat")
    monkeypatch.setenv("PATH", f"{TOP / '.venv' / 'bin'}:{os.environ['PATH']}")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TERM", "dumb")
    return home


class Terminal:
    """A shell on a terminal, typed at. `setup` makes it complete; `end` is typed behind a completed line.

    bash adds a blank behind what is complete, so that a dot shows whether it did; zsh takes its blank back when the
    cursor moves.
    """

    def __init__(self, command: list[str], setup: str, end: str) -> None:
        self.end = end
        self.pid, self.leader = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.said = ""
        self.type(f"{setup}; echo READ''Y\n")
        self.wait_for("READY")

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Read until the shell has said something."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.leader], [], [], left)[0], self.said
            self.said += os.read(self.leader, 4096).decode(errors="replace")
        return found

    def complete(self, line: str) -> str:
        """The line after TAB, as the shell passes it on: between angle brackets, blanks as they are."""
        self.said = ""
        # Back to the beginning of the line, and make its words the arguments of a print.
        self.type(f"ipvsctl {line}\t")
        self.type(f"\x01printf '<%s>' \x05{self.end}; echo\n")
        printed = self.wait_for(r"<ipvsctl>(<[^<>]*>)+\r?\n")
        return " ".join(re.findall("<(.*?)>", printed[0])[1:])

    def close(self) -> None:
        os.close(self.leader)
        os.waitpid(self.pid, 0)


@pytest.fixture
def bash(director: Path) -> Iterator[Terminal]:
    setup = f"PS1= PS2=; . {COMPLETIONS / 'ipvsctl.bash'}; bind 'set enable-bracketed-paste off'"
    terminal = Terminal(["bash", "--norc", "--noprofile"], setup, ".")
    yield terminal
    terminal.close()


@pytest.fixture
def zsh(director: Path) -> Iterator[Terminal]:
    setup = f"PS1= PS2=; unsetopt zle_bracketed_paste promptsp promptcr; fpath=({COMPLETIONS} $fpath); "
    setup += f"autoload -Uz compinit; compinit -u -d {director}/.zcompdump; bindkey -e"
    terminal = Terminal(["zsh", "-f"], setup, " .")
    yield terminal
    terminal.close()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab(shell: str, request: pytest.FixtureRequest) -> None:
    need_program(shell)
    terminal: Terminal = request.getfixturevalue(shell)
    for typed, completed in CASES.items():
        assert terminal.complete(typed) == f"{completed}.", typed


def test_fish(director: Path) -> None:
    need_program("fish")
    script = COMPLETIONS / "ipvsctl.fish"
    for typed, completed in CASES.items():
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C 'ipvsctl {typed}'"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
        assert offered == [completed.split()[-1]], typed
        assert done.stderr == ""


def test_several_candidates_in_bash(bash: Terminal) -> None:
    """All of them begin behind the last colon, which is where bash's word begins."""
    os.write(bash.leader, b"ipvsctl service add fwmark:3 --scheduler=l\t\t")
    bash.wait_for(r"lc\s+lblc\s+lblcr")
