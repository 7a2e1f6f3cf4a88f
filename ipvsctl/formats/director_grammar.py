"""The grammar of the director file: its tables, their keys, and what the values of these must be.

Both the reader and the test of the manual page go by it: a key is known exactly if it is here.
"""

from __future__ import annotations

from ipvsctl.formats import director_values as values
from ipvsctl.formats.director_values import Reader, quoted
from ipvsctl.model.director import BACKENDS, FORWARD_POLICIES, HELPERS
from ipvsctl.model.service import FORWARDS, TUNNEL_CHECKSUMS, TUNNEL_TYPES

TABLES: dict[str, dict[str, Reader]] = {
    "": dict.fromkeys(("nfct", "service", "firewall", "sysctl", "timeout", "sync"), values.any_value),
    "[nfct]": {
        "conntrack": values.boolean,
        "snat_reroute": values.boolean,
        "be_liberal": values.boolean,
        "accept_local": values.array(values.device, "device names"),
    },
    "[[service]]": {
        "address": values.service_address,
        "scheduler": values.name("a scheduler's name", 15),
        "flags": values.array(values.name("a flag's name", 15), "flags"),
        "persistent": values.seconds,
        "netmask": values.netmask,
        "pe": values.name("a persistence engine's name", 16),
        "helper": values.word(*HELPERS),
        "server": values.any_value,
    },
    "[[service.server]]": {
        "address": values.text("an address such as 10.0.0.2, 10.0.0.2:8080 or [2001:db8::2]:80"),
        "forward": values.word(*FORWARDS),
        "weight": values.count,
        "upper": values.count,
        "lower": values.count,
        "tunnel": values.tunnel,
        "tunnel_port": values.port,
        "tunnel_csum": values.word(*TUNNEL_CHECKSUMS),
    },
    "tunnel": {
        "type": values.word(*TUNNEL_TYPES),
        "port": values.port,
        "csum": values.word(*TUNNEL_CHECKSUMS),
    },
    "[firewall]": {
        "backend": values.word(*BACKENDS),
        "protect": values.array(values.address, "IPv4 or IPv6 addresses"),
        "forward_policy": values.word(*FORWARD_POLICIES),
        "local_clients": values.array(values.address, "IPv4 or IPv6 addresses"),
    },
    "[timeout]": dict.fromkeys(("tcp", "tcp_fin", "udp"), values.timeout),
    "[[sync]]": {
        "role": values.word("master", "backup"),
        "interface": values.device,
        "id": values.integer(0, 255),
        "maxlen": values.integer(1, 65507, " bytes"),
        "group": values.group,
        "port": values.port,
        "ttl": values.integer(1, 255),
    },
}  # fmt: skip
"""Table, as it is written in the file -> key -> reader; "" is the file itself."""


def unknown(key: str, where: str) -> str:
    """The reason for a key that its table does not have."""
    known = TABLES[where]
    expected = ", ".join(known)
    place = where or "the file"
    homes = [table for table, keys in TABLES.items() if key in keys]
    if len(homes) == 1 and homes[0].startswith("["):
        return f"unknown key {quoted(key)} in {place}, it belongs in {homes[0]}; expected {expected}"
    near: list[str] = []
    if len(key) <= 40:
        from difflib import get_close_matches

        near = get_close_matches(key.lower().replace("-", "_"), known, 1)
    hint = f", did you mean {near[0]}?" if near else ","
    return f"unknown key {quoted(key)} in {place}{hint} expected {expected}"
