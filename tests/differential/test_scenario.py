"""Scenario files: what is read, what is refused with its line, and what comes of it for the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsctl.errors import FileError
from ipvsctl.formats.packet_text import parse as packet
from ipvsctl.model.change import DeleteServer, EditServer, SetTimeouts, ZeroCounters
from tests.differential.jobs import job
from tests.differential.scenario import parse, read, render

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.toml"))
STATE = """\
about = "one"

[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "192.168.1.100/32"]

[[service]]
address = "tcp:192.168.1.100:80"

[[service.server]]
address = "10.0.1.7"
forward = "nat"

[sysctl]
"net.ipv4.vs.conntrack" = 1
"net.ipv4.ip_forward" = 1
"""
SERVER = 'service = "tcp:192.168.1.100:80", server = { address = "10.0.1.7:80", forward = "nat" }'


def steps(*bodies: str) -> str:
    return STATE + "".join(f"\n[[step]]\n{body}\n" for body in bodies)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_is_readable_and_written_back(path: Path) -> None:
    scenario = read(path)
    again = parse(render(scenario), "again", scenario.name)
    assert (again.steps, again.snapshot, again.about) == (scenario.steps, scenario.snapshot, scenario.about)
    assert job(scenario)["name"] == path.stem


def test_every_kind_of_step() -> None:
    scenario = parse(
        steps(
            'in = "eth0"\npacket = "udp 10.0.1.2:1 > 10.0.1.1:2"',
            'at = 1.5\nin = "eth0"\npackets = ["udp 10.0.1.2:1 > 10.0.1.1:2", "raw 4500"]',
            'in = "eth0"\nhex = "45 00"',
            'send = "udp 10.0.1.1:1 > 10.0.1.2:2"\nmark = 3',
            f'change = {{ change = "delete-server", {SERVER} }}',
            f'change = {{ change = "edit-server", {SERVER} }}',
            'change = { change = "zero-counters" }',
            'change = { change = "set-timeouts", timeouts = { tcp = 5, tcp_fin = 6, udp = 7 } }',
            'sysctl = { "net.ipv4.vs.conntrack" = 0 }',
            "flush_conntrack = true",
        ),
        "x",
    )
    assert [step.do for step in scenario.steps] == [
        "in", "in", "in", "send", "change", "change", "change", "change", "sysctl", "flush_conntrack",
    ]  # fmt: skip
    assert [step.at for step in scenario.steps[:3]] == [0, 1.5, 1.51]
    assert scenario.steps[0].packets == (packet("udp 10.0.1.2:1 > 10.0.1.1:2"),)
    assert scenario.steps[1].packets[1] == scenario.steps[2].packets[0] == b"\x45\0"
    assert scenario.steps[3].mark == 3
    assert [type(step.change) for step in scenario.steps[4:8]] == [
        DeleteServer, EditServer, ZeroCounters, SetTimeouts,
    ]  # fmt: skip
    assert scenario.steps[8].sysctls == (("net.ipv4.vs.conntrack", "0"),)
    assert parse(render(scenario), "again").steps == scenario.steps
    assert scenario.packets == 5


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ('in = "eth9"\npacket = "raw 45"', 19, "no [[device]] of the name eth9"),
        ('in = "eth0"\npacket = "nonsense"', 20, "packet"),
        ('in = "eth0"', 18, "one of packet, hex and packets"),
        ('in = "eth0"\npackets = [\n"raw 45",\n"what"]', 22, "packets"),
        ('in = "eth0"\nhex = "4"', 20, "hexadecimal"),
        ('send = "raw 45"\npacket = "raw 45"', 18, "beside `in` only"),
        ('in = "eth0"\nhex = "45"\nmark = 1', 21, "beside `send` only"),
        ("at = 1", 18, "expected one of in, send"),
        ('flush_conntrack = true\nsend = "raw 45"', 18, "not 2"),
        ("at = -1\nflush_conntrack = true", 19, "seconds since the start"),
        ('change = { change = "start-daemon" }', 19, "change"),
        ('change = { change = "load-module", module = "x" }', 19, "not load-module"),
        ('sysctl = { "x" = 1 }', 19, "sysctl"),
        ("sysctl = 3", 19, "a table of names"),
        ("wait = 3", 19, 'unknown key "wait"'),
    ],
)
def test_wrong_steps_are_told_with_their_line(body: str, line: int, words: str) -> None:
    with pytest.raises(FileError) as caught:
        parse(steps(body), "x")
    assert (caught.value.line, words in str(caught.value)) == (line, True), str(caught.value)


def test_time_does_not_go_back() -> None:
    with pytest.raises(FileError, match="x:23: at: expected not before 2"):
        parse(steps("at = 2\nflush_conntrack = true", "at = 1\nflush_conntrack = true"), "x")


def test_a_scenario_says_what_it_is_about() -> None:
    with pytest.raises(FileError, match="about"):
        parse(STATE.replace('about = "one"', ""), "x")


def test_a_job_knows_every_neighbour_and_the_order_of_sysctls() -> None:
    made = job(parse(steps('in = "eth0"\npacket = "udp 10.0.1.2:1 > 10.0.1.99:2"'), "x"))
    # The client, the server and the one the packet is for; not the director itself, nor the other network.
    assert made["neighbours"] == [("eth0", "0a000102"), ("eth0", "0a000107"), ("eth0", "0a000163")]
    assert [name for name, _ in made["sysctls"]] == ["net.ipv4.ip_forward", "net.ipv4.vs.conntrack"]
    assert not made["inet6"]


def test_hosts_that_do_not_answer_are_no_neighbours() -> None:
    text = steps('in = "eth0"\npacket = "udp 10.0.1.2:1 > 10.0.1.99:2"').replace(
        '192.168.1.100/32"]', '192.168.1.100/32"]\nhosts = ["10.0.1.2"]'
    )
    assert job(parse(text, "x"))["neighbours"] == [("eth0", "0a000102")]
