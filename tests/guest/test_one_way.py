"""S18: dr and tun servers that answer past the director, which then sees one direction of every connection.

    client 10.0.1.2 --- eth0 [director, VIP] eth1 --- 10.0.2.2 rs1
           10.0.9.2 --- eth9 ----------------- eth9 --- 10.0.9.1

Every packet after the SYN is INVALID, the conntrack entry stays in SYN_SENT - and the service works all the same,
because the rules of `ipvsctl apply` accept it by its port and drop nothing by state.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.guest.lab import HTTP_SERVER, VIP, must
from tests.guest.matrix_lab import CLOSED, RIP, MatrixLab, director_file, urls

pytestmark = [pytest.mark.guest, pytest.mark.every_kernel, pytest.mark.timeout(600)]

ONE_WAY_TOML = """\
[nfct]
conntrack = {conntrack}

[[service]]
address = "tcp:{VIP}:80"
scheduler = "rr"

[[service.server]]
address = "{RIP}"
forward = "{method}"

[firewall]
backend = "{backend}"
protect = ["{VIP}"]
"""
PROBE = f"""
table inet probe {{
    counter new {{ }}
    counter established {{ }}
    counter invalid {{ }}
    chain input {{
        type filter hook input priority -10
        ip daddr {VIP} tcp dport 80 ct state new counter name new
        ip daddr {VIP} tcp dport 80 ct state established counter name established
        ip daddr {VIP} tcp dport 80 ct state invalid counter name invalid
    }}
}}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatrixLab]:
    with MatrixLab("o", tmp_path_factory.mktemp("one-way"), PROBE) as made:
        words = f"link add eth9 netns {made.client} type veth peer eth9 netns {made.rs1}"
        must("ip", *words.split())
        for name, address in ((made.client, "10.0.9.2/24"), (made.rs1, "10.0.9.1/24")):
            must("ip", "-n", name, "addr", "add", address, "dev", "eth9")
            must("ip", "-n", name, "link", "set", "eth9", "up")
        for device in ("all", "eth0", "eth9"):
            made.sysctl(made.client, f"net.ipv4.conf.{device}.rp_filter", "0")
        must("ip", "-n", made.rs1, "route", "add", "10.0.1.2", "via", "10.0.9.2", "dev", "eth9")
        made.serve(made.rs1, HTTP_SERVER, "::", "80")
        made.foreign_rules()
        yield made


@pytest.fixture
def undone(lab: MatrixLab) -> Iterator[None]:
    yield from lab.undone()


@pytest.mark.parametrize(
    ("method", "backend"),
    [("dr", "iptables-legacy"), ("dr", "nft"), ("tun", "iptables-nft"), ("tun", "iptables-legacy")],
)
def test_the_service_works_in_state_invalid(lab: MatrixLab, undone: None, method: str, backend: str) -> None:
    applied = lab.apply(one_way(method, backend))
    assert "S18" in applied.stdout + applied.stderr, "the one direction is not told"
    lab.counters()
    fetched = lab.fetch(url=f"http://{VIP}/")
    assert (fetched.status, fetched.stdout) == (0, "port 80\n"), f"{fetched}\n{lab.explain()}"
    seen = lab.counters()
    assert (seen["new"], seen["established"]) == (1, 0), "only the SYN is NEW"
    assert seen["invalid"] >= 3, seen
    assert half_open(lab) in range(60, 121), "the entry does not stay in SYN_SENT for 120 s"
    assert lab.open_ports(*urls(VIP, CLOSED)) == [], "other ports are closed"


def test_without_conntrack_no_entry_stays(lab: MatrixLab, undone: None) -> None:
    lab.apply(one_way("dr", "iptables-legacy", conntrack="false"))
    fetched = lab.fetch(url=f"http://{VIP}/")
    assert (fetched.status, fetched.stdout) == (0, "port 80\n"), f"{fetched}\n{lab.explain()}"
    assert half_open(lab) is None


def test_a_rule_that_drops_invalid_packets_in_front_stops_it(lab: MatrixLab, undone: None) -> None:
    """The usual first rule of a firewall; `doctor` names it."""
    lab.apply(one_way("dr", "iptables-legacy"))
    rule = "INPUT -m conntrack --ctstate INVALID -j DROP"
    must("ip", "netns", "exec", lab.director, "iptables-legacy", "-I", *rule.split())
    try:
        stopped = lab.on(lab.client, "curl", "-sS", "--max-time", "4", f"http://{VIP}/")
        assert stopped.status == 28, stopped
        assert "invalid-drops" in lab.findings()
    finally:
        must("ip", "netns", "exec", lab.director, "iptables-legacy", "-D", *rule.split())
    assert lab.fetch(url=f"http://{VIP}/").stdout == "port 80\n"


@pytest.mark.parametrize("method", ["dr", "tun"])
def test_ftp_is_refused_with_the_reason(lab: MatrixLab, undone: None, method: str) -> None:
    """The helper must see both directions: nothing is applied that cannot work."""
    path = lab.folder / "refused.toml"
    path.write_text(director_file(method).replace('accept_local = ["eth1"]', ""))
    refused = lab.ipvsctl("apply", str(path))
    assert refused.status == 2, refused
    assert "S18" in refused.stderr, refused.stderr
    assert "accept_local" in refused.stderr, refused.stderr
    assert len(refused.stderr.splitlines()) == 1, refused.stderr


def one_way(method: str, backend: str, conntrack: str = "true") -> str:
    return ONE_WAY_TOML.format(VIP=VIP, RIP=RIP, method=method, backend=backend, conntrack=conntrack)


def half_open(lab: MatrixLab) -> int | None:
    """Seconds that the conntrack entry of a connection to the service, unreplied and in SYN_SENT, has left."""
    listed = lab.on(lab.director, "conntrack", "-L", "-d", VIP, "-p", "tcp", "--dport", "80").stdout
    found = re.search(r"^tcp +6 (\d+) SYN_SENT .*\[UNREPLIED\]", listed, re.MULTILINE)
    return int(found[1]) if found else None
