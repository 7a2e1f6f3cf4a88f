"""The iptables-legacy back end on this machine's kernel, in network namespaces, judged by iptables-legacy itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipvsctl.errors import NotPermitted, Refused, Unavailable, UsageError
from ipvsctl.kernel import tables
from ipvsctl.kernel.firewall import KernelFirewall
from ipvsctl.kernel.host import KernelHost
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.rule import Match, Options, OwnChain, Rule
from tests.kernel.namespaces import as_nobody, fresh_namespace, run

ROOT = Path(__file__).resolve().parents[2]
TRACKED = Match("conntrack", (("ctstate", "RELATED,ESTABLISHED"),))
VIP = "192.168.1.100"


def port(number: int, protocol: str = "tcp") -> Rule:
    return Rule("ACCEPT", protocol=protocol, destination=VIP, matches=(Match(protocol, (("dport", str(number)),)),))


INPUT = OwnChain(
    INET, "filter", "IPVSCTL-INPUT", "INPUT",
    (
        Rule("ACCEPT", destination=VIP, matches=(TRACKED,)),
        port(21),
        Rule("ACCEPT", destination=VIP, matches=(Match("mark", (("mark", "0x7"),)),)),
        Rule("ACCEPT", protocol="tcp", source="10.0.2.2"),
        Rule("DROP", protocol="tcp", destination=VIP),
    ),
)  # fmt: skip
FORWARD = OwnChain(INET, "filter", "IPVSCTL-FORWARD", "FORWARD", (Rule("ACCEPT", matches=(TRACKED,)),))
FORWARD_DROP = OwnChain(INET, "filter", "IPVSCTL-FORWARD-DROP", "FORWARD", (Rule("DROP"),), place="last")
PREROUTING = OwnChain(
    INET, "raw", "IPVSCTL-PREROUTING", "PREROUTING",
    (replace(port(21), target="CT", target_options=(("helper", "ftp"),)),),
)  # fmt: skip
INPUT6 = OwnChain(
    INET6, "filter", "IPVSCTL-INPUT", "INPUT",
    (
        Rule("ACCEPT", destination="2001:db8::1", matches=(TRACKED,)),
        Rule("ACCEPT", protocol="tcp", source="2001:db8:1::/48", destination="2001:db8::1", in_interface="eth0"),
        Rule("ACCEPT", protocol="ipv6-icmp"),
        Rule("DROP", protocol="tcp", destination="2001:db8::1", in_interface="ppp+"),
    ),
)  # fmt: skip

FOREIGN = """*filter
:INPUT DROP [11:1100]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [7:700]
:ADMIN - [0:0]
[1:60] -A INPUT -i lo -j ACCEPT
[2:120] -A INPUT -s 10.9.0.0/16 -p tcp -m tcp --dport 22 -m comment --comment "it\\'s \\"mine\\"" -j ADMIN
[3:180] -A INPUT -m limit --limit 5/min -j LOG --log-prefix "in: "
[4:240] -A FORWARD -m state --state NEW -g ADMIN
[5:300] -A FORWARD -f -j DROP
[6:360] -A ADMIN -m recent --set --name x --mask 255.255.255.255 --rsource
[7:420] -A ADMIN -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 5 --hashlimit-name y -j RETURN
COMMIT
"""


@pytest.fixture
def firewall() -> Iterator[KernelFirewall]:
    with fresh_namespace():
        yield KernelFirewall()


def change(*after: OwnChain, family: int = INET, table: str = "filter") -> ReplaceRules:
    if after:
        family, table = after[0].family, after[0].table
    return ReplaceRules("auto", family, table, after)


def save(counters: str = "-c", tool: str = "iptables") -> str:
    """What iptables-legacy-save prints, without the lines that have the time in them."""
    return "".join(
        line for line in run(f"{tool}-legacy-save {counters}").splitlines(keepends=True) if not line.startswith("#")
    )


def names(family: int = INET) -> list[str]:
    return tables.existing_tables(family)


# -- apply, apply again, remove ---------------------------------------------------------------------------------------


def test_reading_creates_nothing(firewall: KernelFirewall) -> None:
    assert firewall.chains() == () and firewall.backend() == "iptables-legacy"
    firewall.replace(change(table="raw"))
    firewall.replace(change(table="raw", family=INET6))
    assert names() == [] and names(INET6) == []


def test_a_change_creates_the_table_it_needs_and_no_other(firewall: KernelFirewall) -> None:
    firewall.replace(change(PREROUTING))
    assert firewall.chains() == (PREROUTING,)
    assert names() == ["raw"] and names(INET6) == []
    firewall.replace(change(table="raw"))
    assert firewall.chains() == ()
    assert names() == ["raw"], "the kernel keeps a table, empty"
    assert save() == "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def test_among_the_rules_of_others(firewall: KernelFirewall) -> None:
    run("iptables-legacy-restore -c", FOREIGN)
    before = save()
    assert before == FOREIGN, "the rules of others are what we wrote"
    firewall.replace(change(INPUT, FORWARD, FORWARD_DROP))
    assert firewall.chains() == (FORWARD, FORWARD_DROP, INPUT)
    after = save()
    assert [line for line in after.splitlines() if "IPVSCTL" not in line] == before.splitlines()
    listed = run("iptables-legacy -S FORWARD").splitlines()
    assert "IPVSCTL-FORWARD" in listed[1] and "IPVSCTL-FORWARD-DROP" in listed[-1]
    firewall.replace(change(INPUT, FORWARD, FORWARD_DROP))
    assert save() == after, "twice is once"
    firewall.replace(change())
    assert save() == before, "removed is never been there"


def test_ipv6(firewall: KernelFirewall) -> None:
    run("ip6tables-legacy -P FORWARD DROP")
    before = save(tool="ip6tables")
    firewall.replace(change(INPUT6))
    assert firewall.chains() == (INPUT6,)
    text = save("", "ip6tables")
    assert "-A IPVSCTL-INPUT -s 2001:db8:1::/48 -d 2001:db8::1/128 -i eth0 -p tcp -j ACCEPT\n" in text
    assert "-A IPVSCTL-INPUT -d 2001:db8::1/128 -i ppp+ -p tcp -j DROP\n" in text
    firewall.replace(change(family=INET6))
    assert save(tool="ip6tables") == before and names() == []


def test_our_entries_are_iptables_own_bytes(firewall: KernelFirewall) -> None:
    """What we write and what iptables-legacy writes of the same text reads back the same, with nothing left over."""
    firewall.replace(change(INPUT, FORWARD, FORWARD_DROP))
    text, ours = save(""), firewall.chains()
    firewall.replace(change())
    run("iptables-legacy-restore", text)
    assert firewall.chains() == ours and save("") == text


def test_counters_of_rules_that_stay(firewall: KernelFirewall) -> None:
    run("ip link set lo up")
    count = Rule("ACCEPT", protocol="udp", matches=(Match("udp", (("dport", "5000"),)),))
    chain = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (port(1), count, port(2)))
    firewall.replace(change(chain))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 5000))  # Nobody there would mean ICMP errors, which are counted too.
        for _ in range(3):
            sender.sendto(b"x", ("127.0.0.1", 5000))
    assert "[3:87] -A IPVSCTL-INPUT -p udp" in save()
    firewall.replace(change(replace(chain, rules=(port(7), port(8), count, port(2), port(3)))))
    text = save()
    assert "[3:87] -A IPVSCTL-INPUT -p udp" in text and "[3:87] -A INPUT -m comment" in text
    assert text.count("-A IPVSCTL-INPUT") == 5


def test_many_rules(firewall: KernelFirewall) -> None:
    chain = replace(INPUT, rules=tuple(port(number) for number in range(1, 1001)))
    firewall.replace(change(chain))
    assert firewall.chains() == (chain,)
    shorter = replace(chain, rules=chain.rules[:500] + chain.rules[501:])
    firewall.replace(change(shorter))
    assert firewall.chains() == (shorter,)


def test_namespaces_do_not_mix(firewall: KernelFirewall) -> None:
    """python-iptables keeps its table objects for the whole process."""
    firewall.replace(change(INPUT))
    with fresh_namespace():
        assert firewall.chains() == ()
        firewall.replace(change(FORWARD))
        assert firewall.chains() == (FORWARD,)
    assert firewall.chains() == (INPUT,)


# -- what is read -----------------------------------------------------------------------------------------------------

LINES: list[tuple[str, Rule]] = [
    ("", Rule("")),
    ("-j RETURN", Rule("RETURN")),
    ("-s 10.0.0.0/8 -d 10.1.2.3 -i eth0 -o ppp+ -p tcp -j ACCEPT",
     Rule("ACCEPT", "tcp", "10.0.0.0/8", "10.1.2.3", "eth0", "ppp+")),
    ("! -s 10.1.2.3 ! -d 10.0.0.0/8 ! -i eth0 ! -o e+ ! -p udp -j DROP",
     Rule("DROP", "!udp", "!10.1.2.3", "!10.0.0.0/8", "!eth0", "!e+")),
    ("-s 10.0.1.0/255.0.255.0 -j DROP", Rule("DROP", source="10.0.1.0/255.0.255.0")),
    ("-p 99 -j DROP", Rule("DROP", "99")),
    ("-p icmp -m icmp --icmp-type 8 -j DROP", Rule("DROP", "icmp", matches=(Match("icmp", (("icmp-type", "8"),)),))),
    ("-p sctp -m sctp --dport 9 -j DROP", Rule("DROP", "sctp", matches=(Match("sctp", (("dport", "9"),)),))),
    ("-p tcp -m tcp ! --sport 1:5 --tcp-flags SYN,ACK SYN -j DROP",
     Rule("DROP", "tcp", matches=(Match("tcp", (("sport", "!1:5"), ("tcp-flags", "SYN,ACK SYN"))),))),
    ("-m state --state NEW -j DROP", Rule("DROP", matches=(Match("state", (("state", "NEW"),)),))),
    ("-m conntrack ! --ctstate NEW -j DROP", Rule("DROP", matches=(Match("conntrack", (("ctstate", "!NEW"),)),))),
    ("-p tcp -m multiport --dports 20,21 -j DROP",
     Rule("DROP", "tcp", matches=(Match("multiport", (("dports", "20,21"),)),))),
    ('-m comment --comment "it\'s a \\"b\\" ! --c \\\\" -j DROP',
     Rule("DROP", matches=(Match("comment", (("comment", "it's a \"b\" ! --c \\"),)),))),
    ("-p tcp -j REJECT --reject-with tcp-reset",
     Rule("REJECT", "tcp", target_options=(("reject-with", "tcp-reset"),))),
    ('-j LOG --log-prefix "a b"', Rule("LOG", target_options=(("log-prefix", "a b"),))),
    ("-j IPVSCTL-OTHER", Rule("IPVSCTL-OTHER")),
]  # fmt: skip


def test_what_iptables_wrote(firewall: KernelFirewall) -> None:
    chain = "IPVSCTL-INPUT"
    rules = "\n".join(f"-A {chain} {words}" for words, _ in LINES)
    run("iptables-legacy-restore", f"*filter\n:{chain} - [0:0]\n:IPVSCTL-OTHER - [0:0]\n{rules}\nCOMMIT\n")
    before = save("")
    (found, other) = firewall.chains()
    assert dict(zip([words for words, _ in LINES], found.rules, strict=True)) == dict(LINES)
    assert not found.jump and found.hook == "INPUT" and found.place == "" and other.hook == ""
    firewall.replace(change(found, other))
    assert save("") == before, "nothing to do"
    firewall.replace(change())
    firewall.replace(change(found, other))
    assert save("") == before, "written as iptables wrote it"


ODD = [
    "-f -j DROP",
    "-g IPVSCTL-OTHER",
    "-m recent --set --name x --mask 255.255.255.255 --rsource",
    "-m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 5 --hashlimit-name y -j DROP",
    "-m comment --comment ! -j DROP",
    "-m policy --dir out --pol ipsec --strict --proto esp --next --proto ah -j DROP",
    "-m string --string \"a 'b' c\" --algo bm -j DROP",
    '-m u32 --u32 "0x0>>0x16&0x3c=0x2&&0x4=0x1" -j DROP',
    "-m addrtype --dst-type LOCAL -j MARK --set-xmark 0x1/0xff",
    "-p tcp -m comment --comment x -m tcp --dport 80 -m comment --comment y -j DROP",
    "-m statistic --mode nth --every 3 --packet 1 -j DROP",
    "-p tcp -m tcp --dport 1 -m owner --uid-owner 5 -j DROP",
    "-m time --timestart 01:02:03 --weekdays Mon,Tue -j DROP",
]


def test_what_is_not_ours_to_understand_differs_and_comes_back(firewall: KernelFirewall) -> None:
    """An administrator changed a chain of ours by hand: an undo still restores every byte of it."""
    chain = "IPVSCTL-OUTPUT"
    rules = "\n".join(f"-A {chain} {words}" for words in ODD)
    jump = f"-A OUTPUT -m comment --comment ipvsctl -j {chain}"
    run("iptables-legacy-restore", f"*filter\n:{chain} - [0:0]\n:IPVSCTL-OTHER - [0:0]\n{rules}\n{jump}\nCOMMIT\n")
    before = save("")
    (found, other) = sorted(firewall.chains(), key=lambda each: each.name == "IPVSCTL-OTHER")
    assert len({str(rule) for rule in found.rules}) == len(ODD)
    plain = {str(Rule("DROP")), str(Rule("IPVSCTL-OTHER")), str(Rule(""))}
    assert plain.isdisjoint(map(str, found.rules)), "no match was dropped"
    undo = replace(change(), before=(found, other)).inverse()
    firewall.replace(change(OwnChain(INET, "filter", chain, "OUTPUT", (Rule("ACCEPT"),))))
    assert "u32" not in save("")
    firewall.replace(change())
    for each in undo:
        assert isinstance(each, ReplaceRules)
        firewall.replace(each)
    assert save("") == before


def test_an_unknown_revision_and_an_unknown_match_stay_as_they_are(firewall: KernelFirewall) -> None:
    """The kernel keeps old revisions of a match for old programs; libxtables reads the newest only."""
    known = Match("mark", (("raw", "1:" + (b"\7\0\0\0\xff\xff\xff\xff\0" + bytes(7)).hex()),))
    old = Match("conntrack", (("raw", "2:" + bytes(160).hex()),))
    chain = replace(FORWARD, rules=(Rule("DROP", matches=(known,)), Rule("DROP", matches=(old,))))
    firewall.replace(change(chain))
    (found,) = firewall.chains()
    assert found.rules[0] == Rule("DROP", matches=(Match("mark", (("mark", "0x7"),)),))
    assert found.rules[1].matches[0].options[-1][0] == "raw"
    firewall.replace(change(found))
    assert firewall.chains() == (found,)


# -- jumps ------------------------------------------------------------------------------------------------------------

JUMP = "-m comment --comment ipvsctl -j IPVSCTL-FORWARD"


def forward() -> list[str]:
    return [line.removeprefix("-A FORWARD ") for line in run("iptables-legacy -S FORWARD").splitlines()[1:]]


def test_a_jump_stays_where_the_administrator_put_it(firewall: KernelFirewall) -> None:
    firewall.replace(change(FORWARD))
    run(f"iptables-legacy -D FORWARD 1; iptables-legacy -A FORWARD -i a -j DROP; iptables-legacy -A FORWARD {JUMP};"
        "iptables-legacy -A FORWARD -i b -j DROP")  # fmt: skip
    (found,) = firewall.chains()
    assert found == FORWARD and found.place == "2"
    firewall.replace(change(replace(FORWARD, rules=(port(1),))))
    assert forward() == ["-i a -j DROP", JUMP, "-i b -j DROP"]
    firewall.replace(change())
    assert forward() == ["-i a -j DROP", "-i b -j DROP"]
    firewall.replace(change(found))
    assert forward() == ["-i a -j DROP", JUMP, "-i b -j DROP"], "undo puts it back between the two"


def test_a_missing_jump_is_seen_and_made(firewall: KernelFirewall) -> None:
    firewall.replace(change(FORWARD))
    run("iptables-legacy -F FORWARD; iptables-legacy -A FORWARD -i a -j DROP")
    (found,) = firewall.chains()
    assert not found.jump and found != FORWARD and found.hook == "FORWARD"
    firewall.replace(change(FORWARD))
    assert forward() == [JUMP, "-i a -j DROP"]
    firewall.replace(change(found))
    assert forward() == ["-i a -j DROP"], "a chain without a jump can be had back too"


def test_several_jumps_become_one(firewall: KernelFirewall) -> None:
    firewall.replace(change(FORWARD))
    run(f"iptables-legacy -A FORWARD -i a -j DROP; iptables-legacy -A FORWARD {JUMP}; iptables-legacy -A INPUT {JUMP}")
    (found,) = firewall.chains()
    assert found != FORWARD and found.hook == "INPUT,FORWARD"
    firewall.replace(change(FORWARD))
    assert forward() == [JUMP, "-i a -j DROP"]
    assert "IPVSCTL" not in run("iptables-legacy -S INPUT")
    assert firewall.chains() == (FORWARD,)


def test_first_and_last_keep_the_order_they_are_named_in(firewall: KernelFirewall) -> None:
    run("iptables-legacy -A FORWARD -i a -j DROP")
    more = [replace(FORWARD, name=f"IPVSCTL-FORWARD-{letter}", place=place) for letter, place in
            (("C", "first"), ("A", "last"), ("B", "first"), ("D", "last"))]  # fmt: skip
    firewall.replace(change(*more))
    assert [line[-1] for line in forward()] == ["C", "B", "P", "A", "D"]
    undo = firewall.chains()
    before = save()
    firewall.replace(change())
    firewall.replace(change(*undo))
    assert save() == before


def test_a_foreign_jump_to_our_chain_is_not_ours_to_delete(firewall: KernelFirewall) -> None:
    firewall.replace(change(FORWARD))
    run("iptables-legacy -A FORWARD -i a -m comment --comment ipvsctl -j IPVSCTL-FORWARD")
    before = save()
    with pytest.raises(Refused, match="rule 2 of FORWARD jumps to IPVSCTL-FORWARD and is not ours: delete that first"):
        firewall.replace(change())
    assert save() == before


# -- what is refused --------------------------------------------------------------------------------------------------


def dropping(name: str, options: Options = (), protocol: str = "", **more: str) -> Rule:
    return Rule("DROP", protocol, matches=(Match(name, options),), **more)


REFUSED = [
    (dropping("no_such_match"), "does not take match no_such_match"),
    (Rule("NO_SUCH_TARGET"), "does not take target NO_SUCH_TARGET"),
    (Rule("IPVSCTL-NOT-THERE"), "does not take target IPVSCTL-NOT-THERE"),
    (dropping("tcp", (("dport", "99999"),), "tcp"), "match tcp --dport 99999"),
    (dropping("tcp", (("no-such", "1"),), "tcp"), "--no-such 1"),
    (dropping("conntrack", (("ctstate", "FOO"),)), "--ctstate FOO"),
    (dropping("comment"), "match comment:"),
    (dropping("comment", (("comment", "x" * 300),)), "does not take all of the text"),
    (dropping("multiport", (("dports", ",".join(map(str, range(1, 30)))),), "tcp"), "match multiport"),
    (dropping("tcp", (("dport", "1"),)), "kernel refuses the table"),
    (Rule("REJECT", "udp", target_options=(("reject-with", "tcp-reset"),)), "kernel refuses the table"),
    (Rule("CT", "tcp", target_options=(("helper", "nosuch"),)), "helper nosuch loaded"),
    (Rule("DROP", source="10.0.0"), "not an address or network of IPv4"),
    (Rule("DROP", source="10.0.0.0/33"), "not an address or network of IPv4"),
    (Rule("DROP", source="2001:db8::1"), "not an address or network of IPv4"),
    (Rule("DROP", in_interface="a" * 16), "not an interface"),
    (Rule("DROP", "bogus"), "not a protocol"),
    (Rule("DROP", "256"), "not a protocol"),
]


@pytest.mark.parametrize(("rule", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_refused_rule_changes_nothing(firewall: KernelFirewall, rule: Rule, words: str) -> None:
    table = "raw" if rule.target == "CT" else "filter"
    chain = replace(FORWARD, rules=(port(1),)) if table == "filter" else PREROUTING
    firewall.replace(change(chain))
    before = save()
    with pytest.raises(Refused) as caught:
        firewall.replace(change(replace(chain, rules=(port(2), rule))))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("cannot add rules of iptables -t ")
    assert save() == before


def test_errors_of_libxtables_do_not_add_up(firewall: KernelFirewall) -> None:
    """Each one is a longjmp; through the interpreter's frames a few dozen of them are its end."""
    for number in range(500):
        rule = dropping("tcp", (("dport", str(70000 + number)),), "tcp")
        with pytest.raises(Refused, match="does not take"):
            firewall.replace(change(replace(FORWARD, rules=(rule,))))


def test_only_our_chains(firewall: KernelFirewall) -> None:
    for chain in (
        replace(FORWARD, name="ADMIN"),
        replace(FORWARD, name="IPVSCTL-" + "x" * 21),
        replace(FORWARD, hook="ADMIN"),
        replace(FORWARD, hook="PREROUTING"),
    ):
        with pytest.raises(Refused, match="cannot add rules"):
            firewall.replace(change(chain))
    with pytest.raises(Refused, match="is of another table"):
        firewall.replace(ReplaceRules("auto", INET, "filter", (PREROUTING,)))
    with pytest.raises(Refused, match="is not a chain of ours"):
        firewall.replace(change(FORWARD, FORWARD))
    with pytest.raises(Unavailable, match="modprobe iptable_bogus"):
        firewall.replace(change(replace(FORWARD, table="bogus")))
    assert "IPVSCTL" not in save()


def test_backends(firewall: KernelFirewall) -> None:
    assert firewall.backend("auto") == firewall.backend("iptables-legacy") == "iptables-legacy"
    for name in ("nft", "iptables-nft"):
        with pytest.raises(Unavailable, match=f"back end {name} is not part of this version"):
            firewall.backend(name)
        with pytest.raises(Unavailable):
            firewall.replace(ReplaceRules(name, INET, "filter", (FORWARD,)))
    with pytest.raises(UsageError, match="expected auto, "):
        firewall.backend("pf")


def test_without_root(firewall: KernelFirewall) -> None:
    firewall.replace(change(FORWARD))
    firewall.notes()  # Imports what nobody may not read.
    with as_nobody():
        with pytest.raises(NotPermitted, match=r"cannot read the firewall: .*run as root"):
            firewall.chains()
        with pytest.raises(NotPermitted, match=r"cannot add rules .*run as root"):
            firewall.replace(change(INPUT))
        assert firewall.notes() is not None
    assert firewall.chains() == (FORWARD,)


BROKEN = """
import sys
{prepare}
from ipvsctl.errors import Unavailable
from ipvsctl.kernel.firewall import KernelFirewall
try:
    print(KernelFirewall().backend())
except Unavailable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ("sys.modules['iptc'] = None", "python-iptables is missing: pip install 'ipvsctl[legacy]'"),
        ("import os; os.environ['PYTHON_IPTABLES_XTABLES_VERSION'] = '1'", "python-iptables does not load: "),
        ("import ctypes.util; ctypes.util.find_library = lambda name: None", "python-iptables does not load: "),
    ],
)
def test_without_a_usable_python_iptables(firewall: KernelFirewall, prepare: str, words: str) -> None:
    code = BROKEN.format(prepare=prepare)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr == "" and result.stdout.count("\n") == 1 and words in result.stdout, result


def test_where_nothing_needs_it_python_iptables_is_not_loaded(firewall: KernelFirewall) -> None:
    code = (
        "import sys; from ipvsctl.kernel.host import KernelHost; host = KernelHost.open();"
        "lean = {'iptc', 'pyroute2', 'ipvsctl.kernel.firewall'} & set(sys.modules);"
        "print(lean, host.firewall.chains());"
        "print('iptc' in sys.modules)"
    )
    assert run(f'cd "{ROOT}" && "{sys.executable}" -c "{code}"') == "set() ()\nFalse\n"
    assert KernelHost.open().firewall.chains() == ()


# -- the lock ---------------------------------------------------------------------------------------------------------


def test_iptables_and_we_wait_for_one_another(
    firewall: KernelFirewall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    with tables.lock():
        result = subprocess.run(["iptables-legacy", "-w", "1", "-N", "X"], capture_output=True, text=True)
    assert result.returncode == 4 and "lock" in result.stderr
    run("iptables-legacy -N X")
    firewall.replace(change(INPUT))

    flock = ["flock", str(tmp_path / "lock"), "cat"]
    with subprocess.Popen(flock, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout
        other.stdin.write(b"x")
        other.stdin.flush()
        assert other.stdout.read(1) == b"x"  # It has the lock, or it could not answer.
        monkeypatch.setattr(tables, "LOCK_WAIT", 0.0)
        before = save()
        with pytest.raises(Refused, match=r"another program.* holds .*/lock: try again when it is done"):
            firewall.replace(change())
        assert save() == before
        other.stdin.close()
    firewall.replace(change())


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "no" / "lock"))
    with pytest.raises(Unavailable, match="cannot open the lock"), tables.lock():
        pass


def test_an_unlocked_writer_in_between(firewall: KernelFirewall) -> None:
    """The kernel refuses to replace a table of which we know not all rules (EAGAIN): it is read and made again."""
    firewall.replace(change(INPUT))
    with tables.OpenTable(INET, "filter") as handle:
        run("iptables-legacy -A OUTPUT -j ACCEPT")
        handle.insert("IPVSCTL-INPUT", 0, port(99))
        with pytest.raises(tables.Busy, match="at the same time"):
            handle.commit()
    assert firewall.chains() == (INPUT,) and "-A OUTPUT -j ACCEPT" in save("")


# -- neighbours -------------------------------------------------------------------------------------------------------


def test_notes(firewall: KernelFirewall) -> None:
    def about(word: str) -> list[str]:
        return [note for note in firewall.notes() if word in note]

    assert about("nftables") == about("ufw") == about("firewalld") == []
    assert names() == []
    run("nft add table inet mine; nft add table ip filter; nft add table bridge other")
    (note,) = about("nftables")
    assert "inet mine, ip filter" in note and "bridge" not in note and "\n" not in note
    run("nft add chain ip filter ufw-before-input; iptables-legacy -N INPUT_ZONES")
    assert len(about("ufw keeps rules here")) == len(about("firewalld keeps rules here")) == 1


def test_rules_of_iptables_nft_are_named(firewall: KernelFirewall) -> None:
    run("iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT")
    (note,) = (note for note in firewall.notes() if "nftables" in note)
    assert "ip filter" in note and "iptables-nft" in note
