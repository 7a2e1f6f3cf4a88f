"""What doctor reads of a real network namespace: devices, neighbours, rules of every back end, sockets, sysctl.d."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ipvsctl.kernel import evidence
from ipvsctl.model.facts import Listener
from tests.needs import need_program, need_root

LOOK = """
import json, socket
from ipvsctl.formats.facts import facts_to_dict
from ipvsctl.kernel.evidence import read
held = socket.create_server(("10.0.2.1", 8080))
print(json.dumps(facts_to_dict(read())))
"""


def inside(script: str) -> str:
    """Run shell commands in a network namespace of their own; their output."""
    words = ["unshare", "-n", "sh", "-e", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_namespace(tmp_path: Path) -> None:
    need_root()
    for program in ("unshare", "ip", "iptables-legacy", "nft"):
        need_program(program)
    look = tmp_path / "look.py"
    look.write_text(LOOK)
    text = inside(f"""
        ip link add eth0 type veth peer name peer0
        ip link set eth0 address 02:00:00:00:00:01 mtu 1400 up
        ip addr add 10.0.2.1/24 dev eth0
        ip link add eth1 type veth peer name peer1
        ip -6 addr add 2001:db8::1/64 dev eth1
        ip link set lo up
        ip neigh add 10.0.2.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent
        ip neigh add 10.0.2.3 dev eth0 nud failed
        ip route add default via 10.0.2.2
        ip rule add from 10.0.2.1 lookup 100 priority 90
        iptables-legacy -A INPUT -p tcp --dport 80 -j DROP
        nft 'add table inet other'
        nft 'add chain inet other input {{ type filter hook input priority 0; policy drop; }}'
        nft 'add rule inet other input ct state established,related accept'
        nft 'add rule inet other input iifname "lo" tcp dport {{ 22, 8000-8100 }} counter accept'
        nft add table ip ipvsctl
        PYTHONPATH={Path.cwd()} {sys.executable} {look}
    """)
    facts = json.loads(text)
    links = {link["name"]: link for link in facts["links"]}
    assert links["eth0"]["up"] and links["eth0"]["mtu"] == 1400 and links["eth0"]["mac"] == "02:00:00:00:00:01"
    assert links["eth0"]["addresses"][0]["text"] == "10.0.2.1/24"
    assert not links["eth1"]["up"]
    neighbours = {each["address"]: each for each in facts["neighbours"]}
    assert neighbours["10.0.2.2"] == {
        "address": "10.0.2.2", "device": "eth0", "mac": "02:00:00:00:00:99", "state": "PERMANENT",
    }  # fmt: skip
    assert neighbours["10.0.2.3"]["state"] == "FAILED" and not neighbours["10.0.2.3"]["mac"]
    assert [route["via"] for route in facts["routes"] if route["destination"] == "0.0.0.0/0"] == ["10.0.2.2"]
    assert facts["policy"][0]["source"] == "10.0.2.1/32"
    (table,) = facts["tables"]["iptables-legacy"]
    assert table["name"] == "filter"
    assert facts["nft"] == ["inet other"]
    (chain,) = facts["foreign"]
    assert (chain["table"], chain["name"], chain["hook"], chain["policy"]) == ("inet other", "input", "INPUT", "drop")
    assert [[each["kind"] for each in rule["conditions"]] for rule in chain["rules"]] == [
        ["state"], ["in-device", "protocol", "destination-port"],
    ]  # fmt: skip
    assert chain["rules"][1]["conditions"][2]["values"] == [["22", "22"], ["8000", "8100"]]
    assert {"protocol": "tcp", "address": "10.0.2.1", "port": 8080} in facts["listeners"]
    if os.access("/proc/1/ns/net", os.R_OK):
        assert not facts["initial"]
    assert facts["missing"] == {}


def test_listeners_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = tuple(evidence._listeners(Path("/")))
        assert Listener("tcp", "127.0.0.1", server.getsockname()[1]) in found
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::1", 0))
        assert Listener("udp", "::1", server.getsockname()[1]) in tuple(evidence._listeners(Path("/")))


def test_sysctls_that_are_kept(tmp_path: Path) -> None:
    """Files by name across the folders, a name in a better folder hides the others, /etc/sysctl.conf comes last."""
    for path, text in {
        "usr/lib/sysctl.d/50-a.conf": "net.ipv4.ip_forward = 0\nnet.ipv4.vs.conntrack=0\n",
        "etc/sysctl.d/50-a.conf": "# a comment = 7\n; another = 8\n\nnet.ipv4.ip_forward=1\n",
        "etc/sysctl.d/60-b.conf": "-net/ipv4/conf/eth0.100/rp_filter=2\nnet.ipv4.vs.sync_threshold=3  50\nkernel.x=1\n",
        "etc/sysctl.d/readme": "net.ipv4.vs.conntrack = 9\n",
        "etc/sysctl.conf": "net.ipv4.vs.snat_reroute = 0\nnonsense\n",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert evidence.kept(tmp_path) == {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.conf.eth0/100.rp_filter": "2",
        "net.ipv4.vs.sync_threshold": "3 50",
        "net.ipv4.vs.snat_reroute": "0",
    }
    assert evidence.kept(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(("text", "ports"), [("21\n", (21,)), ("21,2121,0,0\n", (21, 2121)), ("\n", ())])
def test_ports_of_ip_vs_ftp(tmp_path: Path, text: str, ports: tuple[int, ...]) -> None:
    assert evidence._ftp_ports(tmp_path) == ()
    file = tmp_path / "sys/module/ip_vs_ftp/parameters/ports"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert evidence._ftp_ports(tmp_path) == ports


def test_what_cannot_be_read_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipvsctl.errors import Unavailable

    def missing(*_: str) -> str:
        raise Unavailable("iptables-legacy-save is not installed")

    def no_netlink(*_: object) -> object:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(evidence, "existing_tables", lambda family: ["filter"])
    monkeypatch.setattr(evidence.rule_tools, "run", missing)
    monkeypatch.setattr(evidence, "talk", no_netlink)
    facts = evidence.read()
    assert facts.missing["tables"] == "iptables-legacy-save is not installed"
    assert facts.missing["links"] == facts.missing["neighbours"] == "cannot read the kernel: Operation not permitted"
    assert facts.tables == {} and facts.links == () and facts.release
