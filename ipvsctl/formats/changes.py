"""Rules and changes as plain dictionaries and back: `plan -j`, the journal, and the emulator's socket.

Reading is as strict as in values.py: another shape is a UsageError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ipvsctl.formats.values import (
    Dict,
    daemon_from_dict,
    daemon_to_dict,
    number,
    server_from_dict,
    server_to_dict,
    service_from_dict,
    service_to_dict,
    strict,
    text,
    timeouts_from_dict,
    timeouts_to_dict,
)
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import (
    CHANGES,
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
    ZeroCounters,
)
from ipvsctl.model.rule import Match, Options, OwnChain, Rule

# -- rules ------------------------------------------------------------------------------------------------------------


_ADDRESSING = ("protocol", "source", "destination", "in_interface", "out_interface")


def _options_from(data: Any) -> Options:
    return tuple((text(name), text(value)) for name, value in list(data))


def rule_to_dict(rule: Rule) -> Dict:
    """Only what the rule names, so that a list of rules stays readable."""
    data: Dict = {"target": rule.target}
    for name in _ADDRESSING:
        if value := getattr(rule, name):
            data[name] = value
    if rule.matches:
        data["matches"] = [[match.name, [list(option) for option in match.options]] for match in rule.matches]
    if rule.target_options:
        data["target_options"] = [list(option) for option in rule.target_options]
    return data


@strict
def rule_from_dict(data: Any) -> Rule:
    matches = tuple(Match(text(name), _options_from(options)) for name, options in list(data.get("matches", [])))
    addressing = {name: text(data.get(name, "")) for name in _ADDRESSING}
    options = _options_from(data.get("target_options", []))
    return Rule(text(data["target"]), **addressing, matches=matches, target_options=options)


def chain_to_dict(chain: OwnChain) -> Dict:
    return {
        "family": chain.family,
        "table": chain.table,
        "name": chain.name,
        "hook": chain.hook,
        "rules": [rule_to_dict(rule) for rule in chain.rules],
        "place": chain.place,
        "jump": chain.jump,
    }


@strict
def chain_from_dict(data: Any) -> OwnChain:
    return OwnChain(
        number(data["family"]),
        text(data["table"]),
        text(data["name"]),
        text(data["hook"]),
        tuple(rule_from_dict(rule) for rule in list(data["rules"])),
        text(data["place"]),
        bool(data["jump"]),
    )


# -- changes ----------------------------------------------------------------------------------------------------------


def change_to_dict(change: Change) -> Dict:
    """A change as `plan -j` shows it: its kind under "change", then its values."""
    data: Dict = {"change": change.kind}
    match change:
        case AddService(service):
            data |= {"service": service_to_dict(service)}
        case EditService(service, before):
            data |= {"service": service_to_dict(service), "before": service_to_dict(before)}
        case DeleteService(service, servers):
            data |= {"service": service_to_dict(service), "servers": [server_to_dict(server) for server in servers]}
        case AddServer(address, server) | DeleteServer(address, server):
            data |= {"service": str(address), "server": server_to_dict(server)}
        case EditServer(address, server, before):
            data |= {"service": str(address), "server": server_to_dict(server), "before": server_to_dict(before)}
        case ZeroCounters(address):
            data |= {"service": None if address is None else str(address)}
        case SetTimeouts(timeouts, before):
            data |= {"timeouts": timeouts_to_dict(timeouts), "before": timeouts_to_dict(before)}
        case StartDaemon(daemon) | StopDaemon(daemon):
            data |= {"daemon": daemon_to_dict(daemon)}
        case SetSysctl(name, value, before, resets):
            data |= {"name": name, "value": value, "before": before, "resets": [list(reset) for reset in resets]}
        case LoadModule(module):
            data |= {"module": module}
        case ReplaceRules(backend, family, table, after, before, creates, drops):
            data |= {"backend": backend, "family": family, "table": table, "creates": creates, "drops": drops}
            data |= {"after": [chain_to_dict(c) for c in after], "before": [chain_to_dict(c) for c in before]}
    return data


_READERS: dict[type, Callable[[Mapping[str, Any]], Change]] = {
    AddService: lambda d: AddService(service_from_dict(d["service"])),
    EditService: lambda d: EditService(service_from_dict(d["service"]), service_from_dict(d["before"])),
    DeleteService: lambda d: DeleteService(
        service_from_dict(d["service"]), tuple(server_from_dict(server) for server in list(d["servers"]))
    ),
    AddServer: lambda d: AddServer(ServiceAddress.parse(d["service"]), server_from_dict(d["server"])),
    EditServer: lambda d: EditServer(
        ServiceAddress.parse(d["service"]), server_from_dict(d["server"]), server_from_dict(d["before"])
    ),
    DeleteServer: lambda d: DeleteServer(ServiceAddress.parse(d["service"]), server_from_dict(d["server"])),
    ZeroCounters: lambda d: ZeroCounters(None if d["service"] is None else ServiceAddress.parse(d["service"])),
    SetTimeouts: lambda d: SetTimeouts(timeouts_from_dict(d["timeouts"]), timeouts_from_dict(d["before"])),
    StartDaemon: lambda d: StartDaemon(daemon_from_dict(d["daemon"])),
    StopDaemon: lambda d: StopDaemon(daemon_from_dict(d["daemon"])),
    SetSysctl: lambda d: SetSysctl(
        text(d["name"]), text(d["value"]), None if d["before"] is None else text(d["before"]),
        _options_from(d["resets"]),
    ),
    LoadModule: lambda d: LoadModule(text(d["module"])),
    ReplaceRules: lambda d: ReplaceRules(
        text(d["backend"]), number(d["family"]), text(d["table"]),
        tuple(chain_from_dict(chain) for chain in list(d["after"])),
        tuple(chain_from_dict(chain) for chain in list(d["before"])), bool(d["creates"]), bool(d["drops"]),
    ),
}  # fmt: skip


@strict
def change_from_dict(data: Any) -> Change:
    return _READERS[CHANGES[data["change"]]](data)
