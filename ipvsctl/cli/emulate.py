"""`emulate`: the server processes behind `--host emulator:NAME`."""

from __future__ import annotations

from typing import Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by
from ipvsctl.errors import NotFound

DEFAULT = "default"
"""The emulator that --host emulator means."""

_name = click.argument("name", required=False, metavar="[NAME]", shell_complete=completed_by("emulators"))


@click.group("emulate", cls=Group, help=COMMANDS["emulate"][1])
def emulate_command() -> None:
    pass


@emulate_command.command("start", example="ipvsctl emulate start lab")
@_name
@environment
def start(env: Environment, name: str | None) -> None:
    """Start an emulated director.

    NAME is 1..32 letters, digits, - and _ (default: the one that --host names, else "default"). One that runs already
    is left as it is. Commands with --host emulator:NAME start it as well when it does not run.
    """
    from ipvsctl.emulator.client import RemoteHost

    name = name or _chosen(env)
    before = instance(name)
    if not env.dry_run and before is None:
        RemoteHost.connect(name, start=True).close()
    found = instance(name)
    if env.json:
        _print_json(env, found)
    elif found is None:
        env.say(f"would start the emulator {name}")
    else:
        env.say(f"the emulator {name} {'runs already' if before else 'is started'} (pid {found['pid']})")


@emulate_command.command("stop", example="ipvsctl emulate stop lab")
@_name
@environment
def stop(env: Environment, name: str | None) -> None:
    """Stop an emulated director.

    Its services, rules and settings are gone with it. NAME as for start.
    """
    from ipvsctl.emulator import client
    from ipvsctl.journal import Journals

    name = name or _chosen(env)
    found = instance(name)
    if found is None:
        raise NotFound(f"cannot stop the emulator {name}: it does not run")
    if not env.dry_run:
        host = client.RemoteHost.connect(name, start=False)
        identity = host.identity
        host.close()
        client.stop(name)
        Journals(identity).remove()
    if env.json:
        _print_json(env, found)
    else:
        env.say(f"{'would stop' if env.dry_run else 'stopped'} the emulator {name} (pid {found['pid']})")


@emulate_command.command("list", example="ipvsctl emulate list")
@environment
def list_emulators(env: Environment) -> None:
    """List the emulated directors of this user that run."""
    found = running()
    if env.json:
        _print_json(env, {"emulators": found})
        return
    from datetime import datetime

    from ipvsctl.cli.output import print_lines, table

    rows = [
        (each["name"], str(each["pid"]), datetime.fromtimestamp(int(each["started"])).isoformat(" "), each["socket"])
        for each in found
    ]
    print_lines(env, table(("Name", "Pid", "Started", "Socket"), rows, right=(1,)))


def running() -> list[dict[str, Any]]:
    """The emulators of this user that run: name, pid, started (seconds since the epoch), socket."""
    from ipvsctl.emulator import client

    return client.running()


def instance(name: str) -> dict[str, Any] | None:
    """The emulator of a name if it runs; never starts one."""
    return next((each for each in running() if each["name"] == name), None)


def is_gone(host_name: str) -> bool:
    """Whether opening a host would start an emulator, because the one it names does not run."""
    kind, _, name = host_name.partition(":")
    return kind == "emulator" and instance(name or DEFAULT) is None


def _chosen(env: Environment) -> str:
    kind, _, name = env.host_name.partition(":")
    return name if kind == "emulator" and name else DEFAULT


def _print_json(env: Environment, data: Any) -> None:
    from ipvsctl.cli.output import print_json

    print_json(env, data)
