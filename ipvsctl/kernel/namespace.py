"""Network namespaces: entering one, and telling one from another.

A socket opened before `enter` would go on talking to the old namespace, so entering comes first. Only the network
changes: /sys still shows the devices of the namespace it was mounted in, so nothing in kernel/ asks /sys about devices.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path

from ipvsctl.errors import NotFound, NotPermitted, Refused, UsageError

FOLDER = "/run/netns"
"""Where `ip netns add` puts its names."""

_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, since Linux 5.14


def enter(name: str) -> None:
    """Move this thread into the network namespace of a name in /run/netns, a path (with a "/") or a process's number.

    Raises NotFound, NotPermitted, and UsageError for a name that cannot be one or a file that is no namespace.
    """
    path = _path(name)
    what = f"cannot enter the network namespace {name!r}"
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        where = "`ip netns list` shows those with a name" if path.startswith(FOLDER) else f"there is no {path}"
        raise NotFound(f"{what}: there is no such namespace, {where}") from None
    except PermissionError:
        raise NotPermitted(f"{what}: no permission to open {path}: run as root, or with sudo") from None
    except OSError as error:
        raise Refused(f"{what}: {path}: {error.strerror}") from None
    try:
        _set(file)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise NotPermitted(f"{what}: it needs CAP_SYS_ADMIN: run as root, or with sudo") from None
        if error.errno in (errno.EINVAL, errno.EBADF):
            raise UsageError(f"{what}: {path} is not a network namespace") from None
        raise Refused(f"{what}: {error.strerror}") from None
    finally:
        os.close(file)


def identity() -> str:
    """Words that name this very network namespace and no other one, before or after it.

    The boot's id with the namespace's cookie, which the kernel gives out once per boot; before Linux 5.14 with the
    number of the namespace's inode, which a later namespace may get again.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "unknown-boot"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        return f"{boot}-netns-cookie-{int.from_bytes(cookie, sys.byteorder)}"
    except OSError:
        pass
    try:
        return f"{boot}-netns-inode-{Path('/proc/thread-self/ns/net').stat().st_ino}"
    except OSError as error:
        raise Refused(f"cannot tell which network namespace this is: /proc: {error.strerror}") from None


def _path(name: str) -> str:
    if not name or name in (".", "..") or "\0" in name:
        raise UsageError(f"{name!r} is not a network namespace, expected a name, a path or a process's number")
    if "/" in name:
        return name
    named = f"{FOLDER}/{name}"
    if name.isascii() and name.isdigit() and not os.path.lexists(named):
        return f"/proc/{name}/ns/net"
    return named


def _set(file: int) -> None:
    if hasattr(os, "setns"):
        os.setns(file, _CLONE_NEWNET)
        return
    # os.setns came with Python 3.12.
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(file, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

