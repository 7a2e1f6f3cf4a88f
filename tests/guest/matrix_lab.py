"""The lab of tests/guest/lab.py made fit for every forwarding method, and the director files of the matrix.

rs1 serves nat, dr and tun at once: the VIP on its lo, never announced by ARP, tunl0 up, the director its gateway.
The client cannot reach the real servers' own network, so that an address of theirs that shows shows as a failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.guest.lab import FTP_SERVER, LISTENER, VIP, VIP6, Lab, Result, ftp_root, must, saved_rules

METHODS = ("nat", "dr", "tun")
MODES = ("PASV", "EPSV", "PORT", "EPRT")
BACKENDS = ("iptables-legacy", "iptables-nft", "nft")
RIP, RIP6 = "10.0.2.2", "fd00:2::2"
OTHER = "10.0.3.3"
CLOSED = (81, 8080)
"""Ports of the VIP where the director and the real server listen and nobody may get through: below and above 1024."""

PROBE = """
table inet probe {
    counter related { }
    counter new { }
    counter other { }
    chain seen {
        ct state related counter name related return
        ct state new counter name new return
        counter name other
    }
    chain input {
        type filter hook input priority -10
        ip daddr VIP tcp flags & (syn | ack) == syn tcp dport != 21 jump seen
        ip6 daddr VIP6 tcp flags & (syn | ack) == syn tcp dport != 21 jump seen
    }
    chain forward {
        type filter hook forward priority -10
        iifname eth1 tcp flags & (syn | ack) == syn jump seen
    }
}
""".replace("VIP6", VIP6).replace("VIP", VIP)
"""Counts the first packets of data connections by their state, as the filter table is about to see them."""

POLICIES = "".join(f":{chain} ACCEPT [0:0]\n" for chain in ("INPUT", "FORWARD", "OUTPUT"))
STATE = """
for variant in legacy nft; do
    for tool in iptables ip6tables; do echo "== $tool-$variant-save"; $tool-$variant-save; done
done
echo "== nft"; nft -s list ruleset
for family in 4 6; do
    echo "== routes $family"; ip -$family route show table all
    echo "== routing rules $family"; ip -$family rule show
done
echo "== services"; ipvsadm -Sn; ipvsadm -L --timeout; ipvsadm -L --daemon
echo "== sysctls"; grep -rs . /proc/sys/net/ipv4 /proc/sys/net/ipv6 /proc/sys/net/netfilter | grep -v nf_conntrack_count
"""
PREPARED = """
import importlib, json, os, pkgutil, signal, sys
import ipvsctl
from ipvsctl.cli.main import main
for each in pkgutil.walk_packages(ipvsctl.__path__, "ipvsctl."):
    if each.name.split(".")[1] in ("cli", "formats", "kernel", "knowledge", "model", "plan"):
        importlib.import_module(each.name)
print("ready", flush=True)
for line in sys.stdin:
    out, err, seconds, *words = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(int(seconds))
        for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
            os.dup2(os.open(name, flags | os.O_CREAT | os.O_TRUNC), number)
        os._exit(main(words))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs the command again and again without starting Python each time, which takes a guest three seconds and more."""


class MatrixLab(Lab):
    """Lab with a real server for every method, and listeners on closed ports. Enter it with a folder for files."""

    def __init__(self, tag: str, folder: Path, probe: str = PROBE) -> None:
        super().__init__(tag)
        self.folder = folder
        self.probe = probe
        self.applied = 0
        self.before: dict[str, str] = {}
        self.prepared: subprocess.Popen[str] | None = None

    def _make(self) -> None:
        for module in ("ip_vs", "ip_vs_rr", "ip_vs_ftp", "nf_conntrack_ftp", "ipip"):
            must("modprobe", module)
        super()._make()
        for name in ("all", "default", "eth0", "tunl0"):
            self.sysctl(self.rs1, f"net.ipv4.conf.{name}.rp_filter", "0")
        for name, value in (("arp_ignore", "1"), ("arp_announce", "2")):
            self.sysctl(self.rs1, f"net.ipv4.conf.all.{name}", value)
        must("ip", "-n", self.rs1, "link", "set", "tunl0", "up")
        must("ip", "-n", self.rs1, "addr", "add", f"{VIP}/32", "dev", "lo")
        must("ip", "-n", self.rs1, "addr", "add", f"{VIP6}/128", "dev", "lo", "nodad")
        must("ip", "-n", self.client, "route", "add", "blackhole", "10.0.2.0/24")
        must("ip", "-n", self.client, "route", "add", "blackhole", "fd00:2::/64")
        for name, value in (("all", "0"), ("default", "0"), ("eth0", "0"), ("eth1", "1"), ("eth2", "0")):
            self.sysctl(self.director, f"net.ipv4.conf.{name}.rp_filter", value)
        self.roots = {"rs1": ftp_root(self.folder, "rs1")}
        self.serve(self.rs1, FTP_SERVER, ",".join((RIP, VIP, RIP6, VIP6)), self.roots["rs1"])
        for namespace in (self.director, self.rs1):
            self.serve(namespace, LISTENER, "::", ",".join(map(str, CLOSED)))
        self.serve(self.rs2, LISTENER, "::", "8080")

    def foreign_rules(self) -> None:
        """What the administrator has on the director already, in every back end; and the probe that counts, if any."""
        for tool, source in (("iptables", "203.0.113.0/24"), ("ip6tables", "2001:db8:bad::/48")):
            path = self.folder / f"{tool}.rules"
            path.write_text(f"*filter\n{POLICIES}-A INPUT -s {source} -j DROP\nCOMMIT\n")
            for variant in ("legacy", "nft"):
                must("ip", "netns", "exec", self.director, f"{tool}-{variant}-restore", str(path))
        if self.probe:
            path = self.folder / "probe.nft"
            path.write_text(self.probe)
            must("ip", "netns", "exec", self.director, "nft", "-f", str(path))

    def apply(self, text: str) -> Result:
        """`ipvsctl apply` of a director file, which has to succeed."""
        path = self.folder / "director.toml"
        path.write_text(text)
        result = self.ipvsctl("apply", str(path))
        assert result.status == 0, f"{result}\n{text}"
        self.applied += 1
        return result

    def undone(self) -> Iterator[None]:
        """For a fixture: what the test applies is rolled back, and then everything is byte for byte as before."""
        if not self.before:
            self._wait_for_addresses()
            self.before = self.state()
        yield
        while self.applied:
            self.applied -= 1
            result = self.ipvsctl("rollback")
            assert result.status == 0, result
        self.on(self.director, "conntrack", "-F")
        after = self.state()
        for what, text in self.before.items():
            assert after[what] == text, f"{what} is not as before"

    def state(self) -> dict[str, str]:
        """Everything that ipvsctl may touch on the director, as other tools see it."""
        told = self.on(self.director, "sh", "-c", STATE).stdout
        state = dict(part.split("\n", 1) for part in told.split("== ")[1:])
        for tool in ("iptables", "ip6tables"):
            for variant in ("legacy", "nft"):
                state[f"{tool}-{variant}-save"] = saved_rules(state[f"{tool}-{variant}-save"])
            # Before 5.15 a table's module makes the table in the initial namespace too. There it may be in use, so that
            # the module is not unloaded, and an empty table stays in the namespace where it was used.
            listed = Path(f"/proc/net/{tool.replace('tables', '')}_tables_names")
            stays = listed.read_text().split() if listed.exists() else []
            state[f"{tool}-legacy-save"] = without_empty(state[f"{tool}-legacy-save"], stays)
        return state

    def ipvsctl(self, *words: str, timeout: float = 120) -> Result:
        """Our command on the director, in a process that a prepared interpreter forks off."""
        if self.prepared is None:
            self.prepared = self.start(PREPARED)
        assert self.prepared.stdin is not None
        assert self.prepared.stdout is not None
        outputs = [self.folder / name for name in ("stdout", "stderr")]
        request = ["--netns", self.director, *words]
        self.prepared.stdin.write(json.dumps([*map(str, outputs), timeout, *request]) + "\n")
        self.prepared.stdin.flush()
        status = self.prepared.stdout.readline()
        assert status, "the prepared interpreter is gone"
        return Result(int(status), *(output.read_text() for output in outputs))

    def _wait_for_addresses(self) -> None:
        """Until IPv6 has made sure that nobody else has the director's addresses: routes come with that."""
        deadline = time.monotonic() + 30
        while self.on(self.director, "ip", "-6", "addr", "show", "tentative").stdout:
            assert time.monotonic() < deadline, "an address is tentative for 30 s"

    def counters(self) -> dict[str, int]:
        """What the probe has counted since it was asked last."""
        read = self.on(self.director, "nft", "-j", "reset", "counters", "table", "inet", "probe").stdout
        found = [item["counter"] for item in json.loads(read)["nftables"] if "counter" in item]
        return {counter["name"]: counter["packets"] for counter in found}

    def transfer(self, *options: str, url: str = f"ftp://{VIP}/name") -> tuple[Result, str]:
        """Fetch the file on the client, in at most 20 s; with the state that its data connection's first packet had."""
        self.counters()
        result = self.on(self.client, "curl", "-s", "-S", "--max-time", "20", *options, url)
        return result, " and ".join(name.upper() for name, packets in self.counters().items() if packets)

    def findings(self) -> dict[str, dict[str, str]]:
        """What doctor finds, by the id of the check."""
        result = self.ipvsctl("-j", "doctor")
        assert result.status in (0, 1), result
        return {finding["id"]: finding for finding in json.loads(result.stdout)["findings"]}

    def errors(self) -> dict[str, dict[str, str]]:
        """What doctor calls an error."""
        return {name: finding for name, finding in self.findings().items() if finding["severity"] == "error"}

    def explain(self) -> str:
        """What an engineer wants to see of a cell that does not work."""
        commands = (
            "ipvsadm -Ln", "ipvsadm -Lnc", "conntrack -L", "iptables-legacy-save -c", "iptables-nft-save -c",
            "nft list ruleset", "sysctl -ar ip_forward$|eth1.*(accept_local|rp_filter)|vs.conntrack",
        )  # fmt: skip
        return "\n".join(f"-- {text}\n{self.on(self.director, *text.split()).stdout}" for text in commands)

    def sysctl(self, namespace: str, name: str, value: str) -> None:
        must("ip", "netns", "exec", namespace, "sysctl", "-qw", f"{name}={value}")

    def open_ports(self, *targets: str, namespace: str = "") -> list[str]:
        """Those of the URLs at which a TCP connection can be made, tried at the same time, two seconds each."""
        script = "for url; do (curl -s --connect-timeout 2 --max-time 3 -o /dev/null "
        script += "-w '%{time_connect} %{url_effective}\\n' \"$url\") & done; wait"
        result = self.on(namespace or self.client, "sh", "-c", script, "sh", *targets)
        connected = [line.split() for line in result.stdout.splitlines()]
        assert len(connected) == len(targets), result
        return sorted(url.rstrip("/") for time, url in connected if float(time))


def without_empty(saved: str, tables: Iterable[str]) -> str:
    """iptables-save's text without those of the tables that have neither a rule nor a policy."""
    for name in tables:
        saved = re.sub(rf"(?m)^\*{name}\n(:\S+ ACCEPT\n)+COMMIT(\n|$)", "", saved)
    return saved.rstrip("\n")


def urls(address: str, ports: Iterable[int]) -> list[str]:
    host = f"[{address}]" if ":" in address else address
    return [f"http://{host}:{port}" for port in ports]


def director_file(method: str, backend: str = "iptables-legacy", forward_policy: str = "drop", family: int = 4) -> str:
    """The FTP service of a method, its director the servers' gateway."""
    routed = method != "nat"
    vip, service, server = (VIP, VIP, RIP) if family == 4 else (VIP6, f"[{VIP6}]", f"[{RIP6}]:21")
    return f"""\
[nfct]
conntrack = true
{'accept_local = ["eth1"]' if routed else ""}

[[service]]
address = "tcp:{service}:21"
scheduler = "rr"
{"persistent = 300" if routed else ""}
helper = "ftp"

[[service.server]]
address = "{server}"
forward = "{method}"

[firewall]
backend = "{backend}"
protect = ["{vip}"]
forward_policy = "{forward_policy}"
"""


def mark_file(backend: str) -> str:
    """Two ports of the VIP as one service of a firewall mark, by dr."""
    return f"""\
[nfct]
conntrack = true
accept_local = ["eth1"]

[[service]]
address = "fwmark:7"
scheduler = "rr"
persistent = 300
members = ["tcp:{VIP}:80", "tcp:{VIP}:8443"]

[[service.server]]
address = "{RIP}:0"
forward = "dr"

[firewall]
backend = "{backend}"
protect = ["{VIP}"]
"""
