"""Checks of addresses, devices, routes and forwarding around the services."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from ipvsctl.knowledge.checks.base import Check, Seen, by_sysctl, by_sysctls, check, keep_sysctl, set_sysctl, some
from ipvsctl.model.address import INET, INET6, parse_ip
from ipvsctl.model.facts import Facts, covers
from ipvsctl.model.service import Server

FORWARD = {INET: "net.ipv4.ip_forward", INET6: "net.ipv6.conf.all.forwarding"}
SNAT_REROUTE = "net.ipv4.vs.snat_reroute"
_DEVICE_FILE = "in the configuration of the network (ifupdown, networkd, keepalived ...)"
_SMALLEST = {INET: 68, INET6: 1280}


def conf(device: str, name: str) -> str:
    """The IPv4 sysctl of a device."""
    return f"net.ipv4.conf.{device.replace('.', '/')}.{name}"


def server_devices(facts: Facts, *forwards: str, family: int = INET) -> dict[str, list[str]]:
    """The devices that servers of some methods are behind, with the servers' addresses; those on the host left out."""
    found: dict[str, list[str]] = {}
    for _, server in facts.pairs(*forwards):
        address = server.server.address
        if address.family == family and not facts.is_local(address.address):
            way = facts.way_to(address.address)
            if way is not None and address.address not in found.setdefault(way.device, []):
                found[way.device].append(address.address)
    return found


def accepting(facts: Facts) -> list[str]:
    """The devices that take packets from our own addresses; "all" for every one."""
    prefix, suffix = "net.ipv4.conf.", ".accept_local"
    return [
        name.removeprefix(prefix).removesuffix(suffix).replace("/", ".")
        for name in sorted(facts.sysctls)
        if name.startswith(prefix) and name.endswith(suffix) and facts.is_on(name)
        and not name.startswith(f"{prefix}default.")
    ]  # fmt: skip


def _forwarding(facts: Facts) -> Iterator[Seen]:
    for family, name in FORWARD.items():
        nat = [s for s, server in facts.pairs("nat") if server.server.address.family == family
               and not facts.is_local(server.server.address.address)]  # fmt: skip
        if nat and facts.number(name) == 0:
            services = dict.fromkeys(str(status.service.address) for status in nat)
            yield Seen(
                name,
                f"{some(services)} has nat servers, whose replies the director must forward to the clients, and it "
                f"forwards no {'IPv6' if family == INET6 else 'IPv4'} packets: connections never come about",
                *by_sysctl(name, 1),
            )  # fmt: skip


def _device_forwarding(facts: Facts) -> Iterator[Seen]:
    if facts.is_on(FORWARD[INET]):
        for device, servers in server_devices(facts, "nat").items():
            name = conf(device, "forwarding")
            if facts.number(name) == 0:
                yield Seen(
                    name, f"ip_forward is on, but not for what comes in by {device}: replies of {some(servers)} are "
                    "dropped", *by_sysctl(name, 1),
                )  # fmt: skip


def _gateway_forwarding(facts: Facts) -> Iterator[Seen]:
    devices = [device for device in accepting(facts) if device == "all" or device in server_devices(facts, "dr", "tun")]
    if devices and any(facts.pairs("dr", "tun")) and facts.number(FORWARD[INET]) == 0:
        yield Seen(
            FORWARD[INET],
            f"accept_local of {some(devices)} lets replies of dr and tun servers in, but the director does not forward "
            "them to the clients", *by_sysctl(FORWARD[INET], 1),
        )  # fmt: skip


def _rp_filter(facts: Facts) -> Iterator[Seen]:
    every = "all" in accepting(facts)
    for device, servers in server_devices(facts, "dr", "tun").items():
        if (every or device in accepting(facts)) and facts.highest(device, "rp_filter") == 1:
            name = conf(device, "rp_filter")
            yield Seen(
                name,
                f"replies of {some(servers)} bear the virtual address, which is not routed by {device}: strict "
                "rp_filter drops them, accept_local or not (2 on the device is enough, the higher of all and device "
                "counts)",
                *by_sysctl(name, 2),
            )  # fmt: skip


def _accept_all(facts: Facts) -> Iterator[Seen]:
    needed = server_devices(facts, "dr", "tun")
    for device in accepting(facts):
        name = conf(device, "accept_local")
        if device == "all":
            others = sorted({link.name for link in facts.links if link.name != "lo"} - needed.keys())
            if others:
                each = " && ".join(set_sysctl(conf(one, "accept_local"), 1) for one in needed)
                off = set_sysctl(name, 0)
                yield Seen(
                    name,
                    f"packets from the director's own addresses are taken on every device, on {some(others)} too, "
                    "where nobody but a forger sends them",
                    f"{each} && {off}" if each else off, keep_sysctl(name, 0),
                )  # fmt: skip
        elif device not in needed and any(link.name == device for link in facts.links):
            yield Seen(
                name,
                f"packets from the director's own addresses are taken on {device}, and no dr or tun server is behind "
                "it: who sends them there forges them",
                *by_sysctl(name, 0),
            )  # fmt: skip


def _redirects(facts: Facts) -> Iterator[Seen]:
    clients = facts.client_devices()
    for device, servers in server_devices(facts, "nat").items():
        near = any(not way.via for way in map(facts.way_to, servers) if way)
        if device in clients and near and facts.either(device, "send_redirects"):
            names = [name for name in (conf("all", "send_redirects"), conf(device, "send_redirects"))
                     if facts.is_on(name)]  # fmt: skip
            yield Seen(
                conf(device, "send_redirects"),
                f"clients and the nat servers {some(servers)} are on one device: the director tells the servers of a "
                "shorter way to the clients, and replies that take it bypass the director",
                *by_sysctls(names, 0),
            )  # fmt: skip


def _nowhere(facts: Facts) -> Iterator[Seen]:
    backup = any(daemon.role == "backup" for daemon in facts.daemons)
    for address in facts.virtual():
        if facts.is_local(address) or any(
            route.kind == "local" and ip_address(address) in ip_network(route.destination) for route in facts.routes
        ):
            # A local route of another table may be chosen by a policy rule.
            continue
        known = facts.way_to(address)
        device = known.device if known and not known.via else next(iter(sorted(facts.client_devices())), "lo")
        standby = " (a backup runs here: as long as another director has it, that is right)" if backup else ""
        yield Seen(
            address,
            f"it is a virtual address, but no address of the director{standby}: IPVS sees only packets that are "
            "delivered here",
            f"ip address add {address}/{128 if ':' in address else 32} dev {device}", _DEVICE_FILE,
            severity="info" if backup else "",
        )  # fmt: skip


def _down(facts: Facts) -> Iterator[Seen]:
    for address in facts.virtual():
        link = facts.device_of(address)
        if link is not None and not link.up:
            yield Seen(
                f"{address} {link.name}", f"the device {link.name} of the virtual address is down",
                f"ip link set dev {link.name} up", _DEVICE_FILE,
            )  # fmt: skip


_HELD = {
    "dadfailed": "another host has it (duplicate address detection failed)",
    "tentative": "it is tentative: the kernel does not answer for it yet",
}


def _duplicate(facts: Facts) -> Iterator[Seen]:
    virtual = set(facts.virtual())
    for link in facts.links:
        for each in link.addresses:
            address = each.text.partition("/")[0]
            word = next((word for flag, word in _HELD.items() if flag in each.flags), "")
            if word and address in virtual:
                yield Seen(
                    f"{address} {link.name}", f"the virtual address is not in use: {word}",
                    f"ip address del {each.text} dev {link.name} && "
                    f"ip address add {each.text} dev {link.name} nodad",
                    _DEVICE_FILE,
                )  # fmt: skip


def _announced(facts: Facts) -> Iterator[Seen]:
    servers = {server.server.address.address for _, server in facts.pairs()}
    own, virtual = {link.mac for link in facts.links}, set(facts.virtual())
    clients = facts.client_devices()
    for each in facts.neighbours:
        link = facts.device_of(each.address)
        if each.device not in clients and (link is None or link.name != each.device):
            # On a link that only servers are on, nobody else hears it.
            continue
        if each.address in virtual and each.mac and each.mac not in own and facts.is_local(each.address):
            owners = [n.address for n in facts.neighbours if n.mac == each.mac and n.address in servers]
            if each.state in ("STALE", "FAILED") and not owners:
                # Another director may have had the address before.
                continue
            who = f"real server {some(owners)}" if owners else "another host"
            yield Seen(
                f"{each.address} {each.device}",
                f"{who} ({each.mac}) answers or asks for it by ARP on {each.device} as for its own: clients that hear "
                "that go past the director",
                "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
                "on the real server, in its /etc/sysctl.d",
            )  # fmt: skip


def _routed_dr(facts: Facts) -> Iterator[Seen]:
    for status, server in facts.pairs("dr"):
        address = server.server.address
        way = None if facts.is_local(address.address) else facts.way_to(address.address)
        if way is not None and way.via:
            name = status.service.address
            yield Seen(
                f"{name} {address}",
                f"dr keeps the destination and puts the packet on the link, but {address.address} is behind the router "
                f"{way.via}, which sends it back to the virtual address: use tun",
                f"ipvsctl server edit {name} {address} --forward tun", 'forward = "tun" of the server in the file',
            )  # fmt: skip


def tunnel_overhead(server: Server) -> int:
    """Bytes that a tunnel puts around a packet (ip_vs_xmit.c: ip_vs_tunnel_xmit)."""
    size = 40 if server.address.family == INET6 else 20
    if server.tunnel is None:
        return size
    if server.tunnel.type == "gue":
        return size + 12
    return size + (8 if server.tunnel.csum == "yes" else 4)


def _tunnel_mtu(facts: Facts) -> Iterator[Seen]:
    mtus = {link.name: link.mtu for link in facts.links}
    incoming = min((mtus[name] for name in facts.client_devices() if name in mtus), default=0)
    clamped = any(rule.target == "TCPMSS" for _, _, rule in facts.rules())
    seen = set[str]()
    for status, server in facts.pairs("tun"):
        address = server.server.address.address
        way = None if facts.is_local(address) else facts.way_to(address)
        if way is None or not way.mtu or way.device in seen:
            continue
        around = tunnel_overhead(server.server)
        left = way.mtu - around
        if left < _SMALLEST[status.service.address.family]:
            seen.add(way.device)
            yield Seen(
                f"{way.device} mtu", f"a tunnel to {address} leaves {left} bytes of the {way.mtu} that {way.device} "
                "takes: IPVS drops every packet", f"ip link set dev {way.device} mtu {1500 + around}", _DEVICE_FILE,
                severity="error",
            )  # fmt: skip
        elif incoming and left < incoming and not clamped:
            seen.add(way.device)
            asks = facts.number("net.ipv4.vs.pmtu_disc") != 0
            told = "the sender is told to send smaller ones (ICMP), which hangs where that message is lost"
            then = told if asks else "they are cut in fragments (pmtu_disc=0)"
            yield Seen(
                f"{way.device} mtu",
                f"clients send packets of up to {incoming} bytes, a tunnel to {address} takes {left} by {way.device}: "
                f"{then}",
                f"ip link set dev {way.device} mtu {incoming + around}",
                _DEVICE_FILE,
            )  # fmt: skip


def _reroute_off(facts: Facts) -> Iterator[Seen]:
    if facts.number(SNAT_REROUTE) != 0:
        return
    for address in facts.virtual():
        rules = [rule for rule in facts.policy if rule.source and covers(rule.source, address)
                 and rule.family == parse_ip(address)[0]]  # fmt: skip
        nat = any(status.service.address.address == address for status, _ in facts.pairs("nat"))
        if rules and nat:
            yield Seen(
                SNAT_REROUTE,
                f"policy rule {rules[0].priority} chooses a route for {address}, but {SNAT_REROUTE}=0: replies of nat "
                "servers take the route of the server's address",
                *by_sysctl(SNAT_REROUTE, 1),
            )  # fmt: skip


def _reroute_idle(facts: Facts) -> Iterator[Seen]:
    if facts.is_on(SNAT_REROUTE) and any(facts.pairs("nat")) and not any(rule.source for rule in facts.policy):
        yield Seen(
            SNAT_REROUTE,
            "it costs a second route lookup for each reply of a nat server, and no policy rule chooses by source "
            "address: with one uplink it may be off",
            *by_sysctl(SNAT_REROUTE, 0)[:2],
        )  # fmt: skip


def _uplink(facts: Facts) -> Iterator[Seen]:
    for address in facts.virtual():
        family = parse_ip(address)[0]
        for rule in facts.policy:
            chosen = rule.source and rule.family == family and covers(rule.source, address)
            if not chosen or rule.action != "lookup" or rule.table in (253, 254, 255):
                continue
            default = "::/0" if family == INET6 else "0.0.0.0/0"
            if not any(route.table == rule.table and route.destination == default for route in facts.routes):
                yield Seen(
                    f"{address} table {rule.table}",
                    f"policy rule {rule.priority} sends packets from {address} to routing table {rule.table}, which "
                    "has no default route: they leave by the main table's",
                    f"ip {'-6 ' if family == INET6 else ''}route add default via GATEWAY table {rule.table}",
                    "[[uplink]] in the director file",
                )  # fmt: skip


def _mark_route(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        address = status.service.address
        if address.protocol != "fwmark":
            continue
        for _, _, rule in facts.rules(address.family, "mangle"):
            if rule.target != "MARK" or not rule.destination or rule.destination.startswith("!"):
                continue
            host = rule.destination.partition("/")[0]
            value = next((v for n, v in rule.target_options if n in ("set-mark", "set-xmark")), "").partition("/")[0]
            if not value or int(value, 0) != address.fwmark or facts.is_local(host):
                continue
            local = {route.table for route in facts.routes if route.kind == "local"}
            if any(r.mark and address.fwmark & r.mask == r.mark and r.table in local for r in facts.policy):
                continue
            six = "-6 " if address.family == INET6 else ""
            every = "::/0" if address.family == INET6 else "0.0.0.0/0"
            yield Seen(
                address,
                f"packets to {rule.destination} get the mark, but that is no address of the director and no policy "
                "rule delivers the mark locally: they are forwarded past IPVS",
                f"ip {six}rule add fwmark {address.fwmark} lookup 100 && ip {six}route add local {every} dev lo table "
                "100", _DEVICE_FILE,
            )  # fmt: skip


CHECKS: tuple[Check, ...] = (
    check("nat-forwarding", "nat without forwarding", "error", "services sysctls", "S15; ip_forward.c", _forwarding),
    check("device-forwarding", "forwarding is off on the servers' device", "error", "services sysctls links routes",
          "S15; devinet.c: devinet_sysctl_forward", _device_forwarding),
    check("gateway-forwarding", "accept_local without forwarding", "error", "services sysctls links routes", "S2",
          _gateway_forwarding),
    check("rp-filter", "strict rp_filter where dr and tun replies come in", "error", "services sysctls links routes",
          "S2, S27; fib_frontend.c: __fib_validate_source", _rp_filter),
    check("accept-local-open", "accept_local where no dr or tun server is", "warning", "services sysctls links routes",
          "S27", _accept_all),
    check("redirects", "ICMP redirects for nat on one device", "warning", "services sysctls links routes",
          "ip_forward.c: ip_forward", _redirects),
    check("vip-nowhere", "a virtual address on no device", "error", "services links routes daemons", "S26", _nowhere),
    check("vip-down", "the virtual address's device is down", "error", "services links", "devinet.c", _down),
    check("vip-duplicate", "a virtual address that IPv6 holds back", "error", "services links",
          "addrconf.c: addrconf_dad_stop", _duplicate),
    check("vip-announced", "a virtual address that another host announces", "error", "services links routes neighbours",
          "arp.c: arp_ignore, arp_solicit", _announced),
    check("dr-routed", "dr to a server behind a router", "error", "services links routes",
          "ip_vs_xmit.c: ip_vs_dr_xmit", _routed_dr),
    check("tunnel-mtu", "an MTU too small for the tunnel", "warning", "services links routes sysctls tables",
          "ip_vs_xmit.c: __ip_vs_get_out_rt", _tunnel_mtu),
    check("reroute-off", "policy routing by source, and snat_reroute off", "warning", "services sysctls routes",
          "S4, S5", _reroute_off),
    check("reroute-idle", "snat_reroute without a policy rule by source", "info", "services sysctls routes", "S5, S6",
          _reroute_idle),
    check("uplink-empty", "an uplink's routing table without default route", "warning", "services routes", "S4",
          _uplink),
    check("mark-not-local", "marked packets that are not delivered", "error", "services tables links routes",
          "ip_vs_ctl.c: ip_vs_service_find", _mark_route),
)  # fmt: skip
