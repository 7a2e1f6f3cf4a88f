"""`doctor` on a real kernel: each scenario breaks a director that was well, doctor names the cause, and only that one.

Where something can be mended safely, `doctor --fix` mends it: the finding goes and a real client gets through again.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main
from tests.guest.lab import FTP_SERVER, HTTP_SERVER, ROOT, VIP, Lab, Result, ftp_root, must, run

pytestmark = pytest.mark.guest

SERVICE = f"tcp:{VIP}:80"
STRANGER = "10.0.2.77"
ANSWER = "port 80"
USED = (
    "cli.doctor", "cli.doctor_fix", "cli.nfct_plan", "kernel.evidence", "kernel.firewall", "kernel.ipvs",
    "knowledge.checks", "plan.examine", "plan.execute",
)  # fmt: skip
"""What the command imports: imported once, it need not be in every copy of this process."""

CONNECT = """
import socket, sys
for number in range(int(sys.argv[3])):
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex((sys.argv[1], int(sys.argv[2])))
        __import__("time").sleep(0.2)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for module in ("ip_vs", "ip_vs_wlc", "ip_vs_rr", "ip_vs_ftp", "nf_conntrack_ftp"):
        must("modprobe", module)
    for name in USED:
        import_module(f"ipvsctl.{name}")
    base = tmp_path_factory.mktemp("doctor")
    with Lab("d") as made:
        made.serve(made.rs1, HTTP_SERVER, "::", "80,8081")
        made.serve(made.rs1, FTP_SERVER, "10.0.2.2", ftp_root(base, "rs1"))
        yield made


@pytest.fixture
def director(lab: Lab) -> Iterator[Lab]:
    """A director with one nat service that is well; afterwards as before it."""
    dev = lab.director
    must("ip", "netns", "exec", dev, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    if not any(VIP in line for line in must("ip", "-n", dev, "addr", "show", "dev", "eth0").splitlines()):
        must("ip", "-n", dev, "addr", "add", f"{VIP}/32", "dev", "eth0")
    on(lab, "ipvsadm", "-C")
    on(lab, "ipvsadm", "-A", "-t", f"{VIP}:80", "-s", "rr")
    on(lab, "ipvsadm", "-a", "-t", f"{VIP}:80", "-r", "10.0.2.2:80", "-m")
    yield lab
    for words in (
        ("ipvsadm", "-C"), ("ipvsadm", "--stop-daemon", "master"), ("ip", "neigh", "flush", "all"),
        ("nft", "flush", "ruleset"), ("conntrack", "-F"), ("ip", "neigh", "del", VIP, "dev", "eth0"),
        ("ip", "link", "set", "eth2", "up"),
    ):  # fmt: skip
        lab.on(dev, *words)
    for table in lab.on(dev, "cat", "/proc/net/ip_tables_names").stdout.split():
        on(lab, "iptables-legacy", "-t", table, "-F")
        on(lab, "iptables-legacy", "-t", table, "-X")
    on(lab, "sh", "-c", "iptables-legacy -P INPUT ACCEPT; iptables-legacy -P FORWARD ACCEPT")
    names = ("all.accept_local", "all.rp_filter", "eth1.accept_local", "eth1.rp_filter")
    settings = [f"net.ipv4.conf.{name}=0" for name in names]
    on(lab, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=0", "net.netfilter.nf_conntrack_tcp_be_liberal=0",
       "net.ipv4.vs.drop_packet=0", *settings)  # fmt: skip


def on(lab: Lab, *words: str) -> str:
    return must("ip", "netns", "exec", lab.director, *words)


def command(lab: Lab, *words: str) -> Result:
    """Our command on the director, in a copy of this process: what it imports is here already, which is most of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 70
        try:
            os.close(reader)
            out, err = io.StringIO(), io.StringIO()
            found = main(("--netns", lab.director, *words), Environment(stdin=io.StringIO(), stdout=out, stderr=err))
            with os.fdopen(writer, "w") as file:
                json.dump([found, out.getvalue(), err.getvalue()], file)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    _, ended = os.waitpid(child, 0)
    assert ended == 0, "the command ended without an answer"
    return Result(*json.loads(text))


def doctor(lab: Lab, *options: str) -> dict[str, Any]:
    """Findings that are not infos, by id; and the exit status fits them."""
    result = command(lab, "-j", "doctor", *options)
    assert result.stdout, result.stderr
    document = json.loads(result.stdout)
    found = {each["id"]: each for each in document["findings"] if each["severity"] != "info"}
    assert result.status == (1 if found else 0), result.stderr
    assert not [note for note in document["notes"] if "not looked at" in note], document["notes"]
    return found


def ids(lab: Lab) -> set[str]:
    return set(doctor(lab))


def fetch(lab: Lab, seconds: int = 3, url: str = f"http://{VIP}/") -> str:
    return lab.on(lab.client, "curl", "-s", "--max-time", str(seconds), url).stdout.strip()


def knock(lab: Lab, times: int = 4, port: int = 80) -> None:
    """SYNs of several connections, answered or not."""
    result = lab.on(lab.client, "python3", "-c", CONNECT, VIP, str(port), str(times))
    assert result.status == 0, result.stderr


def fix(lab: Lab) -> set[str]:
    """Mend; what is found afterwards."""
    return set(doctor(lab, "--fix"))


@contextmanager
def without_gateway(lab: Lab) -> Iterator[None]:
    must("ip", "-n", lab.rs1, "-4", "route", "del", "default")
    try:
        yield
    finally:
        must("ip", "-n", lab.rs1, "route", "add", "default", "via", "10.0.2.1")


@contextmanager
def virtual_address_on_server(lab: Lab) -> Iterator[None]:
    must("ip", "-n", lab.rs1, "addr", "add", f"{VIP}/32", "dev", "lo")
    try:
        yield
    finally:
        must("ip", "-n", lab.rs1, "addr", "del", f"{VIP}/32", "dev", "lo")


def forward(lab: Lab, letter: str) -> None:
    """The service's server by another method: -g dr, -i tun, -m nat."""
    on(lab, "ipvsadm", "-d", "-t", f"{VIP}:80", "-r", "10.0.2.2:80")
    on(lab, "ipvsadm", "-a", "-t", f"{VIP}:80", "-r", "10.0.2.2:80", letter)


# -- the scenarios ----------------------------------------------------------------------------------------------------


def test_a_director_that_is_well(director: Lab) -> None:
    assert fetch(director) == ANSWER
    result = director.ipvsctl("doctor")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")


def test_nat_without_forwarding(director: Lab) -> None:
    on(director, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    assert fetch(director, 2) == ""
    assert "nat-forwarding" in ids(director)
    assert fix(director) == set()
    assert fetch(director) == ANSWER


def test_a_rule_in_front_of_the_service(director: Lab) -> None:
    on(director, "iptables-legacy", "-A", "INPUT", "-p", "tcp", "-d", VIP, "-j", "DROP")
    assert fetch(director, 2) == ""
    found = doctor(director)
    assert set(found) == {"input-drops"}
    assert "filter INPUT 1" in found["input-drops"]["why"]
    words = found["input-drops"]["fix"].replace("iptables", "iptables-legacy", 1).split()
    on(director, *words)
    assert fetch(director) == ANSWER
    assert ids(director) == set()


def test_rules_by_state_without_nfct(director: Lab) -> None:
    for words in (("-A", "FORWARD", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"),
                  ("-A", "FORWARD", "-j", "DROP")):  # fmt: skip
        on(director, "iptables-legacy", *words)
    assert fetch(director, 2) == ""
    assert ids(director) == {"nfct-off", "forward-drops"}
    assert fix(director) == set()
    assert fetch(director) == ANSWER


def test_conntrack_that_tracks_nothing(director: Lab) -> None:
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
    assert fetch(director) == ANSWER
    assert ids(director) == {"nfct-idle"}
    assert fix(director) == set()
    assert fetch(director) == ANSWER
    assert VIP in on(director, "conntrack", "-L")


def test_be_liberal(director: Lab) -> None:
    on(director, "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_tcp_be_liberal=1")
    assert ids(director) == {"be-liberal"}
    assert fix(director) == set()
    assert on(director, "sysctl", "-n", "net.netfilter.nf_conntrack_tcp_be_liberal").strip() == "0"


def test_a_server_with_another_gateway(director: Lab) -> None:
    """On a port of its own: connections of other tests are still in the table."""
    on(director, "ipvsadm", "-A", "-t", f"{VIP}:8090", "-s", "rr")
    on(director, "ipvsadm", "-a", "-t", f"{VIP}:8090", "-r", "10.0.2.2:80", "-m")
    with without_gateway(director):
        knock(director, port=8090)
        found = doctor(director)
        assert set(found) == {"nat-gateway"}
        assert found["nat-gateway"]["fix"] == "ip route replace default via 10.0.2.1"
    assert fetch(director, url=f"http://{VIP}:8090/") == ANSWER
    assert ids(director) == set()


def test_the_virtual_address_is_nowhere(director: Lab) -> None:
    must("ip", "-n", director.director, "addr", "del", f"{VIP}/32", "dev", "eth0")
    assert fetch(director, 2) == ""
    found = doctor(director)
    assert set(found) == {"vip-nowhere"}
    on(director, *found["vip-nowhere"]["fix"].split())
    assert fetch(director) == ANSWER
    assert ids(director) == set()


def test_a_server_that_is_not_there(director: Lab) -> None:
    on(director, "ipvsadm", "-a", "-t", f"{VIP}:80", "-r", f"{STRANGER}:80", "-m")
    for _ in range(4):
        # The kernel soon forgets a neighbour that does not answer, if nobody asks again.
        director.on(director.director, "ping", "-c", "1", "-W", "1", STRANGER)
        if "server-silent" in (found := ids(director)):
            break
    assert "server-silent" in found


def test_dr_through_the_director(director: Lab) -> None:
    """accept_local, rp_filter, forwarding: one after the other, each mended, and the client gets through in the end."""
    url = f"http://{VIP}:8081/"
    on(director, "ipvsadm", "-A", "-t", f"{VIP}:8081", "-s", "rr")
    on(director, "ipvsadm", "-a", "-t", f"{VIP}:8081", "-r", "10.0.2.2:8081", "-g")
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
    on(director, "iptables-legacy", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    with virtual_address_on_server(director):
        assert fetch(director, 2, url) == ""
        knock(director, port=8081)
        found = doctor(director)
        assert set(found) == {"accept-local-missing"}
        assert found["accept-local-missing"]["fix"] == "ipvsctl nfct enable --accept-local eth1"
        fix(director)
        assert fetch(director, url=url) == "port 8081"
        on(director, "sysctl", "-q", "-w", "net.ipv4.conf.eth1.rp_filter=1")
        assert fetch(director, 2, url) == ""
        assert "rp-filter" in ids(director)
        fix(director)
        assert fetch(director, url=url) == "port 8081"
        assert "rp-filter" not in ids(director)


def test_dr_that_answers_past_the_director(director: Lab) -> None:
    """Whoever drops INVALID drops all of a one-way connection but its first packet."""
    forward(director, "-g")
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
    on(director, "iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    found = doctor(director)
    assert set(found) == {"invalid-drops"}
    assert "S18" in found["invalid-drops"]["source"]
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=0")
    on(director, "iptables-legacy", "-F", "INPUT")
    assert ids(director) == set()


def test_a_tunnel_and_its_mtu(director: Lab) -> None:
    forward(director, "-i")
    assert ids(director) == {"tunnel-mtu"}
    must("ip", "-n", director.director, "link", "set", "eth1", "mtu", "1520")
    try:
        assert ids(director) == set()
    finally:
        must("ip", "-n", director.director, "link", "set", "eth1", "mtu", "1500")


def test_ftp_without_its_helper(director: Lab) -> None:
    on(director, "ipvsadm", "-A", "-t", f"{VIP}:21", "-s", "rr")
    on(director, "ipvsadm", "-a", "-t", f"{VIP}:21", "-r", "10.0.2.2:21", "-m")
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
    related = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
    for words in (
        ("-A", "INPUT", *related), ("-A", "INPUT", "-p", "tcp", "-d", VIP, "-m", "multiport", "--dports", "21,80", "-j",
        "ACCEPT"), ("-A", "INPUT", "-p", "tcp", "-d", VIP, "-j", "DROP"), ("-A", "FORWARD", *related),
        ("-A", "FORWARD", "-j", "DROP"),
    ):  # fmt: skip
        on(director, "iptables-legacy", *words)
    assert fetch(director, 4, f"ftp://{VIP}/name") == ""
    assert ids(director) == {"helper-missing"}
    assert fix(director) == set()
    assert fetch(director, 8, f"ftp://{VIP}/name") == "rs1"


def test_masquerade(director: Lab) -> None:
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
    on(director, "iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "eth1", "-j", "MASQUERADE")
    found = doctor(director)
    assert set(found) == {"masquerade"}
    words = found["masquerade"]["fix"].replace("iptables", "iptables-legacy", 1).split()
    on(director, *words)
    assert ids(director) == set()


def test_two_rule_sets(director: Lab) -> None:
    on(director, "iptables-legacy", "-A", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP")
    on(director, "nft", "add table inet other; add chain inet other input { type filter hook input priority 0; }")
    assert ids(director) == {"two-rule-sets"}
    on(director, "nft", "flush ruleset")
    assert ids(director) == set()


def test_a_firewall_of_somebody_elses(director: Lab) -> None:
    """The rules of an ordinary /etc/nftables.conf that knows nothing of the service."""
    for words in (
        "add table inet filter",
        "add chain inet filter input { type filter hook input priority 0; policy drop; }",
        "add rule inet filter input ct state established,related accept",
        "add rule inet filter input iifname lo accept",
        "add rule inet filter input tcp dport { 22, 443 } accept",
    ):
        on(director, "nft", words)
    assert fetch(director, 2) == ""
    found = doctor(director)
    assert set(found) == {"nft-drops"}
    on(director, *found["nft-drops"]["fix"].split())
    assert fetch(director) == ANSWER
    assert ids(director) == set()


def test_a_mark_that_nobody_sets(director: Lab) -> None:
    on(director, "ipvsadm", "-A", "-f", "7", "-s", "rr")
    on(director, "ipvsadm", "-a", "-f", "7", "-r", "10.0.2.2", "-m")
    assert ids(director) == {"mark-missing"}
    mark = ("-p", "tcp", "--dport", "8080", "-j", "MARK", "--set-mark", "7")
    on(director, "iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-d", "203.0.113.9", *mark)
    assert ids(director) == {"mark-not-local"}
    on(director, "iptables-legacy", "-t", "mangle", "-F")
    on(director, "iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-d", VIP, *mark)
    assert ids(director) == set()


def test_a_server_on_the_director(director: Lab) -> None:
    on(director, "ipvsadm", "-A", "-t", f"{VIP}:9999", "-s", "rr")
    on(director, "ipvsadm", "-a", "-t", f"{VIP}:9999", "-r", "10.0.2.1:9999", "-m")
    assert ids(director) == {"local-server-deaf"}


def test_synchronisation_over_a_dead_device(director: Lab) -> None:
    on(director, "ipvsadm", "--start-daemon", "master", "--mcast-interface", "eth2", "--syncid", "7")
    assert ids(director) == set()
    must("ip", "-n", director.director, "link", "set", "eth2", "down")
    assert ids(director) == {"sync-device"}


def test_an_address_that_another_host_has(director: Lab) -> None:
    on(director, "ip", "neigh", "replace", VIP, "lladdr", "02:00:00:00:00:99", "dev", "eth0")
    assert ids(director) == {"vip-announced"}


def test_a_defence_at_work(director: Lab) -> None:
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.drop_packet=3")
    assert ids(director) == {"defence-active"}


def test_the_table_is_full(director: Lab) -> None:
    limit = must("sysctl", "-n", "net.netfilter.nf_conntrack_max").strip()
    on(director, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
    on(director, "iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    assert fetch(director) == ANSWER
    used = int(on(director, "sysctl", "-n", "net.netfilter.nf_conntrack_count"))
    must("sysctl", "-q", "-w", f"net.netfilter.nf_conntrack_max={max(used, 1)}")
    try:
        assert "conntrack-full" in ids(director)
    finally:
        must("sysctl", "-q", "-w", f"net.netfilter.nf_conntrack_max={limit}")


def test_fix_is_undone(director: Lab) -> None:
    on(director, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    before = director.state()
    assert fix(director) == set()
    assert director.state() != before
    result = command(director, "rollback", "--last")
    assert result.status == 0, result.stderr
    assert director.state() == before


def test_a_bundle(director: Lab, tmp_path: Path) -> None:
    bundle = tmp_path / "b.tar.gz"
    result = command(director, "doctor", "--bundle", str(bundle))
    assert result.status == 0, result.stderr
    names = run("tar", "tzf", str(bundle)).stdout.split()
    assert {"ipvsctl-doctor/facts.json", "ipvsctl-doctor/state.toml", "ipvsctl-doctor/findings.json"} <= set(names)
    state = run("tar", "xzf", str(bundle), "-O", "ipvsctl-doctor/state.toml").stdout
    (tmp_path / "state.toml").write_text(state)
    result = command(director, "doctor", str(tmp_path / "state.toml"))
    assert result.status == 0, result.stdout + result.stderr


def test_without_permission(director: Lab) -> None:
    """Root without its capabilities: what may be looked at is, and finding nothing is not called well."""
    words = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-m", "ipvsctl", "doctor")
    result = director.on(director.director, "sh", "-c", f"cd {ROOT} && exec {' '.join(words)}")
    assert "Traceback" not in result.stderr
    assert "not looked at: services, servers and timeouts of IPVS" in result.stderr
    assert result.status == 4, result.stdout + result.stderr
