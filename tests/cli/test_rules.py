"""`nfct` and `firewall`."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli

FTP = "tcp:192.168.1.100:21"


@pytest.fixture
def ftp(cli: Cli) -> Cli:
    """An FTP service with a nat server, and a web service."""
    cli("service", "add", FTP, "-s", "rr")
    cli("server", "add", FTP, "10.0.2.2", "--forward", "nat")
    cli("service", "add", "tcp:192.168.1.101:80")
    return cli


def chains(cli: Cli) -> list[str]:
    return [f"{each['table']} {each['name']}" for each in cli("firewall", "show", "-j").json["chains"]]


def test_status_of_an_untouched_director(ftp: Cli) -> None:
    status = ftp("nfct", "status", "-j").json
    assert list(status) == ["conntrack", "snat_reroute", "be_liberal", "accept_local", "helpers", "hooks", "modules"]
    assert (status["conntrack"], status["snat_reroute"], status["accept_local"]) == (False, True, [])
    assert status["helpers"] == status["hooks"] == []
    assert status["modules"]["ip_vs"] == "loaded"
    assert [line.split() for line in ftp("nfct", "status").lines[:2]] == [["conntrack", "off"], ["snat_reroute", "on"]]


def test_status_where_nothing_is_loaded(cli: Cli) -> None:
    status = cli("nfct", "status", "-j").json
    assert (status["conntrack"], status["be_liberal"], status["modules"]["ip_vs"]) == (None, None, "loadable")
    assert cli("nfct", "status").lines[0].split() == ["conntrack", "absent"]


def test_enable_and_disable(ftp: Cli) -> None:
    done = ftp("nfct", "enable", "--be-liberal", "--accept-local", "eth1", "-j").json["changes"]
    assert {each["change"] for each in done} >= {"load-module", "replace-rules", "set-sysctl"}
    status = ftp("nfct", "status", "-j").json
    assert (status["conntrack"], status["be_liberal"], status["accept_local"]) == (True, True, ["eth1"])
    assert status["helpers"] == [{"service": FTP, "helper": "ftp"}]
    assert status["hooks"] == ["raw IPVSCTL-PREROUTING"]
    assert ftp("nfct", "enable").out == "no changes\n"
    ftp("nfct", "disable", "--accept-local", "eth1")
    status = ftp("nfct", "status", "-j").json
    assert (status["conntrack"], status["be_liberal"], status["accept_local"]) == (False, False, [])
    assert status["helpers"] == []
    assert ftp("nfct", "disable").out == "no changes\n"


def test_enable_changes_only_what_is_named(ftp: Cli) -> None:
    ftp("nfct", "enable", "--no-snat-reroute", "--be-liberal")
    ftp("nfct", "enable", "--accept-local", "eth0")
    status = ftp("nfct", "status", "-j").json
    assert (status["snat_reroute"], status["be_liberal"], status["accept_local"]) == (False, True, ["eth0"])


def test_the_helper_needs_ftp_and_nat(cli: Cli) -> None:
    assert "no tcp service on port 21" in cli("nfct", "enable", "--helper", "ftp", status=3).err
    cli("service", "add", FTP)
    cli("server", "add", FTP, "10.0.2.2", "--forward", "tun")
    assert "forward nat" in cli("nfct", "enable", "--helper", "ftp", status=2).err
    assert f"note: no helper for {FTP}" in cli("nfct", "enable").err
    assert chains(cli) == []


def test_enable_and_disable_leave_the_firewall_as_it_is(ftp: Cli) -> None:
    ftp("firewall", "apply", "--local-client", "10.0.2.2")
    before = [each for each in ftp("firewall", "show", "-j").json["chains"] if each["table"] == "filter"]
    assert {each["name"] for each in before} == {"IPVSCTL-INPUT", "IPVSCTL-FORWARD", "IPVSCTL-FORWARD-DROP"}
    ftp("nfct", "disable")
    assert ftp("firewall", "show", "-j").json["chains"] == before
    ftp("nfct", "enable")
    assert [each for each in ftp("firewall", "show", "-j").json["chains"] if each["table"] == "filter"] == before
    assert "raw IPVSCTL-OUTPUT" in chains(ftp)


def test_the_firewall_protects_every_service(ftp: Cli) -> None:
    ftp("firewall", "apply")
    text = ftp("firewall", "show").out
    for line in (
        "# iptables -t filter\n",
        ":IPVSCTL-INPUT - [0:0]\n",
        "-A INPUT -m comment --comment ipvsctl -j IPVSCTL-INPUT\n",
        "-A IPVSCTL-INPUT -d 192.168.1.100 -p tcp -m tcp --dport 21 -j ACCEPT\n",
        "-A IPVSCTL-INPUT -d 192.168.1.101 -p tcp -j DROP\n",
        "-A IPVSCTL-PREROUTING -d 192.168.1.100 -p tcp -m tcp --dport 21 -j CT --helper ftp\n",
    ):
        assert line in text
    assert ftp("firewall", "apply").out.endswith("no changes\n")
    assert ftp("sysctl", "get", "conntrack").out == "0\n"


def test_options_of_the_firewall(ftp: Cli) -> None:
    ftp("firewall", "apply", "--protect", "192.168.1.101", "--forward-policy", "accept", "--local-client", "10.0.2.2")
    text = ftp("firewall", "show").out
    assert "-d 192.168.1.100 -p tcp -j DROP" not in text
    assert "IPVSCTL-FORWARD-DROP" not in text
    assert "-A IPVSCTL-INPUT -s 10.0.2.2 -p tcp -j ACCEPT" in text
    ftp("firewall", "apply", "--protect", "elsewhere", status=2)
    ftp("firewall", "apply", "--forward-policy", "reject", status=2)


def test_rules_are_shown_before_they_come_and_go(ftp: Cli) -> None:
    plan = ftp("firewall", "apply", "--dry-run")
    assert "    + -A IPVSCTL-INPUT -d 192.168.1.100 -p tcp -m tcp --dport 21 -j ACCEPT" in plan.lines
    assert chains(ftp) == []
    ftp("firewall", "apply")
    plan = ftp("firewall", "apply", "--dry-run", "--forward-policy", "accept")
    assert "    - -A IPVSCTL-FORWARD-DROP -j DROP" in plan.lines
    assert any(line.startswith("      -A IPVSCTL-INPUT") for line in plan.lines)


def test_remove_and_rollback(ftp: Cli) -> None:
    ftp("firewall", "apply")
    before = chains(ftp)
    ftp("firewall", "remove")
    assert chains(ftp) == []
    assert ftp("firewall", "show").out == "# no rules of ours\n"
    assert ftp("firewall", "remove").out == "no changes\n"
    ftp("rollback", "--last")
    assert chains(ftp) == before


def test_nothing_to_protect_is_refused(cli: Cli) -> None:
    assert "nothing to protect" in cli("firewall", "apply", status=1).err


def test_a_back_end_that_is_not_here(ftp: Cli) -> None:
    ftp("firewall", "apply", "--backend", "nft", status=4)
