"""Random scenarios, each named by a seed and a number: a director of generate_state.py, and traffic through it.

The datapath itself runs along, so that servers answer what reached them. A scenario that was made is a list of packets
like any other, and says the same whatever the datapath becomes.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ipvsctl.datapath.engine import Engine
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import DeleteServer, EditServer, IpvsChange
from ipvsctl.model.service import Server
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed
from tests.differential.emulated import act, rest
from tests.differential.generate_net import Net
from tests.differential.generate_state import CLIENTS, OWN, SERVERS, VIPS, Plan, plan
from tests.differential.generate_talks import End, Said, Script, Talks
from tests.differential.scenario import Scenario, Step

PACKETS = 40
"""Packets of a scenario, about."""

STEP = 0.02


def generate(seed: int, number: int) -> Scenario:
    """The scenario of a seed and a number."""
    random = Random(f"{seed}/{number}")
    made = plan(random)
    traffic = Traffic(random, made)
    return Scenario(
        f"generated-{seed}-{number}", f"generated, seed {seed} number {number}: {', '.join(made.words)}",
        made.snapshot, tuple(traffic.run(random.randint(PACKETS // 2, PACKETS * 3 // 2))), made.texts,
    )  # fmt: skip


class Traffic:
    """What happens to a director of a plan."""

    def __init__(self, random: Random, made: Plan) -> None:
        self.random = random
        self.plan = made
        self.net = Net()
        self.talks = Talks(random, self.net)
        self.engine = Engine(made.snapshot, Random(0).randrange)
        self.steps: list[Step] = []
        self.at = 0.0
        self.port = 40000
        self.servers: dict[ServiceAddress, dict[str, Server]] = {
            wish.service.address: {str(server.address): server for server in wish.servers}
            for wish in made.snapshot.services
        }

    def run(self, packets: int) -> list[Step]:
        """Steps with about so many packets."""
        scripts: list[Script] = []
        count = 0
        for _ in range(packets * 3):
            if count >= packets:
                break
            chance = self.random.random()
            if chance < 0.02:
                self._change()
                continue
            if chance < 0.025:
                self.at = round(self.at + self.random.choice((1.3, 2.6)), 4)
            if not scripts or (len(scripts) < 4 and self.random.random() < 0.25):
                scripts.append(self._script())
            script = self.random.choice(scripts)
            said = next(script, None)
            if said is None:
                scripts.remove(script)
                continue
            count += self._said(said)
        return self.steps

    def _said(self, said: Said) -> int:
        assert said is not None
        device, packet = said
        chance = self.random.random()
        if chance < 0.015:
            packet = _spoilt(self.random, packet)
        elif chance < 0.03 and packet[0] >> 4 == 4:
            packet = _with_ttl(packet, 1)
        if device == "":
            self._do(Step(self.at, "send", packets=(packet,)))
            return 1
        if len(packet) > 1400 or (len(packet) > 600 and self.random.random() < 0.3):
            pieces = self._pieces(packet)
            self._do(Step(self.at, "in", device, tuple(pieces)))
            return len(pieces)
        self._do(Step(self.at, "in", device, (packet,)))
        return 1

    def _pieces(self, packet: bytes) -> list[bytes]:
        if packet[0] >> 4 == 4:
            data = bytearray(packet)
            data[6] &= ~0x40 & 255
            ipv4.seal(data)
            return [bytes(piece) for piece in ipv4.fragment(data, 576)]
        return [bytes(piece) for piece in ipv6.fragment(packet, 1280, self.net.identification())] or [packet]

    def _do(self, step: Step) -> None:
        self.steps.append(step)
        outputs = act(self.engine, step, self.at)
        self.at = round(self.at + STEP, 4)
        outputs += rest(self.engine, self.at)
        self.net.take(outputs)

    def _change(self) -> None:
        random = self.random
        if random.random() < 0.2:
            self._do(Step(self.at, "sysctl", sysctls=(("net.ipv4.vs.conntrack", random.choice("01")),)))
            return
        address, servers = random.choice(list(self.servers.items()))
        if not servers:
            return
        name, server = random.choice(list(servers.items()))
        change: IpvsChange
        if random.random() < 0.6:
            edited = Server(server.address, server.forward, random.choice((0, 1, 5)), server.upper, server.lower,
                            server.tunnel)  # fmt: skip
            change = EditServer(address, edited, server)
            servers[name] = edited
        else:
            change = DeleteServer(address, server)
            del servers[name]
        self._do(Step(self.at, "change", change=change))

    # -- scripts ------------------------------------------------------------------------------------------------------

    def _script(self) -> Script:
        random = self.random
        kinds: list[tuple[Callable[[], Script], int]] = [
            (self._service, 70), (self._echo, 5), (self._forwarded, 6), (self._error, 10), (self._noise, 9),
            (self._local, 4),
        ]  # fmt: skip
        made = random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        return made()

    def _client(self, family: int) -> tuple[bytes, int]:
        """A client with a port of its own, at times one that was used already."""
        if self.random.random() > 0.15:
            self.port += self.random.randint(2, 5)
        return packed(self.random.choice(CLIENTS[family])), self.port

    def _service(self) -> Script:
        random = self.random
        address = random.choice(self.plan.services)
        client = self._client(address.family)
        protocol, port = address.protocol, address.port
        target = address.address
        if protocol == "fwmark":
            protocol, target, port = random.choice(("tcp", "udp")), VIPS[address.family][1], 3000
        if not port:
            port = random.choice((80, 2000))
        service = packed(target), port
        if protocol == "udp":
            return self.talks.udp("eth0", client, service)
        if protocol == "sctp":
            return self.talks.sctp("eth0", client, service)
        end = End("eth0", client, service, random.getrandbits(32))
        if port == 21 and random.random() < 0.8:
            return self.talks.ftp(end)
        return self.talks.tcp(end)

    def _echo(self) -> Script:
        family = self.random.choice(self.plan.families)
        targets = (*VIPS[family], OWN[family][0], SERVERS[family][0])
        return self.talks.echo("eth0", packed(self.random.choice(CLIENTS[family])), packed(self.random.choice(targets)))

    def _forwarded(self) -> Script:
        """Traffic that is none of IPVS's business."""
        family = self.random.choice(self.plan.families)
        client = self._client(family)
        if self.random.random() < 0.5:
            server = packed(self.random.choice(SERVERS[family][:2])), self.random.choice((80, 22))
            return self.talks.tcp(End("eth0", client, server, self.random.getrandbits(32)))
        host = packed(SERVERS[family][0]), self.port
        return self.talks.udp("eth1", host, (packed(CLIENTS[family][0]), 53))

    def _local(self) -> Script:
        """A process of the director, as a client of a service or of another host."""
        random = self.random
        family = random.choice(self.plan.families)
        services = [each for each in self.plan.services if each.family == family and each.address and each.port]
        target = packed(random.choice(SERVERS[family])), 80
        protocol = "tcp"
        if services and random.random() < 0.7:
            address = random.choice(services)
            target, protocol = (packed(address.address), address.port), address.protocol
        self.port += 2
        source = packed(random.choice((*OWN[family], VIPS[family][0]))), self.port
        if protocol == "udp":
            return self.talks.udp("", source, target)
        return self.talks.tcp(End("", source, target, random.getrandbits(32)))

    def _error(self) -> Script:
        """An ICMP error about something that left the director."""
        random = self.random
        if not self.net.wire:
            return
        device, packet = random.choice(list(self.net.wire))
        if packet[0] >> 4 == 6:
            source, reporter, protocol = packet[8:24], packet[24:40], 58
            kind, code, rest_ = random.choice(((1, 4, bytes(4)), (2, 0, (1280).to_bytes(4, "big")), (3, 0, bytes(4))))
            quoted = packet[:1000]
        else:
            source, reporter, protocol = packet[12:16], packet[16:20], 1
            kind, code, rest_ = random.choice((
                (3, 3, bytes(4)), (3, 1, bytes(4)), (3, 4, b"\0\0" + (1300).to_bytes(2, "big")), (11, 0, bytes(4)),
            ))  # fmt: skip
            quoted = packet[: random.choice(((packet[0] & 15) * 4 + 8, 200, 548))]
        if random.random() < 0.4:
            reporter = packed(("10.0.2.77" if device == "eth1" else "10.0.1.77") if protocol == 1 else "fd00:2::77")
        body = icmp.build(reporter, source, kind, code, rest_, quoted)
        yield device, self.talks.ip(reporter, source, protocol, body)

    def _noise(self) -> Script:
        """Single packets of all kinds."""
        random = self.random
        family = random.choice(self.plan.families)
        source = packed(random.choice(CLIENTS[family]))
        target = packed(random.choice((*VIPS[family], OWN[family][0], SERVERS[family][0])))
        port = random.choice((80, 443, 21, 22, 53, 9999, 20))
        self.port += 1
        match random.randint(0, 4):
            case 0:
                flags = random.getrandbits(6)
                body = tcp.build(source, target, self.port, port, flags, random.getrandbits(32),
                                 random.getrandbits(32), 100, b"noise"[: random.randint(0, 5)])  # fmt: skip
                yield "eth0", self.talks.ip(source, target, 6, body)
            case 1:
                yield "eth0", self.talks.ip(source, target, 17, udp.build(source, target, self.port, port, b"noise"))
            case 2:
                yield "eth0", self.talks.ip(source, target, random.choice((47, 50, 51, 89, 136, 253)), bytes(24))
            case 3:
                # From where the source cannot be.
                yield "eth1", self.talks.ip(source, target, 17, udp.build(source, target, self.port, port, b"lost"))
            case _:
                body = tcp.build(source, target, self.port, port, tcp.SYN, 1, 0, 100)
                yield "eth0", self.talks.ip(source, target, 6, body[: random.randint(1, 19)])


def _spoilt(random: Random, packet: bytes) -> bytes:
    """One byte behind the IP header is wrong."""
    start = 20 if packet[0] >> 4 == 4 else 40
    if len(packet) <= start:
        return packet
    at = random.randrange(start, len(packet))
    return packet[:at] + bytes((packet[at] ^ 1 << random.randrange(8),)) + packet[at + 1 :]


def _with_ttl(packet: bytes, ttl: int) -> bytes:
    data = bytearray(packet)
    data[8] = ttl
    ipv4.seal(data)
    return bytes(data)
