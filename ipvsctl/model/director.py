"""A director: as its file asks for it, as a host must be to be one, and as a host was found.

`Director` speaks the words of the director file. knowledge/recipes.py turns it into `Wanted`: the modules, rules,
sysctls and services that make it real. `Found` is the part of a host's state that a comparison needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Daemon, ServiceStatus, Timeouts

BACKENDS = ("auto", "iptables-legacy", "iptables-nft", "nft")
FORWARD_POLICIES = ("drop", "accept")
HELPERS = ("ftp",)


@dataclass(frozen=True, slots=True)
class ServiceWish:
    """A service with its servers in the order of the file; `helper` "ftp" or None.

    `members` of a firewall mark's service: the addresses and ports whose packets get the mark (port 0: every port).
    """

    service: Service
    servers: tuple[Server, ...] = ()
    helper: str | None = None
    members: tuple[ServiceAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Nfct:
    """Connection tracking for IPVS. None: not named in the file, left as it is. `accept_local` names devices."""

    conntrack: bool | None = None
    snat_reroute: bool | None = None
    be_liberal: bool | None = None
    accept_local: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirewallWish:
    """The firewall around the virtual addresses `protect`; see CLI contract. Addresses are canonical text."""

    backend: str = "auto"
    protect: tuple[str, ...] = ()
    forward_policy: str = "drop"
    local_clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Uplink:
    """A way to the clients of a virtual address of its own: replies from `address` leave by `device` to `gateway` (S4).

    `table` is the routing table for it, 0 for one that ipvsctl chooses. Addresses are canonical text of one family.
    """

    address: str
    device: str
    gateway: str
    table: int = 0


@dataclass(frozen=True, slots=True)
class Director:
    """A whole director file. `sysctls` in the file's order; `syncs` None when the file has no [[sync]]."""

    services: tuple[ServiceWish, ...] = ()
    nfct: Nfct | None = None
    firewall: FirewallWish | None = None
    sysctls: tuple[tuple[str, str], ...] = ()
    timeouts: Timeouts | None = None
    syncs: tuple[Daemon, ...] | None = None
    uplinks: tuple[Uplink, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a host must have to be the director. None: nothing is said about it.

    `chains` are all own chains there should be; `notes` what the administrator should know of the translation.
    """

    modules: tuple[str, ...] = ()
    backend: str = "auto"
    chains: tuple[OwnChain, ...] | None = None
    sysctls: tuple[tuple[str, str], ...] = ()
    timeouts: Timeouts | None = None
    daemons: tuple[Daemon, ...] | None = None
    services: tuple[ServiceWish, ...] | None = None
    routes: tuple[Route, ...] | None = None
    policy: tuple[PolicyRule, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a host has, as far as it was asked. `modules` maps names to "loaded", "loadable" or "absent".

    `tables` are the firewall tables that exist, by family and name.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    backend: str = "iptables-legacy"
    tables: frozenset[tuple[int, str]] = frozenset()
    chains: tuple[OwnChain, ...] = ()
    sysctls: Mapping[str, str | None] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    daemons: tuple[Daemon, ...] = ()
    services: Mapping[ServiceAddress, ServiceStatus] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    policy: tuple[PolicyRule, ...] = ()
    notes: tuple[str, ...] = ()
