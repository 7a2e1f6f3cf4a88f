"""What a command finds around it: streams, environment variables, the options every command takes, and its host.

One object, made by `main` and handed to every command as click's context object; a test makes its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from ipvsctl.errors import IpvsctlError, NotPermitted, Refused
from ipvsctl.runtime import runtime_directory

if TYPE_CHECKING:
    from ipvsctl.host import Host


class OutputError(IpvsctlError):
    """Standard output takes nothing more: a full disk. What the command did is done."""


def _closed(mode: str) -> TextIO:
    """In place of a stream that the caller has closed: nothing comes, and what is written goes nowhere."""
    return cast(TextIO, open(os.devnull, mode))  # noqa: PTH123 - open as long as the process


def abandon(stream: TextIO) -> None:
    """Nobody reads it: let the interpreter's last flush go nowhere instead of ending with a status of its own."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Environment:
    """The surroundings of one run. The host is opened when it is first asked for, and closed by `close`."""

    def __init__(
        self,
        *,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.stdin = stdin or sys.stdin or _closed("r")
        self.stdout = stdout or sys.stdout or _closed("w")
        self.stderr = stderr or sys.stderr or _closed("w")
        self.variables = os.environ if variables is None else variables
        self.host_name = self.variables.get("IPVSCTL_HOST") or "kernel"
        self.netns: str | None = None
        self.json = False
        self.dry_run = False
        self.verbose = False
        self.quiet = False
        self.color = "auto"
        self.warns = True
        """Whether to say that a plan was cut off: a command that ends it, or is refused for it, says so itself."""
        self._host: Host | None = None

    # -- output -------------------------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Write lines to standard output, whatever characters they hold; raises OutputError or BrokenPipeError."""
        with output():
            _write(self.stdout, text + "\n")

    def flush(self) -> None:
        """Have everything written; raises as `write` does."""
        with output():
            self.stdout.flush()

    def say(self, text: str) -> None:
        """Write lines to standard output unless --quiet."""
        if not self.quiet:
            self.write(text)

    def error(self, text: str) -> None:
        """Write a line to standard error; a reader that went away is no reason to stop half-way."""
        with suppress(OSError, ValueError):
            # Both streams in one file stay in order. What does not get out now is tried, and told, by `flush`.
            self.stdout.flush()
        try:
            _write(self.stderr, " ".join(text.split("\n")) + "\n")
            self.stderr.flush()
        except (OSError, ValueError):
            abandon(self.stderr)

    @property
    def coloured(self) -> bool:
        """Whether standard output gets colours: --color, else NO_COLOR, else whether it is a terminal."""
        if self.color != "auto":
            return self.color == "always"
        if self.variables.get("NO_COLOR") or self.variables.get("TERM") == "dumb":
            return False
        return self.stdout.isatty()

    # -- the host -----------------------------------------------------------------------------------------------------

    @property
    def host(self) -> Host:
        """The host that --host and --netns name. Tells on standard error what happened to it behind our back.

        Raises what pick.open_host raises.
        """
        if self._host is None:
            from ipvsctl.pick import open_host

            self._host = open_host(self.host_name, self.netns)
            self._tell(self._host.identity)
        return self._host

    def _tell(self, identity: str) -> None:
        """What a timer did, and a plan that was cut off.

        Nearly always there is nothing to tell, and importing the journal would be a sixth of a `list`.
        """
        try:
            folder = runtime_directory() / "journal" / identity
        except NotPermitted:
            # Looking needs no journal, and without one there is nothing to tell.
            return
        if not (folder / "notice").exists() and not (folder / "running").exists():
            return
        from ipvsctl.cli.run import cut_off
        from ipvsctl.journal import Journals

        journals = Journals(identity)
        if notice := journals.take_notice():
            self.error(f"ipvsctl: note: {notice}")
        if not self.warns:
            return
        try:
            record = journals.interrupted()
        except Refused as error:
            self.error(f"ipvsctl: warning: a plan was cut off: {error}")
            return
        if record is not None:
            self.error(f"ipvsctl: warning: {cut_off(record)}")

    def close(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.close()


@contextmanager
def output() -> Iterator[None]:
    """A failing write of a result becomes an OutputError; a reader that went away stays a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write the output: {error.strerror or error}") from None


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
