"""`save` and `restore`: all or nothing, every bad line, nothing sent for what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

RULES = """\
# The web servers.
-A -t 192.0.2.1:80 -s rr -p 300

-a -t 192.0.2.1:80 -r 10.0.2.2:8080 -m -w 3 -x 100 -y 50
-a -t 192.0.2.1:80 -r 10.0.2.3:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum  # far away
-A -f 7 -6 -s mh -p 60 -M 64 -b mh-port
"""
SAVED = """\
-A -t 192.0.2.1:80 -s rr -p 300
-a -t 192.0.2.1:80 -r 10.0.2.2:8080 -m -w 3 -x 100 -y 50
-a -t 192.0.2.1:80 -r 10.0.2.3:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -f 7 -6 -s mh -p 60 -M 64 -b mh-port
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules"
    path.write_text(RULES)
    return str(path)


def test_restore_and_save(cli: Cli, rules: str) -> None:
    assert cli("restore", rules).out == "done: 4 changes\n"
    assert cli("save").out == SAVED
    cli("service", "clear")
    assert cli("restore", stdin=SAVED).out == "done: 4 changes\n"
    assert cli("save").out == SAVED


def test_what_is_there_is_not_sent_again(cli: Cli, rules: str) -> None:
    cli("restore", rules)
    assert cli("-v", "restore", rules) == cli("restore", "-", stdin=SAVED)
    assert cli("restore", "--diff", rules).out == "no changes\n"


def test_a_service_that_is_named_becomes_what_the_lines_say(cli: Cli, rules: str) -> None:
    cli("-A", "-t", "192.0.2.1:80", "-s", "wlc")
    cli("-a", "-t", "192.0.2.1:80", "-r", "10.0.2.2:8080", "-m")
    cli("-a", "-t", "192.0.2.1:80", "-r", "10.0.2.9", "-m")
    cli("-A", "-u", "192.0.2.1:53")
    expected = [
        "~ edit service tcp:192.0.2.1:80: scheduler wlc -> rr, persistent none -> 300",
        "~ edit server 10.0.2.2:8080 of tcp:192.0.2.1:80: weight 1 -> 3, upper 0 -> 100, lower 0 -> 50",
    ]
    shown = cli("restore", "--diff", rules, status=1)
    assert shown.lines[:2] == expected
    assert "- delete server 10.0.2.9:80 of tcp:192.0.2.1:80" in shown.lines
    assert cli("--dry-run", "restore", rules).out == shown.out
    cli("restore", rules)
    assert cli("save").out == SAVED.replace("-A -f", "-A -u 192.0.2.1:53 -s wlc\n-A -f")
    assert cli("restore", "--prune", rules).out == "done: 1 change\n"
    assert cli("save").out == SAVED


def test_every_bad_line_is_told_before_anything_changes(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_text(f"{RULES}-A -t nonsense\n-a -t 192.0.2.1:80 -r 10.0.2.2:8080 -m\n")
    result = cli("restore", str(path), status=2)
    assert result.err.splitlines() == [
        f"{path}:7: illegal virtual server address[:port] specified",
        f"{path}:8: 10.0.2.2:8080 is a server of tcp:192.0.2.1:80 already",
    ]
    assert cli("save").out == ""
    assert cli("restore", stdin="-B\n", status=2).err == "<stdin>:1: '-B' is no command, expected -A or -a\n"


def test_a_line_that_the_host_refuses_undoes_the_others(cli: Cli) -> None:
    result = cli("restore", stdin=f"{SAVED}-A -t 192.0.2.9:80 -s nosuch\n", status=5)
    assert "everything before it was undone" in result.err
    assert cli("save").out == ""


def test_nothing_to_restore_is_no_order_to_delete(cli: Cli, rules: str) -> None:
    cli("restore", rules)
    assert "nothing to restore" in cli("restore", stdin="# nothing\n\n", status=2).err
    assert cli("save").out == SAVED
    cli("restore", "--prune", stdin="# nothing\n")
    assert cli("save").out == ""


def test_a_file_that_is_not_there(cli: Cli) -> None:
    assert "cannot read nowhere" in cli("restore", "nowhere", status=2).err


def test_rollback_undoes_a_restore(cli: Cli, rules: str) -> None:
    cli("-A", "-u", "192.0.2.1:53")
    before = cli("save").out
    cli("restore", "--prune", rules)
    cli("rollback", "--last")
    assert cli("save").out == before


def test_the_plan_of_a_restore_as_json(cli: Cli, rules: str) -> None:
    changes = cli("-j", "--dry-run", "restore", rules).json["changes"]
    assert [each["change"] for each in changes] == ["add-service", "add-server", "add-server", "add-service"]
