"""Starting and finding the server processes of emulators: what a client needs only when none runs yet."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ipvsctl.emulator import files
from ipvsctl.emulator.lock import is_held, read
from ipvsctl.emulator.messages import READY
from ipvsctl.errors import Unavailable

START_TIMEOUT = 60.0
"""Seconds for a server to start; it takes a tenth of one, under an emulated processor twenty times that."""

_ANSWER_TIMEOUT = 120.0


def start(name: str) -> socket.socket:
    """Start the server of a name unless another client just did, and connect to it; raises Unavailable."""
    folder = files.directory()
    path = files.socket_path(folder, name)
    # Held while a server is started: who waits here finds it running. The wait is bounded by the holder's.
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connected = files.connect(path, _ANSWER_TIMEOUT)
        if connected is None:
            _spawn(name, folder)
            connected = files.connect(path, _ANSWER_TIMEOUT)
    except OSError as error:
        raise Unavailable(f"cannot start the emulator {name}: {error.strerror or error}") from None
    finally:
        os.close(lock)
    if connected is None:
        raise Unavailable(f"cannot start the emulator {name}: it ended again at once")
    return connected


def running() -> list[dict[str, Any]]:
    """The servers that live, by name, as their pid files describe them."""
    found = []
    for path in files.pid_files(files.directory()):
        if is_held(path):
            try:
                data = json.loads(read(path))
                found.append({key: data[key] for key in ("name", "pid", "started", "socket")})
            except (ValueError, KeyError, TypeError):
                # Locked and not yet written: a server that starts this moment.
                continue
    return found


def _spawn(name: str, folder: Path) -> None:
    """Run a server until it says that it listens; raises Unavailable with its words when it does not."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "IPVSCTL_RUNTIME_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    mine, its = os.pipe()
    try:
        try:
            # -P: the current directory is no place to import from.
            server = subprocess.Popen(
                [sys.executable, "-P", "-m", "ipvsctl.emulator.server", "--detach", name],
                stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environment, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(its)
        words = _words(mine)
        # The starter of the detached server: it is done as soon as that has begun.
        server.wait(START_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"cannot start the emulator {name}: {error}") from None
    finally:
        os.close(mine)
    if not words.endswith(READY):
        lines = words.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"it does not listen after {START_TIMEOUT:.0f} seconds"
        raise Unavailable(f"cannot start the emulator {name}: {why}")


def _words(pipe: int) -> bytes:
    """What a server says until it is ready or ends."""
    said = b""
    deadline = time.monotonic() + START_TIMEOUT
    while not said.endswith(READY):
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            break
        data = os.read(pipe, 4096)
        if not data:
            break
        said += data
    return said
