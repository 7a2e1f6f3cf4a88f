"""The evidence that doctor's checks look at: everything about a host, read once.

A part that could not be read is empty, and `missing` says why; a check that needs it is not made, so that nothing is
concluded from what was not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from ipvsctl.model.address import INET, INET6
from ipvsctl.model.foreign import ForeignChain
from ipvsctl.model.route import LOCAL, MAIN, PolicyRule, Route
from ipvsctl.model.rule import Match, OwnChain, Rule
from ipvsctl.model.snapshot import SavedChain, SavedTable
from ipvsctl.model.status import Daemon, ServerStatus, ServiceStatus, Timeouts

PARTS = {
    "services": "services, servers and timeouts of IPVS",
    "daemons": "synchronisation daemons",
    "sysctls": "sysctls",
    "kept": "sysctls that are set at boot",
    "features": "kernel features and modules",
    "tables": "tables of iptables",
    "nft": "tables of nftables",
    "foreign": "rules of others in nftables",
    "own": "our own chains",
    "links": "devices and their addresses",
    "routes": "routes and policy rules",
    "neighbours": "neighbours (ARP, ND)",
    "flows": "connection tracking entries",
    "connections": "IPVS connections",
    "listeners": "listening sockets",
    "journeys": "trial connections through the emulated datapath",
}
"""The parts of the evidence, and what they are called."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address of a device: "ADDRESS/LENGTH"; `flags` of tentative, dadfailed, deprecated."""

    text: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A network device, up or not. `mac` its link-layer address, "" for none."""

    name: str
    up: bool = True
    mtu: int = 1500
    mac: str = ""
    addresses: tuple[LinkAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour on a link. `state` as ip-neighbour(8) prints it (REACHABLE, STALE, FAILED ...), in capitals."""

    address: str
    device: str
    mac: str
    state: str


@dataclass(frozen=True, slots=True)
class ConnectionGroup:
    """IPVS connections of one service, server and state. `clients` are the first few; templates have port 0.

    `synced`: they came from a master's synchronisation.
    """

    protocol: str
    virtual: str
    virtual_port: int
    server: str
    server_port: int
    state: str
    count: int
    clients: tuple[str, ...] = ()
    synced: bool = False


@dataclass(frozen=True, slots=True)
class FlowGroup:
    """Conntrack entries of one protocol, destination, answering address and state."""

    protocol: str
    destination: str
    destination_port: int
    reply_source: str
    state: str
    replied: bool
    helper: str
    count: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that waits for packets: tcp listening, udp bound. `address` 0.0.0.0 and :: for every one."""

    protocol: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Journey:
    """A trial conversation with a service through the datapath, and where it ended.

    `lost`: "" nothing was lost, else "request" or "reply"; `reason` the name of the datapath's reason and `words` its
    sentence, `hook` where and `state` what rules saw it as; `rule` the rule that decided, `explained` why it did,
    `mend` a command. `title` is the packet. `client` its address, `source` the one that the server saw.
    """

    service: str
    forward: str
    session: str
    lost: str = ""
    title: str = ""
    reason: str = ""
    words: str = ""
    hook: str = ""
    state: str = ""
    device: str = ""
    rule: str = ""
    explained: str = ""
    mend: str = ""
    client: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How the host reaches an address: by which device, and through which gateway ("" on link)."""

    device: str
    via: str = ""
    mtu: int = 0


@dataclass(frozen=True)
class Facts:
    """A host as doctor sees it. What checks ask for again and again is computed when it is first asked for.

    `missing` maps names of PARTS to the reason for which they are not here. `tables` are by back end, and "nft" those
    of nftables that iptables-nft does not know, by family and name ("inet firewall"), `foreign` their chains. `kept`
    are sysctls as the files of sysctl.d set them. `table_size` is IPVS's number of buckets, `expectations` those of
    conntrack there are now. `ftp_ports` the ports of ip_vs_ftp, () while it is not loaded. `initial`: the initial
    network namespace.
    """

    release: str = ""
    initial: bool = True
    services: tuple[ServiceStatus, ...] = ()
    table_size: int = 0
    timeouts: Timeouts = field(default_factory=Timeouts)
    daemons: tuple[Daemon, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    ftp_ports: tuple[int, ...] = ()
    tables: Mapping[str, tuple[SavedTable, ...]] = field(default_factory=dict)
    nft: tuple[str, ...] = ()
    foreign: tuple[ForeignChain, ...] = ()
    own: tuple[OwnChain, ...] = ()
    links: tuple[Link, ...] = ()
    routes: tuple[Route, ...] = ()
    policy: tuple[PolicyRule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    flows: tuple[FlowGroup, ...] = ()
    expectations: int = 0
    connections: tuple[ConnectionGroup, ...] = ()
    listeners: tuple[Listener, ...] = ()
    journeys: tuple[Journey, ...] = ()
    notes: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    # -- sysctls ------------------------------------------------------------------------------------------------------

    def number(self, name: str) -> int | None:
        """The (first) number of a sysctl; None when it does not exist here."""
        words = self.sysctls.get(name, "").split()
        return int(words[0]) if words and words[0].lstrip("-").isdigit() else None

    def is_on(self, name: str) -> bool:
        """Whether a sysctl exists and is not 0."""
        return bool(self.number(name))

    def either(self, device: str, name: str) -> bool:
        """Whether an IPv4 setting is on for all or for the device (IN_DEV_ORCONF)."""
        return self.is_on(_of("all", name)) or self.is_on(_of(device, name))

    def highest(self, device: str, name: str) -> int:
        """The higher of an IPv4 setting of all and of the device (IN_DEV_MAXCONF)."""
        return max(self.number(_of("all", name)) or 0, self.number(_of(device, name)) or 0)

    # -- services -----------------------------------------------------------------------------------------------------

    def pairs(self, *forwards: str) -> Iterator[tuple[ServiceStatus, ServerStatus]]:
        """Every server with its service; of some forwarding methods only, when they are named."""
        for service in self.services:
            for server in service.servers:
                if not forwards or server.server.forward in forwards:
                    yield service, server

    def virtual(self) -> tuple[str, ...]:
        """The virtual addresses, each once; services by firewall mark have none."""
        found = (status.service.address.address for status in self.services)
        return tuple(dict.fromkeys(address for address in found if address))

    # -- network ------------------------------------------------------------------------------------------------------

    @cached_property
    def _addresses(self) -> dict[str, Link]:
        return {str(ip_interface(each.text).ip): link for link in self.links for each in link.addresses}

    @cached_property
    def _local_routes(self) -> tuple[IPv4Network | IPv6Network, ...]:
        found = (route for route in self.routes if route.kind == "local" and route.table == LOCAL)
        return tuple(ip_network(route.destination) for route in found)

    @cached_property
    def _ways(self) -> dict[int, dict[int, dict[int, tuple[int, Way]]]]:
        """By family, prefix length and network: metric and way; connected networks of devices that are up as well."""
        found: dict[int, dict[int, dict[int, tuple[int, Way]]]] = {INET: {}, INET6: {}}

        def add(network: IPv4Network | IPv6Network, metric: int, way: Way) -> None:
            family = INET if network.version == 4 else INET6
            known = found[family].setdefault(network.prefixlen, {})
            number = int(network.network_address)
            if number not in known or metric < known[number][0]:
                known[number] = metric, way

        for link in self.links:
            for each in link.addresses if link.up else ():
                add(ip_interface(each.text).network, -1, Way(link.name, mtu=link.mtu))
        mtus = {link.name: link.mtu for link in self.links}
        for route in self.routes:
            if route.table == MAIN and route.kind == "unicast":
                way = Way(route.device, route.via, route.mtu or mtus.get(route.device, 0))
                add(ip_network(route.destination), route.metric, way)
        return found

    def device_of(self, address: str) -> Link | None:
        """The device that has an address."""
        return self._addresses.get(str(ip_address(address)))

    def is_local(self, address: str) -> bool:
        """Whether packets to the address are delivered to the host: an address of its own, or a local route."""
        ip = ip_address(address)
        return ip.is_loopback or str(ip) in self._addresses or any(ip in network for network in self._local_routes)

    def way_to(self, address: str) -> Way | None:
        """The way to an address by the main table; None when there is none, or when policy rules may have a say."""
        ip = ip_address(address)
        family = INET if ip.version == 4 else INET6
        if any(not (rule.source or rule.mark or rule.in_device) and rule.family == family for rule in self.policy):
            return None
        number, bits = int(ip), ip.max_prefixlen
        for length in sorted(self._ways[family], reverse=True):
            found = self._ways[family][length].get(number >> (bits - length) << (bits - length))
            if found is not None:
                return found[1]
        return None

    def client_devices(self) -> set[str]:
        """The devices that clients come in by, as far as routes tell: those of default routes and of uplinks.

        Without any default route clients are on the links that no server is behind.
        """
        found = {route.device for route in self.routes if route.destination in ("0.0.0.0/0", "::/0") and route.device}
        if found:
            return found
        ways = (self.way_to(server.server.address.address) for _, server in self.pairs())
        servers = {way.device for way in ways if way is not None}
        return {link.name for link in self.links if link.up and link.name != "lo" and link.addresses} - servers

    @cached_property
    def groups(self) -> dict[str, tuple[ConnectionGroup, ...]]:
        """The connections by their server's address."""
        found: dict[str, list[ConnectionGroup]] = {}
        for group in self.connections:
            found.setdefault(group.server, []).append(group)
        return {server: tuple(each) for server, each in found.items()}

    @cached_property
    def flows_to(self) -> dict[tuple[str, int], tuple[FlowGroup, ...]]:
        """The conntrack entries by destination and port."""
        found: dict[tuple[str, int], list[FlowGroup]] = {}
        for flow in self.flows:
            found.setdefault((flow.destination, flow.destination_port), []).append(flow)
        return {where: tuple(each) for where, each in found.items()}

    # -- rules --------------------------------------------------------------------------------------------------------

    def chains(self, family: int, table: str) -> Iterator[tuple[str, SavedChain]]:
        """The chains of a table, in every back end, with the back end's name."""
        for backend, tables in self.tables.items():
            for saved in tables:
                if (saved.family, saved.name) == (family, table):
                    yield from ((backend, chain) for chain in saved.chains)

    def rules(self, family: int | None = None, table: str = "") -> Iterator[tuple[SavedTable, SavedChain, Rule]]:
        """Every rule of iptables, of a family and a table where they are named."""
        for tables in self.tables.values():
            for saved in tables:
                if family in (None, saved.family) and table in ("", saved.name):
                    for chain in saved.chains:
                        yield from ((saved, chain, each.rule) for each in chain.rules)


def option(match: Match, *names: str) -> str | None:
    """The value of the first of the options that a match has."""
    return next((value for name, value in match.options if name in names), None)


def states(rule: Rule) -> set[str]:
    """The connection states that a rule asks for (-m conntrack, -m state); negated ones have a "!" before them."""
    found: set[str] = set()
    for match in rule.matches:
        if match.name in ("conntrack", "state"):
            for name, value in match.options:
                if name.lstrip("!") in ("ctstate", "state"):
                    sign = "!" if "!" in (name[:1], value[:1]) else ""
                    found.update(sign + word for word in value.lstrip("! ").split(","))
    return found


def covers(text: str, address: str) -> bool:
    """Whether a rule's address, as it is written there, takes an address; "" takes every one."""
    if not text:
        return True
    plain = text.removeprefix("!")
    return (ip_address(address) in ip_network(plain, strict=False)) != (plain != text)


def _of(device: str, name: str) -> str:
    return f"net.ipv4.conf.{device.replace('.', '/')}.{name}"
