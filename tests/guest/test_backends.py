"""The firewall's back ends on kernels where all of it is modules, and through `apply` and `rollback` with real clients.

What holds on the machine's own kernel holds here: those tests run again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipvsctl.kernel.firewall import KernelFirewall
from ipvsctl.model.address import INET
from ipvsctl.model.change import ReplaceRules
from tests.guest.lab import FTP_SERVER, VIP, Lab, curl_modes, ftp_root
from tests.guest.test_director import FTP_TOML
from tests.kernel.namespaces import fresh_namespace, run
from tests.kernel.test_back_ends import (  # noqa: F401
    FOREIGN,
    LEGACY,
    USABLE,
    rules,
    test_a_change_between_reading_and_writing,
    test_a_foreign_jump_keeps_a_chain,
    test_a_mix_is_noted,
    test_a_refused_rule_changes_nothing,
    test_applied_twice_sends_nothing,
    test_auto_goes_where_the_rules_are,
    test_counters_of_rules_that_stay,
    test_ipvs_matches_are_refused_by_nft,
    test_jumps_of_the_administrator_stay_where_they_are,
    test_removal_is_byte_for_byte,
    test_somebody_who_always_changes_it_back_is_told_of,
    test_the_text_makes_the_same_table,
    test_what_is_not_installed_is_named_with_its_package,
)
from tests.kernel.test_firewall import PREROUTING

pytestmark = pytest.mark.guest


def loaded() -> set[str]:
    return set(run("cut -d' ' -f1 /proc/modules").split())


def test_asking_loads_no_module() -> None:
    """First of all that touch nftables here: modules stay."""
    with fresh_namespace():
        before = loaded()
        firewall = KernelFirewall()
        for name in USABLE:
            assert firewall.backend(name) == name
            assert firewall.chains(name) == () and firewall.tables(name) == frozenset()
        assert firewall.owners() == ()
        firewall.notes()
        assert loaded() - before <= {"ip_tables", "ip6_tables", "x_tables"}, "importing python-iptables asks for these"


def test_auto_says_why_it_is_not_legacy() -> None:
    with fresh_namespace():
        firewall = KernelFirewall()
        notes = [note for note in firewall.notes() if "this kernel has no legacy iptables" in note]
        assert len(notes) == (not LEGACY)
        assert firewall.backend() == "nft"
        if LEGACY:
            run(FOREIGN["iptables-legacy"])
            assert firewall.backend() == "iptables-legacy"


@pytest.mark.parametrize("backend", USABLE)
def test_a_change_brings_the_modules_it_needs(backend: str) -> None:
    with fresh_namespace():
        change = ReplaceRules(backend, INET, "raw", (PREROUTING,))
        KernelFirewall().replace(change)
        assert {"iptables-legacy": "iptable_raw"}.get(backend, "nf_tables") in loaded()
        assert "nf_conntrack_ftp" in loaded()
        KernelFirewall().replace(ReplaceRules(backend, INET, "raw", (), (PREROUTING,), drops=True))
        assert run("nft list ruleset") == ""


# -- through the command line -----------------------------------------------------------------------------------------


def everything(lab: Lab) -> str:
    """Every rule set, without dates, counters and the handles of nftables."""
    programs = ["iptables-nft-save", "ip6tables-nft-save", "nft -s list ruleset"]
    programs += ["iptables-legacy-save", "ip6tables-legacy-save"] if LEGACY else []
    text = "".join(lab.on(lab.director, *program.split()).stdout for program in programs)
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return "\n".join(line.split(" [")[0] if line.startswith(":") else line for line in lines)


def file_for(tmp_path: Path, backend: str) -> str:
    path = tmp_path / f"{backend}.toml"
    path.write_text(FTP_TOML.replace('backend = "iptables-legacy"', f'backend = "{backend}"'))
    return str(path)


def test_each_back_end_serves_and_is_undone(tmp_path: Path) -> None:
    with Lab("b") as lab:
        lab.serve(lab.rs1, FTP_SERVER, "10.0.2.2", ftp_root(tmp_path, "rs1"))
        before = everything(lab)
        for backend in USABLE:
            file = file_for(tmp_path, backend)
            applied = lab.ipvsctl("apply", file)
            assert applied.status == 0, applied
            for mode, options in curl_modes():
                fetched = lab.fetch(*options)
                assert fetched.status == 0, (backend, mode, fetched)
            assert "no changes" in lab.ipvsctl("plan", file).stdout
            shown = lab.ipvsctl("firewall", "show").stdout
            assert ("table ip ipvsctl {" in shown) == (backend == "nft")
            assert (f"# {backend} -t raw" in shown) == (backend != "nft")
            rolled = lab.ipvsctl("rollback")
            assert rolled.status == 0, rolled
            assert everything(lab) == before, backend


def test_a_file_that_names_another_back_end_moves_the_rules(tmp_path: Path) -> None:
    with Lab("m") as lab:
        before = everything(lab)
        first, *others = USABLE
        assert lab.ipvsctl("apply", file_for(tmp_path, first)).status == 0
        for backend in others:
            was = everything(lab)
            moved = lab.ipvsctl("apply", file_for(tmp_path, backend))
            assert moved.status == 0, moved
            shown = lab.ipvsctl("firewall", "show", "-j").stdout
            assert f'"backend": "{backend}"' in shown and shown.count('"backend": "') == shown.count(f': "{backend}"')
            assert lab.ipvsctl("rollback").status == 0
            if "legacy" not in first:
                assert everything(lab) == was
            assert "no changes" in lab.ipvsctl("plan", file_for(tmp_path, first)).stdout
        assert lab.ipvsctl("rollback").status == 0
        assert everything(lab) == before


def test_the_trace_reads_our_table_of_nftables(tmp_path: Path) -> None:
    with Lab("t") as lab:
        assert lab.ipvsctl("apply", file_for(tmp_path, "nft")).status == 0
        traced = lab.ipvsctl("-j", "trace", "--session", "ftp-passive", "10.0.1.2", f"{VIP}:21")
        assert traced.status == 0, traced
        assert json.loads(traced.stdout)["complete"] is True
        assert "is not read" not in traced.stdout + traced.stderr
        assert lab.ipvsctl("rollback").status == 0
