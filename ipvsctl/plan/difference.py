"""What must change on a host so that it becomes the wanted director.

The order of a plan is the order in which it is safe: modules (they bring sysctls and rules' extensions into being),
rules (nothing is reachable before it is protected), sysctls (ip_forward opens the way), timeouts, synchronisation, and
services last, because a virtual address answers from then on. Inside a service additions come before deletions, so that
it is never without a server that it will have in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ipvsctl.model.change import (
    AddServer,
    AddService,
    Change,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    LoadModule,
    ReplaceRules,
    SetSysctl,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
)
from ipvsctl.model.director import Found, ServiceWish, Wanted
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.status import Daemon, ServiceStatus, Timeouts

FORWARDING = {
    "net.ipv4.ip_forward": "net.ipv4.conf.",
    "net.ipv4.conf.all.forwarding": "net.ipv4.conf.",
    "net.ipv6.conf.all.forwarding": "net.ipv6.conf.",
}
"""Sysctls that overwrite others when they are set, and where those are."""

_DEFENSES = tuple(f"net.ipv4.vs.{name}" for name in ("drop_entry", "drop_packet", "secure_tcp"))


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in the order to make them, and what the administrator should know of them."""

    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()


def difference(wanted: Wanted, found: Found, prune: bool = False) -> Plan:
    """The plan that makes a host as found into what is wanted; an empty one when it is that already.

    A service that is named is described wholly: servers it has beyond those named are deleted. With `prune`, services,
    synchronisation daemons and own rules that are not named are removed as well; without, they are left alone.
    """
    changes: list[Change] = [LoadModule(name) for name in wanted.modules if found.modules.get(name) != "loaded"]
    chains = wanted.chains if wanted.chains is not None else () if prune else None
    if chains is not None:
        changes += rule_changes(chains, found)
    changes += sysctl_changes(wanted.sysctls, found)
    if wanted.timeouts is not None and (timeouts := _timeouts(wanted.timeouts, found.timeouts)):
        changes.append(timeouts)
    daemons = wanted.daemons if wanted.daemons is not None else () if prune else None
    if daemons is not None:
        changes += _daemon_changes(daemons, found.daemons, prune)
    wishes = wanted.services if wanted.services is not None else () if prune else None
    if wishes is not None:
        for wish in wishes:
            changes += service_changes(wish, found.services.get(wish.service.address))
        if prune:
            named = {wish.service.address for wish in wishes}
            changes += (delete_service(status) for address, status in found.services.items() if address not in named)
    return Plan(tuple(changes), (*wanted.notes, *found.notes))


def delete_service(status: ServiceStatus) -> DeleteService:
    """The deletion of a service as found, with what brings its servers back."""
    return DeleteService(status.service, tuple(server.server for server in status.servers))


def service_changes(wish: ServiceWish, status: ServiceStatus | None) -> Iterator[Change]:
    """Changes that make one service, as found or absent, into the wished one."""
    service = wish.service
    address = service.address
    if status is None:
        yield AddService(service)
        for server in wish.servers:
            yield AddServer(address, server)
        return
    if service != status.service:
        yield EditService(service, status.service)
    present = {server.server.address: server.server for server in status.servers}
    for server in wish.servers:
        before = present.pop(server.address, None)
        if before is None:
            yield AddServer(address, server)
        elif before != server:
            yield EditServer(address, server, before)
    for server in present.values():
        yield DeleteServer(address, server)


def rule_changes(wanted: tuple[OwnChain, ...], found: Found) -> Iterator[ReplaceRules]:
    """One change for each table of each family whose own chains differ."""
    for family, table in sorted({(chain.family, chain.table) for chain in (*wanted, *found.chains)}):
        after, before = (
            tuple(sorted((c for c in chains if (c.family, c.table) == (family, table)), key=lambda c: c.name))
            for chains in (wanted, found.chains)
        )
        if after != before:
            creates = (family, table) not in found.tables
            yield ReplaceRules(found.backend, family, table, after, before, creates=creates)


def sysctl_changes(sysctls: tuple[tuple[str, str], ...], found: Found) -> Iterator[SetSysctl]:
    """Changes of the sysctls whose value differs; one that does not exist yet is expected to when its turn comes."""
    overwritten: set[str] = set()
    for name, value in sysctls:
        before = found.sysctls.get(name)
        same = before is not None and (before.split() == value.split() or _switched(name, before, value))
        if not same or name in overwritten:
            change = SetSysctl(name, value, before, _resets(name, found))
            overwritten.update(other for other, _ in change.resets)
            yield change


def _resets(name: str, found: Found) -> tuple[tuple[str, str], ...]:
    """Values that setting a general forwarding sysctl overwrites: every device's, and accept_redirects of all."""
    prefix = FORWARDING.get(name)
    if prefix is None:
        return ()
    others = {"net.ipv4.ip_forward", "net.ipv4.conf.all.accept_redirects"} if prefix == "net.ipv4.conf." else set()
    return tuple(
        (other, value)
        for other, value in sorted(found.sysctls.items())
        if value is not None
        and other != name
        and (other in others or (other.startswith(prefix) and other.endswith(".forwarding")))
    )


def _switched(name: str, before: str, value: str) -> bool:
    """In modes 1 and 2 these switch between the two by themselves (ip_vs_ctl.c: update_defense_level)."""
    return name in _DEFENSES and {before, value} == {"1", "2"}


def _timeouts(wanted: Timeouts, found: Timeouts) -> SetTimeouts | None:
    new = Timeouts(wanted.tcp or found.tcp, wanted.tcp_fin or found.tcp_fin, wanted.udp or found.udp)
    return SetTimeouts(new, found) if new != found else None


def _daemon_changes(wanted: tuple[Daemon, ...], found: tuple[Daemon, ...], prune: bool) -> Iterator[Change]:
    running = {daemon.role: daemon for daemon in found}
    for daemon in wanted:
        before = running.pop(daemon.role, None)
        if before is None:
            yield StartDaemon(daemon)
        elif not _same_daemon(daemon, before):
            yield StopDaemon(before)
            yield StartDaemon(daemon)
    if prune:
        for daemon in running.values():
            yield StopDaemon(daemon)


def _same_daemon(wanted: Daemon, found: Daemon) -> bool:
    """Settings that the request leaves open (0, "") may be anything."""
    if (wanted.interface, wanted.id) != (found.interface, found.id):
        return False
    return all(getattr(wanted, name) in (0, "", getattr(found, name)) for name in ("maxlen", "group", "port", "ttl"))
