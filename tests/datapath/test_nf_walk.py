"""The walk of ipt_do_table: order, jumps, goto, RETURN, policies, counters, fragments, hot drops."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.flows import Recorder
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_save import parse, render
from ipvsctl.model.address import INET, INET6
from tests.datapath.nf_rig import ask, counts, engine, load, packet, tcp_skb, udp_skb


def test_the_first_that_decides() -> None:
    host = engine("-A INPUT -p udp -j ACCEPT", "-A INPUT -p tcp", "-A INPUT -p tcp -j DROP", "-A INPUT -j ACCEPT")
    assert ask(host, tcp_skb()) is Reason.RULE
    assert ask(host, udp_skb()) is None
    assert counts(host) == [1, 1, 1, 0, 0]
    (saved,) = host.tables.saved()
    assert [(rule.packets, rule.bytes) for rule in saved.chains[0].rules] == [(1, 33), (1, 40), (1, 40), (0, 0)]


def test_policies() -> None:
    host = engine(":INPUT DROP [5:500]", ":FORWARD ACCEPT", "-A OUTPUT -p udp -j DROP")
    assert ask(host, tcp_skb()) is Reason.POLICY
    assert ask(host, tcp_skb(), "FORWARD") is None
    assert ask(host, tcp_skb(), "OUTPUT") is None
    assert (counts(host), counts(host, "OUTPUT")) == ([6], [0, 1])
    assert host.tables.table(INET, "filter").chains["INPUT"].bytes == 540
    host.tables.zero()
    assert (counts(host), host.tables.table(INET, "filter").chains["INPUT"].bytes) == ([0], 0)


# What INPUT holds, and what counts there, in a and in b: RETURN in b ends the packet's stay in b.
JUMPS = [
    ("-j a", "-j b", "-j RETURN", [1, 1, 1], [1, 1], [1, 0]),
    ("-j a", "-g b", "-j RETURN", [1, 1, 1], [1, 0], [1, 0]),
    ("-g a", "-j b", "-j RETURN", [1, 0, 1], [1, 1], [1, 0]),
    ("-g a", "-g b", "-j RETURN", [1, 0, 1], [1, 0], [1, 0]),
    ("-j a", "-j b", "-p udp -j RETURN", [1, 1, 1], [1, 1], [0, 1]),
    ("-g a", "-g b", "-p udp -j RETURN", [1, 0, 1], [1, 0], [0, 1]),
]


@pytest.mark.parametrize(("first", "second", "third", "in_base", "in_a", "in_b"), JUMPS)
def test_jumps_and_returns(
    first: str, second: str, third: str, in_base: list[int], in_a: list[int], in_b: list[int]
) -> None:
    host = engine(
        ":INPUT DROP",
        ":a -",
        ":b -",
        f"-A INPUT {first}",
        "-A INPUT",
        f"-A a {second}",
        "-A a",
        f"-A b {third}",
        "-A b",
    )
    assert ask(host, tcp_skb()) is Reason.POLICY
    assert counts(host) == in_base
    assert counts(host, "a")[:-1] == in_a
    assert counts(host, "b")[:-1] == in_b


def test_return_in_a_built_in_chain_is_the_policy() -> None:
    host = engine(":INPUT DROP", "-A INPUT -p tcp -j RETURN", "-A INPUT -j ACCEPT")
    assert ask(host, tcp_skb()) is Reason.POLICY
    assert ask(host, udp_skb()) is None
    assert counts(host) == [1, 1, 1]


def test_a_chain_twice_is_no_loop_and_a_loop_is_refused() -> None:
    host = engine(":a -", ":b -", "-A INPUT -j a", "-A INPUT -j a", "-A a -j b", "-A a -j b")
    ask(host, tcp_skb())
    assert counts(host, "a")[:2] == [2, 2]
    with pytest.raises(UsageError, match=r"chain b, rule 1 \(-j a\): it makes a loop: a > b > a"):
        engine(":a -", ":b -", "-A INPUT -j a", "-A a -g b", "-A b -j a")
    with pytest.raises(UsageError, match="loop: a > a"):
        engine(":a -", "-A INPUT -j a", "-A a -p tcp -j a")
    # The kernel follows only what a packet can come to.
    engine(":a -", ":b -", "-A a -j b", "-A b -j a")
    engine(":a -", "-A INPUT -j a", "-A a -j DROP", "-A a -j a")


def test_destinations_and_protocols_are_looked_up_and_change_nothing() -> None:
    host = engine(
        "-A INPUT -d 10.0.0.9 -j DROP", "-A INPUT -d 10.0.0.8 -p tcp -j DROP", "-A INPUT ! -d 10.0.0.8 -p udp -j DROP",
        "-A INPUT -d 10.0.0.8/30 ! -p tcp -j DROP", "-A INPUT ! -p udp -j ACCEPT", "-A INPUT -j DROP",
    )  # fmt: skip
    expected = {
        ("10.0.0.9", 6): 1, ("10.0.0.9", 17): 1, ("10.0.0.8", 6): 2, ("10.0.0.8", 17): 4, ("10.0.0.7", 17): 3,
        ("10.0.0.10", 50): 4, ("10.0.0.7", 6): 5, ("10.0.0.10", 6): 5,
    }  # fmt: skip
    for _ in range(2):
        for (destination, protocol), rule in expected.items():
            host.tables.zero()
            ask(host, packet(protocol, bytes(20), destination=destination))
            assert counts(host) == [int(number == rule) for number in range(1, 7)] + [0], (destination, protocol)


def test_later_fragments_have_no_ports() -> None:
    rules = ["-A INPUT -p tcp -m tcp --dport 0:65535 -j ACCEPT", "-A INPUT -p tcp -m tcp ! --dport 80 -j ACCEPT"]
    host = engine(*rules, "-A INPUT -f -j DROP", "-A INPUT -p tcp -j ACCEPT", "-A INPUT ! -f -j DROP")
    later = packet(6, bytes(32), fragment=24)
    assert ask(host, later) is Reason.RULE
    assert counts(host) == [0, 0, 1, 0, 0, 0]
    first = packet(6, tcp_skb().data[20:], more=True)
    assert ask(host, first) is None
    assert counts(host)[:1] == [1]


def test_a_header_that_is_cut_off_drops_the_packet() -> None:
    rules = ["-A INPUT -d 10.9.9.9 -p tcp -m tcp --dport 80", "-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT"]
    host = engine(*rules, "-A INPUT -j ACCEPT")
    assert ask(host, packet(6, bytes(19))) is Reason.RULE_TRUNCATED
    assert ask(host, packet(6, bytes(8), fragment=8)) is Reason.RULE_TRUNCATED
    assert ask(host, packet(6, bytes(8), fragment=16)) is None
    assert ask(host, packet(17, bytes(3))) is None
    assert counts(host) == [0, 0, 2, 0]


def test_ipv6_fragment_whose_protocol_is_unknown_drops_where_a_rule_asks_for_it() -> None:
    host = engine("-A INPUT -s fd99::/16 -p udp -j ACCEPT", "-A INPUT -j ACCEPT", family=INET6)
    # A later fragment that says it goes on with destination options (60): ipv6_find_hdr finds nothing.
    lost = packet(44, bytes((60, 0, 0, 0x10, 0, 0, 0, 1)) + bytes(8), six=True)
    assert (lost.fragment, lost.protocol) == (16, 60)
    assert ask(host, lost) is None
    host = engine("-A INPUT ! -s fd99::/16 -p udp -j ACCEPT", "-A INPUT -j ACCEPT", family=INET6)
    assert ask(host, lost) is Reason.RULE_TRUNCATED
    assert ask(host, packet(44, bytes((17, 0, 0, 0x10, 0, 0, 0, 1)) + bytes(8), six=True)) is None


def test_devices_by_hook() -> None:
    rules = [
        f"-A {chain} {rule}" for chain in ("a",) for rule in ("-i eth0", "-i eth+", "! -i eth0", "-o eth1", "! -o eth1")
    ]
    host = engine(":a -", "-A INPUT -j a", "-A FORWARD -j a", "-A OUTPUT -j a", *rules)
    skb = tcp_skb()
    skb.outdev = "eth1"
    for chain, expected in (("FORWARD", [1, 1, 0, 1, 0]), ("INPUT", [1, 1, 0, 0, 1]), ("OUTPUT", [0, 0, 1, 1, 0])):
        host.tables.zero()
        ask(host, skb, chain)
        assert counts(host, "a")[:-1] == expected, chain


def test_the_trace_and_the_recorder() -> None:
    host = engine(":a -", "-A INPUT -p tcp -m tcp --dport 80 -j a", "-A a", "-A a -m limit --limit 1/sec -j DROP")
    tracer = host.tracer = Tracer()
    recorder = host.tables.recorder = Recorder()
    skb = tcp_skb()
    tracer.begin("INPUT", 0, "filter", skb)
    assert ask(host, skb) is Reason.RULE
    assert [(rule.chain, rule.number, rule.text) for rule in tracer.steps[0].rules] == [
        ("INPUT", 1, "-p tcp -m tcp --dport 80 -j a"), ("a", 2, "-m limit --limit 1/sec -j DROP"),
    ]  # fmt: skip
    assert len(recorder.counters) == 3
    assert not recorder.stable
    recorder = host.tables.recorder = Recorder()
    assert ask(host, udp_skb()) is None
    assert recorder.stable
    assert recorder.counters == [host.tables.table(INET, "filter").chains["INPUT"]]
    assert [(rule.number, rule.text) for rule in tracer.steps[0].rules[2:]] == [(0, "ACCEPT")]


# A rule, and whether its answer is the same for all packets of a flow.
STABLE = {
    "-s 10.0.0.0/8 -d 10.0.0.1 -i eth0 -p tcp -m tcp --dport 80": True, "-m mark --mark 1": True,
    "-m conntrack --ctstate ESTABLISHED --ctorigdst 10.0.0.1": True, "-m addrtype --dst-type LOCAL": True,
    "-m helper --helper ftp": True, "-p tcp -m multiport --dports 1,2": True, "-m comment --comment x": True,
    "-f": False, "-p tcp -m tcp --syn": False, "-p tcp -m tcp --tcp-option 5": False, "-m length --length 5": False,
    "-m ttl --ttl-eq 5": False, "-m tos --tos 1": False, "-m dscp --dscp 1": False, "-m connmark --mark 1": False,
    "-m limit": False, "-m statistic --mode nth --every 2": False, "-m conntrack --ctstatus ASSURED": False,
    "-m conntrack --ctexpire 5": False, "-p icmp -m icmp --icmp-type 8": False, "-m ipvs --ipvs": False,
    "-m conntrack --ctstate DNAT": False,
}  # fmt: skip


@pytest.mark.parametrize(("rule", "stable"), STABLE.items())
def test_stable(rule: str, stable: bool) -> None:
    host = engine(f"-A INPUT {rule} -j ACCEPT")
    assert host.tables.table(INET, "filter").chains["INPUT"].rules[0].stable is stable


def test_what_was_loaded_can_be_saved() -> None:
    text = (
        "*filter\n:INPUT DROP [1:2]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:a - [0:0]\n"
        '[3:4] -A INPUT -p tcp -m tcp --dport 80 -g a\n[0:0] -A a -j LOG --log-prefix "x y"\nCOMMIT\n'
    )
    host = engine()
    for table in parse(text, INET):
        host.tables.load(table)
    assert render(host.tables.saved()) == text
    assert host.tables.loaded(INET) == {"filter"}
    assert host.tables.loaded(INET6) == frozenset()


# Which rules ask for conntrack (nf_ct_netns_get in their checkentry), by table.
TRACKING = [
    ("filter", "-A INPUT -m state --state NEW", True), ("filter", "-A INPUT -m conntrack --ctdir REPLY", True),
    ("filter", "-A INPUT -m connmark --mark 1", True), ("filter", "-A INPUT -m helper --helper ftp", True),
    ("filter", "-A INPUT -m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode packets", True),
    ("filter", "-A INPUT -j CONNMARK --save-mark", True), ("raw", "-A PREROUTING -p tcp -j CT --helper ftp", True),
    ("raw", "-A PREROUTING -j CT --notrack", False), ("raw", "-A PREROUTING -j NOTRACK", False),
    ("nat", "", False), ("nat", "-A POSTROUTING -j MASQUERADE", True),
    ("nat", "-A PREROUTING -j DNAT --to-destination 1.1.1.1", True), ("nat", "-A OUTPUT -p tcp -j REDIRECT", True),
    ("nat", "-A PREROUTING -j NETMAP --to 10.0.0.0/8", True), ("nat", "-A PREROUTING -j ACCEPT", False),
    ("filter", "-A INPUT -m ipvs --ipvs", False), ("filter", "-A INPUT -m mark --mark 1 -j DROP", False),
]  # fmt: skip


@pytest.mark.parametrize(("table", "rule", "tracks"), TRACKING)
def test_conntrack_is_on_while_a_rule_asks_for_it(table: str, rule: str, tracks: bool) -> None:
    host = engine()
    load(host, rule, table=table)
    assert bool(host.ct.hooks(INET)) is tracks
    assert not host.ct.hooks(INET6)
    load(host, rule, table=table)
    load(host, "", table=table)
    assert not host.ct.hooks(INET)


def test_a_table_that_is_refused_leaves_the_old_one() -> None:
    host = engine("-A INPUT -m state --state NEW -j DROP")
    with pytest.raises(UsageError):
        load(host, "-A INPUT -m u32 --u32 0=0 -j DROP")
    assert host.ct.hooks(INET)
    assert len(host.tables.table(INET, "filter").chains["INPUT"].rules) == 1
    host.tables.unload(INET, "filter")
    assert (host.ct.hooks(INET), host.tables.loaded(INET)) == (frozenset(), frozenset())


def test_no_bytes_get_an_exception_out_of_a_walk() -> None:
    host = engine(
        "-A INPUT -p tcp -m tcp --tcp-option 5", "-A INPUT -p tcp -m tcpmss --mss 1:5",
        "-A INPUT -p udp -m udp --dport 1",
        "-A INPUT -p sctp -m sctp --chunk-types all DATA", "-A INPUT -p icmp -m icmp --icmp-type 8",
        "-A INPUT -p sctp -m multiport --ports 1", "-A INPUT -m ttl --ttl-eq 1", "-A INPUT -m tos --tos 1",
        "-A INPUT -j REJECT",
    )  # fmt: skip
    for protocol in (1, 6, 17, 132, 47):
        for size in range(64):
            for fill in (0, 0xFF, 0x55):
                ask(host, packet(protocol, bytes([fill]) * size))
