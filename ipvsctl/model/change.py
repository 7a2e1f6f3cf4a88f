"""A change is a value: what is to be done, what was there before, and so what undoes it.

Every class has a `kind` (the word in JSON), `str()` (the line a person reads) and `inverse()`: the changes that bring
back what was there, in the order to run them. Nothing here touches a host; plan.py runs changes through a host's ports.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.rule import OwnChain
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Daemon, Timeouts


@dataclass(frozen=True, slots=True)
class AddService:
    kind: ClassVar[str] = "add-service"
    service: Service

    def inverse(self) -> tuple[Change, ...]:
        return (DeleteService(self.service),)

    def __str__(self) -> str:
        return f"add service {self.service.address}{_settings(self.service, Service(self.service.address, '-'))}"


@dataclass(frozen=True, slots=True)
class EditService:
    """Replace every setting of a service; its address stays."""

    kind: ClassVar[str] = "edit-service"
    service: Service
    before: Service

    def inverse(self) -> tuple[Change, ...]:
        return (EditService(self.before, self.service),)

    def __str__(self) -> str:
        return f"edit service {self.service.address}{_differences(self.before, self.service)}"


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Delete a service with its servers, given in the host's order: most recently added first."""

    kind: ClassVar[str] = "delete-service"
    service: Service
    servers: tuple[Server, ...] = ()

    def inverse(self) -> tuple[Change, ...]:
        address = self.service.address
        return (AddService(self.service), *(AddServer(address, server) for server in reversed(self.servers)))

    def __str__(self) -> str:
        count = len(self.servers)
        return f"delete service {self.service.address}" + (f" with {count} server{'s'[: count > 1]}" if count else "")


@dataclass(frozen=True, slots=True)
class AddServer:
    kind: ClassVar[str] = "add-server"
    service: ServiceAddress
    server: Server

    def inverse(self) -> tuple[Change, ...]:
        return (DeleteServer(self.service, self.server),)

    def __str__(self) -> str:
        settings = _settings(self.server, Server(self.server.address, "local"))
        return f"add server {self.server.address} to {self.service}{settings}"


@dataclass(frozen=True, slots=True)
class EditServer:
    """Replace every setting of a server; its address and its place in the service's list stay."""

    kind: ClassVar[str] = "edit-server"
    service: ServiceAddress
    server: Server
    before: Server

    def inverse(self) -> tuple[Change, ...]:
        return (EditServer(self.service, self.before, self.server),)

    def __str__(self) -> str:
        return f"edit server {self.server.address} of {self.service}{_differences(self.before, self.server)}"


@dataclass(frozen=True, slots=True)
class DeleteServer:
    kind: ClassVar[str] = "delete-server"
    service: ServiceAddress
    server: Server

    def inverse(self) -> tuple[Change, ...]:
        return (AddServer(self.service, self.server),)

    def __str__(self) -> str:
        return f"delete server {self.server.address} of {self.service}"


@dataclass(frozen=True, slots=True)
class ZeroCounters:
    """Set the counters of a service and its servers, or of all, to zero. Nothing brings counters back."""

    kind: ClassVar[str] = "zero-counters"
    service: ServiceAddress | None = None

    def inverse(self) -> tuple[Change, ...]:
        return ()

    def __str__(self) -> str:
        return f"zero the counters of {self.service or 'every service'}"


@dataclass(frozen=True, slots=True)
class SetTimeouts:
    """Set the timeouts that are not 0; `before` has what all three were."""

    kind: ClassVar[str] = "set-timeouts"
    timeouts: Timeouts
    before: Timeouts

    def inverse(self) -> tuple[Change, ...]:
        new, old = self.timeouts, self.before
        return (SetTimeouts(old, Timeouts(new.tcp or old.tcp, new.tcp_fin or old.tcp_fin, new.udp or old.udp)),)

    def __str__(self) -> str:
        return f"set timeouts{_differences(self.before, self.timeouts, unchanged=0)}"


@dataclass(frozen=True, slots=True)
class StartDaemon:
    kind: ClassVar[str] = "start-daemon"
    daemon: Daemon

    def inverse(self) -> tuple[Change, ...]:
        return (StopDaemon(self.daemon),)

    def __str__(self) -> str:
        return f"start the {self.daemon.role} synchronisation daemon on {self.daemon.interface} id {self.daemon.id}"


@dataclass(frozen=True, slots=True)
class StopDaemon:
    kind: ClassVar[str] = "stop-daemon"
    daemon: Daemon

    def inverse(self) -> tuple[Change, ...]:
        return (StartDaemon(self.daemon),)

    def __str__(self) -> str:
        return f"stop the {self.daemon.role} synchronisation daemon on {self.daemon.interface} id {self.daemon.id}"


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set a sysctl, named with dots ("net.ipv4.vs.conntrack"); a dot inside a device name is written "/".

    `before` is None when a module must be loaded before the sysctl exists: it is read when the change runs. `resets`
    holds values of other sysctls that the kernel overwrites as a side effect (ip_forward: devinet.c,
    inet_forward_change), so that undoing brings those back as well.
    """

    kind: ClassVar[str] = "set-sysctl"
    name: str
    value: str
    before: str | None = None
    resets: tuple[tuple[str, str], ...] = ()

    def inverse(self) -> tuple[Change, ...]:
        if self.before is None:
            return ()
        return (SetSysctl(self.name, self.before, self.value), *(SetSysctl(name, was) for name, was in self.resets))

    def __str__(self) -> str:
        return f"set {self.name} = {self.value}" + ("" if self.before is None else f" (was {self.before})")


@dataclass(frozen=True, slots=True)
class LoadModule:
    """Load a kernel module.

    Not undone: a module serves the whole host, another namespace may have come to use it, and by itself it forwards
    nothing.
    """

    kind: ClassVar[str] = "load-module"
    module: str

    def inverse(self) -> tuple[Change, ...]:
        return ()

    def __str__(self) -> str:
        return f"load module {self.module}"


@dataclass(frozen=True, slots=True)
class ReplaceRules:
    """Make our own chains of one table be `after`; `before` is what they are. Foreign rules stay as they are.

    `creates`: the table does not exist yet, so undoing `drops` it again, where the kernel lets go of it.
    """

    kind: ClassVar[str] = "replace-rules"
    backend: str
    family: int
    table: str
    after: tuple[OwnChain, ...]
    before: tuple[OwnChain, ...] = ()
    creates: bool = False
    drops: bool = False

    def inverse(self) -> tuple[Change, ...]:
        back = ReplaceRules(
            self.backend, self.family, self.table, self.before, self.after, creates=self.drops, drops=self.creates
        )
        return (back,)

    def __str__(self) -> str:
        tool = "ip6tables" if self.family == 10 else "iptables"
        count = sum(len(chain.rules) for chain in self.after)
        verb = "remove the rules" if not self.after else "replace the rules" if self.before else "add rules"
        names = ", ".join(chain.name for chain in self.after or self.before)
        return f"{verb} of {tool} -t {self.table}: {names}" + (
            f" ({count} rule{'s'[: count != 1]})" if self.after else ""
        )


IpvsChange = (
    AddService | EditService | DeleteService | AddServer | EditServer | DeleteServer
    | ZeroCounters | SetTimeouts | StartDaemon | StopDaemon
)  # fmt: skip
"""Changes of IPVS's own tables: these go to the host in batches."""

Change = IpvsChange | SetSysctl | LoadModule | ReplaceRules

IPVS_CHANGES: tuple[type[IpvsChange], ...] = IpvsChange.__args__
CHANGES: dict[str, type[Change]] = {cls.kind: cls for cls in (*IPVS_CHANGES, SetSysctl, LoadModule, ReplaceRules)}


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def _settings(wanted: Service | Server, plain: Service | Server) -> str:
    """The settings of an added object, without those that are off."""
    words = []
    for field in fields(wanted):
        value = getattr(wanted, field.name)
        if field.name != "address" and (value != getattr(plain, field.name) or field.name in ("weight", "scheduler")):
            words.append(f" {field.name} {_value(value)}")
    return ",".join(words)


def _differences(before: object, after: object, unchanged: object = ...) -> str:
    """ ": name old -> new" for every field that differs."""
    words = []
    for field in fields(after):  # type: ignore[arg-type]
        old, new = getattr(before, field.name), getattr(after, field.name)
        if new not in (old, unchanged):
            words.append(f" {field.name} {_value(old)} -> {_value(new)}")
    return ":" + ",".join(words) if words else ""
