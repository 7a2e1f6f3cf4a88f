"""Checks of nftables' tables of others: what they do to the packets of services, where that is certain.

A packet is walked through a base chain with three answers to every condition: yes, no, and nobody knows. Only what is
dropped whatever nobody knows may be is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from ipvsctl.knowledge.checks.base import Check, Seen, check
from ipvsctl.knowledge.checks.services import is_ftp
from ipvsctl.knowledge.names import CONNTRACK
from ipvsctl.model.address import INET6
from ipvsctl.model.facts import Facts
from ipvsctl.model.foreign import Condition, ForeignChain, ForeignRule

Packet = Mapping[str, str]
"""What is known of a packet, by the kinds of conditions."""

_DEEPEST = 16
_NUMBERS = {"6": "tcp", "17": "udp", "132": "sctp"}
_TABLE_FAMILIES = {"ipv4": ("inet", "ip"), "ipv6": ("inet", "ip6")}


def holds(condition: Condition, packet: Packet) -> bool | None:
    """Whether a packet meets a condition; None when nobody knows."""
    value = packet.get(condition.kind)
    if value is None:
        # The device is not known, but a remote client's packets have nothing to do with the loopback device.
        loopback = condition.kind.endswith("device") and all(low == "lo" for low, _ in condition.values)
        return condition.negated if loopback else None
    if condition.kind.endswith("port"):
        try:
            hit = any(int(low) <= int(value) <= int(high) for low, high in condition.values)
        except ValueError:
            return None
    elif condition.kind in ("source", "destination"):
        try:
            address = ip_address(value)
            hit = any(
                ip_address(low).version == address.version and int(ip_address(low)) <= int(address)
                <= int(ip_address(high)) for low, high in condition.values
            )  # fmt: skip
        except ValueError:
            return None
    else:
        hit = any(value == _NUMBERS.get(low, low) for low, _ in condition.values)
    return hit != condition.negated


def outcomes(
    chain: ForeignChain, chains: Mapping[tuple[str, str], ForeignChain], packet: Packet, depth: int = 0
) -> set[str]:
    """What may become of a packet: accept, drop, or (of a chain that another calls) return."""
    found: set[str] = set()
    if depth > _DEEPEST:
        return {"accept", "drop"}
    for rule in chain.rules:
        answers = [holds(condition, packet) for condition in rule.conditions]
        if False in answers or not rule.verdict:
            continue
        results = _results(rule, chain, chains, packet, depth)
        found |= results - {"continue"}
        if None not in answers and "continue" not in results:
            return found
    return found | {chain.policy or "return"}


def _results(
    rule: ForeignRule, chain: ForeignChain, chains: Mapping[tuple[str, str], ForeignChain], packet: Packet, depth: int
) -> set[str]:
    if rule.verdict == "?":
        return {"accept", "drop", "continue"}
    if rule.verdict == "return":
        return {chain.policy or "return"}
    if rule.verdict not in ("jump", "goto"):
        return {rule.verdict}
    called = chains.get((chain.table, rule.target))
    if called is None:
        return {"accept", "drop", "continue"}
    after = "continue" if rule.verdict == "jump" else chain.policy or "return"
    return {after if each == "return" else each for each in outcomes(called, chains, packet, depth + 1)}


def _packets(facts: Facts) -> Iterator[tuple[str, str, str, Packet, str]]:
    """Service, what the packet is, the hook it passes, what is known of it, and the expression that would accept it."""
    for status in facts.services:
        service = status.service.address
        if service.protocol not in ("tcp", "udp") or not service.port or not facts.is_local(service.address):
            continue
        six = service.family == INET6
        # The FTP helper of IPVS has its connections tracked in any case (S12).
        on = facts.is_on(CONNTRACK) or (is_ftp(status) and bool(facts.ftp_ports))
        family, name = ("ipv6", "ip6") if six else ("ipv4", "ip")
        common = {"protocol": service.protocol, "family": family}
        yield (
            str(service), "new connections", "INPUT",
            common | {"destination": service.address, "destination-port": str(service.port), "state": "new"},
            f"{name} daddr {service.address} {service.protocol} dport {service.port} accept",
        )  # fmt: skip
        seen = set[str]()
        for server in status.servers:
            address = server.server.address
            if server.server.forward != "nat" or facts.is_local(address.address) or address.address in seen:
                continue
            seen.add(address.address)
            # Without entries of their own, the answer to a SYN is INVALID and a datagram back is NEW.
            state = "established" if on else "invalid" if service.protocol == "tcp" else "new"
            yield (
                str(service), f"replies of {address.address}", "FORWARD",
                common | {"source": address.address, "source-port": str(address.port or service.port), "state": state},
                f"{name} saddr {address.address} {service.protocol} sport {address.port or service.port} accept",
            )  # fmt: skip
            yield (
                str(service), f"requests to {address.address}", "OUTPUT",
                common | {"destination": address.address, "destination-port": str(address.port or service.port)},
                f"{name} daddr {address.address} {service.protocol} dport {address.port or service.port} accept",
            )  # fmt: skip


def _drops(facts: Facts) -> Iterator[Seen]:
    chains = {(chain.table, chain.name): chain for chain in facts.foreign}
    base = [chain for chain in facts.foreign if chain.hook]
    told = set[tuple[str, str]]()
    for service, what, hook, packet, accept in _packets(facts) if base else ():
        for chain in base:
            kind = chain.table.partition(" ")[0]
            if chain.hook != hook or kind not in _TABLE_FAMILIES[packet["family"]] or (service, hook) in told:
                continue
            if outcomes(chain, chains, packet) == {"drop"}:
                told.add((service, hook))
                state = f" in state {packet['state']}" if "state" in packet else ""
                yield Seen(
                    service,
                    f"nftables' table {chain.table} drops {what}{state}: nothing in chain {chain.name} (hook "
                    f"{hook.lower()}, policy {chain.policy}) accepts them, and an accept in another table does not "
                    "count",
                    f"nft insert rule {chain.table} {chain.name} {accept}",
                    "in the configuration of nftables (/etc/nftables.conf)",
                )  # fmt: skip


CHECKS: tuple[Check, ...] = (
    check("nft-drops", "a foreign table of nftables drops a service's packets", "error",
          "services sysctls links routes foreign", "S14, S15; nf_tables_core.c: nft_do_chain", _drops),
)  # fmt: skip
