"""`-R`: command lines from standard input, and `ipvsadm-save` and `ipvsadm-restore`, which are scripts around it.

Changes in a row go to the host together: nobody can see the difference but the clock. What came in at once is run at
once, so a program that writes a line and waits for its effect gets it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ipvsctl.cli.ipvsadm_run import DONE, FAILED, REFUSED, Classic, Stop
from ipvsctl.errors import IpvsctlError, UsageError
from ipvsctl.plan.classic import Refusal, Series, TableView, changes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipvsctl.formats.ipvsadm_args import Command
    from ipvsctl.model.change import IpvsChange

_BLANKS = re.compile(r"[ \t\r]+")
_READ = 1 << 16
_CHANGES = ("add-service", "edit-service", "delete-service", "add-server", "edit-server", "delete-server")
"""What goes to the host in batches; everything else sees the result of what was before it."""

_ABOUT_SAVE = """\
{name}: Script to save the IPVS table to stdout.
   With the -n option, prints out the table in numeric format.
"""


def restore(classic: Classic, chunks: Iterator[str] | None = None) -> int:
    """Run the lines of standard input; returns the status of the last one that was run, or of the one that ended it."""
    with ExitStack() as stack:
        stream = _Stream(classic, stack)
        try:
            try:
                for chunk in chunks or _chunks(classic):
                    for line in chunk.split("\n"):
                        stream.line(line)
                    stream.flush()
            finally:
                stream.flush()
        except Stop as stop:
            return stop.status
        return stream.status


def save_script(classic: Classic, arguments: Sequence[str], name: str) -> int:
    """`ipvsadm-save [-n]`."""
    numeric = []
    for argument in arguments:
        if argument == "-n":
            numeric = ["-n"]
        elif argument.startswith("-"):
            classic.complain(_ABOUT_SAVE.format(name=name))
            return FAILED
    return classic.run(["-S", *numeric])


def restore_script(classic: Classic) -> int:
    """`ipvsadm-restore`: clear the table, and run the lines that do not begin with "#"."""
    text = "".join(_chunks(classic))
    lines = [line for line in text.split("\n") if not line.startswith("#")]
    classic.run(["-C"])
    return classic.initialise() or restore(classic, iter(["\n".join(lines)]))


def _chunks(classic: Classic) -> Iterator[str]:
    """Standard input in whole lines, as it comes."""
    stdin = classic.env.stdin
    try:
        handle = stdin.fileno()
    except (OSError, ValueError):
        yield stdin.read()
        return
    rest = b""
    while data := os.read(handle, _READ):
        whole, newline, tail = data.rpartition(b"\n")
        if newline:
            yield (rest + whole).decode("utf-8", "surrogateescape")
            rest = tail
        else:
            rest += data
    yield rest.decode("utf-8", "surrogateescape")


class _Stream:
    """Lines on their way to the host. `status` is that of the last line."""

    def __init__(self, classic: Classic, stack: ExitStack) -> None:
        self.classic = classic
        self.status = DONE
        self._stack = stack
        self._view = TableView(classic.host)
        self._series: Series | None = None
        self._pending: list[tuple[str, IpvsChange]] = []

    def line(self, text: str) -> None:
        """Run one line; raises Stop when it ends the stream."""
        words = [word for word in _BLANKS.split(text) if word not in ("", "ipvsadm")]
        if not words:
            return
        command: Command | None
        try:
            command = self.classic.understand(words, stream=True)
        except UsageError:
            # What is before it comes first, in its effects and in what is told.
            self.flush()
            command = self.classic.parse(words, stream=True)
        if command is None:
            self.status = REFUSED
        elif command.name in _CHANGES:
            self._change(command)
        else:
            self.flush()
            self._other(command)

    def _change(self, command: Command) -> None:
        host = self.classic.host
        try:
            try:
                changes = changes_of(command, host, self._view)
            except Refusal:
                if not self._pending:
                    raise
                # What is expected of the lines before may not have come.
                self.flush()
                changes = changes_of(command, host, self._view)
        except IpvsctlError as error:
            self.status = self.classic.refused(command.name, error, REFUSED)
            return
        for change in changes:
            self._pending.append((command.name, change))
            self._view.follow(change)

    def _other(self, command: Command) -> None:
        if command.name in ("help", "version"):
            raise Stop(self.classic.read(command))
        if command.name in ("list", "save"):
            self.status = self.classic.read(command)
            if self.status:
                raise Stop(self.status)
            return
        try:
            changes = changes_of(command, self.classic.host, self._view)
        except IpvsctlError as error:
            self.status = self.classic.refused(command.name, error, REFUSED)
            return
        self._pending += ((command.name, change) for change in changes)
        if not changes:
            self.status = DONE
        self.flush()
        if command.name == "clear":
            self._view.forget()

    def flush(self) -> None:
        """Have the pending changes made, and tell of those that the host refused."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        outcome = self._run([change for _, change in pending])
        for (name, _), error in zip(pending, outcome, strict=True):
            self.status = DONE if error is None else self.classic.refused(name, error, REFUSED)
        if any(outcome):
            self._view.forget()

    def _run(self, changes: list[IpvsChange]) -> list[IpvsctlError | None]:
        from ipvsctl.cli.output import print_lines
        from ipvsctl.cli.show import plan_lines
        from ipvsctl.plan.difference import Plan

        env = self.classic.env
        if env.dry_run:
            print_lines(env, plan_lines(Plan(tuple(changes))))
            return [None] * len(changes)
        if self._series is None:
            self._series = self._open()
        return self._series.make(changes)

    def _open(self) -> Series:
        """Take the right to change the host, and begin a journal."""
        from ipvsctl.cli.run import cut_off, interruptible
        from ipvsctl.errors import Refused
        from ipvsctl.journal import Journals

        env = self.classic.env
        journals = Journals(self.classic.host.identity)
        self._stack.enter_context(journals.lock())
        if (record := journals.interrupted()) is not None:
            raise Refused(f"cannot run the lines: {cut_off(record)}")
        echo = self._stack.enter_context(interruptible(env))
        series = Series(self.classic.host, journals.open("ipvsadm --restore"), echo)
        self._stack.callback(series.close)
        return series
