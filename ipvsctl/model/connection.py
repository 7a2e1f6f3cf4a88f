"""Connections as a host reports them, of IPVS and of conntrack; and what becomes of packets.

Plain tuples: a director has very many of them, and a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

from typing import NamedTuple


class ConntrackEntry(NamedTuple):
    """One nf_conntrack entry. `timeout` in seconds; `status` the IPS_* names in lower case; `helper` "" for none."""

    protocol: str
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    reply_source: str = ""
    reply_destination: str = ""
    reply_source_port: int = 0
    reply_destination_port: int = 0
    state: str = ""
    timeout: int = 0
    mark: int = 0
    helper: str = ""
    status: tuple[str, ...] = ()


class Connection(NamedTuple):
    """An entry of the IPVS connection table: client, virtual address, server; as in /proc/net/ip_vs_conn.

    `protocol` "tcp", "udp", "sctp", or "ip" for a template of a firewall mark's service, whose `virtual` is the mark as
    an address. `state` the kernel's name (ESTABLISHED, UDP, NONE ...); `expires` seconds left. `flags`, as far as the
    host tells them: the forwarding method, "template", "no-client-port", "synced" (from another director) and others.
    `pe` is the persistence engine and its data, "" for none.
    """

    protocol: str
    client: str
    client_port: int
    virtual: str
    virtual_port: int
    server: str
    server_port: int
    state: str
    expires: int = 0
    flags: tuple[str, ...] = ()
    pe: str = ""


class Expectation(NamedTuple):
    """A connection that conntrack expects because a helper, or IPVS, has seen it announced.

    The `master_` fields are the original direction of the connection that announced it. `source` "" and a port 0 mean
    any. `timeout` in seconds.
    """

    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    master_source: str
    master_source_port: int
    master_destination: str
    master_destination_port: int
    timeout: int = 0
    helper: str = ""


class ConntrackEvent(NamedTuple):
    """What became of an entry: `kind` "new", "update" or "destroy"; "lost", without one: some events came too fast."""

    kind: str
    entry: ConntrackEntry | None = None


class Fate(NamedTuple):
    """What became of a packet that an emulated director was handed, why, and what left because of it.

    `verdict` "forward", "local", "drop", "wait" (for other fragments) or "lost"; `outputs` are device and packet.
    """

    verdict: str
    reason: str = ""
    outputs: tuple[tuple[str, bytes], ...] = ()
