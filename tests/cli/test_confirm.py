"""`apply --confirm`: it undoes itself, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, journal, until

FTP = "tcp:192.168.1.100:21"
WEB = "tcp:192.0.2.1:80"


def timers() -> list[int]:
    """The timers that run for this test: forked from its command lines, with its directory in their environment."""
    mark = f"IPVSCTL_RUNTIME_DIR={os.environ['IPVSCTL_RUNTIME_DIR']}\0"
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_text().split("\0")
            if "--confirm" in words and mark in (path / "environ").read_text() and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


def services(cli: Cli) -> list[str]:
    return [each["address"] for each in cli("list", "-j").json["services"]]


@pytest.fixture
def apply(cli: Cli) -> Iterator[Cli]:
    """A director with a service before the apply. Whatever happens, no timer is left."""
    cli("service", "add", WEB)
    yield cli
    for pid in timers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_without_confirmation_everything_is_undone(apply: Cli) -> None:
    done = apply.process("apply", "--confirm", "0.3s", "ftp.toml")
    assert done.stdout.splitlines()[-1] == "applied; undone in 0.3s unless `ipvsctl confirm` comes"
    until(lambda: services(apply) == [WEB])
    until(lambda: not timers())
    assert apply("firewall", "show").out == "# no rules of ours\n"
    assert apply("confirm", status=3)
    # Told once, by the first command that came along.
    assert apply("list").err == ""


def test_the_next_command_tells(apply: Cli) -> None:
    apply.process("apply", "--confirm", "0.1s", "ftp.toml")
    until(lambda: (journal() / "notice").exists())
    note = "ipvsctl: note: apply of ftp.toml was not confirmed within 0.1s and has been undone\n"
    assert apply("list").err == note
    assert apply("list").err == ""


def test_what_came_after_the_apply_is_undone_with_it(apply: Cli) -> None:
    apply.process("apply", "--confirm", "1s", "ftp.toml")
    apply("service", "add", "fwmark:7")
    until(lambda: services(apply) == [WEB])
    until(lambda: not timers())


def test_confirmed_it_stays(apply: Cli) -> None:
    done = apply.process("apply", "-j", "--confirm", "60s", "ftp.toml")
    assert '"confirm_within": 60' in done.stdout
    (timer,) = timers()
    assert Path(f"/proc/{timer}/cwd").readlink() == Path("/")
    assert {Path(f"/proc/{timer}/fd/{number}").readlink() for number in range(3)} == {Path("/dev/null")}
    assert apply("confirm", "--dry-run").out == "would confirm: apply ftp.toml\n"
    assert timers() == [timer]
    assert apply("confirm").out == "confirmed: apply ftp.toml\n"
    until(lambda: not timers())
    assert services(apply) == [WEB, FTP]
    assert "undone: apply ftp.toml" in apply("rollback").out


def test_a_second_apply_has_to_wait_for_the_first(apply: Cli) -> None:
    apply.process("apply", "--confirm", "60s", "ftp.toml")
    for words in (["ftp.toml"], ["--confirm", "60s", "ftp.toml"]):
        assert "`apply ftp.toml` waits for `ipvsctl confirm`" in apply("apply", *words, status=1).err
    apply("apply", "--dry-run", "ftp.toml")
    assert len(timers()) == 1


def test_rollback_does_not_wait(apply: Cli) -> None:
    apply.process("apply", "--confirm", "60s", "ftp.toml")
    apply("rollback")
    assert services(apply) == [WEB]
    apply("confirm", status=3)
    until(lambda: not timers())


def test_the_newest_change_alone_can_be_undone_meanwhile(apply: Cli) -> None:
    apply.process("apply", "--confirm", "60s", "ftp.toml")
    apply("service", "add", "fwmark:7")
    apply("rollback", "--last")
    assert services(apply) == [WEB, FTP]
    assert apply("confirm").out == "confirmed: apply ftp.toml\n"


def test_an_old_timer_leaves_a_new_apply_alone(apply: Cli) -> None:
    """The records of both have the same name: the first was rolled back and its name is free again."""
    apply.process("apply", "--confirm", "0.5s", "ftp.toml")
    apply("rollback")
    apply.process("apply", "--confirm", "60s", "ftp.toml")
    until(lambda: len(timers()) == 1)
    assert services(apply) == [WEB, FTP]
    apply("confirm")


def test_nothing_to_change_is_nothing_to_confirm(apply: Cli) -> None:
    apply("apply", "ftp.toml")
    assert apply.process("apply", "--confirm", "60s", "ftp.toml").stdout == "no changes\n"
    assert timers() == []
    apply("confirm", status=3)


def test_an_apply_that_fails_waits_for_nothing(apply: Cli) -> None:
    text = f'[[service]]\naddress = "{FTP}"\n[[service]]\naddress = "{WEB}"\nscheduler = "nope"\n'
    Path("broken.toml").write_text(text)
    done = apply.process("apply", "--confirm", "60s", "broken.toml")
    assert done.returncode == 5
    apply("confirm", status=3)
    until(lambda: not timers())


def test_an_apply_that_is_killed_is_undone_when_its_time_is_over(apply: Cli) -> None:
    from tests.cli.test_director import Stuck

    Stuck(apply, options=["--confirm", "0.3s"]).kill()
    until(lambda: (journal() / "notice").exists())
    assert "has been undone" in apply("list").err
    assert services(apply) == [WEB]
    assert apply("service", "add", "fwmark:7").err == ""


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1d1s", "90001", "1e3", ""])
def test_times_that_are_none(cli: Cli, value: str) -> None:
    assert "--confirm" in cli("apply", "--confirm", value, "ftp.toml", status=2).err


def test_it_outlives_the_terminal(apply: Cli) -> None:
    """The shell, its terminal and its session go away while the apply waits for its confirmation."""
    pid, terminal = pty.fork()
    if pid == 0:
        command = f"{sys.executable} -m ipvsctl apply --confirm 1s ftp.toml; exec cat"
        os.execv("/bin/sh", ["sh", "-c", command])
    said = b""
    while b"unless" not in said:
        said += os.read(terminal, 1024)
    assert services(apply) == [WEB, FTP]
    os.close(terminal)
    os.waitpid(pid, 0)
    until(lambda: services(apply) == [WEB])
    until(lambda: not timers())


def test_a_run_time_directory_with_a_relative_name(apply: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer leaves the directory that the name is relative to."""
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", "run")
    subprocess.run([sys.executable, "-m", "ipvsctl", "apply", "--confirm", "0.2s", "ftp.toml"], check=True)
    until(lambda: services(apply) == [WEB])
