"""Two directors that synchronise: what goes through one is known to the other.

    client 10.0.1.2 --- eth0 10.0.1.1 [director, VIP] eth1 --- 10.0.2.2 rs1
                                          sync0 10.0.9.1 --- 10.0.9.2 sync0 [second]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.lab import ROOT, VIP, Lab, Result, must, run
from tests.guest.test_connections import ECHO, Client

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

SERVICE = f"tcp:{VIP}:80"
SECOND = "s-second"


def second(*words: str) -> Result:
    return run(sys.executable, "-m", "ipvsctl", "--netns", SECOND, *words, cwd=ROOT)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("s") as made:
        try:
            must("ip", "netns", "add", SECOND)
            must("ip", "-n", SECOND, "link", "set", "lo", "up")
            must("ip", "link", "add", "sync0", "netns", made.director, "type", "veth", "peer", "sync0", "netns", SECOND)
            for name, number in ((made.director, 1), (SECOND, 2)):
                must("ip", "-n", name, "addr", "add", f"10.0.9.{number}/24", "dev", "sync0")
                must("ip", "-n", name, "addr", "add", f"fd00:9::{number}/64", "dev", "sync0", "nodad")
                must("ip", "-n", name, "link", "set", "sync0", "up")
            must("ip", "netns", "exec", made.director, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
            made.serve(made.rs1, ECHO, "10.0.2.2", "80")
            for command in (made.ipvsctl, second):
                assert command("service", "add", SERVICE, "--scheduler", "rr").status == 0
                assert command("server", "add", SERVICE, "10.0.2.2", "--forward", "nat").status == 0
            yield made
        finally:
            for command in (made.ipvsctl, second):
                for role in ("master", "backup"):
                    command("sync", "stop", role)
            run("ip", "netns", "delete", SECOND)


def connections(result: Result) -> list[dict[str, Any]]:
    assert result.status == 0, result
    found: list[dict[str, Any]] = json.loads(result.stdout)["connections"]
    return found


def appears(port: int, seconds: float = 120) -> dict[str, Any]:
    """The row of a client's connection on the second director, once it is there."""
    deadline = time.monotonic() + seconds
    while True:
        for row in connections(second("-j", "connection", "list", "--client", "10.0.1.2")):
            if row["client"] == f"10.0.1.2:{port}":
                return row
        assert time.monotonic() < deadline, "it did not appear"


def shown(result: Result) -> list[dict[str, Any]]:
    assert result.status == 0, result
    found: list[dict[str, Any]] = json.loads(result.stdout)["daemons"]
    return found


def test_a_connection_appears_on_the_other_director(lab: Lab) -> None:
    settings = ("--interface", "sync0", "--id", "7", "--group", "224.0.0.99", "--port", "8900", "--ttl", "3",
                "--maxlen", "1400")  # fmt: skip
    assert second("sync", "start", "backup", *settings).status == 0
    started = lab.ipvsctl("sync", "start", "master", *settings)
    assert started.status == 0, started
    wanted = {"interface": "sync0", "id": 7, "group": "224.0.0.99", "port": 8900, "ttl": 3, "maxlen": 1400}
    assert shown(lab.ipvsctl("-j", "sync", "show")) == [{"role": "master", **wanted}]
    assert shown(second("-j", "sync", "show")) == [{"role": "backup", **wanted}]
    again = lab.ipvsctl("sync", "start", "master", *settings)
    assert again.status == 3
    with Client(lab, 80) as client:
        row = appears(client.port)
        assert row["flags"] == ["synced"]
        assert (row["virtual"], row["server"], row["service"]) == (f"{VIP}:80", "10.0.2.2:80", SERVICE)
        assert row["state"] == "ESTABLISHED"
        assert row["orphan"] is None
        (here,) = connections(lab.ipvsctl("-j", "connection", "list", "--client", "10.0.1.2"))
        assert here["flags"] == []
        listed = second("connection", "list", "--client", "10.0.1.2").stdout.splitlines()
        assert listed[1].split()[7] == "synced", listed


def test_over_ipv6_and_stop(lab: Lab) -> None:
    """A group of IPv6; what is stopped is gone, and stopping it twice says so."""
    assert lab.ipvsctl("sync", "stop", "master").status == 0
    assert second("sync", "stop", "backup").status == 0
    assert shown(second("-j", "sync", "show")) == []
    assert second("sync", "stop", "backup").status == 3
    settings = ("--interface", "sync0", "--id", "9", "--group", "ff02::81")
    assert second("sync", "start", "backup", *settings).status == 0
    started = lab.ipvsctl("sync", "start", "master", *settings)
    assert started.status == 0, started
    (daemon,) = shown(second("-j", "sync", "show"))
    assert (daemon["group"], daemon["id"], daemon["port"], daemon["ttl"]) == ("ff02::81", 9, 8848, 1)
    with Client(lab, 80) as client:
        assert appears(client.port)["flags"] == ["synced"]


def test_what_cannot_be_started(lab: Lab) -> None:
    for words, status, text in (
        (("--interface", "nowhere"), 3, "no such device"),
        (("--interface", "sync0", "--group", "10.0.0.1"), 1, "not multicast"),
        (("--interface", "sync0", "--group", "house"), 2, "not an IPv4 or IPv6 address"),
        (("--interface", "sync0", "--id", "256"), 2, "expected 0..255"),
    ):
        result = lab.ipvsctl("sync", "start", "backup", *words)
        assert result.status == status, result
        assert text in result.stderr
