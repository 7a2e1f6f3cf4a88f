"""Our own chains in iptables-legacy's tables, and the conntrack table of a host that has seen no packet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipvsctl.errors import IpvsctlError, NotFound, Refused, Unavailable, UsageError
from ipvsctl.host import Host
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.rule import Match, OwnChain, Rule
from ipvsctl.model.status import ConntrackEntry

LEGACY = "iptables-legacy"
TRACKED = Match("conntrack", (("ctstate", "RELATED,ESTABLISHED"),))
FTP = Match("tcp", (("dport", "21"),))

INPUT = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (
    Rule("ACCEPT", destination="192.168.1.100", matches=(TRACKED,)),
    Rule("ACCEPT", protocol="tcp", destination="192.168.1.100", matches=(FTP,)),
    Rule("ACCEPT", protocol="udp", matches=(Match("udp", (("dport", "53"),)),)),
    Rule("ACCEPT", protocol="tcp", source="10.0.2.2"),
    Rule("ACCEPT", source="10.0.0.0/8", in_interface="eth1"),
    Rule("ACCEPT", matches=(Match("mark", (("mark", "0x7"),)),)),
    Rule("DROP", protocol="tcp", destination="192.168.1.100"),
))  # fmt: skip
FORWARD = OwnChain(INET, "filter", "IPVSCTL-FORWARD", "FORWARD", (Rule("ACCEPT", matches=(TRACKED,)),))
LAST = OwnChain(INET, "filter", "IPVSCTL-FORWARD-DROP", "FORWARD", (Rule("DROP"),), place="last")
HELPER = OwnChain(INET, "raw", "IPVSCTL-PREROUTING", "PREROUTING", (
    Rule("CT", protocol="tcp", destination="192.168.1.100", matches=(FTP,), target_options=(("helper", "ftp"),)),
))  # fmt: skip
INPUT6 = OwnChain(INET6, "filter", "IPVSCTL-INPUT", "INPUT", (
    Rule("ACCEPT", protocol="tcp", destination="2001:db8::1", matches=(FTP,)),
    Rule("DROP", source="2001:db8:1::/48"),
))  # fmt: skip


def change(
    *after: OwnChain, before: tuple[OwnChain, ...] = (), table: str = "filter", family: int = INET
) -> ReplaceRules:
    if after:
        family, table = after[0].family, after[0].table
    return ReplaceRules(LEGACY, family, table, after, before)


def test_chains_read_as_they_were_made(host: Host) -> None:
    assert host.firewall.chains() == ()
    for chains in ((INPUT, FORWARD, LAST), (HELPER,), (INPUT6,)):
        host.firewall.replace(change(*chains))
    found = host.firewall.chains()
    assert found == (FORWARD, LAST, INPUT, HELPER, INPUT6)
    assert all(chain.jump for chain in found)
    assert host.modules.feature("xt_CT").state == "loaded"
    assert host.modules.feature("nf_conntrack_ftp").state == "loaded"
    assert host.sysctl.get("net.netfilter.nf_conntrack_max") is not None

    # Twice is once.
    host.firewall.replace(change(INPUT, FORWARD, LAST))
    assert host.firewall.chains() == found

    # One table at a time.
    host.firewall.replace(change(INPUT, before=(INPUT, FORWARD, LAST)))
    assert host.firewall.chains() == (INPUT, HELPER, INPUT6)
    host.firewall.replace(change(before=(HELPER,), table="raw"))
    assert host.firewall.chains() == (INPUT, INPUT6)
    host.firewall.replace(change(before=(INPUT6,), family=INET6))
    host.firewall.replace(change(before=(INPUT,)))
    assert host.firewall.chains() == ()


def test_an_inverse_brings_back_what_was_there(host: Host) -> None:
    first = change(INPUT, FORWARD)
    host.firewall.replace(first)
    shorter = replace(INPUT, rules=INPUT.rules[2:4])
    second = change(shorter, LAST, before=(INPUT, FORWARD))
    host.firewall.replace(second)
    assert host.firewall.chains() == (LAST, shorter)
    for each in (*second.inverse(), *first.inverse()):
        assert isinstance(each, ReplaceRules)
        host.firewall.replace(each)
    assert host.firewall.chains() == ()


def test_chains_may_call_each_other_and_hang_nowhere(host: Host) -> None:
    inner = OwnChain(INET, "filter", "IPVSCTL-INPUT-WEB", "INPUT", (Rule("RETURN"),), jump=False)
    outer = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("IPVSCTL-INPUT-WEB", protocol="tcp"),))
    host.firewall.replace(change(outer, inner))
    assert host.firewall.chains() == (outer, inner)
    assert [chain.jump for chain in host.firewall.chains()] == [True, False]


def test_rules_read_as_iptables_prints_them(host: Host) -> None:
    given = (
        Rule("ACCEPT", protocol="6", source="10.1.2.3/8", destination="192.0.2.1/32"),
        Rule("ACCEPT", protocol="all", source="0.0.0.0/0"),
        Rule("ACCEPT", protocol="!17", source="!10.0.0.0/255.0.0.0", in_interface="!eth0"),
    )
    read = (
        Rule("ACCEPT", protocol="tcp", source="10.0.0.0/8", destination="192.0.2.1"),
        Rule("ACCEPT"),
        Rule("ACCEPT", protocol="!udp", source="!10.0.0.0/8", in_interface="!eth0"),
    )
    host.firewall.replace(change(replace(INPUT, rules=given)))
    assert host.firewall.chains() == (replace(INPUT, rules=read),)
    six = Rule("ACCEPT", protocol="58", source="2001:db8:0:0:1::1/64", destination="2001:DB8::1/128")
    host.firewall.replace(change(replace(INPUT6, rules=(six,))))
    (chain,) = (chain for chain in host.firewall.chains() if chain.family == INET6)
    assert chain.rules == (Rule("ACCEPT", protocol="ipv6-icmp", source="2001:db8::/64", destination="2001:db8::1"),)


def test_removing_nothing_is_no_error_and_makes_no_table(host: Host) -> None:
    host.firewall.replace(change(table="mangle"))
    assert host.firewall.chains() == ()


def test_a_table_stays_until_a_change_drops_it(host: Host) -> None:
    chain = OwnChain(INET, "security", "IPVSCTL-INPUT", "INPUT", (Rule("RETURN"),))
    key = (INET, "security")
    make = replace(change(chain), creates=True)
    assert key not in host.firewall.tables()
    host.firewall.replace(make)
    assert key in host.firewall.tables()
    assert host.modules.feature("iptable_security").state == "loaded"
    host.firewall.replace(change(before=(chain,), table="security"))
    assert host.firewall.chains() == ()
    assert key in host.firewall.tables()
    host.firewall.replace(make)
    (back,) = make.inverse()
    assert isinstance(back, ReplaceRules)
    host.firewall.replace(back)
    assert host.firewall.chains() == ()
    assert key not in host.firewall.tables()
    assert host.modules.feature("iptable_security").state == "loadable"


def rule(target: str = "ACCEPT", **words: str) -> Rule:
    return Rule(target, **words)  # type: ignore[arg-type]


def ct(helper: str, **words: str) -> Rule:
    return Rule("CT", **words, target_options=(("helper", helper),))  # type: ignore[arg-type]


def matching(name: str, *options: tuple[str, str], protocol: str = "") -> Rule:
    return Rule("ACCEPT", protocol=protocol, matches=(Match(name, options),))


WRONG_RULES = {
    "no-target": ("filter", rule("NOSUCH")),
    "no-chain": ("filter", rule("IPVSCTL-NOSUCH")),
    "no-match": ("filter", matching("nosuch")),
    "no-option": ("filter", matching("tcp", ("nosuch", "1"), protocol="tcp")),
    "port-without-protocol": ("filter", matching("tcp", ("dport", "21"))),
    "port-of-another-protocol": ("filter", matching("udp", ("dport", "53"), protocol="tcp")),
    "port-too-high": ("filter", matching("tcp", ("dport", "65536"), protocol="tcp")),
    "port-no-number": ("filter", matching("tcp", ("dport", "nosuch"), protocol="tcp")),
    "source": ("filter", rule(source="nosuch")),
    "family": ("filter", rule(destination="2001:db8::1")),
    "device": ("filter", rule(in_interface="a" * 16)),
    "protocol": ("filter", rule(protocol="nosuch")),
    "target-of-another-table": ("filter", ct("ftp", protocol="tcp")),
    "no-helper": ("raw", ct("nosuch", protocol="tcp")),
    "helper-without-protocol": ("raw", ct("ftp")),
    "helper-of-another-protocol": ("raw", ct("ftp", protocol="udp")),
}


@pytest.mark.parametrize("case", WRONG_RULES)
def test_rules_that_are_refused_change_nothing(host: Host, case: str) -> None:
    table, wrong = WRONG_RULES[case]
    kept = {"filter": INPUT, "raw": HELPER}[table]
    host.firewall.replace(change(kept))
    for chains in ((replace(kept, rules=(*kept.rules, wrong)),), (replace(kept, rules=(wrong,)),)):
        with pytest.raises(Refused) as raised:
            host.firewall.replace(change(*chains, before=(kept,)))
        assert type(raised.value) is Refused
        assert str(raised.value).startswith(f"cannot {change(*chains, before=(kept,))}: ")
        assert host.firewall.chains() == (kept,)


WRONG_CHAINS = {
    "foreign": (OwnChain(INET, "filter", "FOREIGN", "INPUT"),),
    "long": (OwnChain(INET, "filter", "IPVSCTL-" + "X" * 21, "INPUT"),),
    "twice": (INPUT, INPUT),
    "hook": (OwnChain(INET, "filter", "IPVSCTL-PREROUTING", "PREROUTING"),),
    "other-table": (INPUT, HELPER),
}


@pytest.mark.parametrize("case", WRONG_CHAINS)
def test_chains_that_are_refused_change_nothing(host: Host, case: str) -> None:
    host.firewall.replace(change(FORWARD))
    with pytest.raises(Refused):
        host.firewall.replace(change(*WRONG_CHAINS[case]))
    assert host.firewall.chains() == (FORWARD,)


def test_tables_that_are_not_there(host: Host) -> None:
    wrong = OwnChain(INET, "nosuch", "IPVSCTL-INPUT", "INPUT")
    with pytest.raises(IpvsctlError, match="nosuch"):
        host.firewall.replace(change(wrong))
    assert host.firewall.chains() == ()


def test_back_ends(host: Host) -> None:
    assert host.firewall.backend() == host.firewall.backend("auto") == host.firewall.backend(LEGACY) == LEGACY
    for wanted in ("nft", "iptables-nft"):
        with pytest.raises(Unavailable, match=wanted):
            host.firewall.backend(wanted)
    with pytest.raises(UsageError):
        host.firewall.backend("nosuch")
    assert all(isinstance(note, str) for note in host.firewall.notes())


def test_conntrack_without_traffic(host: Host) -> None:
    host.ipvs.info()
    assert host.conntrack.entries() == []
    entry = ConntrackEntry("tcp", "10.0.1.2", "192.168.1.100", 40000, 21)
    with pytest.raises(NotFound, match=r"^cannot delete the conntrack entry tcp 10\.0\.1\.2"):
        host.conntrack.delete(entry)
