"""`list`: services and servers, in the layouts that ipvsadm users know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import SERVICE, environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.cli.output import Line
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.row import ServerRow, ServiceRow
    from ipvsctl.model.service import Service
    from ipvsctl.model.status import Stats

Number = Callable[[int], str]
Cell = str | int


class _Layout(NamedTuple):
    """The columns of a layout. With `counters` a service has them too; without, its line tells its settings."""

    headings: tuple[str, ...]
    cells: Callable[[ServerRow, Number], tuple[Cell, ...]]
    words: int = 0
    counters: Callable[[Stats, Number], tuple[Cell, ...]] | None = None


def _totals(stats: Stats, number: Number) -> tuple[Cell, ...]:
    return tuple(number(value) for value in stats[:5])


def _rates(stats: Stats, number: Number) -> tuple[Cell, ...]:
    return tuple(number(value) for value in stats[5:])


def _tunnel(row: ServerRow) -> str:
    """The encapsulation as ipvsadm writes it: -c, +c and r+c for the checksum no, yes and remote."""
    if row.forward != "tun":
        return "n/a"
    tunnel = row.tunnel
    if tunnel is None:
        return "ipip"
    port = f":{tunnel.port}" if tunnel.port else ""
    return f"{tunnel.type}{port}:{ {'no': '-c', 'yes': '+c', 'remote': 'r+c'}[tunnel.csum] }"


_LAYOUTS = {
    "": _Layout(
        ("Forward", "Weight", "ActiveConn", "InActConn"),
        lambda row, _: (row.forward, row.weight, row.active, row.inactive),
        words=1,
    ),
    "stats": _Layout(
        ("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"), lambda row, n: _totals(row.stats, n), counters=_totals
    ),
    "rate": _Layout(
        ("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"), lambda row, n: _rates(row.stats, n), counters=_rates
    ),
    "persistent": _Layout(
        ("Weight", "PersistConn", "ActiveConn", "InActConn"),
        lambda row, _: (row.weight, row.persistent, row.active, row.inactive),
    ),
    "thresholds": _Layout(
        ("Uthreshold", "Lthreshold", "ActiveConn", "InActConn"),
        lambda row, _: (row.upper, row.lower, row.active, row.inactive),
    ),
    "tunnel": _Layout(
        ("Forward", "Tunnel", "Weight", "ActiveConn", "InActConn"),
        lambda row, _: (row.forward, _tunnel(row), row.weight, row.active, row.inactive),
        words=2,
    ),
}


@click.command(
    "list",
    cls=Command,
    example=("ipvsctl list", "ipvsctl list tcp:192.0.2.1:80 --stats --exact", "ipvsctl list -j"),
)
@click.argument("service", type=SERVICE, metavar="[SERVICE]", required=False, shell_complete=completed_by("services"))
@click.option("--stats", is_flag=True, help="Totals since the counters were last zero: connections, packets, bytes.")
@click.option("--rate", is_flag=True, help="Rates per second: connections, packets, bytes.")
@click.option("--persistent", is_flag=True, help="Weight and persistent connections.")
@click.option("--thresholds", is_flag=True, help="Upper and lower connection thresholds; 0 is none.")
@click.option("--tunnel", is_flag=True, help="How tun servers are encapsulated: TYPE:PORT:CHECKSUM.")
@click.option("--exact", is_flag=True, help="Counters in full instead of thousands K, millions M, G and T.")
@environment
def list_command(env: Environment, service: ServiceAddress | None, exact: bool, **layouts: bool) -> None:
    """List services and their servers.

    All services, or SERVICE alone. One line per service, its servers below it; what a server line shows is chosen by
    one option at most. With -j everything is shown.
    """
    chosen = [name for name, given in layouts.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other: a list has one layout")
    ipvs = env.host.ipvs
    if env.json:
        from ipvsctl.cli.output import print_json
        from ipvsctl.formats.values import status_to_dict

        statuses = ipvs.services() if service is None else [ipvs.service(service)]
        print_json(env, {"services": [status_to_dict(status) for status in statuses]})
        return
    from ipvsctl.cli.output import abbreviated, print_lines
    from ipvsctl.model.row import row_of

    if service is None:
        rows = sorted(ipvs.rows(), key=lambda row: row.service.address.sort_key)
    else:
        rows = [row_of(ipvs.service(service))]
    print_lines(env, service_lines(rows, chosen[0] if chosen else "", str if exact else abbreviated))


def service_lines(services: Sequence[ServiceRow], layout_name: str, number: Number) -> Iterator[Line]:
    """The lines of a list in one layout."""
    layout = _LAYOUTS[layout_name]
    labels: list[str] = []
    rows: list[tuple[Cell, ...] | str] = []
    for row in services:
        labels.append(str(row.service.address))
        rows.append(layout.counters(row.stats, number) if layout.counters else settings_text(row.service))
        labels += [f"  -> {each.place}" for each in row.servers]
        rows += [layout.cells(each, number) for each in row.servers]
    columns = zip(layout.headings, *(cells for cells in rows if type(cells) is tuple), strict=True)
    widths = [max(map(len, map(str, set(column)))) for column in columns]
    first = max(map(len, ("  -> Server", *labels)))
    form = "  ".join(
        [f"%-{first}s", *(f"%{'-' if i < layout.words else ''}{width}s" for i, width in enumerate(widths))]
    )

    def text(label: str, cells: tuple[Cell, ...] | str) -> str:
        return form % (label, *cells) if type(cells) is tuple else f"{label:{first}}  {cells}"

    top = layout.headings if layout.counters else "Scheduler Flags"
    yield [(text("Service", top), "bold")]
    yield [(text("  -> Server", "" if layout.counters else layout.headings).rstrip(), "bold")]
    for label, cells in zip(labels, rows, strict=True):
        yield [(text(label, cells), "" if label[0] == " " else "cyan")]


def settings_text(service: Service) -> str:
    """What ipvsadm writes behind a service: scheduler, flags, persistence, its mask and engine, ops."""
    words = [service.scheduler]
    if flags := [flag for flag in service.flags if flag != "ops"]:
        words.append(f"({','.join(flags)})")
    if service.persistent is not None:
        words.append(f"persistent {service.persistent}")
    if service.netmask is not None:
        words.append(f"mask {service.netmask}")
    if service.pe is not None:
        words.append(f"pe {service.pe}")
    if "ops" in service.flags:
        words.append("ops")
    return " ".join(words)
