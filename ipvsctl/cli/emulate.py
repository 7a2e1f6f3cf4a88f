"""`emulate`: the server processes behind `--host emulator:NAME`; and captured packets through a director."""

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


@emulate_command.command(
    "replay",
    example=(
        "ipvsctl emulate replay clients.pcap --device eth0 --file ftp.toml",
        "ipvsctl emulate replay director.pcapng --file state.toml --out left.pcapng",
        "tcpdump -i any -U -w - | ipvsctl emulate replay - -q --device eth0 --file ftp.toml",
    ),
)
@click.argument("capture", metavar="IN", shell_complete=completed_by("files"))
@click.option(
    "--device",
    metavar="DEVICE",
    shell_complete=completed_by("devices"),
    help="Device that every packet comes in by (default: the one that a pcapng file names for it).",
)
@click.option(
    "--out",
    metavar="OUT",
    shell_complete=completed_by("files"),
    help="Write what leaves the director: .pcapng with an interface for each device, .pcap, or - for pcapng to "
    "standard output. Verdicts go to standard error then.",
)
@click.option(
    "--file",
    metavar="FILE",
    shell_complete=completed_by("files"),
    help="Replay on what a director file or a saved state (`export --state`) says instead of on what the host says.",
)
@environment
def replay(env: Environment, capture: str, device: str | None, out: str | None, file: str | None) -> None:
    """Give captured packets to a director, and tell what becomes of each.

    IN is a pcap or pcapng file, or - for standard input. Every IP packet in it that came in goes through an emulated
    datapath, set up as the host or FILE is, at the time at which it was captured; the clock starts at the first one.
    What the capture marks as outgoing is left out. Nothing is sent, and the host stays as it is.

    A line for each packet: number, seconds, device, verdict (forward, local, drop, or wait for a fragment), the packet,
    why, and the device it left by; with -v the packets that left as well, with -q only the summary, with -j one JSON
    document on each line and the summary in the last.
    """
    from ipvsctl.cli.configured import engine_of, snapshot_of
    from ipvsctl.cli.replay import replay_file
    from ipvsctl.cli.replay_files import check_names

    check_names(capture, out, file)
    snapshot = snapshot_of(env, file, device)
    if not env.quiet:
        for note in snapshot.notes:
            env.error(f"ipvsctl: note: {note}")
    replay_file(env, engine_of(snapshot), capture, device, out, file)


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
