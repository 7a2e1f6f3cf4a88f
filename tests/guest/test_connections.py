"""`connection list` and `watch`, `server drain`, `stats` and `watch` on the real kernel, against what ipvsadm says."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bench.connections_lab import PORT, SERVER, VIP, director, fill, on
from tests.guest.lab import ROOT, Lab, must, run
from tests.guest.lab import VIP as LAB_VIP

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

MANY = 20_000
SERVICE = f"udp:{VIP}:{PORT}"

HOLD = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("ready", flush=True)
    held = []
    while True:
        held.append(server.accept()[0])
"""
"""Takes connections, and keeps each until its client closes it."""

ECHO = """
import socket, sys, threading
def talk(peer):
    while data := peer.recv(100):
        peer.sendall(data)
    peer.close()
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
"""

CLIENT = """
import socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
for _ in range(5):
    peer.sendall(b"x")
    assert peer.recv(1) == b"x"
print("open", peer.getsockname()[1], flush=True)
sys.stdin.readline()
peer.close()
print("closed", flush=True)
sys.stdin.readline()
"""
"""Talks a little, keeps its connection until a line comes, then closes it."""


def ipvsctl(namespace: str, *words: str, status: int = 0) -> str:
    done = run(
        "ip", "netns", "exec", namespace, sys.executable, "-m", "ipvsctl", "--host", "kernel", *words,
        timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.status == status, done
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def rows(namespace: str, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ipvsctl(namespace, "-j", "connection", "list", *words))["connections"]
    return found


@pytest.fixture(scope="module")
def many() -> Iterator[tuple[str, str]]:
    """A director that tracks, with very many connections."""
    with director("many") as (client, name):
        on(name, "iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
        on(name, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1", "net.netfilter.nf_conntrack_udp_timeout=600")
        fill(client, MANY)
        yield client, name


def test_twenty_thousand_are_listed_as_ipvsadm_does(many: tuple[str, str]) -> None:
    _, name = many
    listed = ipvsctl(name, "connection", "list").splitlines()
    known = on(name, "ipvsadm", "-Lnc").splitlines()[2:]
    assert len(known) == MANY
    ours = {tuple(line.split()[1:4]) for line in listed[1:]}
    theirs = {tuple(line.split()[3:6]) for line in known}
    assert ours == theirs
    columns = {tuple(line.split()[6:]) for line in listed[1:]}
    assert columns == {("UNREPLIED", "-", "-", "-")}, columns


def test_filters(many: tuple[str, str]) -> None:
    _, name = many
    (row,) = ipvsctl(name, "connection", "list", "--client", "10.0.1.2", "--state", "UDP").splitlines()[1:][:1]
    assert f"{VIP}:{PORT}" in row
    assert len(ipvsctl(name, "connection", "list", "--service", SERVICE).splitlines()) == MANY + 1
    assert len(ipvsctl(name, "connection", "list", "--server", "10.0.2.3").splitlines()) == 1
    assert len(ipvsctl(name, "connection", "list", "--orphans").splitlines()) == 1


def test_orphans_of_both_sides(many: tuple[str, str]) -> None:
    """An entry that is deleted leaves a connection alone; an entry made before there was a service is alone."""
    client, name = many
    fill(client, 1, port=54)
    ipvsctl(name, "service", "add", f"udp:{VIP}:54", "--scheduler", "rr")
    forget = """
from ipvsctl.kernel.conntrack import KernelConntrack
table = KernelConntrack()
table.delete(next(e for e in table.stream() if e.source_port == 10007 and e.destination_port == 53))
"""
    on(name, sys.executable, "-c", forget)
    found = {row["orphan"]: row for row in rows(name, "--orphans")}
    assert set(found) == {"ipvs", "conntrack"}
    assert found["ipvs"]["client"] == "10.0.1.2:10007"
    assert found["ipvs"]["conntrack"] is None
    assert found["conntrack"]["virtual"] == f"{VIP}:54"
    assert found["conntrack"]["service"] == f"udp:{VIP}:54"
    assert found["conntrack"]["state"] is None


def test_json_and_text_say_the_same(many: tuple[str, str]) -> None:
    _, name = many
    (row,) = [each for each in rows(name, "--client", "10.0.1.2") if each["client"] == "10.0.1.2:12345"]
    assert (row["virtual"], row["server"], row["service"]) == (f"{VIP}:{PORT}", f"{SERVER}:{PORT}", SERVICE)
    assert (row["state"], row["orphan"], row["flags"]) == ("UDP", None, [])
    assert row["conntrack"]["status"] == ["confirmed"]
    assert row["conntrack"]["reply_source"] == f"{SERVER}:{PORT}"


def test_stats_and_watch(many: tuple[str, str]) -> None:
    _, name = many
    found = json.loads(ipvsctl(name, "-j", "stats"))
    assert found["total"]["connections"] == MANY
    assert found["services"][0]["stats"]["packets_in"] == MANY
    assert ipvsctl(name, "stats", "--exact").splitlines()[1].split()[:3] == ["all", str(MANY), str(MANY)]
    looks = [json.loads(line) for line in ipvsctl(name, "watch", "--interval", "0.2", "--count", "2").splitlines()]
    assert [look["services"][0]["servers"][0]["inactive_connections"] for look in looks] == [MANY, MANY]


def test_events_of_connections(many: tuple[str, str]) -> None:
    client, name = many
    watcher = subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, "-m", "ipvsctl", "--host", "kernel", "-j", "connection", "watch"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert watcher.stdout is not None
        event = None
        with selectors.DefaultSelector() as selector:
            selector.register(watcher.stdout, selectors.EVENT_READ)
            for number in range(30):
                # A new client each time: the watcher needs a while to begin to listen.
                fill(client, 1, first=MANY + number)
                if selector.select(2):
                    event = json.loads(watcher.stdout.readline())
                    break
        assert event is not None, watcher.poll()
        assert (event["event"], event["protocol"], event["service"]) == ("new", "udp", SERVICE)
        assert event["reply_source"] == f"{SERVER}:{PORT}"
        watcher.send_signal(signal.SIGTERM)
        _, errors = watcher.communicate(timeout=60)
        assert (watcher.returncode, errors) == (0, "")
    finally:
        watcher.kill()
        watcher.wait()


def test_without_conntrack_it_says_so() -> None:
    with director("plain") as (client, name):
        fill(client, 3)
        done = run(
            "ip", "netns", "exec", name, sys.executable, "-m", "ipvsctl", "--host", "kernel", "connection", "list",
            cwd=ROOT,
        )  # fmt: skip
        assert done.status == 0
        assert len(done.stdout.splitlines()) == 4
        assert "net.ipv4.vs.conntrack is 0" in done.stderr


class Client:
    """A client that keeps a connection open."""

    def __init__(self, lab: Lab, port: int) -> None:
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", lab.client, sys.executable, "-c", CLIENT, LAB_VIP, str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("open"), line + self.process.stdout.read()
        self.port = int(line.split()[1])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "closed\n"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def servers_of(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.ipvsctl("-j", "list").stdout)["services"][0]["servers"]
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("c") as made:
        made.serve(made.rs1, ECHO, "10.0.2.2", "80")
        made.serve(made.rs2, ECHO, "10.0.3.3", "80")
        must("ip", "netns", "exec", made.director, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        yield made


def test_drain_waits_for_an_open_connection(lab: Lab) -> None:
    service = f"tcp:{LAB_VIP}:80"
    for words in (
        ("service", "add", service, "--scheduler", "rr"),
        ("server", "add", service, "10.0.2.2", "--forward", "nat", "--weight", "3"),
    ):
        assert lab.ipvsctl(*words).status == 0
    with Client(lab, 80) as client:
        (row,) = json.loads(lab.ipvsctl("-j", "connection", "list").stdout)["connections"]
        assert (row["client"], row["server"], row["state"]) == (f"10.0.1.2:{client.port}", "10.0.2.2:80", "ESTABLISHED")
        assert lab.ipvsctl("server", "add", service, "10.0.3.3", "--forward", "nat").status == 0

        timed_out = lab.ipvsctl("server", "drain", service, "10.0.2.2", "--wait", "1", "--remove")
        assert timed_out.status == 1, timed_out
        assert "still has 1 active" in timed_out.stderr
        assert "1 ESTABLISHED" in timed_out.stderr
        assert "no call that ends one connection" in timed_out.stderr
        weights = {each["address"]: each["weight"] for each in servers_of(lab)}
        assert weights == {"10.0.2.2:80": 0, "10.0.3.3:80": 1}
        with Client(lab, 80):
            # A new client goes to the other one.
            listed = json.loads(lab.ipvsctl("-j", "connection", "list").stdout)["connections"]
            assert sorted(row["server"] for row in listed) == ["10.0.2.2:80", "10.0.3.3:80"]

        interrupted = lab.start_ipvsctl("server", "drain", service, "10.0.2.2")
        # As soon as it waits its handler is there; before that ^C ends it all the same.
        with pytest.raises(subprocess.TimeoutExpired):
            interrupted.communicate(timeout=15)
        os.kill(interrupted.pid, signal.SIGINT)
        _, errors = interrupted.communicate(timeout=60)
        assert interrupted.returncode == 130, errors
        assert "stays at weight 0, with 1 active left" in errors
        assert "--undrain" in errors

        undrained = lab.ipvsctl("server", "drain", service, "10.0.2.2", "--undrain")
        assert undrained.status == 0, undrained
        weights = {each["address"]: each["weight"] for each in servers_of(lab)}
        assert weights["10.0.2.2:80"] == 3
        client.close()
    removed = lab.ipvsctl("server", "drain", service, "10.0.2.2", "--active", "--wait", "60", "--remove")
    assert removed.status == 0, removed
    assert "drained and removed" in removed.stdout
    assert [each["address"] for each in servers_of(lab)] == ["10.0.3.3:80"]


def test_persistent_clients_come_back_and_drain_says_so(lab: Lab) -> None:
    service = f"tcp:{LAB_VIP}:81"
    for words in (
        ("service", "add", service, "--scheduler", "rr", "--persistent", "60"),
        ("server", "add", service, "10.0.2.2:80", "--forward", "nat"),
    ):
        assert lab.ipvsctl(*words).status == 0
    with Client(lab, 81):
        found = json.loads(lab.ipvsctl("-j", "connection", "list", "--service", service).stdout)["connections"]
        assert sorted("template" in row["flags"] for row in found) == [False, True]
        drained = lab.ipvsctl("-j", "server", "drain", service, "10.0.2.2:80", "--wait", "1")
        assert drained.status == 1
        said = json.loads(drained.stdout)
        assert (said["active_connections"], said["templates"], said["former_weight"]) == (1, 1, 1)
        assert "expire_quiescent_template" in said["why"][-1]
        assert lab.ipvsctl("sysctl", "set", "net.ipv4.vs.expire_quiescent_template", "1").status == 0
        said = json.loads(lab.ipvsctl("-j", "server", "drain", service, "10.0.2.2:80", "--wait", "1").stdout)
        assert said["templates"] == 0
