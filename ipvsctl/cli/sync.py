"""`sync`: the kernel's daemons that copy connections to another director."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import Number, environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by
from ipvsctl.errors import NotFound

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.plan.difference import Plan

_role = click.argument("role", type=click.Choice(["master", "backup"]), metavar="ROLE")


@click.group("sync", cls=Group, help=COMMANDS["sync"][1])
def sync_command() -> None:
    pass


@sync_command.command("show", example="ipvsctl sync show")
@environment
def show(env: Environment) -> None:
    """Show the daemons that run: role, interface, multicast group, port, ttl, packet size."""
    from ipvsctl.cli.output import print_json, print_lines, table
    from ipvsctl.formats.values import daemon_to_dict

    daemons = [daemon_to_dict(daemon) for daemon in env.host.ipvs.daemons()]
    if env.json:
        print_json(env, {"daemons": daemons})
        return
    names = ("role", "interface", "id", "group", "port", "ttl", "maxlen")
    rows = [[str(daemon[name]) for name in names] for daemon in daemons]
    print_lines(env, table([name.capitalize() for name in names], rows, right=(2, 4, 5, 6)))


@sync_command.command("start", example="ipvsctl sync start master --interface eth0 --id 7")
@_role
@click.option(
    "--interface", required=True, metavar="DEVICE", shell_complete=completed_by("devices"),
    help="Device to send on or listen on.",
)  # fmt: skip
@click.option(
    "--id",
    "sync_id",
    type=Number(0, 255),
    default=0,
    metavar="NUMBER",
    help="Only daemons of one id talk to each other, 0..255; a backup with 0 takes any (default: 0).",
)
@click.option("--group", default="", metavar="ADDRESS", help="Multicast group (default: the kernel's, 224.0.0.81).")
@click.option("--port", type=Number(1, 65535), metavar="PORT", help="UDP port, 1..65535 (default: 8848).")
@click.option("--ttl", type=Number(1, 255), metavar="NUMBER", help="Hops the packets may go, 1..255 (default: 1).")
@click.option(
    "--maxlen",
    type=Number(1, 65507),
    metavar="BYTES",
    help="Largest packet, 1..65507 bytes (default: what the device takes).",
)
@environment
def start(
    env: Environment,
    role: str,
    interface: str,
    sync_id: int,
    group: str,
    port: int | None,
    ttl: int | None,
    maxlen: int | None,
) -> int:
    """Start a synchronisation daemon.

    ROLE is master (sends its connections) or backup (receives them); a director may run both.
    """
    from ipvsctl.cli.run import addition, change
    from ipvsctl.model.address import parse_ip
    from ipvsctl.model.change import StartDaemon
    from ipvsctl.model.status import Daemon

    address = parse_ip(group)[1] if group else ""
    daemon = Daemon(role, interface, sync_id, maxlen or 0, address, port or 0, ttl or 0)
    return change(env, f"sync start {role}", addition(StartDaemon(daemon)))


@sync_command.command("stop", example="ipvsctl sync stop master")
@_role
@environment
def stop(env: Environment, role: str) -> int:
    """Stop a synchronisation daemon. ROLE is master or backup."""
    from ipvsctl.cli.run import change
    from ipvsctl.model.change import StopDaemon
    from ipvsctl.plan.difference import Plan

    def build(host: Host) -> Plan:
        found = next((daemon for daemon in host.ipvs.daemons() if daemon.role == role), None)
        if found is None:
            raise NotFound(f"cannot stop the {role} synchronisation daemon: it is not running")
        return Plan((StopDaemon(found),))

    return change(env, f"sync stop {role}", build)
