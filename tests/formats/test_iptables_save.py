"""iptables-save text: what the program prints is written again byte for byte; what people write is understood."""

from __future__ import annotations

import re

import pytest

from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_save import parse, render, rule_text
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.rule import Match, Rule
from ipvsctl.model.snapshot import SavedChain, SavedRule, SavedTable
from tests.kernel.namespaces import fresh_namespace, run
from tests.needs import need_program

# As iptables-legacy-save 1.8.9 printed them, each one alone.
PRINTED = """
*filter
:INPUT ACCEPT [12:3456]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:alpha - [0:0]
:zeta - [0:0]
[3:180] -A INPUT -s 10.0.0.0/8 ! -d 1.2.3.4/32 -i eth+ -p tcp -m tcp --dport 80 -j ACCEPT
[0:0] -A INPUT -f -j DROP
[0:0] -A INPUT ! -f -j DROP
[0:0] -A INPUT -p tcp -m tcp --sport 1024:65535 --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment "a b" -j zeta
[0:0] -A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment "it\\'s \\"q\\" \\\\ x" -g alpha
[0:0] -A INPUT -p tcp -m tcp --tcp-option 5 --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j REJECT --reject-with tcp-reset
[0:0] -A INPUT -p udp -m udp ! --dport 0:53 -j REJECT --reject-with icmp-port-unreachable
[0:0] -A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT
[0:0] -A INPUT -p icmp -m icmp --icmp-type 3/1 -j ACCEPT
[0:0] -A INPUT -p icmp -m icmp --icmp-type any -j ACCEPT
[0:0] -A INPUT -p icmp -m icmp ! --icmp-type 3 -j ACCEPT
[0:0] -A INPUT -p tcp -m multiport --dports 80,443,1000:2000 -j ACCEPT
[0:0] -A INPUT -p tcp -m multiport ! --ports 80,443,1000:2000 -j ACCEPT
[0:0] -A INPUT -m state --state NEW,RELATED,ESTABLISHED -j ACCEPT
[0:0] -A INPUT -m state ! --state INVALID -j ACCEPT
[0:0] -A INPUT -m conntrack --ctstate NEW,UNTRACKED,SNAT,DNAT --ctproto 6 --ctorigsrc 1.2.3.0/24 ! --ctorigdst 1.2.3.4\
 --ctorigsrcport 10:20 --ctrepldstport 7 --ctstatus ASSURED,CONFIRMED --ctexpire 10:20 --ctdir REPLY
[0:0] -A INPUT -m mark ! --mark 0x1/0xf
[0:0] -A INPUT -m connmark --mark 0x1/0xff
[0:0] -A INPUT -m addrtype --src-type UNICAST,LOCAL ! --dst-type BROADCAST --limit-iface-in
[0:0] -A INPUT -m iprange --src-range 1.2.3.4-1.2.3.9 ! --dst-range 1.1.1.1-2.2.2.2
[0:0] -A INPUT -m helper --helper ftp
[0:0] -A INPUT -m helper ! --helper "ft p"
[0:0] -A INPUT -m limit --limit 1/sec --limit-burst 7
[0:0] -A INPUT -m length ! --length 20
[0:0] -A INPUT -m ttl ! --ttl-eq 5
[0:0] -A INPUT -m tos ! --tos 0x10/0x3f
[0:0] -A INPUT -m dscp ! --dscp 0x0a
[0:0] -A INPUT -m pkttype ! --pkt-type broadcast
[0:0] -A INPUT -m statistic --mode nth --every 3 --packet 1
[0:0] -A INPUT -m statistic --mode random ! --probability 0.25000000000
[0:0] -A INPUT -p sctp -m sctp ! --chunk-types all DATA:BE,ABORT
[0:0] -A INPUT -p tcp -m tcpmss --mss 100:200
[0:0] -A INPUT -j LOG --log-prefix "a b: " --log-level 7 --log-tcp-sequence --log-ip-options
[0:0] -A INPUT -j LOG --log-prefix ab --log-uid
[0:0] -A INPUT -p gre -j DROP
[0:0] -A INPUT -p igmp -j DROP
[0:0] -A INPUT ! -p 99 -j DROP
[0:0] -A INPUT -s 1.0.3.0/255.0.255.0 -j DROP
[0:0] -A INPUT -m comment --comment "!x" -j DROP
[0:0] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
[0:0] -A FORWARD ! -i e+ ! -o lo
[0:0] -A alpha -j RETURN
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[0:0] -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff
[0:0] -A PREROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
[0:0] -A PREROUTING -j TTL --ttl-dec 1
[0:0] -A PREROUTING -j DSCP --set-dscp 0x0a
[0:0] -A PREROUTING -j TOS --set-tos 0x10/0x3f
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[0:0] -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
[0:0] -A PREROUTING -j CT --notrack
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[0:0] -A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 1.2.3.4-1.2.3.9:8080-8090 --random --persistent
[0:0] -A POSTROUTING -p tcp -j MASQUERADE --to-ports 1000-2000 --random-fully
COMMIT
""".lstrip()

PRINTED6 = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[0:0] -A INPUT -s 2001:db8::/32 ! -d 2001:db8::1/128 -p tcp -m tcp --dport 80 -j ACCEPT
[0:0] -A INPUT -s ::ffff:1.2.3.4/128 -j ACCEPT
[0:0] -A INPUT -s 2001::1/ffff::ffff -j ACCEPT
[0:0] -A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT
[0:0] -A INPUT -m hl --hl-lt 5 -j REJECT --reject-with icmp6-port-unreachable
COMMIT
""".lstrip()


def one(rule: str, family: int = INET, table: str = "filter", chain: str = "INPUT") -> SavedRule:
    (found,) = parse(f"*{table}\n-A {chain} {rule}\nCOMMIT\n", family)
    (saved,) = next(each for each in found.chains if each.name == chain).rules
    return saved


def test_what_is_printed_is_written_again() -> None:
    assert render(parse(PRINTED, INET)) == PRINTED
    assert render(parse(PRINTED6, INET6)) == PRINTED6


@pytest.mark.parametrize(("text", "family", "tool"), [(PRINTED, INET, "iptables"), (PRINTED6, INET6, "ip6tables")])
def test_the_program_takes_it_and_prints_the_same(text: str, family: int, tool: str) -> None:
    need_program("iptables-legacy-restore")
    with fresh_namespace():
        for table in parse(text, family):
            mine = render((table,))
            run(f"{tool}-legacy-restore -c", mine)
            printed = run(f"{tool}-legacy-save -c -t {table.name}")
            assert re.sub(r"(?m)^#.*\n", "", printed) == mine


def test_values() -> None:
    saved = one(
        '-s 10.0.0.1 ! -d 10.1.2.3/8 -i eth0 -p tcp -m tcp ! --dport 80:90 -m comment --comment "a b" -j ACCEPT'
    )
    assert saved == SavedRule(
        Rule(
            "ACCEPT", "tcp", "10.0.0.1", "!10.0.0.0/8", "eth0", "",
            (Match("tcp", (("dport", "!80:90"),)), Match("comment", (("comment", "a b"),))),
        )
    )  # fmt: skip
    assert one("-j CT --helper ftp", table="raw", chain="PREROUTING").rule.target_options == (("helper", "ftp"),)
    assert one("-g x").goto
    assert one("! -f").rule.matches == (Match("entry", (("fragment", "!"),)),)
    assert one("-m addrtype ! --limit-iface-in").rule.matches[0].options == (("limit-iface-in", "!"),)


# What people write, and what iptables would have made of it.
WRITTEN = [
    ("-p tcp --dport 80 -j ACCEPT", "-p tcp -m tcp --dport 80 -j ACCEPT"),
    ("-p TCP --syn", "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN"),
    ("-p tcp ! --syn", "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
    ("-p tcp -m state --state NEW --dport 22 -j ACCEPT", "-p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT"),
    ("-m tcp -p tcp -m state --dport 22 --state NEW", "-p tcp -m tcp --dport 22 -m state --state NEW"),
    ("-p tcp -j ACCEPT --dport 80", "-p tcp -m tcp --dport 80 -j ACCEPT"),
    ("-p tcp -j web --dport 80", "-p tcp -m tcp --dport 80 -j web"),
    ("--protocol udp --source-port 53 --jump DROP", "-p udp -m udp --sport 53 -j DROP"),
    ("-p udp --dport=53", "-p udp -m udp --dport 53"),
    ("-ptcp -s10.0.0.1", "-s 10.0.0.1/32 -p tcp"),
    ("-p tcp --dport ! 80", "-p tcp -m tcp ! --dport 80"),
    ("-s ! 10.0.0.1", "! -s 10.0.0.1/32"),
    ("-s 10.0.0.9/255.255.255.0 -p 6 -p all", "-s 10.0.0.0/24"),
    ("-s 0.0.0.0/0", ""),
    ("! -s 0.0.0.0/0 -j DROP", "! -s 0.0.0.0/0 -j DROP"),
    ("-p icmp --icmp-type echo-request", "-p icmp -m icmp --icmp-type echo-request"),
    ("-m unheard --of a b ! --such c -j ALSO --new", "-m unheard --of a b ! --such c -j ALSO --new"),
    ('-j LOG --log-prefix "--- "', '-j LOG --log-prefix "--- "'),
    ("-j DROP -c 3 4", "-j DROP"),
]


@pytest.mark.parametrize(("written", "printed"), WRITTEN)
def test_what_people_write(written: str, printed: str) -> None:
    assert rule_text(INET, one(written)) == printed


def test_counters() -> None:
    (table,) = parse("*raw\n:PREROUTING DROP [7:8]\n[1:2] -A PREROUTING -j DROP\n-A OUTPUT -c 3 4\nCOMMIT", INET)
    assert table.chains == (
        SavedChain("PREROUTING", "DROP", (SavedRule(Rule("DROP"), 1, 2),), 7, 8),
        SavedChain("OUTPUT", "ACCEPT", (SavedRule(Rule(""), 3, 4),)),
    )


def test_several_addresses_are_several_rules() -> None:
    (table,) = parse("*filter\n-A INPUT -s 10.0.0.1,10.0.1.0/24 -d 1.1.1.1,2.2.2.2 -j DROP\nCOMMIT\n", INET)
    assert [(r.rule.source, r.rule.destination) for r in table.chains[0].rules] == [
        ("10.0.0.1", "1.1.1.1"), ("10.0.0.1", "2.2.2.2"), ("10.0.1.0/24", "1.1.1.1"), ("10.0.1.0/24", "2.2.2.2"),
    ]  # fmt: skip


def test_commands() -> None:
    text = "*filter\n-N web\n-P INPUT DROP\n-A web -j DROP\n-I web -j LOG\n-I web 2 -j RETURN\n-4 -A web\nCOMMIT\n"
    with pytest.raises(UsageError, match=r"line 7: '-4' is not understood"):
        parse(text, INET)
    (table,) = parse(text.replace("-4 -A web", "-A web -6 -j DROP"), INET)
    chains = {chain.name: chain for chain in table.chains}
    assert chains["INPUT"].policy == "DROP"
    assert [each.rule.target for each in chains["web"].rules] == ["LOG", "RETURN", "DROP"]
    (table,) = parse("*filter\n-A INPUT -j DROP\n-F\n-A INPUT -j ACCEPT\nCOMMIT\n", INET)
    assert [each.rule.target for each in table.chains[0].rules] == ["ACCEPT"]


def test_the_later_of_two_is_the_one() -> None:
    found = parse("*raw\n-A OUTPUT\nCOMMIT\n*raw\nCOMMIT\n", INET)
    assert found == (SavedTable(INET, "raw", (SavedChain("PREROUTING", "ACCEPT"), SavedChain("OUTPUT", "ACCEPT"))),)


REFUSED = [
    ("-A INPUT -j DROP", "line 1: this is outside of a table"),
    ("*fliter", "line 1: there is no table 'fliter'"),
    ("*filter\n*nat", "line 2: table filter has no COMMIT yet"),
    ("*filter\n-A INPUT", "table filter has no COMMIT"),
    ("*filter\n-A web -j DROP", "line 2: there is no chain 'web' in table filter"),
    ("*filter\n:INPUT REJECT", "'REJECT' is not a policy"),
    ("*filter\n:web ACCEPT", "web is not a built-in chain"),
    ("*filter\n:INPUT ACCEPT [1:x]", "no counters"),
    (f"*filter\n:{'x' * 29} -", "not a name for a chain"),
    ("*filter\n-A INPUT -s fe80::1", "'fe80::1' is not an address or network of IPv4"),
    ("*filter\n-A INPUT -s 1.2.3.4/33", "'1.2.3.4/33' is not an address"),
    ("*filter\n-A INPUT -s host.example", "'host.example' is not an address"),
    ("*filter\n-A INPUT ! -s 1.1.1.1,2.2.2.2", "! -s takes one address"),
    ("*filter\n-A INPUT -p tpc", "'tpc' is not a protocol"),
    ("*filter\n-A INPUT ! -p all", "matches nothing"),
    ("*filter\n-A INPUT --dport 80", "--dport belongs to no match"),
    ("*filter\n-A INPUT -j", "-j is not followed by its value"),
    ("*filter\n-A INPUT -j DROP !", "nothing follows the !"),
    ("*filter\n-A INPUT ! ! -s 1.1.1.1", "two !"),
    ("*filter\n-A INPUT -j DROP -j DROP", "one target"),
    ("*filter\n-A INPUT web", "'web' is no option"),
    ("*filter\n-A INPUT -x 1", "there is no option -x"),
    ('*filter\n-A INPUT -m comment --comment "a', "a quotation mark is not closed"),
    ("*filter\n-I INPUT 3 -j DROP", "not so many rules"),
    ("*filter\n-D INPUT 3", "'-D' is not understood here"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refused_with_line_and_text(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)) as caught:
        parse(text + "\n", INET)
    if str(caught.value).startswith("line"):
        assert str(caught.value).endswith(text.splitlines()[-1])
