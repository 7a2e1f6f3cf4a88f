"""`validate`, `plan`, `apply` and `export`: the director file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import Duration, environment, file_argument
from ipvsctl.cli.tree import Command
from ipvsctl.errors import Drift, Exit, FileError, UsageError

if TYPE_CHECKING:
    from ipvsctl.cli.run import Build
    from ipvsctl.formats.toml_lines import Path
    from ipvsctl.model.director import Director, Wanted

STDIN = "<stdin>"
"""What standard input is called in messages."""

_prune = click.option(
    "--prune", is_flag=True, help="Also remove services, sync daemons and own rules that the file does not name."
)


@click.command("validate", cls=Command, example="ipvsctl validate ftp.toml")
@file_argument
@environment
def validate_command(env: Environment, file: str) -> None:
    """Check a director file.

    Needs neither root nor IPVS nor a host. FILE is described in ipvsctl.toml(5); - is standard input. Every problem is
    told with its line.
    """
    name, director, _ = _read(env, file)
    services, servers = len(director.services), sum(len(wish.servers) for wish in director.services)
    from ipvsctl.cli.output import count, print_json

    if env.json:
        print_json(env, {"file": name, "services": services, "servers": servers})
        return
    env.say(f"{name}: ok: {count(services, 'service')}, {count(servers, 'server')}")


@click.command("plan", cls=Command, example=("ipvsctl plan ftp.toml", "ipvsctl plan --check --quiet ftp.toml"))
@file_argument
@click.option("--check", is_flag=True, help="End with status 1 when something would change.")
@_prune
@environment
def plan_command(env: Environment, file: str, check: bool, prune: bool) -> int:
    """Show what `apply` would change, and change nothing.

    Lines begin with + for what would come, - for what would go and ~ for what would become different.
    """
    from ipvsctl.cli.output import count
    from ipvsctl.cli.run import show_plan

    name, _, wanted = _read(env, file)
    plan = _build(wanted, prune)(env.host)
    show_plan(env, plan)
    if not (check and plan.changes):
        return Exit.DONE
    if not (env.json or env.quiet):
        raise Drift(f"{name}: the host differs: {count(len(plan.changes), 'change')} would be made")
    return Exit.REFUSED


@click.command("apply", cls=Command, example=("ipvsctl apply ftp.toml", "ipvsctl apply --prune --confirm 30s ftp.toml"))
@file_argument
@click.option(
    "--confirm", type=Duration(1, 86400, fraction=True), metavar="DURATION",
    help="Undo everything unless `ipvsctl confirm` comes within this time, 1..86400 seconds, or 1m30s.",
)  # fmt: skip
@_prune
@environment
def apply_command(env: Environment, file: str, confirm: float | None, prune: bool) -> int:
    """Make the host what a director file says, or leave it as it is.

    A service that the file names becomes exactly as described, with no other servers; what the file does not name stays
    as it is, unless --prune is given. When a step fails, the steps before it are undone (status 5). Applying the same
    file again changes nothing.
    """
    from ipvsctl.cli.run import change

    name, _, wanted = _read(env, file)
    return change(env, f"apply {name}", _build(wanted, prune), apply=True, confirm=confirm)


@click.command("export", cls=Command, example=("ipvsctl export > director.toml", "ipvsctl export --state > state.toml"))
@click.option(
    "--state",
    is_flag=True,
    help="Print all that decides a packet's way instead: devices, routes, every firewall rule, sysctls and services. "
    "`trace --file` and `emulate replay --file` read it.",
)
@environment
def export_command(env: Environment, state: bool) -> None:
    """Print the host's state as a director file.

    Services, servers, timeouts, synchronisation, connection tracking and the rules that ipvsctl made. `apply` of the
    file on the same host changes nothing. With -j the same as JSON.
    """
    from ipvsctl.formats.director_file import render
    from ipvsctl.knowledge.recipes import director_of
    from ipvsctl.plan.observe import observe_all

    if state:
        from ipvsctl.formats import snapshot_file

        snapshot = env.host.snapshot()
        for note in snapshot.notes:
            env.error(f"ipvsctl: note: {note}")
        text = snapshot_file.render(snapshot)
    else:
        text = render(director_of(observe_all(env.host)))
    if env.json:
        import tomllib

        from ipvsctl.cli.output import print_json

        print_json(env, tomllib.loads(text))
        return
    env.write(text.rstrip("\n"))


def _build(wanted: Wanted, prune: bool) -> Build:
    from ipvsctl.plan.difference import difference
    from ipvsctl.plan.observe import observe

    return lambda host: difference(wanted, observe(host, wanted, prune=prune), prune)


def read_content(env: Environment, file: str) -> tuple[str, bytes | str]:
    """A file's name in messages and its content, or that of standard input for -; raises UsageError."""
    from ipvsctl.formats.director_file import MAX_SIZE

    return STDIN if file == "-" else file, _content(env, file, MAX_SIZE + 1)


def _read(env: Environment, file: str) -> tuple[str, Director, Wanted]:
    """The file's name in messages, the director that it describes, and what a host must have for it.

    Raises FileError for a file that is not a director file, UsageError for one that cannot be read.
    """
    from ipvsctl.formats.director_file import parse
    from ipvsctl.knowledge.recipes import wanted
    from ipvsctl.knowledge.sysctls import check

    name, content = read_content(env, file)
    director = parse(content, name)
    for sysctl, value in director.sysctls:
        try:
            check(sysctl, value)
        except UsageError as error:
            raise _at(name, content, ("sysctl", sysctl), error) from None
    try:
        return name, director, wanted(director)
    except UsageError as error:
        # What a recipe refuses is the helper of a service: the first whose servers it does not suit.
        for index, wish in enumerate(director.services):
            if wish.helper and any(server.forward != "nat" for server in wish.servers):
                raise _at(name, content, ("service", index, "helper"), error) from None
        raise _at(name, content, (), error) from None


def _at(name: str, content: bytes | str, path: Path, error: UsageError) -> FileError:
    """The error with the line that it is about."""
    from ipvsctl.formats.toml_lines import locate

    text = content if isinstance(content, str) else content.decode()
    return FileError(name, locate(text, [path])[path] if path else 1, str(error))


def _content(env: Environment, file: str, limit: int) -> bytes | str:
    """At most so many bytes of a file: a device would have no end."""
    try:
        if file == "-":
            stream = getattr(env.stdin, "buffer", env.stdin)
            content: bytes | str = stream.read(limit)
            return content
        with open(file, "rb") as handle:  # noqa: PTH123 - click gave text, and a path may hold anything
            return handle.read(limit)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {file}: {reason}") from None
