"""Emulators as real server processes, in a run-time directory of the test's own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.emulator import client, files
from ipvsctl.emulator.client import RemoteHost

GONE = 30.0
"""Seconds within which a process must have ended."""


def pid_of(name: str) -> int:
    (pid,) = [each["pid"] for each in client.running() if each["name"] == name]
    assert isinstance(pid, int)
    return pid


def end(pid: int, number: signal.Signals) -> None:
    """Signal a process and wait until it is gone."""
    watch = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert select.select([watch], [], [], GONE)[0], f"process {pid} lives on after {number.name}"
    finally:
        os.close(watch)


class Plain:
    """A bare connection to a server: bytes out, lines in."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> Any:
        """The next answer; None at the end of the connection."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def ask(self, call: str, **args: Any) -> Any:
        self.send(json.dumps({"id": 1, "call": call, "args": args}).encode() + b"\n")
        return self.line()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The run-time directory; servers that are left in it are ended."""
    path = tmp_path / "run"
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(path))
    yield path
    for each in client.running():
        with suppress(ProcessLookupError):
            end(each["pid"], signal.SIGKILL)


@pytest.fixture
def lab(folder: Path) -> Iterator[RemoteHost]:
    """A running emulator "lab"."""
    host = RemoteHost.connect("lab")
    yield host
    host.close()


@pytest.fixture
def plain(lab: RemoteHost, folder: Path) -> Iterator[Plain]:
    """A bare connection to "lab"."""
    connection = Plain(files.socket_path(folder, "lab"))
    yield connection
    connection.close()
