"""From a host to the director file that it follows: the way back of recipes.py.

Only our own chains, IPVS's tables and sysctls, and routing rules with our priorities are asked. Applying the file to
the same host changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ipvsctl.knowledge.names import (
    BE_LIBERAL,
    CONNTRACK,
    FORWARD,
    FORWARD_DROP,
    HELPED,
    INPUT,
    MARK,
    PREROUTING,
    SNAT_REROUTE,
    is_host,
)
from ipvsctl.knowledge.sysctls import find
from ipvsctl.knowledge.uplinks import uplinks_of
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.director import Director, FirewallWish, Found, Nfct, ServiceWish
from ipvsctl.model.rule import OwnChain, Rule
from ipvsctl.model.status import KERNEL_TIMEOUTS


def director_of(found: Found) -> Director:
    """The director that a host is, as far as our own chains, sysctls, routing rules and IPVS's tables tell.

    Servers are given oldest first: applying the file elsewhere leaves them in the kernel's order.
    """
    helpers = helpers_of(found.chains)
    for address in found.services:
        # The rule for a service on every port names the port of the protocol.
        port = replace(address, port=HELPED["ftp"])
        if not address.port and port in helpers and port not in found.services:
            helpers[address] = helpers[port]
    members = _members(found.chains)
    services = tuple(
        ServiceWish(
            status.service,
            tuple(server.server for server in reversed(status.servers)),
            helpers.get(address),
            members.get((address.family, address.fwmark), ()) if address.protocol == "fwmark" else (),
        )
        for address, status in found.services.items()
    )
    # Timeouts nobody has set on a host that nobody uses for IPVS say nothing.
    used = services or found.daemons or found.timeouts != KERNEL_TIMEOUTS
    return Director(
        services,
        _nfct(found),
        _firewall(found),
        tuple(_sysctls(found)),
        found.timeouts if used else None,
        found.daemons or None,
        tuple(uplinks_of(found.routes, found.policy)),
    )


def helpers_of(chains: Iterable[OwnChain]) -> dict[ServiceAddress, str]:
    """Our helper rules, by the service each is for, whether or not the service is there."""
    helpers = {}
    for chain in chains:
        for rule in chain.rules if chain.name == PREROUTING else ():
            helper = dict(rule.target_options).get("helper", "")
            address = _destination(rule, chain.family)
            if rule.target == "CT" and helper and address and address.port:
                helpers[address] = helper
    return helpers


def _members(chains: Iterable[OwnChain]) -> dict[tuple[int, int], tuple[ServiceAddress, ...]]:
    """The addresses whose packets get a mark, by family and mark."""
    members: dict[tuple[int, int], tuple[ServiceAddress, ...]] = {}
    for chain in chains:
        for rule in chain.rules if chain.name == MARK else ():
            value, _, mask = dict(rule.target_options).get("set-xmark", "").partition("/")
            address = _destination(rule, chain.family)
            if rule.target == "MARK" and address and mask == "0xffffffff" and value.startswith("0x"):
                key = chain.family, int(value, 16)
                members[key] = (*members.get(key, ()), address)
    return members


def _destination(rule: Rule, family: int) -> ServiceAddress | None:
    """The address, protocol and port that a rule of ours names; None for one made by hand that says something else."""
    port = dict(rule.matches[0].options).get("dport", "") if rule.matches else "0"
    if not (port.isdigit() and is_host(rule.destination) and rule.protocol):
        return None
    return ServiceAddress(rule.protocol, family, rule.destination, int(port))


def _sysctls(found: Found) -> Iterator[tuple[str, str]]:
    """IPVS's sysctls that are not as the kernel starts with, but for those that have words of their own in the file."""
    for name, value in sorted(found.sysctls.items()):
        row = find(name) if name.startswith("net.ipv4.vs.") and name not in (CONNTRACK, SNAT_REROUTE) else None
        if row and row.writable and value is not None and row.default is not None and value != row.default:
            yield name, value


def _nfct(found: Found) -> Nfct | None:
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


def _firewall(found: Found) -> FirewallWish | None:
    chains = [chain for chain in found.chains if chain.table == "filter"]
    if not any(chain.name in (INPUT, FORWARD, FORWARD_DROP) for chain in chains):
        return None
    rules = [rule for chain in chains if chain.name == INPUT for rule in chain.rules]
    protect = dict.fromkeys(rule.destination for rule in rules if rule.target == "DROP" and is_host(rule.destination))
    clients = dict.fromkeys(rule.source for rule in rules if rule.target == "ACCEPT" and is_host(rule.source))
    drop = any(chain.name == FORWARD_DROP for chain in chains)
    return FirewallWish(found.backend, tuple(protect), "drop" if drop else "accept", tuple(clients))
