"""The running host as a snapshot: all that decides a packet's way through it, read without changing anything.

Firewall tables are read as text from the tools that own them, iptables-legacy-save and iptables-nft-save; tables of
nftables that those do not know are named in the notes, because the datapath cannot evaluate them.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from ipvsctl.datapath.settings import OTHERS, OTHERS_OF_DEVICES
from ipvsctl.errors import Refused, Unavailable
from ipvsctl.formats import iptables_save
from ipvsctl.kernel import neighbours, routes
from ipvsctl.kernel.tables import existing_tables
from ipvsctl.knowledge.sysctls import SYSCTLS
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.snapshot import SavedTable, Snapshot
from ipvsctl.model.status import Timeouts

if TYPE_CHECKING:
    from ipvsctl.host import Host

MODULES = ("ip_vs_ftp", "nf_conntrack_ftp", "nf_nat_ftp")
"""Modules whose presence changes what happens to a packet."""

_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_TIMEOUT = 30
_TOOLS = {INET: "iptables", INET6: "ip6tables"}
_XTABLES = ("raw", "mangle", "nat", "filter", "security")


def read(host: Host) -> Snapshot:
    """The snapshot of the namespace that the process is in; raises Refused for what cannot be said in one."""
    devices = routes.devices()
    services: tuple[ServiceWish, ...] = ()
    timeouts = Timeouts()
    if host.modules.feature("ip_vs").state == "loaded":
        # Servers are reported newest first; a snapshot has them in the order in which they came.
        services = tuple(
            ServiceWish(status.service, tuple(server.server for server in reversed(status.servers)))
            for status in host.ipvs.services()
        )
        timeouts = host.ipvs.timeouts()
    tables, notes = _tables()
    return Snapshot(
        devices=devices,
        routes=routes.routes(),
        policy=routes.policy(),
        sysctls=dict(_sysctls(host, [device.name for device in devices])),
        modules=frozenset(name for name in MODULES if host.modules.feature(name).state == "loaded"),
        tables=tables,
        services=services,
        timeouts=timeouts,
        notes=notes,
    )


def _sysctls(host: Host, devices: list[str]) -> list[tuple[str, str]]:
    found = []
    patterns = [
        *SYSCTLS,
        *OTHERS,
        *(f"net.{f}.conf.*.{name}" for f, names in OTHERS_OF_DEVICES.items() for name in names),
    ]
    for pattern in patterns:
        names = [pattern]
        if "*" in pattern:
            names = [pattern.replace("*", device.replace(".", "/")) for device in ("all", "default", *devices)]
        for name in names:
            value = host.sysctl.get(name)
            if value is not None:
                found.append((name, value))
    return found


def _tables() -> tuple[tuple[SavedTable, ...], tuple[str, ...]]:
    """The tables of iptables, legacy and nft, and notes on those of nftables that are neither."""
    found: list[SavedTable] = []
    for family in (INET, INET6):
        if existing_tables(family):
            found += iptables_save.parse(_save(f"{_TOOLS[family]}-legacy-save"), family)
    legacy = {(table.family, table.name) for table in found}
    notes = []
    for table in neighbours.nftables():
        kind, name = table.split(maxsplit=1)
        known = {"ip": INET, "ip6": INET6}.get(kind)
        if known is None or name not in _XTABLES:
            notes.append(f"nftables' table {table} is not read: its rules decide too, see `nft list table {table}`")
            continue
        if (known, name) in legacy:
            raise Refused(f"cannot trace: table {name} exists in iptables-legacy and in nftables, and both decide")
        found += [
            each for each in iptables_save.parse(_save(f"{_TOOLS[known]}-nft-save", name), known) if each.name == name
        ]
    return tuple(found), tuple(notes)


def _save(program: str, table: str = "") -> str:
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise Unavailable(f"cannot read the firewall: {program} is not installed (Debian: iptables)")
    command = [path, "-c", *(["-t", table] if table else [])]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT
    )
    if result.returncode:
        reason = result.stderr.strip().splitlines()
        raise Refused(f"cannot read the firewall: {program} failed: {reason[0] if reason else result.returncode}")
    return result.stdout
