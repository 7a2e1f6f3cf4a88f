"""S21, S27: a client on the director itself, by nat, dr and tun - and that nobody outside can pretend to be us.

dr and tun need accept_local on the real servers' device: replies come in from the director's own virtual address. The
rules that `ipvsctl apply` adds let that pass there and drop it everywhere else, and count what they drop.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.guest.lab import FTP_SERVER, VIP, curl_modes
from tests.guest.matrix_lab import BACKENDS, RIP, MatrixLab, director_file

pytestmark = [pytest.mark.guest, pytest.mark.every_kernel, pytest.mark.timeout(600)]

PLAIN = "10.0.3.3"
"""A real server that has no VIP of its own: rs2."""
PORT = 9999
PROBE = f"""
table inet probe {{
    counter arrived {{ }}
    chain input {{
        type filter hook input priority -10
        meta l4proto udp udp dport {PORT} counter name arrived
    }}
}}
"""
SPOOF = """
import socket, struct, sys
source, destination, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = b"spoofed"
udp = struct.pack("!4H", port, port, 8 + len(data), 0) + data
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                 socket.inet_aton(source), socket.inet_aton(destination))
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
    for _ in range(3):
        raw.sendto(ip + udp, (destination, 0))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatrixLab]:
    folder = tmp_path_factory.mktemp("local")
    with MatrixLab("l", folder, PROBE) as made:
        made.serve(made.rs2, FTP_SERVER, PLAIN, made.roots["rs1"])
        made.foreign_rules()
        yield made


@pytest.fixture
def undone(lab: MatrixLab) -> Iterator[None]:
    yield from lab.undone()


def test_nat_serves_the_director_itself(lab: MatrixLab, undone: None) -> None:
    """The kernel takes the VIP as source; the server sends its replies to the director, which is its gateway (S21)."""
    lab.apply(director_file("nat").replace(RIP, PLAIN) + f'local_clients = ["{PLAIN}"]\n')
    for mode, options in curl_modes():
        result = lab.on(lab.director, "curl", "-sS", "--max-time", "20", *options, f"ftp://{VIP}/name")
        assert (result.status, result.stdout) == (0, "rs1\n"), f"{mode}: {result.stderr}\n{lab.explain()}"


@pytest.mark.parametrize(("method", "backend"), [("dr", "iptables-legacy"), ("tun", "nft")])
def test_dr_and_tun_serve_a_client_that_binds_another_address(
    lab: MatrixLab, undone: None, method: str, backend: str
) -> None:
    lab.apply(director_file(method, backend) + f'local_clients = ["{RIP}"]\n')
    for mode, options in curl_modes()[:2]:
        words = ("curl", "-sS", "--max-time", "20", "--interface", "10.0.1.1", *options, f"ftp://{VIP}/name")
        result = lab.on(lab.director, *words)
        assert (result.status, result.stdout) == (0, "rs1\n"), f"{mode}: {result.stderr}\n{lab.explain()}"
    silent = lab.on(lab.director, "curl", "-sS", "--max-time", "4", f"ftp://{VIP}/name")
    assert silent.status == 28, f"with the VIP as source the server answers itself, expected silence: {silent}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_pretends_to_be_the_director_is_dropped_and_counted(lab: MatrixLab, undone: None, backend: str) -> None:
    for name, value in (("accept_local", "1"), ("rp_filter", "0")):
        lab.sysctl(lab.director, f"net.ipv4.conf.eth1.{name}", value)
    try:
        assert spoofed(lab, lab.rs1, "10.0.1.1", "10.0.2.1") == 3, "accept_local alone is dangerous"
    finally:
        for name, value in (("accept_local", "0"), ("rp_filter", "1")):
            lab.sysctl(lab.director, f"net.ipv4.conf.eth1.{name}", value)
    lab.apply(director_file("dr", backend))
    for namespace, source, destination in (
        (lab.client, VIP, "10.0.1.1"),
        (lab.client, VIP, VIP),
        (lab.rs1, "10.0.1.1", "10.0.2.1"),
        (lab.rs1, "10.0.2.1", "10.0.1.1"),
    ):
        before = dropped(lab, backend)
        assert spoofed(lab, namespace, source, destination) == 0, f"{source} came in from {namespace}"
        assert dropped(lab, backend) == before + 3, f"{source} from {namespace} is not counted\n{lab.explain()}"
    result, _ = lab.transfer()
    assert (result.status, result.stdout) == (0, "rs1\n"), "the service works all the same"


def spoofed(lab: MatrixLab, namespace: str, source: str, destination: str) -> int:
    """How many of three packets from a namespace reach the director's INPUT."""
    lab.counters()
    sent = lab.on(namespace, sys.executable, "-c", SPOOF, source, destination, str(PORT))
    assert sent.status == 0, sent.stderr
    return lab.counters()["arrived"]


def dropped(lab: MatrixLab, backend: str) -> int:
    """Packets that our rules against spoofing have dropped, as the back end's own tool shows them."""
    if backend == "nft":
        listed = lab.on(lab.director, "nft", "list", "ruleset").stdout
        chain = re.search(r"chain [^\n]*spoof[^\n]* \{(.*?)\n\t\}", listed, re.IGNORECASE | re.DOTALL)
        assert chain, listed
        return sum(int(found) for found in re.findall(r"counter packets (\d+) bytes \d+ drop", chain[1]))
    listed = lab.on(lab.director, f"{backend}-save", "-c", "-t", "raw").stdout
    found = re.findall(r"^\[(\d+):\d+\] -A IPVSCTL-SPOOF .*-j DROP$", listed, re.MULTILINE)
    assert found, listed
    return sum(map(int, found))
