"""The firewall of the NFCT description (S14): what reaches a protected address, and what is forwarded.

Services are accepted by their port and not by a state: of one-way traffic, dr and tun servers that answer past the
director, every packet after the SYN is INVALID (S18). Nothing here drops by state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ipvsctl.knowledge.names import FORWARD, FORWARD_DROP, INPUT, unique
from ipvsctl.knowledge.rules_raw import port_match
from ipvsctl.model.address import ServiceAddress, parse_ip
from ipvsctl.model.director import FirewallWish, ServiceWish
from ipvsctl.model.rule import Match, OwnChain, Rule

_TRACKED = Match("conntrack", (("ctstate", "RELATED,ESTABLISHED"),))
_DATA = (Match("tcp", (("sport", "20"),)),)
_PROTOCOLS = ("tcp", "udp", "sctp")


def firewall_chains(services: Sequence[ServiceWish], wish: FirewallWish, gateway: bool) -> list[OwnChain]:
    """Chains of the filter table. `gateway`: dr and tun servers answer through the director.

    INPUT and FORWARD jump to the accepting chains first, so that a general refusal of the administrator's does not shut
    the services; the drop at the end of FORWARD comes last, so that what the administrator accepts stays accepted.
    """
    chains = []
    addresses = [parse_ip(text) for text in wish.protect]
    clients = [parse_ip(text) for text in wish.local_clients]
    families = {family for family, _ in addresses} | {each.service.address.family for each in services}
    accepted = _service_rules(services)
    for family in sorted(families):
        rules: list[Rule] = []
        for known, address in addresses:
            if known == family:
                rules.append(Rule("ACCEPT", destination=address, matches=(_TRACKED,)))
                rules += accepted.get((family, address), ())
                rules += (replace(rule, destination=address) for rule in accepted.get((family, ""), ()))
        rules += [Rule("ACCEPT", protocol="tcp", source=text) for known, text in clients if known == family]
        if rules:
            for known, address in addresses:
                if known == family:
                    rules += [Rule("DROP", protocol=protocol, destination=address) for protocol in _PROTOCOLS]
            chains.append(OwnChain(family, "filter", INPUT, "INPUT", tuple(rules)))
        forwarded = [Rule("ACCEPT", matches=(_TRACKED,)), *(_data_rules(services, family) if gateway else ())]
        chains.append(OwnChain(family, "filter", FORWARD, "FORWARD", tuple(forwarded)))
        if wish.forward_policy == "drop":
            chains.append(OwnChain(family, "filter", FORWARD_DROP, "FORWARD", (Rule("DROP"),), place="last"))
    return chains


def _service_rules(services: Iterable[ServiceWish]) -> dict[tuple[int, str], list[Rule]]:
    """Acceptance of packets to services: by family and address, those of firewall marks (any address) by ""."""
    found: dict[tuple[int, str], list[Rule]] = {}
    for wish in services:
        service: ServiceAddress = wish.service.address
        if service.protocol == "fwmark":
            rule = Rule("ACCEPT", matches=(Match("mark", (("mark", f"{service.fwmark:#x}"),)),))
        else:
            rule = Rule("ACCEPT", service.protocol, destination=service.address, matches=port_match(service))
        found.setdefault((service.family, service.address), []).append(rule)
    return found


def _data_rules(services: Iterable[ServiceWish], family: int) -> list[Rule]:
    """Active FTP of tun servers: data connections from port 20 are NEW (S10)."""
    sources = unique(
        wish.service.address.address
        for wish in services
        if wish.helper == "ftp"
        and wish.service.address.family == family
        and any(server.forward == "tun" for server in wish.servers)
    )
    return [Rule("ACCEPT", "tcp", source=address, matches=_DATA) for address in sources]
