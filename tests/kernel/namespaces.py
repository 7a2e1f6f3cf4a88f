"""What tests on the real kernel share: root's rights, asked for aloud, and namespaces that leave nothing behind."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.needs import need_root

CLONE_NEWNET = 0x40000000
NOBODY = 65534


@contextmanager
def fresh_namespace() -> Iterator[None]:
    """This process in a network namespace of its own, which is gone afterwards."""
    need_root()
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    library = ctypes.CDLL(None, use_errno=True)
    try:
        assert library.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        assert library.setns(before, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(before)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without any of root's rights."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def run(command: str, text: str = "") -> str:
    """What a shell command prints; the test fails when it does."""
    result = subprocess.run(["sh", "-ec", command], input=text, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout
