"""A director between a client and two real servers, in network namespaces made for one test module.

    client 10.0.1.2 --- eth0 10.0.1.1 [director, VIP 192.168.1.100] eth1 10.0.2.1 --- 10.0.2.2 rs1
                                                                    eth2 10.0.3.1 --- 10.0.3.3 rs2

Each address 10.0.N.M has a sister fd00:N::M, and the VIP has 2001:db8::100.
Real servers answer FTP with pyftpdlib and have the director as their gateway; clients are curl.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VIP = "192.168.1.100"
VIP6 = "2001:db8::100"
FTP_SERVER = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
authorizer = DummyAuthorizer()
authorizer.add_anonymous(sys.argv[2])
FTPHandler.authorizer = authorizer
server = FTPServer((sys.argv[1], 21), FTPHandler)
print("ready", flush=True)
server.serve_forever()
"""
LISTENER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""


@dataclass(frozen=True)
class Result:
    """What a command ended with."""

    status: int
    stdout: str
    stderr: str


def run(*words: str, timeout: float = 120, **options: object) -> Result:
    """Run a command to its end; never raises for its status."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]
    return Result(done.returncode, done.stdout, done.stderr)


def must(*words: str) -> str:
    """Run a command that has to succeed; its output."""
    result = run(*words)
    assert result.status == 0, f"{' '.join(words)}: {result.stderr or result.stdout}"
    return result.stdout


class Lab:
    """The namespaces and what runs in them. Use as a context manager: everything is gone afterwards."""

    def __init__(self, tag: str) -> None:
        self.client, self.director, self.rs1, self.rs2 = (f"{tag}-{name}" for name in ("cl", "dir", "rs1", "rs2"))
        self.roots: dict[str, str] = {}
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Lab:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for name in (self.client, self.director, self.rs1, self.rs2):
            run("ip", "netns", "delete", name)

    def _make(self) -> None:
        for name in (self.client, self.director, self.rs1, self.rs2):
            must("ip", "netns", "add", name)
            must("ip", "-n", name, "link", "set", "lo", "up")
        for peer, device, address, gateway in (
            (self.client, "eth0", "10.0.1.2/24", "10.0.1.1"),
            (self.rs1, "eth1", "10.0.2.2/24", "10.0.2.1"),
            (self.rs2, "eth2", "10.0.3.3/24", "10.0.3.1"),
        ):
            must("ip", "link", "add", device, "netns", self.director, "type", "veth", "peer", "eth0", "netns", peer)
            must("ip", "-n", peer, "addr", "add", address, "dev", "eth0")
            must("ip", "-n", self.director, "addr", "add", f"{gateway}/24", "dev", device)
            must("ip", "-n", peer, "link", "set", "eth0", "up")
            must("ip", "-n", self.director, "link", "set", device, "up")
            must("ip", "-n", peer, "route", "add", "default", "via", gateway)
            must("ip", "-n", peer, "addr", "add", f"{sister(address.split('/')[0])}/64", "dev", "eth0", "nodad")
            must("ip", "-n", self.director, "addr", "add", f"{sister(gateway)}/64", "dev", device, "nodad")
            must("ip", "-n", peer, "route", "add", "default", "via", sister(gateway))
        must("ip", "-n", self.director, "addr", "add", f"{VIP}/32", "dev", "eth0")
        must("ip", "-n", self.director, "addr", "add", f"{VIP6}/128", "dev", "eth0", "nodad")

    def on(self, namespace: str, *words: str, timeout: float = 120) -> Result:
        return run("ip", "netns", "exec", namespace, *words, timeout=timeout)

    def serve(self, namespace: str, program: str, *arguments: str) -> None:
        """Start a Python program in a namespace, and wait until it says that it is ready."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._processes.append(process)
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(60), "the server said nothing in 60 s"
        line = process.stdout.readline()
        assert line == "ready\n", line + process.stdout.read()

    def ipvsctl(self, *words: str, timeout: float = 120) -> Result:
        """Our command on the director, entered with --netns."""
        return run(sys.executable, "-m", "ipvsctl", "--netns", self.director, *words, timeout=timeout, cwd=ROOT)

    def start_ipvsctl(self, *words: str) -> subprocess.Popen[str]:
        """Our command in the background, leader of a session of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ipvsctl", "--netns", self.director, *words],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def fetch(self, *options: str, url: str = f"ftp://{VIP}/name") -> Result:
        """curl on the client, at most 8 seconds."""
        return self.on(self.client, "curl", "-s", "-S", "--max-time", "8", *options, url)

    def state(self) -> dict[str, str]:
        """The director as other tools see it: rules, services, and every sysctl that ipvsctl may touch."""
        sysctls = self.on(self.director, "sysctl", "-a", "-e").stdout.splitlines()
        wanted = (
            "net.ipv4.vs.",
            "net.ipv4.ip_forward",
            "net.ipv4.conf.",
            "net.netfilter.nf_conntrack_tcp",
            "net.ipv6.conf",
        )
        return {
            "iptables": saved_rules(self.on(self.director, "iptables-legacy-save").stdout),
            "ip6tables": saved_rules(self.on(self.director, "ip6tables-legacy-save").stdout),
            "services": self.on(self.director, "ipvsadm", "-Sn").stdout,
            "timeouts": self.on(self.director, "ipvsadm", "-L", "--timeout").stdout,
            "sysctls": "\n".join(line for line in sysctls if line.startswith(wanted)),
        }


def saved_rules(text: str) -> str:
    """iptables-save's text without its dates and the counters of policies, which traffic changes."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(line.split(" [")[0] if line.startswith(":") else line for line in lines)


def sister(address: str) -> str:
    """The IPv6 address beside 10.0.N.M."""
    _, _, network, host = address.split(".")
    return f"fd00:{network}::{host}"


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ftp_root(base: Path, name: str) -> str:
    """A directory that an FTP server shows, with one file that tells which server it is."""
    directory = base / name
    directory.mkdir()
    (directory / "name").write_text(f"{name}\n")
    return str(directory)


def curl_modes() -> Sequence[tuple[str, tuple[str, ...]]]:
    """curl's options for the four ways to open an FTP data connection."""
    return (
        ("PASV", ("--disable-epsv",)),
        ("EPSV", ()),
        ("PORT", ("--ftp-port", "-", "--disable-eprt")),
        ("EPRT", ("--ftp-port", "-")),
    )
