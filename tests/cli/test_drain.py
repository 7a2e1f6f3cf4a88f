"""`server drain` on an emulated director: real packets, real timers, and every way it can end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.conftest import Cli, until

WEB = "tcp:192.0.2.1:80"
SAY, ANSWER = "tcp 198.51.100.7:1000 > 192.0.2.1:80", "tcp 10.0.2.2:80 > 198.51.100.7:1000"


def send(cli: Cli, *packets: tuple[str, str]) -> None:
    for device, packet in packets:
        cli("-q", "emulate", "send", "--device", device, "--packet", packet)


def open_one(cli: Cli) -> None:
    send(
        cli, ("eth0", f"{SAY} S seq=1"), ("eth1", f"{ANSWER} SA seq=1 ack=2"), ("eth0", f"{SAY} A seq=2 ack=2")
    )  # fmt: skip


def reset(cli: Cli) -> None:
    send(cli, ("eth0", f"{SAY} R seq=2"))


def weight(cli: Cli) -> int:
    found: int = cli("-j", "list", WEB).json["services"][0]["servers"][0]["weight"]
    return found


@pytest.fixture
def web(cli: Cli) -> Cli:
    """A service with one server of weight 5 and an open connection."""
    cli("service", "add", WEB, "--scheduler", "rr")
    cli("server", "add", WEB, "10.0.2.2", "--forward", "nat", "--weight", "5")
    cli("sysctl", "set", "net.ipv4.ip_forward", "1")
    open_one(cli)
    return cli


def test_the_time_is_up(web: Cli) -> None:
    result = web("server", "drain", WEB, "10.0.2.2", "--wait", "1", "--remove", status=1)
    assert weight(web) == 0
    assert "at weight 0, not removed, and still has 1 active" in result.err
    assert "--undrain` gives it weight 5 again" in result.err
    assert "1 ESTABLISHED (up to 14:" in result.err
    assert "the kernel has no call that ends one connection" in result.err


def test_without_waiting_it_is_done_at_once(web: Cli) -> None:
    said = web("-j", "server", "drain", WEB, "10.0.2.2", "--wait", "0").json
    assert (said["drained"], said["active_connections"], said["former_weight"]) == (False, 1, 5)
    assert said["states"] == {"ESTABLISHED": 1}
    assert weight(web) == 0


def test_undrain_gives_the_weight_back(web: Cli) -> None:
    web("server", "drain", WEB, "10.0.2.2", "--wait", "0")
    # Draining what is drained does not forget the weight.
    web("server", "drain", WEB, "10.0.2.2", "--wait", "0")
    assert weight(web) == 0
    web("server", "drain", WEB, "10.0.2.2", "--undrain")
    assert weight(web) == 5
    assert web("server", "drain", WEB, "10.0.2.2", "--undrain").out == "no changes\n"


def test_undrain_of_what_was_never_drained(web: Cli) -> None:
    web("server", "edit", WEB, "10.0.2.2", "--weight", "0")
    assert "--weight 1" in web("server", "drain", WEB, "10.0.2.2", "--undrain", status=3).err


def test_rollback_undoes_it_too(web: Cli) -> None:
    web("server", "drain", WEB, "10.0.2.2", "--wait", "0")
    web("rollback", "--last")
    assert weight(web) == 5


def test_dry_run_changes_nothing(web: Cli) -> None:
    out = web("--dry-run", "server", "drain", WEB, "10.0.2.2", "--remove").out
    assert "edit server 10.0.2.2:80" in out
    assert "delete server 10.0.2.2:80" in out
    assert weight(web) == 5


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ipvsctl", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_it_waits_until_the_connection_ends_and_removes(web: Cli) -> None:
    with start("server", "drain", WEB, "10.0.2.2", "--active", "--wait", "60", "--remove") as process:
        until(lambda: weight(web) == 0)
        assert process.poll() is None
        reset(web)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert out == f"server 10.0.2.2:80 of {WEB} is drained and removed\n"
    assert web("-j", "list", WEB).json["services"][0]["servers"] == []


@pytest.mark.parametrize("json_wanted", [False, True])
def test_interrupted_it_says_what_it_leaves(web: Cli, json_wanted: bool) -> None:
    with start(*(["-j"] if json_wanted else []), "server", "drain", WEB, "10.0.2.2", "--remove") as process:
        until(lambda: weight(web) == 0)
        # Between the change of weight and the wait a signal still ends the command at once, without these words.
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert weight(web) == 0
    if json_wanted:
        said: dict[str, Any] = json.loads(out)
        assert (said["interrupted"], said["removed"], said["former_weight"]) == (True, False, 5)
    else:
        assert "stays at weight 0, not removed, with 1 active left" in errors
        assert "--undrain" in errors


def test_somebody_gives_it_weight_again(web: Cli) -> None:
    with start("server", "drain", WEB, "10.0.2.2") as process:
        until(lambda: weight(web) == 0)
        web("server", "edit", WEB, "10.0.2.2", "--weight", "2")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "has weight 2 again" in errors


def test_templates_keep_a_server_in_use(cli: Cli) -> None:
    cli("service", "add", WEB, "--scheduler", "rr", "--persistent", "300")
    cli("server", "add", WEB, "10.0.2.2", "--forward", "nat")
    cli("sysctl", "set", "net.ipv4.ip_forward", "1")
    open_one(cli)
    result = cli("server", "drain", WEB, "10.0.2.2", "--wait", "1", status=1)
    assert "1 active, 1 persistence template" in result.err
    assert "expire_quiescent_template 1` sends them to other servers" in result.err
    cli("sysctl", "set", "net.ipv4.vs.expire_quiescent_template", "1")
    assert cli("-j", "server", "drain", WEB, "10.0.2.2", "--wait", "1", status=1).json["templates"] == 0


def test_what_makes_no_sense(web: Cli) -> None:
    both = web("server", "drain", WEB, "10.0.2.2", "--undrain", "--remove", status=2)
    assert "--undrain goes with neither" in both.err
    assert "no server 10.0.2.9:80" in web("server", "drain", WEB, "10.0.2.9", status=3).err
    assert "no service" in web("server", "drain", "tcp:192.0.2.2:80", "10.0.2.2", status=3).err
    assert "--wait 'soon' is not a duration" in web("server", "drain", WEB, "10.0.2.2", "--wait", "soon", status=2).err
