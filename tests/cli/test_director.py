"""`validate`, `plan`, `apply`, `export`, `rollback` and `confirm`: the whole story on an emulated director."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence

import pytest

from tests.cli.conftest import FTP, Cli, journal, until

WEB = "tcp:192.0.2.1:80"


def state(cli: Cli) -> list[str]:
    """Everything that a plan can change."""
    sysctls = {each["name"]: each["value"] for each in cli("sysctl", "list", "-j").json["sysctls"]}
    return [cli("list", "-j").out, cli("export").out, cli("firewall", "show").out, str(sysctls)]


@pytest.fixture
def loaded(cli: Cli) -> Cli:
    """Modules stay loaded after an undo, and bring sysctls: load them first, so that states can be compared."""
    for name in ("ip_vs", "nf_conntrack_ftp", "ip_vs_ftp"):
        cli("module", "load", name)
    return cli


# -- validate ---------------------------------------------------------------------------------------------------------


def test_validate(cli: Cli) -> None:
    assert cli("validate", "ftp.toml").out == "ftp.toml: ok: 1 service, 1 server\n"
    assert cli("validate", "ftp.toml", "-j").json == {"file": "ftp.toml", "services": 1, "servers": 1}
    assert cli("validate", "-", stdin=FTP).out == "<stdin>: ok: 1 service, 1 server\n"
    assert cli("emulate", "list", "-j").json == {"emulators": []}


def test_every_problem_of_a_file_is_told_with_its_line(cli: Cli) -> None:
    text = FTP.replace("persistent", "persistant").replace('"nat"', '"bat"')
    err = cli("validate", "-", stdin=text, status=2).err.splitlines()
    assert [line.split(" ")[0] for line in err] == ["<stdin>:8:", "<stdin>:12:"]


def test_what_only_knowledge_can_tell_has_its_line_too(cli: Cli) -> None:
    text = '[sysctl]\n"net.ipv4.ip_forward" = 1\n"net.ipv4.vs.sync_ports" = 3\n'
    assert cli("validate", "-", stdin=text, status=2).err.startswith("<stdin>:3: net.ipv4.vs.sync_ports")
    text = FTP.replace('"nat"', '"dr"')
    assert cli("plan", "-", stdin=text, status=2).err.startswith("<stdin>:9: tcp:192.168.1.100:21: helper ftp")


@pytest.mark.parametrize("name", ["nowhere.toml", ".", "no\0where"])
def test_a_file_that_cannot_be_read(cli: Cli, name: str) -> None:
    assert cli("validate", name, status=2).err.startswith("ipvsctl: cannot read")


def test_a_file_without_end_is_refused(cli: Cli) -> None:
    assert cli("validate", "/dev/zero", status=2).err.startswith("/dev/zero:1: the file has")


# -- plan and apply ---------------------------------------------------------------------------------------------------


def test_a_plan_changes_nothing(loaded: Cli) -> None:
    before = state(loaded)
    lines = loaded("plan", "ftp.toml").lines
    assert "+ add service tcp:192.168.1.100:21 scheduler rr, persistent 300" in lines
    assert lines[-1] == f"{sum(line[0] in '+-~' for line in lines)} changes"
    assert state(loaded) == before


def test_a_plan_as_json(cli: Cli) -> None:
    plan = cli("plan", "-j", "ftp.toml").json
    assert plan["changes"][0] == {"change": "load-module", "module": "ip_vs"}
    assert {each["change"] for each in plan["changes"]} >= {"add-service", "add-server", "replace-rules", "set-sysctl"}
    assert cli("apply", "ftp.toml", "--dry-run", "-j").json == plan


def test_check_ends_1_when_something_would_change(cli: Cli) -> None:
    result = cli("plan", "--check", "ftp.toml", status=1)
    assert "the host differs" in result.err
    assert result.lines
    quiet = cli("plan", "--check", "ftp.toml", "-q", status=1)
    assert (quiet.out, quiet.err) == ("", "")
    assert cli("plan", "--check", "ftp.toml", "-j", status=1).err == ""
    cli("apply", "ftp.toml")
    assert cli("plan", "--check", "ftp.toml").out == "no changes\n"


def test_apply_twice(cli: Cli) -> None:
    first = cli("apply", "-v", "ftp.toml")
    count = len(first.err.splitlines())
    assert first.out == f"done: {count} changes\n"
    assert cli("apply", "ftp.toml").out == "no changes\n"
    assert cli("apply", "ftp.toml", "-j").json == {"changes": [], "notes": []}
    assert len(list(journal().glob("*.undo"))) == 1


def test_apply_quietly(cli: Cli) -> None:
    result = cli("apply", "-q", "-", stdin=FTP)
    assert (result.out, result.err) == ("", "")


def test_a_named_service_becomes_as_described_and_others_stay(cli: Cli) -> None:
    cli("apply", "ftp.toml")
    cli("server", "add", "tcp:192.168.1.100:21", "10.0.2.9", "--forward", "nat")
    cli("service", "add", WEB)
    assert cli("apply", "-v", "ftp.toml").err == "- delete server 10.0.2.9:21 of tcp:192.168.1.100:21\n"
    assert cli("apply", "-v", "--prune", "ftp.toml").err == f"- delete service {WEB}\n"


def test_an_exported_file_says_what_is(loaded: Cli) -> None:
    before = state(loaded)
    loaded("apply", "ftp.toml")
    text = loaded("export").out
    assert loaded("plan", "--check", "-", stdin=text).out == "no changes\n"
    assert loaded("export", "-j").json["service"][0]["helper"] == "ftp"
    applied = state(loaded)
    loaded("rollback")
    assert state(loaded) == before
    loaded("apply", "-", stdin=text)
    # The file does not name every sysctl.
    assert state(loaded)[:3] == applied[:3]


def test_a_plan_that_fails_is_undone(loaded: Cli) -> None:
    loaded("service", "add", WEB)
    before = state(loaded)
    text = FTP + f'\n[[service]]\naddress = "{WEB}"\nscheduler = "nope"\n'
    error = loaded("apply", "-", stdin=text, status=5).err
    assert "no scheduler 'nope'" in error
    assert "everything before it was undone" in error
    assert state(loaded) == before
    assert not (journal() / "running").exists()


def test_an_undo_that_fails_names_what_is_left(cli: Cli) -> None:
    from ipvsctl.emulator.client import RemoteHost
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.change import DeleteService
    from ipvsctl.model.service import Service

    cli("service", "add", WEB)
    cli("server", "add", WEB, "10.0.2.2")
    cli("server", "delete", WEB, "10.0.2.2")
    host = RemoteHost.connect()
    host.ipvs.apply([DeleteService(Service(ServiceAddress.parse(WEB)))])
    host.close()
    assert f"there is no service {WEB}" in cli("rollback", "--last", status=6).err
    cli("service", "add", WEB)
    assert cli("rollback", "--last").out == f"undone: service add {WEB} (1 change)\n"
    cli("service", "add", WEB)
    cli("rollback", "--last")


# -- rollback ---------------------------------------------------------------------------------------------------------


def test_rollback_goes_back_to_the_last_apply(loaded: Cli) -> None:
    loaded("service", "add", WEB)
    before = state(loaded)
    loaded("apply", "ftp.toml")
    loaded("server", "edit", "tcp:192.168.1.100:21", "10.0.2.2", "--weight", "9")
    loaded("sysctl", "set", "conntrack", "0")
    dry = loaded("rollback", "--dry-run").lines
    assert dry[0] == "~ set net.ipv4.vs.conntrack = 1 (was 0)"
    undone = loaded("rollback").lines
    assert undone[0] == "undone: sysctl set net.ipv4.vs.conntrack 0 (1 change)"
    assert undone[2].startswith("undone: apply ftp.toml (")
    assert len(undone) == 3
    assert state(loaded) == before
    assert loaded("rollback", "-j").json == {"undone": [{"command": f"service add {WEB}", "changes": 1}]}


def test_rollback_of_nothing(cli: Cli) -> None:
    assert "nothing to roll back" in cli("rollback", status=3).err
    assert "nothing waits" in cli("confirm", status=3).err


# -- a plan that is cut off -------------------------------------------------------------------------------------------

CUT = "was cut off at step"


class Stuck:
    """An apply of ftp.toml that hangs before the step `at`: its echo goes into a pipe that has room up to there."""

    def __init__(self, cli: Cli, at: int = 3, options: Sequence[str] = ()) -> None:
        lines = [line for line in cli("apply", "ftp.toml", "--dry-run").lines if line[0] in "+-~"]
        assert len(lines) > at
        room = sum(len(line) + 1 for line in lines[:at])
        self.read, write = os.pipe()
        filled = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        os.write(write, b"." * (filled - room))
        # Whoever runs the tests may have been started by nohup, whose choice the command would keep.
        command = ["env", "--default-signal", sys.executable, "-m", "ipvsctl", "-v", "apply", *options, "ftp.toml"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write, text=True)
        os.close(write)
        until(lambda: self._waiting() == filled and self._reached() == at)

    def _waiting(self) -> int:
        """Bytes in the pipe."""
        return int.from_bytes(fcntl.ioctl(self.read, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)

    def _reached(self) -> int:
        """Steps that the journal says may have been made."""
        try:
            last = (journal() / "running").read_text().splitlines()[-1]
        except OSError:
            return -1
        return int(last) if last.isdigit() else 0

    def go_on(self) -> tuple[int, str, str]:
        """Read what the command has to say; returns status, output and errors."""
        with os.fdopen(self.read) as pipe:
            errors = pipe.read().lstrip(".")
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)
        os.close(self.read)


def test_a_plan_whose_process_is_killed_can_be_rolled_back(loaded: Cli) -> None:
    before = state(loaded)
    Stuck(loaded).kill()
    changed = loaded("list")
    assert changed.err.startswith(f"ipvsctl: warning: an apply of ftp.toml {CUT} ")
    assert state(loaded) != before
    result = loaded("service", "add", WEB, status=1)
    assert result.err.startswith("ipvsctl: cannot service add")
    assert CUT in result.err
    loaded("apply", "ftp.toml", status=1)
    assert loaded("plan", "ftp.toml").err.count(CUT) == 1
    assert loaded("rollback", "--dry-run").out.startswith("~ ")
    rolled = loaded("rollback")
    assert rolled.out.startswith("undone: apply ftp.toml (")
    assert state(loaded) == before
    assert loaded("service", "add", WEB).err == ""


def test_a_plan_whose_process_is_killed_can_be_kept(loaded: Cli) -> None:
    Stuck(loaded).kill()
    kept = state(loaded)
    assert loaded("confirm", "--dry-run").out.startswith("would confirm: apply ftp.toml (cut off at step ")
    assert loaded("confirm").out.startswith("confirmed: apply ftp.toml (cut off at step ")
    assert state(loaded) == kept
    assert loaded("list").err == ""
    assert "done" in loaded("apply", "ftp.toml").out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_asks_to_end_undoes_the_plan(loaded: Cli, number: signal.Signals) -> None:
    before = state(loaded)
    stuck = Stuck(loaded)
    assert (journal() / "running").exists()
    stuck.process.send_signal(number)
    status, out, errors = stuck.go_on()
    assert (status, out) == (128 + number, "")
    assert errors.endswith("ipvsctl: interrupted\n")
    assert state(loaded) == before
    assert loaded("list").err == ""


def test_while_a_plan_runs_others_wait(loaded: Cli) -> None:
    stuck = Stuck(loaded)
    assert loaded("list").err == ""
    command = [sys.executable, "-m", "ipvsctl", "service", "add", WEB]
    late = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        late.wait(0.5)
    assert stuck.go_on()[0] == 0
    assert late.communicate(timeout=60) == ("done: 1 change\n", "")
    assert [path.name for path in sorted(journal().glob("*.undo"))][-2:] == ["0004.undo", "0005.undo"]


def test_a_reader_of_the_echo_that_goes_away_does_not_stop_the_plan(loaded: Cli) -> None:
    stuck = Stuck(loaded)
    os.close(stuck.read)
    out, _ = stuck.process.communicate(timeout=60)
    assert stuck.process.returncode == 0
    assert out.startswith("done: ")
    assert loaded("plan", "--check", "ftp.toml").err == ""
