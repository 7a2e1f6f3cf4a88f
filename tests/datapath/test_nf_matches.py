"""Every match, as a table: a rule, a packet, whether it matches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ipvsctl.datapath.ct.entry import (
    ASSURED,
    CONFIRMED,
    DST_NAT,
    SEEN_REPLY,
    SRC_NAT,
    Entry,
    make_tuple,
)  # fmt: skip
from ipvsctl.datapath.ct.ftp import FTP
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.nf.limit import Bucket, credits_of, period
from ipvsctl.datapath.nf.matches import MATCHES
from ipvsctl.datapath.skb import (
    ESTABLISHED,
    ESTABLISHED_REPLY,
    NEW,
    NONE,
    RELATED,
    RELATED_REPLY,
    UNTRACKED,
    Skb,
)  # fmt: skip
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import MASQ, Conn
from ipvsctl.errors import UsageError
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import packed
from tests.datapath.nf_rig import (
    CLIENT,
    SERVER,
    ask,
    counts,
    engine,
    icmp_skb,
    packet,
    sctp_skb,
    tcp_skb,
    udp_skb,
)  # fmt: skip

Make = Callable[[], Skb]


def matches(rule: str, skb: Skb, chain: str = "INPUT", table: str = "filter", host: Engine | None = None) -> bool:
    if host is None:
        host = engine(f"-A {chain} {rule}", table=table, family=skb.family)
    verdict = ask(host, skb, chain, table)
    assert verdict is None, verdict
    return counts(host, chain, table, skb.family)[0] == 1


MSS = bytes((2, 4, 5, 180))  # 1460
SCALE = bytes((1, 3, 3, 7))

TRANSPORT: list[tuple[str, Make, bool]] = [
    ("-p tcp -m tcp", tcp_skb, True),
    ("-p tcp -m tcp --dport 80", tcp_skb, True),
    ("-p tcp -m tcp --dport 81", tcp_skb, False),
    ("-p tcp -m tcp ! --dport 81", tcp_skb, True),
    ("-p tcp -m tcp ! --dport 80", tcp_skb, False),
    ("-p tcp -m tcp --dport 70:80", tcp_skb, True),
    ("-p tcp -m tcp --dport :79", tcp_skb, False),
    ("-p tcp -m tcp ! --dport 70:79", tcp_skb, True),
    ("-p tcp -m tcp --sport 40000: --dport http", tcp_skb, True),
    ("-p tcp -m tcp --sport 40001: --dport 80", tcp_skb, False),
    ("-p tcp -m tcp ! --sport 0:65535", tcp_skb, False),
    ("-p tcp --syn", tcp_skb, True),
    ("-p tcp --syn", lambda: tcp_skb(0x12), False),
    ("-p tcp ! --syn", lambda: tcp_skb(0x12), True),
    ("-p tcp -m tcp --tcp-flags ALL NONE", lambda: tcp_skb(0), True),
    ("-p tcp -m tcp --tcp-flags ALL NONE", tcp_skb, False),
    ("-p tcp -m tcp --tcp-flags SYN,RST SYN", lambda: tcp_skb(0x12), True),
    ("-p tcp -m tcp --tcp-flags SYN,RST SYN", lambda: tcp_skb(6), False),
    ("-p tcp -m tcp --tcp-option 3", lambda: tcp_skb(options=MSS + SCALE), True),
    ("-p tcp -m tcp --tcp-option 5", lambda: tcp_skb(options=MSS + SCALE), False),
    ("-p tcp -m tcp ! --tcp-option 5", lambda: tcp_skb(options=MSS + SCALE), True),
    ("-p tcp -m tcp ! --tcp-option 5", tcp_skb, True),
    ("-p tcp -m tcpmss --mss 1460", lambda: tcp_skb(options=MSS), True),
    ("-p tcp -m tcpmss --mss 1000:1459", lambda: tcp_skb(options=MSS), False),
    ("-p tcp -m tcpmss ! --mss 1000:1459", lambda: tcp_skb(options=MSS), True),
    ("-p tcp -m tcpmss --mss 0:65535", tcp_skb, False),
    ("-p tcp -m tcpmss ! --mss 0:65535", tcp_skb, True),
    ("-p udp -m udp --dport domain", udp_skb, True),
    ("-p udp -m udp --sport 53", udp_skb, False),
    ("-p udplite -m udplite --dport 7", lambda: packet(136, bytes((0, 1, 0, 7, 0, 8, 0, 0))), True),
    ("-p sctp -m sctp --dport 36412", lambda: sctp_skb((0, 3)), True),
    ("-p sctp -m sctp ! --sport 1000", lambda: sctp_skb((0, 3)), False),
    ("-p sctp -m sctp --chunk-types any DATA,INIT", lambda: sctp_skb((3, 0), (0, 3)), True),
    ("-p sctp -m sctp --chunk-types any INIT", lambda: sctp_skb((3, 0), (0, 3)), False),
    ("-p sctp -m sctp --chunk-types only DATA,SACK", lambda: sctp_skb((3, 0), (0, 3)), True),
    ("-p sctp -m sctp --chunk-types only DATA", lambda: sctp_skb((3, 0), (0, 3)), False),
    ("-p sctp -m sctp ! --chunk-types only DATA", lambda: sctp_skb((3, 0), (0, 3)), True),
    ("-p sctp -m sctp --chunk-types all DATA,SACK", lambda: sctp_skb((3, 0), (0, 3)), True),
    ("-p sctp -m sctp --chunk-types all DATA,INIT", lambda: sctp_skb((3, 0), (0, 3)), False),
    ("-p sctp -m sctp --chunk-types any DATA:BE", lambda: sctp_skb((0, 3)), True),
    ("-p sctp -m sctp --chunk-types any DATA:Be", lambda: sctp_skb((0, 3)), False),
    ("-p sctp -m sctp --chunk-types any DATA:u", lambda: sctp_skb((0, 3)), True),
    ("-p tcp -m multiport --dports 22,80,443", tcp_skb, True),
    ("-p tcp -m multiport --sports 22,80,443", tcp_skb, False),
    ("-p tcp -m multiport --ports 22,30000:50000", tcp_skb, True),
    ("-p tcp -m multiport ! --ports 22,80", tcp_skb, False),
    ("-p tcp -m multiport ! --dports 22", tcp_skb, True),
    ("-p udp -m multiport --dports 1:30", udp_skb, False),
    ("-p icmp -m icmp --icmp-type 8", icmp_skb, True),
    ("-p icmp -m icmp --icmp-type echo-request", icmp_skb, True),
    ("-p icmp -m icmp --icmp-type 8/1", icmp_skb, False),
    ("-p icmp -m icmp ! --icmp-type 8/1", icmp_skb, True),
    ("-p icmp -m icmp --icmp-type any", lambda: icmp_skb(99), True),
    ("-p icmp -m icmp ! --icmp-type any", lambda: icmp_skb(99), False),
    ("-p ipv6-icmp -m icmp6 --icmpv6-type 128", lambda: icmp_skb(128, six=True), True),
    ("-p ipv6-icmp -m icmp6 --icmpv6-type no-route", lambda: icmp_skb(1, 0, six=True), True),
    ("-p ipv6-icmp -m icmp6 --icmpv6-type 1/4", lambda: icmp_skb(1, 0, six=True), False),
    ("-p tcp -m tcp --dport 80", lambda: tcp_skb(six=True), True),
]

PACKET: list[tuple[str, Make, bool]] = [
    ("-s 10.0.0.0/8", tcp_skb, True),
    ("-s 10.0.0.0/30", tcp_skb, True),
    ("-s 10.0.0.4/30", tcp_skb, False),
    ("! -s 10.0.0.2", tcp_skb, False),
    ("! -s 0.0.0.0/0", tcp_skb, False),
    ("-s 10.0.5.2/255.255.0.255", tcp_skb, True),
    ("-s 10.0.5.3/255.255.0.255", tcp_skb, False),
    ("-d 192.168.0.0/16", tcp_skb, True),
    ("! -d 192.168.0.0/17", tcp_skb, False),
    ("! -d 192.168.128.0/17", tcp_skb, True),
    ("-s fd10::/16 -d fd20::100", lambda: tcp_skb(six=True), True),
    ("-s fd10::2/ffff::ffff", lambda: tcp_skb(six=True), True),
    ("-p 6", tcp_skb, True),
    ("! -p tcp", tcp_skb, False),
    ("-m comment --comment x", tcp_skb, True),
    ("-m iprange --src-range 10.0.0.1-10.0.0.3", tcp_skb, True),
    ("-m iprange --src-range 10.0.0.3-10.0.0.9", tcp_skb, False),
    ("-m iprange ! --src-range 10.0.0.3-10.0.0.9 --dst-range 192.168.0.0-192.169.0.0", tcp_skb, True),
    ("-m iprange --src-range ::-fd10::3", lambda: tcp_skb(six=True), True),
    ("-m iprange --src-range ::-::5", lambda: tcp_skb(six=True), False),
    ("-m length --length 40", tcp_skb, True),
    ("-m length --length 41:", tcp_skb, False),
    ("-m length ! --length 41:", tcp_skb, True),
    ("-m length --length 60", lambda: tcp_skb(six=True), True),
    ("-m ttl --ttl-eq 64", tcp_skb, True),
    ("-m ttl ! --ttl-eq 64", tcp_skb, False),
    ("-m ttl --ttl-lt 64", tcp_skb, False),
    ("-m ttl --ttl-gt 63", tcp_skb, True),
    ("-m hl --hl-lt 65", lambda: tcp_skb(six=True), True),
    ("-m tos --tos 0x10/0x3f", lambda: tcp_skb(tos=0xD0), True),
    ("-m tos --tos 0x10/0xff", lambda: tcp_skb(tos=0xD0), False),
    ("-m tos ! --tos 0x10", lambda: tcp_skb(tos=0x10, six=True), False),
    ("-m tos --tos Minimize-Delay", lambda: tcp_skb(tos=0x10), True),
    ("-m dscp --dscp-class EF", lambda: tcp_skb(tos=0xB8), True),
    ("-m dscp ! --dscp 0x2e", lambda: tcp_skb(tos=0xBB, six=True), False),
    ("-m dscp --dscp-class AF21", lambda: tcp_skb(tos=18 << 2), True),
    ("-m pkttype --pkt-type unicast", tcp_skb, True),
    ("-m pkttype --pkt-type unicast", lambda: udp_skb(destination="224.0.0.1"), False),
    ("-m pkttype ! --pkt-type unicast", tcp_skb, False),
    ("-m addrtype --dst-type LOCAL", tcp_skb, False),
    ("-m addrtype --dst-type LOCAL", lambda: tcp_skb(destination="192.168.1.1"), True),
    ("-m addrtype --dst-type LOCAL --limit-iface-in", lambda: tcp_skb(destination="192.168.1.1"), False),
    ("-m addrtype --dst-type UNICAST --limit-iface-in", lambda: tcp_skb(destination="192.168.1.1"), True),
    ("-m addrtype --dst-type LOCAL --limit-iface-in", lambda: tcp_skb(destination="10.0.0.1"), True),
    ("-m addrtype --src-type UNICAST ! --dst-type LOCAL,BROADCAST", tcp_skb, True),
    ("-m addrtype --dst-type BROADCAST", lambda: udp_skb(destination="192.168.1.255"), True),
    ("-m addrtype --dst-type BROADCAST", lambda: udp_skb(destination="255.255.255.255"), True),
    ("-m addrtype --dst-type BROADCAST --limit-iface-in", lambda: udp_skb(destination="192.168.1.255"), False),
    ("-m addrtype --dst-type BROADCAST --limit-iface-in", lambda: udp_skb(destination="10.0.0.255"), True),
    ("-m addrtype --dst-type BROADCAST --limit-iface-in", lambda: udp_skb(destination="255.255.255.255"), True),
    ("-m addrtype --dst-type MULTICAST", lambda: udp_skb(destination="224.0.0.5"), True),
    ("-m addrtype --dst-type LOCAL", lambda: tcp_skb(destination="127.3.2.1"), True),
    ("-m addrtype --dst-type LOCAL", lambda: tcp_skb(destination="fd20::1", six=True), True),
    ("-m addrtype --dst-type LOCAL", lambda: tcp_skb(six=True), False),
    ("-m addrtype --dst-type UNICAST", lambda: tcp_skb(destination="::ffff:1.2.3.4", six=True), False),
    ("-m addrtype --dst-type UNICAST,LOCAL", lambda: tcp_skb(six=True), False),
    ("-m addrtype --dst-type MULTICAST", lambda: udp_skb(destination="ff02::1", six=True), True),
]


@pytest.mark.parametrize(("rule", "make", "expected"), TRANSPORT + PACKET)
def test_match(rule: str, make: Make, expected: bool) -> None:
    assert matches(rule, make()) is expected


def test_marks() -> None:
    for rule, mark, expected in (
        ("--mark 1", 1, True), ("--mark 1", 3, False), ("--mark 1/1", 3, True), ("! --mark 1", 1, False),
        ("! --mark 0x1/0x1", 2, True), ("--mark 0xffffffff", 0xFFFFFFFF, True),
    ):  # fmt: skip
        skb = tcp_skb()
        skb.mark = mark
        assert matches(f"-m mark {rule}", skb) is expected, rule


# -- conntrack --------------------------------------------------------------------------------------------------------


def tracked(info: int, status: int = 0, **fields: object) -> Make:
    """A packet of a connection from CLIENT:40000 to 10.0.0.100:80, answered by SERVER:8080."""

    def make() -> Skb:
        skb = tcp_skb()
        skb.ctinfo = info
        if info not in (NONE, UNTRACKED):
            client, virtual, server = packed(CLIENT), packed("10.0.0.100"), packed(SERVER)
            entry = Entry(
                engine().ct, make_tuple(6, client, virtual, 40000, 80), make_tuple(6, server, client, 8080, 40000)
            )
            entry.status = status
            for name, value in fields.items():
                setattr(entry, name, value)
            skb.ct = entry
        return skb

    return make


def related() -> Skb:
    skb = tracked(RELATED)()
    assert skb.ct is not None
    skb.ct.master = tracked(ESTABLISHED, helper=FTP)().ct
    return skb


CONNTRACK: list[tuple[str, Make, bool]] = [
    ("-m state --state NEW", tracked(NEW), True),
    ("-m state --state NEW", tracked(ESTABLISHED), False),
    ("-m state --state RELATED,ESTABLISHED", tracked(ESTABLISHED_REPLY), True),
    ("-m state --state RELATED,ESTABLISHED", tracked(RELATED_REPLY), True),
    ("-m state --state INVALID", tracked(NONE), True),
    ("-m state --state INVALID", tracked(UNTRACKED), False),
    ("-m state --state UNTRACKED", tracked(UNTRACKED), True),
    ("-m state ! --state INVALID", tracked(NEW), True),
    ("-m state ! --state INVALID", tracked(NONE), False),
    ("-m conntrack --ctstate SNAT", tracked(NEW, SRC_NAT), True),
    ("-m conntrack --ctstate SNAT", tracked(NEW, DST_NAT), False),
    ("-m conntrack --ctstate NEW,DNAT", tracked(ESTABLISHED, DST_NAT), True),
    ("-m conntrack ! --ctstate DNAT", tracked(NONE), True),
    ("-m conntrack ! --ctstate DNAT", tracked(NEW, DST_NAT), False),
    ("-m conntrack --ctproto tcp", tracked(NEW), True),
    ("-m conntrack ! --ctproto 6", tracked(NEW), False),
    ("-m conntrack --ctproto tcp", tracked(NONE), False),
    ("-m conntrack ! --ctproto udp", tracked(NONE), False),
    # What was asked beside a state counts for nothing when there is no entry.
    ("-m conntrack --ctstate INVALID --ctproto udp", tracked(NONE), True),
    ("-m conntrack --ctstate INVALID --ctdir REPLY", tracked(NONE), True),
    ("-m conntrack --ctstate NEW --ctproto udp", tracked(NONE), False),
    ("-m conntrack --ctorigsrc 10.0.0.0/24", tracked(NEW), True),
    ("-m conntrack --ctorigdst 10.0.0.100", tracked(NEW), True),
    ("-m conntrack ! --ctorigdst 10.0.0.100", tracked(NEW), False),
    ("-m conntrack --ctreplsrc 192.168.1.100", tracked(NEW), True),
    ("-m conntrack --ctrepldst 10.0.0.3", tracked(NEW), False),
    ("-m conntrack --ctorigsrcport 40000 --ctorigdstport 80", tracked(NEW), True),
    ("-m conntrack --ctreplsrcport 8000:9000", tracked(NEW), True),
    ("-m conntrack ! --ctrepldstport 40000", tracked(NEW), False),
    ("-m conntrack --ctdir ORIGINAL", tracked(ESTABLISHED), True),
    ("-m conntrack --ctdir REPLY", tracked(RELATED_REPLY), True),
    ("-m conntrack --ctdir REPLY", tracked(NEW), False),
    ("-m conntrack --ctstatus ASSURED,SEEN_REPLY", tracked(ESTABLISHED, ASSURED), True),
    ("-m conntrack --ctstatus SEEN_REPLY", tracked(ESTABLISHED, ASSURED), False),
    ("-m conntrack ! --ctstatus SEEN_REPLY", tracked(ESTABLISHED, SEEN_REPLY), False),
    ("-m conntrack --ctstatus NONE", tracked(NEW), False),
    ("-m conntrack --ctexpire 10:20", tracked(NEW, CONFIRMED, expires=15.9), True),
    ("-m conntrack --ctexpire 10:15", tracked(NEW, CONFIRMED, expires=16.1), False),
    ("-m conntrack --ctexpire 0", tracked(NEW, expires=15.9), True),
    ("-m connmark --mark 1/3", tracked(NEW, mark=5), True),
    ("-m connmark ! --mark 1", tracked(NEW, mark=5), True),
    ("-m connmark ! --mark 1", tracked(NONE), False),
    ("-m helper --helper ftp", related, True),
    ("-m helper --helper ftp-2121", related, True),
    ("-m helper --helper irc", related, False),
    ("-m helper ! --helper irc", related, True),
    ('-m helper --helper ""', related, True),
    ("-m helper --helper ftp", tracked(ESTABLISHED, helper=FTP), False),
    ("-m helper ! --helper ftp", tracked(NONE), True),
    ("-m connbytes --connbytes 5 --connbytes-dir both --connbytes-mode packets", tracked(NEW), False),
    ("-m connbytes --connbytes 5 --connbytes-dir both --connbytes-mode packets",
     tracked(NEW, packets=[2, 3], octets=[0, 0]), True),
    ("-m connbytes --connbytes 3:4 --connbytes-dir reply --connbytes-mode packets",
     tracked(NEW, packets=[2, 3], octets=[0, 0]), True),
    ("-m connbytes ! --connbytes 3:4 --connbytes-dir original --connbytes-mode bytes",
     tracked(NEW, packets=[2, 3], octets=[5, 0]), True),
    ("-m connbytes --connbytes 10:10 --connbytes-dir both --connbytes-mode avgpkt",
     tracked(NEW, packets=[2, 3], octets=[20, 32]), True),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "make", "expected"), CONNTRACK)
def test_conntrack(rule: str, make: Make, expected: bool) -> None:
    host = engine(f"-A INPUT {rule}")
    assert matches(rule, make(), host=host) is expected


def test_a_template_is_new_in_the_raw_table() -> None:
    host = engine("-A PREROUTING -p tcp -j CT --helper ftp", "-A PREROUTING -m state --state NEW", table="raw")
    ask(host, tcp_skb(), "PREROUTING", "raw")
    ask(host, udp_skb(), "PREROUTING", "raw")
    assert counts(host, "PREROUTING", "raw") == [1, 1, 2]


# -- what has a state of its own --------------------------------------------------------------------------------------


def test_rates() -> None:
    assert [period(text) for text in ("1/sec", "5/min", "3/hour", "1/d", "7", "10000/second")] == [
        10000, 120000, 12000000, 864000000, 1428, 1,
    ]  # fmt: skip
    for wrong in ("0/sec", "10001/sec", "5/week", "x"):
        with pytest.raises(UsageError):
            period(wrong)
    # 32000 credits a second; what would overflow 32 bits is divided first.
    assert [credits_of(each) for each in (10000, 5, 134217, 134218)] == [32000, 16, 429494, 416000]


def test_limit_is_a_bucket_that_fills_by_jiffies() -> None:
    host = engine("-A INPUT -m limit --limit 10/sec --limit-burst 3 -j ACCEPT", "-A INPUT -j DROP")
    skb = tcp_skb()

    def passed(now: float, count: int) -> int:
        host.now = now
        return sum(ask(host, skb) is None for _ in range(count))

    assert passed(0.0, 10) == 3
    assert passed(0.0999, 5) == 0
    assert passed(0.1, 5) == 1
    assert passed(0.2999, 5) == 1
    assert passed(0.3, 5) == 1
    assert passed(100.0, 10) == 3


def test_a_bucket_that_cannot_be() -> None:
    """Golden: what a kernel takes and what it refuses with ERANGE."""
    host = engine()
    for rate, refused in (("1/day", {2, 4, 5}), ("2/day", {4}), ("1/hour", set()), ("3/hour", set())):
        for burst in (1, 2, 4, 5):
            if burst in refused:
                with pytest.raises(UsageError, match="out of the kernel's range"):
                    Bucket(host, period(rate), burst)
            else:
                Bucket(host, period(rate), burst)


def test_statistic() -> None:
    for packet_number, expected in ((0, "x..x..x"), (1, ".x..x.."), (2, "..x..x.")):
        host = engine(f"-A INPUT -m statistic --mode nth --every 3 --packet {packet_number} -j DROP")
        assert "".join("x" if ask(host, tcp_skb()) is Reason.RULE else "." for _ in range(7)) == expected
    host = engine("-A INPUT -m statistic --mode random --probability 0.25 -j DROP")
    found = sum(ask(host, tcp_skb()) is Reason.RULE for _ in range(1000))
    assert 200 < found < 300
    host = engine("-A INPUT -m statistic --mode random ! --probability 1 -j DROP")
    assert ask(host, tcp_skb()) is None


def test_rpfilter() -> None:
    for rule, source, expected in (
        ("-m rpfilter", "10.0.0.2", True), ("-m rpfilter", "192.168.1.9", False), ("-m rpfilter", "8.8.8.8", True),
        ("-m rpfilter --invert", "192.168.1.9", True), ("-m rpfilter --loose", "192.168.1.9", True),
        ("-m rpfilter", "10.0.0.1", False), ("-m rpfilter --accept-local", "10.0.0.1", True),
        ("-m rpfilter", "fd10::9", True), ("-m rpfilter", "fd20::9", False), ("-m rpfilter --loose", "fd20::9", True),
        ("-m rpfilter", "fd10::1", False), ("-m rpfilter --accept-local", "fd20::1", True),
    ):  # fmt: skip
        skb = tcp_skb(source=source, six=":" in source)
        assert matches(rule, skb, "PREROUTING", "raw") is expected, (rule, source)


def test_ipvs() -> None:
    connection: Conn | None = None
    for rule, marked, translated, info, expected in (
        ("--ipvs", True, False, NONE, True), ("--ipvs", False, True, NONE, False),
        ("! --ipvs", False, True, NONE, True), ("! --ipvs", True, True, NONE, False),
        ("--vport 80", True, True, NONE, True), ("--vport 80", False, True, NONE, False),
        ("--vport 80", True, False, NONE, False), ("! --vport 81", True, True, NONE, True),
        ("! --vport 81", True, False, NONE, False), ("--vaddr 10.0.0.0/24", True, True, NONE, True),
        ("! --vaddr 10.0.0.100", True, True, NONE, False), ("--vproto tcp --vmethod MASQ", True, True, NONE, True),
        ("--vmethod GATE", True, True, NONE, False), ("--vportctl 21", True, True, NONE, False),
        ("! --vportctl 21", True, True, NONE, True), ("--vdir ORIGINAL", True, True, NONE, False),
        ("--vdir ORIGINAL", True, True, NEW, True), ("--vdir REPLY", True, True, NEW, False),
        ("--vdir REPLY", True, True, ESTABLISHED_REPLY, True),
    ):  # fmt: skip
        host = engine(f"-A OUTPUT -m ipvs {rule}")
        client, server = (packed(CLIENT), 40000), (packed(SERVER), 8080)
        connection = host.vs.conns.new(INET, 6, client, (packed("10.0.0.100"), 80), server, MASQ, None)
        connection.expires = 100.0
        # To the server after translation; to the client as the server sends it.
        skb = tcp_skb(dport=8080) if translated else tcp_skb(2, 8080, 40000, SERVER, CLIENT)
        skb.ipvs, skb.ctinfo = marked, info
        if info != NONE:
            skb.ct = tracked(info)().ct
        assert matches("", skb, "OUTPUT", host=host) is expected, rule
    assert connection is not None


def test_every_match_is_tried_here() -> None:
    tried = " ".join(rule for rule, _, _ in TRANSPORT + PACKET + CONNTRACK)
    elsewhere = {"limit", "statistic", "rpfilter", "ipvs", "mark"}
    assert {name for name in MATCHES if f"-m {name} " not in f"{tried} " and name not in elsewhere} == set()


REFUSED = [
    ("-m u32 --u32 0=0", "match u32 cannot be evaluated"),
    ("-m owner --uid-owner 0", "match owner cannot be evaluated"),
    ("-m tcp --dport 80", "match tcp: needs its protocol with -p"),
    ("! -p tcp -m tcp --dport 80", "match tcp: needs its protocol"),
    ("-m multiport --dports 80", "match multiport: needs its protocol"),
    ("-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "at most 15 ports"),
    ("-p tcp -m tcp --dport 65536", "'65536' is not a port"),
    ("-p tcp -m tcp --dport 9:5", "ends before it begins"),
    ("-p tcp -m tcp --dport nonsense", "'nonsense' is not a port"),
    ("-p tcp -m tcp --dport 80 --unknown 5", "match tcp: option --unknown cannot be evaluated"),
    ("-p tcp -m tcp --dport 80 --dport 81", "--dport is there twice"),
    ("-p tcp -m tcp --tcp-flags SYN FOO", "'FOO' is none of"),
    ("-m conntrack --ctstate NEVER", "'NEVER' is not a state"),
    ("-m state --state SNAT", "'SNAT' is not a state"),
    ("-m conntrack", "asks for nothing"),
    ("-m mark --mark 0x1ffffffff", "is not a value"),
    ("-m mark", "--mark is missing"),
    ("-m limit --limit 5/fortnight", "is not a rate"),
    ("-m limit ! --limit 5/sec", "--limit cannot be negated"),
    ("-m addrtype --dst-type NOWHERE", "not a type of address"),
    ("-m addrtype --dst-type LOCAL --limit-iface-out", "not for PREROUTING and INPUT"),
    ("-m pkttype --pkt-type broadcast", "cannot be evaluated"),
    ("-m ttl --ttl-lt 300", "not a number of hops"),
    ("-m hl --hl-eq 5", "match hl cannot be evaluated"),
    ("-m statistic --mode often", "--mode often is unknown"),
    ("-m statistic --mode nth --every 2 --packet 2", "must be less than"),
    ("-m rpfilter", "is for the tables raw and mangle"),
    ("-m ipvs ! --ipvs --vport 5", "does not go together"),
    ("-m comment --comment a ! -f -m mac --mac-source 0:0:0:0:0:0", "match mac cannot be evaluated"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "reason"), REFUSED)
def test_refused_by_name(rule: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        engine("-A INPUT -j ACCEPT -p udp", f"-A INPUT {rule} -j DROP")
    text = str(caught.value)
    assert text.startswith("table filter, chain INPUT, rule 2 (")
    assert reason in text


def test_refused_for_ipv6() -> None:
    for rule in ("-m ttl --ttl-eq 5", "-p icmp -m icmp --icmp-type 8", "-f", "-m addrtype --dst-type BROADCAST"):
        with pytest.raises(UsageError, match="table filter, chain INPUT, rule 1"):
            engine(f"-A INPUT {rule}", family=INET6)
