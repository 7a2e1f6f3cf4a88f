"""Every target: what it does to a packet, where it is allowed, and the rules of a director file."""

from __future__ import annotations

from typing import Any

import pytest

from ipvsctl.datapath.ct.entry import Entry, make_tuple
from ipvsctl.datapath.nf.own import tables_of
from ipvsctl.datapath.nf.targets import TARGETS
from ipvsctl.datapath.nf.walk import GOTO
from ipvsctl.datapath.skb import ESTABLISHED, NEW, NONE, UNTRACKED, Skb
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_save import render
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.rule import Match, OwnChain, Rule
from ipvsctl.model.snapshot import SavedChain, SavedRule, SavedTable
from ipvsctl.wire import transport
from ipvsctl.wire.address import packed
from ipvsctl.wire.checksum import checksum
from tests.datapath.nf_rig import (
    CLIENT,
    SERVER,
    ask,
    counts,
    engine,
    icmp_skb,
    load,
    packet,
    tcp_skb,
    udp_skb,
)  # fmt: skip


def sound(skb: Skb) -> bool:
    """Whether both checksums are right, and the fields are those of the bytes."""
    again = Skb(bytearray(skb.data))
    header = skb.family == INET6 or checksum(bytes(skb.data[: (skb.data[0] & 15) * 4])) == 0
    same = (again.thoff, again.protocol, len(again.data)) == (skb.thoff, skb.protocol, len(skb.data))
    return (
        header
        and same
        and transport.verify(bytes(skb.data), skb.family, skb.protocol, skb.thoff, skb.source, skb.destination)
    )


def mangled(target: str, skb: Skb, chain: str = "FORWARD") -> Skb:
    host = engine(f"-A {chain} {target}", table="mangle", family=skb.family)
    assert ask(host, skb, chain, "mangle") is None
    assert sound(skb)
    return skb


# -- marks ------------------------------------------------------------------------------------------------------------

MARKS = [
    ("--set-mark 0x5", 0xF3, 0x5), ("--set-mark 0x5/0x6", 0xF0, 0xF5), ("--set-xmark 0x5/0xf", 0xF3, 0xF5),
    ("--set-xmark 0x5/0x1", 0xF7, 0xF3), ("--and-mark 0xf", 0xF3, 0x3), ("--or-mark 0xc", 0xF3, 0xFF),
    ("--xor-mark 0xff", 0xF3, 0x0C), ("--set-xmark 0x1/0xffffffff", 0xFFFFFFFF, 1),
]  # fmt: skip


@pytest.mark.parametrize(("option", "before", "after"), MARKS)
def test_mark(option: str, before: int, after: int) -> None:
    skb = tcp_skb()
    skb.mark = before
    assert mangled(f"-j MARK {option}", skb).mark == after
    skb, entry = connected()
    entry.mark = before
    mangled(f"-j CONNMARK {option}", skb)
    assert entry.mark == after


def connected(info: int = NEW) -> tuple[Skb, Entry]:
    skb = tcp_skb()
    client, server = packed(CLIENT), packed(SERVER)
    skb.ct = Entry(engine().ct, make_tuple(6, client, server, 40000, 80), make_tuple(6, server, client, 80, 40000))
    skb.ctinfo = info
    return skb, skb.ct


# Option, marks of packet and connection before and after.
CONNMARKS = [
    ("--save-mark", 0x12, 0x34, 0x12, 0x12),
    ("--save-mark --nfmask 0xf --ctmask 0xff", 0x12, 0x5634, 0x12, 0x5602),
    ("--save-mark --mask 0xf0", 0x12, 0x34, 0x12, 0x14),
    ("--restore-mark", 0x12, 0x34, 0x34, 0x34),
    ("--restore-mark --nfmask 0xff --ctmask 0xf", 0x5612, 0x34, 0x5604, 0x34),
    ("--set-xmark 0x1/0xf --left-shift-mark 4", 0, 0xF2, 0, 0xF10),
    ("--save-mark --right-shift-mark 4", 0x12, 0, 0x12, 0x1),
    ("--restore-mark --left-shift-mark 31", 0, 3, 0x80000000, 3),
]


@pytest.mark.parametrize(("option", "mark", "connmark", "mark_after", "connmark_after"), CONNMARKS)
def test_connmark(option: str, mark: int, connmark: int, mark_after: int, connmark_after: int) -> None:
    skb, entry = connected()
    skb.mark, entry.mark = mark, connmark
    mangled(f"-j CONNMARK {option}", skb)
    assert (skb.mark, entry.mark) == (mark_after, connmark_after)


# -- conntrack --------------------------------------------------------------------------------------------------------


def test_ct_and_notrack() -> None:
    host = engine(
        "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp", "-A PREROUTING -p udp -j CT --notrack",
        "-A PREROUTING -p icmp -j NOTRACK", "-A PREROUTING -j TRACE", "-A PREROUTING -j CT", table="raw",
    )  # fmt: skip
    assert "nf_conntrack_ftp" in host.modules
    for skb, info, template in (
        (tcp_skb(dport=21), NONE, {"helper": "ftp"}), (udp_skb(), UNTRACKED, None), (icmp_skb(), UNTRACKED, None),
        (tcp_skb(dport=22), NONE, {}),
    ):  # fmt: skip
        assert ask(host, skb, "PREROUTING", "raw") is None
        assert (skb.ctinfo, skb.template) == (info, template)
    skb, _ = connected(ESTABLISHED)
    ask(host, skb, "PREROUTING", "raw")
    assert (skb.ctinfo, skb.template) == (ESTABLISHED, None)


# -- REJECT and LOG ---------------------------------------------------------------------------------------------------


class Answers:
    """Takes the place of the IP layer and writes down what it is asked to send."""

    def __init__(self, harder: bool = True) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.harder = harder

    def icmp_error(self, _skb: Skb, kind: int, code: int, info: int = 0) -> None:
        self.sent.append((kind, code))

    def tcp_reset(self, _skb: Skb, hook: int) -> None:
        self.sent.append(("reset", hook))

    def route_me_harder(self, skb: Skb, source_type_local: bool) -> bool:
        self.sent.append(("route", skb.mark, source_type_local))
        return self.harder


REJECTS = [
    ("", 3, 3), ("--reject-with icmp-net-unreachable", 3, 0), ("--reject-with icmp-host-unreachable", 3, 1),
    ("--reject-with icmp-proto-unreachable", 3, 2), ("--reject-with icmp-net-prohibited", 3, 9),
    ("--reject-with icmp-host-prohibited", 3, 10), ("--reject-with icmp-admin-prohibited", 3, 13),
    ("--reject-with host-prohib", 3, 10),
]  # fmt: skip
REJECTS6 = [
    ("", 1, 4), ("--reject-with icmp6-no-route", 1, 0), ("--reject-with icmp6-adm-prohibited", 1, 1),
    ("--reject-with icmp6-addr-unreachable", 1, 3), ("--reject-with icmp6-policy-fail", 1, 5),
    ("--reject-with icmp6-reject-route", 1, 6),
]  # fmt: skip
BOTH_REJECTS = [(*row, False) for row in REJECTS] + [(*row, True) for row in REJECTS6]


@pytest.mark.parametrize(
    ("option", "kind", "code", "six"), [(*r, False) for r in REJECTS] + [(*r, True) for r in REJECTS6]
)
def test_reject(option: str, kind: int, code: int, six: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = engine(f"-A INPUT -j REJECT {option}", family=INET6 if six else INET)
    answers = Answers()
    monkeypatch.setattr(host, "ip", answers)
    assert ask(host, udp_skb(six=six)) is Reason.REJECT
    assert answers.sent == [(kind, code)]


def test_reject_is_silent_about_fragments_and_wrong_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    host = engine("-A INPUT -j REJECT")
    load(host, "-A INPUT -j REJECT", family=INET6)
    answers = Answers()
    monkeypatch.setattr(host, "ip", answers)
    wrong, own = tcp_skb(), tcp_skb()
    for skb in (wrong, own):
        skb.data[-1] ^= 1
    own.own = True
    unchecked, found_right = udp_skb(), packet(4, b"in a tunnel since")
    unchecked.data[26:28] = b"\0\0"
    found_right.checked = True
    wrong6 = tcp_skb(six=True)
    wrong6.data[-1] ^= 1
    for skb, answered in (
        (tcp_skb(), True), (wrong, False), (own, True), (unchecked, True), (found_right, True),
        (packet(17, bytes(8), fragment=8), False),
        (packet(47, b"any"), True), (packet(99, b"odd"), False), (packet(99, b"\xff\xff"), True), (wrong6, False),
        (tcp_skb(six=True), True), (icmp_skb(), True), (packet(6, b"", six=True), False),
    ):  # fmt: skip
        answers.sent.clear()
        assert ask(host, skb) is Reason.REJECT
        assert bool(answers.sent) is answered, skb


def test_reject_with_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    host = engine("-A FORWARD -p tcp -j REJECT --reject-with tcp-reset")
    answers = Answers()
    monkeypatch.setattr(host, "ip", answers)
    assert ask(host, tcp_skb(), "FORWARD") is Reason.REJECT
    assert answers.sent == [("reset", 2)]


def test_log_and_its_kin_go_on() -> None:
    host = engine(
        '-A FORWARD -j LOG --log-prefix "a b: " --log-level debug', "-A FORWARD -j NFLOG --nflog-group 5",
        "-A FORWARD -j CLASSIFY --set-class 1:2", "-A FORWARD -j DROP",
    )  # fmt: skip
    tracer = host.tracer = Tracer()
    skb = tcp_skb()
    tracer.begin("FORWARD", 0, "filter", skb)
    assert ask(host, skb, "FORWARD") is Reason.RULE
    assert counts(host, "FORWARD") == [1, 1, 1, 1, 0]
    assert tracer.steps[0].notes[0] == f"log: a b: {skb}"


# -- changes of the packet --------------------------------------------------------------------------------------------

HOPS = [("set 5", 5), ("dec 1", 63), ("dec 200", 0), ("inc 5", 69), ("inc 250", 255), ("set 64", 64)]


@pytest.mark.parametrize(("option", "after"), HOPS)
def test_ttl_and_hop_limit(option: str, after: int) -> None:
    assert mangled(f"-j TTL --ttl-{option}", tcp_skb()).ttl == after
    assert mangled(f"-j HL --hl-{option}", tcp_skb(six=True)).ttl == after


CLASSES = [
    ("DSCP --set-dscp 0x2e", 0x03, 0xBB), ("DSCP --set-dscp-class AF21", 0xFF, 0x4B), ("DSCP --set-dscp 0", 0xFF, 3),
    ("TOS --set-tos 0x10", 0xFF, 0x10), ("TOS --set-tos 0x10/0x3f", 0xCF, 0xD0), ("TOS --and-tos 0x0f", 0xFF, 0x0F),
    ("TOS --or-tos 0x0f", 0xF0, 0xFF), ("TOS --xor-tos 0x11", 0x01, 0x10), ("TOS --set-tos Minimize-Delay", 0xC0, 0xD0),
]  # fmt: skip


@pytest.mark.parametrize(("target", "before", "after"), CLASSES)
def test_class(target: str, before: int, after: int) -> None:
    assert mangled(f"-j {target}", tcp_skb(tos=before)).data[1] == after
    data = mangled(f"-j {target}", tcp_skb(tos=before, six=True)).data
    assert (data[0] & 15) << 4 | data[1] >> 4 == after


SYN = "-p tcp --syn -j TCPMSS"
MSS = bytes((2, 4, 5, 180))  # 1460


def test_mss_is_only_made_smaller() -> None:
    for size, after in ((1400, 1400), (1460, 1460), (1500, 1460)):
        skb = mangled(f"{SYN} --set-mss {size}", tcp_skb(options=b"\1\1\1\1" + MSS))
        assert int.from_bytes(skb.data[46:48]) == after
    untouched = tcp_skb(0x10)
    before = bytes(untouched.data)
    assert mangled(f"{SYN} --set-mss 500", untouched).data == before


def test_mss_is_put_in_where_there_is_none() -> None:
    for six, size, after in ((False, 1400, 536), (False, 500, 500), (True, 1400, 1220)):
        before = tcp_skb(six=six, options=bytes((1, 3, 3, 7)))
        skb = mangled(f"{SYN} --set-mss {size}", tcp_skb(six=six, options=bytes((1, 3, 3, 7))))
        at = skb.thoff + 20
        assert skb.data[at : at + 4] == bytes((2, 4)) + after.to_bytes(2)
        assert len(skb.data) == len(before.data) + 4
        assert skb.data[at + 4 :] == before.data[at:]
    for kept in (tcp_skb(payload=b"x"), tcp_skb(options=b"\1" * 40)):
        before_data = bytes(kept.data)
        assert mangled(f"{SYN} --set-mss 500", kept).data == before_data


def test_mss_clamped_to_the_path() -> None:
    for six, after in ((False, 1360), (True, 1340)):
        host = engine(f"-A FORWARD {SYN} --clamp-mss-to-pmtu", table="mangle", family=INET6 if six else INET)
        for source in (None, "192.168.1.7" if not six else "fd20::7"):
            # eth1's MTU of 1400 counts, whether it is on the way there or on the way back.
            there = ("fd20::100" if six else SERVER) if source is None else ("fd10::9" if six else CLIENT)
            skb = tcp_skb(six=six, source=source or "", destination=there, options=MSS)
            way = host.routing.output(skb.family, skb.destination)
            assert not isinstance(way, Reason)
            skb.dst = way
            assert ask(host, skb, "FORWARD", "mangle") is None
            assert int.from_bytes(skb.data[skb.thoff + 22 : skb.thoff + 24]) == after
            assert sound(skb)


def test_a_mangled_packet_of_the_host_gets_another_route(monkeypatch: pytest.MonkeyPatch) -> None:
    for rule, family, rerouted in (
        ("-j MARK --set-mark 7", INET, True), ("-j MARK --set-mark 0", INET, False),
        ("-j TTL --ttl-set 9", INET, False),
        ("-j HL --hl-set 9", INET6, True), ("-j TOS --set-tos 8", INET, True), ("-j TOS --set-tos 8", INET6, True),
        ("-p udp -j MARK --set-mark 7", INET, False),
    ):  # fmt: skip
        for harder in (True, False):
            host = engine(f"-A OUTPUT {rule}", f"-A FORWARD {rule}", table="mangle", family=family)
            answers = Answers(harder)
            monkeypatch.setattr(host, "ip", answers)
            verdict = ask(host, tcp_skb(six=family == INET6), "OUTPUT", "mangle")
            assert len(answers.sent) == int(rerouted), rule
            assert verdict is (Reason.NO_ROUTE if rerouted and not harder else None)
            assert ask(host, tcp_skb(six=family == INET6), "FORWARD", "mangle") is None
            assert len(answers.sent) == int(rerouted)


# -- nat --------------------------------------------------------------------------------------------------------------


class Translations:
    """Takes the place of ct/nat.py and writes down what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def setup(self, _entry: Entry, manip: str, low: bytes, high: bytes, *rest: Any) -> None:
        self.asked.append((manip, low, high, *rest))

    def masquerade(self, _skb: Skb, *rest: Any) -> None:
        self.asked.append(("masquerade", *rest))

    def redirect(self, _skb: Skb, *rest: Any) -> None:
        self.asked.append(("redirect", *rest))

    def netmap(self, _skb: Skb, *rest: Any) -> None:
        self.asked.append(("netmap", *rest))


A, B = packed("1.2.3.4"), packed("1.2.3.9")
A6, B6 = packed("2001:db8::1"), packed("2001:db8::9")
NOTHING: frozenset[str] = frozenset()
NAT: list[tuple[str, str, tuple[Any, ...]]] = [
    ("POSTROUTING", "SNAT --to-source 1.2.3.4", ("src", A, A, None, NOTHING, None)),
    ("POSTROUTING", "SNAT --to-source 1.2.3.4-1.2.3.9:80-90 --random --persistent",
     ("src", A, B, (80, 90), frozenset(("random", "persistent")), None)),
    ("INPUT", "SNAT --to-source :80 --random-fully", ("src", None, None, (80, 80), frozenset(("random-fully",)), None)),
    ("PREROUTING", "DNAT --to-destination 1.2.3.4:80", ("dst", A, A, (80, 80), NOTHING, None)),
    ("OUTPUT", "DNAT --to-destination 1.2.3.4:80-90/1000", ("dst", A, A, (80, 90), NOTHING, 1000)),
    ("POSTROUTING", "MASQUERADE", ("masquerade", None, NOTHING)),
    ("POSTROUTING", "MASQUERADE --to-ports 80-90 --random", ("masquerade", (80, 90), frozenset(("random",)))),
    ("PREROUTING", "REDIRECT --to-ports 8080", ("redirect", (8080, 8080), NOTHING)),
    ("PREROUTING", "NETMAP --to 1.2.0.0/16", ("netmap", packed("1.2.0.0"), packed("1.2.255.255"))),
]  # fmt: skip
NAT6: list[tuple[str, str, tuple[Any, ...]]] = [
    ("PREROUTING", "DNAT --to-destination 2001:db8::1", ("dst", A6, A6, None, NOTHING, None)),
    ("PREROUTING", "DNAT --to-destination [2001:db8::1]:80", ("dst", A6, A6, (80, 80), NOTHING, None)),
    ("PREROUTING", "DNAT --to-destination 2001:db8::1-2001:db8::9", ("dst", A6, B6, None, NOTHING, None)),
    ("PREROUTING", "DNAT --to-destination [2001:db8::1-2001:db8::9]:80-90", ("dst", A6, B6, (80, 90), NOTHING, None)),
    ("PREROUTING", "DNAT --to-destination [2001:db8::1]-[2001:db8::9]:80", ("dst", A6, B6, (80, 80), NOTHING, None)),
]


@pytest.mark.parametrize(("chain", "target", "asked", "six"), [(*n, False) for n in NAT] + [(*n, True) for n in NAT6])
def test_nat(chain: str, target: str, asked: tuple[Any, ...], six: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = engine(f"-A {chain} -p tcp -j {target}", table="nat", family=INET6 if six else INET)
    translations = Translations()
    monkeypatch.setattr(host, "nat", translations)
    skb, entry = connected()
    if six:
        skb = tcp_skb(six=True)
        skb.ct, skb.ctinfo = entry, NEW
    assert ask(host, skb, chain, "nat") is None
    assert translations.asked == [asked]


def test_nat_table_is_asked_by_family() -> None:
    host = engine(":PREROUTING DROP", table="nat")
    skb = tcp_skb()
    assert host.tables.nat(skb) is Reason.POLICY
    assert host.tables.nat(tcp_skb(six=True)) is None


# -- where targets are allowed, and what is refused -------------------------------------------------------------------

REFUSED = [
    ("filter", "INPUT", "-j TPROXY --on-port 5", "target TPROXY is no chain and cannot be evaluated"),
    ("filter", "INPUT", "-j nowhere", "target nowhere is no chain"),
    ("filter", "INPUT", "-j QUEUE", "target QUEUE is no chain"),
    ("filter", "INPUT", "-g nowhere", "no chain nowhere to go to"),
    ("filter", "INPUT", "-j OUTPUT", "nothing can jump to the built-in chain"),
    ("filter", "INPUT", "-j DROP --hard", "target DROP has no options"),
    ("filter", "INPUT", "-j CT --notrack", "target CT is for table raw"),
    ("mangle", "INPUT", "-j REJECT", "target REJECT is for table filter"),
    ("filter", "INPUT", "-j TTL --ttl-set 5", "target TTL is for table mangle"),
    ("filter", "INPUT", "-j SNAT --to-source 1.2.3.4", "target SNAT is for table nat"),
    ("nat", "POSTROUTING", "-j DNAT --to-destination 1.2.3.4", "target DNAT is for PREROUTING, OUTPUT"),
    ("nat", "INPUT", "-j MASQUERADE", "target MASQUERADE is for POSTROUTING"),
    ("filter", "INPUT", "-j CLASSIFY --set-class 1:2", "target CLASSIFY is for FORWARD, OUTPUT, POSTROUTING"),
    ("raw", "PREROUTING", "-j CT --helper ftp", "--helper needs a protocol"),
    ("raw", "PREROUTING", "-p udp -j CT --helper ftp", "--helper ftp for protocol 17 cannot be evaluated"),
    ("raw", "PREROUTING", "-p tcp -j CT --helper irc", "--helper irc for protocol 6 cannot be evaluated"),
    ("raw", "PREROUTING", "-j CT --zone 5", "option --zone cannot be evaluated"),
    ("raw", "PREROUTING", "-j CT --timeout x", "option --timeout cannot be evaluated"),
    ("filter", "INPUT", "-j REJECT --reject-with tcp-reset", "needs -p tcp"),
    ("filter", "INPUT", "-j REJECT --reject-with icmp6-no-route", "is unknown"),
    ("filter", "INPUT", "-j MARK", "says no mark"),
    ("filter", "INPUT", "-j MARK --set-mark 1 --or-mark 2", "takes one of"),
    ("mangle", "FORWARD", "-p tcp -j TCPMSS --set-mss 5", "is for SYN packets"),
    ("mangle", "FORWARD", "-p tcp ! --syn -j TCPMSS --set-mss 5", "is for SYN packets"),
    ("mangle", "PREROUTING", f"{SYN} --clamp-mss-to-pmtu", "is for FORWARD, OUTPUT and POSTROUTING"),
    ("mangle", "INPUT", "-j HL --hl-set 5", "target HL is no chain"),
    ("mangle", "INPUT", "-j TTL --ttl-dec 0", "changes nothing"),
    ("nat", "POSTROUTING", "-j SNAT --to-source 1.2.3.9-1.2.3.4", "ends before it begins"),
    ("nat", "POSTROUTING", "-j SNAT --to-source 2001:db8::1", "is not an address"),
    ("filter", "INPUT", "-j LOG --log-level 9", "not a level"),
]


@pytest.mark.parametrize(("table", "chain", "rule", "reason"), REFUSED)
def test_refused_by_name(table: str, chain: str, rule: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        engine(f"-A {chain} {rule}", table=table)
    text = str(caught.value)
    assert text.startswith(f"table {table}, chain {chain}, rule 1 (")
    assert reason in text


def test_a_target_of_a_user_chain_is_where_the_jumps_come_from() -> None:
    rules = [":a -", "-A PREROUTING -j a", "-A a -p tcp -j DNAT --to-destination 1.2.3.4"]
    engine(*rules, table="nat")
    with pytest.raises(UsageError, match=r"chain a, rule 1 .* target DNAT is for"):
        engine(*rules, "-A POSTROUTING -j a", table="nat")
    engine(*rules, "-A POSTROUTING -j ACCEPT", "-A POSTROUTING -j a", table="nat")


def test_tables_that_cannot_be() -> None:
    host = engine()
    for table, reason in (
        (SavedTable(INET, "security"), "table security cannot be evaluated"),
        (SavedTable(INET, "filter", (SavedChain("a", "DROP"),)), "only built-in chains have a policy"),
        (SavedTable(INET, "filter", (SavedChain("INPUT", "REJECT"),)), "policy 'REJECT' is neither"),
        (SavedTable(INET, "filter", (SavedChain("a"), SavedChain("a"))), "it is there twice"),
        (SavedTable(INET, "filter", (SavedChain("INPUT", "ACCEPT", (SavedRule(Rule("DROP", source="fd00::1")),)),)),
         "chain INPUT, rule 1"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=reason):
            host.tables.load(table)


def test_every_target_is_tried_here() -> None:
    tried = {target.split()[0] for _, target, _ in NAT} | {
        "MARK",
        "CONNMARK",
        "CT",
        "NOTRACK",
        "REJECT",
        "LOG",
        "NFLOG",
    }
    tried |= {"CLASSIFY", "TTL", "HL", "TCPMSS", "TRACE", *(target.split()[0] for target, _, _ in CLASSES)}
    assert set(TARGETS) == tried


# -- rules from elsewhere ---------------------------------------------------------------------------------------------


def test_headers_that_the_kernel_port_could_not_say() -> None:
    """A match "entry" with the header's bytes: flags at 82 (struct ipt_ip), inverted ones behind them."""
    header = bytearray(84)
    header[82], header[83] = 3, 0x20
    rule = Rule("a", matches=(Match("entry", (("raw", header.hex()),)),))
    table = SavedTable(INET, "filter", (SavedChain("INPUT", "DROP", (SavedRule(rule),)), SavedChain("a")))
    host = engine()
    host.tables.load(table)
    compiled = host.tables.table(INET, "filter").chains["INPUT"].rules[0]
    assert compiled.kind == GOTO
    ask(host, packet(17, bytes(8), fragment=8))
    ask(host, udp_skb())
    assert counts(host) == [1, 2]


def test_the_rules_of_a_director_file() -> None:
    tracked = Match("conntrack", (("ctstate", "RELATED,ESTABLISHED"),))
    port = (Match("tcp", (("dport", "21"),)),)
    helper = Rule("CT", protocol="tcp", destination="10.0.0.100", matches=port, target_options=(("helper", "ftp"),))
    chains = (
        OwnChain(INET, "raw", "IPVSCTL-PREROUTING", "PREROUTING", (helper,)),
        OwnChain(INET, "filter", "IPVSCTL-FORWARD-DROP", "FORWARD", (Rule("DROP"),), place="last"),
        OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("ACCEPT", matches=(tracked,)),)),
        OwnChain(INET, "filter", "IPVSCTL-FORWARD", "FORWARD,INPUT", (Rule("ACCEPT", matches=(tracked,)),)),
        OwnChain(INET, "filter", "IPVSCTL-LOOSE", "", (), jump=False),
    )
    tables = tables_of(chains)
    assert render(tables).splitlines() == [
        "*raw", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":IPVSCTL-PREROUTING - [0:0]",
        "[0:0] -A PREROUTING -m comment --comment ipvsctl -j IPVSCTL-PREROUTING",
        "[0:0] -A IPVSCTL-PREROUTING -d 10.0.0.100/32 -p tcp -m tcp --dport 21 -j CT --helper ftp", "COMMIT",
        "*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]",
        ":IPVSCTL-FORWARD-DROP - [0:0]", ":IPVSCTL-INPUT - [0:0]", ":IPVSCTL-FORWARD - [0:0]", ":IPVSCTL-LOOSE - [0:0]",
        "[0:0] -A INPUT -m comment --comment ipvsctl -j IPVSCTL-INPUT",
        "[0:0] -A INPUT -m comment --comment ipvsctl -j IPVSCTL-FORWARD",
        "[0:0] -A FORWARD -m comment --comment ipvsctl -j IPVSCTL-FORWARD",
        "[0:0] -A FORWARD -m comment --comment ipvsctl -j IPVSCTL-FORWARD-DROP",
        "[0:0] -A IPVSCTL-FORWARD-DROP -j DROP",
        "[0:0] -A IPVSCTL-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "[0:0] -A IPVSCTL-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "COMMIT",
    ]  # fmt: skip
    host = engine()
    for table in tables:
        host.tables.load(table)
    assert ask(host, tcp_skb(), "FORWARD") is Reason.RULE
