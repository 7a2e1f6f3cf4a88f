"""The classic command's changes: each is looked at, sent and kept for itself, whatever becomes of the others.

A plan is whole or not at all. What `ipvsadm -R` does is neither: a line that the kernel refuses is told of, and the
next one is run. So lines become changes here, against a view of the table that keeps up with them; `Series` makes them
in batches and records in one journal what brings back the table as it was.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Protocol

from ipvsctl.errors import IpvsctlError, NotFound, NotTried, Refused, UsageError
from ipvsctl.formats.ipvsadm_args import Command
from ipvsctl.formats.ipvsadm_values import address_of, daemon_of, server_of, service_of, timeouts_of
from ipvsctl.host import BatchError, Host
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    ZeroCounters,
)
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import ServiceStatus
from ipvsctl.plan.execute import Echo, Journal, inverses

Found = tuple[Service, dict[ServerAddress, Server]]
"""A service with its servers, oldest first."""


class Refusal(IpvsctlError):
    """What the kernel would answer, known without asking."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


class View(Protocol):
    """The table that commands are about."""

    def service(self, address: ServiceAddress) -> Found | None: ...

    def all(self) -> list[Found]: ...


class HostView:
    """The host's table, asked for each service that is needed."""

    def __init__(self, host: Host) -> None:
        self._ipvs = host.ipvs

    def service(self, address: ServiceAddress) -> Found | None:
        try:
            return _found(self._ipvs.service(address))
        except NotFound:
            return None

    def all(self) -> list[Found]:
        return [_found(status) for status in self._ipvs.services()]


class TableView:
    """The table as it was when first asked for, kept up to date with the changes that were made."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._table: dict[ServiceAddress, Found] | None = None

    def _known(self) -> dict[ServiceAddress, Found]:
        if self._table is None:
            self._table = {found[0].address: found for found in HostView(self._host).all()}
        return self._table

    def service(self, address: ServiceAddress) -> Found | None:
        return self._known().get(address)

    def all(self) -> list[Found]:
        return list(self._known().values())

    def forget(self) -> None:
        """A change was refused that was expected to be made: look again."""
        self._table = None

    def follow(self, change: IpvsChange) -> None:
        """Take a change for made."""
        table = self._known()
        match change:
            case AddService(service):
                table[service.address] = service, {}
            case EditService(service):
                table[service.address] = service, table[service.address][1]
            case DeleteService(service):
                del table[service.address]
            case AddServer(address, server):
                table[address][1][server.address] = server
            case EditServer(address, server):
                table[address][1][server.address] = server
            case DeleteServer(address, server):
                del table[address][1][server.address]


def changes_of(command: Command, host: Host, view: View) -> list[IpvsChange]:
    """The changes that a command means; raises Refusal, and what the host raises when it is asked."""
    match command.name:
        case "add-service":
            service = service_of(command)
            if view.service(service.address) is not None:
                raise Refusal(errno.EEXIST)
            return [AddService(service)]
        case "edit-service":
            service = service_of(command)
            return [EditService(service, _service(view, service.address, errno.ESRCH)[0])]
        case "delete-service":
            return [_deletion(_service(view, address_of(command), errno.ESRCH))]
        case "clear":
            return [_deletion(found) for found in view.all()]
        case "add-server" | "edit-server" | "delete-server":
            return [_server_change(command, host, view)]
        case "zero":
            address = command.service
            nowhere = address is not None and address.address in ("0.0.0.0", "::") and not address.port
            return [ZeroCounters(None if nowhere else address)]
        case "set":
            return [SetTimeouts(timeouts_of(command), host.ipvs.timeouts())]
        case "start-daemon":
            daemon = daemon_of(command)
            start = StartDaemon(daemon)
            if any(each.role == daemon.role for each in host.ipvs.daemons()):
                # It is refused in any case, and must not be undone; only the host knows for which of several reasons.
                try:
                    host.ipvs.apply([start])
                except BatchError as failure:
                    raise failure.outcome[0] or Refusal(errno.EEXIST) from None
                return []
            return [start]
        case "stop-daemon":
            running = next((each for each in host.ipvs.daemons() if each.role == command.role), None)
            if running is None:
                raise Refusal(errno.ESRCH)
            return [StopDaemon(running)]
    raise AssertionError(f"{command.name} changes nothing")


def _server_change(command: Command, host: Host, view: View) -> IpvsChange:
    """In the kernel's order: the service, the families, the thresholds, the server."""
    address, where = address_of(command), command.server
    servers = _service(view, address, errno.ESRCH)[1]
    before = servers.get(where)
    if command.name == "delete-server":
        if before is None:
            raise Refusal(errno.ENOENT)
        return DeleteServer(address, before)
    if where.family != address.family and host.ipvs.daemons():
        raise Refusal(errno.EINVAL)
    try:
        server = server_of(command)
    except UsageError:
        raise Refusal(errno.ERANGE) from None
    if command.name == "add-server":
        if before is not None:
            raise Refusal(errno.EEXIST)
        return AddServer(address, server)
    if before is None:
        raise Refusal(errno.ENOENT)
    return EditServer(address, server, before)


def _service(view: View, address: ServiceAddress, number: int) -> Found:
    found = view.service(address)
    if found is None:
        raise Refusal(number)
    return found


def _found(status: ServiceStatus) -> Found:
    return status.service, {each.server.address: each.server for each in reversed(status.servers)}


def _deletion(found: Found) -> DeleteService:
    return DeleteService(found[0], tuple(reversed(found[1].values())))


class Series:
    """Changes made one batch after the other, those that are refused left out, all in one journal."""

    def __init__(self, host: Host, journal: Journal, echo: Echo) -> None:
        self._host = host
        self._journal = journal
        self._echo = echo
        self._made = 0
        self._begun = False

    def make(self, changes: Sequence[IpvsChange]) -> list[IpvsctlError | None]:
        """Make what can be made; one item per change: None, or the host's error."""
        if not self._begun:
            self._journal.begin(len(changes), ())
            self._begun = True
        for change in changes:
            self._echo(change)
        self._journal.add(inverses(changes, self._made))
        self._made += len(changes)
        self._journal.reach(self._made)
        outcome: list[IpvsctlError | None] = []
        while len(outcome) < len(changes):
            try:
                self._host.ipvs.apply(changes[len(outcome) :])
                outcome += [None] * (len(changes) - len(outcome))
            except BatchError as failure:
                outcome += (error for error in failure.outcome if not isinstance(error, NotTried))
            except Refused as error:
                outcome += [error] * (len(changes) - len(outcome))
        return outcome

    def close(self) -> None:
        """Everything was made that is going to be."""
        if self._begun:
            self._journal.finish()
