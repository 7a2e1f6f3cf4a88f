"""`list`, `service` and `server` on an emulated director."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli

WEB = "tcp:192.0.2.1:80"


@pytest.fixture
def web(cli: Cli) -> Cli:
    """A service with two servers."""
    cli("service", "add", WEB, "--scheduler", "wlc", "--persistent")
    cli("server", "add", WEB, "10.0.2.2:8080", "--forward", "nat", "--weight", "3")
    cli("server", "add", WEB, "10.0.2.3", "--upper", "100", "--lower", "50")
    return cli


def servers(cli: Cli) -> dict[str, dict[str, object]]:
    return {each["address"]: each for each in cli("-j", "list").json["services"][0]["servers"]}


def test_a_list_for_people(web: Cli) -> None:
    web("service", "add", "udp:[2001:db8::1]:53", "--ops")
    assert web("list").lines == [
        "Service               Scheduler Flags",
        "  -> Server           Forward  Weight  ActiveConn  InActConn",
        "tcp:192.0.2.1:80      wlc persistent 300",
        "  -> 10.0.2.3:80      dr            1           0          0",
        "  -> 10.0.2.2:8080    nat           3           0          0",
        "udp:[2001:db8::1]:53  wlc ops",
    ]


def test_a_list_as_json_has_the_keys_of_the_contract(web: Cli) -> None:
    (service,) = web("list", "-j").json["services"]
    zero = dict.fromkeys(
        ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out", "cps", "pps_in", "pps_out", "bps_in",
         "bps_out"), 0
    )  # fmt: skip
    assert service["servers"][1] == {
        "address": "10.0.2.2:8080", "forward": "nat", "weight": 3, "upper": 0, "lower": 0, "tunnel": None,
        "active_connections": 0, "inactive_connections": 0, "persistent_connections": 0, "stats": zero,
    }  # fmt: skip
    del service["servers"]
    assert service == {
        "address": WEB, "scheduler": "wlc", "flags": [], "persistent": 300, "netmask": None, "pe": None, "stats": zero,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("option", "headings", "server"),
    [
        ("--stats", "Service             Conns  InPkts  OutPkts  InBytes  OutBytes", ["0"] * 5),
        ("--rate", "Service             CPS  InPPS  OutPPS  InBPS  OutBPS", ["0"] * 5),
        ("--persistent", "  -> Server         Weight  PersistConn  ActiveConn  InActConn", ["3", "0", "0", "0"]),
        ("--thresholds", "  -> Server         Uthreshold  Lthreshold  ActiveConn  InActConn", ["0", "0", "0", "0"]),
        (
            "--tunnel",
            "  -> Server         Forward  Tunnel  Weight  ActiveConn  InActConn",
            ["nat", "n/a", "3", "0", "0"],
        ),
    ],
)
def test_layouts(web: Cli, option: str, headings: str, server: list[str]) -> None:
    lines = web("list", option, "--exact").lines
    assert headings in lines[:2]
    (line,) = [line.split() for line in lines if "8080" in line]
    assert line[2:] == server


def test_a_list_has_one_layout(cli: Cli) -> None:
    assert "exclude each other" in cli("list", "--stats", "--rate", status=2).err


def test_a_list_of_one_service(web: Cli) -> None:
    web("service", "add", "fwmark:7/inet6")
    assert len(web("list").lines) == 6
    assert len(web("list", "fwmark:7/inet6").lines) == 3
    assert web("list", "-j", "fwmark:7/inet6").json["services"][0]["address"] == "fwmark:7/inet6"
    assert web("list", "tcp:192.0.2.9:80", status=3).err == "ipvsctl: there is no service tcp:192.0.2.9:80\n"


def test_tunnels(cli: Cli) -> None:
    cli("service", "add", WEB)
    cli("server", "add", WEB, "10.0.2.2", "--tunnel", "gue", "--tunnel-port", "6080", "--tunnel-csum", "remote")
    cli("server", "add", WEB, "10.0.2.3", "--tunnel", "gre")
    cli("server", "add", WEB, "[2001:db8::9]:80", "--forward", "tun")
    words = [line.split()[1:4] for line in cli("list", "--tunnel").lines[3:]]
    assert words == [
        ["[2001:db8::9]:80", "tun", "ipip"], ["10.0.2.3:80", "tun", "gre:-c"], ["10.0.2.2:80", "tun", "gue:6080:r+c"],
    ]  # fmt: skip
    cli("server", "edit", WEB, "10.0.2.2", "--tunnel-port", "6081")
    assert servers(cli)["10.0.2.2:80"]["tunnel"] == {"type": "gue", "port": 6081, "csum": "remote"}
    cli("server", "edit", WEB, "10.0.2.2", "--tunnel", "ipip")
    assert servers(cli)["10.0.2.2:80"]["tunnel"] is None
    cli("server", "edit", WEB, "10.0.2.3", "--forward", "nat")
    assert servers(cli)["10.0.2.3:80"]["tunnel"] is None
    assert "gue tunnel needs a port" in cli("server", "add", WEB, "10.0.2.4", "--tunnel", "gue", status=2).err
    assert "--tunnel-port" in cli("server", "edit", WEB, "10.0.2.3", "--tunnel-port", "1", status=2).err


def test_edit_changes_only_what_is_named(web: Cli) -> None:
    web("server", "edit", WEB, "10.0.2.3", "--weight", "0")
    found = servers(web)["10.0.2.3:80"]
    assert (found["weight"], found["upper"], found["lower"], found["forward"]) == (0, 100, 50, "dr")
    web("service", "edit", WEB, "--scheduler", "mh", "--flag", "mh-port")
    service = web("list", "-j").json["services"][0]
    assert (service["scheduler"], service["flags"], service["persistent"]) == ("mh", ["mh-port"], 300)
    assert len(service["servers"]) == 2
    web("service", "edit", WEB, "--netmask", "24")
    web("service", "edit", WEB, "--no-flags")
    service = web("list", "-j").json["services"][0]
    assert (service["scheduler"], service["flags"], service["netmask"]) == ("mh", [], "255.255.255.0")
    web("service", "edit", WEB, "--no-persistent")
    service = web("list", "-j").json["services"][0]
    assert (service["persistent"], service["netmask"], service["pe"]) == (None, None, None)


def test_edit_of_what_is_so_already_changes_nothing(web: Cli) -> None:
    assert web("server", "edit", WEB, "10.0.2.3", "--weight", "1").out == "no changes\n"
    assert web("service", "edit", WEB, "--scheduler", "wlc", "-j").json == {"changes": [], "notes": []}


def test_edit_of_nothing_is_wrong_usage(web: Cli) -> None:
    assert "nothing to edit" in web("service", "edit", WEB, status=2).err
    assert "nothing to edit" in web("server", "edit", WEB, "10.0.2.3", status=2).err
    assert "exclude" in web("service", "edit", WEB, "--persistent=5", "--no-persistent", status=2).err


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (["--persistent"], 300),
        (["--persistent=60"], 60),
        (["--persistent", "1m30s"], 90),
        (["-p"], 300),
        (["-p", "1h"], 3600),
        (["-p7"], 7),
        ([], None),
    ],
)
def test_persistent_takes_a_value_or_none(cli: Cli, words: list[str], seconds: int | None) -> None:
    cli("service", "add", *words, WEB)
    assert cli("-j", "list").json["services"][0]["persistent"] == seconds
    cli("service", "delete", WEB)
    cli("service", "add", WEB, *words)
    assert cli("-j", "list").json["services"][0]["persistent"] == seconds


def test_one_packet_scheduling_comes_and_goes(cli: Cli) -> None:
    cli("service", "add", "udp:192.0.2.1:53", "-s", "sh", "--flag", "sh-port", "--ops")
    assert cli("-j", "list").json["services"][0]["flags"] == ["ops", "sh-port"]
    assert cli("list").lines[2].endswith("sh (sh-port) ops")
    cli("service", "edit", "udp:192.0.2.1:53", "--no-ops")
    assert cli("-j", "list").json["services"][0]["flags"] == ["sh-port"]
    assert "one-packet" in cli("service", "add", WEB, "--ops", status=2).err


def test_show(web: Cli) -> None:
    lines = web("service", "show", WEB).lines
    assert lines[0] == WEB
    assert lines[1].split() == ["scheduler", "wlc"]
    assert "  -> 10.0.2.2:8080" in lines
    assert web("service", "show", WEB, "-j").json == web("list", WEB, "-j").json["services"][0]
    web("service", "show", "tcp:192.0.2.9:80", status=3)


def test_refusals_have_their_status(web: Cli) -> None:
    assert "exists already" in web("service", "add", WEB, status=3).err
    assert "exists already" in web("server", "add", WEB, "10.0.2.3", status=3).err
    assert f"no server 10.0.2.9:80 in {WEB}" in web("server", "delete", WEB, "10.0.2.9", status=3).err
    web("service", "delete", "tcp:192.0.2.9:80", status=3)
    web("server", "add", "tcp:192.0.2.9:80", "10.0.2.2", status=3)
    web("server", "edit", "tcp:192.0.2.9:80", "10.0.2.2", "--weight", "1", status=3)
    assert "no scheduler 'nope'" in web("service", "add", "tcp:192.0.2.9:80", "-s", "nope", status=1).err
    assert "port 0" in web("service", "add", "tcp:192.0.2.9:0", status=2).err
    assert "forward tun only" in web("server", "add", WEB, "[2001:db8::2]:80", status=2).err
    assert "belongs to scheduler sh" in web("service", "add", "tcp:192.0.2.9:1", "--flag", "sh-port", status=2).err


def test_ports_that_only_nat_could_change_are_noted(cli: Cli) -> None:
    cli("service", "add", WEB)
    assert "note: only nat changes the port" in cli("server", "add", WEB, "10.0.2.4:81").err
    assert cli("server", "add", WEB, "10.0.2.5:81", "--forward", "nat").err == ""
    assert cli("server", "add", WEB, "10.0.2.6:81", "-q").err == ""
    assert len(cli("server", "add", WEB, "10.0.2.7:81", "-j").json["notes"]) == 1


def test_zero_delete_and_clear(web: Cli) -> None:
    assert web("service", "zero", WEB).out == "done: 1 change\n"
    assert web("service", "zero", "-v").err == "~ zero the counters of every service\n"
    web("service", "zero", "tcp:192.0.2.9:80", status=3)
    web("server", "delete", WEB, "10.0.2.3")
    assert list(servers(web)) == ["10.0.2.2:8080"]
    web("service", "add", "fwmark:7")
    assert web("service", "clear", "-v").err == f"- delete service {WEB} with 1 server\n- delete service fwmark:7\n"
    assert web("service", "clear").out == "no changes\n"
    assert web("list", "-j").json == {"services": []}
    web("rollback", "--last")
    assert list(servers(web)) == ["10.0.2.2:8080"]
