"""The host behind an emulator's socket: the same five ports, each call a request and its answer.

This is what every command on an emulated director imports, so it imports little: what a call does not need is imported
in the call that does.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ipvsctl.emulator import files
from ipvsctl.emulator.messages import PROTOCOL, check_name, error_from_dict
from ipvsctl.errors import IpvsctlError, NotFound, NotPermitted, Refused, Unavailable
from ipvsctl.formats import values
from ipvsctl.host import BatchError, Feature

if TYPE_CHECKING:
    from ipvsctl.host import ConntrackPort, FirewallPort, IpvsPort, ModulesPort, SysctlPort
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.change import IpvsChange, ReplaceRules
    from ipvsctl.model.rule import OwnChain
    from ipvsctl.model.snapshot import Snapshot
    from ipvsctl.model.status import ConntrackEntry, Daemon, Info, ServiceStatus, Timeouts

TIMEOUT = 120.0
"""Seconds to wait for an answer; a batch of 10,000 changes takes less than one."""

_RECEIVE = 2**20
_BATCH = 20_000
"""Changes in one request: some six megabytes, a tenth of what the server takes."""


class _Wire:
    """The connection: requests out, answers in, in turn."""

    def __init__(self, name: str, connected: socket.socket) -> None:
        self._name = name
        self._socket = connected
        self._number = 0

    def call(self, call: str, **args: Any) -> Any:
        """The "ok" of an answer; raises the error that the port on the other side raised, or Unavailable."""
        self._number += 1
        request = {"id": self._number, "call": call, "args": args}
        try:
            self._socket.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\n")
            answer = json.loads(self._line())
        except TimeoutError:
            raise Unavailable(f"the emulator {self._name} does not answer: see `ipvsctl emulate list`") from None
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from None
        if "error" in answer:
            raise error_from_dict(answer["error"])
        return answer["ok"]

    def _line(self) -> bytes:
        parts = []
        while data := self._socket.recv(_RECEIVE):
            parts.append(data)
            if data.endswith(b"\n"):
                return b"".join(parts)
        raise self._gone("it closed the connection")

    def _gone(self, why: str) -> Unavailable:
        return Unavailable(
            f"lost the emulator {self._name}: {why}: if it was stopped, its state is gone and the next command starts "
            "a new one"
        )

    def close(self) -> None:
        self._socket.close()


class RemoteIpvs:
    """The IPVS port of an emulator."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def info(self) -> Info:
        return values.info_from_dict(self._wire.call("ipvs.info"))

    def services(self) -> list[ServiceStatus]:
        return [values.status_from_dict(data) for data in self._wire.call("ipvs.services")]

    def service(self, address: ServiceAddress) -> ServiceStatus:
        return values.status_from_dict(self._wire.call("ipvs.service", address=str(address)))

    def timeouts(self) -> Timeouts:
        return values.timeouts_from_dict(self._wire.call("ipvs.timeouts"))

    def daemons(self) -> list[Daemon]:
        return [values.daemon_from_dict(data) for data in self._wire.call("ipvs.daemons")]

    def apply(self, changes: Sequence[IpvsChange]) -> None:
        """Make the changes in order; raises BatchError when one or more were refused."""
        from ipvsctl.formats.changes import change_to_dict

        outcome: list[IpvsctlError | None] = []
        for start in range(0, len(changes), _BATCH):
            part = [change_to_dict(change) for change in changes[start : start + _BATCH]]
            try:
                self._wire.call("ipvs.apply", changes=part)
                outcome += [None] * len(part)
            except BatchError as failure:
                outcome += failure.outcome
            except Unavailable as error:
                raise Refused(f"cannot tell what the emulator changed: {error}") from None
        if any(outcome):
            raise BatchError(outcome)


class RemoteConntrack:
    """The conntrack port of an emulator."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def entries(self) -> list[ConntrackEntry]:
        return [values.conntrack_from_dict(data) for data in self._wire.call("conntrack.entries")]

    def delete(self, entry: ConntrackEntry) -> None:
        self._wire.call("conntrack.delete", entry=values.conntrack_to_dict(entry))


class RemoteFirewall:
    """The firewall port of an emulator."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def backend(self, wanted: str = "auto") -> str:
        return values.text(self._wire.call("firewall.backend", wanted=wanted))

    def chains(self) -> tuple[OwnChain, ...]:
        from ipvsctl.formats.changes import chain_from_dict

        return tuple(chain_from_dict(data) for data in self._wire.call("firewall.chains"))

    def tables(self) -> frozenset[tuple[int, str]]:
        return frozenset(
            (values.number(family), values.text(table)) for family, table in self._wire.call("firewall.tables")
        )

    def replace(self, change: ReplaceRules) -> None:
        from ipvsctl.formats.changes import change_to_dict

        self._wire.call("firewall.replace", change=change_to_dict(change))

    def notes(self) -> tuple[str, ...]:
        return tuple(self._wire.call("firewall.notes"))


class RemoteSysctl:
    """The sysctl port of an emulator."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def get(self, name: str) -> str | None:
        value = self._wire.call("sysctl.get", name=name)
        return None if value is None else values.text(value)

    def set(self, name: str, value: str) -> None:
        self._wire.call("sysctl.set", name=name, value=value)

    def names(self, prefix: str) -> list[str]:
        return list(self._wire.call("sysctl.names", prefix=prefix))

    def check_writable(self, name: str) -> None:
        self._wire.call("sysctl.check_writable", name=name)


class RemoteModules:
    """The modules port of an emulator."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def feature(self, name: str) -> Feature:
        return Feature(*self._wire.call("modules.feature", name=name))

    def load(self, name: str) -> None:
        self._wire.call("modules.load", name=name)


class RemoteHost:
    """An emulated director in a server process of its own; its state lives as long as that process."""

    ipvs: IpvsPort
    conntrack: ConntrackPort
    firewall: FirewallPort
    sysctl: SysctlPort
    modules: ModulesPort

    def __init__(self, name: str, connected: socket.socket) -> None:
        self._wire = wire = _Wire(name, connected)
        hello = wire.call("server.hello")
        if hello.get("protocol") != PROTOCOL:
            raise Unavailable(
                f"the emulator {name} runs another version of ipvsctl: stop it with `ipvsctl emulate stop {name}`"
            )
        self.name = f"emulator:{name}"
        self.identity = f"emulator-{name}-{hello['instance']}"
        self.ipvs = RemoteIpvs(wire)
        self.conntrack = RemoteConntrack(wire)
        self.firewall = RemoteFirewall(wire)
        self.sysctl = RemoteSysctl(wire)
        self.modules = RemoteModules(wire)

    @classmethod
    def connect(cls, name: str = "default", start: bool = True) -> RemoteHost:
        """The emulator of a name; one that does not run is started, or with `start` False NotFound is raised.

        Raises UsageError for a name that cannot be one, NotPermitted, and Unavailable when it does not start or answer.
        """
        connected = open_socket(name, start=start)
        try:
            return cls(name, connected)
        except BaseException:
            connected.close()
            raise

    def snapshot(self) -> Snapshot:
        from ipvsctl.formats.snapshot_file import parse

        return parse(values.text(self._wire.call("snapshot")), self.name)

    def close(self) -> None:
        self._wire.close()


def open_socket(name: str, *, start: bool) -> socket.socket:
    """A connection to the emulator of a name; raises as `RemoteHost.connect` does."""
    check_name(name)
    path = files.socket_path(files.directory(), name)
    try:
        connected = files.connect(path, TIMEOUT)
    except PermissionError:
        raise NotPermitted(f"cannot connect to the emulator {name}: {path} belongs to another user") from None
    except OSError as error:
        raise Unavailable(f"cannot connect to the emulator {name}: {path}: {error.strerror}") from None
    if connected is not None:
        return connected
    if not start:
        raise NotFound(f"there is no emulator {name}: `ipvsctl emulate start {name}` starts it")
    from ipvsctl.emulator.processes import start as start_server

    return start_server(name)


def running() -> list[dict[str, Any]]:
    """The emulators of this user that run, by name: name, pid, started (seconds since the epoch), socket."""
    from ipvsctl.emulator.processes import running as find

    return find()


def stop(name: str) -> None:
    """Stop an emulator; its state is gone. Raises NotFound, UsageError, NotPermitted or Unavailable."""
    wire = _Wire(name, open_socket(name, start=False))
    try:
        wire.call("server.stop")
    finally:
        wire.close()
