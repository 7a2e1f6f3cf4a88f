"""`timeout`, `sync`, `sysctl`, `module` and `emulate`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli, journal


def test_timeouts(cli: Cli) -> None:
    assert cli("timeout", "show").lines == ["tcp      900", "tcp_fin  120", "udp      300"]
    cli("timeout", "set", "--tcp", "20m", "--udp", "1m30s")
    assert cli("timeout", "show", "-j").json == {"tcp": 1200, "tcp_fin": 120, "udp": 90}
    cli("timeout", "set", "0", "60", "0")
    assert cli("timeout", "show", "-j").json == {"tcp": 1200, "tcp_fin": 60, "udp": 90}
    assert cli("timeout", "set", "--tcp-fin", "60").out == "no changes\n"
    cli("rollback", "--last")
    assert cli("timeout", "show", "-j").json == {"tcp": 1200, "tcp_fin": 120, "udp": 90}


@pytest.mark.parametrize(
    "words", [[], ["1"], ["1", "2", "3", "4"], ["1", "2", "3", "--udp", "4"], ["--tcp", "x"], ["--udp", "2678401"]]
)
def test_timeouts_of_other_shapes_are_wrong_usage(cli: Cli, words: list[str]) -> None:
    cli("timeout", "set", *words, status=2)


def test_sync(cli: Cli) -> None:
    assert cli("sync", "show", "-j").json == {"daemons": []}
    cli("sync", "start", "master", "--interface", "eth0", "--id", "7", "--ttl", "2")
    (daemon,) = cli("sync", "show", "-j").json["daemons"]
    assert (daemon["role"], daemon["interface"], daemon["id"], daemon["ttl"]) == ("master", "eth0", 7, 2)
    assert cli("sync", "show").lines[1].split()[:3] == ["master", "eth0", "7"]
    assert "runs already" in cli("sync", "start", "master", "--interface", "eth0", status=3).err
    cli("sync", "start", "backup", "--interface", "nowhere0", status=3)
    cli("sync", "start", "backup", "--interface", "eth0", "--group", "10.0.0.1", status=1)
    cli("sync", "start", "backup", "--interface", "eth0", "--id", "256", status=2)
    cli("sync", "start", "backup", status=2)
    cli("sync", "start", "primary", "--interface", "eth0", status=2)
    cli("sync", "stop", "backup", status=3)
    cli("sync", "stop", "master")
    assert len(cli("sync", "show").lines) == 1
    cli("rollback", "--last")
    assert cli("sync", "show", "-j").json["daemons"] == [daemon]


def test_sysctls(cli: Cli) -> None:
    cli("list")
    assert cli("sysctl", "get", "conntrack").out == "0\n"
    assert cli("sysctl", "set", "net.ipv4.vs.conntrack", "1", "-v").err == "~ set net.ipv4.vs.conntrack = 1 (was 0)\n"
    assert cli("sysctl", "get", "net/ipv4/vs/conntrack", "-j").json == {"name": "net.ipv4.vs.conntrack", "value": "1"}
    assert cli("sysctl", "set", "conntrack", "1").out == "no changes\n"
    assert "expected" in cli("sysctl", "set", "conntrack", "banana", status=2).err
    cli("sysctl", "set", "net.ipv4.vs.nothing", "1", status=3)
    cli("sysctl", "get", "net.ipv4.vs.nothing", status=3)
    cli("sysctl", "get", "nothing", status=2)
    cli("sysctl", "get", "net.ipv4.../../etc", status=2)
    cli("sysctl", "get", "../etc/passwd", status=2)


def test_a_sysctl_whose_module_is_missing_says_so(cli: Cli) -> None:
    assert "module load nf_conntrack" in cli("sysctl", "get", "nf_conntrack_tcp_be_liberal", status=3).err


def test_setting_ip_forward_is_undone_with_what_it_resets(cli: Cli) -> None:
    name = "net.ipv4.conf.eth0.forwarding"
    cli("sysctl", "set", "net.ipv4.ip_forward", "1")
    assert cli("sysctl", "get", name).out == "1\n"
    cli("sysctl", "set", name, "0")
    cli("sysctl", "set", "net.ipv4.ip_forward", "0")
    cli("rollback", "--last")
    assert cli("sysctl", "get", "net.ipv4.ip_forward").out == "1\n"
    assert cli("sysctl", "get", name).out == "0\n"


def test_a_list_of_sysctls(cli: Cli) -> None:
    cli("list")
    lines = cli("sysctl", "list").lines
    assert lines[0].split() == ["Name", "Value", "Default", "Meaning"]
    (line,) = [line for line in lines if line.startswith("net.ipv4.vs.conntrack ")]
    assert line.split()[1:3] == ["0", "0"]
    assert any(line.startswith("net.ipv4.conf.eth1.accept_local ") for line in lines)
    assert not any(" absent " in line for line in lines)
    assert any(" absent " in line for line in cli("sysctl", "list", "--all").lines)
    found = {each["name"]: each for each in cli("sysctl", "list", "-j").json["sysctls"]}
    assert found["net.ipv4.vs.conntrack"]["value"] == "0"
    assert found["net.ipv4.vs.conntrack"]["module"] == "ip_vs"
    assert all(each["source"] and each["meaning"] for each in found.values())


def test_modules(cli: Cli) -> None:
    states = {each["name"]: each["state"] for each in cli("module", "list", "-j").json["modules"]}
    assert states["ip_vs_ftp"] == "loadable"
    assert cli("module", "load", "ip_vs_ftp", "-v").err == "+ load module ip_vs_ftp\n"
    assert cli("module", "load", "ip-vs-ftp").out == "no changes\n"
    (line,) = [line for line in cli("module", "list").lines if line.startswith("ip_vs_ftp ")]
    assert line.split()[1] == "loaded"
    assert "not found" in cli("module", "load", "nope", status=4).err


def test_emulators(cli: Cli) -> None:
    assert cli("emulate", "list", "-j").json == {"emulators": []}
    assert cli("emulate", "start", "lab", "--dry-run").out == "would start the emulator lab\n"
    assert cli("emulate", "list", "-j").json == {"emulators": []}
    assert "is started" in cli("emulate", "start", "lab").out
    found = cli("emulate", "start", "lab", "-j").json
    assert "runs already" in cli("emulate", "start", "lab").out
    assert cli("emulate", "list", "-j").json == {"emulators": [found]}
    assert cli("emulate", "list").lines[1].split()[:2] == ["lab", str(found["pid"])]
    cli("--host", "emulator:lab", "service", "add", "fwmark:1")
    folder = journal()
    cli("emulate", "stop", "lab", "--dry-run")
    cli("emulate", "stop", "lab")
    assert not folder.exists()
    cli("emulate", "stop", "lab", status=3)
    cli("emulate", "start", "no/such name", status=2)
    assert cli("--host", "emulator:lab", "list", "-j").json == {"services": []}


def test_emulators_are_apart(cli: Cli) -> None:
    cli("--host", "emulator:one", "service", "add", "fwmark:1")
    cli("service", "add", "fwmark:2", "--host", "emulator:two")
    assert [each["address"] for each in cli("list", "-j", "--host", "emulator:one").json["services"]] == ["fwmark:1"]
    cli("rollback", "--host=emulator:one")
    assert cli("list", "-j", "--host", "emulator:one").json["services"] == []
    assert len(cli("list", "-j", "--host", "emulator:two").json["services"]) == 1
