"""A pid file that is locked as long as its server lives: what makes a name belong to one process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ipvsctl.errors import Refused

WAIT = 10
"""Seconds that a new server waits for one that is on its way out."""


class PidFile:
    """The pid file of one name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    @property
    def held(self) -> bool:
        """Whether this process has the name."""
        return self._file >= 0

    def take(self) -> None:
        """Lock the file for this process's life; raises Refused when another process keeps it."""
        with _alarm(WAIT):
            try:
                while not self._lock():
                    pass
            except TimeoutError:
                owner = read(self._path)
                raise Refused(
                    f"cannot start an emulator: {self._path} is held by another server process"
                    + (f" ({owner})" if owner else "")
                ) from None

    def _lock(self) -> bool:
        """Whether the file that was locked is still the one of the name: its owner removes it in the end."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(self._path, follow_symlinks=False)):  # noqa: PTH116
                    self._file, file = file, -1
                    return True
        finally:
            if file >= 0:
                os.close(file)
        return False

    def write(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode() + b"\n", 0)

    def remove(self) -> None:
        """Remove the file and give the name up."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1


def read(path: Path) -> str:
    """What the owner of a pid file wrote, "" when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def is_held(path: Path) -> bool:
    """Whether a process has the pid file locked."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """TimeoutError in the block after so many seconds; for processes that are servers, SIGALRM is theirs."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
