"""The files of emulators: a socket and a pid file each, in the run-time directory.

    emulator-NAME.sock   mode 0600, there while the server listens
    emulator-NAME.pid    what the server is, as JSON; locked (flock) as long as it lives

A pid file that nobody holds locked belongs to a server that was killed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from ipvsctl.runtime import runtime_directory

_PREFIX, _SOCKET, _PID = "emulator-", ".sock", ".pid"

_LONGEST = 107
"""Bytes of a path that fit into a socket's address (unix(7), sun_path with its zero)."""


def directory() -> Path:
    """The absolute path of the run-time directory; raises NotPermitted."""
    return runtime_directory().absolute()


def socket_path(folder: Path, name: str) -> Path:
    return folder / f"{_PREFIX}{name}{_SOCKET}"


def pid_path(folder: Path, name: str) -> Path:
    return folder / f"{_PREFIX}{name}{_PID}"


def pid_files(folder: Path) -> list[Path]:
    """The pid files of a directory, of servers that live and of those that were killed."""
    return sorted(folder.glob(f"{_PREFIX}*{_PID}"))


def bind(listener: socket.socket, path: Path) -> None:
    """Bind to a path of any length; raises OSError."""
    _with_address(path, listener.bind)


def connect(path: Path, timeout: float) -> socket.socket | None:
    """A connection to a server's socket, every wait bounded by `timeout` seconds; None when no server is there.

    Raises OSError for other reasons; BlockingIOError when the server takes no connections in time.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not settimeout: a connect that does not block fails at once when the backlog is full (unix(7), EAGAIN).
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), 0))
        _with_address(path, client.connect)
        client.settimeout(timeout)
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    except OSError:
        client.close()
        raise
    return client


def _with_address(path: Path, use: Callable[[str], object]) -> None:
    """Call `use` with an address of the path that is short enough for the kernel."""
    if len(os.fsencode(path)) <= _LONGEST:
        use(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
