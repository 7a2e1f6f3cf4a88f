"""`connection`, `stats`, `watch` and `emulate send` on an emulated director."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.formats import pcap
from ipvsctl.formats.packet_text import parse
from tests.cli.conftest import Cli, until

DNS = "udp:192.0.2.1:53"
WEB = "tcp:192.0.2.1:80"


def query(port: int, client: str = "198.51.100.7") -> str:
    return f"udp {client}:{port} > 192.0.2.1:53 len=5"


def send(cli: Cli, *packets: str, device: str = "eth0") -> None:
    options = [word for packet in packets for word in ("--packet", packet)]
    cli("-q", "emulate", "send", "--device", device, *options)


@pytest.fixture
def dns(cli: Cli) -> Cli:
    """A service with two servers, a tracking director, three clients."""
    cli("service", "add", DNS, "--scheduler", "rr")
    cli("server", "add", DNS, "10.0.2.2", "--forward", "nat")
    cli("server", "add", DNS, "10.0.2.3", "--forward", "nat")
    cli("sysctl", "set", "net.ipv4.ip_forward", "1")
    return cli


@pytest.fixture
def tracked(dns: Cli) -> Cli:
    dns("nfct", "enable")
    return dns


def rows(cli: Cli, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cli("-j", "connection", "list", *words).json["connections"]
    return found


def test_an_empty_list(dns: Cli) -> None:
    result = dns("connection", "list")
    assert result.lines == ["Proto  Client  Virtual  Server  State  Expires  Conntrack  Flags  Helper  Expects"]
    assert "net.ipv4.vs.conntrack is 0" in result.err
    assert rows(dns) == []


def test_one_line_for_each_connection(tracked: Cli) -> None:
    send(tracked, query(1000), query(1001))
    result = tracked("connection", "list")
    assert result.err == ""
    found = [line.split() for line in result.lines[1:]]
    assert [words[:5] + words[6:] for words in found] == [
        ["udp", f"198.51.100.7:{port}", "192.0.2.1:53", f"10.0.2.{server}:53", "UDP", "UNREPLIED", "-", "-", "-"]
        for port, server in ((1000, 3), (1001, 2))
    ]
    assert all(words[5] in ("05:00", "04:59", "04:58") for words in found)
    starts = {line.index("UNREPLIED") for line in result.lines[1:]} | {result.lines[0].index("Conntrack")}
    assert len(starts) == 1


def test_the_state_follows_the_replies(tracked: Cli) -> None:
    send(tracked, query(1000))
    send(tracked, "udp 10.0.2.3:53 > 198.51.100.7:1000 len=9", device="eth1")
    (row,) = rows(tracked)
    assert "seen_reply" in row["conntrack"]["status"]
    assert row["service"] == DNS
    assert "REPLIED" in tracked("connection", "list").lines[1].split()


def test_filters(tracked: Cli) -> None:
    send(tracked, query(1000), query(1001), query(1002, "203.0.113.9"))
    assert [row["client"] for row in rows(tracked, "--client", "203.0.113.0/24")] == ["203.0.113.9:1002"]
    assert len(rows(tracked, "--client", "198.51.100.7")) == 2
    assert {row["server"] for row in rows(tracked, "--server", "10.0.2.2")} == {"10.0.2.2:53"}
    assert rows(tracked, "--server", "10.0.2.2:54") == []
    assert len(rows(tracked, "--service", DNS)) == 3
    assert rows(tracked, "--service", WEB) == []
    assert len(rows(tracked, "--state", "udp")) == 3
    assert rows(tracked, "--orphans") == []
    error = tracked("connection", "list", "--client", "house", status=2).err
    assert "'house' is not an address or a network" in error
    assert "not an IPv4 or IPv6 address" in tracked("connection", "list", "--server", "x", status=2).err


def test_orphans(dns: Cli) -> None:
    """A connection made before conntrack was on has no entry."""
    send(dns, query(1000))
    dns("nfct", "enable")
    send(dns, query(1001))
    (row,) = rows(dns, "--orphans")
    assert (row["client"], row["orphan"], row["conntrack"]) == ("198.51.100.7:1000", "ipvs", None)
    (line,) = dns("connection", "list", "--orphans").lines[1:]
    assert "no-conntrack" in line.split()


def test_ftp_shows_helper_and_expectation(cli: Cli) -> None:
    cli("apply", "ftp.toml")
    say = "tcp 198.51.100.7:1000 > 192.168.1.100:21"
    answer = "tcp 10.0.2.2:21 > 198.51.100.7:1000"
    port = 'data="227 Entering Passive Mode (10,0,2,2,200,10).\\r\\n"'
    send(cli, f"{say} S seq=1")
    send(cli, f"{answer} SA seq=1 ack=2", device="eth1")
    send(cli, f"{say} A seq=2 ack=2")
    send(cli, f'{say} PA seq=2 ack=2 data="PASV\\r\\n"')
    send(cli, f"{answer} PA seq=2 ack=8 {port}", device="eth1")
    found = rows(cli)
    control = next(row for row in found if row["conntrack"])
    assert control["conntrack"]["helper"] == "ftp"
    assert [each["destination"] for each in control["expects"]] == ["192.168.1.100:51210"]
    assert {row["orphan"] for row in found} == {None}
    assert any("template" in row["flags"] for row in found)
    data = next(row for row in found if "no-client-port" in row["flags"])
    assert data["awaited"] is True
    text = cli("connection", "list").out
    assert "192.168.1.100:51210" in text
    assert "awaited" in text


def test_a_capture_is_sent(dns: Cli, tmp_path: Path) -> None:
    with (tmp_path / "in.pcap").open("wb") as file:
        writer = pcap.Writer(file)
        for number in range(20):
            writer.write(number * 10**9, parse(query(2000 + number)))
    result = dns("emulate", "send", "in.pcap")
    assert len([line for line in result.lines if line.startswith("forward")]) == 20
    assert result.lines[-1] == "20 packets: 20 forward; 20 left"
    assert len(rows(dns)) == 20
    sums = dns("-j", "emulate", "send", "in.pcap", "-q").json
    assert sums == {"packets": 20, "verdicts": {"forward": 20}, "left": 20}


def test_what_cannot_be_sent(dns: Cli) -> None:
    for words, status, text in (
        ((), 2, "expected packets to send"),
        (("in.pcap", "--packet", query(1)), 2, "expected packets to send"),
        (("nothing.pcap",), 2, "cannot read nothing.pcap"),
        (("--packet", "house"), 2, "house"),
        (("--device", "eth9", "--packet", query(1)), 2, "no device eth9"),
    ):
        assert text in dns("emulate", "send", *words, status=status).err


def test_stats(dns: Cli) -> None:
    send(dns, query(1000), query(1000), query(1001))
    assert [line.split() for line in dns("stats").lines] == [
        ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"],
        ["all", "2", "3", "0", "99", "0"],
        [DNS, "2", "3", "0", "99", "0"],
        ["->", "10.0.2.3:53", "1", "2", "0", "66", "0"],
        ["->", "10.0.2.2:53", "1", "1", "0", "33", "0"],
    ]
    found = dns("-j", "stats", DNS).json
    assert found["total"]["connections"] == 2
    assert found["services"][0]["stats"]["bytes_in"] == 99
    assert dns("stats", "--rate").lines[0].split() == ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]
    dns("stats", WEB, status=3)


def test_watch_in_a_pipe_is_lines_of_json(dns: Cli) -> None:
    send(dns, query(1000))
    dns("server", "edit", DNS, "10.0.2.3", "--weight", "0")
    dns("server", "edit", DNS, "10.0.2.2", "--weight", "0")
    looks = [json.loads(line) for line in dns("watch", "--interval", "0.1", "--count", "2").lines]
    assert len(looks) == 2
    (service,) = looks[1]["services"]
    assert service["state"] == "no server"
    assert [(each["address"], each["state"]) for each in service["servers"]] == [
        ("10.0.2.3:53", "draining"), ("10.0.2.2:53", "drained")
    ]  # fmt: skip
    assert looks[0]["total"]["connections"] == 1


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ipvsctl", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_ends_at_a_signal(dns: Cli, number: signal.Signals) -> None:
    with start("watch", "--interval", "0.1") as process:
        lines_of(process, 2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


def test_watch_ends_when_nobody_reads(dns: Cli) -> None:
    with start("watch", "--interval", "0.1") as process:
        lines_of(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) in (0, 141)


@pytest.fixture
def watcher(tracked: Cli) -> Iterator[subprocess.Popen[str]]:
    with start("-j", "connection", "watch") as process:
        yield process
        process.kill()


def test_connection_watch_tells_events(tracked: Cli, watcher: subprocess.Popen[str]) -> None:
    assert watcher.stdout is not None

    def heard() -> list[object]:
        send(tracked, query(next(ports)))
        return select.select([watcher.stdout], [], [], 0.3)[0]

    ports = iter(range(1000, 2000))
    until(heard)
    event = json.loads(watcher.stdout.readline())
    assert (event["event"], event["protocol"], event["service"]) == ("new", "udp", DNS)
    assert event["destination"] == "192.0.2.1:53"
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(60) == 0
    assert watcher.stderr is not None
    assert watcher.stderr.read() == ""


def test_connection_watch_notices_that_nobody_reads(watcher: subprocess.Popen[str]) -> None:
    assert watcher.stdout is not None
    watcher.stdout.close()
    assert watcher.wait(60) == 141


def test_connection_watch_needs_conntrack(cli: Cli) -> None:
    error = cli("connection", "watch", status=4).err
    assert "IPVS does not use connection tracking here" in error
    assert "ipvsctl nfct enable" in error


class Terminal:
    """A command on a terminal."""

    def __init__(self, *words: str, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        environment = {**os.environ, "TERM": "xterm"}
        for name in ("LINES", "COLUMNS", "NO_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipvsctl", *words], stdin=slave, stdout=slave, stderr=slave, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> str:
        """What came since, if anything did."""
        if select.select([self.master], [], [], 0.05)[0]:
            try:
                self.seen += os.read(self.master, 65536).decode()
            except OSError:
                return self.seen
        return self.seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(dns: Cli) -> Iterator[Terminal]:
    made = Terminal("watch", "--interval", "30")
    yield made
    made.close()


def test_watch_on_a_terminal(terminal: Terminal) -> None:
    """It takes the screen, follows its size, and gives it back at q."""
    until(lambda: "10.0.2.2:53" in terminal.read())
    assert "\x1b[?1049h" in terminal.seen
    terminal.seen = ""
    terminal.resize(6, 60)
    os.killpg(terminal.process.pid, signal.SIGWINCH)
    until(lambda: "more" in terminal.read())
    os.write(terminal.master, b"q")
    until(lambda: terminal.read() and terminal.process.poll() is not None)
    assert terminal.process.returncode == 0
    assert "\x1b[?1049l" in terminal.read()


def test_watch_on_a_terminal_ends_at_interrupt(terminal: Terminal) -> None:
    until(lambda: "10.0.2.2:53" in terminal.read())
    terminal.process.send_signal(signal.SIGINT)
    until(lambda: terminal.read() and terminal.process.poll() is not None)
    assert terminal.process.returncode == 0
    assert "\x1b[?1049l" in terminal.read()
