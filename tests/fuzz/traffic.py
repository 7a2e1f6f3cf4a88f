"""What happens to a director: packets, the host's own packets, time, and the administrator. One random.Random decides.

An event is a value, so that the same events can be given to two engines, and a failure can be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from ipvsctl.model.address import INET, INET6, ServiceAddress
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
from ipvsctl.model.service import Server, Service
from ipvsctl.model.snapshot import SavedTable, Snapshot
from ipvsctl.model.status import Daemon, Timeouts
from tests.fuzz.mutate import mutated
from tests.fuzz.outputs import has_odd_mss, is_fragment, right
from tests.fuzz.packets import Packets, corpus
from tests.fuzz.places import CLIENTS, DEVICES, MARK, OWN, SERVERS, VIPS
from tests.fuzz.rules import HOOKS, Rules
from tests.fuzz.talks import End, Net, Talk, Talks
from tests.fuzz.worlds import any_server, any_service, any_sysctl

_TALKS = 12


class Event(NamedTuple):
    """One thing that happens at a time. `kind`: in, send, poll, change, sysctl, load, flush, zero.

    `clean`: the packet is as a well-behaved host sent it, so its checksums are right.
    """

    kind: str
    at: float
    device: str = ""
    packet: bytes = b""
    mark: int = 0
    change: IpvsChange | None = None
    sysctl: tuple[str, str] = ("", "")
    table: SavedTable | None = None
    clean: bool = False

    def __str__(self) -> str:
        what = self.packet.hex() or self.change or " ".join(self.sysctl).strip() or (self.table and self.table.name)
        return f"{self.at:.3f} {self.kind} {self.device} {what or ''}".rstrip()


@dataclass(slots=True)
class Mood:
    """How a round is: how much of the traffic is spoilt, how much of it belongs to conversations, what may change.

    `pace` seconds between packets; `fragments`: some are cut; `flood`: clients come from everywhere.
    """

    spoilt: float
    talk: float
    changes: float
    pace: float
    fragments: bool
    flood: bool

    @classmethod
    def of(cls, random: Random, calm: bool) -> Mood:
        """A random one; a calm one spoils little."""
        if calm:
            return cls(random.choice((0.0, 0.01, 0.1, 0.3)), 0.95, random.choice((0.0, 0.001, 0.005)),
                       random.choice((0.0001, 0.01, 0.1)), random.random() < 0.3, False)  # fmt: skip
        return cls(
            random.choice((0.0, 0.02, 0.1, 0.3, 0.6, 0.9)), random.choice((0.3, 0.6, 0.9)),
            random.choice((0.0, 0.003, 0.003, 0.03)), random.choice((0.0001, 0.001, 0.01, 0.1, 1.0)),
            random.random() < 0.5, random.random() < 0.15,
        )  # fmt: skip


class Traffic:
    """Events without end."""

    def __init__(self, random: Random, snapshot: Snapshot, rules: Sequence[Rules], calm: bool) -> None:
        self.random = random
        self.mood = Mood.of(random, calm)
        self.net = Net()
        families = tuple({INET6 if ":" in each else INET for device in snapshot.devices for each in device.addresses})
        self.packets = Packets(random, families or (INET,), self.mood.flood)
        self.talks = Talks(random, self.net, self.packets)
        self.at = 1.0
        self._rules = {each.family: each for each in rules}
        self._seen: list[tuple[str, bytes]] = corpus()
        self._open: list[Talk] = []
        self._queue: list[tuple[str, bytes, bool]] = []
        self._port = 20000
        self._services: dict[ServiceAddress, tuple[Service, dict[str, Server]]] = {
            wish.service.address: (wish.service, {str(server.address): server for server in wish.servers})
            for wish in snapshot.services
        }

    def event(self) -> Event:
        """What happens next."""
        random = self.random
        if not self._queue:
            self._pass_time()
            if random.random() < self.mood.changes:
                return self._administrator()
            if random.random() < 0.002:
                return Event("poll", self.at)
            self._speak()
        device, packet, clean = self._queue.pop(0)
        if len(self._seen) < 200:
            self._seen.append((device, packet))
        else:
            self._seen[random.randrange(200)] = device, packet
        mark = MARK if not device and random.random() < 0.1 else 0
        return Event("send" if not device else "in", self.at, device, packet, mark, clean=clean)

    def _pass_time(self) -> None:
        random = self.random
        self.at += self.mood.pace * random.random()
        chance = random.random()
        if chance < 0.0003:
            self.at += random.choice((1000.0, 500000.0))
        elif chance < 0.003:
            self.at += random.choice((1.0, 3.5, 31.0, 61.0, 130.0, 301.0))
        self.at = round(self.at, 5)

    # -- packets ------------------------------------------------------------------------------------------------------

    def _speak(self) -> None:
        random = self.random
        if random.random() < self.mood.talk:
            device, packet = self._talk()
        else:
            device, packet = self._single()
        if random.random() < self.mood.spoilt:
            others = [each for _, each in self._seen[-20:]]
            self._queue.append((device, mutated(random, packet, others), False))
            if random.random() < 0.5:
                return  # Else the right one follows, so that the conversation goes on.
        too_long = len(packet) > 1500 and random.random() < 0.8
        if self.mood.fragments and (too_long or random.random() < 0.05):
            sound = right(packet) and not is_fragment(packet) and not has_odd_mss(packet)
            self._queue += [(device, piece, sound) for piece in self.packets.fragments(packet)]
            return
        self._queue.append((device, packet, not is_fragment(packet)))

    def _talk(self) -> tuple[str, bytes]:
        random = self.random
        while True:
            if not self._open or (len(self._open) < _TALKS and random.random() < 0.2):
                self._open.append(self._new_talk())
            # Those that are spoken with most often get far.
            place = min(random.randrange(len(self._open)), random.randrange(len(self._open)))
            said = next(self._open[place], None)
            if said is not None:
                return said
            del self._open[place]

    def _new_talk(self) -> Talk:
        random = self.random
        services = list(self._services)
        address = random.choice(services) if services and random.random() < 0.85 else None
        family = address.family if address else self.packets.family()
        self._port = 20000 + (self._port - 20000 + random.choice((0, 2, 3))) % 20000
        device = "eth0"
        client = self.packets.address(family, "client"), self._port
        if random.random() < 0.06:
            device, client = random.choice((
                ("", (self.packets.address(family, "own"), self._port)), ("", (bytes(len(client[0])), self._port)),
                ("eth1", (self.packets.address(family, "server"), self._port)),
            ))  # fmt: skip
        protocol = random.choice(("tcp", "tcp", "udp", "sctp"))
        target = self.packets.address(family, random.choice(("server", "service"))), random.choice((80, 21, 21, 443))
        if address is not None:
            protocol = address.protocol if address.protocol != "fwmark" else random.choice(("tcp", "udp"))
            target = self.packets.address(family, "service"), address.port or random.choice((21, 80, 53))
        if random.random() < 0.05:
            return self.talks.echo(device, client[0], target[0])
        if protocol == "udp":
            return self.talks.udp(device, client, target)
        if protocol == "sctp":
            return self.talks.sctp(device, client, target)
        end = End(device, client, target, random.choice((random.getrandbits(32), 0xFFFFFFFF - random.randrange(4000))))
        return self.talks.ftp(end) if target[1] == 21 and random.random() < 0.9 else self.talks.tcp(end)

    def _single(self) -> tuple[str, bytes]:
        random = self.random
        chance = random.random()
        device = random.choice(("eth0", "eth0", "eth0", "eth1", "eth1", *DEVICES, "lo", "", "eth9"))
        if chance < 0.03:
            length = random.choice((0, 1, 19, 20, 39, 40, 60, random.randrange(200)))
            noise = bytearray(random.randbytes(length))
            if noise and random.random() < 0.8:
                noise[0] = random.choice((0x45, 0x60, 0x46, 0x4F, 0x44, 0x65))
            return device, bytes(noise)
        if chance < 0.2 and self.net.recent:
            return self._about_sent()
        if chance < 0.3 and self._seen:
            return random.choice(self._seen)
        if chance < 0.34:
            return self._between_neighbours()
        return device, self.packets.any()

    def _about_sent(self) -> tuple[str, bytes]:
        """An ICMP error about a packet that left the director, or that packet coming back."""
        random = self.random
        device, packet = random.choice(list(self.net.recent))
        four = packet[0] >> 4 == 4
        source, reporter = (packet[12:16], packet[16:20]) if four else (packet[8:24], packet[24:40])
        family = INET if four else INET6
        if random.random() < 0.15:
            return device, packet
        if random.random() < 0.4:
            reporter = self.packets.address(family)
        return device, self.packets.error(family, reporter, source, packet)

    def _between_neighbours(self) -> tuple[str, bytes]:
        """From a server to a client, the other way, or to the host itself."""
        random = self.random
        family = self.packets.family()
        pools = (CLIENTS, SERVERS, OWN, VIPS)
        one, two = random.choice(pools), random.choice(pools)
        device = {id(CLIENTS): "eth0", id(SERVERS): "eth1"}.get(id(one), random.choice(("", "eth0", "lo")))
        source = self.packets.address(family, ("client", "server", "own", "service")[pools.index(one)])
        destination = self.packets.address(family, ("client", "server", "own", "service")[pools.index(two)])
        return device, self.packets.between(family, source, destination)

    # -- the administrator --------------------------------------------------------------------------------------------

    def _administrator(self) -> Event:
        random = self.random
        chance = random.random()
        if chance < 0.2:
            return Event("sysctl", self.at, sysctl=any_sysctl(random))
        if chance < 0.28:
            return Event("flush", self.at)
        if chance < 0.3:
            return Event("zero", self.at)
        if chance < 0.4:
            rules = self._rules[random.choice(self.packets.families)]
            return Event("load", self.at, table=rules.table(random.choice(tuple(HOOKS)), random.choice((0, 1, 3, 8))))
        return Event("change", self.at, change=self._change())

    def _change(self) -> IpvsChange:
        random = self.random
        services = self._services
        kind = random.choice(("service", "server", "server", "server", "server", "timeouts", "daemon"))
        if kind == "daemon":
            return random.choice((StartDaemon, StopDaemon))(Daemon("backup", "eth1"))
        if kind == "timeouts":
            seconds = (0, 0, 1, 30, 900)
            wanted = Timeouts(random.choice(seconds), random.choice(seconds), random.choice(seconds))
            return SetTimeouts(wanted, Timeouts())
        if kind == "service" or not services:
            new = any_service(random, random.choice(self.packets.families))
            known = services.get(new.address)
            if known is None:
                services[new.address] = new, {}
                return AddService(new)
            before, servers = known
            if random.random() < 0.5:
                del services[new.address]
                return DeleteService(before, tuple(servers.values()))
            services[new.address] = new, servers
            return EditService(new, before)
        address, (_, servers) = random.choice(list(services.items()))
        server = any_server(random, address)
        name = str(server.address)
        if name in servers:
            if random.random() < 0.5:
                return DeleteServer(address, servers.pop(name))
            before_server, servers[name] = servers[name], server
            return EditServer(address, server, before_server)
        if servers and random.random() < 0.3:
            return DeleteServer(address, servers.pop(random.choice(list(servers))))
        if random.random() < 0.05:
            return ZeroCounters(address)
        servers[name] = server
        return AddServer(address, server)
