"""The very first apply on a host without a rule, a table or a module, and back to exactly that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.lab import Lab, must, run
from tests.guest.test_director import FTP_TOML

pytestmark = pytest.mark.guest

MODULES = ("iptable_filter", "iptable_raw", "ip6table_filter", "ip6table_raw")


def rules(lab: Lab, tool: str = "iptables") -> str:
    """What iptables-save prints, without the lines with its dates."""
    lines = lab.on(lab.director, f"{tool}-legacy-save").stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "ftp.toml"
    path.write_text(FTP_TOML)
    # Earlier tests may have left empty tables in the first namespace.
    for module in MODULES:
        run("rmmod", module)
    names = Path("/proc/net/ip_tables_names")
    assert not (names.exists() and names.read_text()), "tables are still in use"
    return str(path)


def test_tables_that_were_not_there_are_gone_again(file: str) -> None:
    with Lab("f") as lab:
        assert rules(lab) == ""
        assert lab.ipvsctl("apply", file).status == 0
        assert "IPVSCTL-PREROUTING" in rules(lab)
        assert lab.ipvsctl("rollback").status == 0
        assert rules(lab) == ""
        assert lab.on(lab.director, "ipvsadm", "-Sn").stdout == ""


def test_a_table_that_others_have_stays_empty(file: str) -> None:
    """Table raw is in the first namespace too, with a policy: taking its module away would take that."""
    with Lab("g") as lab:
        must("iptables-legacy", "-t", "raw", "-P", "PREROUTING", "DROP")
        try:
            assert lab.ipvsctl("apply", file).status == 0
            assert lab.ipvsctl("rollback").status == 0
            assert rules(lab) == "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT"
            assert "PREROUTING DROP" in must("iptables-legacy-save", "-t", "raw")
        finally:
            must("iptables-legacy", "-t", "raw", "-P", "PREROUTING", "ACCEPT")


def test_a_table_with_a_foreign_rule_stays(file: str) -> None:
    with Lab("h") as lab:
        assert lab.ipvsctl("apply", file).status == 0
        must("ip", "netns", "exec", lab.director, "iptables-legacy", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
        assert lab.ipvsctl("rollback").status == 0
        assert "-A INPUT -i lo -j ACCEPT" in rules(lab)
        assert "*raw" not in rules(lab)


def test_a_policy_set_meanwhile_stays(file: str) -> None:
    with Lab("i") as lab:
        assert lab.ipvsctl("apply", file).status == 0
        must("ip", "netns", "exec", lab.director, "iptables-legacy", "-P", "OUTPUT", "DROP")
        assert lab.ipvsctl("rollback").status == 0
        assert rules(lab) == "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT DROP [0:0]\nCOMMIT"


def test_removing_the_firewall_is_exactly_as_before(file: str) -> None:
    with Lab("j") as lab:
        assert lab.ipvsctl("firewall", "apply", "--protect", "192.0.2.1", "--protect", "2001:db8::1").status == 0
        assert "IPVSCTL-INPUT" in rules(lab)
        assert "IPVSCTL-INPUT" in rules(lab, "ip6tables")
        assert lab.ipvsctl("firewall", "remove").status == 0
        assert (rules(lab), rules(lab, "ip6tables")) == ("", "")


def test_a_foreign_jump_to_a_chain_of_ours_keeps_nothing_closed(file: str) -> None:
    """The chain cannot go while a rule of somebody else's jumps to it; its rules and our own jumps do."""
    with Lab("k") as lab:
        assert lab.ipvsctl("apply", file).status == 0
        foreign = ("ip", "netns", "exec", lab.director, "iptables-legacy", "{}", "FORWARD", "-j", "IPVSCTL-FORWARD")
        must(*(word.format("-A") for word in foreign))
        failed = lab.ipvsctl("rollback")
        assert failed.status == 6, failed
        assert "IPVSCTL-FORWARD" in failed.stderr
        assert [line for line in rules(lab).splitlines() if line.startswith("-A")] == ["-A FORWARD -j IPVSCTL-FORWARD"]
        must(*(word.format("-D") for word in foreign))
        assert lab.ipvsctl("rollback").status == 0
        assert rules(lab) == ""
