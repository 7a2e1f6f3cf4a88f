"""What the kernel's schedulers chose: random histories of services, servers and connections, run on a real kernel.

    python -m tests.vm --share DIR -- .venv/bin/python -m tests.datapath.vs_golden /share/vs_golden.json

runs them in the guest and writes tests/datapath/vs_golden.json anew; test_vs_golden.py replays it here. Clients are raw
packets of the guest itself: IPVS schedules them at LOCAL_OUT.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from ipvsctl.datapath.skb import ACK, FIN, RST, SYN
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    SetTimeouts,
)
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Timeouts
from ipvsctl.wire.address import packed, readable

WAIT = 5.0
FIN_TIMEOUT = 2
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr")
SEGMENTS = {"open": SYN, "ack": ACK, "fin": FIN | ACK, "rst": RST}


# -- histories --------------------------------------------------------------------------------------------------------


def cases(seed: int = 6) -> list[dict[str, Any]]:
    """Every scheduler three times, in both families, with marks, thresholds and persistence now and then."""
    random = Random(seed)
    found = []
    for number in range(len(SCHEDULERS) * 5):
        scheduler = SCHEDULERS[number % len(SCHEDULERS)]
        marked = scheduler in ("dh", "lblc", "lblcr") or number % 7 == 0
        flags = []
        if scheduler in ("sh", "mh"):
            flags = [flag for flag in (f"{scheduler}-fallback", f"{scheduler}-port") if random.random() < 0.6]
        found.append({
            "scheduler": scheduler, "flags": flags, "family": 10 if number % 3 == 2 else 2,
            "mark": 100 + number if marked else 0, "port": 1000 + number,
            "persistent": 300 if number % 8 == 5 else None, "netmask": number % 8 == 5 and number % 16 == 5,
            "quiescent": number % 16 == 13, "steps": _steps(random, scheduler, number),
        })  # fmt: skip
    return found


def _steps(random: Random, scheduler: str, number: int) -> list[list[Any]]:
    steps: list[list[Any]] = []
    there: list[int] = []
    opened = 0
    weights = (0, 1, 1, 2, 3, 4, 8) if number % 4 else (0, 5, 10, 10, 100)
    limits = number % 5 == 3

    def settings() -> list[int]:
        upper = random.choice((0, 3, 4, 6)) if limits else 0
        return [random.choice(weights), upper, random.randrange(upper) if upper else 0]

    for server in range(random.randrange(2, 5)):
        steps.append(["add", server, *settings()])
        there.append(server)
    for step in range(90):
        chance = random.random()
        if chance < 0.60 or not opened:
            steps.append(["open", opened])
            opened += 1
        elif chance < 0.78:
            steps.append([random.choice(("ack", "ack", "fin", "rst")), random.randrange(opened)])
        elif chance < 0.86 and there:
            steps.append(["edit", random.choice(there), *settings()])
        elif chance < 0.92 and len(there) < 6:
            server = random.choice([each for each in range(6) if each not in there])
            steps.append(["add", server, *settings()])
            there.append(server)
        elif chance < 0.97 and len(there) > 1:
            server = there.pop(random.randrange(len(there)))
            steps.append(["delete", server])
        elif chance < 0.985 and step % 2:
            steps.append(["service", random.choice(SCHEDULERS) if random.random() < 0.3 else scheduler])
        elif limits and step > 40 and ["wait"] not in steps:
            steps.append(["wait"])
    return steps


def service_of(case: dict[str, Any], scheduler: str | None = None) -> Service:
    family, mark = case["family"], case["mark"]
    if mark:
        address = ServiceAddress.of_mark(mark, family)
    else:
        address = ServiceAddress.of("tcp", "fd99::1" if family == 10 else "10.99.0.1", case["port"])
    netmask: str | int | None = None
    if case["netmask"]:
        netmask = 120 if family == 10 else "255.255.255.0"
    own = scheduler in (None, case["scheduler"])
    return Service(
        address, scheduler or case["scheduler"], tuple(case["flags"]) if own else (), case["persistent"], netmask
    )  # fmt: skip


def server_of(case: dict[str, Any], number: int, weight: int = 1, upper: int = 0, lower: int = 0) -> Server:
    host = f"fd77::{10 + number:x}" if case["family"] == 10 else f"10.77.0.{10 + number}"
    address = ServerAddress.of(host, 0 if case["mark"] else case["port"])
    return Server(address, "dr", weight, upper, lower)


def client_of(case: dict[str, Any], number: int) -> tuple[bytes, int, bytes, int]:
    """Address and port of a client, address and port it asks for: some clients come again, from other ports."""
    random = Random(case["port"] * 1000 + number)
    host = random.randrange(1, 25)
    family = case["family"]
    client = packed(
        f"fd55:{random.randrange(3):x}::{host:x}" if family == 10 else f"172.16.{random.randrange(3)}.{host}"
    )
    place = random.randrange(1, 7) if case["mark"] else 1
    target = packed(f"fd99::{place:x}" if family == 10 else f"10.99.0.{place}")
    return client, 10000 + number * 37 % 50000, target, case["port"]


# -- on the kernel ----------------------------------------------------------------------------------------------------


def run(case: dict[str, Any]) -> str:
    """The case on this kernel: a digit for each client's server, "-" for none."""
    from ipvsctl.kernel.ipvs import KernelIpvs

    port = KernelIpvs()
    port.apply([SetTimeouts(Timeouts(0, FIN_TIMEOUT, 0), Timeouts(900, 120, 300))])
    Path("/proc/sys/net/ipv4/vs/expire_quiescent_template").write_text(str(int(case["quiescent"])))
    service = service_of(case)
    port.apply([AddService(service)])
    names = {
        (readable(client), number): str(client_number)
        for client_number in range(100)
        for client, number, _, _ in [client_of(case, client_number)]
    }
    chosen: dict[str, str] = {}
    for step in case["steps"]:
        kind, rest = step[0], step[1:]
        address = service.address
        if kind == "add":
            port.apply([AddServer(address, server_of(case, *rest))])
        elif kind == "edit":
            port.apply([EditServer(address, server_of(case, *rest), server_of(case, rest[0]))])
        elif kind == "delete":
            port.apply([DeleteServer(address, server_of(case, *rest))])
        elif kind == "service":
            edited = service_of(case, rest[0])
            port.apply([EditService(edited, service)])
            service = edited
        elif kind == "wait":
            _read(case, names, chosen)
            time.sleep(WAIT)
        else:
            _send(case, rest[0], SEGMENTS[kind])
    _read(case, names, chosen)
    port.apply([DeleteService(service, ())])
    opened = sum(step[0] == "open" for step in case["steps"])
    return "".join(
        str(packed(chosen[str(client)])[-1] - 10) if str(client) in chosen else "-" for client in range(opened)
    )


def _send(case: dict[str, Any], number: int, flags: int) -> None:
    client, sport, target, dport = client_of(case, number)
    segment = sport.to_bytes(2) + dport.to_bytes(2) + bytes(8) + bytes((0x50, flags)) + bytes(6)
    if len(client) == 4:
        head = bytes((0x45, 0)) + (40).to_bytes(2) + bytes(4) + bytes((64, 6, 0, 0)) + client + target
        family, level, option = socket.AF_INET, socket.IPPROTO_IP, socket.IP_HDRINCL
    else:
        head = b"\x60\0\0\0" + (20).to_bytes(2) + bytes((6, 64)) + client + target
        family, level, option = socket.AF_INET6, socket.IPPROTO_IPV6, 36
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(level, option, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, case["mark"])
        with suppress(PermissionError):  # IPVS dropped it: no server
            raw.sendto(head + segment, (readable(target), 0))


def _read(case: dict[str, Any], names: dict[tuple[str, int], str], chosen: dict[str, str]) -> None:
    for line in Path("/proc/net/ip_vs_conn").read_text().splitlines()[1:]:
        words = line.split()
        if words[0] != "TCP" or int(words[4], 16) != case["port"] or int(words[2], 16) == 0:
            continue
        name = names.get((_address(words[1]), int(words[2], 16)))
        if name is not None:
            chosen[name] = _address(words[5])


def _address(text: str) -> str:
    return readable(packed(text) if ":" in text else bytes.fromhex(text))


def main() -> None:
    for command in (
        "modprobe ip_vs", "ip link add dummy9 type dummy", "ip link set dummy9 up", "ip link set lo up",
        "ip addr add 10.77.0.1/16 dev dummy9", "ip addr add fd77::1/64 dev dummy9 nodad",
        "ip route add 10.99.0.0/16 dev dummy9", "ip route add fd99::/64 dev dummy9",
    ):  # fmt: skip
        subprocess.run(command.split(), check=True)
    found = [run(case) for case in cases()]
    release = Path("/proc/sys/kernel/osrelease").read_text().strip()
    Path(sys.argv[1]).write_text(json.dumps({"kernel": release, "chosen": found}, indent=0) + "\n")


if __name__ == "__main__":
    main()
