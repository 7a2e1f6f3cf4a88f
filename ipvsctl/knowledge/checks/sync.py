"""Checks of the synchronisation of connections between directors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ipvsctl.knowledge.checks.base import IN_FILE, Check, Seen, by_sysctl, check, count, some
from ipvsctl.knowledge.names import CONNTRACK
from ipvsctl.model.address import INET6, ServiceAddress
from ipvsctl.model.facts import ConnectionGroup, Facts


def _local_synced(facts: Facts) -> Iterator[Seen]:
    backup = any(daemon.role == "backup" for daemon in facts.daemons)
    for status, server in facts.pairs("nat"):
        address = server.server.address
        if backup and facts.is_on(CONNTRACK) and facts.is_local(address.address):
            yield Seen(
                f"{status.service.address} {address}",
                f"a nat server on the director itself: packets of connections that were synchronised from another "
                f"director are dropped while {CONNTRACK}=1",
                f"ipvsctl server edit {status.service.address} {address} --forward dr", 'forward = "dr" of the server',
            )  # fmt: skip


def _backup_only(facts: Facts) -> Iterator[Seen]:
    name = "net.ipv4.vs.backup_only"
    if facts.is_on(name) and any(daemon.role == "backup" for daemon in facts.daemons) and facts.services:
        live = [address for address in facts.virtual() if facts.is_local(address)]
        if live:
            yield Seen(
                name,
                f"it is on while the backup daemon runs, so that IPVS forwards nothing, and the director has the "
                f"virtual address {some(live)}: clients that come here reach no server",
                *by_sysctl(name, 0)[:2],
            )  # fmt: skip


def _sync_device(facts: Facts) -> Iterator[Seen]:
    links = {link.name: link for link in facts.links}
    for daemon in facts.daemons:
        link = links.get(daemon.interface)
        subject = f"sync {daemon.role} {daemon.interface}"
        if link is None or not link.up:
            yield Seen(
                subject, f"its device {daemon.interface} is {'not there' if link is None else 'down'}: nothing is "
                "synchronised", f"ip link set dev {daemon.interface} up", f"interface of [[sync]] {IN_FILE}",
                severity="error",
            )  # fmt: skip
        elif daemon.maxlen > link.mtu - 28:
            yield Seen(
                subject,
                f"messages of up to {daemon.maxlen} bytes do not fit into the {link.mtu} that {daemon.interface} "
                "takes: they are cut in fragments, and one that is lost loses all",
                f"ipvsctl sync stop {daemon.role} && ipvsctl sync start {daemon.role} --interface {daemon.interface} "
                f"--id {daemon.id} --maxlen {link.mtu - 28}",
                f"maxlen = {link.mtu - 28} of [[sync]] {IN_FILE}",
            )  # fmt: skip


def _sync_roles(facts: Facts) -> Iterator[Seen]:
    roles = {daemon.role: daemon for daemon in facts.daemons}
    master, backup = roles.get("master"), roles.get("backup")
    if master is None or backup is None:
        return
    for name in ("interface", "group", "port"):
        ours, theirs = getattr(master, name), getattr(backup, name)
        if ours != theirs:
            yield Seen(
                f"sync {name}",
                f"the master sends with {name} {ours}, the backup listens with {name} {theirs}: two directors that are "
                "set up alike do not hear each other",
                "ipvsctl sync stop backup && "
                f"ipvsctl sync start backup --interface {master.interface} --id {backup.id}",
                f"the same {name} in both [[sync]] {IN_FILE}",
            )  # fmt: skip


def _sync_version(facts: Facts) -> Iterator[Seen]:
    name = "net.ipv4.vs.sync_version"
    if facts.number(name) == 0 and any(daemon.role == "master" for daemon in facts.daemons):
        six = [s.service.address for s in facts.services if s.service.address.family == INET6 or s.service.pe]
        if six:
            yield Seen(
                name, f"format 0 has no words for IPv6 and persistence engines: connections of {some(six)} are not "
                "synchronised", *by_sysctl(name, 1),
            )  # fmt: skip


def _sync_foreign(facts: Facts) -> Iterator[Seen]:
    known = {(status.service.address.address, server.server.address.address) for status, server in facts.pairs()}
    marks = any(status.service.address.protocol == "fwmark" for status in facts.services)
    lost: Counter[tuple[str, str]] = Counter()
    for group in facts.connections:
        if group.synced and not marks and (group.virtual, group.server) not in known:
            lost[_where(group)] += group.count
    for (virtual, server), number in lost.items():
        yield Seen(
            f"sync {virtual}",
            f"{count(number, 'connection')} to the server {server} came from the master, and no service here has it: "
            "after a failover their packets are dropped; the directors' services differ",
            f"ipvsctl server add {virtual} {server}", "the same director file on both",
        )  # fmt: skip


def _where(group: ConnectionGroup) -> tuple[str, str]:
    address = ServiceAddress.of(group.protocol, group.virtual, group.virtual_port)
    return str(address), group.server


def _sloppy(facts: Facts) -> Iterator[Seen]:
    name = "net.ipv4.vs.sloppy_tcp"
    if facts.is_on(name) and facts.daemons:
        yield Seen(
            name, "connections are made from any packet although they are synchronised: a late packet of a closed one "
            "opens a new one to another server", *by_sysctl(name, 0)[:2],
        )  # fmt: skip


CHECKS: tuple[Check, ...] = (
    check("local-synced", "a nat server on a director that is a backup", "warning",
          "services sysctls daemons links routes", "ip_vs_xmit.c: ip_vs_nat_xmit", _local_synced),
    check("backup-only", "a backup that has the virtual address and forwards nothing", "warning",
          "services sysctls daemons links routes", "ip_vs_core.c: sysctl_backup_only", _backup_only),
    check("sync-device", "synchronisation over a device that cannot carry it", "warning", "daemons links",
          "ip_vs_sync.c: start_sync_thread", _sync_device),
    check("sync-roles", "master and backup daemon that do not match", "warning", "daemons",
          "ip_vs_sync.c: start_sync_thread", _sync_roles),
    check("sync-version", "a synchronisation format that cannot carry the services", "warning",
          "services daemons sysctls", "ip_vs_sync.c: ip_vs_sync_conn_v0", _sync_version),
    check("sync-foreign", "synchronised connections of servers that are not here", "warning", "services connections",
          "ip_vs_sync.c: ip_vs_proc_conn", _sync_foreign),
    check("sloppy", "sloppy_tcp beside synchronisation", "info", "sysctls daemons", "ip_vs_proto_tcp.c: "
          "tcp_conn_schedule", _sloppy),
)  # fmt: skip
