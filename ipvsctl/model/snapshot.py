"""Everything that decides a packet's way through a host, as values: devices, routes, rules, sysctls, services.

A snapshot is read from a running host, from a file, or built of a director file; the emulated datapath starts from
one. Addresses are canonical text, "ADDRESS/LENGTH" where a prefix is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.rule import Rule
from ipvsctl.model.status import Timeouts


@dataclass(frozen=True, slots=True)
class Device:
    """A network device that is up. `addresses` bring their local and connected routes with them, as in the kernel.

    `hosts` are the neighbours that answer on the link; None: every address does.
    """

    name: str
    addresses: tuple[str, ...] = ()
    mtu: int = 1500
    hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SavedRule:
    """A rule of a table with its counters; `goto` when it was written -g instead of -j."""

    rule: Rule
    packets: int = 0
    bytes: int = 0
    goto: bool = False


@dataclass(frozen=True, slots=True)
class SavedChain:
    """A chain of a table; `policy` ACCEPT or DROP for a built-in one, "" for a user's, which has no counters."""

    name: str
    policy: str = ""
    rules: tuple[SavedRule, ...] = ()
    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SavedTable:
    """A table as iptables-save prints it: `family` INET or INET6, `name` raw, mangle, nat or filter."""

    family: int
    name: str
    chains: tuple[SavedChain, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A host's configuration.

    `sysctls` are those that differ from the kernel's defaults or that were read, by name with dots; `modules` those of
    ip_vs_ftp, nf_conntrack_ftp that are loaded; `services` with their servers in the order in which they were added
    (the kernel's list is the other way round). `tables` that exist, rules or not. `notes` say what decides beside all
    this and could not be read.
    """

    devices: tuple[Device, ...] = ()
    routes: tuple[Route, ...] = ()
    policy: tuple[PolicyRule, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    tables: tuple[SavedTable, ...] = ()
    services: tuple[ServiceWish, ...] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)
    notes: tuple[str, ...] = ()
