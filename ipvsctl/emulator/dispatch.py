"""Requests of the socket to calls of a host's ports, and their results back.

The arguments of a request are read as a whole before any port is called: what is not a request changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ipvsctl.emulator.messages import error_to_dict
from ipvsctl.errors import IpvsctlError, UsageError
from ipvsctl.formats import changes as changes_format
from ipvsctl.formats import values
from ipvsctl.host import BatchError, Host
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import IPVS_CHANGES, IpvsChange, ReplaceRules

Read = Callable[[Any], Any]
Call = tuple[Read, Callable[[Host, Any], Any]]


def _nothing(args: Any) -> None:
    if args != {}:
        raise TypeError(f"unexpected arguments {args!r:.80}")


def _one(name: str) -> Read:
    """Read a request's only argument, a text."""

    def read(args: Any) -> str:
        (key,) = args
        if key != name:
            raise KeyError(name)
        return values.text(args[name])

    return read


def _two(first: str, second: str) -> Read:
    def read(args: Any) -> tuple[str, str]:
        return values.text(args[first]), values.text(args[second])

    return read


def _changes(args: Any) -> list[IpvsChange]:
    found: list[IpvsChange] = []
    for data in list(args["changes"]):
        change = changes_format.change_from_dict(data)
        if not isinstance(change, IPVS_CHANGES):
            raise TypeError(f"{change.kind} is not a change of IPVS's tables")
        found.append(change)
    return found


def _rules(args: Any) -> ReplaceRules:
    change = changes_format.change_from_dict(args["change"])
    if not isinstance(change, ReplaceRules):
        raise TypeError(f"{change.kind} is not a change of rules")
    return change


def _snapshot(host: Host) -> str:
    """A snapshot travels as its file."""
    from ipvsctl.formats.snapshot_file import render

    return render(host.snapshot())


CALLS: dict[str, Call] = {
    "ipvs.info": (_nothing, lambda h, _: values.info_to_dict(h.ipvs.info())),
    "ipvs.services": (_nothing, lambda h, _: [values.status_to_dict(status) for status in h.ipvs.services()]),
    "ipvs.service": (
        lambda args: ServiceAddress.parse(_one("address")(args)),
        lambda h, address: values.status_to_dict(h.ipvs.service(address)),
    ),
    "ipvs.timeouts": (_nothing, lambda h, _: values.timeouts_to_dict(h.ipvs.timeouts())),
    "ipvs.daemons": (_nothing, lambda h, _: [values.daemon_to_dict(daemon) for daemon in h.ipvs.daemons()]),
    "ipvs.apply": (_changes, lambda h, changes: h.ipvs.apply(changes)),
    "conntrack.entries": (_nothing, lambda h, _: [values.conntrack_to_dict(e) for e in h.conntrack.entries()]),
    "conntrack.delete": (
        lambda args: values.conntrack_from_dict(args["entry"]),
        lambda h, entry: h.conntrack.delete(entry),
    ),
    "firewall.backend": (_one("wanted"), lambda h, wanted: h.firewall.backend(wanted)),
    "firewall.chains": (_nothing, lambda h, _: [changes_format.chain_to_dict(c) for c in h.firewall.chains()]),
    "firewall.tables": (_nothing, lambda h, _: sorted(h.firewall.tables())),
    "firewall.replace": (_rules, lambda h, change: h.firewall.replace(change)),
    "firewall.notes": (_nothing, lambda h, _: list(h.firewall.notes())),
    "sysctl.get": (_one("name"), lambda h, name: h.sysctl.get(name)),
    "sysctl.set": (_two("name", "value"), lambda h, pair: h.sysctl.set(*pair)),
    "sysctl.names": (_one("prefix"), lambda h, prefix: h.sysctl.names(prefix)),
    "sysctl.check_writable": (_one("name"), lambda h, name: h.sysctl.check_writable(name)),
    "snapshot": (_nothing, lambda h, _: _snapshot(h)),
    "modules.feature": (_one("name"), lambda h, name: list(h.modules.feature(name))),
    "modules.load": (_one("name"), lambda h, name: h.modules.load(name)),
}
"""By name: how the arguments are read, and the call that gives the answer's "ok"."""


def answer(host: Host, line: bytes, more: dict[str, Call] | None = None) -> bytes:
    """The answer to one request line, with its newline. `more` are calls beside those of the ports. Never raises."""
    number: Any = None
    try:
        request = _parse(line)
        number = request.get("id")
        if type(number) not in (int, str) or len(str(number)) > 64:
            number = None
            raise UsageError("not a request: the id is not a number or a short text")
        read, call = _call(request, more or {})
        try:
            args = read(request.get("args", {}))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
            raise UsageError(f"not a request {request['call']}: {type(error).__name__} {error!s:.200}") from None
        result: dict[str, Any] = {"id": number, "ok": call(host, args)}
    except (IpvsctlError, BatchError) as failure:
        result = {"id": number, "error": error_to_dict(failure)}
    except Exception as failure:
        # A fault of ours: the asker learns of it, and the other askers go on being served.
        what = f"the emulator failed: {type(failure).__name__} {failure!s:.200}"
        result = {"id": number, "error": {"class": "IpvsctlError", "message": what}}
    return json.dumps(result, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not a request: {type(error).__name__} {error!s:.200}") from None
    if type(request) is not dict:
        raise UsageError("not a request: not a JSON object")
    return request


def _call(request: dict[str, Any], more: dict[str, Call]) -> Call:
    name = request.get("call")
    found = (CALLS.get(name) or more.get(name)) if type(name) is str else None
    if found is None:
        raise UsageError(f"not a request: there is no call {name!r:.80}")
    return found
