"""A scenario as the guest wants it: plain values, ready to be sent to the kernel, and nothing left to decide.

Every address that may become a next hop is known to the director for good, with a link address made of it, unless the
scenario says that it does not answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from ipvsctl.formats.changes import change_to_dict
from ipvsctl.model.change import AddServer, AddService, Change, SetTimeouts
from ipvsctl.model.snapshot import Snapshot
from ipvsctl.model.status import KERNEL_TIMEOUTS, Timeouts
from tests.differential.scenario import Scenario, Step

_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b[0-9a-fA-F]{0,4}:[0-9a-fA-F:]+\b")
_FIRST = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding")
"""Writing these overwrites others, so they come first."""


def job(scenario: Scenario) -> dict[str, Any]:
    """What the guest needs to play a scenario."""
    snapshot = scenario.snapshot
    changes: list[Change] = []
    if snapshot.timeouts != Timeouts():
        changes.append(SetTimeouts(snapshot.timeouts, KERNEL_TIMEOUTS))
    for wish in snapshot.services:
        changes.append(AddService(wish.service))
        changes += [AddServer(wish.service.address, server) for server in wish.servers]
    addresses = _addresses(scenario)
    return {
        "name": scenario.name,
        "modules": sorted(snapshot.modules),
        "inet6": any(len(address) == 16 for address in addresses) or "ip6tables" in scenario.rules,
        "devices": [asdict(device) for device in snapshot.devices],
        "routes": [asdict(route) for route in snapshot.routes],
        "policy": [asdict(rule) for rule in snapshot.policy],
        "sysctls": sorted(snapshot.sysctls.items(), key=lambda item: item[0] not in _FIRST),
        "neighbours": [(device, address.hex()) for device, address in _neighbours(snapshot, addresses)],
        "restore": scenario.rules,
        "changes": [change_to_dict(change) for change in changes],
        "steps": [_step(step) for step in scenario.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {"at": step.at, "do": step.do.partition("_")[0]}
    match step.do:
        case "in":
            data |= {"device": step.device, "packets": [packet.hex() for packet in step.packets]}
        case "send":
            data |= {"mark": step.mark, "packets": [packet.hex() for packet in step.packets]}
        case "change":
            assert step.change is not None
            data["change"] = change_to_dict(step.change)
        case "sysctl":
            data["sysctl"] = step.sysctls
    return data


def _addresses(scenario: Scenario) -> set[bytes]:
    """Every address that a scenario speaks of."""
    snapshot = scenario.snapshot
    texts = {text.partition("/")[0] for device in snapshot.devices for text in device.addresses}
    texts |= {route.via for route in snapshot.routes if route.via}
    texts |= {server.address.address for wish in snapshot.services for server in wish.servers}
    texts |= {wish.service.address.address for wish in snapshot.services if wish.service.address.address}
    for text in scenario.rules.values():
        texts.update(_ADDRESS.findall(text))
    found = set(_packed(texts))
    for step in scenario.steps:
        for packet in step.packets:
            if len(packet) >= 40 and packet[0] >> 4 == 6:
                found |= {packet[8:24], packet[24:40]}
            elif len(packet) >= 20:
                found |= {packet[12:16], packet[16:20]}
        server = getattr(step.change, "server", None)
        if server is not None:
            found.add(ip_address(server.address.address).packed)
    return found


def _packed(texts: Iterable[str]) -> Iterable[bytes]:
    for text in texts:
        try:
            yield ip_address(text).packed
        except ValueError:
            continue  # It only looked like one.


def _neighbours(snapshot: Snapshot, addresses: set[bytes]) -> Iterable[tuple[str, bytes]]:
    """Devices with the hosts on their links that answer."""
    own = {ip_interface(text).ip for device in snapshot.devices for text in device.addresses}
    for device in snapshot.devices:
        if device.name == "lo":
            continue
        links = [ip_interface(text).network for text in device.addresses]
        links += [ip_network(route.destination) for route in snapshot.routes
                  if route.device == device.name and not route.via and route.kind == "unicast"]  # fmt: skip
        hosts = None if device.hosts is None else {ip_address(host) for host in device.hosts}
        for packed in sorted(addresses):
            host = ip_address(packed)
            link = any(
                host in net and not (net.version == 4 and net.prefixlen < 31 and host == net.broadcast_address)
                for net in links
            )
            usable = not (host.is_multicast or host.is_unspecified or host.is_loopback or host in own)
            if link and usable and (hosts is None or host in hosts):
                yield device.name, packed
