"""`save` and `restore`: the lines of ipvsadm, as a description of a table that is taken whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.plan.difference import Plan

MAX_SIZE = 256 * 2**20
"""Bytes of a file; a million servers are 60 MB."""


@click.command(
    "save", cls=Command, example=("ipvsctl save > /etc/ipvsadm.rules", "ipvsctl save | ssh other ipvsctl restore")
)
@environment
def save_command(env: Environment) -> None:
    """Print services and servers as lines of ipvsadm.

    What `ipvsadm -S -n` prints, and what it forgets although ipvsadm reads it: connection thresholds (-x, -y), and a
    netmask without persistence. A table that no lines can say, as one with a server of forward local, is refused.
    """
    from ipvsctl.cli.environment import output
    from ipvsctl.formats.ipvsadm_lines import save_lines

    # Nothing is printed of a table that cannot be saved whole.
    parts = list(save_lines(env.host.ipvs.rows(), whole=True))
    with output():
        env.stdout.writelines(parts)


@click.command(
    "restore",
    cls=Command,
    example=("ipvsctl restore /etc/ipvsadm.rules", "ipvsctl restore --diff < rules", "ipvsctl restore --prune rules"),
)
@click.argument("file", metavar="[FILE]", required=False, default="-", shell_complete=completed_by("files"))
@click.option(
    "--diff", is_flag=True, help="Print what would change, and change nothing; ends with 1 when that is anything."
)
@click.option("--prune", is_flag=True, help="Also delete services that the lines do not name.")
@environment
def restore_command(env: Environment, file: str, diff: bool, prune: bool) -> int:
    """Make services and servers what lines of ipvsadm say, or leave everything as it is.

    The lines are -A and -a lines as `save` and `ipvsadm -S` write them; # begins a comment. Bad lines are all told of,
    each as FILE:LINE, before anything is changed. A service that is named becomes as the lines say, with these servers
    and no others; what is so already is not touched. Without FILE, or with -, the lines are those of standard input.
    """
    from ipvsctl.cli.director import read_content
    from ipvsctl.cli.ipvsadm_names import LibraryNames
    from ipvsctl.cli.run import change, show_plan
    from ipvsctl.formats.ipvsadm_lines import read
    from ipvsctl.plan.difference import Plan, delete_service, service_changes

    name, content = read_content(env, file, MAX_SIZE)
    text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
    wishes = read(text, name, LibraryNames())
    if not wishes and not prune:
        raise UsageError(f"{name} has no -A line: there is nothing to restore; --prune would delete every service")

    def build(host: Host) -> Plan:
        found = {status.service.address: status for status in host.ipvs.services()}
        changes = [change for wish in wishes for change in service_changes(wish, found.pop(wish.service.address, None))]
        if prune:
            changes += map(delete_service, found.values())
        return Plan(tuple(changes))

    if diff:
        plan = build(env.host)
        show_plan(env, plan)
        return 1 if plan.changes else 0
    return change(env, f"restore {name}", build)
