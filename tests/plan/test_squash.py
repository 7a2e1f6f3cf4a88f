"""Of a long series of undo entries some are enough: what the emulator holds afterwards is the judge."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    Change,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    SetSysctl,
    SetTimeouts,
)
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Timeouts
from ipvsctl.plan.execute import inverses, run, undo
from ipvsctl.plan.squash import squash

SERVICES = [ServiceAddress.parse(f"tcp:192.0.2.1:{port}") for port in (80, 81)]
SERVERS = ("10.0.0.2", "10.0.0.3")
SYSCTLS = ("net.ipv4.vs.drop_entry", "net.ipv4.ip_forward", "net.ipv4.conf.eth0.forwarding")


def server(text: str, service: ServiceAddress, weight: int) -> Server:
    return Server(ServerAddress.parse(text, service), "nat", weight)


def possible(host: EmulatedHost, dice: random.Random) -> Change:
    """Any one change that the host would take."""
    found = {status.service.address: status for status in host.ipvs.services()}
    choices: list[Change] = []
    for address in SERVICES:
        new = Service(address, dice.choice(("rr", "wlc")))
        if address not in found:
            choices.append(AddService(new))
            continue
        status = found[address]
        servers = {each.server.address: each.server for each in reversed(status.servers)}
        choices += [DeleteService(status.service, tuple(servers.values())), EditService(new, status.service)]
        for text in SERVERS:
            wish = server(text, address, dice.randrange(100))
            if wish.address in servers:
                old = servers[wish.address]
                choices += [EditServer(address, wish, old), DeleteServer(address, old)]
            else:
                choices.append(AddServer(address, wish))
    for name in SYSCTLS:
        before = host.sysctl.get(name)
        resets = ()
        if name == "net.ipv4.ip_forward":
            other = SYSCTLS[2]
            resets = ((other, str(host.sysctl.get(other))),)
        choices.append(SetSysctl(name, str(dice.randrange(2)), before, resets))
    choices.append(SetTimeouts(Timeouts(tcp=dice.randrange(1, 900)), host.ipvs.timeouts()))
    return dice.choice(choices)


def state(host: EmulatedHost) -> object:
    services = {
        status.service.address: (status.service, {server.server for server in status.servers})
        for status in host.ipvs.services()
    }
    return services, host.ipvs.timeouts(), [host.sysctl.get(name) for name in SYSCTLS]


@pytest.fixture
def hosts() -> Iterator[tuple[EmulatedHost, EmulatedHost]]:
    made = EmulatedHost("all"), EmulatedHost("needed")
    for host in made:
        host.modules.load("ip_vs")
    yield made
    for host in made:
        host.close()


@pytest.mark.parametrize("seed", range(60))
def test_what_is_needed_ends_where_all_ends(seed: int, hosts: tuple[EmulatedHost, EmulatedHost]) -> None:
    dice = random.Random(seed)
    everything, needed = hosts
    entries: list[Change] = []
    start: object = None
    for step in range(40 + seed):
        if step == seed % 40:
            # Whatever was there by then is what has to come back.
            entries, start = [], state(everything)
        change = possible(everything, dice)
        for host in hosts:
            run([change], host)
        entries[:0] = [entry for _, entry in inverses([change])]
    assert state(needed) == state(everything)
    places = squash(entries)
    assert places == sorted(places)
    assert undo(list(enumerate(entries)), everything) == []
    assert undo([(place, entries[place]) for place in places], needed) == []
    assert state(everything) == start
    assert state(needed) == start


def test_a_weight_that_is_set_again_and_again_leaves_one_entry() -> None:
    weights = [server("10.0.0.2", SERVICES[0], weight) for weight in range(1000)]
    changes = [EditServer(SERVICES[0], new, old) for old, new in pairwise(weights)]
    entries = [entry for _, entry in inverses(changes)]
    assert [entries[place] for place in squash(entries)] == [EditServer(SERVICES[0], weights[0], weights[1])]


def test_servers_and_services_that_come_and_go_leave_few_entries() -> None:
    service, one = Service(SERVICES[0], "rr"), server("10.0.0.2", SERVICES[0], 1)
    changes: list[Change] = []
    for _ in range(100):
        changes += [AddService(service), AddServer(service.address, one), DeleteServer(service.address, one)]
        changes += [DeleteService(service)]
    entries = [entry for change in reversed(changes) for entry in change.inverse()]
    assert [entries[place] for place in squash(entries)] == [DeleteService(service)]
    entries = entries[:-1]  # The first change was not to add it: it was there.
    assert len(squash(entries)) <= 4


def test_forwarding_sets_others_and_counts_every_time() -> None:
    entries = [SetSysctl("net.ipv4.ip_forward", str(number % 2), str(number)) for number in range(10)]
    assert squash(entries) == [*range(10)]
    assert squash([SetSysctl("net.ipv4.vs.drop_entry", "1", "0")] * 3) == [2]
