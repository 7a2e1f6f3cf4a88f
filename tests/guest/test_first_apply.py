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
