"""What a director did in a scenario, in one form for the kernel and the emulated datapath."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ipvsctl.formats import iptables_save
from ipvsctl.formats.values import conntrack_from_dict, conntrack_to_dict, status_from_dict, status_to_dict
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.snapshot import SavedTable
from ipvsctl.model.status import Connection, ConntrackEntry, ServiceStatus

FAMILIES = {"iptables": INET, "ip6tables": INET6}


class Sent(NamedTuple):
    """A packet that left a device; `next_hop` is the address whose link address it went to, b"" when unknown."""

    device: str
    packet: bytes
    next_hop: bytes


@dataclass(slots=True)
class Result:
    """`times` are the seconds since the start at which the steps began, and last the end; `steps` what each brought.

    `error` is why there is no more; `notes` are words on the way that nothing is compared with.
    """

    name: str
    error: str = ""
    notes: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    steps: list[list[Sent]] = field(default_factory=list)
    conntrack: list[ConntrackEntry] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    services: list[ServiceStatus] = field(default_factory=list)
    tables: list[SavedTable] = field(default_factory=list)


def from_kernel(data: dict[str, Any]) -> Result:
    """The guest's line of JSON."""
    return Result(
        data["name"], data["error"], data["notes"], data["times"],
        [[Sent(device, bytes.fromhex(packet), bytes.fromhex(hop)) for device, packet, hop in step]
         for step in data["steps"]],
        [conntrack_from_dict(entry) for entry in data.get("conntrack", [])],
        [connection(line) for line in data.get("connections", [])],
        [status_from_dict(status) for status in data.get("services", [])],
        [table for program, text in data.get("tables", {}).items()
         for table in iptables_save.parse(text, FAMILIES[program])],
    )  # fmt: skip


def to_json(result: Result) -> dict[str, Any]:
    """For people and programs; tables as iptables-save prints them."""
    return {
        "name": result.name,
        "error": result.error,
        "notes": result.notes,
        "times": result.times,
        "steps": [
            [{"device": s.device, "packet": s.packet.hex(), "next_hop": s.next_hop.hex()} for s in step]
            for step in result.steps
        ],
        "conntrack": [conntrack_to_dict(entry) for entry in result.conntrack],
        "connections": [asdict(each) for each in result.connections],
        "services": [status_to_dict(status) for status in result.services],
        "tables": iptables_save.render(result.tables),
    }


def connection(line: str) -> Connection:
    """A line of /proc/net/ip_vs_conn (ip_vs_conn.c: ip_vs_conn_seq_show)."""
    words = line.split()
    protocol, client, client_port, virtual, virtual_port, server, server_port, state, expires = words[:9]
    return Connection(
        protocol.lower(), _address(client), int(client_port, 16), _address(virtual), int(virtual_port, 16),
        _address(server), int(server_port, 16), state, int(expires),
    )  # fmt: skip


def _address(text: str) -> str:
    if ":" in text:
        return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text.strip("[]")))
    return socket.inet_ntoa(bytes.fromhex(text))
