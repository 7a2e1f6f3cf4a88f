"""Two providers, a virtual address of each, one real server: by which of them replies leave (S4 to S7).

                   10.7.1.0/24 [isp1] 10.8.1.254 --- eth0 10.8.1.1 [director] eth2 10.8.3.1 --- 10.8.3.2 rs1
    client 10.9.9.9
                   10.7.2.0/24 [isp2] 10.8.2.254 --- eth1 10.8.2.1 [director]

The virtual addresses are 10.8.1.100 and 10.8.2.100; every address 10.A.B.C has a sister fd0A:B::C. What is not said
otherwise leaves the director by isp1. tests/datapath/test_uplinks.py expects the same of the emulated datapath.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from ipvsctl.formats.pcap import read
from ipvsctl.wire.address import readable
from tests.guest.lab import HTTP_SERVER, ROOT, Lab, Result, must, run
from tests.guest.test_replay import WHOLE_PACKETS, is_neighbours, leaving, told

pytestmark = pytest.mark.guest

CLIENT, SERVER, VIP1, VIP2 = "10.9.9.9", "10.8.3.2", "10.8.1.100", "10.8.2.100"


def sister(address: str) -> str:
    """The IPv6 address beside 10.A.B.C."""
    _, *parts = address.split(".")
    return "fd0{}:{}::{}".format(*parts)


VIPS = (VIP1, VIP2, sister(VIP1), sister(VIP2))
PROTOCOL = "proto 86"


def file(conntrack: bool, reroute: bool, gateway: str = "10.8.2.254") -> str:
    """The director file."""
    parts = [f"[nfct]\nconntrack = {str(conntrack).lower()}\nsnat_reroute = {str(reroute).lower()}\n"]
    for vip in VIPS:
        address, server = (f"[{vip}]", sister(SERVER)) if ":" in vip else (vip, SERVER)
        parts.append(f'[[service]]\naddress = "tcp:{address}:80"\nscheduler = "rr"\n')
        parts.append(f'[[service.server]]\naddress = "{server}"\nforward = "nat"\n')
    for vip, device, router in ((VIP1, "eth0", "10.8.1.254"), (VIP2, "eth1", gateway)):
        parts.append(f'[[uplink]]\naddress = "{vip}"\ndevice = "{device}"\ngateway = "{router}"\n')
        parts.append(f'[[uplink]]\naddress = "{sister(vip)}"\ndevice = "{device}"\ngateway = "{sister(router)}"\n')
        parts[-1] += "table = 1000\n" if device == "eth1" else ""
    return "\n".join(parts)


class Providers(Lab):
    """The namespaces above, and the director as other tools see it with its routes and policy rules."""

    def __init__(self, tag: str) -> None:
        super().__init__(tag)
        self.isps = f"{tag}-isp1", f"{tag}-isp2"

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for name in self.isps:
            run("ip", "netns", "delete", name)

    def _make(self) -> None:
        names = (self.client, self.director, self.rs1, *self.isps)
        for name in names:
            must("ip", "netns", "add", name)
            for sysctl in ("ipv6.conf.default.accept_dad", "ipv4.conf.all.rp_filter", "ipv4.conf.default.rp_filter"):
                must("ip", "netns", "exec", name, "sysctl", "-qw", f"net.{sysctl}=0")
            must("ip", "-n", name, "link", "set", "lo", "up")
        self._address(self.client, "lo", CLIENT, 32, 128)
        for number, isp in enumerate(self.isps, 1):
            self._link(isp, "eth0", f"10.8.{number}.254", self.director, f"eth{number - 1}", f"10.8.{number}.1")
            self._link(isp, "eth1", f"10.7.{number}.1", self.client, f"eth{number - 1}", f"10.7.{number}.2")
            must("ip", "netns", "exec", isp, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            for own in (CLIENT, sister(CLIENT)):
                via = f"10.7.{number}.2" if own == CLIENT else sister(f"10.7.{number}.2")
                must("ip", "-n", isp, "route", "add", own, "via", via)
            self._address(self.director, f"eth{number - 1}", f"10.8.{number}.100", 32, 128)
            for each, length in ((f"10.8.{number}.0", 24), (f"fd08:{number}::", 64)):
                via, source = (f"10.7.{number}.1", CLIENT) if "." in each else (f"fd07:{number}::1", sister(CLIENT))
                must("ip", "-n", self.client, "route", "add", f"{each}/{length}", "via", via, "src", source)
        self._link(self.rs1, "eth0", SERVER, self.director, "eth2", "10.8.3.1")
        for name, via in ((self.rs1, "10.8.3.1"), (self.director, "10.8.1.254")):
            must("ip", "-n", name, "route", "add", "default", "via", via)
            must("ip", "-n", name, "route", "add", "default", "via", sister(via))
        # Somebody's own rules and routes, and what makes the kernel track connections whatever vs/conntrack says.
        for words in (
            "ip rule add from 10.8.2.0/24 lookup 77 priority 2000", "ip route add 10.8.99.0/24 via 10.8.2.254 table 77",
            "ip -6 rule add to fd08:99::/64 lookup 77 priority 2000", "ip -6 route add default via fd08:2::fe table 77",
            "iptables-legacy -A FORWARD -m conntrack --ctstate INVALID",
            "ip6tables-legacy -A FORWARD -m conntrack --ctstate INVALID",
        ):  # fmt: skip
            must("ip", "netns", "exec", self.director, *words.split())

    def _link(self, one: str, device: str, address: str, other: str, peer: str, gateway: str) -> None:
        must("ip", "link", "add", peer, "netns", other, "type", "veth", "peer", device, "netns", one)
        for name, end, own in ((one, device, address), (other, peer, gateway)):
            self._address(name, end, own, 24, 64)
            must("ip", "-n", name, "link", "set", end, "up")

    def _address(self, name: str, device: str, own: str, length: int, length6: int) -> None:
        must("ip", "-n", name, "addr", "add", f"{own}/{length}", "dev", device)
        must("ip", "-n", name, "addr", "add", f"{sister(own)}/{length6}", "dev", device, "nodad")

    def routing(self) -> str:
        """Every route and every rule of both families."""
        words = (("rule",), ("route", "show", "table", "all"))
        return "".join(must("ip", "-n", self.director, family, *each) for each in words for family in ("-4", "-6"))

    def state(self) -> dict[str, str]:
        return super().state() | {"routing": self.routing()}

    def get(self, vip: str) -> Result:
        """curl on the client."""
        host = f"[{vip}]" if ":" in vip else vip
        return self.on(self.client, "curl", "-sS", "--max-time", "8", "--interface", source_for(vip), f"http://{host}/")


def source_for(vip: str) -> str:
    return sister(CLIENT) if ":" in vip else CLIENT


@pytest.fixture(scope="module", autouse=True)
def one_processor() -> Iterator[None]:
    """Everything on one processor: on two, packets of two devices may overtake each other inside the kernel."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def lab() -> Iterator[Providers]:
    for module in ("ip_vs", "ip_vs_rr", "nf_conntrack"):
        must("modprobe", module)
    with Providers("u") as made:
        must(sys.executable, "-c", WHOLE_PACKETS, made.client, made.rs1, *made.isps)
        made.serve(made.rs1, HTTP_SERVER, "::", "80")
        # A device gets its IPv6 routes when the kernel has noticed that its other end is up.
        deadline = time.monotonic() + 20
        while made.routing().count("multicast ff00::/8") < 3:
            assert time.monotonic() < deadline, made.routing()
        yield made


@pytest.fixture
def clean(lab: Providers) -> Iterator[dict[str, str]]:
    """The state before; whatever the test applied is rolled back, and the state must be the same again."""
    before = lab.state()
    yield before
    for _ in range(20):
        if (result := lab.ipvsctl("rollback")).status:
            break
    assert result.status == 3, result
    after = lab.state()
    for part, text in before.items():
        assert after[part] == text, part


def captured(lab: Providers, path: Path) -> None:
    """Ask every virtual address once while the director's devices are captured."""
    capture = subprocess.Popen(
        ["ip", "netns", "exec", lab.director, sys.executable, "-m", "tests.guest.capture", str(path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        for vip in VIPS:
            result = lab.get(vip)
            assert (result.status, result.stdout) == (0, "port 80\n"), f"{vip}: {result.stderr}"
    finally:
        capture.send_signal(signal.SIGTERM)
        _, complaint = capture.communicate(timeout=60)
    assert capture.returncode == 0, complaint


def replies(path: Path) -> Counter[tuple[str, str]]:
    """How many packets each virtual address sent to the client by each device."""
    found: Counter[tuple[str, str]] = Counter()
    with path.open("rb") as stream:
        for record in read(stream, path.name):
            at = 12 if record.data[0] >> 4 == 4 else 8
            source = readable(record.data[at : at + (4 if at == 12 else 16)])
            if record.outgoing and source in VIPS and record.device != "eth2" and not is_neighbours(record.data):
                found[source, record.device] += 1
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("reroute", [True, False], ids=["reroute", "no-reroute"])
@pytest.mark.parametrize("conntrack", [True, False], ids=["conntrack", "no-conntrack"])
def test_by_which_uplink_replies_leave(
    lab: Providers, tmp_path: Path, clean: dict[str, str], conntrack: bool, reroute: bool
) -> None:
    wanted, state = tmp_path / "uplinks.toml", tmp_path / "state.toml"
    wanted.write_text(file(conntrack, reroute))
    applied = lab.ipvsctl("apply", str(wanted))
    assert applied.status == 0, applied.stderr
    assert lab.routing().count(PROTOCOL) == 8
    exported = lab.ipvsctl("export", "--state")
    assert exported.status == 0, exported.stderr
    state.write_text(exported.stdout)
    seen, replayed = tmp_path / "seen.pcapng", tmp_path / "replayed.pcapng"
    captured(lab, seen)
    second = "eth1" if reroute else "eth0"
    found = replies(seen)
    ways = {(VIP1, "eth0"), (sister(VIP1), "eth0"), (VIP2, second), (sister(VIP2), second)}
    assert set(found) == ways
    assert min(found.values()) >= 4, found
    # The emulated datapath sends the same packets by the same devices.
    command = ("emulate", "replay", str(seen), "--file", str(state), "--out", str(replayed), "--quiet")
    done = run(sys.executable, "-m", "ipvsctl", *command, timeout=300, cwd=ROOT)
    assert done.status == 0, done.stderr
    sent, emulated = leaving(seen), leaving(replayed)
    assert set(sent) == set(emulated)
    for device in sent:
        for number, (expected, got) in enumerate(zip_longest(sent[device], emulated[device]), 1):
            assert expected == got, f"{device}, packet {number}: {told(expected)}, the datapath {told(got)}"


def test_twice_changes_nothing_and_export_says_it_all(lab: Providers, tmp_path: Path, clean: dict[str, str]) -> None:
    wanted, again = tmp_path / "uplinks.toml", tmp_path / "again.toml"
    wanted.write_text(file(True, True))
    assert lab.ipvsctl("apply", str(wanted)).status == 0
    good = lab.routing()
    assert lab.ipvsctl("apply", str(wanted)).stdout == "no changes\n"
    exported = lab.ipvsctl("export")
    assert exported.stdout.count("[[uplink]]") == 4, exported.stdout
    again.write_text(exported.stdout)
    checked = lab.ipvsctl("plan", "--check", "--prune", str(again))
    assert checked.status == 0, checked.stdout
    for words in ("rule delete from 10.8.1.100", "-6 route delete default table 1000"):
        must("ip", "-n", lab.director, *words.split())
    checked = lab.ipvsctl("plan", "--check", str(wanted))
    assert checked.status == 1
    for expected in ("+ add policy rule from 10.8.1.100 lookup", "+ add route default via fd08:2::254 dev eth1 table"):
        assert expected in checked.stdout, checked.stdout
    assert "2 changes" in checked.stdout
    mended = lab.ipvsctl("apply", str(wanted))
    assert mended.status == 0, mended.stderr
    assert ours(lab.routing()) == ours(good)


def ours(routing: str) -> list[str]:
    return sorted(line for line in routing.splitlines() if PROTOCOL in line)


def test_a_gateway_out_of_reach_leaves_nothing(lab: Providers, tmp_path: Path, clean: dict[str, str]) -> None:
    wanted = tmp_path / "uplinks.toml"
    wanted.write_text(file(True, True, gateway="10.8.77.254"))
    refused = lab.ipvsctl("apply", str(wanted))
    assert refused.status == 5, refused
    assert "no network on eth1 has 10.8.77.254" in refused.stderr
    assert lab.routing() == clean["routing"]
    wanted.write_text(file(True, True).replace('"eth1"', '"eth7"'))
    refused = lab.ipvsctl("apply", str(wanted))
    assert (refused.status, "there is no device eth7" in refused.stderr) == (5, True), refused


def test_prune_takes_away_what_is_ours_and_nothing_else(lab: Providers, tmp_path: Path, clean: dict[str, str]) -> None:
    wanted, other = tmp_path / "uplinks.toml", tmp_path / "other.toml"
    wanted.write_text(file(True, True))
    other.write_text("[timeout]\ntcp = 900\n")
    assert lab.ipvsctl("apply", str(wanted)).status == 0
    assert lab.ipvsctl("apply", "--prune", str(other)).status == 0
    assert ours(lab.routing()) == []
    assert [line for line in lab.routing().splitlines() if "anycast" not in line] == [
        line for line in clean["routing"].splitlines() if "anycast" not in line
    ]
