"""Where things live while the machine runs: journals, locks, the emulators' sockets; and what of it is still there.

Root's are in /run/ipvsctl, a user's in $XDG_RUNTIME_DIR/ipvsctl, and where a session has none in /tmp/ipvsctl-UID:
a name that others could have made first, so owner and mode are checked before it is trusted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ipvsctl.errors import NotPermitted


def runtime_directory() -> Path:
    """The directory for run-time files, made with mode 0700 when it is missing.

    `IPVSCTL_RUNTIME_DIR` names another. Raises NotPermitted when it cannot be made or is not ours alone.
    """
    user = os.geteuid()
    if chosen := os.environ.get("IPVSCTL_RUNTIME_DIR"):
        path = Path(chosen)
    elif user == 0:
        path = Path("/run/ipvsctl")
    elif base := os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(base, "ipvsctl")
    else:
        path = Path(f"/tmp/ipvsctl-{user}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise NotPermitted(
            f"cannot use {path} for run-time files: {error.strerror}; set IPVSCTL_RUNTIME_DIR to a directory of yours"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        raise NotPermitted(
            f"{path} is not a directory that only uid {user} may write to: remove it, or set IPVSCTL_RUNTIME_DIR"
        )
    return path


_INITIAL_PIDS = "pid:[4026531836]"
"""The PID namespace of the machine itself; PROC_PID_INIT_INO of include/linux/proc_ns.h."""


def boot_id() -> str:
    """What tells this boot of the machine from others, "" where /proc does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def network_namespace() -> int | None:
    """The inode number of the network namespace that we are in; None where /proc does not tell."""
    try:
        return Path("/proc/thread-self/ns/net").stat().st_ino
    except OSError:
        return None


def network_namespaces(asked: frozenset[int]) -> frozenset[int]:
    """Which network namespaces, asked for by inode number, are there: in use by a thread, mounted, or held open.

    All of them when that cannot be told, as inside a container, where /proc shows a part of the machine. One that only
    a socket keeps alive is not found. The number of one that is gone may be given to another.
    """
    try:
        if str(Path("/proc/self/ns/pid").readlink()) != _INITIAL_PIDS:
            return asked
        left = set(asked)
        for number in _namespaces_in_use():
            left.discard(number)
            if not left:
                break
        return asked - left
    except OSError:
        return asked


def _namespaces_in_use() -> Iterator[int]:
    """What is quick to find comes first. Processes may end meanwhile; raises PermissionError when we may not look."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    for process in (Path("/proc/self"), *processes):
        with _alive():
            # A field of its own: the root of the mount inside the file system of namespaces.
            for found in re.finditer(r" net:\[(\d+)\] ", (process / "mountinfo").read_text(errors="replace")):
                yield int(found[1])
    for thread in _inside(processes, "task"):
        with _alive():
            yield (thread / "ns/net").stat().st_ino
    for handle in _inside(processes, "fd"):
        with _alive():
            target = str(handle.readlink())
            # One that was opened by a name that is gone by now is shown as "/".
            if target == "/" or target.startswith("net:["):
                yield handle.stat().st_ino


def _inside(processes: list[Path], folder: str) -> Iterator[Path]:
    for process in processes:
        with _alive():
            yield from list((process / folder).iterdir())


@contextmanager
def _alive() -> Iterator[None]:
    """A process that ends meanwhile is no error (its mounts are EINVAL then); one that we may not look at is."""
    try:
        yield
    except PermissionError:
        raise
    except OSError:
        pass
