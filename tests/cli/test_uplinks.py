"""Uplinks of a director file on an emulated host: planned, applied, traced, exported and taken back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

FILE = """\
[[service]]
address = "tcp:198.51.100.1:80"
scheduler = "rr"
[[service.server]]
address = "10.0.2.2"
forward = "nat"

[[service]]
address = "fwmark:7"
members = ["tcp:198.51.100.1:443", "udp:198.51.100.1:443"]
[[service.server]]
address = "10.0.2.3"
forward = "nat"

[[uplink]]
address = "198.51.100.1"
device = "{device}"
gateway = "198.51.100.254"
table = 4711
"""
SESSION = ("--session", "tcp", "203.0.113.9", "tcp:198.51.100.1:80")


@pytest.fixture
def file(cli: Cli) -> str:
    load(cli)
    Path("uplinks.toml").write_text(FILE.format(device="eth1"))
    return "uplinks.toml"


def load(cli: Cli) -> None:
    """Modules stay when everything else is undone, and bring their sysctls: have them from the start."""
    for module in ("ip_vs", "nf_conntrack"):
        cli("module", "load", module)


def test_a_plan_names_the_route_and_its_rule(cli: Cli, file: str) -> None:
    lines = cli("plan", file).lines
    at = lines.index("+ add route default via 198.51.100.254 dev eth1 table 4711")
    assert lines[at + 1].startswith("+ add policy rule from 198.51.100.1 lookup 4711 priority ")
    assert any("add service tcp:198.51.100.1:80" in line for line in lines[at + 2 :])
    kinds = {change["change"]: change for change in cli("-j", "plan", file).json["changes"]}
    assert kinds["add-route"]["route"] == {
        "destination": "0.0.0.0/0", "device": "eth1", "via": "198.51.100.254", "kind": "unicast", "table": 4711,
    }  # fmt: skip
    assert kinds["add-policy-rule"]["rule"]["from"] == "198.51.100.1/32"


def test_a_trace_shows_the_uplink(cli: Cli, file: str) -> None:
    def second_packet(*words: str) -> str:
        lines = cli("trace", *SESSION, *words, "--expect", "accept").lines
        return next(line for line in lines if line.startswith("2 "))

    cli("apply", file)
    assert "eth1 > eth1" in second_packet()
    assert "eth1 > eth1" in second_packet("--file", file)
    cli("sysctl", "set", "net.ipv4.vs.snat_reroute", "0")
    assert "eth1 > eth0" in second_packet()
    state = tomllib.loads(cli("export", "--state").out)
    assert state["rule"][0]["table"] == state["route"][-1]["table"] == 4711


def test_a_file_may_name_devices_that_a_trace_has_to_assume(cli: Cli) -> None:
    Path("other.toml").write_text(FILE.format(device="wan7"))
    out = cli("trace", *SESSION, "--file", "other.toml", "--expect", "accept").out
    assert "eth1 > wan7" in out


def test_export_says_what_was_applied(cli: Cli, file: str) -> None:
    before = cli("export").out
    cli("apply", file)
    exported = cli("export").out
    given = tomllib.loads(Path(file).read_text())
    found = tomllib.loads(exported)
    assert found["uplink"] == given["uplink"]
    assert next(each["members"] for each in found["service"] if each["address"] == "fwmark:7") == (
        given["service"][1]["members"]
    )
    Path("again.toml").write_text(exported)
    assert cli("plan", "--check", "--prune", "again.toml").out == "no changes\n"
    cli("rollback")
    assert cli("export").out == before


def test_what_the_host_refuses_is_undone_and_told(cli: Cli) -> None:
    load(cli)
    before = cli("export").out
    for device, reason in (
        ("eth7", "there is no device eth7"),
        ("lo", "no network on lo has 198.51.100.254: give the device an address there"),
    ):
        Path("wrong.toml").write_text(FILE.format(device=device))
        result = cli("apply", "wrong.toml", status=5)
        assert reason in result.err
        assert result.err.count("\n") == 1
        assert cli("export").out == before
