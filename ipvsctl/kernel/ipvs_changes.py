"""Changes of IPVS's tables to messages of its netlink family, as ipvsadm 1.31 would send them, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ipvsctl.kernel import ipvs_tables as wire
from ipvsctl.kernel.ipvs_codec import (
    address_nest,
    command,
    daemon_nest,
    role_nest,
    server_nest,
    service_nest,
    timeouts_body,
)
from ipvsctl.model.address import ServiceAddress
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

_SERVER_CHANGES = {
    AddServer: command(wire.NEW_DEST), EditServer: command(wire.SET_DEST), DeleteServer: command(wire.DEL_DEST),
}  # fmt: skip
_OTHER_CHANGES: dict[type[IpvsChange], tuple[int, Callable[[Any], bytes]]] = {
    AddService: (wire.NEW_SERVICE, lambda change: service_nest(change.service)),
    EditService: (wire.SET_SERVICE, lambda change: service_nest(change.service)),
    DeleteService: (wire.DEL_SERVICE, lambda change: address_nest(change.service.address)),
    ZeroCounters: (wire.ZERO, lambda change: b"" if change.service is None else address_nest(change.service)),
    SetTimeouts: (wire.SET_CONFIG, lambda change: timeouts_body(change.timeouts)),
    StartDaemon: (wire.NEW_DAEMON, lambda change: daemon_nest(change.daemon)),
    StopDaemon: (wire.DEL_DAEMON, lambda change: role_nest(change.daemon.role)),
}


def encode_changes(changes: Iterable[IpvsChange]) -> list[bytes]:
    """One message per change. Raises UsageError for text in the place of an address that is none."""
    messages = []
    nests: dict[ServiceAddress, bytes] = {}
    last: ServiceAddress | None = None
    nest = b""
    for change in changes:
        if isinstance(change, AddServer | EditServer | DeleteServer):
            # Servers of a service come in a row; most often they even share the object.
            if change.service is not last:
                last = change.service
                nest = nests.get(last) or nests.setdefault(last, address_nest(last))
            messages.append(_SERVER_CHANGES[type(change)] + nest + server_nest(change.server))
        else:
            number, body = _OTHER_CHANGES[type(change)]
            messages.append(command(number) + body(change))
    return messages
