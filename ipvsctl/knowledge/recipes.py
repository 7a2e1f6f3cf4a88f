"""From a director file to what a host must have, and back.

The rules are those of the NFCT description for LVS-NAT (statement S14 of its section on firewalls), completed by the
rule that today's kernels need: conntrack helpers are assigned by a CT target only (automatic assignment is off since
Linux 4.7 and gone since 6.0; nf_conntrack_helper.c). They stand in chains of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.sysctls import find
from ipvsctl.model.address import INET, INET6, ServiceAddress, parse_ip
from ipvsctl.model.director import Director, FirewallWish, Found, Nfct, ServiceWish, Wanted
from ipvsctl.model.rule import Match, OwnChain, Rule
from ipvsctl.model.status import KERNEL_TIMEOUTS

CONNTRACK = "net.ipv4.vs.conntrack"
SNAT_REROUTE = "net.ipv4.vs.snat_reroute"
BE_LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"
IP_FORWARD = "net.ipv4.ip_forward"
IP6_FORWARD = "net.ipv6.conf.all.forwarding"

INPUT = "IPVSCTL-INPUT"
FORWARD = "IPVSCTL-FORWARD"
FORWARD_DROP = "IPVSCTL-FORWARD-DROP"
PREROUTING = "IPVSCTL-PREROUTING"
OUTPUT = "IPVSCTL-OUTPUT"

HELPED = {"ftp": 21}
"""The port that a helper is for when its service is on every port (kernel-wide: nf_conntrack_ftp's own)."""

_TRACKED = Match("conntrack", (("ctstate", "RELATED,ESTABLISHED"),))
_PROTOCOLS = ("tcp", "udp", "sctp")


def accept_local(device: str) -> str:
    """The sysctl that lets packets from our own addresses in on a device; dots in its name are written "/"."""
    return f"net.ipv4.conf.{device.replace('.', '/')}.accept_local"


def wanted(director: Director) -> Wanted:
    """What a host must have to be this director.

    Raises UsageError for what cannot be made true: a helper for servers that are not reached by nat, the rules of
    other methods being others.
    """
    for wish in director.services:
        if wish.helper and (server := next((s for s in wish.servers if s.forward != "nat"), None)):
            raise UsageError(
                f"{wish.service.address}: helper {wish.helper} is for servers with forward nat, "
                f"{server.address} has forward {server.forward}"
            )
    return Wanted(
        modules=_modules(director),
        backend=director.firewall.backend if director.firewall else "auto",
        chains=_chains(director),
        sysctls=tuple(_sysctls(director).items()),
        timeouts=director.timeouts,
        daemons=director.syncs,
        services=director.services,
        notes=tuple(_notes(director)),
    )


def helper_chains(services: Iterable[ServiceWish], local_clients: bool) -> list[OwnChain]:
    """Chains of the raw table that give services their conntrack helper.

    OUTPUT as well with local clients: a connection from the director itself never passes PREROUTING (S20, S21).
    """
    rules: dict[int, list[Rule]] = {}
    for wish in services:
        address = wish.service.address
        if wish.helper:
            rules.setdefault(address.family, []).append(
                Rule(
                    "CT",
                    protocol=address.protocol,
                    destination=address.address,
                    matches=(Match(address.protocol, (("dport", str(address.port or HELPED[wish.helper])),)),),
                    target_options=(("helper", wish.helper),),
                )
            )
    hooks = [(PREROUTING, "PREROUTING"), *([(OUTPUT, "OUTPUT")] if local_clients else [])]
    return [
        OwnChain(family, "raw", name, hook, tuple(found)) for family, found in rules.items() for name, hook in hooks
    ]


def firewall_chains(director: Director, wish: FirewallWish) -> list[OwnChain]:
    """Chains of the filter table: what reaches a protected address, and what is forwarded (S14).

    INPUT and FORWARD jump to the accepting chains first, so that a general refusal of the administrator's does not shut
    the services; the drop at the end of FORWARD comes last, so that what the administrator accepts stays accepted.
    """
    chains = []
    addresses = [parse_ip(text) for text in wish.protect]
    clients = [parse_ip(text) for text in wish.local_clients]
    families = {family for family, _ in addresses} | {s.service.address.family for s in director.services}
    for family in sorted(families):
        rules: list[Rule] = []
        for known, address in addresses:
            if known == family:
                rules.append(Rule("ACCEPT", destination=address, matches=(_TRACKED,)))
                rules += _service_rules(director.services, family, address)
        if rules:
            rules += [Rule("ACCEPT", protocol="tcp", source=text) for known, text in clients if known == family]
            for known, address in addresses:
                if known == family:
                    rules += [Rule("DROP", protocol=protocol, destination=address) for protocol in _PROTOCOLS]
            chains.append(OwnChain(family, "filter", INPUT, "INPUT", tuple(rules)))
        chains.append(OwnChain(family, "filter", FORWARD, "FORWARD", (Rule("ACCEPT", matches=(_TRACKED,)),)))
        if wish.forward_policy == "drop":
            chains.append(OwnChain(family, "filter", FORWARD_DROP, "FORWARD", (Rule("DROP"),), place="last"))
    return chains


def _service_rules(services: Iterable[ServiceWish], family: int, address: str) -> Iterator[Rule]:
    """Acceptance of new connections to the services of an address."""
    for wish in services:
        service: ServiceAddress = wish.service.address
        if service.family != family:
            continue
        if service.protocol == "fwmark":
            mark = Match("mark", (("mark", f"{service.fwmark:#x}"),))
            yield Rule("ACCEPT", destination=address, matches=(mark,))
        elif service.address == address:
            port = (Match(service.protocol, (("dport", str(service.port)),)),) if service.port else ()
            yield Rule("ACCEPT", protocol=service.protocol, destination=address, matches=port)


def _chains(director: Director) -> tuple[OwnChain, ...] | None:
    """All own chains, or None when the file says nothing that needs rules."""
    helpers = any(wish.helper for wish in director.services)
    if director.firewall is None and not helpers:
        return None
    local = bool(director.firewall and director.firewall.local_clients)
    chains = helper_chains(director.services, local)
    if director.firewall is not None:
        chains += firewall_chains(director, director.firewall)
    return tuple(chains)


def _modules(director: Director) -> tuple[str, ...]:
    """Modules by name, in the order to load them (S8, S16; ip_vs_ftp brings NAT and conntrack along)."""
    nfct = director.nfct
    modules = []
    if director.services or director.timeouts or director.syncs or (nfct and nfct.conntrack is not None):
        modules.append("ip_vs")
    if any(wish.helper == "ftp" for wish in director.services):
        modules += ["nf_conntrack_ftp", "ip_vs_ftp"]
    elif director.firewall or (nfct and (nfct.conntrack or nfct.be_liberal is not None)):
        modules.append("nf_conntrack")
    for name, _ in director.sysctls:
        row = find(name)
        if row is not None and row.module:
            modules.append(row.module)
    return tuple(dict.fromkeys(modules))


def _sysctls(director: Director) -> dict[str, str]:
    """Sysctls by name; what the file names itself wins over what a forwarding method needs."""
    values: dict[str, str] = {}
    nfct = director.nfct or Nfct()
    for name, flag in (
        (CONNTRACK, nfct.conntrack), (SNAT_REROUTE, nfct.snat_reroute), (BE_LIBERAL, nfct.be_liberal),
    ):  # fmt: skip
        if flag is not None:
            values[name] = "1" if flag else "0"
    for device in nfct.accept_local:
        values[accept_local(device)] = "1"
    named = dict(director.sysctls)
    # Replies of nat servers are forwarded by the director (S15), and so are those of dr and tun servers whose gateway
    # it is, which is what accept_local is for (S2).
    families = {wish.service.address.family for wish in director.services for s in wish.servers if s.forward == "nat"}
    implied = {}
    if INET in families or nfct.accept_local:
        implied[IP_FORWARD] = "1"
    if INET6 in families:
        implied[IP6_FORWARD] = "1"
    # What is general first: setting it sets what is particular to a device as well.
    rest = sorted((implied | named).items(), key=lambda item: _generality(item[0]))
    return values | dict(rest)


def _generality(name: str) -> int:
    if name == IP_FORWARD:
        return 0
    return 1 if ".conf.all." in name else 2 if ".conf.default." in name else 3


def _notes(director: Director) -> Iterator[str]:
    conntrack = director.nfct.conntrack if director.nfct else None
    if director.firewall and conntrack is not True:
        yield (
            "the firewall's rules match by state, which IPVS traffic has only with conntrack = true in [nfct]: "
            "replies of services without a helper will not pass FORWARD"
        )


# -- and back ---------------------------------------------------------------------------------------------------------


def director_of(found: Found) -> Director:
    """The director that a host is, as far as our own chains, sysctls and IPVS's tables tell.

    Servers are given oldest first: applying the file elsewhere leaves them in the kernel's order.
    """
    helpers = _found_helpers(found.chains)
    for address in found.services:
        # The rule for a service on every port names the port of the protocol.
        port = replace(address, port=HELPED["ftp"])
        if not address.port and port in helpers and port not in found.services:
            helpers[address] = helpers[port]
    services = tuple(
        ServiceWish(
            status.service,
            tuple(server.server for server in reversed(status.servers)),
            helpers.get(address),
        )
        for address, status in found.services.items()
    )
    # Timeouts nobody has set on a host that nobody uses for IPVS say nothing.
    used = services or found.daemons or found.timeouts != KERNEL_TIMEOUTS
    return Director(
        services,
        _found_nfct(found),
        _found_firewall(found),
        tuple(_found_sysctls(found)),
        found.timeouts if used else None,
        found.daemons or None,
    )


def _found_sysctls(found: Found) -> Iterator[tuple[str, str]]:
    """IPVS's sysctls that are not as the kernel starts with, but for those that have words of their own in the file."""
    for name, value in sorted(found.sysctls.items()):
        row = find(name) if name.startswith("net.ipv4.vs.") and name not in (CONNTRACK, SNAT_REROUTE) else None
        if row and row.writable and value is not None and row.default is not None and value != row.default:
            yield name, value


def is_host(text: str) -> bool:
    """Whether a rule's address is a single one: a rule made by hand may say a network, or nothing."""
    try:
        parse_ip(text)
    except UsageError:
        return False
    return True


def _found_helpers(chains: Iterable[OwnChain]) -> dict[ServiceAddress, str]:
    helpers = {}
    for chain in chains:
        for rule in chain.rules if chain.name == PREROUTING else ():
            port = dict(rule.matches[0].options).get("dport", "") if rule.matches else ""
            if rule.target == "CT" and port.isdigit() and is_host(rule.destination):
                address = ServiceAddress(rule.protocol, chain.family, rule.destination, int(port))
                helpers[address] = dict(rule.target_options).get("helper", "")
    return helpers


def _found_nfct(found: Found) -> Nfct | None:
    def flag(name: str) -> bool | None:
        value = found.sysctls.get(name)
        return None if value is None else value != "0"

    prefix, suffix = "net.ipv4.conf.", ".accept_local"
    devices = tuple(
        name.removeprefix(prefix).removesuffix(suffix).replace("/", ".")
        for name, value in sorted(found.sysctls.items())
        if name.startswith(prefix) and name.endswith(suffix) and value not in (None, "0")
    )
    nfct = Nfct(flag(CONNTRACK), flag(SNAT_REROUTE), flag(BE_LIBERAL), devices)
    return nfct if nfct != Nfct() else None


def _found_firewall(found: Found) -> FirewallWish | None:
    chains = [chain for chain in found.chains if chain.table == "filter"]
    if not chains:
        return None
    rules = [rule for chain in chains if chain.name == INPUT for rule in chain.rules]
    protect = dict.fromkeys(rule.destination for rule in rules if rule.target == "DROP" and is_host(rule.destination))
    clients = dict.fromkeys(rule.source for rule in rules if rule.target == "ACCEPT" and is_host(rule.source))
    drop = any(chain.name == FORWARD_DROP for chain in chains)
    return FirewallWish(found.backend, tuple(protect), "drop" if drop else "accept", tuple(clients))
