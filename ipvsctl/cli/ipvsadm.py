"""`ipvsadm`: the classic command, with its own parser, output and exit statuses."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.ipvsadm_start import NAMES, run
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import AlreadyExists, NotFound, Refused

LINKS = "--install-links"


class _Verbatim(Command):
    """A command whose words are not click's: all are kept as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        option = args[0].partition("=")[0] if args else ""
        if option == LINKS:
            return super().parse_args(ctx, args)
        ctx.params = {"install_links": None}
        ctx.args = list(args)
        return ctx.args


@click.command(
    "ipvsadm",
    cls=_Verbatim,
    example=(
        "ipvsctl ipvsadm -A -t 192.0.2.1:80 -s rr",
        "ipvsctl -Ln --stats",
        "ipvsctl ipvsadm --install-links /usr/local/sbin",
    ),
)
@click.option(
    LINKS, metavar="DIRECTORY", shell_complete=completed_by("directories"),
    help="Make links to ipvsctl called ipvsadm, ipvsadm-save and ipvsadm-restore in a directory.",
)  # fmt: skip
@click.pass_context
@environment
def ipvsadm_command(env: Environment, context: click.Context, install_links: str | None) -> int:
    """Be ipvsadm 1.31.

    Everything behind the command's name is ipvsadm's: options, output and exit statuses are those of ipvsadm, and so is
    --help. A command line of ipvsctl that begins with a command of ipvsadm, as -L or --add-service, is one as well.
    """
    if install_links is not None:
        _install(env, Path(install_links))
        return 0
    return run(env, "ipvsadm", context.args)


def _install(env: Environment, directory: Path) -> None:
    """Make the three links; links of ours that are there are kept, anything else is left alone and told of."""
    program = _program()
    links = [directory / name for name in NAMES]
    for link in links:
        if os.path.lexists(link) and not (link.is_symlink() and link.resolve() == program.resolve()):
            raise AlreadyExists(f"cannot make the links: {link} is there and no link to ipvsctl")
    for link in links:
        if env.dry_run:
            env.write(f"+ {link} -> {program}")
            continue
        try:
            if not link.is_symlink():
                link.symlink_to(program)
        except OSError as error:
            raise Refused(f"cannot make the link {link}: {error.strerror}") from None
        env.say(f"{link} -> {program}")


def _program() -> Path:
    """The installed program that links can point to."""
    called = Path(sys.argv[0])
    found = shutil.which(str(called)) if called.name == "ipvsctl" else shutil.which("ipvsctl")
    if found is None:
        raise NotFound("cannot make the links: there is no program ipvsctl on the PATH that they could point to")
    return Path(found).absolute()
