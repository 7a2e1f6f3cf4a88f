"""Random directors: devices, routes, sysctls, services and rules of the kinds that directors have.

Everything is chosen by one random.Random, so a seed names a director. What is chosen is mostly sensible: a director of
which nothing works shows little.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from ipvsctl.formats import iptables_save
from ipvsctl.formats.snapshot_file import RULES
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.model.status import Timeouts

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq", "fo", "ovf", "lblc", "lblcr")
"""All but twos, which throws dice."""

VIPS = {INET: ("192.168.1.100", "192.168.1.101"), INET6: ("2001:db8::100", "2001:db8::101")}
CLIENTS = {
    INET: ("10.0.1.2", "10.0.1.3", "203.0.113.7", "198.51.100.9"),
    INET6: ("fd00:1::2", "fd00:1::3", "2001:db8:77::7"),
}
SERVERS = {
    INET: ("10.0.2.2", "10.0.2.3", "10.0.3.4"),
    INET6: ("fd00:2::2", "fd00:2::3", "fd00:3::4"),
}
OWN = {INET: ("10.0.1.1", "10.0.2.1"), INET6: ("fd00:1::1", "fd00:2::1")}
PORTS = {"tcp": (80, 443, 21), "udp": (53, 5060), "sctp": (36412,)}
MARK = 7


@dataclass(slots=True)
class Plan:
    """A director, and what the traffic has to know of it. `texts` are rules by program."""

    snapshot: Snapshot
    texts: dict[str, str]
    families: tuple[int, ...]
    services: list[ServiceAddress] = field(default_factory=list)
    marked: dict[int, tuple[str, int]] = field(default_factory=dict)
    gateway: bool = True
    words: list[str] = field(default_factory=list)


def plan(random: Random) -> Plan:
    """A random director."""
    families = random.choice(((INET,), (INET,), (INET,), (INET6,), (INET, INET6)))
    wishes: list[ServiceWish] = []
    for family in families:
        for _ in range(random.randint(1, 2 if len(families) > 1 else 3)):
            wish = _service(random, family)
            if wish.service.address not in {each.service.address for each in wishes}:
                wishes.append(wish)
    texts, modules = _rules(random, families, wishes)
    devices = _devices(random, families)
    routes, policy = _routes(random, families, any(w.service.address.protocol == "fwmark" for w in wishes))
    gateway = random.random() < 0.8
    snapshot = Snapshot(
        devices=devices, routes=routes, policy=policy, sysctls=_sysctls(random, families, gateway),
        modules=frozenset(modules), services=tuple(wishes),
        timeouts=random.choice((Timeouts(), Timeouts(), Timeouts(tcp=90, tcp_fin=20, udp=40))),
    )  # fmt: skip
    tables = tuple(table for program, text in texts.items() for table in iptables_save.parse(text, RULES[program]))
    snapshot = Snapshot(**{name: getattr(snapshot, name) for name in Snapshot.__slots__} | {"tables": tables})
    words = [f"{w.service.address.protocol}/{w.service.scheduler}/"
             f"{'+'.join(sorted({s.forward for s in w.servers})) or 'no server'}" for w in wishes]  # fmt: skip
    return Plan(snapshot, texts, families, [w.service.address for w in wishes], {}, gateway, words)


def _devices(random: Random, families: tuple[int, ...]) -> tuple[Device, ...]:
    def texts(*pairs: str) -> tuple[str, ...]:
        return tuple(text for text in pairs if (INET6 if ":" in text else INET) in families)

    vips = texts("192.168.1.100/32", "192.168.1.101/32", "2001:db8::100/128", "2001:db8::101/128")
    mtu = random.choice((1500, 1500, 1500, 1400, 1280))
    on_lo = random.random() < 0.2
    found = [
        Device("eth0", texts("10.0.1.1/24", "fd00:1::1/64") + (() if on_lo else vips)),
        Device("eth1", texts("10.0.2.1/24", "fd00:2::1/64"), mtu),
        Device("eth2", texts("10.0.3.1/24", "fd00:3::1/64")),
    ]
    if on_lo:
        found.insert(0, Device("lo", vips, 65536))
    return tuple(found)


def _routes(
    random: Random, families: tuple[int, ...], marked: bool
) -> tuple[tuple[Route, ...], tuple[PolicyRule, ...]]:  # fmt: skip
    routes, policy = [], []
    uplinks = random.random() < 0.25
    for family in families:
        every, first, second = (
            ("0.0.0.0/0", "10.0.1.254", "10.0.3.254") if family == INET else ("::/0", "fd00:1::fe", "fd00:3::fe")
        )
        routes.append(Route(every, "eth0", first))
        if uplinks:
            routes.append(Route(every, "eth2", second, 100))
            vip = VIPS[family][0] + ("/32" if family == INET else "/128")
            policy.append(PolicyRule(family, 100, source=vip, table=100))
        if marked:
            routes.append(Route(every, "lo", "", 101, "local"))
            policy.append(PolicyRule(family, 101, mark=MARK, mask=0xFFFFFFFF, table=101))
    return tuple(routes), tuple(policy)


def _sysctls(random: Random, families: tuple[int, ...], gateway: bool) -> dict[str, str]:
    values = {"net.ipv4.ip_forward": "1" if random.random() < 0.95 else "0"}
    if INET6 in families:
        values["net.ipv6.conf.all.forwarding"] = "1"
    values["net.ipv4.vs.conntrack"] = random.choice("01")
    # The limit is a matter of milliseconds, in which no two runs are alike; a scenario of the corpus has it.
    values["net.ipv4.icmp_ratelimit"] = values["net.ipv6.icmp.ratelimit"] = "0"
    if gateway:
        values["net.ipv4.conf.eth1.accept_local"] = "1"
        values["net.ipv4.conf.eth2.accept_local"] = "1"
    for name, choices in (
        ("net.ipv4.vs.snat_reroute", "01"), ("net.ipv4.vs.expire_nodest_conn", "01"),
        ("net.ipv4.vs.expire_quiescent_template", "01"), ("net.ipv4.vs.sloppy_tcp", "01"),
        ("net.ipv4.vs.sloppy_sctp", "01"), ("net.ipv4.vs.conn_reuse_mode", "012"),
        ("net.ipv4.vs.nat_icmp_send", "01"), ("net.ipv4.vs.schedule_icmp", "01"), ("net.ipv4.vs.pmtu_disc", "01"),
        ("net.ipv4.vs.cache_bypass", "01"), ("net.ipv4.vs.secure_tcp", "03"), ("net.ipv4.vs.ignore_tunneled", "01"),
        ("net.netfilter.nf_conntrack_tcp_loose", "01"), ("net.netfilter.nf_conntrack_tcp_be_liberal", "01"),
        ("net.netfilter.nf_conntrack_checksum", "01"), ("net.ipv4.fwmark_reflect", "01"),
        ("net.ipv4.conf.all.rp_filter", "012"), ("net.ipv4.conf.all.send_redirects", "01"),
    ):  # fmt: skip
        if random.random() < 0.15:
            values[name] = random.choice(choices)
    return values


def _service(random: Random, family: int) -> ServiceWish:
    protocol = random.choices(("tcp", "udp", "sctp", "fwmark"), (60, 22, 6, 12))[0]
    port = random.choice(PORTS.get(protocol, (0,)))
    if protocol == "fwmark":
        address = ServiceAddress.of_mark(MARK, family)
    else:
        address = ServiceAddress.of(protocol, random.choice(VIPS[family]), port)
    scheduler = random.choice(SCHEDULERS)
    persistent = random.choice((None, None, None, 60, 360))
    if persistent is not None and protocol != "fwmark" and random.random() < 0.1:
        address = ServiceAddress.of(protocol, address.address, 0)
    netmask: str | int | None = None
    if persistent is not None and random.random() < 0.3:
        netmask = "255.255.255.0" if family == INET else 64
    flags: list[str] = []
    if protocol in ("udp", "fwmark") and random.random() < 0.15:
        flags.append("ops")
    if scheduler in ("sh", "mh"):
        flags += [f"{scheduler}-{word}" for word in ("fallback", "port") if random.random() < 0.4]
    service = Service(address, scheduler, tuple(flags), persistent, netmask)
    count = random.choices((0, 1, 2, 3), (3, 25, 45, 27))[0]
    method = random.choices(("nat", "dr", "tun", ""), (55, 20, 15, 10))[0]
    hosts = list(SERVERS[family])
    if random.random() < 0.06:
        hosts[0] = OWN[family][1]
    if random.random() < 0.03 and family == INET:
        hosts[1] = "127.0.0.1"
    random.shuffle(hosts)
    return ServiceWish(service, tuple(_server(random, host, address, method) for host in hosts[:count]))


def _server(random: Random, host: str, service: ServiceAddress, method: str) -> Server:
    forward = method or random.choice(("nat", "dr", "tun"))
    port = service.port
    if forward == "nat" and service.protocol != "fwmark" and port and random.random() < 0.5:
        port = random.choice((8080, 2121, 5353))
    tunnel = None
    if forward == "tun":
        tunnel = random.choice((
            None, None, Tunnel("gre"), Tunnel("gre", csum="yes"), Tunnel("gue", 6080), Tunnel("gue", 6080, "yes"),
        ))  # fmt: skip
    upper = random.choice((0, 0, 0, 0, 2, 3))
    lower = random.randint(0, 1) if upper else 0
    weight = random.choice((1, 1, 1, 2, 3, 10, 0))
    return Server(ServerAddress.of(host, port), forward, weight, upper, lower, tunnel)


# -- rules ------------------------------------------------------------------------------------------------------------


def _rules(random: Random, families: tuple[int, ...], wishes: list[ServiceWish]) -> tuple[dict[str, str], set[str]]:
    """Texts for iptables-restore, and the modules that go with them."""
    texts: dict[str, str] = {}
    modules: set[str] = set()
    ftp = any(wish.service.address.port == 21 for wish in wishes)
    if ftp and random.random() < 0.7:
        modules |= {"ip_vs_ftp"}
    for family in families:
        tables: dict[str, list[str]] = {}
        if any(wish.service.address.protocol == "fwmark" for wish in wishes):
            vip = VIPS[family][1]
            for protocol in ("tcp", "udp"):
                tables.setdefault("mangle", []).append(
                    f"-A PREROUTING -d {vip} -p {protocol} -m {protocol} --dport 1000:9000 -j MARK --set-mark {MARK}"
                )
        if random.random() < 0.75:
            _recipe(random, family, tables, ftp)
        if random.random() < 0.45:
            _random_rules(random, family, tables)
        if tables:
            texts["iptables" if family == INET else "ip6tables"] = _text(random, tables)
        if any("helper ftp" in rule for rules in tables.values() for rule in rules):
            modules.add("nf_conntrack_ftp")
    return texts, modules


def _text(random: Random, tables: dict[str, list[str]]) -> str:
    lines = []
    for name, rules in tables.items():
        lines.append(f"*{name}")
        used = {word for rule in rules for word in rule.split() if word in ("sub", "deep")}
        lines += [f":{chain} - [0:0]" for chain in sorted(used)]
        lines += rules
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _recipe(random: Random, family: int, tables: dict[str, list[str]], ftp: bool) -> None:
    """Rules as directors have them: those of S14, and translations of addresses."""
    vip = VIPS[family][0]
    helper = f"-A PREROUTING -d {vip} -p tcp -m tcp --dport 21 -j CT --helper ftp"
    match random.randint(0, 5):
        case 0 | 1:
            tables.setdefault("filter", []).extend([
                f"-A INPUT -d {vip} -p tcp -m state --state RELATED,ESTABLISHED -j ACCEPT",
                *(f"-A INPUT -d {vip} -p tcp -m tcp --dport {port} -j ACCEPT" for port in PORTS["tcp"]),
                f"-A INPUT -s {SERVERS[family][0]} -d {vip} -p tcp -j ACCEPT",
                f"-A INPUT -d {vip} -p tcp -j DROP",
                "-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT",
                f"-A FORWARD -s {vip} -p tcp -m tcp --sport 20 -j ACCEPT",
                "-A FORWARD -j DROP",
            ])  # fmt: skip
            if ftp or random.random() < 0.2:
                tables.setdefault("raw", []).append(helper)
        case 2:
            device = random.choice(("eth1", "eth2"))
            tables.setdefault("nat", []).append(f"-A POSTROUTING -o {device} -j MASQUERADE")
        case 3:
            target = SERVERS[family][1]
            tables.setdefault("nat", []).append(
                f"-A PREROUTING -d {VIPS[family][1]} -p tcp -m tcp --dport 8000 -j DNAT --to-destination "
                + (f"{target}:80" if family == INET else f"[{target}]:80")
            )
        case 4:
            own = OWN[family][1]
            tables.setdefault("nat", []).append(f"-A POSTROUTING -o eth1 -j SNAT --to-source {own}")
        case _:
            tables.setdefault("filter", []).append("-A FORWARD -m conntrack --ctstate INVALID -j DROP")


_HOOKS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def _random_rules(random: Random, family: int, tables: dict[str, list[str]]) -> None:
    """Some rules of any table but nat, with any of the matches and targets that the datapath knows."""
    for _ in range(random.randint(1, 5)):
        table = random.choice(tuple(_HOOKS))
        rules = tables.setdefault(table, [])
        chain = random.choice(_HOOKS[table])
        if random.random() < 0.15:
            rules.append(f"-A {chain} {_matches(random, family, table, chain)}-j sub")
            chain = "sub"
        rules.append(f"-A {chain} {_matches(random, family, table, chain)}-j {_target(random, family, table, chain)}")


_CT = ("--ctdir ORIGINAL", "--ctdir REPLY", "--ctstatus ASSURED", "--ctstatus SEEN_REPLY", "--ctproto 6")
_IPVS = ("--ipvs", "! --ipvs", "--vdir ORIGINAL", "--vdir REPLY", "--vport 80", "--vmethod MASQ")


def _matches(random: Random, family: int, table: str, chain: str) -> str:
    words = []
    if random.random() < 0.35:
        pool = (*VIPS[family], *CLIENTS[family], *SERVERS[family])
        words.append(random.choice(("-s", "! -s", "-d", "-d")) + f" {random.choice(pool)}")
    if chain in ("PREROUTING", "INPUT", "FORWARD") and random.random() < 0.25:
        words.append(f"-i {random.choice(('eth0', 'eth1', 'eth+'))}")
    if chain in ("OUTPUT", "FORWARD", "POSTROUTING") and random.random() < 0.2:
        words.append(f"-o {random.choice(('eth0', 'eth1', 'lo'))}")
    protocol = random.choice(("", "", "tcp", "tcp", "udp", "icmp"))
    if protocol == "icmp":
        words.append("-p icmp" if family == INET else "-p ipv6-icmp")
    elif protocol:
        words.append(f"-p {protocol} -m {protocol}")
        if random.random() < 0.7:
            words.append(f"{random.choice(('--dport', '--sport'))} {random.choice((80, 443, 21, 53, 8080, '1024:'))}")
        if protocol == "tcp" and random.random() < 0.2:
            words.append(random.choice(("--syn", "--tcp-flags FIN,SYN,RST,ACK SYN", "--tcp-flags RST RST", "! --syn")))
    states = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
    for chance, text in (
        (0.30, f"-m conntrack --ctstate {','.join(sorted(random.sample(states, random.randint(1, 3))))}"),
        (0.08, f"-m conntrack {random.choice(_CT)}"),
        (0.08, f"-m mark {random.choice(('', '! '))}--mark {random.choice(('0x0', '0x7', '0x10/0xf0'))}"),
        (0.05, f"-m connmark --mark {random.choice(('0x0', '0x7'))}"),
        (0.06, f"-m addrtype {random.choice(('--dst-type LOCAL', '--src-type LOCAL', '! --dst-type LOCAL'))}"),
        (0.05, f"-m length --length {random.choice(('0:60', '61:65535', '40'))}"),
        (0.05, "-m comment --comment \"a rule\""),
        (0.05, "-m helper --helper ftp"),
        (0.05, "-m pkttype --pkt-type unicast"),
        (0.06, f"-m ipvs {random.choice(_IPVS)}" if table != "raw" else ""),
    ):  # fmt: skip
        if random.random() < chance and text:
            words.append(text)
    return "".join(f"{word} " for word in words)


def _target(random: Random, family: int, table: str, chain: str) -> str:
    if chain == "sub":
        return random.choice(("ACCEPT", "RETURN", "DROP"))
    if table == "raw":
        return random.choice(("CT --notrack", "ACCEPT", "ACCEPT", "DROP"))
    if table == "mangle":
        return random.choice((
            f"MARK --set-xmark 0x{random.choice((5, MARK, 16)):x}/0xffffffff", "MARK --or-mark 0x10", "ACCEPT",
            "CONNMARK --save-mark", "CONNMARK --restore-mark", "CONNMARK --set-mark 0x7", "DROP",
        ))  # fmt: skip
    rejects = (
        ("icmp-port-unreachable", "icmp-host-prohibited", "tcp-reset")
        if family == INET
        else ("icmp6-port-unreachable", "icmp6-adm-prohibited", "tcp-reset")
    )
    if random.random() < 0.2:
        return f"REJECT --reject-with {rejects[random.randint(0, 1)]}"
    return random.choice(("ACCEPT", "ACCEPT", "DROP"))
