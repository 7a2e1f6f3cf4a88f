"""`emulate replay`: captures in, verdicts and captures out; what a broken file, a signal or a full disk leaves."""

from __future__ import annotations

import io
import json
import random
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

import pytest

from ipvsctl.cli.configured import snapshot_of
from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.session import Session, Walk
from ipvsctl.formats import pcap, pcapng
from ipvsctl.formats.capture import Record
from ipvsctl.formats.link_layer import SLL
from ipvsctl.formats.packet_text import parse
from ipvsctl.wire.address import packed
from tests.cli.conftest import Cli, Result

FTP = str(Path(__file__).parents[1] / "examples" / "ftp.toml")
START = 1_700_000_000 * 10**9
STEP = 10**7
CLIENT, VIP = (packed("10.0.1.2"), 40000), (packed("192.168.1.100"), 21)
SYN = "tcp 10.0.1.2:40000 > 192.168.1.100:21 S"
OTHER_PORT = "tcp 10.0.1.2:40000 > 192.168.1.100:8080 S"


def walks() -> list[Walk]:
    """A passive FTP session through the director of the example: what came in and what left for it."""
    engine = Engine(snapshot_of(Environment(), FTP, None), random.Random(0).randrange)
    return Session(engine, "eth0", CLIENT, VIP).run("ftp-passive")


def records(path: str | Path) -> list[Record]:
    with Path(path).open("rb") as file:
        return list(pcap.read(file))


def capture(*packets: tuple[str, str], path: str = "in.pcapng", outgoing: bool = False) -> str:
    """A file of packets in short notation and their devices, one each hundredth of a second."""
    with Path(path).open("wb") as file:
        writer = pcapng.Writer(file)
        for number, (device, text) in enumerate(packets):
            writer.write(START + number * STEP, parse(text), device, outgoing=outgoing)
    return path


def replay(cli: Cli, *words: str, status: int = 0) -> Result:
    return cli("emulate", "replay", *words, status=status)


def summary(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.lines[-1])["summary"]
    return found


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def session(cli: Cli) -> list[Walk]:
    """The session, and in.pcapng as a capture on the director would have it: both ways, every device."""
    found = walks()
    with Path("in.pcapng").open("wb") as file:
        writer = pcapng.Writer(file, ["eth0", "eth1"])
        for number, walk in enumerate(found):
            time = START + number * STEP
            writer.write(time, walk.packet, walk.device, outgoing=False)
            for output in walk.outputs:
                writer.write(time + 1000, output.packet, output.device, outgoing=True)
    return found


def test_what_left_leaves_again(cli: Cli, session: list[Walk]) -> None:
    """Only what came in is replayed, in its order and at its time; so the session passes as it did."""
    result = replay(cli, "in.pcapng", "--file", FTP, "--out", "out.pcapng")
    expected = [
        (START + number * STEP, output.device, output.packet, True)
        for number, walk in enumerate(session)
        for output in walk.outputs
    ]
    assert len(expected) == 21
    assert [(each.time, each.device, each.data, each.outgoing) for each in records("out.pcapng")] == expected
    assert result.lines[0] == (
        "      1      0.000000  eth0  forward  tcp 10.0.1.2:40000 > 192.168.1.100:21 S seq=1000 mss=1460 df -> eth1"
    )
    assert result.lines[-3:] == [
        "21 packets in 0.200000 s: 21 forwarded, 0 delivered, 0 dropped",
        "  skipped 21 outgoing",
        "  sent 10 eth0, 11 eth1",
    ]
    assert len(result.lines) == 21 + 3


def test_pcap_out(cli: Cli, session: list[Walk]) -> None:
    replay(cli, "in.pcapng", "--file", FTP, "--out", "OUT.PCAP")
    sent = [output.packet for walk in session for output in walk.outputs]
    assert Path("OUT.PCAP").read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"
    assert [each.data for each in records("OUT.PCAP")] == sent


def test_json(cli: Cli, session: list[Walk]) -> None:
    result = replay(cli, "-j", "in.pcapng", "--file", FTP)
    first, *_, last = (json.loads(line) for line in result.lines[:-1])
    assert first == {
        "number": 1, "time": 0.0, "in": "eth0", "verdict": "forward", "reason": None, "text": "",
        "packet": "tcp 10.0.1.2:40000 > 192.168.1.100:21 S seq=1000 mss=1460 df",
        "out": [{"device": "eth1", "next_hop": first["out"][0]["next_hop"], "packet": first["out"][0]["packet"]}],
    }  # fmt: skip
    assert parse(first["out"][0]["packet"]) == session[0].outputs[0].packet
    assert (last["number"], last["time"]) == (41, 0.2)
    assert summary(result) == {
        "packets": 21, "seconds": 0.2, "forwarded": 21, "delivered": 0, "dropped": 0, "waiting": 0, "lost": 0,
        "reasons": {}, "skipped": {"outgoing": 21}, "sent": {"eth0": 10, "eth1": 11}, "late": 0, "cut": 0, "merged": 0,
        "complete": True,
    }  # fmt: skip
    assert summary(replay(cli, "-j", "-q", "in.pcapng", "--file", FTP)) == summary(result)


def test_quiet_and_verbose(cli: Cli, session: list[Walk]) -> None:
    assert len(replay(cli, "-q", "in.pcapng", "--file", FTP).lines) == 3
    verbose = replay(cli, "-v", "in.pcapng", "--file", FTP)
    assert verbose.lines[1].split()[:4] == ["eth1:", "tcp", "10.0.1.2:40000", ">"]
    assert len(verbose.lines) == 21 * 2 + 3


def test_on_a_saved_state_and_on_a_host(cli: Cli, session: list[Walk]) -> None:
    cli("apply", FTP)
    Path("state.toml").write_text(cli("export", "--state").out)
    of_state = replay(cli, "in.pcapng", "--file", "state.toml")
    assert "21 packets" in of_state.out
    assert replay(cli, "in.pcapng").out == of_state.out


# -- verdicts ---------------------------------------------------------------------------------------------------------


def test_what_becomes_of_packets(cli: Cli) -> None:
    big = "udp 10.0.1.2:9 > 192.168.1.100:9"
    file = capture(
        ("eth0", SYN), ("eth0", OTHER_PORT), ("eth0", "tcp 10.0.1.2:9 > 10.255.255.1:9 S"),
        ("eth0", f"{big} len=40 ulen=72 frag=0+"), ("eth0", "raw 4500"),
    )  # fmt: skip
    result = replay(cli, file, "--file", FTP)
    assert [line.split()[3] for line in result.lines[:5]] == ["forward", "drop", "local", "wait", "drop"]
    assert result.lines[1].endswith(": a rule drops it")
    assert result.lines[2].endswith(": delivered; nothing listens there -> eth0")
    assert result.lines[5:] == [
        "5 packets in 0.040000 s: 1 forwarded, 1 delivered, 2 dropped, 1 waiting fragments",
        "  dropped 1  rule: a rule drops it",
        "  dropped 1  header: the IP header is broken: version, length or checksum",
        "  sent 1 eth0, 1 eth1",
    ]
    assert summary(replay(cli, "-j", file, "--file", FTP))["reasons"] == {"rule": 1, "header": 1}


def test_timers_run_on_the_capture_s_clock(cli: Cli) -> None:
    """A fragment whose others never come: thirty seconds later the sender is told, before the next packet comes."""
    with Path("in.pcapng").open("wb") as file:
        writer = pcapng.Writer(file)
        fragment = parse("udp 10.255.255.2:9 > 10.255.255.1:9 len=40 ulen=72 frag=0+")
        for seconds in (0, 31, 3600):
            writer.write(START + seconds * 10**9, fragment, "eth0", outgoing=False)
    result = replay(cli, "in.pcapng", "--file", FTP, "--out", "out.pcapng")
    number, time, verdict, *_ = result.lines[1].split()
    assert (number, verdict) == ("-", "timer")
    assert 30 <= float(time) < 31
    assert [round((each.time - START) / 10**9) for each in records("out.pcapng")] == [30, 61]
    assert "timer" in json.loads(replay(cli, "-j", "in.pcapng", "--file", FTP).lines[1])["verdict"]


def test_a_gap_of_many_years_costs_nothing(cli: Cli) -> None:
    with Path("in.pcapng").open("wb") as file:
        writer = pcapng.Writer(file)
        for year in range(500):
            writer.write(year * 365 * 86400 * 10**9, parse(SYN), "eth0", outgoing=False)
    assert "500 forwarded" in replay(cli, "-q", "in.pcapng", "--file", FTP).out


def test_time_never_goes_back(cli: Cli) -> None:
    with Path("in.pcapng").open("wb") as file:
        writer = pcapng.Writer(file)
        for time in (START, START + 5, START + 3, START + 9):
            writer.write(time, parse(SYN), "eth0", outgoing=False)
    result = replay(cli, "in.pcapng", "--file", FTP, "--out", "out.pcapng")
    assert [each.time - START for each in records("out.pcapng")] == [0, 5, 5, 9]
    assert result.lines[-1] == "  note: 1 of the packets is older than the one before, and taken at its time"


def test_long_payloads_are_cut_for_people_only(cli: Cli) -> None:
    text = f'tcp 10.0.1.2:40000 > 192.168.1.100:21 PA data="{"x" * 500}"'
    file = capture(("eth0", text))
    line = replay(cli, file, "--file", FTP).lines[0]
    assert len(line) < 200
    assert '"xxxxx' in line
    assert "..." in line
    assert parse(json.loads(replay(cli, "-j", file, "--file", FTP).lines[0])["packet"]) == parse(text)


def test_packets_that_a_capture_spoiled_are_named(cli: Cli) -> None:
    packet = parse(f"{SYN} hex={'00' * 2000}")
    with Path("in.pcapng").open("wb") as file:
        writer = pcapng.Writer(file)
        writer.write(START, packet[:100], "eth0", len(packet), outgoing=False)
        writer.write(START, packet, "eth0", outgoing=False)
    notes = [line for line in replay(cli, "in.pcapng", "--file", FTP).lines if line.startswith("  note")]
    assert [line.split(":")[1].strip() for line in notes] == [
        "1 of the packets is not whole in the capture, and so dropped",
        "1 of the packets is larger than the MTU",
    ]


# -- devices ----------------------------------------------------------------------------------------------------------


def cooked(kind: int, packet: bytes) -> bytes:
    return bytes([0, kind]) + bytes(12) + b"\x08\0" + packet


def test_cooked_captures_tell_what_was_sent_and_what_was_for_others(cli: Cli) -> None:
    with Path("in.pcap").open("wb") as file:
        writer = pcap.Writer(file, SLL)
        for kind in (0, 3, 4, 0):
            writer.write(START, cooked(kind, parse(SYN)))
    result = replay(cli, "in.pcap", "--device", "eth0", "--file", FTP)
    assert result.lines[-3].startswith("2 packets")
    assert result.lines[-2] == "  skipped 1 for other hosts, 1 outgoing"


def test_other_frames_are_counted(cli: Cli) -> None:
    ether = bytes(12)
    with Path("in.pcap").open("wb") as file:
        writer = pcap.Writer(file, 1)
        for frame in (b"\x08\x06" + bytes(28), b"\x88\xcc" + bytes(40), b"\x08\0" + parse(SYN) + bytes(6)):
            writer.write(START, ether + frame)
    result = replay(cli, "in.pcap", "--device", "eth0", "--file", FTP)
    assert result.lines[0].split()[:4] == ["3", "0.000000", "eth0", "forward"]
    assert result.lines[-2] == "  skipped 1 arp, 1 ethertype 0x88cc"


STATE = """\
[[device]]
name = "eth0"
addresses = ["10.0.1.1/24"]

[[device]]
name = "eth0.5"
addresses = ["10.0.5.1/24"]
"""


def test_a_tagged_frame_comes_in_by_the_device_of_its_vlan(cli: Cli) -> None:
    Path("state.toml").write_text(STATE)
    packet = parse("udp 10.0.5.9:1 > 10.0.5.1:1")
    with Path("in.pcapng").open("wb") as file:
        writer = pcapng.Writer(file, link=1)
        for tag in (0, 5, 6):
            frame = bytes(12) + b"\x81\0" + bytes([0, tag]) + b"\x08\0" + packet
            writer.write(START, frame, "eth0", outgoing=False)
    result = replay(cli, "in.pcapng", "--file", "state.toml")
    assert [line.split()[2] for line in result.lines[:2]] == ["eth0", "eth0.5"]
    assert "  skipped 1 VLAN 6" in result.lines


def test_the_device_must_be_known(cli: Cli) -> None:
    file = capture(("eth0", SYN), ("eth7", SYN))
    result = replay(cli, file, "--file", FTP, status=2)
    assert result.lines[0].split()[3] == "forward"
    assert result.lines[1].startswith("so far: 1 packet in")
    assert (
        "in.pcapng: packet 2 came in by eth7, which the configuration does not have: --device is needed, " in result.err
    )
    assert "one of lo, eth0, eth1" in result.err
    assert replay(cli, file, "--file", FTP, "--device", "eth0").lines[-2].startswith("2 packets")
    assert replay(cli, file, "--file", FTP, "--device", "eth7").lines[1].split()[2] == "eth7"  # assumed around a file
    Path("state.toml").write_text(STATE)
    error = replay(cli, file, "--file", "state.toml", "--device", "eth7", status=2).err
    assert "there is no device eth7, expected one of eth0, eth0.5" in error


def test_a_file_that_names_no_device(cli: Cli) -> None:
    with Path("in.pcap").open("wb") as file:
        pcap.Writer(file).write(START, parse(SYN))
    error = replay(cli, "in.pcap", "--file", FTP, status=2).err
    assert (
        "in.pcap: it does not say by which device a packet came in: --device is needed, one of lo, eth0, eth1" in error
    )


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_broken_capture_keeps_what_came_before(cli: Cli, session: list[Walk]) -> None:
    data = Path("in.pcapng").read_bytes()
    at = data.rindex(b"\6\0\0\0") + 8
    Path("in.pcapng").write_bytes(data[:-10])
    result = replay(cli, "in.pcapng", "--file", FTP, "--out", "out.pcapng", status=2)
    (last,) = (line for line in result.err.splitlines() if "byte" in line)
    assert last == f"ipvsctl: in.pcapng: byte {at}: the file ends inside a block, 6 bytes too early"
    assert result.lines[-3].startswith("so far: 21 packets")
    assert len(records("out.pcapng")) == 21
    broken = summary(replay(cli, "-j", "in.pcapng", "--file", FTP, status=2))
    assert (broken["complete"], broken["packets"]) == (False, 21)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.pcap"], "cannot read nowhere.pcap: No such file or directory"),
        (["."], "cannot read .: Is a directory"),
        (["in.pcapng", "--out", "out.txt"], "--out out.txt: expected a name that ends in .pcapng or .pcap, or -"),
        (["in.pcapng", "--out", "no/such/out.pcap"], "cannot write no/such/out.pcap: No such file or directory"),
        (["in.pcapng", "--out", "in.pcapng"], "--out in.pcapng: this is an input, which would be overwritten"),
        (["in.pcapng", "--out", "link.pcapng"], "--out link.pcapng: this is an input"),
        (["link.pcapng", "--out", "hard.pcap"], "--out hard.pcap: this is an input"),
        (["in.pcapng", "--out", "director.pcap", "--file", "director.pcap"], "--out director.pcap: this is an input"),
        (["ftp.toml"], "ftp.toml: byte 0: 5b6e6663 begins neither a pcap nor a pcapng file"),
        (["-", "--file", "-"], "standard input is one file"),
    ],
)
def test_files_that_cannot_be(cli: Cli, words: list[str], message: str) -> None:
    capture(("eth0", SYN))
    Path("link.pcapng").symlink_to("in.pcapng")
    Path("hard.pcap").hardlink_to("in.pcapng")
    Path("director.pcap").write_bytes(Path(FTP).read_bytes())
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    file = [] if "--file" in words else ["--file", FTP]
    assert message in replay(cli, *words, *file, status=2).err
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def command(*words: str, **settings: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ipvsctl", "emulate", "replay", *words, "--file", FTP],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, **{"stdout": subprocess.PIPE, **settings},
    )  # fmt: skip


def test_pipes(cli: Cli, session: list[Walk]) -> None:
    """The capture comes by standard input and what left goes to standard output; all else goes to standard error."""
    process = command("-", "--out", "-")
    out, err = process.communicate(Path("in.pcapng").read_bytes(), timeout=60)
    assert process.returncode == 0
    found = list(pcap.read(io.BytesIO(out)))
    assert [each.data for each in found] == [output.packet for walk in session for output in walk.outputs]
    assert err.count(b"  forward  ") == 21
    assert b"21 packets in 0.200000 s" in err


def test_input_that_is_the_output_of_the_shell(cli: Cli, session: list[Walk]) -> None:
    before = Path("in.pcapng").read_bytes()
    with Path("in.pcapng").open("ab") as target:
        process = command("in.pcapng", stdout=target)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"standard output is an input" in err
    with Path("in.pcapng").open("rb") as source:
        process = subprocess.Popen(
            [sys.executable, "-m", "ipvsctl", "emulate", "replay", "-", "--out", "in.pcapng", "--file", FTP],
            stdin=source, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"this is an input" in err
    assert Path("in.pcapng").read_bytes() == before


def test_a_full_disk_is_told(cli: Cli, session: list[Walk]) -> None:
    Path("full.pcapng").symlink_to("/dev/full")
    result = replay(cli, "in.pcapng", "--file", FTP, "--out", "full.pcapng", status=1)
    assert "ipvsctl: cannot write full.pcapng: No space left on device" in result.err


def test_a_reader_that_goes_away(cli: Cli, session: list[Walk]) -> None:
    process = command("in.pcapng", "--out", "-")
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)
    assert process.returncode == 141


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_the_summary(cli: Cli, session: list[Walk], number: int) -> None:
    """While it waits for more of the capture: what came until then is told and written, whole."""
    process = command("-", "--out", "-", bufsize=0)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(Path("in.pcapng").read_bytes())
    told = b""
    while told.count(b" forward ") < 21 or not told.endswith(b"\n"):
        told += process.stderr.read(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    lines = err.decode().splitlines()
    assert lines[0].startswith("so far: 21 packets")
    assert lines[-1] == "ipvsctl: interrupted"
    assert len(list(pcap.read(io.BytesIO(out)))) == 21


class Endless:
    """Gives a process a capture that does not end, until it wants no more."""

    def __init__(self, process: subprocess.Popen[bytes], head: bytes, each: bytes, times: int | None = None) -> None:
        assert process.stdin is not None
        self.target: IO[bytes] = process.stdin
        self.head, self.each, self.times = head, each, times
        self.thread = threading.Thread(target=self._feed)

    def _feed(self) -> None:
        with suppress(BrokenPipeError), self.target:
            self.target.write(self.head)
            for _ in count() if self.times is None else range(self.times):
                self.target.write(self.each)

    def __enter__(self) -> Endless:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()


def conversation() -> tuple[bytes, bytes]:
    """A pcapng file of an open connection, and records of it that can come again and again: two sent, two come in."""
    found = walks()[:6]
    file = io.BytesIO()
    writer = pcapng.Writer(file, ["eth0", "eth1"])
    for walk in found:
        writer.write(START, walk.packet, walk.device, outgoing=False)
    head = file.tell()
    for walk in found[3:5]:
        writer.write(START, walk.packet, walk.device, outgoing=False)
        writer.write(START, walk.outputs[0].packet, walk.outputs[0].device, outgoing=True)
    data = file.getvalue()
    return data[:head], data[head:]


def test_a_signal_in_the_middle_leaves_whole_records(cli: Cli) -> None:
    head, each = conversation()
    process = command("-", "-q", "--out", "out.pcapng")
    with Endless(process, head, each * 100):
        while not Path("out.pcapng").exists() or Path("out.pcapng").stat().st_size < 100_000:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        process.wait(60)
    assert process.returncode == 130
    forwarded = int(re.findall(r"(\d+) forwarded", out)[0])
    assert len(records("out.pcapng")) == forwarded > 1000


# -- large ones -------------------------------------------------------------------------------------------------------


def peak(times: int) -> tuple[int, int]:
    """Kilobytes that a replay of so many records needs at most, and the packets that it forwarded."""
    head, each = conversation()
    code = (
        "import resource, sys; from ipvsctl.cli.main import main; status = main(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "emulate", "replay", "-", "-q", "--file", FTP],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    with process, Endless(process, head, each * 100, times // 400):
        out, err = process.stdout.read().decode(), process.stderr.read().decode()
    assert process.returncode == 0, err
    return int(err.splitlines()[-1]), int(re.findall(r"(\d+) forwarded", out)[0])


def test_memory_does_not_grow_with_the_capture(cli: Cli) -> None:
    """100,000 records, half of them sent by the director, need what 2,000 need."""
    small, few = peak(2_000)
    large, many = peak(100_000)
    assert (few, many) == (1_006, 50_006)
    assert large - small < 3_000


# -- people -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "quiet", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_bar_on_a_terminal_only(cli: Cli, session: list[Walk], terminal: bool, quiet: bool, shown: bool) -> None:
    """It would be torn apart by lines that scroll on the same terminal."""
    err, out = Terminal() if terminal else io.StringIO(), Terminal()
    env = Environment(stdout=out, stderr=err, variables={"TERM": "xterm", "IPVSCTL_HOST": "emulator"})
    words = ["emulate", "replay", "in.pcapng", "--file", FTP, *(["-q"] if quiet else [])]
    assert main(words, env) == 0
    assert ("━" in err.getvalue()) == shown
    assert "21 packets" in out.getvalue()


def test_help_has_examples(cli: Cli) -> None:
    text = replay(cli, "--help").out
    assert "ipvsctl emulate replay clients.pcap --device eth0 --file ftp.toml" in text
    for option in ("--device", "--out", "--file"):
        assert option in text
