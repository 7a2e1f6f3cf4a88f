"""`module`: kernel features, whether built in, loaded, loadable or absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.plan.difference import Plan


@click.group("module", cls=Group, help=COMMANDS["module"][1])
def module_command() -> None:
    pass


@module_command.command("list", example="ipvsctl module list")
@environment
def list_modules(env: Environment) -> None:
    """List the kernel features that a director needs or meets.

    State is loaded (or built in), loadable (its module is there), or absent; with -j also how one knows.
    """
    from ipvsctl.cli.output import print_json, print_lines, table
    from ipvsctl.knowledge.modules import MODULES

    host = env.host
    found = [(host.modules.feature(name), row) for name, row in MODULES.items()]
    if env.json:
        items = [
            {"name": row.name, "module": row.module, "state": feature.state, "evidence": feature.evidence,
             "meaning": row.meaning, "source": row.source}
            for feature, row in found
        ]  # fmt: skip
        print_json(env, {"modules": items})
        return
    print_lines(env, table(("Name", "State", "Meaning"), [(row.name, f.state, row.meaning) for f, row in found]))


@module_command.command("load", example="ipvsctl module load ip_vs_ftp")
@click.argument("name", metavar="NAME", shell_complete=completed_by("modules"))
@environment
def load(env: Environment, name: str) -> int:
    """Load a kernel module with what it depends on, as modprobe does.

    A feature that is loaded or built in already is no error. Modules stay loaded: `rollback` does not unload them.
    """
    from ipvsctl.cli.run import change
    from ipvsctl.model.change import LoadModule
    from ipvsctl.plan.difference import Plan

    def build(host: Host) -> Plan:
        return Plan(() if host.modules.feature(name).state == "loaded" else (LoadModule(name),))

    return change(env, f"module load {name}", build)
