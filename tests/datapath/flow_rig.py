"""Two engines that must do the same, with flows and without, and random conversations to hold them against each other.

A round is a random world (services, rules, sysctls, MTUs) and a script of random steps: segments that fit and segments
that do not, time, and whatever an administrator may change. After each step what left and the verdict are compared; at
random ones, and at the end, everything that can be read of either engine, and much that cannot.
"""

from __future__ import annotations

from random import Random
from typing import Any

from ipvsctl.datapath.ct.tcp_window import State
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.skb import ACK, FIN, PSH, RST, SYN, URG
from ipvsctl.formats import iptables_save
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.service import Server, Service
from ipvsctl.model.snapshot import Device, SavedTable, Snapshot
from ipvsctl.model.status import Timeouts
from ipvsctl.wire import icmp, ipv4, tcp
from ipvsctl.wire.address import packed

VIRTUAL, OTHER = "192.168.1.100", "192.168.1.101"
WEB, FTP, SECOND = ServiceAddress.of("tcp", VIRTUAL, 80), ServiceAddress.of("tcp", VIRTUAL, 21), ServiceAddress.of(
    "tcp", OTHER, 80
)  # fmt: skip
SERVERS = ("10.0.2.2", "10.0.2.3", "10.0.2.4")
MASK = 0xFFFFFFFF
ODD = 0x40

STABLE = {
    ("raw", "PREROUTING"): (
        f"-d {VIRTUAL}/32 -p tcp -m tcp --dport 21 -j CT --helper ftp", "-s 10.1.0.9/32 -j NOTRACK", "-j TRACE",
    ),
    ("mangle", "PREROUTING"): ("-i eth0 -j MARK --set-xmark 0x1/0x1", "-m mark --mark 0x1/0x1 -j one", ""),
    ("mangle", "FORWARD"): ("-i eth1 -o eth0 -j one", "-m conntrack --ctdir REPLY", ""),
    ("mangle", "POSTROUTING"): ("-p tcp -m tcp --sport 80", "-s 10.9.0.0/16 -j LOG"),
    ("filter", "INPUT"): (
        "-m state --state RELATED,ESTABLISHED -j ACCEPT",
        f"-d {VIRTUAL}/32 -p tcp -m multiport --dports 21,80 -j ACCEPT",
        f"-d {OTHER}/32 -p tcp -j two", "-m state --state INVALID -j DROP", "",
    ),
    ("filter", "FORWARD"): (
        "-m state --state RELATED,ESTABLISHED -j ACCEPT", "-i eth1 -j two", "-m conntrack --ctstate INVALID",
        f"-m conntrack --ctorigdst {VIRTUAL} -j ACCEPT", "-m addrtype --dst-type UNICAST",
    ),
    ("filter", "OUTPUT"): ("-o eth1 -j two", "-m comment --comment x"),
    ("nat", "POSTROUTING"): ("-s 10.1.0.8/32 -o eth1 -j SNAT --to-source 10.0.2.1",),
}  # fmt: skip
"""Rules whose answer is the same for every packet of a flow. User chains one and two are in every table."""

UNSTABLE = {
    ("raw", "PREROUTING"): ("-p tcp -m tcp --tcp-flags PSH PSH", "-m limit --limit 20/sec"),
    ("mangle", "PREROUTING"): (
        "-m statistic --mode nth --every 3 --packet 0 -j MARK --set-xmark 0x2/0x2", "-m length --length 200:400",
        "-j CONNMARK --restore-mark", "-m connmark --mark 0x4/0x4", "-m ttl --ttl-gt 60",
    ),
    ("mangle", "FORWARD"): (
        "-m statistic --mode random --probability 0.5 -j CONNMARK --set-xmark 0x4/0x4", "-j TTL --ttl-set 64",
        "-m dscp --dscp 0", "-j TOS --set-tos 0x10/0x3f",
    ),
    ("mangle", "POSTROUTING"): ("-j CONNMARK --save-mark", "-m ipvs --ipvs", "-j DSCP --set-dscp 0x0"),
    ("filter", "INPUT"): (
        "-m conntrack --ctexpire 1:200", "-m limit --limit 5/sec --limit-burst 3 -j ACCEPT",
        "-m connbytes --connbytes 500 --connbytes-dir both --connbytes-mode bytes", "-m conntrack --ctstatus ASSURED",
    ),
    ("filter", "FORWARD"): (
        "-p tcp -m tcp --tcp-flags FIN FIN -m connbytes --connbytes 1:1000000 --connbytes-dir original "
        "--connbytes-mode packets", "-m statistic --mode nth --every 5 --packet 0 -j DROP",
    ),
    ("filter", "OUTPUT"): ("-m ipvs --vdir ORIGINAL", "-m conntrack --ctexpire 1:1000"),
}  # fmt: skip

SYSCTLS = {
    "net.ipv4.vs.conntrack": "11110", "net.ipv4.vs.snat_reroute": "10", "net.ipv4.vs.expire_nodest_conn": "01",
    "net.ipv4.vs.conn_reuse_mode": "01", "net.ipv4.vs.nat_icmp_send": "01", "net.ipv4.vs.drop_packet": "003",
    "net.ipv4.vs.secure_tcp": "03", "net.netfilter.nf_conntrack_tcp_be_liberal": "001",
    "net.netfilter.nf_conntrack_tcp_loose": "10", "net.netfilter.nf_conntrack_checksum": "110",
    "net.netfilter.nf_conntrack_acct": "01", "net.ipv4.conf.all.rp_filter": "002",
    "net.netfilter.nf_conntrack_tcp_max_retrans": "330",
}  # fmt: skip
"""Values by chance: each character is one. Longer ones follow."""

LONGER = {
    "net.netfilter.nf_conntrack_tcp_timeout_established": ("432000", "200", "50"),
    "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged": ("300", "20"),
    "net.netfilter.nf_conntrack_tcp_timeout_max_retrans": ("300", "30"),
}


def tables(random: Random, calm: bool) -> tuple[SavedTable, ...]:
    """Random rules; calm ones are stable."""
    unstable = 0.0 if calm else random.choice((0.0, 0.0, 0.02, 0.1))
    text = ""
    for name in ("raw", "mangle", "nat", "filter"):
        if random.random() < (0.2 if name == "nat" else 0.1 if name == "filter" else 0.6):
            continue
        text += f"*{name}\n:one - [0:0]\n:two - [0:0]\n-A one -p tcp -j RETURN\n-A two -p tcp -g one\n"
        for rules, chance in ((STABLE, 0.6), (UNSTABLE, unstable)):
            for (table, chain), lines in rules.items():
                for line in lines:
                    if table == name and random.random() < chance:
                        text += f"-A {chain} {line}\n"
        text += "COMMIT\n"
    return iptables_save.parse(text, INET)


def server(random: Random, address: str, port: int) -> Server:
    """A server with random settings, mostly by nat."""
    forward = random.choice((*("nat",) * 9, "dr", "tun"))
    upper = random.choice((0, 0, 0, 3))
    return Server(ServerAddress.of(address, port), forward, random.choice((1, 1, 2, 0)), upper)


def world(random: Random, calm: bool) -> Snapshot:
    """A director; a calm one has what most have."""
    inner = () if random.random() < 0.1 else ("10.0.2.1/24",)
    outer = (f"{VIRTUAL}/24", f"{OTHER}/32", *(() if inner else ("10.0.2.1/24",)))
    mtu = random.choice((1500, 1500, 1400, 9000))
    devices = (Device("eth0", outer), Device("eth1", inner, mtu))
    routes = [Route("0.0.0.0/0", via="192.168.1.254", mtu=random.choice((0, 0, 0, 1300)))]
    policy = (PolicyRule(INET, 100, mark=2, mask=2, table=100),) if random.random() < 0.2 else ()
    routes += [Route("0.0.0.0/0", "eth0", via="192.168.1.253", table=100)] if policy else []
    wishes = []
    for address in (WEB, FTP, SECOND):
        chosen = SERVERS[: random.randrange(1, 4)]
        servers = tuple(
            Server(ServerAddress.of(each, address.port), "nat") if calm else server(random, each, address.port)
            for each in chosen
        )  # fmt: skip
        persistent = None if calm or random.random() < 0.7 else 50
        wishes.append(ServiceWish(Service(address, random.choice(("rr", "wlc", "sh")), persistent=persistent), servers))
    sysctls = {"net.ipv4.ip_forward": "1", "net.ipv4.vs.conntrack": "1"}
    if not calm:
        sysctls |= {name: random.choice(values) for name, values in SYSCTLS.items() if random.random() < 0.3}
        sysctls |= {name: random.choice(values) for name, values in LONGER.items() if random.random() < 0.3}
    return Snapshot(
        devices, tuple(routes), policy, sysctls, frozenset({"ip_vs_ftp"}), tables(random, calm), tuple(wishes)
    )  # fmt: skip


class Counting(Engine):
    """An engine that counts the packets that went the long way."""

    long = 0

    def long_way(self, device: str, packet: bytes, now: float) -> list[Output]:
        self.long += 1
        return super().long_way(device, packet, now)


class End:
    """One side of a conversation, as it sees itself: what it sends next, and what it has got."""

    def __init__(self, random: Random, address: str, port: int) -> None:
        self.address, self.port = packed(address), port
        near_the_end = random.random() < 0.2
        self.seq = MASK - random.randrange(5000) if near_the_end else random.getrandbits(32)
        self.ack = 0
        self.window = random.choice((8192, 64240, 65535))
        self.ttl = random.choice((64, 64, 64, 2, 128, 255))
        self.identification = random.randrange(65536)


class Talk:
    """A conversation of a client with a virtual address; `server` is who answers, once that is known."""

    def __init__(self, random: Random, number: int) -> None:
        self.random = random
        self.client = End(random, f"10.1.0.{random.randrange(4, 10)}", 4000 + number)
        self.virtual = random.choice((WEB, WEB, WEB, SECOND, FTP))
        self.server = End(random, self.virtual.address, self.virtual.port)
        self.stamped = random.random() < 0.4
        self.scaled = random.random() < 0.3
        self.df = random.random() < 0.8
        self.tos = random.choice((0, 0, 0, 0x10))
        self.sent: list[tuple[str, bytes]] = []
        self.lost = 0

    def build(self, up: bool, flags: int, data: bytes = b"", **odd: Any) -> tuple[str, bytes]:
        """A segment and the device it comes in by; `odd` replaces fields."""
        one, other = (self.client, self.server) if up else (self.server, self.client)
        target = packed(self.virtual.address) if up else other.address
        port = self.virtual.port if up else other.port
        options = b"\1\1\x08\x0a" + self.random.randbytes(8) if self.stamped else b""
        if flags & SYN:
            options += b"\2\4\5\xb4" + (b"\3\3\7\0" if self.scaled else b"")
        options = odd.get("options", options)
        seq, ack = odd.get("seq", one.seq) & MASK, odd.get("ack", one.ack if flags & ACK else 0) & MASK
        body = tcp.build(
            one.address, target, one.port, port, flags & 0x3F, seq, ack, odd.get("window", one.window), data, options
        )  # fmt: skip
        if flags & ~0x3F:
            body[13] |= flags & 0xC0
            tcp.seal(body, one.address, target)
        one.identification = one.identification + 1 & 0xFFFF
        packet = ipv4.build(
            one.address, target, 6, body, odd.get("ttl", one.ttl), odd.get("tos", self.tos), one.identification,
            odd.get("df", self.df), options=odd.get("ip_options", b""),
        )  # fmt: skip
        return ("eth0" if up else self.inside), bytes(packet)

    inside = "eth1"

    def say(self, up: bool, flags: int, data: bytes = b"", **odd: Any) -> tuple[str, bytes]:
        """The next segment of a side, which the other side gets."""
        one, other = (self.client, self.server) if up else (self.server, self.client)
        made = self.build(up, flags, data, **odd)
        one.seq = (one.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & MASK
        if self.random.random() < 0.8:
            other.ack = one.seq
        self.sent = [*self.sent[-5:], made]
        return made


class Round:
    """Two engines of one world, and the script."""

    def __init__(self, seed: object, calm: bool = False) -> None:
        self.random = random = Random(f"flows/{seed}")
        self.calm = calm
        self.snapshot = world(random, calm)
        self.fast, self.slow = (Counting(self.snapshot, Random(f"{seed}").randrange) for _ in range(2))
        self.slow.flows.enabled = False
        self.now = 10.0
        self.talks: list[Talk] = []
        self.kept: list[tuple[str, bytes]] = []
        self.packets = 0
        self.numbers = 0

    def run(self, steps: int) -> None:
        """So many steps of the script."""
        for number in range(steps):
            roll = self.random.random()
            if len(self.talks) < 4 or (roll < 0.02 and len(self.talks) < 12):
                self.open()
            elif roll < (0.02 if self.calm else 0.06):
                self.change()
            elif roll < (0.04 if self.calm else 0.09):
                self.wait()
            elif roll < (0.15 if self.calm else 0.25):
                self.odd(self.random.choice(self.talks))
            else:
                self.speak(self.random.choice(self.talks))
            if self.random.random() < 0.05:
                self.compare(f"step {number}")
        self.now += 100_000.0
        self.poll()
        self.compare("the end")

    # -- both engines -------------------------------------------------------------------------------------------------

    def give(self, made: tuple[str, bytes]) -> list[Output]:
        """A packet for both."""
        self.packets += 1
        self.now += self.random.choice((0.0, 0.0001, 0.01, 0.1))
        one = self.fast.receive(*made, self.now)
        other = self.slow.receive(*made, self.now)
        assert one == other, (made, one, other)
        assert one is self.fast.outputs
        assert (self.fast.verdict, self.fast.now) == (self.slow.verdict, self.slow.now), made
        return one

    def both(self, act: Any) -> None:
        """Something done to both."""
        for engine in (self.fast, self.slow):
            engine.now = self.now
            act(engine)

    def poll(self) -> None:
        """Let both do what is due."""
        found = [engine.poll(self.now) for engine in (self.fast, self.slow)]
        assert found[0] == found[1]

    def compare(self, where: str) -> None:
        """Everything that can be read, and what decides later."""
        for name, read in READERS.items():
            one, other = read(self.fast), read(self.slow)
            assert one == other, (where, name, [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]])

    # -- steps --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """A client opens a connection; now and then with the address and port of an older one."""
        self.numbers += 1
        talk = Talk(self.random, self.numbers)
        old = self.random.choice(self.talks) if self.talks else talk
        if self.random.random() < 0.15:
            talk.client.address, talk.client.port = old.client.address, old.client.port
        self.talks = [*self.talks[-11:], talk]
        self.begin(talk)

    def begin(self, talk: Talk) -> None:
        """Its handshake."""
        outputs = self.give(talk.say(True, SYN))
        if not outputs:
            return
        sent = outputs[0].packet
        if sent[9] == 6 and sent[16:20] != packed(talk.virtual.address) and outputs[0].device != "lo":
            talk.server.address, talk.server.port = sent[16:20], sent[22] << 8 | sent[23]
            talk.inside = outputs[0].device
        talk.client.ack = 0
        talk.server.ack = talk.client.seq
        self.give(talk.say(False, SYN | ACK))
        talk.client.ack = talk.server.seq
        self.give(talk.say(True, ACK))

    def speak(self, talk: Talk) -> None:
        """A few segments as they should be."""
        for _ in range(self.random.randrange(1, 12)):
            up = self.random.random() < 0.5
            size = self.random.choice((0, 0, 1, 7, 100, 100, 101, 536, 1200, 1360, 1460))
            flags = ACK | (PSH if self.random.random() < 0.4 else 0)
            self.give(talk.say(up, flags, self.random.randbytes(size)))
            talk.lost = 0 if self.slow.verdict == "sent" else talk.lost + 1
        if talk.lost > 3:
            self.talks.remove(talk)

    def wait(self) -> None:
        """Time passes, with polls or without."""
        self.now += self.random.choice(
            (0.3, 0.3, 0.3, 2.0, 2.0, 2.0, 2.0, 5.0, 5.0, 31.0, 31.0, 61.0, 130.0, 310.0, 950.0)
        )
        if self.random.random() < 0.7:
            self.poll()

    def odd(self, talk: Talk) -> None:
        """A segment that is not what it should be."""
        random, up = self.random, self.random.random() < 0.5
        one, other = (talk.client, talk.server) if up else (talk.server, talk.client)
        data = random.randbytes(random.choice((0, 10, 33, 500)))
        kind = random.choice(ODDITIES)
        if kind == "again" and talk.sent:
            self.give(random.choice(talk.sent))
        elif kind == "spoilt" and talk.sent:
            device, packet = random.choice(talk.sent)
            spoilt = bytearray(packet)
            spoilt[random.choice((2, 4, 6, 8, 10, 24, 28, 33, 34, 36, 38, len(packet) - 1))] ^= 1 << random.randrange(8)
            self.give((device, bytes(spoilt)))
        elif kind == "other zero":
            device, packet = talk.build(up, ACK, data)
            self.give((device, zeroed(packet)))
        elif kind == "late":
            self.kept.append(talk.say(up, ACK, data))
        elif kind == "early":
            random.shuffle(self.kept)
            for each in self.kept:
                self.give(each)
            self.kept = []
        elif kind == "longer" and talk.sent:
            device, packet = random.choice(talk.sent)
            self.give((device, packet + b"\0" * random.randrange(1, 9)))
        elif kind == "shorter" and talk.sent:
            device, packet = random.choice(talk.sent)
            self.give((device, packet[: random.randrange(len(packet))]))
        elif kind == "elsewhere":
            self.give(("eth1" if up else "eth0", talk.say(up, ACK, data)[1]))
        elif kind == "pieces":
            device, packet = talk.say(up, ACK, random.randbytes(700), df=False)
            for piece in ipv4.fragment(packet, 400):
                self.give((device, bytes(piece)))
        elif kind == "icmp":
            self.give(talk_error(random, talk, up))
        elif kind == "reopen":
            self.begin(talk)
        elif kind == "window":
            one.window = random.choice((0, 1, 500, 4000, 65535))
            self.give(talk.say(up, ACK, window=one.window))
        else:
            flags, odd = {
                "fin": (FIN | ACK, {}), "rst": (RST, {"ack": 0}), "rst ack": (RST | ACK, {}),
                "syn": (SYN, {}), "syn ack": (SYN | ACK, {}), "urg": (ACK | URG, {}), "ece": (ACK | ODD, {}),
                "none": (0, {}), "zero": (ACK, {"window": 0}),
                "ahead": (ACK, {"seq": one.seq + random.choice((1, 70000))}),
                "behind": (ACK, {"seq": one.seq - random.choice((1, 100, 70000))}),
                "half": (ACK, {"seq": one.seq + 2**31}), "future ack": (ACK, {"ack": other.seq + 5}),
                "old ack": (ACK, {"ack": other.seq - random.choice((1, 3000, 66000, 66001, 90000))}),
                "no ack": (PSH, {}), "ttl": (ACK, {"ttl": random.choice((0, 1, 2, 3, 64))}),
                "tos": (ACK, {"tos": random.choice((0, 4, 0x10, 0x28))}), "df": (ACK, {"df": not talk.df}),
                "sack": (ACK, {"options": b"\1\1\5\x0a" + random.randbytes(8)}),
                "ip options": (ACK, {"ip_options": b"\x94\4\0\0"}),
            }.get(kind, (ACK, {}))  # fmt: skip
            self.give(talk.say(up, flags, b"" if flags & (SYN | RST) else data, **odd))
            if flags & (FIN | RST) and random.random() < 0.5:
                self.talks.remove(talk)

    def change(self) -> None:
        """The administrator does something."""
        random = self.random
        address = random.choice((WEB, WEB, FTP, SECOND))
        there = {each.service.address: each for each in self.slow.vs.report()}.get(address)
        made = server(random, random.choice(SERVERS), address.port)
        if self.calm:
            made = Server(made.address, "nat", made.weight)
        servers = {} if there is None else {each.server.address: each.server for each in there.servers}
        kind = random.choice(CHANGES)
        if kind == "server":
            if there is None:
                self.both(lambda engine: engine.vs.add_service(Service(address, "rr")))
            elif made.address not in servers:
                self.both(lambda engine: engine.vs.add_server(address, made))
            elif self.calm or random.random() < 0.5:
                self.both(lambda engine: engine.vs.edit_server(address, made))
            else:
                self.both(lambda engine: engine.vs.delete_server(address, made.address))
        elif kind == "service" and there is not None:
            if not self.calm and random.random() < 0.2:
                self.both(lambda engine: engine.vs.delete_service(address))
            else:
                changed = Service(address, random.choice(("rr", "wlc", "sh")))
                self.both(lambda engine: engine.vs.edit_service(changed))
        elif kind == "sysctl":
            name = random.choice((*SYSCTLS, *LONGER))
            value = random.choice(SYSCTLS.get(name) or LONGER[name])
            self.both(lambda engine: engine.settings.write(name, value))
        elif kind == "rules":
            for table in tables(random, self.calm):
                self.both(lambda engine, table=table: engine.tables.load(table))
        elif kind == "unload":
            name = random.choice(("raw", "mangle", "filter"))
            if name in self.slow.tables.loaded(INET):
                self.both(lambda engine: engine.tables.unload(INET, name))
        elif kind == "zero":
            self.both(lambda engine: engine.vs.zero(address if there is not None else None))
            self.both(lambda engine: engine.tables.zero())
        elif kind == "timeouts":
            wish = Timeouts(random.choice((0, 100, 900)), random.choice((0, 10)), 0)
            self.both(lambda engine: engine.vs.set_timeouts(wish))
        elif kind == "flush":
            self.both(lambda engine: engine.ct.flush())
        elif kind == "kill":
            keys = self.slow.ct.keys()
            if keys:
                key = random.choice(keys)
                self.both(lambda engine: kill(engine, key))
        elif kind == "read":
            self.compare("a reader")
        elif kind == "user":
            self.both(lambda engine: engine.ct.unuse(INET))
            self.both(lambda engine: engine.ct.use(INET))


ODDITIES = (
    "again", "again", "again", "spoilt", "spoilt", "other zero", "late", "late", "early", "early", "longer", "shorter",
    "elsewhere", "pieces", "icmp", "reopen", "window", "fin", "rst", "rst ack", "syn", "syn ack", "urg", "ece", "none",
    "zero", "ahead", "behind", "half", "future ack", "old ack", "no ack", "ttl", "tos", "df", "sack", "ip options",
)  # fmt: skip
CHANGES = (
    "server", "server", "server", "service", "sysctl", "sysctl", "rules", "unload", "zero", "timeouts", "flush", "kill",
    "read", "read", "user",
)  # fmt: skip


def kill(engine: Engine, key: bytes) -> None:
    """End a conntrack entry as conntrack -D does."""
    found = engine.ct.find(key)
    if found is not None:
        engine.ct.kill(found[0])


def zeroed(packet: bytes) -> bytes:
    """The packet with checksums of 0 and 0xffff where identification and urgent pointer can make them so."""
    made = bytearray(packet)
    made[4], made[5] = 0, 0
    ipv4.seal(made)
    made[4:6] = made[10:12]
    made[10:12] = b"\xff\xff" if made[37] & 1 else b"\0\0"
    made[38:40] = made[36:38]
    made[36:38] = b"\xff\xff" if made[11] & 1 else b"\0\0"
    return bytes(made)


def talk_error(random: Random, talk: Talk, up: bool) -> tuple[str, bytes]:
    """An ICMP error about a conversation: of a server's network to the director, or of the client's."""
    if up:
        quoted = bytes(talk.build(False, ACK)[1])[:28]
        rebuilt = packed(talk.virtual.address) + quoted[16:20] + talk.virtual.port.to_bytes(2, "big") + quoted[22:]
        quoted = quoted[:12] + rebuilt
        source, target, device = talk.client.address, packed(talk.virtual.address), "eth0"
    else:
        quoted = talk.build(True, ACK)[1][:28]
        quoted = quoted[:16] + talk.server.address + quoted[20:22] + talk.server.port.to_bytes(2, "big") + quoted[24:]
        source, target, device = talk.server.address, talk.client.address, talk.inside
    head = bytearray(quoted)
    ipv4.seal(head)
    kind, code, rest = random.choice(((3, 1, 0), (3, 4, 1200), (3, 4, 600), (11, 0, 0)))
    body = icmp.build(source, target, kind, code, rest.to_bytes(4, "big"), bytes(head))
    return device, bytes(ipv4.build(source, target, 1, body))


def _tcp(proto: Any) -> object:
    return bytes(proto.packed()) if isinstance(proto, State) else bytes(proto or b"") if proto is not None else None


def _entries(engine: Engine) -> list[object]:
    table = engine.ct._table
    return [
        (key, entry.original, entry.reply, entry.status, entry.expires, entry.mark, entry.packets, entry.octets,
         type(entry.proto), _tcp(entry.proto))
        for key, entry in table.items()
    ]  # fmt: skip


def _conns(engine: Engine) -> list[object]:
    return [
        (conn.caddr, conn.cport, conn.vaddr, conn.vport, conn.daddr, conn.dport, conn.flags, conn.state, conn.timeout,
         conn.expires, conn.in_packets, conn.controls)
        for conn in engine.vs.conns
    ]  # fmt: skip


READERS: dict[str, Any] = {
    "drops": lambda engine: sorted((reason.name, number) for reason, number in engine.drops.items()),
    "conntrack": lambda engine: engine.ct.report(),
    "entries": _entries,
    "connections": lambda engine: engine.vs.connections(),
    "conns": _conns,
    "services": lambda engine: engine.vs.report(),
    "tables": lambda engine: engine.tables.saved(),
    "count": lambda engine: [engine.ct.count, len(engine.vs.conns)],
}
"""What is compared, by name."""
