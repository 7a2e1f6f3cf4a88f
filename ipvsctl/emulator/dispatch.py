"""Requests of the socket to calls of a host's ports, and their results back.

The arguments of a request are read as a whole before any port is called: what is not a request changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from ipvsctl.emulator.messages import PAGE, error_to_dict
from ipvsctl.errors import IpvsctlError, UsageError
from ipvsctl.formats import changes as changes_format
from ipvsctl.formats import routes as routes_format
from ipvsctl.formats import values
from ipvsctl.host import BatchError, Host
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import IPVS_CHANGES, ROUTING_CHANGES, IpvsChange, ReplaceRules, RoutingChange

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


def _routing(args: Any) -> RoutingChange:
    change = changes_format.change_from_dict(args["change"])
    if not isinstance(change, ROUTING_CHANGES):
        raise TypeError(f"{change.kind} is not a change of routing")
    return change


def _snapshot(host: Host) -> str:
    """A snapshot travels as its file."""
    from ipvsctl.formats.snapshot_file import render

    return render(host.snapshot())


def _page(args: Any) -> tuple[int, int]:
    """The first row that is wanted, and how many."""
    start, count = values.number(args["start"]), values.number(args["count"])
    if start < 0 or not 0 < count <= PAGE:
        raise ValueError(f"rows {start}, {count}")
    return start, count


def _rows(rows: Iterable[Any], page: tuple[int, int]) -> list[Any]:
    """Some rows of a table, which are tuples and so lists of JSON."""
    return list(islice(rows, page[0], page[0] + page[1]))


def _packets(args: Any) -> tuple[str, list[bytes], bool]:
    packets = [bytes.fromhex(values.text(each)) for each in list(args["packets"])]
    return values.text(args["device"]), packets, args["outputs"] is True


def _inject(host: Host, args: tuple[str, list[bytes], bool]) -> list[Any]:
    from ipvsctl.emulator.host import EmulatedHost

    assert isinstance(host, EmulatedHost)
    device, packets, wanted = args
    return [
        [each.verdict, each.reason, [[out, data.hex()] for out, data in each.outputs] if wanted else []]
        for each in host.inject(device, packets)
    ]


def _check_events(host: Host, _: None) -> None:
    from ipvsctl.emulator.conntrack import EmulatedConntrack

    assert isinstance(host.conntrack, EmulatedConntrack)
    host.conntrack.check_events()


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
    "conntrack.rows": (_page, lambda h, page: _rows(h.conntrack.stream(), page)),
    "conntrack.expectations": (_nothing, lambda h, _: h.conntrack.expectations()),
    "conntrack.check_events": (_nothing, _check_events),
    "totals": (_nothing, lambda h, _: values.stats_to_dict(h.totals())),
    "connections.rows": (_page, lambda h, page: _rows(h.connections(), page)),
    "conntrack.delete": (
        lambda args: values.conntrack_from_dict(args["entry"]),
        lambda h, entry: h.conntrack.delete(entry),
    ),
    "firewall.backend": (_one("wanted"), lambda h, wanted: h.firewall.backend(wanted)),
    "firewall.owners": (_nothing, lambda h, _: list(h.firewall.owners())),
    "firewall.chains": (
        _one("backend"),
        lambda h, backend: [changes_format.chain_to_dict(c) for c in h.firewall.chains(backend)],
    ),
    "firewall.tables": (_one("backend"), lambda h, backend: sorted(h.firewall.tables(backend))),
    "firewall.replace": (_rules, lambda h, change: h.firewall.replace(change)),
    "firewall.notes": (_nothing, lambda h, _: list(h.firewall.notes())),
    "routing.routes": (_nothing, lambda h, _: [routes_format.route_to_dict(r) for r in h.routing.routes()]),
    "routing.policy": (_nothing, lambda h, _: [routes_format.policy_rule_to_dict(r) for r in h.routing.policy()]),
    "routing.apply": (_routing, lambda h, change: h.routing.apply(change)),
    "sysctl.get": (_one("name"), lambda h, name: h.sysctl.get(name)),
    "sysctl.set": (_two("name", "value"), lambda h, pair: h.sysctl.set(*pair)),
    "sysctl.names": (_one("prefix"), lambda h, prefix: h.sysctl.names(prefix)),
    "sysctl.check_writable": (_one("name"), lambda h, name: h.sysctl.check_writable(name)),
    "inject": (_packets, _inject),
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
