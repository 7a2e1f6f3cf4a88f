"""The entry point, and what becomes of every error: one line on standard error and an exit status, never a traceback.

Help, --version and completion go through here without touching the model or a host: commands are found in a table of
names and imported when they are called.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from ipvsctl.cli.environment import Environment, OutputError, abandon
from ipvsctl.cli.tree import COMPLETE, PROGRAM, root
from ipvsctl.errors import Exit, FileError, IpvsctlError

BROKEN_PIPE = 141
"""128 + SIGPIPE: what a shell reports of any program whose reader has gone."""


def main(argv: Sequence[str] | None = None, environment: Environment | None = None) -> int:
    """Run one command line and return its exit status (errors.Exit, BROKEN_PIPE, or 128 + a signal's number)."""
    env = environment or Environment()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        # The process lives for one command: looking for garbage among the objects of a large table finds none.
        gc.disable()
    if instruction := env.variables.get(COMPLETE):
        from ipvsctl.cli.complete import complete

        return complete(root, env, instruction)
    try:
        try:
            status = _run(env, arguments)
            env.flush()
        finally:
            env.close()
    except BaseException as error:
        status = _report(env, error)
        try:
            # What was printed before the error may be in a buffer still.
            env.flush()
        except (OSError, OutputError) as lost:
            status = _report(env, lost)
    return status


def _run(env: Environment, arguments: list[str]) -> int:
    try:
        with root.make_context(PROGRAM, arguments, obj=env) as context:
            status: Any = root.invoke(context)
    except click.exceptions.Exit as error:
        return error.exit_code
    return status if isinstance(status, int) else Exit.DONE


def _report(env: Environment, error: BaseException) -> int:
    """Say what went wrong, and return the exit status for it."""
    if env.variables.get("IPVSCTL_TRACEBACK") and not isinstance(error, click.exceptions.Exit):
        import traceback

        traceback.print_exception(error, file=env.stderr)
    match error:
        case FileError():
            for line in (str(error), *getattr(error, "__notes__", ())):
                env.error(line)
            return error.status
        case OutputError():
            abandon(env.stdout)
            env.error(f"{PROGRAM}: {error}")
            return error.status
        case IpvsctlError():
            if text := str(error):
                env.error(f"{PROGRAM}: {text}")
            return error.status
        case click.exceptions.NoArgsIsHelpError():
            with suppress(OSError):
                env.stderr.write(error.format_message() + "\n")
            return Exit.USAGE
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else PROGRAM
            env.error(f"{PROGRAM}: {_sentence(error)} Try '{path} --help'.")
            return Exit.USAGE
        case click.ClickException():
            env.error(f"{PROGRAM}: {error.format_message()}")
            return Exit.USAGE
        case KeyboardInterrupt() | click.Abort():
            env.error(f"{PROGRAM}: interrupted")
            return getattr(error, "status", Exit.INTERRUPTED)
        case BrokenPipeError():
            abandon(env.stdout)
            return BROKEN_PIPE
        case OSError():
            where = f" {error.filename}" if error.filename else ""
            env.error(f"{PROGRAM}: the system refused:{where} {error.strerror or error}")
            return Exit.REFUSED
        case SystemExit() | GeneratorExit():
            raise error
    env.error(f"{PROGRAM}: {_bug(error)}")
    return Exit.REFUSED


def _sentence(error: click.UsageError) -> str:
    """click's message on one line, with a full stop."""
    text = " ".join(error.format_message().split())
    return text if text.endswith((".", "?")) else text + "."


def _bug(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}" if frame else ""  # noqa: PTH119
    text = " ".join(str(error).split())[:200]
    return (
        f"this is a bug in {PROGRAM}: {type(error).__name__}{where}: {text}; IPVSCTL_TRACEBACK=1 shows more, please "
        "report it"
    )
