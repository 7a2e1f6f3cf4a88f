"""The tree of commands: a table of names, and the classes of click that every command is made of.

A command's module is imported when the command is called; its line of help is in the table, so that `ipvsctl --help`
and completion of a command's name import none of them. The options that every command takes are declared once, here,
and stand before and after the command's name alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "ipvsctl"

COMPLETE = "_IPVSCTL_COMPLETE"
"""Set in the environment by the completion scripts: what to do for which shell."""

COMMANDS = {
    "list": ("listing", "List services and their servers."),
    "service": ("service", "Add, edit, delete, show and zero virtual services."),
    "server": ("server", "Add, edit and delete real servers of a service."),
    "validate": ("director", "Check a director file."),
    "plan": ("director", "Show what `apply` would change, and change nothing."),
    "apply": ("director", "Make the host what a director file says, or leave it as it is."),
    "export": ("director", "Print the host's state as a director file."),
    "confirm": ("undo", "Keep what an unconfirmed or cut-off apply has done."),
    "rollback": ("undo", "Undo the last apply and what was changed after it."),
    "nfct": ("nfct", "Connection tracking for IPVS: show, enable, disable."),
    "sysctl": ("sysctl", "Show and set IPVS's sysctls and those around it."),
    "module": ("module", "Show and load kernel features."),
    "firewall": ("firewall", "Show, apply and remove the firewall around the services."),
    "timeout": ("timeout", "Show and set IPVS's timeouts."),
    "sync": ("sync", "Show, start and stop the connection synchronisation daemons."),
    "trace": ("trace", "Show the way of a packet through the director, and why it ends."),
    "emulate": ("emulate", "Start, stop and list emulated directors; replay captured packets."),
}
"""Name of a command -> the module of this package that has it as `NAME_command`, and the first sentence of its help."""


def _setter(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Keep an option's value in the environment; an option that is not given leaves what an earlier one said."""

    def keep(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value not in (None, False) and isinstance(context.obj, Environment):
            setattr(context.obj, name, value)

    return keep


def completed_by(name: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]:
    """Complete a value with what complete.py knows under a name; it is imported only then."""

    def shell_complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from ipvsctl.cli import complete

        return complete.values(name, context, incomplete)

    return shell_complete


def _global(*names: str, to: str, help: str, **settings: Any) -> click.Option:
    return click.Option(names, help=help, expose_value=False, callback=_setter(to), **settings)


def _help(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.obj.write(context.get_help())
        context.exit()


GLOBAL_OPTIONS = (
    _global(
        "--host", to="host_name", metavar="HOST", shell_complete=completed_by("hosts"),
        help="Host to work on: kernel, emulator or emulator:NAME (default: $IPVSCTL_HOST, else kernel).",
    ),
    _global(
        "--netns", to="netns", metavar="NAME", shell_complete=completed_by("namespaces"),
        help="Network namespace to enter first: a name, a path or a process id.",
    ),
    _global("-j", "--json", to="json", is_flag=True, help="Print one JSON document."),
    _global("--dry-run", to="dry_run", is_flag=True, help="Print what would be changed, and change nothing."),
    _global("-v", "--verbose", to="verbose", is_flag=True, help="Print each change on stderr before it is made."),
    _global("-q", "--quiet", to="quiet", is_flag=True, help="Print neither results of changes nor notes."),
    _global(
        "--color", to="color", type=click.Choice(["auto", "always", "never"]), metavar="WHEN",
        help="Colours: auto (on a terminal, unless NO_COLOR is set), always or never.",
    ),
    click.Option(
        ["-h", "--help"], is_flag=True, is_eager=True, expose_value=False, callback=_help,
        help="Show this help and exit.",
    ),
)  # fmt: skip
"""Options that every command takes, before and after its name."""


class _Common(click.Command):
    """What commands and groups share: the options of every command, and where help shows them."""

    def __init__(
        self,
        name: str | None = None,
        *,
        params: list[click.Parameter] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            name,
            params=[*(params or []), *GLOBAL_OPTIONS],
            context_settings={"max_content_width": 100},
            add_help_option=False,
            **settings,
        )

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence of the help, whole."""
        return re.split(r"(?<=\.)\s", (self.help or "").strip(), maxsplit=1)[0]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        everywhere: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                (everywhere if param in GLOBAL_OPTIONS else own).append(record)
        for title, records in (("Options", own), ("Options of every command", everywhere)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Command(_Common):
    """A command that does something. `example` is one or more command lines that its help shows.

    `optional` names options whose value may be left out, and the value they have then: `--persistent` is
    `--persistent=300`. click would take the next argument for the value, whatever it is.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        example: str | Sequence[str] = (),
        optional: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(name, **settings)
        self.examples = (example,) if isinstance(example, str) else tuple(example)
        self.optional = optional or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._with_values(args) if self.optional else args)

    def _with_values(self, args: list[str]) -> list[str]:
        given = list(args)
        for index, word in enumerate(given):
            if word == "--":
                break
            short, equals, rest = word.partition("=")
            if equals and short in self.optional and not short.startswith("--"):
                # click would take the sign for a part of the value.
                given[index] = short + rest
            elif word in self.optional:
                value = self.optional[word]
                following = given[index + 1] if index + 1 < len(given) else ""
                if re.fullmatch(r"\d[\w.]*", following):
                    value = given.pop(index + 1)
                given[index] = f"{word}={value}" if word.startswith("--") else word + value
        return given

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Group(_Common, click.Group):
    """A command that has commands."""

    command_class = Command

    def __init__(self, name: str | None = None, **settings: Any) -> None:
        super().__init__(name, no_args_is_help=True, subcommand_metavar="COMMAND ...", **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _Common.format_options(self, ctx, formatter)


class Root(Group):
    """The program: finds its commands in the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"ipvsctl.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}{_like(args[0])}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _like(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, COMMANDS, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from ipvsctl import __version__

        context.obj.write(f"{PROGRAM} {__version__}")
        context.exit()


root = Root(
    PROGRAM,
    params=[click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version,
                         help="Print the version and exit.")],
    help="Control a Linux Virtual Server director: IPVS, connection tracking, FTP helpers and the firewall around the "
    "virtual addresses, on this kernel or on an emulated director.",
)  # fmt: skip
