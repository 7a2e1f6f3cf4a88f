"""tests/run itself: which kernels it boots with which tests, and what it makes of their ends; nothing is booted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import until

ROOT = Path(__file__).resolve().parents[2]
ALL = ["bookworm", "bullseye", "bookworm-backports", "trixie-backports"]

# In place of the interpreter in .venv: says what it was asked for, and does what the lab and pytest would.
PYTHON = f"""\
#!{sys.executable} -SE
import json, os, pathlib, sys, time
words = sys.argv[1:]
plan = json.loads(os.environ["PLAN"])
top = pathlib.Path(os.environ["TOP"])

def log(*what):
    with (top / "log").open("a") as file:
        print(json.dumps(what), file=file)

def report(path, status):
    failure = "<failure/>" if status else ""
    pathlib.Path(path).write_text(f"<testsuites><testsuite><testcase>{{failure}}</testcase></testsuite></testsuites>")

def after(name):
    return words[words.index(name) + 1]

if words[:2] == ["-m", "tests.vm"] and "--fetch" in words:
    log("fetch", after("--fetch"))
    print("Linux of " + after("--fetch"))
    sys.exit(125 if after("--fetch") in plan.get("unfetched", ()) else 0)
if words[:2] == ["-m", "tests.vm"]:
    suite, marks = after("--suite"), words[len(words) - words[::-1].index("-m")]
    log("boot", suite, marks)
    log("files", suite, *(word for word in words if word.endswith(".py")))
    print("output of " + suite)
    status = plan.get("status", {{}}).get(suite, 0)
    if status != 125:
        report(after("--share") + "/guest.xml", status)
    sys.exit(status)
if words[:2] == ["-m", "tests.vm.guest_files"]:
    names = [] if "none" in words else [f"tests/guest/test_{{n}}.py\\n" for n in range(plan.get("files", 1))]
    pathlib.Path(words[2]).write_text("".join(names))
elif words[:2] == ["-m", "pytest"]:
    log("pytest", *words[2:])
    report(after("--junit-xml"), 0)
elif words[:2] == ["-m", "tests.vm.tally"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *words])
"""

TOOLS = (
    "bash", "env", "dirname", "mktemp", "cat", "grep", "nproc", "awk", "sha256sum", "rm", "mkdir", "sed", "uname", "wc",
)  # fmt: skip


class Checkout:
    """A checkout that has its virtual environment, on a machine that has every package."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / ".venv/bin").mkdir(parents=True)
        (top / "bin").mkdir()
        (top / "tests").mkdir()
        shutil.copy(ROOT / "tests/run", top / "tests/run")
        (top / "tests/vm").symlink_to(ROOT / "tests/vm")
        (top / "tests/__init__.py").touch()
        (top / "pyproject.toml").touch()
        self.program(".venv/bin/python", PYTHON)
        self.program("bin/dpkg-query", '#!/bin/bash\nshift 3; printf "%s installed\\n" "$@"\n')
        for name in ("qemu-system-x86_64", "busybox"):
            self.program(f"bin/{name}", "#!/bin/sh\n")
        for name in TOOLS:
            (top / "bin" / name).symlink_to(str(shutil.which(name)))
        (top / "bin/python3").symlink_to(sys.executable)
        stamp = subprocess.check_output(["bash", "-c", "pwd && sha256sum pyproject.toml"], cwd=top, text=True)
        (top / ".venv/tests-run.stamp").write_text(stamp)

    def program(self, name: str, text: str) -> None:
        (self.top / name).write_text(text)
        (self.top / name).chmod(0o755)

    def environment(self, plan: object) -> dict[str, str]:
        top = str(self.top)
        return {"PATH": f"{top}/bin", "TOP": top, "TMPDIR": top, "PLAN": json.dumps(plan), "LANG": "C.UTF-8"}

    def run(self, *words: str, ci: bool = False, plan: object = None, **more: str) -> subprocess.CompletedProcess[str]:
        (self.top / "log").write_text("")
        environment = {**self.environment(plan or {}), **({"CI": "true"} if ci else {}), **more}
        command = [str(self.top / "tests/run"), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def log(self, kind: str) -> list[list[str]]:
        entries = [json.loads(line) for line in (self.top / "log").read_text().splitlines()]
        return [entry[1:] for entry in entries if entry[0] == kind]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


MARKED = "guest and every_kernel"


@pytest.mark.parametrize(
    ("words", "ci", "lanes", "boots"),
    [
        ([], False, "2", {"bookworm": "guest"}),
        ([], True, "2", {"bookworm": "guest", **dict.fromkeys(ALL[1:], MARKED)}),
        (["--kernels", "all"], False, "1", dict.fromkeys(ALL, "guest")),
        (["--kernels", "all"], True, "9", dict.fromkeys(ALL, "guest")),
        (["--kernels", "bullseye,trixie-backports"], True, "", dict.fromkeys([ALL[1], ALL[3]], "guest")),
        (["--guest-only"], True, "1", {"bookworm": "guest", **dict.fromkeys(ALL[1:], MARKED)}),
        (["--no-guest"], True, "2", {}),
        (["--differential-only", "--kernels", "all"], True, "2", {}),
    ],
)
def test_which_kernels_boot_for_what(
    checkout: Checkout, words: list[str], ci: bool, lanes: str, boots: dict[str, str]
) -> None:
    done = checkout.run(*words, ci=ci, IPVSCTL_GUESTS=lanes)
    assert dict(checkout.log("boot")) == boots
    assert len(checkout.log("boot")) == len(boots)
    compared = "--no-guest" not in words and "--guest-only" not in words
    fetched = {entry[0] for entry in checkout.log("fetch")}
    assert fetched == ({*boots, "bookworm"} if compared and "bullseye,trixie-backports" not in words else {*boots})
    ran = len(boots) + compared + ("--guest-only" not in words and "--differential-only" not in words)
    assert done.stdout.splitlines()[-1] == f"{ran} passed, 0 failed, 0 skipped"
    assert done.returncode == 0, done
    for suite in boots:
        assert done.stdout.count(f"output of {suite}\n") == 1
    assert sorted(path.name for path in checkout.top.iterdir()) == [".venv", "bin", "log", "pyproject.toml", "tests"]


def test_the_longest_tier_is_halved_where_two_guests_run_at_once(checkout: Checkout) -> None:
    done = checkout.run(ci=True, plan={"files": 9}, IPVSCTL_GUESTS="2")
    assert done.stdout.splitlines()[-1] == "7 passed, 0 failed, 0 skipped"
    names = [f"tests/guest/test_{number}.py" for number in range(9)]
    files = checkout.log("files")
    assert sorted(entry[1:] for entry in files if entry[0] == "bookworm") == [names[::2], names[1::2]]
    assert [entry[1:] for entry in files if entry[0] == "bullseye"] == [names]
    checkout.run(ci=True, plan={"files": 9}, IPVSCTL_GUESTS="1")
    assert [entry[1:] for entry in checkout.log("files") if entry[0] == "bookworm"] == [names]
    # Who names files gets them, in one guest.
    checkout.run("tests/run", ci=True, plan={"files": 9}, IPVSCTL_GUESTS="2")
    assert [entry[1:] for entry in checkout.log("files") if entry[0] == "bookworm"] == [[]]


@pytest.mark.parametrize(("suite", "status"), [("bookworm", 1), ("bookworm", 125), ("bullseye", 1), (ALL[3], 125)])
def test_a_failure_on_any_kernel_is_a_failure(checkout: Checkout, suite: str, status: int) -> None:
    done = checkout.run(ci=True, plan={"status": {suite: status}})
    assert done.stdout.splitlines()[-1] == "5 passed, 1 failed, 0 skipped"
    assert f"guest-{suite}: 0 passed, 1 failed" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("suite", ALL[:2])
def test_a_kernel_that_cannot_be_fetched_is_named(checkout: Checkout, suite: str) -> None:
    done = checkout.run(ci=True, plan={"unfetched": [suite]})
    assert f"not checked: anything on the kernel of {suite} (it could not be fetched)" in done.stdout
    assert {entry[0] for entry in checkout.log("boot")} == {*ALL} - {suite}
    assert done.returncode == 1


def test_nothing_to_run_on_a_kernel_boots_none(checkout: Checkout) -> None:
    done = checkout.run("--guest-only", "-k", "none", ci=True)
    assert checkout.log("boot") == []
    assert done.returncode == 1, "nothing at all was run"


@pytest.mark.parametrize("words", [["--kernels", "sid"], ["--kernels", ","], ["--kernels", "all,sid"], ["--kernels"]])
def test_kernels_that_are_none(checkout: Checkout, words: list[str]) -> None:
    done = checkout.run(*words)
    assert done.returncode == 1
    assert "kernel" in done.stderr
    assert (checkout.top / "log").read_text() == ""


def test_an_end_ends_the_guests_too(checkout: Checkout) -> None:
    """Nothing is left running, nothing is left lying about."""
    waiting = PYTHON.replace('    print("output of " + suite)\n', '    (top / "up").touch()\n    time.sleep(60)\n')
    checkout.program(".venv/bin/python", waiting)
    command = [str(checkout.top / "tests/run"), "--guest-only"]
    settings = {"env": checkout.environment({}), "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(command, **settings) as run:  # type: ignore[call-overload]
        until((checkout.top / "up").exists)
        run.terminate()
        assert run.wait(20) == 143
        with pytest.raises(ProcessLookupError):
            os.killpg(run.pid, 0)
    assert not list(checkout.top.glob("ipvsctl-tests-*"))
