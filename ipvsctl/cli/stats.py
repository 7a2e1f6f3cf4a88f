"""`stats`: what IPVS has counted, in all and for each service and server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import SERVICE, environment
from ipvsctl.cli.tree import Command, completed_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.status import Stats

TOTALS = ("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes")
RATES = ("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")


@click.command(
    "stats", cls=Command, example=("ipvsctl stats", "ipvsctl stats tcp:192.0.2.1:80 --rate", "ipvsctl stats -j")
)
@click.argument("service", type=SERVICE, metavar="[SERVICE]", required=False, shell_complete=completed_by("services"))
@click.option("--rate", is_flag=True, help="Rates per second instead of totals: connections, packets, bytes.")
@click.option("--exact", is_flag=True, help="Counters in full instead of thousands K, millions M, G and T.")
@environment
def stats_command(env: Environment, service: ServiceAddress | None, rate: bool, exact: bool) -> None:
    """Show what IPVS has counted.

    The first line is everything together, since the counters were last zero (`service zero`); services that are gone
    are in it. Below are the services, or SERVICE alone, with their servers. Rates are the kernel's, smoothed over some
    ten seconds; they stand still while net.ipv4.vs.run_estimation is 0. With -j both are shown.
    """
    host = env.host
    statuses = host.ipvs.services() if service is None else [host.ipvs.service(service)]
    total = host.totals()
    if env.json:
        from ipvsctl.cli.output import print_json
        from ipvsctl.formats.values import stats_to_dict, status_to_dict

        services = [status_to_dict(status) for status in statuses]
        print_json(env, {"total": stats_to_dict(total), "services": services})
        return
    from ipvsctl.cli.output import abbreviated, print_lines, table

    number: Callable[[int], str] = str if exact else abbreviated

    def row(name: str, stats: Stats) -> list[str]:
        return [name, *(number(value) for value in (stats[5:] if rate else stats[:5]))]

    rows = [row("all", total)]
    for status in statuses:
        rows.append(row(str(status.service.address), status.stats))
        rows += (row(f"  -> {each.server.address}", each.stats) for each in status.servers)
    print_lines(env, table(("", *(RATES if rate else TOTALS)), rows, right=range(1, 6)))
