"""What ipvsadm 1.31 answered, captured on Linux 6.1: single command lines and two sessions, for tests of ours.

tests/data/ipvsadm: cases.tsv and args.json are single command lines on an empty table, session1.json and session3.json
are command lines one after the other on one table.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipvsctl.formats.ipvsadm_options import HELP, VERSION

DATA = Path(__file__).parent.parent / "data" / "ipvsadm"

SESSION_HOSTS = {
    # What the sessions had in /etc/hosts; the first name of an address is its name.
    "session1": (
        ("10.0.0.1", "vip.example.com", "vip"), ("10.0.0.2", "rs1.example.com", "rs1"),
        ("192.168.100.200", "a-very-long-hostname-for-testing-truncation.example.com", "longh"),
        ("192.168.100.201", "another-quite-long-host-label.and-a-second-quite-long-label.example.org"),
        ("2001:db8::1", "vip6.example.com", "vip6"), ("::1", "ip6-localhost"), ("127.0.0.1", "localhost"),
    ),
    "session3": (
        ("10.0.0.1", "vip.example.com", "vip"), ("10.1.0.2", "rs1.example.com", "rs1"),
        ("2001:db8::1", "vip6.example.com", "vip6"),
        ("2001:db8::77", "quite-a-long-ipv6-host-name.department.example-company.example.org"),
        ("10.77.0.1", "abcdefghijklmnopqrst.example.com"), ("127.0.0.1", "localhost"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command line and what came of it. `shell` is a line for a shell instead, when it is not ""."""

    where: str
    words: tuple[str, ...]
    stdin: str
    status: int
    out: str
    err: str
    shell: str = ""

    @property
    def line(self) -> str:
        return self.shell or shlex.join(self.words)


def cases() -> list[Step]:
    """The rows of cases.tsv: `err` is the first line only."""
    steps = []
    for number, row in enumerate((DATA / "cases.tsv").read_text().splitlines(), 1):
        line, status, first = row.split("\t")
        steps.append(Step(f"cases.tsv:{number}", tuple(shlex.split(line)), "", int(status), "", first))
    return steps


def single() -> list[Step]:
    """The rows of args.json."""
    rows = json.loads((DATA / "args.json").read_text())
    return [
        Step(f"args.json:{number}", tuple(shlex.split(line)), "", status, out, err)
        for number, (line, status, out, err) in enumerate(rows)
    ]


def session(name: str) -> list[Step]:
    """The steps of a session, its preparation left out."""
    steps = []
    for number, step in enumerate(json.loads((DATA / f"{name}.json").read_text())):
        where = f"{name}.json:{number}"
        if "sh" in step:
            if step["sh"].startswith(("ipvsadm", "printf", "/sbin/ipvsadm")):
                steps.append(Step(where, (), "", step["rc"], step["out"], step["err"], step["sh"]))
            continue
        words = tuple(shlex.split(step["cmd"]))
        steps.append(Step(where, words, step["stdin"] or "", step["rc"], step["out"], step["err"]))
    return steps


# What differs on purpose (knowledge/ipvsadm_differences.py): the steps, and how the captured text is changed by it.
CHANGED = {
    "saved-mark": {"session1.json:114", "session1.json:115", "session1.json:135", "session1.json:312"},
    "saved-flag": {"session1.json:114", "session1.json:115", "session1.json:135"},
    "help": {"session1.json:383"},
}

# Steps whose order of services is that of the host's hash table: another in every namespace of every boot.
UNORDERED = {
    *(f"session1.json:{number}" for number in (*range(111, 123), 135, 235, 236, 311)),
    "session3.json:91", "session3.json:92", "session3.json:95",
}  # fmt: skip


def expected(step: Step) -> str:
    """What standard output has to be: as captured, but for what differs on purpose."""
    out = step.out
    for difference, steps in CHANGED.items():
        if step.where in steps:
            changed = _REWRITE[difference](out)
            assert changed != out, f"{step.where}: there is no difference {difference!r} here"
            out = changed
    return out


def _unsigned(out: str) -> str:
    return re.sub(r"(?m)^(-[Aa] -f) -(\d+)", lambda found: f"{found[1]} {2**32 - int(found[2])}", out)


_REWRITE: dict[str, Callable[[str], str]] = {
    "saved-mark": _unsigned,
    "saved-flag": lambda out: re.sub(r"(?m) -b $", " -b flag-3", out),
    "help": lambda _: HELP.format(version=VERSION, program="ipvsadm"),
}

Run = Callable[[str, Sequence[str], str], tuple[int, str, str]]
"""Runs a program, ipvsadm or one of its scripts, with arguments and standard input: status and both streams."""


def shell(line: str, run: Run) -> tuple[int, str, str]:
    """A line of the sessions that is for a shell: programs with redirections, pipes from printf, `echo rc=$?`."""
    out, err, status = "", "", 0
    files: dict[str, str] = {}
    for part in line.split("; "):
        if part == "echo rc=$?":
            out += f"rc={status}\n"
            continue
        stdin = ""
        command, _, redirected = part.partition(" < ")
        command, _, into = command.partition(" > ")
        if command.startswith("printf"):
            text, _, command = command.partition(" | ")
            stdin = shlex.split(text)[-1].replace("\\n", "\n")
        if redirected:
            stdin = files[redirected]
        name, *arguments = shlex.split(command)
        status, stdout, stderr = run(name.rpartition("/")[2], arguments, stdin)
        err += stderr
        if into:
            files[into] = stdout
        else:
            out += stdout
    return status, out, err


def differences(steps: Iterable[Step], run: Run) -> list[str]:
    """Run steps one after the other; a text for each that did not come out as it should."""
    wrong = []
    for step in steps:
        got = shell(step.shell, run) if step.shell else run("ipvsadm", step.words, step.stdin)
        want = (step.status, expected(step), step.err)
        if step.where in UNORDERED:
            got, want = ((status, "\n".join(sorted(out.split("\n"))), err) for status, out, err in (got, want))
        if step.shell:
            # Of a shell's status only what it says itself is known.
            got, want = got[1:], want[1:]
        if got != want:
            wrong.append(f"{step.where}: {step.line}\n  want {want}\n  got  {got}")
    return wrong
