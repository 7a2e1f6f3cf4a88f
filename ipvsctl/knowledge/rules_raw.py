"""Rules in front of connection tracking: helpers, marks, and the check that makes accept_local safe.

The CT target assigns a helper before conntrack sees the packet (table raw). What pretends to come from an address of
ours is dropped there as well, so that it neither reaches an entry of conntrack nor makes one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from ipvsctl.knowledge.names import HELPED, MARK, MARK_OUTPUT, OUTPUT, PREROUTING, SPOOF, TRACK, tracks, unique
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.rule import Match, OwnChain, Rule


def helper_chains(services: Iterable[ServiceWish], clients: Container[int]) -> list[OwnChain]:
    """Chains of the raw table that give services their conntrack helper.

    OUTPUT as well in families with clients on the director: their connections never pass PREROUTING (S20, S21).
    """
    rules: dict[int, list[Rule]] = {}
    for wish in services:
        address = wish.service.address
        if wish.helper:
            port = address.port or HELPED[wish.helper]
            rule = _to(ServiceAddress(address.protocol, address.family, address.address, port), "CT")
            rules.setdefault(address.family, []).append(_with_options(rule, ("helper", wish.helper)))
    return _hooked("raw", rules, PREROUTING, OUTPUT, clients)


def mark_chains(services: Iterable[ServiceWish], clients: Container[int]) -> list[OwnChain]:
    """Chains of the mangle table that give the members of a firewall mark's service their mark."""
    rules: dict[int, list[Rule]] = {}
    for wish in services:
        for member in wish.members:
            mark = ("set-xmark", f"{wish.service.address.fwmark:#x}/0xffffffff")
            rules.setdefault(member.family, []).append(_with_options(_to(member, "MARK"), mark))
    return _hooked("mangle", rules, MARK, MARK_OUTPUT, clients)


def spoof_chain(family: int, devices: Sequence[str], virtual: Iterable[str]) -> OwnChain:
    """The chain that drops what comes in from addresses of our own, but for virtual ones by the servers' devices (S27).

    Packets of the host to itself come in by lo.
    """
    addresses = unique(virtual)
    local = Match("addrtype", (("src-type", "LOCAL"),))
    rules = [
        Rule("RETURN", in_interface="lo"),
        *(Rule("RETURN", in_interface=device, source=address) for device in devices for address in addresses),
        *(Rule("DROP", source=address) for address in addresses),
        *(Rule("DROP", in_interface=device, matches=(local,)) for device in devices),
    ]
    return OwnChain(family, "raw", SPOOF, "PREROUTING", tuple(rules))


def track_chains(families: Iterable[int], chains: Iterable[OwnChain]) -> Iterator[OwnChain]:
    """For each family in which none of the chains makes the kernel track, one that does, and nothing else (S3)."""
    tracked = {chain.family for chain in chains if tracks(chain)}
    nothing = Rule("RETURN", matches=(Match("conntrack", (("ctstate", "NEW"),)),))
    for family in sorted(set(families) - tracked):
        yield OwnChain(family, "filter", TRACK, "INPUT", (nothing,))


def port_match(address: ServiceAddress) -> tuple[Match, ...]:
    """The match on a service's port; none for every port."""
    return (Match(address.protocol, (("dport", str(address.port)),)),) if address.port else ()


def _to(address: ServiceAddress, target: str) -> Rule:
    return Rule(target, address.protocol, destination=address.address, matches=port_match(address))


def _with_options(rule: Rule, *options: tuple[str, str]) -> Rule:
    return Rule(rule.target, rule.protocol, "", rule.destination, matches=rule.matches, target_options=options)


def _hooked(
    table: str, rules: dict[int, list[Rule]], incoming: str, outgoing: str, clients: Container[int]
) -> list[OwnChain]:
    chains = []
    for family, found in rules.items():
        chains.append(OwnChain(family, table, incoming, "PREROUTING", tuple(found)))
        if family in clients:
            chains.append(OwnChain(family, table, outgoing, "OUTPUT", tuple(found)))
    return chains
