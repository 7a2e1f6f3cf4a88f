"""Parts of ipvsctl(8) and the completion scripts, generated from the tree of commands.

    python -m ipvsctl.cli.manual           say what is not current; ends with 1 when something is
    python -m ipvsctl.cli.manual --write   make it current

In the manual page the lists of options stand between markers, the prose around them is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ipvsctl.cli.complete import SHELLS, script
from ipvsctl.cli.tree import GLOBAL_OPTIONS, PROGRAM, Command, root

MANUAL = "man/ipvsctl.8"
COMPLETIONS = {"bash": "completions/ipvsctl.bash", "zsh": "completions/_ipvsctl", "fish": "completions/ipvsctl.fish"}

_MARKED = re.compile(r'(?ms)^(\.\\" generated: (\w+)\n).*?^(\.\\" end of generated\n)')


def commands() -> Iterator[tuple[str, Command]]:
    """Every command that does something, by the words that call it."""
    context = click.Context(root, info_name=PROGRAM)
    for name in root.list_commands(context):
        found = root.get_command(context, name)
        if isinstance(found, click.Group):
            yield from ((f"{name} {each}", command) for each, command in found.commands.items()
                        if isinstance(command, Command))  # fmt: skip
        elif isinstance(found, Command):
            yield name, found


def current(manual: str) -> dict[str, str]:
    """The generated files as they should be, by path; `manual` is the manual page as it is."""
    parts = {"options": "\n".join(_global_options()), "commands": "\n".join(_commands())}
    page = _MARKED.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", manual)
    return {MANUAL: page, **{COMPLETIONS[shell]: script(shell) for shell in SHELLS}}


def _global_options() -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for option in GLOBAL_OPTIONS:
        yield from _option(option)
    yield ".El"


def _commands() -> Iterator[str]:
    group = ""
    told: set[tuple[str, str]] = set()
    for words, command in commands():
        first = words.partition(" ")[0]
        if group != first:
            if group:
                yield ".El"
            group = first
            told.clear()
            yield f".Ss {first}"
            yield ".Bl -tag -width Ds"
        yield f".It Cm {words}{_arguments(command)}"
        paragraphs = re.split(r"\n\s*\n", (command.help or "").strip())
        for number, paragraph in enumerate(paragraphs):
            if number:
                yield ".Pp"
            yield from _text(paragraph)
        yield from _own_options(command, told)
    yield ".El"


def _own_options(command: Command, told: set[tuple[str, str]]) -> Iterator[str]:
    """A command's options; of those that a command before it has told already, only the names."""
    options = [each for each in command.params if isinstance(each, click.Option) and each not in GLOBAL_OPTIONS]
    known = [each for each in options if (each.opts[0], each.help or "") in told]
    new = [each for each in options if each not in known]
    if known:
        yield ".Pp"
        yield "Options as above:"
        yield from (f".Fl {each.opts[0][1:]} {'.' if each is known[-1] else ','}" for each in known)
    if new:
        yield ".Bl -tag -width Ds"
        for option in new:
            yield from _option(option)
        yield ".El"
    told |= {(each.opts[0], each.help or "") for each in new}


def _arguments(command: click.Command) -> str:
    found = []
    for param in command.params:
        if isinstance(param, click.Argument):
            name = param.metavar or str(param.name).upper()
            found.append(f" Op Ar {name[1:-1]}" if name.startswith("[") else f" Ar {name}")
    return "".join(found)


def _option(option: click.Option) -> Iterator[str]:
    """`.It Fl v , Fl -verbose` and what it does."""
    value = ""
    if not option.is_flag:
        metavar = option.metavar or "VALUE"
        value = f" Ns Op = Ns Ar {metavar[1:-1]}" if metavar.startswith("[") else f" Ar {metavar}"
    names = [*sorted(option.opts, key=len), *option.secondary_opts]
    yield f".It {' , '.join(f'Fl {name[1:]}' for name in names)}{value}"
    yield from _text(option.help or "")


def _text(text: str) -> Iterator[str]:
    """Running text, a line of source for each sentence."""
    for sentence in re.split(r"(?<=[.:])\s+(?=[A-Z`])", " ".join(text.split())):
        escaped = sentence.replace("\\", "\\e").replace("--", "\\-\\-")
        yield f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main(arguments: list[str]) -> int:
    """Compare or write the generated files of the checkout that this module is in."""
    top = Path(__file__).resolve().parents[2]
    stale = []
    for name, text in current((top / MANUAL).read_text()).items():
        path = top / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--write" in arguments:
                path.write_text(text)
    for name in stale:
        click.echo(f"{name}: {'written' if '--write' in arguments else 'not current'}")
    return 1 if stale and "--write" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
