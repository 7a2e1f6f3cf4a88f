"""What `watch` shows: a line for each service and server, with its rates and the state it is in."""

from __future__ import annotations

from collections.abc import Sequence

from ipvsctl.cli.output import Line, abbreviated, table
from ipvsctl.model.status import ServerStatus, ServiceStatus, Stats

HEADINGS = ("Service", "Weight", "Active", "Inactive", "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS", "State")
_STYLES = {"no server": "red", "full": "yellow", "draining": "yellow", "drained": "dim"}


def state_of(status: ServerStatus) -> str:
    """What is to be known of a server: "ok", "full", "draining" or "drained"."""
    number = status.active_connections + status.inactive_connections
    if not status.server.weight:
        return "draining" if number or status.persistent_connections else "drained"
    return "full" if status.server.upper and number >= status.server.upper else "ok"


def state_of_service(status: ServiceStatus) -> str:
    """ "ok", or "no server" when none takes new connections."""
    return "ok" if any(state_of(server) == "ok" for server in status.servers) else "no server"


def lines(host: str, statuses: Sequence[ServiceStatus], total: Stats, interval: float) -> list[Line]:
    """All that is shown."""
    rows: list[list[str]] = []
    states: list[str] = []
    for status in statuses:
        active = sum(server.active_connections for server in status.servers)
        inactive = sum(server.inactive_connections for server in status.servers)
        state = state_of_service(status)
        rows.append([str(status.service.address), "", str(active), str(inactive), *_rates(status.stats), _text(state)])
        states.append(state)
        for server in status.servers:
            state = state_of(server)
            numbers = (server.server.weight, server.active_connections, server.inactive_connections)
            shown = [f"  -> {server.server.address}", *map(str, numbers), *_rates(server.stats), _text(state)]
            rows.append(shown)
            states.append(state)
    head, *body = table(HEADINGS, rows, right=range(1, 9))
    names = ("connections", "packets in", "packets out", "bytes in", "bytes out")
    words = ", ".join(f"{value} {name}" for value, name in zip(_rates(total), names, strict=True))
    return [
        [(f"{host}, every {interval:g} s; q ends", "dim")],
        [("per second: ", "bold"), (words, "")],
        [],
        head,
        *([(text, _STYLES.get(state, ""))] for [(text, _)], state in zip(body, states, strict=True)),
    ]


def _rates(stats: Stats) -> list[str]:
    return [abbreviated(value) for value in stats[5:]]


def _text(state: str) -> str:
    return "" if state == "ok" else state
