"""Our own chains in the tables of every back end, and the conntrack table of a host that has seen no packet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ipvsctl.errors import IpvsctlError, NotFound, Refused, UsageError
from ipvsctl.formats.iptables_canonical import canonical_chain
from ipvsctl.host import Host
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import Change, ReplaceRules
from ipvsctl.model.director import Wanted
from ipvsctl.model.rule import Match, OwnChain, Rule
from ipvsctl.model.status import ConntrackEntry
from ipvsctl.plan.difference import difference
from ipvsctl.plan.execute import inverses, run
from ipvsctl.plan.observe import observe

LEGACY, IPTABLES_NFT, NFT = BACK_ENDS = "iptables-legacy", "iptables-nft", "nft"
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


class Rules:
    """The firewall port of a host with one back end."""

    def __init__(self, host: Host, backend: str) -> None:
        self.host, self.backend = host, backend
        self.notes = host.firewall.notes

    def chains(self) -> tuple[OwnChain, ...]:
        return self.host.firewall.chains(self.backend)

    def tables(self) -> frozenset[tuple[int, str]]:
        return self.host.firewall.tables(self.backend)

    def replace(self, given: ReplaceRules) -> None:
        self.host.firewall.replace(self.of(given))

    def of(self, given: ReplaceRules) -> ReplaceRules:
        return replace(given, backend=self.backend)


@pytest.fixture(params=BACK_ENDS)
def rules(request: pytest.FixtureRequest, host: Host) -> Rules:
    return Rules(host, request.param)


def change(
    *after: OwnChain, before: tuple[OwnChain, ...] = (), table: str = "filter", family: int = INET
) -> ReplaceRules:
    if after:
        family, table = after[0].family, after[0].table
    return ReplaceRules(LEGACY, family, table, after, before)


def test_chains_read_as_they_were_made(rules: Rules) -> None:
    assert rules.chains() == ()
    for chains in ((INPUT, FORWARD, LAST), (HELPER,), (INPUT6,)):
        rules.replace(change(*chains))
    found = rules.chains()
    assert found == (FORWARD, LAST, INPUT, HELPER, INPUT6)
    assert all(chain.jump for chain in found)
    assert rules.backend == NFT or rules.host.modules.feature("xt_CT").state == "loaded"
    assert rules.host.firewall.owners() == (rules.backend,)
    assert rules.host.modules.feature("nf_conntrack_ftp").state == "loaded"
    assert rules.host.sysctl.get("net.netfilter.nf_conntrack_max") is not None

    # Twice is once.
    rules.replace(change(INPUT, FORWARD, LAST))
    assert rules.chains() == found

    # One table at a time.
    rules.replace(change(INPUT, before=(INPUT, FORWARD, LAST)))
    assert rules.chains() == (INPUT, HELPER, INPUT6)
    rules.replace(change(before=(HELPER,), table="raw"))
    assert rules.chains() == (INPUT, INPUT6)
    rules.replace(change(before=(INPUT6,), family=INET6))
    rules.replace(change(before=(INPUT,)))
    assert rules.chains() == ()


def test_an_inverse_brings_back_what_was_there(rules: Rules) -> None:
    first = change(INPUT, FORWARD)
    rules.replace(first)
    shorter = replace(INPUT, rules=INPUT.rules[2:4])
    second = change(shorter, LAST, before=(INPUT, FORWARD))
    rules.replace(second)
    assert rules.chains() == (LAST, shorter)
    for each in (*second.inverse(), *first.inverse()):
        assert isinstance(each, ReplaceRules)
        rules.replace(each)
    assert rules.chains() == ()


def test_chains_may_call_each_other_and_hang_nowhere(rules: Rules) -> None:
    inner = OwnChain(INET, "filter", "IPVSCTL-INPUT-WEB", "INPUT", (Rule("RETURN"),), jump=False)
    outer = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("IPVSCTL-INPUT-WEB", protocol="tcp"),))
    rules.replace(change(outer, inner))
    assert rules.chains() == (outer, inner)
    assert [chain.jump for chain in rules.chains()] == [True, False]


def test_rules_read_as_iptables_prints_them(rules: Rules) -> None:
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
    rules.replace(change(replace(INPUT, rules=given)))
    assert rules.chains() == (replace(INPUT, rules=read),)
    six = Rule("ACCEPT", protocol="58", source="2001:db8:0:0:1::1/64", destination="2001:DB8::1/128")
    rules.replace(change(replace(INPUT6, rules=(six,))))
    (chain,) = (chain for chain in rules.chains() if chain.family == INET6)
    assert chain.rules == (Rule("ACCEPT", protocol="ipv6-icmp", source="2001:db8::/64", destination="2001:db8::1"),)


SAID_ANOTHER_WAY = {
    "mark": (
        Rule("MARK", target_options=(("set-mark", "7"),)),
        Rule("MARK", target_options=(("set-xmark", "0x7/0xffffffff"),)),
    ),
    "states": (
        Rule("ACCEPT", matches=(Match("conntrack", (("ctstate", "ESTABLISHED,NEW"),)),)),
        Rule("ACCEPT", matches=(Match("conntrack", (("ctstate", "NEW,ESTABLISHED"),)),)),
    ),
    "ports": (
        Rule("ACCEPT", protocol="tcp", matches=(Match("tcp", (("dport", "80:80"), ("sport", ":1023"))),)),
        Rule("ACCEPT", protocol="tcp", matches=(Match("tcp", (("sport", "0:1023"), ("dport", "80"))),)),
    ),
    "rate": (
        Rule(
            "LOG", matches=(Match("limit", (("limit", "60/min"), ("limit-burst", "5"))),),
            target_options=(("log-level", "4"),),
        ),
        Rule("LOG", matches=(Match("limit", (("limit", "1/sec"),)),)),
    ),
    "reject": (Rule("REJECT"), Rule("REJECT", target_options=(("reject-with", "icmp-port-unreachable"),))),
}


def test_rules_said_another_way(rules: Rules) -> None:
    """What a plan compares with is one way to say it, whatever the back end."""
    for given, read in SAID_ANOTHER_WAY.values():
        chain = replace(INPUT, rules=(given,))
        assert canonical_chain(chain).rules == (read,)
        rules.replace(change(chain))
        assert rules.chains() == (replace(INPUT, rules=(read,)),)


def test_removing_nothing_is_no_error_and_makes_no_table(rules: Rules) -> None:
    rules.replace(change(table="mangle"))
    assert rules.chains() == ()


def test_a_table_stays_until_a_change_drops_it(rules: Rules) -> None:
    chain = OwnChain(INET, "security", "IPVSCTL-INPUT", "INPUT", (Rule("RETURN"),))
    key = (INET, "security")
    make = replace(change(chain), creates=True)
    assert key not in rules.tables()
    rules.replace(make)
    assert key in rules.tables()
    assert rules.backend != LEGACY or rules.host.modules.feature("iptable_security").state == "loaded"
    rules.replace(change(before=(chain,), table="security"))
    assert rules.chains() == ()
    # A table of nftables that is our own goes with the last chain.
    assert (key in rules.tables()) == (rules.backend != NFT)
    rules.replace(make)
    (back,) = make.inverse()
    assert isinstance(back, ReplaceRules)
    rules.replace(back)
    assert rules.chains() == ()
    assert key not in rules.tables()
    assert rules.backend != LEGACY or rules.host.modules.feature("iptable_security").state == "loadable"


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
def test_rules_that_are_refused_change_nothing(rules: Rules, case: str) -> None:
    table, wrong = WRONG_RULES[case]
    kept = {"filter": INPUT, "raw": HELPER}[table]
    rules.replace(change(kept))
    for chains in ((replace(kept, rules=(*kept.rules, wrong)),), (replace(kept, rules=(wrong,)),)):
        with pytest.raises(Refused) as raised:
            rules.replace(change(*chains, before=(kept,)))
        assert type(raised.value) is Refused
        assert str(raised.value).startswith(f"cannot {rules.of(change(*chains, before=(kept,)))}: ")
        assert rules.chains() == (kept,)


WRONG_CHAINS = {
    "foreign": (OwnChain(INET, "filter", "FOREIGN", "INPUT"),),
    "long": (OwnChain(INET, "filter", "IPVSCTL-" + "X" * 21, "INPUT"),),
    "twice": (INPUT, INPUT),
    "hook": (OwnChain(INET, "filter", "IPVSCTL-PREROUTING", "PREROUTING"),),
    "other-table": (INPUT, HELPER),
}


@pytest.mark.parametrize("case", WRONG_CHAINS)
def test_chains_that_are_refused_change_nothing(rules: Rules, case: str) -> None:
    rules.replace(change(FORWARD))
    with pytest.raises(Refused):
        rules.replace(change(*WRONG_CHAINS[case]))
    assert rules.chains() == (FORWARD,)


def test_tables_that_are_not_there(rules: Rules) -> None:
    wrong = OwnChain(INET, "nosuch", "IPVSCTL-INPUT", "INPUT")
    with pytest.raises(IpvsctlError, match="nosuch"):
        rules.replace(change(wrong))
    assert rules.chains() == ()


def test_back_ends(host: Host) -> None:
    assert host.firewall.owners() == ()
    assert host.firewall.backend() == host.firewall.backend("auto") in BACK_ENDS
    for wanted in BACK_ENDS:
        assert host.firewall.backend(wanted) == wanted
    with pytest.raises(UsageError):
        host.firewall.backend("nosuch")
    assert all(isinstance(note, str) for note in host.firewall.notes())


def test_auto_is_where_ours_are(host: Host) -> None:
    for wanted in BACK_ENDS:
        host.firewall.replace(replace(change(FORWARD), backend=wanted))
        assert host.firewall.owners() == (wanted,)
        assert host.firewall.backend() == wanted
        assert host.firewall.chains() == host.firewall.chains(wanted) == (FORWARD,)
        host.firewall.replace(replace(change(before=(FORWARD,)), backend=wanted))
    assert host.firewall.owners() == ()


def test_a_plan_changes_the_back_end(host: Host) -> None:
    """New first, then old; undone together."""
    chains = (INPUT, FORWARD, LAST)
    host.firewall.replace(replace(change(*chains), backend=LEGACY))
    for backend, old in ((NFT, LEGACY), (IPTABLES_NFT, NFT), (LEGACY, IPTABLES_NFT)):
        wanted = Wanted(backend=backend, chains=chains)
        plan = difference(wanted, observe(host, wanted))
        assert [(each.backend, bool(each.after)) for each in plan.changes if isinstance(each, ReplaceRules)] == [
            (backend, True), (old, False),
        ]  # fmt: skip
        run_all(host, plan.changes)
        assert host.firewall.owners() == (backend,) and set(host.firewall.chains(backend)) == set(chains)
        assert difference(wanted, observe(host, wanted)).changes == ()
        run_all(host, [inverse for _, inverse in inverses(plan.changes)])
        assert host.firewall.owners() == (old,)
        run_all(host, plan.changes)


def run_all(host: Host, changes: Iterable[Change]) -> None:
    for each in changes:
        run([each], host)


def test_conntrack_without_traffic(host: Host) -> None:
    host.ipvs.info()
    assert host.conntrack.entries() == []
    entry = ConntrackEntry("tcp", "10.0.1.2", "192.168.1.100", 40000, 21)
    with pytest.raises(NotFound, match=r"^cannot delete the conntrack entry tcp 10\.0\.1\.2"):
        host.conntrack.delete(entry)
