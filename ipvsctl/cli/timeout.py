"""`timeout`: how long IPVS remembers idle connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import LONGEST, Duration, environment
from ipvsctl.cli.tree import COMMANDS, Group
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.plan.difference import Plan

_SECONDS = Duration(0, LONGEST)


@click.group("timeout", cls=Group, help=COMMANDS["timeout"][1])
def timeout_command() -> None:
    pass


@timeout_command.command("show", example="ipvsctl timeout show")
@environment
def show(env: Environment) -> None:
    """Show the timeouts in seconds: established TCP, TCP after a FIN, UDP."""
    from ipvsctl.cli.output import pairs, print_json, print_lines
    from ipvsctl.formats.values import timeouts_to_dict

    timeouts = timeouts_to_dict(env.host.ipvs.timeouts())
    if env.json:
        print_json(env, timeouts)
    else:
        print_lines(env, pairs(timeouts.items()))


@timeout_command.command("set", example=("ipvsctl timeout set --tcp 15m", "ipvsctl timeout set 900 120 300"))
@click.argument("values", nargs=-1, type=_SECONDS, metavar="[TCP TCP_FIN UDP]")
@click.option(
    "--tcp", type=_SECONDS, metavar="SECONDS", help=f"Established TCP connections, 1..{LONGEST} seconds, or 15m."
)
@click.option("--tcp-fin", type=_SECONDS, metavar="SECONDS", help=f"TCP connections after a FIN, 1..{LONGEST} seconds.")
@click.option("--udp", type=_SECONDS, metavar="SECONDS", help=f"UDP, 1..{LONGEST} seconds.")
@environment
def set_timeouts(
    env: Environment, values: tuple[int, ...], tcp: int | None, tcp_fin: int | None, udp: int | None
) -> int:
    """Set timeouts; those not named, and those set to 0, stay as they are."""
    from ipvsctl.cli.run import change
    from ipvsctl.model.director import Found, Wanted
    from ipvsctl.model.status import Timeouts
    from ipvsctl.plan.difference import difference

    named = (tcp, tcp_fin, udp)
    if values and any(value is not None for value in named):
        raise UsageError("either three values or --tcp, --tcp-fin and --udp, not both")
    if values and len(values) != 3:
        raise UsageError(f"expected three values, TCP TCP_FIN UDP, or options, not {len(values)}")
    if not values and all(value is None for value in named):
        raise UsageError("nothing to set: give --tcp, --tcp-fin or --udp, or three values")
    wanted = Wanted(timeouts=Timeouts(*(values or (value or 0 for value in named))))

    def build(host: Host) -> Plan:
        return difference(wanted, Found(timeouts=host.ipvs.timeouts()))

    return change(env, "timeout set", build)
