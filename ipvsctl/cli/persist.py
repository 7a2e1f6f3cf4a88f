"""`persist` and `forget`: the files that bring the director up the same after a boot."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment, several
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from ipvsctl.formats.units import BootFile
    from ipvsctl.model.director import Wanted

_root = click.option(
    "--root", default="/", metavar="DIR", shell_complete=completed_by("files"),
    help="Directory that the files' paths are below, for instance a mounted image.",
)  # fmt: skip


@click.command(
    "persist",
    cls=Command,
    example=("ipvsctl persist ftp.toml", "ipvsctl persist ftp.toml --write", "ipvsctl persist --write"),
)
@click.argument("file", metavar="[FILE]", required=False, shell_complete=completed_by("files"))
@several(
    click.option("--show/--write", default=True, help="Print the files, which is the default, or write them."),
    _root,
    click.option("--program", metavar="PATH", shell_complete=completed_by("files"),
                 help="The ipvsctl that the unit runs; this one unless another is named."),
)  # fmt: skip
@environment
def persist_command(env: Environment, file: str | None, show: bool, root: str, program: str | None) -> None:
    """Show or write the files that bring the director up at boot.

    For a director file, or without FILE for what the running host is, as `export` prints it: a modules-load.d file, a
    sysctl.d file, a copy of the director file that only root can read, and an enabled systemd unit that applies it,
    ordered after whatever else loads rules and before keepalived and ldirectord. All files are written or none; one
    that ipvsctl did not make is never overwritten (status 3). Nothing is changed on the running host. Writing the same
    again changes nothing.
    """
    if env.netns is not None:
        raise UsageError("--netns: what comes up at boot is the machine's own network namespace, no other can persist")
    from ipvsctl.cli.boot_files import Root
    from ipvsctl.cli.output import print_json
    from ipvsctl.knowledge.boot import boot_files

    below = Root(env, root)
    text, wanted = _director(env, file)
    files = boot_files(wanted, text, _program(program, checked=root == "/"))
    if not (env.quiet or env.json):
        for note in wanted.notes:
            env.error(f"ipvsctl: note: {note}")
    if show:
        if env.json:
            print_json(env, {"files": [_as_dict(each) for each in files]})
            return
        env.write("\n".join(_shown(each) for each in files).rstrip("\n"))
        return
    states = below.states(files) if env.dry_run else below.write(files)
    if env.json:
        rows = [{**_as_dict(each), "state": state} for each, state in zip(files, states, strict=True)]
        print_json(env, {"files": rows})
        return
    changed = [each for each, state in zip(files, states, strict=True) if state != "unchanged"]
    _tell(env, "would write" if env.dry_run else "written:", [str(below.place(each.path)) for each in changed])
    if changed and not env.dry_run and root == "/":
        env.say("they take effect at the next boot" if _systemd() else
                "note: this machine was not started by systemd, which alone reads the unit")  # fmt: skip


@click.command("forget", cls=Command, example=("ipvsctl forget", "ipvsctl forget --write"))
@several(
    click.option("--show/--write", default=True, help="Print what would be removed, the default, or remove it."),
    _root,
)
@environment
def forget_command(env: Environment, show: bool, root: str) -> None:
    """Show or remove the files that `persist` wrote.

    All are removed or none, and files that ipvsctl did not make are left alone. The running host stays as it is, and
    comes up without the director at the next boot.
    """
    from ipvsctl.cli.boot_files import Root
    from ipvsctl.cli.output import print_json

    below = Root(env, root)
    only_shown = show or env.dry_run
    files = below.ours() if only_shown else below.remove()
    if env.json:
        print_json(env, {"files": [{"path": each.path} for each in files], "removed": not only_shown})
        return
    paths = [str(below.place(each.path)) for each in files]
    if show and not env.dry_run:
        for path in paths:
            env.write(path)
        return
    _tell(env, "would remove" if only_shown else "removed:", paths)


def _director(env: Environment, file: str | None) -> tuple[str, Wanted]:
    """The text of a director file, or of what the host is, and what a host must have for it."""
    from ipvsctl.cli.director import checked, read_content

    if file is not None:
        name, content = read_content(env, file)
        wanted = checked(name, content)[1]
        return content if isinstance(content, str) else content.decode(), wanted
    from ipvsctl.formats.director_file import render
    from ipvsctl.knowledge.recipes import director_of
    from ipvsctl.model.director import Director
    from ipvsctl.plan.observe import observe_all

    director = director_of(observe_all(env.host))
    if director == Director():
        raise UsageError(f"there is nothing to persist on {env.host.name}: name a director FILE")
    text = render(director)
    return text, checked("export", text)[1]


def _program(named: str | None, *, checked: bool) -> str:
    """The absolute path of the ipvsctl to run at boot: the one named, else this one."""
    if named is not None:
        if not named.startswith("/") or (checked and not os.access(named, os.X_OK)):
            raise UsageError(f"--program {named!r} is not the absolute path of a program that can be run")
        return named
    called = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "ipvsctl" else None
    found = called or shutil.which(Path(sys.executable).with_name("ipvsctl")) or shutil.which("ipvsctl")
    if found is None:
        raise Unavailable("cannot tell where ipvsctl is installed for the unit to run: name it with --program PATH")
    return str(Path(found).absolute())


def _systemd() -> bool:
    """Whether systemd runs this machine; sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def _tell(env: Environment, what: str, paths: Sequence[str]) -> None:
    for path in paths:
        env.say(f"{what} {path}")
    if not paths:
        env.say("no changes")


def _shown(file: BootFile) -> str:
    arrow = f" -> {file.target}" if file.target else ""
    return f"==> {file.path}{arrow} <==\n{file.content}"


def _as_dict(file: BootFile) -> dict[str, Any]:
    if file.target:
        return {"path": file.path, "target": file.target}
    return {"path": file.path, "mode": f"{file.mode:04o}", "content": file.content}
