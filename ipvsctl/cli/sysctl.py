"""`sysctl`: IPVS's sysctls and those around it, with what they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by
from ipvsctl.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipvsctl.host import Host
    from ipvsctl.knowledge.sysctls import Sysctl
    from ipvsctl.plan.difference import Plan

_name = click.argument("name", metavar="NAME", shell_complete=completed_by("sysctls"))

NAMING = (
    "NAME is written with dots, a dot inside a device name as /: net.ipv4.conf.eth0/100.rp_filter. The last part alone "
    "will do where only one sysctl has it, IPVS's first: conntrack is net.ipv4.vs.conntrack."
)


@click.group("sysctl", cls=Group, help=COMMANDS["sysctl"][1])
def sysctl_command() -> None:
    pass


@sysctl_command.command("list", example="ipvsctl sysctl list")
@click.option("--all", "absent", is_flag=True, help="Also those that do not exist here.")
@environment
def list_sysctls(env: Environment, absent: bool) -> None:
    """List the sysctls that a director depends on: value, default, meaning.

    With -j also the module that brings each, and the kernel file or statement that the meaning is taken from.
    """
    from ipvsctl.cli.output import print_json, print_lines, table

    host = env.host
    found = [(name, host.sysctl.get(name), row) for name, row in _known(host)]
    shown = [(name, value, row) for name, value, row in found if value is not None or absent]
    if env.json:
        items = [
            {"name": name, "value": value, "default": row.default, "meaning": row.meaning, "module": row.module,
             "expected": row.expected, "source": row.source}
            for name, value, row in shown
        ]  # fmt: skip
        print_json(env, {"sysctls": items})
        return
    rows = [(name, "absent" if value is None else value, row.default or "", row.meaning) for name, value, row in shown]
    print_lines(env, table(("Name", "Value", "Default", "Meaning"), rows))


def _known(host: Host) -> Iterator[tuple[str, Sysctl]]:
    """Every sysctl of the table, those of devices once for each device there is."""
    from ipvsctl.knowledge.sysctls import SYSCTLS

    for pattern, row in SYSCTLS.items():
        if "*" in pattern:
            prefix, _, suffix = pattern.partition("*")
            yield from ((name, row) for name in host.sysctl.names(prefix) if name.endswith(suffix))
        else:
            yield pattern, row


@sysctl_command.command("get", example="ipvsctl sysctl get conntrack", help=f"Print the value of a sysctl.\n\n{NAMING}")
@_name
@environment
def get(env: Environment, name: str) -> None:
    full = full_name(name)
    value = env.host.sysctl.get(full)
    if value is None:
        raise _absent(env, full)
    if env.json:
        from ipvsctl.cli.output import print_json

        print_json(env, {"name": full, "value": value})
    else:
        env.write(value)


@sysctl_command.command(
    "set", example="ipvsctl sysctl set net.ipv4.vs.conntrack 1", help=f"Set a sysctl until the next boot.\n\n{NAMING}"
)
@_name
@click.argument("value", metavar="VALUE")
@environment
def set_sysctl(env: Environment, name: str, value: str) -> int:
    from ipvsctl.cli.run import change
    from ipvsctl.knowledge.sysctls import canonical
    from ipvsctl.model.director import Wanted
    from ipvsctl.plan.difference import difference
    from ipvsctl.plan.observe import observe

    full = full_name(name)
    wanted = Wanted(sysctls=((full, canonical(full, value)),))

    def build(host: Host) -> Plan:
        found = observe(host, wanted)
        if found.sysctls[full] is None:
            raise _absent(env, full)
        return difference(wanted, found)

    return change(env, f"sysctl set {full} {value}", build)


def full_name(name: str) -> str:
    """The whole name of a sysctl; raises UsageError for a short one that says nothing or too much."""
    from ipvsctl.formats.director_values import sysctl_name
    from ipvsctl.knowledge.sysctls import SYSCTLS

    if "." in name or "/" in name:
        return sysctl_name(name)
    if f"net.ipv4.vs.{name}" in SYSCTLS:
        return f"net.ipv4.vs.{name}"
    known = [full for full in SYSCTLS if full.rpartition(".")[2] == name and "*" not in full]
    if len(known) == 1:
        return known[0]
    if known:
        raise UsageError(f"sysctl {name!r} could be {' or '.join(known)}: give the whole name")
    raise UsageError(f"sysctl {name!r} is not known, expected a whole name such as net.ipv4.vs.conntrack")


def _absent(env: Environment, name: str) -> NotFound:
    from ipvsctl.knowledge.sysctls import find

    row = find(name)
    brings = f"; `ipvsctl module load {row.module}` may bring it" if row is not None and row.module else ""
    return NotFound(f"there is no sysctl {name} on {env.host.name}{brings}")
