"""`service`: add, edit, delete, show and zero virtual services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import LONGEST, SERVICE, Duration, environment, existing_service, new_service, several
from ipvsctl.cli.tree import COMMANDS, Group, completed_by
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.service import Service
    from ipvsctl.plan.difference import Plan

PERSISTENT = "300"
"""Seconds of --persistent without a value."""

_settings = several(
    click.option(
        "--scheduler", "-s", metavar="NAME", shell_complete=completed_by("schedulers"),
        help="Scheduler: rr, wrr, lc, wlc, sh, mh ... (default when adding: wlc).",
    ),
    click.option(
        "--persistent", "-p", type=Duration(), metavar="[SECONDS]",
        help=f"A client stays with its server until so long after its last connection: 1..{LONGEST} seconds, or 5m "
        f"(without a value: {PERSISTENT}).",
    ),
    click.option(
        "--netmask", "-M", metavar="MASK",
        help="Clients of one network count as one for persistence: dotted IPv4 mask, or prefix length (IPv4 1..32, "
        "IPv6 1..128).",
    ),
    click.option("--pe", metavar="NAME", shell_complete=completed_by("engines"), help="Persistence engine: sip."),
    click.option(
        "--flag", "-b", "flags", multiple=True, metavar="FLAG", shell_complete=completed_by("flags"),
        help="Scheduler flag, may be given more than once: sh-port, sh-fallback, mh-port, mh-fallback, flag-1, flag-2, "
        "flag-3.",
    ),
)  # fmt: skip


@click.group("service", cls=Group, help=COMMANDS["service"][1])
def service_command() -> None:
    pass


@service_command.command(
    "add",
    optional={"--persistent": PERSISTENT, "-p": PERSISTENT},
    example=(
        "ipvsctl service add tcp:192.0.2.1:80 --scheduler wlc",
        "ipvsctl service add fwmark:7 -s sh --flag sh-port --persistent=10m",
    ),
)
@new_service
@_settings
@click.option("--ops", is_flag=True, help="One-packet scheduling: every UDP packet is scheduled anew (udp and fwmark).")
@environment
def add(env: Environment, service: ServiceAddress, **given: Any) -> int:
    """Add a virtual service.

    SERVICE is tcp:ADDRESS:PORT, udp:ADDRESS:PORT, sctp:ADDRESS:PORT (an IPv6 ADDRESS in brackets), fwmark:MARK, or
    fwmark:MARK/inet6. Port 0 is every port, for persistent services.
    """
    from ipvsctl.cli.run import addition, change
    from ipvsctl.model.change import AddService
    from ipvsctl.model.service import Service

    wanted = Service(
        service,
        given["scheduler"] or "wlc",
        (*given["flags"], *(["ops"] if given["ops"] else [])),
        given["persistent"],
        given["netmask"],
        given["pe"],
    ).check()
    return change(env, f"service add {service}", addition(AddService(wanted)))


@service_command.command(
    "edit",
    optional={"--persistent": PERSISTENT, "-p": PERSISTENT},
    example="ipvsctl service edit tcp:192.0.2.1:80 --scheduler mh --flag mh-port",
)
@existing_service
@_settings
@click.option("--ops/--no-ops", default=None, help="One-packet scheduling on or off.")
@click.option("--no-persistent", is_flag=True, help="Not persistent any more; its mask and engine go too.")
@click.option("--no-netmask", is_flag=True, help="Every client counts on its own.")
@click.option("--no-pe", is_flag=True, help="No persistence engine.")
@click.option("--no-flags", is_flag=True, help="No scheduler flags.")
@environment
def edit(env: Environment, service: ServiceAddress, **given: Any) -> int:
    """Change the settings of a service that are named, and no others.

    Its servers and connections stay. --flag replaces all scheduler flags by those given.
    """
    from ipvsctl.cli.run import change
    from ipvsctl.model.change import EditService
    from ipvsctl.plan.difference import Plan

    for name in ("persistent", "netmask", "pe", "flags"):
        if given[name] and given[f"no_{name}"]:
            raise UsageError(f"--{name.removesuffix('s')} and --no-{name} exclude each other")
    if not any(value not in (None, False, ()) for value in given.values()) and given["ops"] is None:
        raise UsageError("nothing to edit: name a setting, for instance --scheduler wlc")

    def build(host: Host) -> Plan:
        before = host.ipvs.service(service).service
        after = _edited(before, given).check()
        return Plan((EditService(after, before),) if after != before else ())

    return change(env, f"service edit {service}", build)


def _edited(service: Service, given: dict[str, Any]) -> Service:
    """The service with what is named changed."""
    from dataclasses import replace

    if given["scheduler"]:
        service = service.with_scheduler(given["scheduler"])
    ops = "ops" in service.flags if given["ops"] is None else given["ops"]
    flags = tuple(flag for flag in service.flags if flag != "ops")
    if given["flags"] or given["no_flags"]:
        flags = given["flags"]
    ops = ops or ("ops" in flags and given["ops"] is None)
    values: dict[str, Any] = {"flags": (*(flag for flag in flags if flag != "ops"), *(["ops"] if ops else []))}
    if given["no_persistent"]:
        values |= {"persistent": None, "netmask": None, "pe": None}
    for name in ("persistent", "netmask", "pe"):
        if given[name]:
            values[name] = given[name]
        elif given[f"no_{name}"]:
            values[name] = None
    return replace(service, **values)


@service_command.command("delete", example="ipvsctl service delete tcp:192.0.2.1:80")
@existing_service
@environment
def delete(env: Environment, service: ServiceAddress) -> int:
    """Delete a service and its servers. Packets of its connections are dropped from then on."""
    from ipvsctl.cli.run import change
    from ipvsctl.plan.difference import Plan, delete_service

    return change(env, f"service delete {service}", lambda host: Plan((delete_service(host.ipvs.service(service)),)))


@service_command.command("clear", example="ipvsctl service clear --dry-run")
@environment
def clear(env: Environment) -> int:
    """Delete every service. `ipvsctl rollback` brings them back."""
    from ipvsctl.cli.run import change
    from ipvsctl.plan.difference import Plan, delete_service

    return change(env, "service clear", lambda host: Plan(tuple(map(delete_service, host.ipvs.services()))))


@service_command.command("show", example="ipvsctl service show tcp:192.0.2.1:80")
@existing_service
@environment
def show(env: Environment, service: ServiceAddress) -> None:
    """Show everything about one service: settings, counters and rates, and its servers."""
    from ipvsctl.cli.output import Line, pairs, print_json, print_lines
    from ipvsctl.formats.values import status_to_dict

    data = status_to_dict(env.host.ipvs.service(service))
    if env.json:
        print_json(env, data)
        return
    servers = data.pop("servers")
    lines: list[Line] = [[(data.pop("address"), "cyan")], *pairs(_flat(data), "  ")]
    for server in servers:
        lines += [[(f"  -> {server.pop('address')}", "cyan")], *pairs(_flat(server), "     ")]
    print_lines(env, lines)


def _flat(data: dict[str, Any]) -> list[tuple[str, object]]:
    """Names and values, counters each for itself, absent ones as "none"."""
    flat: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= {key if name == "stats" else f"{name}_{key}": text for key, text in value.items()}
        else:
            flat[name] = ("none" if not value else ",".join(value)) if isinstance(value, list) else value
    return [(name, "none" if value is None else value) for name, value in flat.items()]


@service_command.command("zero", example="ipvsctl service zero tcp:192.0.2.1:80")
@click.argument("service", type=SERVICE, metavar="[SERVICE]", required=False, shell_complete=completed_by("services"))
@environment
def zero(env: Environment, service: ServiceAddress | None) -> int:
    """Set the counters of SERVICE and its servers to zero, or those of all services. Nothing brings them back."""
    from ipvsctl.cli.run import change
    from ipvsctl.model.change import ZeroCounters
    from ipvsctl.plan.difference import Plan

    label = f"service zero {service}" if service else "service zero"
    return change(env, label, lambda _: Plan((ZeroCounters(service),)))
