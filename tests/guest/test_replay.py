"""The emulated datapath against this kernel, packet for packet: real sessions captured on a director, and replayed.

The director's saved state is taken before the sessions. Every packet that came in by one of its devices then goes
through the emulated datapath, which starts from that state; what leaves it must be what the kernel sent, byte for byte
and in the same order on each device.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from ipvsctl.formats.packet_text import describe
from ipvsctl.formats.pcap import read
from ipvsctl.wire.address import packed
from tests.guest.lab import FTP_SERVER, ROOT, VIP, VIP6, Lab, curl_modes, ftp_root, must, run

pytestmark = pytest.mark.guest

LARGE = bytes(range(256)) * 200
OWN = {packed(address) for address in (VIP, "10.0.1.1", "10.0.2.1", "10.0.3.1")}

DIRECTOR = f"""\
[nfct]
conntrack = true
snat_reroute = true
accept_local = ["eth1"]

[[service]]
address = "tcp:{VIP}:21"
scheduler = "rr"
helper = "ftp"
[[service.server]]
address = "10.0.2.2"
forward = "nat"
[[service.server]]
address = "10.0.3.3"
forward = "nat"

[[service]]
address = "tcp:{VIP}:80"
scheduler = "wrr"
[[service.server]]
address = "10.0.2.2:8080"
forward = "nat"
weight = 2
[[service.server]]
address = "10.0.3.3:8080"
forward = "nat"

[[service]]
address = "tcp:{VIP}:81"
scheduler = "wlc"
[[service.server]]
address = "10.0.2.2"
forward = "dr"

[[service]]
address = "tcp:{VIP}:82"
scheduler = "sh"
[[service.server]]
address = "10.0.2.2"
forward = "tun"

[[service]]
address = "fwmark:7"
scheduler = "sed"
[[service.server]]
address = "10.0.2.2:8080"
forward = "nat"

[[service]]
address = "tcp:{VIP}:84"
scheduler = "nq"
[[service.server]]
address = "10.0.3.3:8080"
forward = "nat"

[[service]]
address = "udp:{VIP}:53"
scheduler = "lc"
[[service.server]]
address = "10.0.2.2:5353"
forward = "nat"

[[service]]
address = "tcp:[{VIP6}]:21"
scheduler = "rr"
helper = "ftp"
[[service.server]]
address = "[fd00:2::2]:21"
forward = "nat"

[[service]]
address = "udp:[{VIP6}]:53"
scheduler = "rr"
[[service.server]]
address = "[fd00:2::2]:5353"
forward = "nat"

[firewall]
protect = ["{VIP}", "{VIP6}"]
forward_policy = "drop"
"""

WHOLE_PACKETS = """
import sys
from ipvsctl.kernel.namespace import enter
from tests.guest.capture import whole_packets
for name in sys.argv[1:]:
    enter(name)
    whole_packets()
"""

SERVERS = """
import socket, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
class Handler(SimpleHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
handler = partial(Handler, directory=sys.argv[1])
servers = [ThreadingHTTPServer(("0.0.0.0", port), handler) for port in (8080, 81, 82)]
echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
echo.bind(("::", 5353))
print("ready", flush=True)
for server in servers:
    threading.Thread(target=server.serve_forever).start()
while True:
    data, sender = echo.recvfrom(65536)
    echo.sendto(data, sender)
"""

PROBES = f"""
import errno, socket, struct
def datagram(address, port, data, ttl=64):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        if ttl != 64:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        client.connect((address, port))
        try:
            client.send(data)
            return len(client.recv(65536))
        except OSError as error:
            return errno.errorcode.get(error.errno, "nothing")
def echo(address):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as client:
        client.settimeout(2)
        client.sendto(struct.pack(">BBHHH", 8, 0, 0xF7FF - 7, 0, 7), (address, 0))
        return client.recv(100)[20]
def connection(address, port):
    with socket.socket() as client:
        client.settimeout(2)
        return errno.errorcode[client.connect_ex((address, port))]
print("fragments", datagram("{VIP}", 53, bytes(4000)))
print("small", datagram("{VIP}", 53, b"hello"))
print("fragments by IPv6", datagram("{VIP6}", 53, bytes(4000)))
print("closed", datagram("10.0.1.1", 9, b"x"))
print("expired", datagram("10.0.2.2", 9, b"x", 1))
print("no route", datagram("203.0.113.1", 9, b"x"))
print("prohibited", datagram("198.51.100.1", 9, b"x"))
print("forbidden", datagram("10.0.2.2", 9, b"x"))
print("refused", connection("10.0.1.1", 81))
print("echo", echo("{VIP}"))
"""
ANSWERS = """\
fragments 4000
small 5
fragments by IPv6 4000
closed ECONNREFUSED
expired nothing
no route nothing
prohibited EHOSTUNREACH
forbidden nothing
refused ECONNREFUSED
echo 0
"""

NEIGHBOURS = frozenset({130, 131, 132, 133, 134, 135, 136, 137, 143})
"""ICMPv6 types of neighbour discovery and of group membership: the link's business, as ARP is."""


@pytest.fixture(scope="module", autouse=True)
def one_processor() -> Iterator[None]:
    """Everything on one processor: on two, packets of two devices may overtake each other inside the kernel."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    base = tmp_path_factory.mktemp("replay")
    with Lab("r") as made:
        must(sys.executable, "-c", WHOLE_PACKETS, made.client, made.rs1, made.rs2)
        own_rules(made)
        as_real_server(made)
        for name, namespace, address in (("rs1", made.rs1, "10.0.2.2"), ("rs2", made.rs2, "10.0.3.3")):
            root = ftp_root(base, name)
            (Path(root) / "large").write_bytes(LARGE)
            made.serve(namespace, FTP_SERVER, address, root)
            made.serve(namespace, SERVERS, root)
        made.serve(made.rs1, FTP_SERVER, "fd00:2::2", str(base / "rs1"))
        yield made


def own_rules(lab: Lab) -> None:
    """What an administrator has beside the director file: a mark, source addresses of his own, a policy rule."""
    for words in (
        f"iptables-legacy -t mangle -A PREROUTING -d {VIP} -p tcp --dport 83 -j MARK --set-mark 7",
        f"iptables-legacy -A INPUT -d {VIP} -p tcp --dport 83 -m mark --mark 7 -j ACCEPT",
        f"iptables-legacy -t nat -A POSTROUTING -m ipvs --vaddr {VIP} --vport 84 -j MASQUERADE",
        "ip rule add from 10.0.1.0/24 to 198.51.100.0/24 priority 1000 table 100",
        "ip route add prohibit default table 100",
        "ip route add 10.0.3.3 dev eth2 mtu 1400",
    ):
        must("ip", "netns", "exec", lab.director, *words.split())


def as_real_server(lab: Lab) -> None:
    """Let rs1 take packets for the VIP, plain ones and out of a tunnel. The outer address of the latter is its own."""
    must("modprobe", "ipip")
    for words in (
        f"addr add {VIP}/32 dev lo", "link set tunl0 up", "addr add 10.0.2.2/32 dev tunl0",
    ):  # fmt: skip
        must("ip", "-n", lab.rs1, *words.split())
    for name in ("all", "default", "tunl0", "eth0"):
        must("ip", "netns", "exec", lab.rs1, "sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")


def sessions(lab: Lab, large: Path) -> None:
    """What clients do: every FTP mode, HTTP by every forwarding method, fragments, and what is refused or dropped."""
    for mode, options in curl_modes():
        for _ in range(2):
            result = lab.fetch(*options)
            assert (result.status, result.stdout[:2]) == (0, "rs"), f"{mode}: {result.stderr}"
    assert lab.fetch("-o", "/dev/null", url=f"ftp://{VIP}/large").status == 0
    for mode, options in curl_modes()[1:4:2]:
        result = lab.fetch(*options, url=f"ftp://[{VIP6}]/name")
        assert (result.status, result.stdout) == (0, "rs1\n"), f"{mode} by IPv6: {result.stderr}"
    for port in (80, 80, 80, 81, 82, 83, 84):
        result = lab.fetch("-o", "/dev/null", url=f"http://{VIP}:{port}/large")
        assert result.status == 0, f"{port}: {result.stderr}"
    # To rs2 and through the tunnel packets are larger than the MTU, until an ICMP error says so.
    for port in (80, 80, 80, 82, 84):
        result = lab.fetch("--data-binary", f"@{large}", url=f"http://{VIP}:{port}/large")
        assert result.status == 0, f"{port}: {result.stderr}"
    closed = lab.on(lab.client, "curl", "-sS", "--connect-timeout", "2", f"http://{VIP}:8080")
    assert closed.status == 28, closed.stderr
    probed = lab.on(lab.client, sys.executable, "-c", PROBES)
    assert probed.stdout == ANSWERS, probed.stderr


def is_neighbours(packet: bytes) -> bool:
    """Whether a packet is neighbour discovery or group membership of IPv6."""
    if packet[0] >> 4 != 6:
        return False
    at = 48 if packet[6] == 0 else 40
    return (packet[40] if packet[6] == 0 else packet[6]) == 58 and packet[at] in NEIGHBOURS


def masked(packet: bytes) -> bytes:
    """A packet without what nobody can foretell.

    * The identification of IPv4 packets that the director makes itself, and so their header's checksum: it counts from
      a hash with a secret (ip_idents_reserve). Those are ICMP messages from its own addresses.
    * The identification of IPv6 fragments: every cut gets a new random one (ipv6_select_ident).
    """
    if packet[0] >> 4 == 4 and packet[9] == 1 and packet[12:16] in OWN:
        return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]
    if packet[0] >> 4 == 6 and packet[6] == 44:
        return packet[:44] + bytes(4) + packet[48:]
    return packet


def leaving(path: Path) -> dict[str, list[bytes]]:
    """The packets that the director sent, by device."""
    found: dict[str, list[bytes]] = {}
    with path.open("rb") as file:
        for record in read(file, path.name):
            if record.outgoing and not is_neighbours(record.data):
                found.setdefault(record.device, []).append(masked(record.data))
    return found


def captured_sessions(lab: Lab, path: Path, large: Path) -> None:
    """Hold the sessions while the director's devices are captured."""
    capture = subprocess.Popen(
        ["ip", "netns", "exec", lab.director, sys.executable, "-m", "tests.guest.capture", str(path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        sessions(lab, large)
    finally:
        capture.send_signal(signal.SIGTERM)
        _, complaint = capture.communicate(timeout=60)
    assert capture.returncode == 0, complaint


@pytest.mark.timeout(900)
def test_every_packet_leaves_as_the_kernel_sent_it(lab: Lab, tmp_path: Path) -> None:
    wanted, large = tmp_path / "director.toml", tmp_path / "large"
    wanted.write_text(DIRECTOR)
    large.write_bytes(LARGE)
    applied = lab.ipvsctl("apply", str(wanted))
    assert applied.status == 0, applied.stderr
    exported = lab.ipvsctl("export", "--state")
    assert exported.status == 0, exported.stderr
    state, captured, replayed = tmp_path / "state.toml", tmp_path / "captured.pcapng", tmp_path / "replayed.pcapng"
    state.write_text(exported.stdout)
    captured_sessions(lab, captured, large)
    command = ("emulate", "replay", str(captured), "--file", str(state), "--out", str(replayed), "--quiet")
    done = run(sys.executable, "-m", "ipvsctl", *command, timeout=600, cwd=ROOT)
    assert done.status == 0, done.stderr
    sent, emulated = leaving(captured), leaving(replayed)
    assert set(sent) == set(emulated) == {"eth0", "eth1", "eth2"}
    assert min(map(len, sent.values())) > 100
    for device in sent:
        for number, (expected, got) in enumerate(zip_longest(sent[device], emulated[device]), 1):
            if expected != got:
                pytest.fail(f"{device}, packet {number}: the kernel sent {told(expected)}, the datapath {told(got)}")


def told(packet: bytes | None) -> str:
    return "nothing" if packet is None else describe(packet)
