"""`list`: services and servers, in the layouts that ipvsadm users know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import SERVICE, environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.cli.output import Line
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.service import Server, Service
    from ipvsctl.model.status import ServerStatus, ServiceStatus, Stats

Number = Callable[[int], str]


class _Layout(NamedTuple):
    """The columns of a layout. With `counters` a service has them too; without, its line tells its settings."""

    headings: tuple[str, ...]
    cells: Callable[[ServerStatus, Number], tuple[str, ...]]
    words: int = 0
    counters: Callable[[Stats, Number], tuple[str, ...]] | None = None


def _totals(stats: Stats, number: Number) -> tuple[str, ...]:
    return tuple(number(value) for value in stats[:5])


def _rates(stats: Stats, number: Number) -> tuple[str, ...]:
    return tuple(number(value) for value in stats[5:])


def _connections(status: ServerStatus) -> tuple[str, str]:
    return str(status.active_connections), str(status.inactive_connections)


def _tunnel(server: Server) -> str:
    """The encapsulation as ipvsadm writes it: -c, +c and r+c for the checksum no, yes and remote."""
    if server.forward != "tun":
        return "n/a"
    tunnel = server.tunnel
    if tunnel is None:
        return "ipip"
    port = f":{tunnel.port}" if tunnel.port else ""
    return f"{tunnel.type}{port}:{ {'no': '-c', 'yes': '+c', 'remote': 'r+c'}[tunnel.csum] }"


_LAYOUTS = {
    "": _Layout(
        ("Forward", "Weight", "ActiveConn", "InActConn"),
        lambda s, _: (s.server.forward, str(s.server.weight), *_connections(s)),
        words=1,
    ),
    "stats": _Layout(
        ("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"), lambda s, n: _totals(s.stats, n), counters=_totals
    ),
    "rate": _Layout(("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"), lambda s, n: _rates(s.stats, n), counters=_rates),
    "persistent": _Layout(
        ("Weight", "PersistConn", "ActiveConn", "InActConn"),
        lambda s, _: (str(s.server.weight), str(s.persistent_connections), *_connections(s)),
    ),
    "thresholds": _Layout(
        ("Uthreshold", "Lthreshold", "ActiveConn", "InActConn"),
        lambda s, _: (str(s.server.upper), str(s.server.lower), *_connections(s)),
    ),
    "tunnel": _Layout(
        ("Forward", "Tunnel", "Weight", "ActiveConn", "InActConn"),
        lambda s, _: (s.server.forward, _tunnel(s.server), str(s.server.weight), *_connections(s)),
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
    statuses = ipvs.services() if service is None else [ipvs.service(service)]
    if env.json:
        from ipvsctl.cli.output import print_json
        from ipvsctl.formats.values import status_to_dict

        print_json(env, {"services": [status_to_dict(status) for status in statuses]})
        return
    from ipvsctl.cli.output import abbreviated, print_lines

    print_lines(env, service_lines(statuses, chosen[0] if chosen else "", str if exact else abbreviated))


def service_lines(statuses: list[ServiceStatus], layout_name: str, number: Number) -> list[Line]:
    """The lines of a list in one layout."""
    layout = _LAYOUTS[layout_name]
    rows: list[tuple[str, tuple[str, ...] | str]] = []
    for status in statuses:
        settings = layout.counters(status.stats, number) if layout.counters else settings_text(status.service)
        rows.append((str(status.service.address), settings))
        rows += ((f"  -> {each.server.address}", layout.cells(each, number)) for each in status.servers)
    columns = [[heading, *(r[i] for _, r in rows if isinstance(r, tuple))] for i, heading in enumerate(layout.headings)]
    widths = [max(map(len, column)) for column in columns]
    first = max(len("  -> Server"), *(len(label) for label, _ in rows)) if rows else len("  -> Server")

    def text(label: str, cells: tuple[str, ...] | str) -> str:
        if isinstance(cells, str):
            return f"{label:{first}}  {cells}"
        aligned = [
            cell.ljust(width) if i < layout.words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join([label.ljust(first), *aligned])

    top = layout.headings if layout.counters else "Scheduler Flags"
    lines: list[Line] = [[(text("Service", top), "bold")]]
    lines.append([(text("  -> Server", "" if layout.counters else layout.headings).rstrip(), "bold")])
    lines += [[(text(label, cells), "" if label.startswith(" ") else "cyan")] for label, cells in rows]
    return lines


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
