"""Every firewall back end on this machine's kernel, in network namespaces, judged by who owns the rules."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipvsctl.errors import NotPermitted, Refused
from ipvsctl.formats.nft_rules import written
from ipvsctl.formats.nft_text import render
from ipvsctl.kernel import iptables_nft, nft, rule_tools
from ipvsctl.kernel.firewall import KernelFirewall
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.rule import Match, OwnChain, Rule
from tests.formats.said_rules import said
from tests.kernel.namespaces import as_nobody, fresh_namespace, run
from tests.kernel.test_firewall import FORWARD, FORWARD_DROP, INPUT, INPUT6, PREROUTING, port

ROOT = Path(__file__).resolve().parents[2]
BACK_ENDS = ("iptables-legacy", "iptables-nft", "nft")
LEGACY = KernelModules().feature("iptable_filter").state != "absent"
"""Linux 7.3 may be built without."""

USABLE = [name for name in BACK_ENDS if LEGACY or name != "iptables-legacy"]
SAVES = {
    "iptables-legacy": "iptables-legacy-save -c; ip6tables-legacy-save -c" if LEGACY else "true",
    "iptables-nft": "iptables-nft-save -c; ip6tables-nft-save -c",
    "nft": "nft list ruleset",
}
FOREIGN = {
    "iptables-legacy": "iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-legacy -P FORWARD DROP",
    "iptables-nft": "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-nft -P FORWARD DROP",
    "nft": "nft add table inet theirs; nft 'add chain inet theirs c { type filter hook input priority 5; }';"
    "nft add rule inet theirs c tcp dport 22 counter accept",
}


class Rules:
    """One back end of the namespace's firewall."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.firewall = KernelFirewall()

    def chains(self) -> tuple[OwnChain, ...]:
        return self.firewall.chains(self.backend)

    def make(self, *after: OwnChain, family: int = INET, table: str = "filter", drops: bool = False) -> None:
        if after:
            family, table = after[0].family, after[0].table
        self.firewall.replace(ReplaceRules(self.backend, family, table, after, drops=drops))

    def saved(self) -> str:
        """Everything there is, of all back ends, without dates."""
        text = run("; ".join(SAVES.values()))
        return "".join(line for line in text.splitlines(True) if not line.startswith("#"))


@pytest.fixture(params=USABLE)
def rules(request: pytest.FixtureRequest) -> Iterator[Rules]:
    with fresh_namespace():
        run("ip link set lo up")
        yield Rules(request.param)


def packets(rules: Rules) -> list[int]:
    """The counters of the rules in IPVSCTL-INPUT, as the owner of the rules prints them."""
    if rules.backend == "nft":
        text = run("nft list chain ip ipvsctl filter.IPVSCTL-INPUT")
        return [int(line.split("packets ")[1].split()[0]) for line in text.splitlines() if "packets" in line]
    lines = run(f"{rules.backend}-save -c -t filter").splitlines()
    return [int(line[1:].split(":")[0]) for line in lines if "-A IPVSCTL-INPUT" in line]


def send(number: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", number))


def udp(number: int) -> Rule:
    return Rule("ACCEPT", "udp", matches=(Match("udp", (("dport", str(number)),)),))


# -- apply, apply again, remove ---------------------------------------------------------------------------------------


def test_removal_is_byte_for_byte(rules: Rules) -> None:
    assert rules.saved() == ""
    for foreign in ("true", FOREIGN[rules.backend]):
        run(foreign)
        before = rules.saved()
        rules.make(INPUT, FORWARD, FORWARD_DROP)
        rules.make(PREROUTING)
        rules.make(INPUT6)
        assert rules.chains() == (FORWARD, FORWARD_DROP, INPUT, PREROUTING, INPUT6)
        rules.make(drops=foreign == "true")
        rules.make(table="raw", drops=True)
        rules.make(family=INET6, drops=True)
        assert rules.chains() == ()
        if rules.backend == "iptables-legacy":
            # Tables that are not modules stay, as new.
            assert [line for line in rules.saved().splitlines() if line[:1] in "[-"] == [
                line for line in before.splitlines() if line[:1] in "[-"
            ]
            continue
        assert rules.saved() == before
        assert rule_tools.nftables() == () or foreign != "true"


def test_applied_twice_sends_nothing(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        pytest.fail(f"sent {given}")

    rules.make(INPUT, FORWARD, FORWARD_DROP)
    rules.make(PREROUTING)
    monkeypatch.setattr(nft, "_commit", refuse)
    monkeypatch.setattr(iptables_nft, "_commit", refuse)
    before = rules.saved()
    rules.make(INPUT, FORWARD, FORWARD_DROP)
    rules.make(PREROUTING)
    assert rules.saved() == before


def test_counters_of_rules_that_stay(rules: Rules) -> None:
    chain = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", tuple(map(udp, (7, 8, 9))))
    rules.make(chain)
    for number, times in ((7, 1), (8, 2), (9, 3)):
        for _ in range(times):
            send(number)
    assert packets(rules) == [1, 2, 3]
    rules.make(chain)
    assert packets(rules) == [1, 2, 3]
    rules.make(replace(chain, rules=(udp(6), udp(7), udp(9), udp(10))))
    assert packets(rules) == [0, 1, 3, 0]
    rules.make(replace(chain, rules=(udp(9), udp(7))), FORWARD)
    assert sorted(packets(rules)) in ([0, 1], [0, 3]), "of two that change places one stays"


@pytest.mark.parametrize("rules", [name for name in USABLE if name != "nft"], indirect=True)
def test_jumps_of_the_administrator_stay_where_they_are(rules: Rules) -> None:
    """The table of nft is all ours."""
    rules.make(FORWARD)
    run(f"{rules.backend} -I FORWARD -s 10.0.0.1 -j DROP; {rules.backend} -A FORWARD -s 10.0.0.2 -j DROP")
    rules.make(FORWARD, FORWARD_DROP)
    targets = [line.split()[-1] for line in run(f"{rules.backend} -S FORWARD").splitlines()[1:]]
    assert targets == ["DROP", "IPVSCTL-FORWARD", "DROP", "IPVSCTL-FORWARD-DROP"]
    rules.make(FORWARD_DROP)
    rules.make()
    assert run(f"{rules.backend} -S FORWARD").count("-j DROP") == 2 and rules.chains() == ()


def test_a_foreign_jump_keeps_a_chain(rules: Rules) -> None:
    rules.make(FORWARD)
    if rules.backend == "nft":
        run("nft add chain ip ipvsctl theirs; nft add rule ip ipvsctl theirs jump filter.IPVSCTL-FORWARD")
    else:
        run(f"{rules.backend} -A OUTPUT -j IPVSCTL-FORWARD")
    before = rules.saved()
    with pytest.raises(Refused, match=r"^cannot remove the rules of"):
        rules.make()
    assert rules.saved() == before


# -- what is taken and what is not ------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rules_read_as_they_were_made(rules: Rules, data: st.DataObject) -> None:
    for family in (INET, INET6):
        made = data.draw(st.lists(said(family), min_size=1, max_size=6, unique=True))
        chain = OwnChain(family, "filter", "IPVSCTL-INPUT", "INPUT", tuple(filter(fits(family), made)))
        rules.make(chain)
        assert [c for c in rules.chains() if c.family == family] == [chain]


def fits(family: int) -> object:
    def said_in_nft(rule: Rule) -> bool:
        try:
            written(family, "filter", rule)
        except Refused:
            return False
        return True

    return said_in_nft


def test_a_refused_rule_changes_nothing(rules: Rules) -> None:
    rules.make(INPUT)
    before = rules.saved()
    # libiptc takes any text as a comment; a line of iptables-restore ends at its line feed.
    text = "a\nCOMMIT" if rules.backend != "iptables-legacy" else "x" * 300
    for wrong in (
        Rule("ACCEPT", matches=(Match("no_such_match", (("x", "1"),)),)),
        Rule("ACCEPT", matches=(Match("comment", (("comment", text),)),)),
        Rule("ACCEPT", "tcp", matches=(Match("tcp", (("dport", "1 -j DROP"),)),)),
        Rule("IPVSCTL-NOT-THERE"),
        Rule("CT", "tcp", target_options=(("helper", "ftp"),)),
    ):
        with pytest.raises(Refused, match=r"^cannot "):
            rules.make(replace(INPUT, rules=(port(2), wrong)))
        assert rules.saved() == before, wrong


def test_ipvs_matches_are_refused_by_nft() -> None:
    with fresh_namespace():
        rules = Rules("nft")
        ipvs = Rule("ACCEPT", matches=(Match("ipvs", (("vaddr", "192.0.2.1"),)),))
        with pytest.raises(Refused, match=r"nftables cannot say -m ipvs$"):
            rules.make(replace(INPUT, rules=(ipvs,)))
        assert rules.saved() == ""


def test_the_text_makes_the_same_table() -> None:
    with fresh_namespace():
        rules = Rules("nft")
        for chains in ((INPUT, FORWARD, FORWARD_DROP), (PREROUTING,), (INPUT6,)):
            rules.make(*chains)
        found = rules.chains()
        text = "".join(f"{line}\n" for line in render(found))
        run("nft flush ruleset; nft -f -", text)
        assert rules.chains() == found


# -- others at the same time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["iptables-nft", "nft"], indirect=True)
def test_a_change_between_reading_and_writing(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes away what we were to change: it is read again. Legacy's test is in test_firewall.py."""
    chain = replace(INPUT, rules=tuple(map(port, (1, 2, 3))))
    rules.make(chain)
    module = {"nft": nft, "iptables-nft": iptables_nft}[rules.backend]
    commit = module._commit
    calls = []

    def late(*given: object) -> None:
        calls.append(given)
        if len(calls) == 1:
            run("nft flush chain ip ipvsctl filter.IPVSCTL-INPUT" if rules.backend == "nft" else
                "iptables-nft -F IPVSCTL-INPUT; iptables-nft -A INPUT -s 10.0.0.1 -j DROP")  # fmt: skip
        commit(*given)

    monkeypatch.setattr(module, "_commit", late)
    wanted = replace(chain, rules=tuple(map(port, (1, 3, 4))))
    rules.make(wanted)
    assert rules.chains() == (wanted,)
    assert len(calls) > 1
    if rules.backend == "iptables-nft":
        assert "-s 10.0.0.1/32 -j DROP" in run("iptables-nft-save")


@pytest.mark.parametrize("rules", ["iptables-nft", "nft"], indirect=True)
def test_somebody_who_always_changes_it_back_is_told_of(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """In iptables-legacy we hold the lock."""
    rules.make(FORWARD)
    before = rules.chains()
    module = {"nft": nft, "iptables-nft": iptables_nft}[rules.backend]
    commit = module._commit

    def undone(*given: object) -> None:
        commit(*given)
        run("nft flush chain ip ipvsctl filter.IPVSCTL-INPUT 2>/dev/null || true" if rules.backend == "nft" else
            "iptables-nft -F IPVSCTL-INPUT 2>/dev/null || true")  # fmt: skip

    monkeypatch.setattr(module, "_commit", undone)
    with pytest.raises(Refused, match="has other rules than those committed"):
        rules.make(INPUT, FORWARD)
    assert rules.chains() == before


# -- what is here -----------------------------------------------------------------------------------------------------


def test_auto_goes_where_the_rules_are(rules: Rules) -> None:
    run(FOREIGN[rules.backend])
    found = rules.firewall.backend()
    assert found == {"iptables-legacy": "iptables-legacy", "iptables-nft": "nft", "nft": "nft"}[rules.backend]
    rules.make(FORWARD)
    assert rules.firewall.backend() == rules.backend and rules.firewall.owners() == (rules.backend,)


def test_a_mix_is_noted(rules: Rules) -> None:
    run(FOREIGN["nft"])
    if LEGACY:
        run(FOREIGN["iptables-legacy"])
    rules.make(FORWARD)
    notes = rules.firewall.notes()
    assert sum("inet theirs" in note for note in notes) == 1
    assert not any("ip ipvsctl" in note for note in notes)
    seen = sum("iptables-legacy has rules here too" in note for note in notes)
    assert seen == (LEGACY and rules.backend != "iptables-legacy")
    assert KernelFirewall().notes() == notes


def test_without_root(rules: Rules) -> None:
    rules.make(FORWARD)
    rules.firewall.notes()
    with as_nobody():
        with pytest.raises(NotPermitted, match="run as root"):
            rules.chains()
        with pytest.raises(NotPermitted, match="run as root"):
            rules.make(INPUT)
        assert rules.firewall.notes() is not None
    assert rules.chains() == (FORWARD,)


CODE = """
import sys
from ipvsctl.kernel import rule_tools
real = rule_tools.find
hidden = set(sys.argv[1].split(",")) if sys.argv[1] else set()
rule_tools.find = lambda program: None if program in hidden else real(program)
if "iptc" in hidden:
    sys.modules["iptc"] = None
from ipvsctl.errors import Unavailable
from ipvsctl.kernel.firewall import KernelFirewall
from ipvsctl.kernel.modules import KernelModules
firewall = KernelFirewall()
for name in ("iptables-legacy", "iptables-nft", "nft", "auto"):
    try:
        print(name, firewall.backend(name))
    except Unavailable as error:
        print(name, "!", error)
print(firewall.owners(), firewall.chains("nft") and "ours", len(firewall.notes()) >= 0)
"""

TOOLS = "iptables,iptables-nft-save,iptables-nft-restore,ip6tables-nft-save,ip6tables-nft-restore"


def words(hidden: str) -> dict[str, str]:
    result = subprocess.run([sys.executable, "-c", CODE, hidden], cwd=ROOT, capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


def test_what_is_not_installed_is_named_with_its_package() -> None:
    with fresh_namespace():
        run("modprobe nf_tables 2>/dev/null || true")
        found = words("nft")
        assert found["nft"] == "! cannot use nft: nft is not installed (Debian: apt install nftables)"
        assert found["iptables-nft"] == "iptables-nft" and found["auto"] in ("iptables-nft", "iptables-legacy")
        found = words(TOOLS)
        assert "is not installed (Debian: apt install iptables)" in found["iptables-nft"]
        assert found["nft"] == found["auto"] == "nft"
        found = words("iptc")
        assert "python-iptables is missing" in found["iptables-legacy"] and found["auto"] == "nft"
        found = words(f"iptc,nft,{TOOLS}")
        assert found["auto"].startswith("! no firewall back end can be used here: ")
        for name in ("python-iptables", "nftables", "iptables"):
            assert name in found["auto"]
        assert found["()"] == "() True"
