"""The files of `emulate replay`: a capture to read, one to write, and what must not be one file.

Nobody may lose a capture by naming it as the output.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import BinaryIO, TextIO

from ipvsctl.cli.environment import Environment
from ipvsctl.datapath.flows import Output
from ipvsctl.errors import Refused, UsageError
from ipvsctl.formats import pcap, pcapng

STDIN = "<stdin>"
"""What standard input is called in messages."""

Leaving = Callable[[int, Output], None]
"""Takes what leaves the director: the time in nanoseconds since 1970, and the packet."""

File = BinaryIO | TextIO | str | None
"""A stream, or the name of a file."""


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
    """A file to write captured packets to, whose failures are told as those of a command."""

    def __init__(self, handle: BinaryIO, name: str) -> None:
        self.handle = handle
        self.name = name

    def write(self, data: bytes, /) -> None:
        with self._told():
            self.handle.write(data)

    def flush(self) -> None:
        """Have everything written."""
        with self._told():
            self.handle.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror or error}") from None


def check_names(source: str, out: str | None, file: str | None) -> None:
    """Raise UsageError for names that no run can work with."""
    if source == file == "-":
        raise UsageError("standard input is one file: it cannot be both the capture and --file")
    if out is not None and out != "-" and not out.lower().endswith((".pcap", ".pcapng")):
        raise UsageError(
            f"--out {out}: expected a name that ends in .pcapng or .pcap, or - for pcapng to standard output"
        )


def open_input(env: Environment, stack: ExitStack, source: str) -> BinaryIO:
    """The capture, or standard input for -; raises UsageError."""
    if source == "-":
        return _bytes_of(env.stdin)
    try:
        return stack.enter_context(Path(source).open("rb"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {source}: {reason}") from None


def open_output(env: Environment, stack: ExitStack, out: str, inputs: Iterable[File]) -> Target:
    """The file for what leaves, or standard output for -; raises UsageError, above all when it is one of the inputs."""
    if out == "-":
        if env.stdout.isatty():
            raise UsageError("--out -: standard output is a terminal, expected a file or a pipe")
        return Target(_bytes_of(env.stdout), "the output")
    own = _identity(out)
    if own is not None and any(own == _identity(each) for each in inputs):
        raise UsageError(f"--out {out}: this is an input, which would be overwritten: expected another file")
    try:
        handle = BufferedWriter(FileIO(out, "wb"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot write {out}: {reason}") from None
    stack.callback(_close, handle)
    return Target(handle, out)


def check_stdout(env: Environment, inputs: Iterable[File]) -> None:
    """Raise UsageError when the shell has made an input the standard output: what is printed would be read again."""
    own = _identity(env.stdout)
    if own is not None and any(own == _identity(each) for each in inputs):
        raise UsageError("standard output is an input, which would be overwritten: expected another file")


def writer(target: Target, devices: Iterable[str]) -> Leaving:
    """What writes packets in the format that the file's name says."""
    if target.name.lower().endswith(".pcap"):
        plain = pcap.Writer(target)
        return lambda time, each: plain.write(time, each.packet)
    blocks = pcapng.Writer(target, devices)
    return lambda time, each: blocks.write(time, each.packet, each.device, outgoing=True)


def _bytes_of(stream: TextIO) -> BinaryIO:
    """The stream below a text stream."""
    return stream.buffer


def _close(handle: BinaryIO) -> None:
    """What could not be written has been told when it was flushed."""
    with suppress(OSError):
        handle.close()


def _identity(what: File) -> tuple[int, int] | None:
    """Which regular file a name or a stream is; None for what is none."""
    if what is None:
        return None
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
