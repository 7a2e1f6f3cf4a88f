"""`trace` of a running host: what it says of the real kernel is what the real kernel does.

The NFCT description's FTP example is applied to a director with real FTP servers and a real client; each question is
asked of both, the emulated datapath that starts from the kernel's state, and curl.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.lab import FTP_SERVER, LISTENER, VIP, Lab, curl_modes, ftp_root, must

pytestmark = pytest.mark.guest

FTP_TOML = f"""\
[nfct]
conntrack = true
snat_reroute = true

[[service]]
address = "tcp:{VIP}:21"
scheduler = "rr"
helper = "ftp"
server = [{{ address = "10.0.2.2", forward = "nat" }}]

[firewall]
protect = ["{VIP}"]
forward_policy = "drop"
"""
SESSIONS = {
    "PASV": "ftp-passive", "EPSV": "ftp-extended-passive", "PORT": "ftp-active", "EPRT": "ftp-extended-active",
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    base = tmp_path_factory.mktemp("trace")
    with Lab("t") as made:
        made.serve(made.rs1, FTP_SERVER, "10.0.2.2", ftp_root(base, "rs1"))
        made.serve(made.director, LISTENER, "::", "8080")
        file = base / "ftp.toml"
        file.write_text(FTP_TOML)
        applied = made.ipvsctl("apply", str(file))
        assert applied.status == 0, applied.stderr
        yield made


def trace(lab: Lab, *words: str) -> Any:
    result = lab.ipvsctl("-j", "trace", *words)
    assert result.status == 0, result.stderr
    return json.loads(result.stdout)


def on_director(lab: Lab, line: str) -> str:
    return must("ip", "netns", "exec", lab.director, *line.split())


def counters(lab: Lab, chain: str) -> list[int]:
    """The packets that each rule of a chain of the filter table has counted."""
    saved = on_director(lab, "iptables-legacy-save -c -t filter")
    return [int(packets) for packets in re.findall(rf"(?m)^\[(\d+):\d+\] -A {chain} ", saved)]


def test_a_conversation_ends_as_the_real_one_does(lab: Lab) -> None:
    """S8, S14: with the helper's rule all four ways pass; without it none does, and trace names that rule."""
    said = lab.ipvsctl("trace", "--session", "ftp-passive")
    assert said.status == 0, said.stderr
    assert said.stdout.endswith("complete: 21 packets, every one arrived\n"), said.stdout
    assert f"service tcp:{VIP}:21, server 10.0.2.2:21 by nat" in said.stdout
    for mode, options in curl_modes():
        assert trace(lab, "--session", SESSIONS[mode], "10.0.1.2", f"{VIP}:21")["complete"] is True
        assert lab.fetch(*options).stdout == "rs1\n", mode
    rule = f"-d {VIP} -p tcp -m tcp --dport 21 -j CT --helper ftp"
    on_director(lab, f"iptables-legacy -t raw -D IPVSCTL-PREROUTING {rule}")
    try:
        for mode, options in curl_modes():
            dropped = trace(lab, "--session", SESSIONS[mode], "10.0.1.2", f"{VIP}:21")
            assert dropped["complete"] is False
            assert dropped["mend"] == f"iptables -t raw -A PREROUTING -p tcp -d {VIP} --dport 21 -j CT --helper ftp"
            chain = dropped["steps"][-1]["rule"]["chain"]
            number = dropped["steps"][-1]["rule"]["number"]
            before = counters(lab, chain)
            assert lab.fetch("--max-time", "3", *options).status != 0, mode
            after = counters(lab, chain)
            counted = [index for index, pair in enumerate(zip(before, after, strict=True), 1) if pair[0] != pair[1]]
            assert number in counted, (mode, chain, number, before, after)
    finally:
        on_director(lab, f"iptables-legacy -t raw -A IPVSCTL-PREROUTING {rule}")


def test_a_closed_port_is_dropped_by_the_rule_that_counts(lab: Lab) -> None:
    found = trace(lab, "tcp", "10.0.1.2:40000", f"{VIP}:8080", "--in", "eth0", "--flags", "S")
    assert (found["verdict"], found["reason"]) == ("drop", "rule")
    rule = found["steps"][-1]["rule"]
    before = counters(lab, rule["chain"])
    closed = lab.on(lab.client, "curl", "-sS", "--connect-timeout", "2", f"http://{VIP}:8080")
    assert closed.status == 28, closed.stderr
    after = counters(lab, rule["chain"])
    assert [index for index, pair in enumerate(zip(before, after, strict=True), 1) if pair[0] != pair[1]] == [
        rule["number"]
    ]
    refused = lab.ipvsctl("trace", "tcp", "10.0.1.2", f"{VIP}:8080", "--expect", "accept", "-q")
    assert refused.status == 1
    # The director's own address is not protected.
    assert trace(lab, "tcp", "10.0.1.2", "10.0.1.1:8080")["words"][:2] == ["accept", "local"]


def test_a_saved_state_is_traced_as_the_host_was(lab: Lab, tmp_path: Path) -> None:
    saved = lab.ipvsctl("export", "--state")
    assert saved.status == 0, saved.stderr
    file = tmp_path / "state.toml"
    file.write_text(saved.stdout)
    for words in (
        ("--session", "ftp-active", "10.0.1.2", VIP), ("tcp", "10.0.1.2", f"{VIP}:80"),
        ("tcp", "10.0.2.2:21", "10.0.1.2:40000", "--state", "ESTABLISHED"), ("icmp", "10.0.1.2", VIP),
    ):  # fmt: skip
        assert trace(lab, *words) == trace(lab, *words, "--file", str(file)), words
