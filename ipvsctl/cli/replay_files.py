"""The files of `emulate replay`: a capture to read, one to write, and what must not be one file.

Nobody may lose a capture by naming it as the output.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ipvsctl.cli.environment import Environment
from ipvsctl.datapath.flows import Output
from ipvsctl.errors import Refused, UsageError
from ipvsctl.formats import pcap, pcapng

STDIN = "<stdin>"
"""What standard input is called in messages."""

Leaving = Callable[[int, Output], None]
"""Takes what leaves the director: the time in nanoseconds since 1970, and the packet."""


class Input:
    """A file that counts what was read of it, and whose failures are told as those of a command."""

    def __init__(self, handle: BinaryIO, name: str) -> None:
        self.handle = handle
        self.name = name
        self.done = 0

    def read(self, size: int, /) -> bytes:
        try:
            data = self.handle.read(size)
        except OSError as error:
            raise Refused(f"cannot read {self.name}: {error.strerror or error}") from None
        self.done += len(data)
        return data


class Target:
    def __init__(self, handle: BinaryIO, name: str) -> None:
        self.handle = handle
        self.name = name

    def write(self, data: bytes, /) -> None:
        try:
            self.handle.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror or error}") from None


def check_names(source: str, out: str | None, file: str | None) -> None:
    """Raise UsageError for names that no run can work with."""
    if source == file == "-":
        raise UsageError("standard input is one file: it cannot be both the capture and --file")
    if out is not None and out != "-" and not out.lower().endswith((".pcap", ".pcapng")):
        raise UsageError(f"--out {out}: expected a name that ends in .pcapng or .pcap, or - for pcapng to standard output")


def open_input(env: Environment, stack: ExitStack, source: str) -> BinaryIO:
    """The capture, or standard input for -; raises UsageError."""
    if source == "-":
        handle: BinaryIO = getattr(env.stdin, "buffer", env.stdin)
        return handle
    try:
        return stack.enter_context(Path(source).open("rb"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {source}: {reason}") from None


def open_output(
    env: Environment, stack: ExitStack, handle: BinaryIO, engine: Engine, name: str, out: str | None, file: str | None
) -> Leaving:
    """Where packets that leave are written."""
    own = _identity(handle)
    if own is not None and own == _identity(env.stdout):
        raise UsageError(f"standard output is {name} itself, which would be overwritten")
    if out is None:
        return lambda _, __: None
    if out == "-":
        if env.stdout.isatty():
            raise UsageError("--out -: standard output is a terminal, expected a file or a pipe")
        target = Target(getattr(env.stdout, "buffer", env.stdout), "the output")
    else:
        for each, what in ((own, name), (_identity(file) if file not in (None, "-") else None, file)):
            if each is not None and each == _identity(out):
                raise UsageError(f"--out {out} is {what} itself, which would be overwritten")
        try:
            opened = Path(out).open("wb")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot write {out}: {reason}") from None
        stack.callback(_close, opened)
        target = Target(opened, out)
    return _writer(target, engine, out)


def _writer(target: _Target, engine: Engine, out: str) -> Leaving:
    if out.lower().endswith(".pcap"):
        plain = pcap.Writer(target)
        return lambda time, each: plain.write(time, each.packet)
    writer = pcapng.Writer(target, (name for name in engine.routing.devices if name != "lo"))
    return lambda time, each: writer.write(time, each.packet, each.device, outgoing=True)


def _identity(what: Any) -> tuple[int, int] | None:
    """Which regular file a name or a stream is; None for what is none."""
    try:
        found = Path(what).stat() if isinstance(what, str) else os.fstat(what.fileno())
    except (OSError, ValueError, AttributeError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def size_of(handle: BinaryIO) -> int | None:
    """How long a file is; None for a pipe."""
    try:
        found = os.fstat(handle.fileno())
    except (OSError, ValueError, AttributeError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
