"""Saved states: round trips, defaults, and every problem with its line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ipvsctl.errors import FileError
from ipvsctl.formats.snapshot_file import SHARED, is_snapshot, parse, render
from ipvsctl.formats.snapshot_values import TABLES
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.model.status import Timeouts
from tests.needs import need_program

MANUAL = Path(__file__).parents[2] / "man" / "ipvsctl-state.5"

FULL = """\
modules = ["nf_conntrack_ftp", "ip_vs_ftp"]
notes = ["a table of nftables was left out"]
iptables = '''
*filter
:FORWARD DROP [3:120]
:own - [0:0]
[1:40] -A FORWARD -s 10.0.0.0/8 -m comment --comment "it's ours" -j own
-A own -j ACCEPT
COMMIT
'''
ip6tables = '''
*raw
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
'''

[[device]]
name = "lo"
addresses = ["192.168.1.100/32"]

[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "2001:DB8::1/64"]
mtu = 1400
hosts = ["10.0.1.2"]

[[route]]
destination = "0.0.0.0/0"
device = "eth0"
via = "10.0.1.254"
source = "10.0.1.1"
metric = 5
mtu = 1300

[[route]]
destination = "2001:db8:1::/48"
kind = "blackhole"

[[rule]]
priority = 10
from = "192.168.1.100"
table = 100

[[rule]]
priority = 20
family = "inet6"
mark = 0x10
mask = 0xf0
in_device = "eth0"
action = "prohibit"

[[service]]
address = "tcp:192.168.1.100:80"
scheduler = "rr"

[[service.server]]
address = "10.0.2.2:8080"
forward = "nat"

[sysctl]
"net.ipv4.ip_forward" = 1
net.ipv4.vs.conntrack = true

[timeout]
udp = "1m"
"""


def test_everything_is_read() -> None:
    snapshot = parse(FULL, "state")
    assert snapshot.devices == (
        Device("lo", ("192.168.1.100/32",), 65536),
        Device("eth0", ("10.0.1.1/24", "2001:db8::1/64"), 1400, ("10.0.1.2",)),
    )
    assert snapshot.routes == (
        Route("0.0.0.0/0", "eth0", "10.0.1.254", source="10.0.1.1", metric=5, mtu=1300),
        Route("2001:db8:1::/48", kind="blackhole"),
    )
    assert snapshot.policy == (
        PolicyRule(INET, 10, source="192.168.1.100/32", table=100),
        PolicyRule(INET6, 20, mark=0x10, mask=0xF0, in_device="eth0", action="prohibit"),
    )
    assert snapshot.modules == {"ip_vs_ftp", "nf_conntrack_ftp"}
    assert snapshot.sysctls == {"net.ipv4.ip_forward": "1", "net.ipv4.vs.conntrack": "1"}
    assert snapshot.timeouts == Timeouts(udp=60)
    assert [(table.family, table.name) for table in snapshot.tables] == [(INET, "filter"), (INET6, "raw")]
    forward = next(chain for chain in snapshot.tables[0].chains if chain.name == "FORWARD")
    assert (forward.policy, forward.packets, forward.rules[0].packets) == ("DROP", 3, 1)
    assert str(snapshot.services[0].servers[0].address) == "10.0.2.2:8080"
    assert snapshot.notes == ("a table of nftables was left out",)


@pytest.mark.parametrize("text", ["", FULL, '[[device]]\nname = "eth0"\n', "[sysctl]\n"])
def test_what_is_written_reads_back(text: str) -> None:
    snapshot = parse(text, "state")
    assert parse(render(snapshot), "again") == snapshot
    assert render(parse(render(snapshot), "again")) == render(snapshot)


def test_nothing_is_an_empty_snapshot() -> None:
    assert parse("", "state") == Snapshot()
    assert render(Snapshot()) == ""


def test_rules_with_three_quotes_are_written_on_one_line() -> None:
    rule = "-A INPUT -m comment --comment \"a'''b\" -j DROP"
    snapshot = parse(f'iptables = """\n*filter\n{rule}\nCOMMIT\n"""\n', "state")
    assert "'''" in str(snapshot.tables[0].chains[0].rules[0].rule)
    assert parse(render(snapshot), "again") == snapshot


def test_a_mark_without_a_mask_is_whole_and_a_family_follows_the_addresses() -> None:
    text = '[[rule]]\npriority = 1\nmark = 7\n[[rule]]\npriority = 2\nto = "2001:db8::/32"\n'
    one, two = parse(text, "state").policy
    assert (one.family, one.mark, one.mask) == (INET, 7, 0xFFFFFFFF)
    assert (two.family, two.destination, two.mask) == (INET6, "2001:db8::/32", 0)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("device = 1\n", 1, "an array of tables"),
        ("[[device]]\n", 1, "has no name"),
        ('[[device]]\nname = "eth0"\nadress = []\n', 3, 'unknown key "adress"'),
        ('[[device]]\nname = "eth0"\naddresses = [\n"10.0.0.1/24",\n"10.0.0.1"]\n', 5, "prefix length"),
        ('[[device]]\nname = "e"\n[[device]]\nname = "e"\n', 4, "given twice, expected once (line 2)"),
        ('[[device]]\nname = "e"\nmtu = 67\n', 3, "68..65536"),
        ('[[route]]\ndestination = "10.0.0.1/8"\n', 2, "without host bits"),
        ('[[route]]\ndestination = "10.0.0.0/8"\n', 1, "has no device"),
        ('[[route]]\ndestination = "10.0.0.0/8"\ndevice = "eth9"\n', 3, "no [[device]] of the name eth9"),
        ('[[route]]\ndestination = "0.0.0.0/0"\ndevice = "lo"\nvia = "fd00::1"\n', 4, "address family"),
        ('[[route]]\ndestination = "0.0.0.0/0"\nkind = "throw"\nvia = "10.0.0.1"\n', 4, "has no gateway"),
        ('[[rule]]\npriority = 1\nfrom = "10.0.0.0/8"\nto = "::/0"\n', 1, "one address family"),
        ("[[rule]]\npriority = 1\nmark = 3\nmask = 1\n", 3, "no packet would match"),
        ("[[rule]]\npriority = 1\nmask = 1\n", 3, "beside a mark only"),
        ('[[rule]]\npriority = 1\naction = "prohibit"\ntable = 5\n', 4, "looks nothing up"),
        ('modules = ["a", "a"]\n', 1, "given twice"),
        ('iptables = "*filter\\n-A INPUT -j\\nCOMMIT"\n', 1, "line 2"),
        ('\n[[service]]\naddress = "tcp:1.2.3.4:80"\nserver = 5\n', 4, "[[service.server]]"),
        ("[sysctl]\nx = []\n", 2, "sysctl"),
        ("[timeout]\ntcp = 0\n", 2, "tcp"),
        ("[firewall]\n", 1, 'unknown key "firewall"'),
        ("x\n", 1, "not TOML"),
    ],
)
def test_problems_are_told_with_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(FileError) as caught:
        parse(text, "state")
    assert caught.value.line == line
    assert words in str(caught.value)


def test_all_problems_are_told() -> None:
    with pytest.raises(FileError) as caught:
        parse('[[rule]]\n[[device]]\nname = ""\n[[service]]\n', "state")
    assert [note.split(": ")[0] for note in caught.value.__notes__] == ["state:3", "state:4"]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (FULL, True),
        (FULL.encode(), True),
        ('[[device]]\nname = "eth0"\n', True),
        ("  [[ route ]]\n", True),
        ('modules = ["ip_vs"]\n', True),
        ('[[service]]\naddress = "tcp:1.2.3.4:80"\n', False),
        ('[firewall]\nprotect = ["10.0.0.1"]\n', False),
        ("[sysctl]\n", False),
    ],
)
def test_a_state_is_told_from_a_director_file(text: str | bytes, state: bool) -> None:
    assert is_snapshot(text) is state


# -- the manual page --------------------------------------------------------------------------------------------------


def test_the_manual_page_has_every_key() -> None:
    """A key that is missing is added to man/ipvsctl-state.5 as `.It Ic KEY`, below the heading of its table."""
    sections: dict[str, set[str]] = {}
    heading = ""
    for line in MANUAL.read_text().splitlines():
        if line.startswith(".Ss "):
            table = re.match(r"\.Ss (\[\[\w+\]\])", line)
            heading = table[1] if table else ""
        elif match := re.match(r"\.It Ic (\w+)", line):
            sections.setdefault(heading, set()).add(match[1])
    expected = {table: set(keys) for table, keys in TABLES.items()}
    expected[""] -= {"device", "route", "rule", *SHARED}
    assert sections == expected


def test_the_example_of_the_manual_page_is_right() -> None:
    blocks = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    (example,) = (block.replace("\\&", "") for block in blocks if "[[" in block)
    snapshot = parse(example, "manual")
    assert (len(snapshot.tables), len(snapshot.policy), len(snapshot.services)) == (1, 1, 1)


def test_the_manual_page_has_no_warnings() -> None:
    need_program("mandoc")
    done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", MANUAL], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
