"""Reading the evidence that doctor's checks look at, from a host or from a saved state.

Looking changes nothing: a module that is not loaded is not asked. What cannot be read is missing with its reason, and
everything else is read all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from ipvsctl.datapath.settings import Settings
from ipvsctl.errors import IpvsctlError, NotPermitted
from ipvsctl.host import Host
from ipvsctl.knowledge.schedulers import SCHEDULERS
from ipvsctl.knowledge.sysctls import SYSCTLS
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.facts import PARTS, ConnectionGroup, Facts, FlowGroup, Journey, Link, LinkAddress
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.model.status import Connection, ConntrackEntry, ServerStatus, ServiceStatus
from ipvsctl.plan.witness import journeys

FEATURES = ("ip_vs", "ip_vs_nfct", "ip_vs_ftp", "nf_conntrack", "nf_conntrack_ftp", "xt_CT")
FROM_FILE = ("services", "sysctls", "tables", "nft", "foreign", "links", "routes", "journeys")
"""Parts that a saved state tells."""

_CLIENTS = 5
T = TypeVar("T")


class _Reader:
    """Reads part after part, and notes what cannot be read."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        self.missing = dict(missing)
        self.refusals: list[IpvsctlError] = []

    def part(self, name: str, read: Callable[[], T]) -> T | None:
        """What `read` gives; None when it may not or cannot."""
        try:
            return read()
        except IpvsctlError as error:
            self.missing[name] = str(error)
            self.refusals.append(error)
            return None


def examine(host: Host) -> Facts:
    """The evidence of a running host.

    Raises NotPermitted or Unavailable when nothing that a check could be made of can be read.
    """
    facts = host.evidence()
    reader = _Reader(facts.missing)
    state = host.modules.feature("ip_vs")
    loaded = state.state == "loaded"
    notes = list(facts.notes)
    if not loaded:
        notes.append(f"IPVS is not loaded ({state.evidence}): there are no services to look at")
    services = tuple(reader.part("services", host.ipvs.services) or ()) if loaded else ()
    if "services" not in reader.missing and loaded:
        facts = replace(facts, timeouts=host.ipvs.timeouts(), table_size=host.ipvs.info().table_size)
    names = {server.server.address.address for status in services for server in status.servers}
    virtual = {status.service.address.address for status in services}
    facts = replace(
        facts,
        services=services,
        daemons=tuple(reader.part("daemons", host.ipvs.daemons) or ()) if loaded else (),
        sysctls=reader.part("sysctls", lambda: _sysctls(host)) or {},
        features=reader.part("features", lambda: _features(host, services)) or {},
        own=reader.part("own", lambda: _own(host)) or (),
        flows=reader.part("flows", lambda: _flows(host.conntrack.stream(), virtual, names)) or (),
        expectations=reader.part("flows", lambda: len(host.conntrack.expectations())) or 0,
        connections=(reader.part("connections", lambda: _connections(host.connections())) or ()) if loaded else (),
    )
    reader.missing |= {"journeys": "the services are not known"} if "services" in reader.missing else {}
    trials, note = (reader.part("journeys", lambda: _trials(host, facts)) or ((), "")) if services else ((), "")
    if not any(part not in reader.missing for part in ("services", "sysctls", "tables", "links")):
        raise next((e for e in reader.refusals if isinstance(e, NotPermitted)), reader.refusals[0])
    return replace(facts, journeys=trials, notes=(*notes, *filter(None, [note])), missing=reader.missing)


def _trials(host: Host, facts: Facts) -> tuple[tuple[Journey, ...], str]:
    """Trial connections; where several back ends have rules a packet must pass each of them, so each is tried."""
    if len(facts.tables) < 2 or {"links", "routes"} & facts.missing.keys():
        return journeys(host.snapshot())
    found: dict[tuple[str, str, str], Journey] = {}
    note = ""
    for backend in facts.tables:
        trials, note = journeys(_with_rules_of(facts, backend))
        for trial in trials:
            key = trial.service, trial.forward, trial.session
            if key not in found or (trial.lost and not found[key].lost):
                found[key] = trial
    return tuple(found.values()), note


def _with_rules_of(facts: Facts, backend: str) -> Snapshot:
    """The host with the tables of one back end, and those of others that it has not."""
    tables = {(table.family, table.name): table for other in facts.tables.values() for table in other}
    tables |= {(table.family, table.name): table for table in facts.tables[backend]}
    return Snapshot(
        devices=tuple(
            Device(link.name, tuple(address.text for address in link.addresses), link.mtu)
            for link in facts.links if link.up
        ),
        routes=facts.routes,
        policy=facts.policy,
        sysctls=facts.sysctls,
        modules=frozenset(name for name, state in facts.features.items() if state == "loaded"),
        tables=tuple(tables.values()),
        services=tuple(
            ServiceWish(status.service, tuple(server.server for server in reversed(status.servers)))
            for status in facts.services
        ),
        timeouts=facts.timeouts,
    )  # fmt: skip


def facts_of(snapshot: Snapshot, *, assumed: bool = False) -> Facts:
    """The evidence of a saved state; `assumed`: its network is made up around a director file, and is no evidence."""
    reader = _Reader(dict.fromkeys(PARTS.keys() - set(FROM_FILE), "a file does not tell"))
    if assumed:
        unknown = ("links", "routes", "tables", "nft", "foreign")
        reader.missing |= dict.fromkeys(unknown, "a director file does not tell")
    trials, note = reader.part("journeys", lambda: journeys(snapshot)) or ((), "")
    return replace(
        network_of(snapshot),
        services=tuple(
            ServiceStatus(wish.service, tuple(ServerStatus(server) for server in reversed(wish.servers)))
            for wish in snapshot.services
        ),
        timeouts=snapshot.timeouts,
        sysctls=_defaults(snapshot),
        journeys=trials,
        notes=(*snapshot.notes, *filter(None, [note])),
        missing=reader.missing,
    )


def network_of(snapshot: Snapshot) -> Facts:
    """Devices, routes and tables of a saved state."""
    links = tuple(
        Link(device.name, True, device.mtu, "", tuple(LinkAddress(text) for text in device.addresses))
        for device in snapshot.devices
    )
    return Facts(
        tables={"iptables": snapshot.tables} if snapshot.tables else {},
        links=links,
        routes=snapshot.routes,
        policy=snapshot.policy,
    )


def _sysctls(host: Host) -> dict[str, str]:
    """Every sysctl that knowledge/ knows and the host has, those of devices for each of them."""
    names: list[str] = []
    there: dict[str, list[str]] = {}
    for name in SYSCTLS:
        prefix, star, suffix = name.partition("*")
        if star:
            if prefix not in there:
                there[prefix] = host.sysctl.names(prefix)
            names += (each for each in there[prefix] if each.endswith(suffix))
        else:
            names.append(name)
    values = ((name, host.sysctl.get(name)) for name in names)
    return {name: value for name, value in values if value is not None}


def _defaults(snapshot: Snapshot) -> dict[str, str]:
    """The sysctls of a saved state: those that it does not name have the kernel's defaults."""
    settings = Settings(snapshot.sysctls)
    found: dict[str, str] = {}
    for name, row in SYSCTLS.items():
        if "*" not in name:
            if row.default is not None:
                found[name] = settings.text.get(name, row.default)
            continue
        family, last = name.split(".")[1], name.rpartition(".")[2]
        found[name.replace("*", "all")] = str(settings.everywhere(family, last))
        for device in snapshot.devices:
            where = device.name.replace(".", "/")
            found[name.replace("*", where)] = str(settings.device(family, device.name, last))
    found["net.ipv4.ip_forward"] = str(settings["net.ipv4.ip_forward"])
    return found | dict(snapshot.sysctls)


def _features(host: Host, services: Iterable[ServiceStatus]) -> dict[str, str]:
    schedulers = {status.service.scheduler for status in services} & SCHEDULERS.keys()
    names = [*FEATURES, *sorted(SCHEDULERS[name].module for name in schedulers)]
    return {name: host.modules.feature(name).state for name in names}


def _own(host: Host) -> tuple[OwnChain, ...]:
    return tuple(chain for backend in host.firewall.owners() for chain in host.firewall.chains(backend))


def _flows(entries: Iterable[ConntrackEntry], virtual: set[str], servers: set[str]) -> tuple[FlowGroup, ...]:
    """The entries of services, or of servers, counted by what checks ask for."""
    groups: Counter[tuple[str, str, int, str, str, bool, str]] = Counter()
    for entry in entries:
        if entry.destination in virtual or entry.source in servers or entry.reply_source in servers:
            groups[
                entry.protocol, entry.destination, entry.destination_port, entry.reply_source, entry.state,
                "seen_reply" in entry.status, entry.helper,
            ] += 1  # fmt: skip
    return tuple(FlowGroup(*key, number) for key, number in sorted(groups.items()))


def _connections(entries: Iterable[Connection]) -> tuple[ConnectionGroup, ...]:
    """The connections, counted by service, server and state."""
    groups: Counter[tuple[str, str, int, str, int, str, bool]] = Counter()
    clients: dict[tuple[str, str, int, str, int, str, bool], list[str]] = {}
    for entry in entries:
        if "template" in entry.flags:
            continue
        key = (
            entry.protocol, entry.virtual, entry.virtual_port, entry.server, entry.server_port, entry.state,
            "synced" in entry.flags,
        )  # fmt: skip
        groups[key] += 1
        known = clients.setdefault(key, [])
        if len(known) < _CLIENTS and entry.client not in known:
            known.append(entry.client)
    return tuple(
        ConnectionGroup(*key[:6], number, tuple(clients[key]), key[6]) for key, number in sorted(groups.items())
    )
