"""The same random changes on the kernel and on the emulator: every outcome in the same words, the same state after.

The tables of the other files say what must happen; this finds what they forgot to ask.
"""

from __future__ import annotations

import random

import pytest

from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.host import Host
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    ZeroCounters,
)
from ipvsctl.model.service import FLAG_BITS, Server, Service, Tunnel, flag_names
from ipvsctl.model.status import Daemon, Timeouts
from tests.conformance.conftest import kernel
from tests.conformance.support import attempt, state

ROUNDS = 15
CHANGES = 80

SERVICES = [
    ServiceAddress.parse(text)
    for text in (
        "tcp:192.0.2.1:80", "udp:192.0.2.1:80", "tcp:192.0.2.1:0", "tcp:[2001:db8::1]:80", "sctp:[2001:db8::1]:80",
        "fwmark:1", "fwmark:1/inet6",
    )
]  # fmt: skip
SERVERS = [
    ServerAddress.of(text, port)
    for text in ("10.0.2.2", "10.0.2.3", "127.0.0.1", "224.0.0.1", "2001:db8::2", "::1", "fe80::9")
    for port in (0, 80)
]
# What is not there is asked for seldom: for each the kernel runs modprobe.
SCHEDULERS = (*("rr", "wlc", "sh", "mh", "none") * 4, "nosuch")
ENGINES = (*(None, None, None, "sip") * 6, "nosuch")
TUNNELS = (None, Tunnel("gue", 6080, "remote"), Tunnel("gre", csum="yes"))


def any_service(dice: random.Random) -> Service:
    address = dice.choice(SERVICES)
    scheduler = dice.choice(SCHEDULERS)
    bits = sum(bit for bit in FLAG_BITS.values() if dice.random() < 0.2)
    masks: dict[int, tuple[str | int | None, ...]] = {INET: (None, "255.255.255.0", "0.0.255.0"), INET6: (None, 64, 1)}
    return Service(
        address,
        scheduler,
        flag_names(bits, scheduler),
        dice.choice((None, 1, 300, 2678400)),
        dice.choice(masks[address.family]),
        dice.choice(ENGINES),
    )


def any_server(dice: random.Random) -> Server:
    forward = dice.choice(("nat", "dr", "tun", "tun", "local", "bypass"))
    upper = dice.choice((0, 0, 1, 2**31 - 1))
    return Server(
        dice.choice(SERVERS),
        forward,
        dice.choice((0, 1, 2**31 - 1)),
        upper,
        dice.choice((0, upper)),
        dice.choice(TUNNELS) if forward == "tun" else None,
    )


def any_daemon(dice: random.Random) -> Daemon:
    return Daemon(
        dice.choice(("master", "backup")),
        dice.choice(("lo", "eth0", "eth1", "nosuch0")),
        dice.randrange(256),
        dice.choice((0, 1, 1024, 65507)),
        dice.choice(("", "", "239.1.2.3", "ff02::5", "10.0.0.1", "2001:db8::1")),
        dice.choice((0, 1024, 65535)),
        dice.choice((0, 255)),
    )


def any_change(dice: random.Random) -> IpvsChange:
    (kind,) = dice.choices(("service", "server", "daemon", "timeouts", "zero"), (30, 60, 8, 1, 1))
    if kind == "service":
        service = any_service(dice)
        adds: tuple[IpvsChange, ...] = (AddService(service), AddService(service))
        return dice.choice((*adds, EditService(service, service), DeleteService(service)))
    if kind == "server":
        address, server = dice.choice(SERVICES), any_server(dice)
        adds = (AddServer(address, server), AddServer(address, server))
        return dice.choice((*adds, EditServer(address, server, server), DeleteServer(address, server)))
    if kind == "daemon":
        daemon = any_daemon(dice)
        return dice.choice((StartDaemon(daemon), StopDaemon(daemon)))
    if kind == "timeouts":
        return SetTimeouts(Timeouts(*(dice.choice((0, 1, 60)) for _ in range(3))), Timeouts())
    return ZeroCounters(dice.choice((None, *SERVICES)))


def play(host: Host, seed: int) -> list[tuple[str, str | None]]:
    """A change at a time: each with its outcome, class and words."""
    dice = random.Random(seed)
    told = []
    for _ in range(CHANGES):
        change = any_change(dice)
        (error,) = attempt(host, change)
        told.append((str(change), None if error is None else f"{type(error).__name__}: {error}"))
    return told


@pytest.mark.guest
def test_the_kernel_and_the_emulator_say_and_have_the_same() -> None:
    refused = set()
    for seed in range(ROUNDS):
        emulated = EmulatedHost()
        with kernel() as real:
            told = play(real, seed)
            assert play(emulated, seed) == told
            assert state(emulated) == state(real)
        refused |= {error.partition(":")[0] for _, error in told if error is not None}
    assert refused == {"AlreadyExists", "NotFound", "Refused"}
