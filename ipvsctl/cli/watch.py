"""`watch`: services and servers live, on a terminal or as lines of JSON."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import SERVICE, Duration, Number, environment
from ipvsctl.cli.tree import Command, completed_by

if TYPE_CHECKING:
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.status import ServiceStatus, Stats


@click.command(
    "watch",
    cls=Command,
    example=("ipvsctl watch", "ipvsctl watch --interval 5 tcp:192.0.2.1:80", "ipvsctl watch --count 3 -j"),
)
@click.argument("service", type=SERVICE, metavar="[SERVICE]", required=False, shell_complete=completed_by("services"))
@click.option(
    "--interval", type=Duration(0.1, 86400, fraction=True), default=2, metavar="DURATION",
    help="Time between two looks (default: 2s, as often as the kernel computes rates).",
)  # fmt: skip
@click.option("--count", type=Number(1), metavar="NUMBER", help="Look so many times and end.")
@environment
def watch_command(env: Environment, service: ServiceAddress | None, interval: float, count: int | None) -> None:
    """Watch services and servers live.

    All services, or SERVICE alone: rates per second, connections, and what state they are in: drained (weight 0),
    draining (and still has connections), full (above its upper threshold), no server. q or ^C ends it.

    In a pipe, and with -j, a JSON document on a line for each look: time, total, and services as `list -j` has them.
    """
    from ipvsctl.cli.live import nobody_reads, waiting

    if env.json or not env.stdout.isatty():
        from ipvsctl.cli.output import print_json

        with waiting() as pause:
            for number in _times(count):
                if number and (pause(interval) or nobody_reads(env)):
                    return
                print_json(env, _look(env, service))
                env.flush()
        return
    _live(env, service, interval, count)


def _times(count: int | None) -> Any:
    from itertools import count as endless

    return endless() if count is None else range(count)


def _state(env: Environment, service: ServiceAddress | None) -> tuple[list[ServiceStatus], Stats]:
    host = env.host
    return (host.ipvs.services() if service is None else [host.ipvs.service(service)]), host.totals()


def _look(env: Environment, service: ServiceAddress | None) -> dict[str, Any]:
    from datetime import datetime

    from ipvsctl.cli.watch_text import state_of, state_of_service
    from ipvsctl.formats.values import stats_to_dict, status_to_dict

    statuses, total = _state(env, service)
    services = []
    for status in statuses:
        data = status_to_dict(status) | {"state": state_of_service(status)}
        for server, shown in zip(status.servers, data["servers"], strict=True):
            shown["state"] = state_of(server)
        services.append(data)
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    return {"time": now, "total": stats_to_dict(total), "services": services}


def _live(env: Environment, service: ServiceAddress | None, interval: float, count: int | None) -> None:
    from contextlib import ExitStack
    from time import monotonic

    from ipvsctl.cli.live import keys, waiting
    from ipvsctl.cli.output import screen
    from ipvsctl.cli.watch_text import lines

    # Before the screen is taken: what cannot be looked at is told as by every command.
    statuses, total = _state(env, service)
    with ExitStack() as stack:
        keyboard = stack.enter_context(keys(env))
        pause = stack.enter_context(waiting(*(() if keyboard is None else (keyboard,))))
        show = stack.enter_context(screen(env))
        for number in _times(count):
            if number:
                statuses, total = _state(env, service)
            due = monotonic() + interval
            while (rest := due - monotonic()) > 0:
                show(lines(env.host.name, statuses, total, interval))
                if pause(rest) or (keyboard is not None and _quits(keyboard)):
                    return


def _quits(keyboard: int) -> bool:
    """Whether a key was pressed that ends the watch; no key at all when nothing can be read any more."""
    if not select.select([keyboard], [], [], 0)[0]:
        return False
    pressed = os.read(keyboard, 64)
    return not pressed or b"q" in pressed.lower()
