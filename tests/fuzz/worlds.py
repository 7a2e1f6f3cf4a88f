"""Random directors of all kinds: every forwarding method, scheduler, family, rule and sysctl, sensible or not."""

from __future__ import annotations

from random import Random

from ipvsctl.datapath.engine import Engine
from ipvsctl.formats import iptables_save
from ipvsctl.knowledge.sysctls import SYSCTLS
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.service import SCHEDULER_FLAGS, Server, Service, Tunnel
from ipvsctl.model.snapshot import Device, SavedTable, Snapshot
from ipvsctl.model.status import Timeouts
from tests.fuzz.places import GUE, MARK, OWN, PORTS, SERVERS, VIPS
from tests.fuzz.rules import Rules

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "dh", "mh", "sed", "nq", "fo", "ovf", "lblc", "lblcr", "twos")

_SWITCHES = (
    ("net.ipv4.vs.conntrack", "01"), ("net.ipv4.vs.snat_reroute", "01"), ("net.ipv4.vs.expire_nodest_conn", "01"),
    ("net.ipv4.vs.expire_quiescent_template", "01"), ("net.ipv4.vs.sloppy_tcp", "01"),
    ("net.ipv4.vs.sloppy_sctp", "01"), ("net.ipv4.vs.conn_reuse_mode", "012"), ("net.ipv4.vs.nat_icmp_send", "01"),
    ("net.ipv4.vs.schedule_icmp", "01"), ("net.ipv4.vs.pmtu_disc", "01"), ("net.ipv4.vs.cache_bypass", "01"),
    ("net.ipv4.vs.secure_tcp", "0123"), ("net.ipv4.vs.drop_entry", "0123"), ("net.ipv4.vs.drop_packet", "0123"),
    ("net.ipv4.vs.ignore_tunneled", "01"), ("net.ipv4.vs.backup_only", "01"),
    ("net.netfilter.nf_conntrack_tcp_loose", "01"), ("net.netfilter.nf_conntrack_tcp_be_liberal", "01"),
    ("net.netfilter.nf_conntrack_checksum", "01"), ("net.netfilter.nf_conntrack_acct", "01"),
    ("net.netfilter.nf_conntrack_helper", "01"), ("net.ipv4.fwmark_reflect", "01"), ("net.ipv6.fwmark_reflect", "01"),
    ("net.ipv4.conf.all.rp_filter", "012"), ("net.ipv4.conf.all.send_redirects", "01"),
    ("net.ipv4.conf.all.accept_local", "01"), ("net.ipv4.conf.all.route_localnet", "01"),
    ("net.ipv4.conf.all.src_valid_mark", "01"), ("net.ipv4.ip_nonlocal_bind", "01"),
)  # fmt: skip
_NUMBERS = (
    ("net.netfilter.nf_conntrack_max", ("1", "5", "40", "200")),
    ("net.netfilter.nf_conntrack_expect_max", ("1", "3")),
    ("net.netfilter.nf_conntrack_tcp_timeout_established", ("5", "60")),
    ("net.netfilter.nf_conntrack_udp_timeout", ("1", "30")),
    ("net.ipv4.ipfrag_high_thresh", ("2000", "20000")),
    ("net.ipv4.ipfrag_max_dist", ("0", "1", "4")),
    ("net.ipv4.ipfrag_time", ("1", "5")),
    ("net.ipv6.ip6frag_high_thresh", ("2000", "20000")),
    ("net.netfilter.nf_conntrack_frag6_high_thresh", ("2000", "20000")),
    ("net.ipv4.vs.amemthresh", ("2147483647", "0")),
    ("net.ipv4.vs.am_droprate", ("1", "3", "0")),
    ("net.ipv4.icmp_ratelimit", ("0", "1", "100000")),
    ("net.ipv4.icmp_msgs_per_sec", ("0", "1", "100")),
    ("net.ipv4.icmp_msgs_burst", ("0", "1", "5")),
    ("net.ipv4.ip_default_ttl", ("1", "255")),
    ("net.ipv4.icmp_errors_use_inbound_ifaddr", ("0", "1")),
    ("net.ipv4.icmp_echo_ignore_broadcasts", ("0", "1")),
    ("net.ipv4.icmp_ratemask", ("0", "4294967295")),
    ("net.ipv6.icmp.ratelimit", ("0", "1000000")),
    ("net.ipv6.icmp.ratemask", ("0-255", "1,3-4")),
    ("net.ipv6.conf.eth1.disable_ipv6", ("0", "1")),
    ("net.ipv4.ip_unprivileged_port_start", ("0", "65535")),
)
_ROWS = tuple(row for row in SYSCTLS.values() if row.writable and row.kind != "cpulist" and row.kind != "pair")


def world(random: Random, calm: bool = False) -> Snapshot:
    """A random director; a `calm` one mostly works, so that conversations get far."""
    if calm:
        return _calm(random)
    families = random.choice(((INET,), (INET,), (INET6,), (INET, INET6), (INET, INET6)))
    services: dict[ServiceAddress, ServiceWish] = {}
    for family in families:
        for _ in range(random.randint(0, 4)):
            wish = service_wish(random, family)
            services[wish.service.address] = wish
    bare = Snapshot(_devices(random, families), *_routes(random, families), sysctls=_sysctls(random))
    tables: list[SavedTable] = []
    if random.random() < 0.75:
        scratch = Engine(bare, random.randrange)
        for family in families:
            tables += Rules(random, family, scratch).tables(random.choice((2, 6, 12)))
    return Snapshot(
        bare.devices, bare.routes, bare.policy, bare.sysctls,
        frozenset(name for name in ("ip_vs_ftp", "nf_conntrack_ftp", "nf_nat_ftp") if random.random() < 0.7),
        tuple(tables), tuple(services.values()),
        random.choice((Timeouts(), Timeouts(), Timeouts(tcp=90, tcp_fin=20, udp=40), Timeouts(1, 1, 1))),
    )  # fmt: skip


def _calm(random: Random) -> Snapshot:
    # LVS-NAT of plain TCP over IPv4 with conntrack is what takes the short way.
    short = random.random() < 0.4
    families = (INET,) if short else random.choice(((INET,), (INET,), (INET6,), (INET, INET6)))
    services: dict[ServiceAddress, ServiceWish] = {}
    for family in families:
        for at in range(random.randint(1, 3)):
            address = ServiceAddress.of("tcp", VIPS[family][at % 2], (80, 443)[at // 2]) if short else None
            service = any_service(random, family, address)
            method = "nat" if short else random.choice(("nat", "nat", "nat", "dr", "tun"))
            servers = tuple(_good_server(random, service.address, host, method) for host in SERVERS[family])
            services[service.address] = ServiceWish(service, servers[: random.randint(1, 3)])
    texts: dict[str, str] = {}
    tables: list[SavedTable] = []
    for family in families:
        vip, own = VIPS[family][0], OWN[family][1]
        everyone = random.choice(("", f"-d {vip} "))
        texts["raw"] = f"-A PREROUTING {everyone}-p tcp -m tcp --dport 21 -j CT --helper ftp"
        target = SERVERS[family][0] if family == INET else f"[{SERVERS[family][0]}]"
        texts["filter"] = (
            f"-A INPUT -d {vip} -m state --state RELATED,ESTABLISHED -j ACCEPT\n"
            "-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\n"
        )
        texts["mangle"] = f"-A PREROUTING -d {VIPS[family][1]} -p tcp -j MARK --set-mark {MARK}"
        texts["nat"] = random.choice((
            "", "-A POSTROUTING -o eth1 -j MASQUERADE", f"-A POSTROUTING -o eth1 -j SNAT --to-source {own}",
            f"-A PREROUTING -d {vip} -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 80",
            f"-A PREROUTING -d {VIPS[family][1]} -p tcp -j DNAT --to-destination {target}",
            f"-A PREROUTING -d {VIPS[family][1]} -p tcp -m tcp --dport 21 -j DNAT --to-destination {target}:21\n"
            "-A POSTROUTING -o eth1 -j MASQUERADE",
        ))  # fmt: skip
        for name, text in texts.items():
            if random.random() < (0.9 if name in ("raw", "filter") else 0.4):
                tables += iptables_save.parse(f"*{name}\n{text}\nCOMMIT\n", family)
    devices = tuple(
        Device(name, tuple(f"{OWN[family][at]}/{24 if family == INET else 64}" for family in families)
               + (_vips(families) if not at else ()),
               random.choice((1500, 1500, 1280)))
        for at, name in enumerate(("eth0", "eth1", "eth2"))
    )  # fmt: skip
    routes = [Route("0.0.0.0/0", "eth0", "10.0.1.254"), Route("::/0", "eth0", "fd00:1::fe")]
    policy = []
    for family, every in ((INET, "0.0.0.0/0"), (INET6, "::/0")):
        if random.random() < 0.5:
            routes.append(Route(every, "lo", "", 101, "local"))
            policy.append(PolicyRule(family, 101, mark=MARK, mask=0xFFFFFFFF, table=101))
    values = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
    values["net.ipv4.vs.conntrack"] = "1" if short else random.choice("0111")
    for name in ("eth1", "eth2"):
        values[f"net.ipv4.conf.{name}.accept_local"] = "1"
    for name, choices in _SWITCHES:
        if random.random() < 0.03:
            values[name] = random.choice(choices)
    return Snapshot(
        devices, tuple(routes), tuple(policy), values, frozenset(("ip_vs_ftp", "nf_conntrack_ftp", "nf_nat_ftp")),
        tuple(tables), tuple(services.values()),
    )  # fmt: skip


def _good_server(random: Random, service: ServiceAddress, host: str, forward: str) -> Server:
    port = 8080 if forward == "nat" and service.port == 80 else service.port
    tunnel = random.choice(_TUNNELS) if forward == "tun" else None
    return Server(ServerAddress.of(host, port), forward, random.randint(1, 3), tunnel=tunnel)


def _vips(families: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{vip}/{32 if family == INET else 128}" for family in families for vip in VIPS[family])


def _devices(random: Random, families: tuple[int, ...]) -> tuple[Device, ...]:
    def addresses(number: int) -> tuple[str, ...]:
        return tuple(
            f"{OWN[family][number]}/{24 if family == INET else 64}" for family in families if random.random() < 0.97
        )

    def mtu() -> int:
        return random.choice((1500, 1500, 1500, 1280, 9000, 65535) if INET6 in families else (1500, 1500, 576, 100, 68))

    vips = _vips(families)
    if INET6 in families and random.random() < 0.4:
        vips += ("fe80::1/64",)
    on_lo = random.random() < 0.2
    hosts: tuple[str, ...] | None = None
    if random.random() < 0.25:
        hosts = tuple(server for family in families for server in SERVERS[family][:2])
    found = [
        Device("eth0", addresses(0) + (() if on_lo else vips), mtu()),
        Device("eth1", addresses(1), mtu(), hosts),
        Device("eth2", addresses(2), mtu()),
    ]
    if on_lo or random.random() < 0.1:
        found.insert(0, Device("lo", vips if on_lo else (), random.choice((65536, 65536, 1500))))
    return tuple(found)


def _routes(random: Random, families: tuple[int, ...]) -> tuple[tuple[Route, ...], tuple[PolicyRule, ...]]:
    routes: list[Route] = []
    policy: list[PolicyRule] = []
    for family in families:
        every, first, second, odd = (
            ("0.0.0.0/0", "10.0.1.254", "10.0.3.254", ("10.7.0.0/16", "10.8.0.0/16", "10.9.0.0/16"))
            if family == INET
            else ("::/0", "fd00:1::fe", "fd00:3::fe", ("fd07::/16", "fd08::/16", "fd09::/16"))
        )
        if random.random() < 0.85:
            routes.append(Route(every, "eth0", first, mtu=random.choice((0, 0, 0, 1400))))
        for prefix in odd:
            routes.append(Route(prefix, kind=random.choice(("blackhole", "unreachable", "prohibit", "throw"))))
        if random.random() < 0.3:
            routes.append(Route(every, "eth2", second, 100))
            policy.append(PolicyRule(family, 100, source=VIPS[family][0], table=100))
        if random.random() < 0.4:
            routes.append(Route(every, "lo", "", 101, "local"))
            policy.append(PolicyRule(family, 101, mark=MARK, mask=0xFFFFFFFF, table=101))
        if random.random() < 0.15:
            policy.append(PolicyRule(
                family, 102, destination=random.choice((*SERVERS[family], *VIPS[family])),
                in_device=random.choice(("", "eth0", "lo")),
                action=random.choice(("blackhole", "unreachable", "prohibit")),
            ))  # fmt: skip
    return tuple(routes), tuple(policy)


def _sysctls(random: Random) -> dict[str, str]:
    values = {"net.ipv4.ip_forward": "1" if random.random() < 0.95 else "0"}
    values["net.ipv6.conf.all.forwarding"] = "1" if random.random() < 0.95 else "0"
    values["net.ipv4.vs.conntrack"] = random.choice("01")
    for device in ("eth1", "eth2"):
        values[f"net.ipv4.conf.{device}.accept_local"] = random.choice("011")
    for name, choices in _SWITCHES:
        if random.random() < 0.12:
            values[name] = random.choice(choices)
    for name, numbers in _NUMBERS:
        if random.random() < 0.08:
            values[name] = random.choice(numbers)
    return values


def any_sysctl(random: Random) -> tuple[str, str]:
    """A sysctl and a value that the kernel takes: mostly a switch, at times any at all with a value at its edge."""
    chance = random.random()
    if chance < 0.6:
        name, choices = random.choice(_SWITCHES)
        return name, random.choice(choices)
    if chance < 0.8:
        name, numbers = random.choice(_NUMBERS)
        return name, random.choice(numbers)
    row = random.choice(_ROWS)
    name = row.name.replace("*", random.choice(("all", "default", "eth0", "eth1", "lo")))
    if row.kind == "power":
        return name, str(1 << random.randrange(16))
    edges = [row.lowest, row.highest, *(value for value in (-1, 0, 1, 2, 100) if row.lowest <= value <= row.highest)]
    if row.default is not None:
        edges += [int(row.default)] * 3
    return name, str(random.choice(edges))


# -- services ---------------------------------------------------------------------------------------------------------


def service_wish(random: Random, family: int) -> ServiceWish:
    """A service with up to four servers."""
    service = any_service(random, family)
    servers: dict[ServerAddress, Server] = {}
    method = random.choice(("nat", "nat", "nat", "dr", "tun", ""))
    for _ in range(random.choice((0, 1, 2, 2, 3, 4))):
        server = any_server(random, service.address, method)
        servers[server.address] = server
    return ServiceWish(service, tuple(servers.values()))


def any_service(random: Random, family: int, address: ServiceAddress | None = None) -> Service:
    """A service, of that address if it is given."""
    if address is None:
        protocol = random.choices(("tcp", "udp", "sctp", "fwmark"), (55, 22, 11, 12))[0]
        port = random.choice(PORTS.get(protocol, (0,)))
        if protocol == "fwmark":
            address = ServiceAddress.of_mark(MARK, family)
        else:
            address = ServiceAddress.of(protocol, random.choice(VIPS[family]), 0 if random.random() < 0.1 else port)
    persistent = random.choice((None, None, None, 1, 60, 360))
    if not address.port and address.protocol != "fwmark" and persistent is None:
        persistent = 30
    netmask: str | int | None = None
    if persistent is not None and random.random() < 0.4:
        netmask = random.choice(("255.255.255.0", "255.255.0.0")) if family == INET else random.choice((1, 64, 127))
    scheduler = random.choice((*SCHEDULERS, "none") if random.random() < 0.2 else SCHEDULERS)
    flags = [flag for flag in SCHEDULER_FLAGS.get(scheduler, {}) if random.random() < 0.4]
    if address.protocol in ("udp", "fwmark") and random.random() < 0.2:
        flags.append("ops")
    return Service(address, scheduler, tuple(flags), persistent, netmask)


_TUNNELS = (
    None, None, Tunnel("gre"), Tunnel("gre", csum="yes"), Tunnel("gue", GUE), Tunnel("gue", GUE, "yes"),
    Tunnel("gue", GUE, "remote"),
)  # fmt: skip


def any_server(random: Random, service: ServiceAddress, method: str = "") -> Server:
    """A server of a service."""
    forward = method or random.choice(("nat", "nat", "dr", "tun"))
    family = service.family
    if forward == "tun" and random.random() < 0.3:
        family = INET + INET6 - family
    host = random.choice(SERVERS[family])
    chance = random.random()
    if chance < 0.06:
        host = random.choice((OWN[family][1], VIPS[family][0]))
    elif chance < 0.09:
        host = "127.0.0.1" if family == INET else "::1"
    elif chance < 0.12:
        host = "10.7.0.1" if family == INET else "fd07::1"
    port = service.port
    if forward == "nat" and service.protocol != "fwmark" and port and random.random() < 0.5:
        port = random.choice((8080, 2121, 5353))
    upper = random.choice((0, 0, 0, 0, 1, 3))
    return Server(
        ServerAddress.of(host, port), forward, random.choice((1, 1, 1, 2, 10, 0, 2**31 - 1)), upper,
        random.randint(0, 1) if upper else 0, random.choice(_TUNNELS) if forward == "tun" else None,
    )  # fmt: skip
