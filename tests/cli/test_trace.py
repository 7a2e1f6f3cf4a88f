"""`trace`: what it prints, what it answers a script, and that it takes what people type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main
from ipvsctl.cli.trace import REASONS, SESSIONS, VERDICTS
from ipvsctl.datapath.nf.matches import MATCHES
from ipvsctl.datapath.nf.targets import TARGETS
from ipvsctl.datapath.session import SESSIONS as KNOWN
from ipvsctl.datapath.verdict import Reason
from tests.cli.conftest import Cli

EXAMPLES = Path(__file__).parents[1] / "examples"
FTP = str(EXAMPLES / "ftp.toml")
OLD, TODAY = str(EXAMPLES / "recipe-2003.toml"), str(EXAMPLES / "recipe-today.toml")
FTP_SESSIONS = ("ftp-passive", "ftp-extended-passive", "ftp-active", "ftp-extended-active")
HELPER_RULE = "iptables -t raw -A PREROUTING -p tcp -d 192.168.1.100 --dport 21 -j CT --helper ftp"
SYN = ("tcp", "10.0.1.2:40000", "192.168.1.100:21")

STATE = """\
modules = ["ip_vs_ftp"]
iptables = '''
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 192.168.1.0/24 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 7
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p tcp --dport 25 -j REJECT --reject-with tcp-reset
-A INPUT -m mark --mark 7 -j ACCEPT
-A INPUT -d 10.9.9.9 -j ACCEPT
-A INPUT -s 10.0.2.0/24 -j ACCEPT
COMMIT
'''
ip6tables = '''
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp --dport 22 -j DROP
COMMIT
'''

[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "10.9.9.9/32", "fd00:1::1/64", "2001:db8::100/128"]

[[device]]
name = "eth1"
addresses = ["10.0.2.1/24", "fd00:2::1/64"]

[[rule]]
priority = 100
mark = 7
table = 100

[[route]]
destination = "0.0.0.0/0"
kind = "local"
device = "lo"
table = 100

[[service]]
address = "fwmark:7"
scheduler = "rr"
server = [{ address = "10.0.2.2", forward = "dr" }]

[[service]]
address = "udp:10.9.9.9:53"
scheduler = "rr"
server = [{ address = "10.0.2.2", forward = "tun" }]

[[service]]
address = "tcp:[2001:db8::100]:80"
scheduler = "rr"
server = [{ address = "[fd00:2::2]:8080", forward = "nat" }]

[[service]]
address = "tcp:10.9.9.9:8080"
scheduler = "rr"
server = [{ address = "10.0.2.1", forward = "nat" }]

[sysctl]
"net.ipv4.ip_forward" = 1
"net.ipv6.conf.all.forwarding" = 1
"""


@pytest.fixture
def state(tmp_path: Path) -> str:
    path = tmp_path / "state.toml"
    path.write_text(STATE)
    return str(path)


def trace(cli: Cli, *words: str, status: int = 0) -> str:
    return cli("trace", *words, status=status).out


def document(cli: Cli, *words: str) -> Any:
    return cli("-j", "trace", *words).json


# -- what a person sees -----------------------------------------------------------------------------------------------


def test_the_way_of_a_new_connection_can_be_seen_at_a_glance(cli: Cli) -> None:
    """Hook, function, rule with its number, state, the server, the rewriting, the route, and what leaves."""
    assert (
        trace(cli, *SYN, "--file", FTP)
        == """\
tcp 10.0.1.2:40000 > 192.168.1.100:21 S seq=0  in eth0
PREROUTING   raw                   IPVSCTL-PREROUTING 1: -d 192.168.1.100/32 -p tcp -m tcp --dport 21 -j CT --helper ftp
             nf_conntrack_in  NEW
             routing               192.168.1.100 is the host's own (local): delivered
INPUT        filter           NEW  IPVSCTL-INPUT 2: -d 192.168.1.100/32 -p tcp -m tcp --dport 21 -j ACCEPT
             ip_vs_in         NEW  tcp:192.168.1.100:21: scheduler rr chose 10.0.2.3:21
                                   sent by nat to 10.0.2.3:21
                                   goes by eth1, on link
                                   rewritten: tcp 10.0.1.2:40000 > 192.168.1.100:21 S
                                           -> tcp 10.0.1.2:40000 > 10.0.2.3:21 S
OUTPUT                             (nf_defrag, raw, nf_conntrack_local, ip_vs_out, ip_vs_in, filter)
POSTROUTING                        (nf_confirm)
out     eth1: tcp 10.0.1.2:40000 > 10.0.2.3:21 S seq=0 ttl=63
accept forward
"""
    )


def test_verbose_shows_every_function_with_its_priority(cli: Cli) -> None:
    text = trace(cli, *SYN, "--file", FTP, "-v")
    for row in ("nf_defrag -400", "raw -300", "filter 0", "ip_vs_out 98", "ip_vs_in 99", "nf_conntrack_local -200"):
        assert re.search(rf"\b{row}\b", text), row
    for said in ("PREROUTING 1: -m comment --comment ipvsctl -j IPVSCTL-PREROUTING", "OUTPUT policy ACCEPT",
                 "IPVS state NONE -> SYN_RECV", "conntrack will know the reply as 10.0.2.3:21 > 10.0.1.2:40000",
                 "leaves eth1"):  # fmt: skip
        assert said in text


def test_a_dropped_packet_names_the_rule_and_why(cli: Cli) -> None:
    text = trace(cli, "tcp", "10.0.1.2:40000", "192.168.1.100:22", "--file", FTP)
    assert "DROP IPVSCTL-INPUT 3: -d 192.168.1.100/32 -p tcp -j DROP" in text
    assert "drop rule: rule 3 of chain IPVSCTL-INPUT (table filter) drops it" in text
    assert "why     no service is there on port 22: 192.168.1.100 has tcp:192.168.1.100:21" in text
    assert "out " not in text


def test_what_the_director_answers_is_not_the_packet(cli: Cli, state: str) -> None:
    """A RST, an ICMP error, an echo reply: `answer`, and the packet is rejected, dropped or delivered."""
    text = trace(cli, "tcp", "10.0.1.2:4", "10.0.1.1:25", "--file", state, "--expect", "reject")
    assert "REJECT INPUT 3: -p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset" in text
    assert "answer  eth0: tcp 10.0.1.1:25 > 10.0.1.2:4 RA" in text
    assert "drop reject: rule 3 of chain INPUT (table filter) rejects it" in text
    text = trace(cli, "icmp", "10.0.1.2", "10.0.1.1", "--file", state, "--expect", "local")
    assert "answer  eth0: icmp 10.0.1.1 > 10.0.1.2 echo-reply" in text
    assert text.endswith("accept local\n")
    text = trace(cli, "tcp", "10.0.2.9:4", "10.0.1.1:26", "--file", state, "--expect", "no-listener")
    assert "answer  eth1: tcp 10.0.1.1:26 > 10.0.2.9:4 RA" in text
    assert "accept local no-listener: for the host itself, which answers so when no program listens there" in text
    found = document(cli, "tcp", "10.0.1.2:4", "10.0.1.1:25", "--file", state)
    assert [(each["device"], each["answer"]) for each in found["out"]] == [("eth0", True)]


def test_marks_tunnels_ipv6_and_local_servers(cli: Cli, state: str) -> None:
    text = trace(cli, "tcp", "10.0.1.2", "192.168.1.55:443", "--file", state)
    assert "PREROUTING 1: -d 192.168.1.0/24 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 7" in text
    assert "INPUT 4: -m mark --mark 7 -j ACCEPT" in text
    assert "fwmark:7: scheduler rr chose" in text
    assert "out     eth1 via 10.0.2.2: tcp 10.0.1.2:40000 > 192.168.1.55:443 S" in text
    text = trace(cli, "udp", "10.0.1.2", "10.9.9.9:53", "--file", state)
    assert "wrapped: ipip 10.0.2.1 > 10.0.2.2" in text
    assert "[udp 10.0.1.2:40000 > 10.9.9.9:53 ttl=63]" in text
    text = trace(cli, "tcp", "fd00:1::2", "[2001:db8::100]:80", "--file", state)
    assert "rewritten: tcp [fd00:1::2]:40000 > [2001:db8::100]:80 S\n" in text
    assert "out     eth1: tcp [fd00:1::2]:40000 > [fd00:2::2]:8080 S seq=0 hop=63" in text
    text = trace(cli, "tcp", "fd00:1::2", "[fd00:1::1]:22", "--file", state, "--expect", "rule")
    assert "DROP INPUT 1: -p tcp -m tcp --dport 22 -j DROP" in text
    text = trace(cli, "tcp", "10.0.1.2", "10.9.9.9:8080", "--file", state, "--expect", "local")
    assert "sent by nat to 10.0.2.1:8080" in text
    assert "answer" not in text


def test_a_packet_of_the_host_itself(cli: Cli, state: str) -> None:
    text = trace(cli, "tcp", "10.0.1.1", "192.168.1.5:80", "--local", "--mark", "7", "--file", state)
    assert "from this host\nOUTPUT" in text
    assert text.endswith("accept sent\n")
    text = trace(cli, "tcp", "10.0.1.1:1", "10.0.1.1:22", "--local", "--file", state, "--expect", "local")
    assert "leaves lo" in text
    assert "INPUT 1: -i lo -j ACCEPT" in text


def test_lines_are_wrapped_on_a_terminal_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("NO_COLOR", "1")
    for stream, most in ((Terminal(), 90), (io.StringIO(), 200)):
        assert main(["trace", *SYN, "--file", FTP], Environment(stdout=stream)) == 0
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= most
        whole = " ".join(line.strip() for line in lines)
        assert "IPVSCTL-INPUT 2: -d 192.168.1.100/32 -p tcp -m tcp --dport 21 -j ACCEPT" in whole
    assert "-j CT --helper ftp" in stream.getvalue().splitlines()[1]


def test_colours_are_for_those_who_ask(cli: Cli) -> None:
    assert "\x1b[" not in trace(cli, *SYN, "--file", FTP)
    assert "\x1b[1;32maccept forward\x1b[0m" in trace(cli, *SYN, "--file", FTP, "--color", "always")


def test_what_is_assumed_is_told(cli: Cli, state: str) -> None:
    said = cli("trace", *SYN, "--file", FTP).err
    assert "note: devices and routes are assumed: clients come in by eth0, real servers are neighbours on eth1" in said
    assert "clients come in by ppp0" in cli("trace", *SYN, "--file", FTP, "--in", "ppp0").err
    assert not cli("trace", *SYN, "--file", FTP, "-q").err
    assert not cli("trace", "tcp", "10.0.1.2", "10.0.1.1:26", "--file", state).err
    Path(state).write_text('notes = ["something else decides too"]\n' + STATE)
    assert "something else decides too" in cli("trace", "tcp", "10.0.1.2", "10.0.1.1:26", "--file", state).err


# -- conversations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", FTP_SESSIONS)
def test_the_recipe_of_2003_lacks_one_rule(cli: Cli, session: str) -> None:
    """S8, S14: its data connections are NEW and die, and trace names the rule; with it all four ways pass."""
    words = ("--session", session, "10.0.1.2", "192.168.1.100:21")
    text = trace(cli, *words, "--file", OLD, "--expect", "drop")
    number = 2 if "active" in session else 5
    chain = "FORWARD" if "active" in session else "INPUT"
    dropped = f"DROP {chain} {number}:"
    assert dropped in text
    (why,) = re.findall(r"(?m)^why +(.*)$", text)
    assert "NEW and not as RELATED" in why
    assert "no conntrack helper" in why
    assert re.findall(r"(?m)^mend +(.*)$", text) == [HELPER_RULE]
    assert text.splitlines()[-1].startswith("fails at packet 14, ")
    cli("trace", *words, "--file", OLD, "--expect", "accept", "-q", status=1)
    text = trace(cli, *words, "--file", TODAY, "--expect", "accept")
    assert text.endswith("complete: 21 packets, every one arrived\n")
    assert re.search(r"(?m)^14 .* data: SYN .* RELATED +(INPUT|FORWARD) 1$", text)


def test_the_rule_that_trace_names_is_the_one_that_mends(cli: Cli, tmp_path: Path) -> None:
    """The command of `mend`, put into the saved state in the words of iptables-save."""
    found = document(cli, "--session", "ftp-passive", "--file", OLD)
    rule = found["mend"].removeprefix("iptables -t raw ")
    text = Path(OLD).read_text().replace("iptables = '''\n", f"iptables = '''\n*raw\n{rule}\nCOMMIT\n")
    (tmp_path / "mended.toml").write_text(text)
    assert document(cli, "--session", "ftp-passive", "--file", str(tmp_path / "mended.toml"))["complete"] is True


def test_a_conversation_has_a_line_for_each_packet(cli: Cli) -> None:
    text = trace(cli, "--session", "ftp-passive", "10.0.1.2", "192.168.1.100:21", "--file", FTP)
    first, heading, *rest = text.splitlines()
    assert first == "ftp-passive: client 10.0.1.2:40000, service tcp:192.168.1.100:21, server 10.0.2.3:21 by nat"
    assert heading.split() == ["From", "Packet", "Way", "State", "Rule"]
    assert rest[0].split() == ["1", "client", "SYN", "eth0", ">", "eth1", "NEW", "IPVSCTL-INPUT", "2"]
    assert "      expects a related connection to 192.168.1.100:33000" in rest
    assert rest[-1] == "complete: 21 packets, every one arrived"
    assert len(trace(cli, "--session", "http", "--file", FTP, "192.168.1.100:21", "-v").splitlines()) > 100


def test_a_conversation_needs_no_words(cli: Cli, state: str) -> None:
    """The first service that fits, and some client."""
    found = document(cli, "--session", "ftp-passive", "--file", FTP)
    assert found["packets"][0]["packet"][24:40] == "c0000201" + "c0a80164"
    found = document(cli, "--session", "dns", "--file", state)
    assert found["packets"][0]["title"] == "client: datagram"
    assert found["packets"][0]["in"] == "eth0"
    found = document(cli, "--session", "dns", "--file", state, "--in", "eth1")
    assert found["packets"][0]["in"] == "eth1"
    assert "no tcp service on port 21" in cli("trace", "--session", "ftp-active", "--file", state, status=2).err
    assert document(cli, "--session", "http", "fd00:1::2", "tcp:[2001:db8::100]:80", "--file", state)["complete"]
    cli("trace", "--session", "http", "fd00:1::2", "udp:[2001:db8::100]:80", "--file", state, status=2)


def test_every_session_is_known_under_its_name(cli: Cli) -> None:
    assert set(SESSIONS) == set(KNOWN)
    assert {*VERDICTS, *REASONS} >= {reason.name.lower().replace("_", "-") for reason in Reason} - {"stolen"}


# -- for scripts ------------------------------------------------------------------------------------------------------


def test_json_has_the_contract_s_keys(cli: Cli) -> None:
    found = document(cli, *SYN, "--file", FTP)
    assert found["verdict"] == "accept"
    assert found["out"][0]["device"] == "eth1"
    for step in found["steps"]:
        assert step.keys() >= {"hook", "priority", "function", "rule", "verdict", "state", "packet"}
    (filtered,) = (step for step in found["steps"] if (step["hook"], step["function"]) == ("INPUT", "filter"))
    assert filtered["rule"] == {
        "table": "filter", "chain": "IPVSCTL-INPUT", "number": 2,
        "text": "-d 192.168.1.100/32 -p tcp -m tcp --dport 21 -j ACCEPT",
    }  # fmt: skip
    assert (filtered["state"], filtered["verdict"], filtered["priority"]) == ("NEW", "accept", 0)
    assert filtered["packet"]["destination"] == "192.168.1.100"
    dropped = document(cli, "--session", "ftp-active", "--file", OLD)
    assert (dropped["verdict"], dropped["reason"], dropped["complete"]) == ("drop", "rule", False)
    assert dropped["steps"] == dropped["packets"][-1]["steps"]
    assert dropped["mend"] == HELPER_RULE
    json.dumps(dropped)


def test_what_is_expected_decides_the_status(cli: Cli) -> None:
    for word in ("accept", "forward", "FORWARD"):
        assert trace(cli, *SYN, "--file", FTP, "-q", "--expect", word) == ""
    refused = cli("trace", *SYN, "--file", FTP, "-q", "--expect", "drop", status=1)
    assert refused.err == (
        "ipvsctl: tcp 10.0.1.2:40000 > 192.168.1.100:21 S seq=0: the verdict is accept forward, not drop\n"
    )
    cli("trace", "tcp", "10.0.1.2", "192.168.1.100:22", "--file", FTP, "--expect", "rule")
    # Nothing but --expect and --state makes a drop a failure.
    cli("trace", "tcp", "10.0.1.2", "192.168.1.100:22", "--file", FTP)


def test_an_unknown_verdict_is_wrong_usage(cli: Cli) -> None:
    for word, said in (("dorp", "did you mean drop?"), ("blah", "expected accept, drop, forward"), ("", "no verdict")):
        assert said in cli("trace", *SYN, "--file", FTP, "--expect", word, status=2).err
    text = cli("trace", "--help").out
    assert all(word in text.split() or f"{word}," in text for word in (*VERDICTS, "reject", "ipvs-no-destination,"))


def test_a_state_can_be_asserted(cli: Cli) -> None:
    """NEW of what opens a connection; ESTABLISHED of what follows, in both directions."""
    cli("trace", *SYN, "--file", FTP, "--state", "new")
    refused = cli("trace", *SYN, "--file", FTP, "--state", "RELATED", "-q", status=1)
    assert refused.err.endswith("rules see it as NEW, not RELATED\n")
    text = trace(cli, *SYN, "--file", FTP, "--state", "ESTABLISHED", "--expect", "forward")
    assert "S seq=0" not in text
    assert "IPVSCTL-INPUT 1: -d 192.168.1.100/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT" in text
    assert "known connection 10.0.1.2:40000 to 192.168.1.100:21, server 10.0.2.3:21, ESTABLISHED" in text
    for server in ("10.0.2.2", "10.0.2.3"):
        text = trace(cli, "tcp", f"{server}:21", "10.0.1.2:5", "PA", "seq=77", "ack=4294967295", "data=220 hi\\r\\n",
                     "--file", FTP, "--state", "ESTABLISHED", "--expect", "forward")  # fmt: skip
        assert f"rewritten: tcp {server}:21 > 10.0.1.2:5 PA\n" in text
        assert "IPVSCTL-FORWARD 1" in text
    # What cannot be open cannot be of an open connection.
    refused = cli("trace", "tcp", "10.0.1.2", "192.168.1.100:22", "--file", FTP, "--state", "ESTABLISHED", status=1)
    assert "before it, client: SYN" in refused.out
    assert "IPVSCTL-INPUT 3" in refused.out
    cli("trace", "--session", "http", "10.0.1.2", "192.168.1.100:21", "--file", FTP, "--state", "ESTABLISHED")


def test_without_connection_tracking_there_is_no_state(cli: Cli, state: str) -> None:
    refused = cli("trace", "udp", "10.0.1.2", "10.9.9.9:53", "--file", state, "--state", "NEW", "-q", status=1)
    assert "connection tracking does not see it" in refused.err


# -- what people type -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("tcp", "10.0.1.2:40000", "192.168.1.100:21"),
        ("tcp", "10.0.1.2:40000", ">", "192.168.1.100:21"),
        ("tcp", "10.0.1.2:40000", "->", "192.168.1.100:21"),
        ("tcp", "10.0.1.2", "192.168.1.100:21", "S"),
        ("tcp", "10.0.1.2", "192.168.1.100:21", "seq=0"),
        ("tcp 10.0.1.2:40000 > 192.168.1.100:21 S",),
        ("tcp 10.0.1.2:40000 192.168.1.100:21",),
        ("--flags", "S", "tcp", "10.0.1.2", "192.168.1.100:21"),
        ("tcp", "--flags", "S", "10.0.1.2", "--in", "eth0", "192.168.1.100:21"),
    ],
    ids=" ".join,
)
def test_one_packet_in_many_words(cli: Cli, words: tuple[str, ...]) -> None:
    assert trace(cli, *words, "--file", FTP) == trace(cli, *SYN, "--file", FTP)


def test_payload_survives_the_shell(cli: Cli) -> None:
    expected = document(cli, *SYN, "PA", 'data="a \\"b\\"\\r\\n"', "--file", FTP)["packet"]
    assert expected.endswith(b'a "b"\r\n'.hex())
    assert document(cli, *SYN, "PA", 'data=a "b"\\r\\n', "--file", FTP)["packet"] == expected


def test_what_is_not_said_of_a_packet_is_what_opens_a_connection(cli: Cli, state: str) -> None:
    assert "echo-request" in trace(cli, "icmp", "10.0.1.2", "10.0.1.1", "--file", state)
    assert "echo-request" in trace(cli, "icmpv6", "fd00:1::2", "fd00:1::1", "id=3", "--file", state)
    assert "ttl-exceeded" in trace(cli, "icmp", "10.0.1.2", "10.0.1.1", "type=11", "--file", state)
    assert " INIT " in trace(cli, "sctp", "10.0.1.2", "10.0.1.1:5", "--file", state)
    assert trace(cli, "raw", "45", "--in", "eth0", "--file", state, "--expect", "header")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is no PACKET"),
        (("tcp", "10.0.1.2:40000"), "a shell takes > for itself"),
        (("foo", "1.2.3.4", "5.6.7.8"), "'foo' is no protocol"),
        (("tcp", "10.0.1.2", "192.168.1.100"), "has no port"),
        (("tcp", "10.0.1.2:1", "[2001:db8::1]:21"), "is not of the family of"),
        (("tcp", "10.0.1.2:99999", "192.168.1.100:21"), "99999"),
        (("tcp", "10.0.1.2", "192.168.1.100:21", "nosuch"), "'nosuch' is no word of a packet"),
        (("tcp", "10.0.1.2", "192.168.1.100:21", "S", "--flags", "A"), "twice"),
        (("udp", "10.0.1.2", "192.168.1.100:21", "--flags", "A"), "--flags is for tcp"),
        (("tcp", "10.0.1.2", "192.168.1.100:21", "--mark", "1"), "--local"),
        (("tcp", "10.0.1.2", "192.168.1.100:21", "--mark", "x"), "'x' is not a number"),
        (("tcp", "10.0.1.2", "192.168.1.100:21", "--local", "--in", "eth0"), "exclude each other"),
        (("tcp", "192.168.1.100:21", "10.0.1.2:40000"), "--in DEVICE is needed, or --local"),
        (("raw", "45"), "the packet is broken"),
        (("--session", "nosuch"), "'nosuch' is not one of 'tcp', 'http'"),
        (("--session", "http", "10.0.1.2", "[fd00::1]:80"), "not of one address family"),
        (("--session", "http", "10.0.1.2", "192.168.1.100", "more"), "expected CLIENT[:PORT] SERVICE[:PORT]"),
        (("--session", "http", "--local", "10.0.1.2", "192.168.1.100"), "neither --local nor --flags"),
        (("--session", "udp"), "there is no udp service"),
        (("--state", "OPEN", "tcp", "10.0.1.2", "192.168.1.100:21"), "'OPEN' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said_in_one_line(cli: Cli, words: tuple[str, ...], said: str) -> None:
    refused = cli("trace", *words, "--file", FTP, status=2)
    assert said in refused.err
    assert refused.err.count("\n") == 1
    assert not refused.out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names nothing"),
        ("[[device]]\n", "broken.toml:1: [[device]] has no name"),
        ("modules = [\n", "broken.toml:"),
        ('[[device]]\nname = "eth0"\n[[route]]\ndestination = "10.0.0.0/8"\ndevice = "eth9"\n', "no [[device]]"),
        ('iptables = "*filter\\n-A INPUT -m u32 --u32 0=1 -j DROP\\nCOMMIT\\n"\n', "match u32 cannot be evaluated"),
        ('iptables = "*filter\\n-A INPUT -j NOSUCH\\nCOMMIT\\n"\n', "NOSUCH"),
        ("\x00", "broken.toml"),
    ],
)
def test_a_broken_file_is_one_line(cli: Cli, content: str, said: str) -> None:
    Path("broken.toml").write_text(content)
    refused = cli("trace", *SYN, "--file", "broken.toml", status=2)
    assert said in refused.err
    assert not refused.out


def test_no_device_and_no_file(cli: Cli, state: str) -> None:
    assert (
        "no device eth7, expected one of eth0, eth1"
        in cli("trace", *SYN, "--in", "eth7", "--file", state, status=2).err
    )
    assert "cannot read nowhere" in cli("trace", *SYN, "--file", "nowhere", status=2).err
    assert trace(cli, "tcp", "10.0.1.2", "10.0.1.1:26", "--file", state) == cli(
        "trace", "tcp", "10.0.1.2", "10.0.1.1:26", "--file", "-", stdin=STATE
    ).out  # fmt: skip


def test_closed_streams_and_full_disks(cli: Cli) -> None:
    command = f"'{sys.executable}' -m ipvsctl trace {' '.join(SYN)} --file '{FTP}' -q -j"
    for redirection, status in ((">&-", 0), ("> /dev/full", 1), ("2>&-", 0), ("<&-", 0), (">&- 2>&-", 0)):
        done = subprocess.run(["sh", "-c", f"{command} {redirection}"], capture_output=True, text=True, check=False)
        assert done.returncode == status, (redirection, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_file_needs_no_host(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPVSCTL_HOST", "nosuch")
    trace(cli, *SYN, "--file", FTP)


# -- an emulated host -------------------------------------------------------------------------------------------------


def test_an_emulated_host_is_traced_as_it_was_configured(cli: Cli) -> None:
    """Services, servers, rules and sysctls that commands made; undone, the trace says so."""
    host = ("--host", "emulator:t")
    words = ("tcp", "10.0.1.2", "192.168.1.100:80")
    cli(*host, "service", "add", "tcp:192.168.1.100:80", "-s", "rr")
    assert "the service has no servers" in cli(*host, "trace", *words, "--expect", "ipvs-no-destination").out
    cli(*host, "server", "add", "tcp:192.168.1.100:80", "10.0.2.2:8080", "--forward", "nat")
    assert "rewritten" in cli(*host, "trace", *words, "--expect", "forward").out
    refused = cli(*host, "trace", "--session", "http", "--expect", "not-forwarding").out
    assert "mend    sysctl -w net.ipv4.ip_forward=1" in refused
    cli(*host, "sysctl", "set", "net.ipv4.ip_forward", "1")
    assert "complete: 10 packets" in cli(*host, "trace", "--session", "http", "--expect", "accept").out
    cli(*host, "apply", FTP)
    for session in FTP_SESSIONS:
        cli(*host, "trace", "--session", session, "10.0.1.2", "192.168.1.100:21", "--expect", "accept", "-q")
    cli(*host, "server", "edit", "tcp:192.168.1.100:80", "10.0.2.2:8080", "-w", "0")
    cli(*host, "rollback")
    cli(*host, "trace", "--session", "ftp-passive", "-q", status=2)


def test_a_saved_state_traces_as_the_host_does(cli: Cli) -> None:
    cli("apply", FTP)
    Path("saved.toml").write_text(cli("export", "--state").out)
    closed = ("tcp", "10.0.1.2", "192.168.1.100:22")
    for words in (SYN, ("--session", "ftp-active"), closed, ("icmp", "10.0.1.2", "10.9.9.9")):
        assert document(cli, *words) == document(cli, *words, "--file", "saved.toml")
    exported = cli("-j", "export", "--state").json
    assert set(exported["modules"]) >= {"ip_vs_ftp", "nf_conntrack_ftp"}
    assert {device["name"] for device in exported["device"]} == {"lo", "eth0", "eth1"}


# -- the manual page --------------------------------------------------------------------------------------------------


def test_the_manual_page_says_what_rules_can_be_evaluated() -> None:
    """A match or target that is new to the datapath is named in WHAT IS NOT EMULATED of ipvsctl(8)."""
    page = (Path(__file__).parents[2] / "man" / "ipvsctl.8").read_text()
    (section,) = re.findall(r"(?ms)^\.Sh WHAT IS NOT EMULATED\n(.*?)^\.Sh ", page)
    ((matches, targets),) = re.findall(
        r"(?s)of the matches all but (.*?) \\\(em.*of the targets all but (.*?) \\\(em", section
    )
    for text, known in ((matches, MATCHES), (targets, {*TARGETS, "ACCEPT", "DROP", "RETURN"})):
        plain = re.sub(r"(?s)\(.*?\)", "", text).replace("\n", " ").replace(" and ", ", ")
        assert {word.strip() for word in plain.split(",")} == set(known)
