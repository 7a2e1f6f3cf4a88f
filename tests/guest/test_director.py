"""A director from one file, on a real kernel: the NFCT description's own example with real FTP servers and real curl.

Statement numbers S1-S27 are those of the description; S14 is the rule set that this example applies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.lab import (
    FTP_SERVER,
    LISTENER,
    VIP,
    VIP6,
    Lab,
    curl_modes,
    ftp_root,
    kill_group,
    must,
    run,
)

pytestmark = pytest.mark.guest

FTP_TOML = f"""\
[nfct]
conntrack = true
snat_reroute = true
be_liberal = true

[[service]]
address = "tcp:{VIP}:21"
scheduler = "rr"
helper = "ftp"

[[service.server]]
address = "10.0.2.2"
forward = "nat"

[firewall]
protect = ["{VIP}"]
forward_policy = "drop"
"""
SECOND = '[[service.server]]\naddress = "10.0.3.3"\nforward = "nat"\n\n'
TWO_TOML = FTP_TOML.replace("[firewall]", SECOND + "[firewall]")
SERVICES = f"-A -t {VIP}:21 -s rr\n-a -t {VIP}:21 -r 10.0.2.2:21 -m -w 1\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    base = tmp_path_factory.mktemp("ftp")
    with Lab("d") as made:
        made.roots = {name: ftp_root(base, name) for name in ("rs1", "rs2")}
        made.serve(made.rs1, FTP_SERVER, "10.0.2.2", made.roots["rs1"])
        made.serve(made.rs2, FTP_SERVER, "10.0.3.3", made.roots["rs2"])
        made.serve(made.director, LISTENER, "::", "8080")
        foreign(made)
        yield made


def foreign(lab: Lab) -> None:
    """What the administrator has on the director already: rules in two tables, a chain, a service, sysctls."""
    for words in (
        "-A INPUT -i lo -j ACCEPT", "-A INPUT -p tcp --dport 8080 -j ACCEPT", "-N mine",
        "-A mine -s 203.0.113.0/24 -j DROP", "-A FORWARD -j mine", "-t raw -A PREROUTING -p udp --dport 9 -j DROP",
    ):  # fmt: skip
        must("ip", "netns", "exec", lab.director, "iptables-legacy", *words.split())
    for chain in ("-A INPUT", "-t raw -A PREROUTING"):
        words = ("ip6tables-legacy", *chain.split(), "-i", "lo", "-j", "ACCEPT")
        must("ip", "netns", "exec", lab.director, *words)
    must("ip", "netns", "exec", lab.director, "ipvsadm", "-A", "-u", "10.0.1.1:53", "-s", "wlc")
    must("ip", "netns", "exec", lab.director, "modprobe", "ip_vs_ftp")
    must("ip", "netns", "exec", lab.director, "sysctl", "-qw", "net.ipv4.vs.expire_nodest_conn=1")
    must("ip", "netns", "exec", lab.director, "sysctl", "-qw", "net.ipv4.conf.eth2.forwarding=1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ftp.toml"
    path.write_text(FTP_TOML)
    return path


@pytest.fixture
def clean(lab: Lab) -> Iterator[dict[str, str]]:
    """The state before; whatever the test applied is rolled back, and the state must be the same again."""
    before = lab.state()
    yield before
    for _ in range(20):
        if (result := lab.ipvsctl("rollback")).status:
            break
    assert result.status == 3, result
    assert lab.state() == before


def ours(lab: Lab) -> str:
    """Services of the director without the administrator's own."""
    lines = lab.on(lab.director, "ipvsadm", "-Sn").stdout.splitlines(keepends=True)
    return "".join(line for line in lines if "10.0.1.1:53" not in line)


def test_every_ftp_mode_passes_and_nothing_else(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    """S8, S13, S14, S17: all four modes fetch the file; other ports of the VIP give no answer at all."""
    assert lab.fetch(url=f"http://{VIP}:8080").status != 28, "the port is open before"
    applied = lab.ipvsctl("apply", str(file))
    assert applied.status == 0, applied.stderr
    assert ours(lab) == SERVICES
    for mode, options in curl_modes():
        result = lab.fetch(*options)
        assert (result.status, result.stdout) == (0, "rs1\n"), f"{mode}: {result.stderr}"
    closed = lab.on(lab.client, "curl", "-sS", "--connect-timeout", "2", f"http://{VIP}:8080")
    assert closed.status == 28, f"a closed port answered: {closed.stderr}"
    assert lab.on(lab.client, "curl", "-sS", "--connect-timeout", "2", "http://10.0.1.1:8080").status != 28


def test_both_servers_serve_in_turn(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    file.write_text(TWO_TOML)
    assert lab.ipvsctl("apply", str(file)).status == 0
    for _, options in curl_modes():
        assert {lab.fetch(*options).stdout for _ in range(2)} == {"rs1\n", "rs2\n"}


def test_ipv6_is_a_family_of_its_own(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    """The same by IPv6: EPSV and EPRT, rules of ip6tables, forwarding of IPv6."""
    lab.serve(lab.rs1, FTP_SERVER, "fd00:2::2", lab.roots["rs1"])
    file.write_text(
        FTP_TOML.replace("10.0.2.2", "[fd00:2::2]:21").replace(f"tcp:{VIP}", f"tcp:[{VIP6}]").replace(VIP, VIP6)
    )
    applied = lab.ipvsctl("apply", str(file))
    assert applied.status == 0, applied.stderr
    for mode, options in curl_modes()[1:4:2]:
        result = lab.fetch(*options, url=f"ftp://[{VIP6}]/name")
        assert (result.status, result.stdout) == (0, "rs1\n"), f"{mode}: {result.stderr}"
    closed = lab.on(lab.client, "curl", "-sS", "--connect-timeout", "2", f"http://[{VIP6}]:8080")
    assert closed.status == 28, f"a closed port answered: {closed.stderr}"
    assert lab.fetch(url=f"http://{VIP}:8080").status != 28, "the IPv4 address is not the business of this file"


def test_twice_changes_nothing_and_drift_is_named_and_mended(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    assert lab.ipvsctl("apply", str(file)).status == 0
    good = lab.state()
    again = lab.ipvsctl("apply", str(file))
    assert (again.status, again.stdout) == (0, "no changes\n")
    assert lab.state() == good
    assert lab.ipvsctl("plan", "--check", str(file)).status == 0
    for hand, expected in (
        (f"ipvsadm -e -t {VIP}:21 -r 10.0.2.2:21 -m -w 7", [f"edit server 10.0.2.2:21 of tcp:{VIP}:21: weight 7 -> 1"]),
        (f"ipvsadm -D -t {VIP}:21", [
            f"add service tcp:{VIP}:21 scheduler rr",
            f"add server 10.0.2.2:21 to tcp:{VIP}:21 forward nat, weight 1",
        ]),
        ("sysctl -qw net.ipv4.vs.conntrack=0", ["set net.ipv4.vs.conntrack = 1 (was 0)"]),
        ("iptables-legacy -D IPVSCTL-FORWARD-DROP -j DROP", ["replace the rules of iptables -t filter"]),
        ("iptables-legacy -t raw -F IPVSCTL-PREROUTING", ["replace the rules of iptables -t raw"]),
        (f"iptables-legacy -I IPVSCTL-INPUT -s 10.9.9.9 -d {VIP} -j ACCEPT",
         ["replace the rules of iptables -t filter"]),
    ):  # fmt: skip
        must("ip", "netns", "exec", lab.director, *hand.split())
        checked = lab.ipvsctl("plan", "--check", str(file))
        assert checked.status == 1, hand
        lines = [line for line in checked.stdout.splitlines() if any(text in line for text in expected)]
        assert len(lines) == len(expected), f"{hand}: {checked.stdout}"
        assert f"{len(expected)} change" in checked.stdout, f"{hand}: {checked.stdout}"
        mended = lab.ipvsctl("apply", str(file))
        assert mended.status == 0, mended.stderr
        assert lab.state() == good, hand


def test_a_plan_that_fails_in_its_last_step_leaves_nothing(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    file.write_text(FTP_TOML.replace('"rr"', '"nosuch"'))
    failed = lab.ipvsctl("apply", str(file))
    assert failed.status == 5
    assert f"add service tcp:{VIP}:21" in failed.stderr
    assert "nosuch" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert lab.state() == clean


def test_a_killed_apply_is_noticed_and_rolled_back(lab: Lab, tmp_path: Path, clean: dict[str, str]) -> None:
    many = [
        f'[[service]]\naddress = "tcp:10.{i // 250}.{i % 250}.1:80"\nscheduler = "rr"\n'
        + "".join(f'[[service.server]]\naddress = "10.0.2.{j}"\nforward = "nat"\n' for j in range(2, 12))
        for i in range(1000)
    ]
    path = tmp_path / "many.toml"
    path.write_text(FTP_TOML + "\n".join(many))
    process = lab.start_ipvsctl("apply", str(path))
    table = Path(f"/proc/{process.pid}/net/ip_vs")
    while table.read_text().count("->") < 100:
        assert process.poll() is None, "the apply was done before it could be killed"
    kill_group(process)
    assert 0 < ours(lab).count("-a ") < 10_000
    told = lab.ipvsctl("list")
    assert told.status == 0
    assert "cut off" in told.stderr, told.stderr
    assert "rollback" in told.stderr
    refused = lab.ipvsctl("service", "add", "tcp:10.9.9.9:80")
    assert refused.status == 1, refused.stderr
    restored = lab.ipvsctl("rollback")
    assert restored.status == 0, restored.stderr
    assert lab.state() == clean
    assert "cut off" not in lab.ipvsctl("list").stderr


def test_an_unconfirmed_apply_undoes_itself(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    """The terminal is gone: the process group is killed as soon as the apply has ended."""
    process = lab.start_ipvsctl("apply", "--confirm", "5s", str(file))
    assert process.wait(60) == 0
    assert ours(lab) == SERVICES
    run("kill", "-HUP", f"-{process.pid}")
    deadline = time.monotonic() + 60
    while lab.state() != clean:
        assert time.monotonic() < deadline, "it was not undone within 60 s"
    assert "not confirmed" in lab.ipvsctl("list").stderr


def test_a_confirmed_apply_stays(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    assert lab.ipvsctl("apply", "--confirm", "30s", str(file)).status == 0
    assert lab.ipvsctl("confirm").status == 0
    assert lab.ipvsctl("confirm").status == 3
    assert ours(lab) == SERVICES


def test_foreign_rules_and_services_stay_and_a_mix_is_told(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    must("ip", "netns", "exec", lab.director, "nft", "add", "table", "inet", "theirs")
    try:
        applied = lab.ipvsctl("apply", "--prune", "--dry-run", str(file))
        assert "delete service udp:10.0.1.1:53" in applied.stdout
        applied = lab.ipvsctl("apply", str(file))
        assert applied.status == 0
        assert "theirs" in applied.stdout + applied.stderr
        after = lab.state()
        kept = [line for line in after["iptables"].splitlines() if "IPVSCTL-" not in line]
        assert kept == clean["iptables"].splitlines()
        assert "10.0.1.1:53" in after["services"]
    finally:
        must("ip", "netns", "exec", lab.director, "nft", "delete", "table", "inet", "theirs")


def test_export_describes_the_director(lab: Lab, file: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    file.write_text(TWO_TOML)
    assert lab.ipvsctl("apply", str(file)).status == 0
    exported = lab.ipvsctl("export")
    assert exported.status == 0, exported.stderr
    again = tmp_path / "again.toml"
    again.write_text(exported.stdout)
    checked = lab.ipvsctl("plan", "--check", "--prune", str(again))
    assert checked.status == 0, checked.stdout


def test_list_as_json_and_inside_the_namespace(lab: Lab, file: Path, clean: dict[str, str]) -> None:
    assert lab.ipvsctl("apply", str(file)).status == 0
    data = json.loads(lab.ipvsctl("-j", "list").stdout)
    mine = next(service for service in data["services"] if service["address"] == f"tcp:{VIP}:21")
    assert mine["servers"][0]["address"] == "10.0.2.2:21"
    status = json.loads(lab.ipvsctl("-j", "nfct", "status").stdout)
    assert status["conntrack"] is True
    assert status["be_liberal"] is True
