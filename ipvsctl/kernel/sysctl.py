"""Sysctls of the namespace: files under /proc/sys.

A name has dots between its parts, as in sysctl(8); a dot inside a device's name is written "/", so that
net.ipv4.conf.eth0/100.accept_local is conf/eth0.100/accept_local. Which network namespace is meant is decided by the
kernel when the file is opened (net/sysctl_net.c), so one object serves whatever namespace the process is in.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ipvsctl.errors import IpvsctlError, NotFound, NotPermitted, Refused, Unavailable, UsageError

ROOT = Path("/proc/sys")

_SELF_SWITCHING = ("drop_entry", "drop_packet", "secure_tcp")


class KernelSysctl:
    """The sysctls of the kernel. Every call raises UsageError for a name that cannot be one."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def get(self, name: str) -> str | None:
        """The value, numbers separated by single blanks; None when the sysctl does not exist."""
        try:
            return _normal(self._file(name).read_text(encoding="utf-8", errors="replace"))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            if isinstance(error, PermissionError):
                raise NotPermitted(f"cannot read {name}: no permission: run as root, or with sudo") from None
            raise Unavailable(f"cannot read {name}: {error.strerror}") from None

    def set(self, name: str, value: str) -> None:
        """Write a value and read it back.

        Raises NotFound, NotPermitted, Unavailable (/proc/sys is read-only) or Refused. Some sysctls round a value or
        keep the old one without a word: that is Refused as well, and the old value is there again.
        """
        file = self._file(name)
        wanted = _normal(value)
        if "\0" in value or not value.isascii():
            raise UsageError(f"cannot set {name} to {value!r}: expected a number or words")
        before = self.get(name) if file.exists() and os.access(file, os.R_OK, effective_ids=True) else None
        try:
            _write(file, wanted)
            # A write-only sysctl, as net.ipv4.route.flush is: taken without an error is all there is to know.
            found = wanted if before is None else self.get(name)
            if before is not None and not _same(name, wanted, found):
                if found != before:
                    _write(file, before)
                made = "keeps" if found == before else f"would make {found} of it and has again"
                raise Refused(f"cannot set {name} to {wanted}: the kernel {made} {before}")
        except OSError as error:
            raise self._explain(name, wanted, error) from None

    def names(self, prefix: str) -> list[str]:
        """Names that start with a prefix, sorted; a part of a name may be cut ("net.ipv4.vs.sync")."""
        parts = _parts(prefix.rstrip("."), prefix) if prefix.rstrip(".") else []
        whole = not prefix or prefix.endswith(".")
        start = self._root.joinpath(*(parts if whole else parts[:-1]))
        found = []
        for folder, folders, files in os.walk(start):
            # Only what the prefix can lead to: /proc/sys/net/ipv4/conf has thousands of files on a big host.
            if not whole and folder == str(start):
                folders[:] = [each for each in folders if each.startswith(parts[-1])]
                files = [each for each in files if each.startswith(parts[-1])]
            inner = Path(folder).relative_to(self._root).parts
            found += [".".join(part.replace(".", "/") for part in (*inner, file)) for file in files]
        return sorted(found)

    def check_writable(self, name: str) -> None:
        """Raises NotPermitted or Unavailable when `set` would; also for a sysctl that a module has yet to bring."""
        file = self._file(name)
        nearest = file
        while not nearest.exists() and nearest != self._root and nearest != nearest.parent:
            nearest = nearest.parent
        try:
            if os.statvfs(nearest).f_flag & os.ST_RDONLY:
                raise _read_only(f"cannot set {name}")
        except OSError as error:
            raise Unavailable(f"cannot set {name}: {nearest}: {error.strerror}") from None
        if nearest == file:
            if not os.access(file, os.W_OK, effective_ids=True):
                raise _not_permitted(f"cannot set {name}")
        elif os.geteuid() != 0 or not _initial_user_namespace():
            raise _not_permitted(f"cannot set {name}, nor load the module that brings it")

    def _file(self, name: str) -> Path:
        return self._root.joinpath(*_parts(name, name))

    def _explain(self, name: str, value: str, error: OSError) -> IpvsctlError:
        what = f"cannot set {name} to {value}"
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            return NotFound(f"{what}: there is no such sysctl here; a module that is not loaded may bring it")
        if error.errno in (errno.EACCES, errno.EPERM):
            return _not_permitted(what)
        if error.errno == errno.EROFS:
            return _read_only(what)
        return Refused(f"{what}: the kernel does not take {value!r} ({error.strerror})")


def _parts(name: str, subject: str) -> list[str]:
    """The path's parts; nothing that leaves /proc/sys gets through."""
    parts = [part.replace("/", ".") for part in name.split(".")]
    if "\0" in name or any(part in ("", ".", "..") for part in parts) or len(name) > 4096:
        raise UsageError(
            f"{subject!r} is not a sysctl, expected parts with dots between them, as in net.ipv4.vs.conntrack "
            "(a dot inside a device's name is written /)"
        )
    return parts


def _write(file: Path, value: str) -> None:
    # One write call: the kernel parses each on its own (proc_sys_call_handler).
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode() + b"\n")
    finally:
        os.close(descriptor)


def _normal(text: str) -> str:
    return " ".join(text.split())


def _same(name: str, wanted: str, found: str | None) -> bool:
    """Whether the kernel has what was asked for: as text, or as numbers (0x10 is read back as 16).

    Of several numbers the first ones may be given alone; the kernel keeps the others (proc_dointvec).
    """
    if found is None or wanted == found:
        return True
    # In modes 1 and 2 these three switch between the two by themselves (ip_vs_ctl.c, update_defense_level).
    if name.startswith("net.ipv4.vs.") and name.endswith(_SELF_SWITCHING) and {wanted, found} == {"1", "2"}:
        return True
    try:
        numbers = [int(word, 0) for word in wanted.split()]
        return bool(numbers) and numbers == [int(word, 0) for word in found.split()][: len(numbers)]
    except ValueError:
        return False


def _initial_user_namespace() -> bool:
    """False for the root of a container's or an `unshare -r` user namespace."""
    try:
        return Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", "4294967295"]
    except OSError:
        return True


def _read_only(what: str) -> Unavailable:
    return Unavailable(f"{what}: /proc/sys is read-only here, as in most containers: set it on the host itself")


def _not_permitted(what: str) -> NotPermitted:
    if os.geteuid() == 0 and not _initial_user_namespace():
        return NotPermitted(f"{what}: root of an unprivileged user namespace may not: run it as root of the host")
    if os.geteuid() == 0:
        return NotPermitted(f"{what}: the kernel does not let even root write it")
    return NotPermitted(f"{what}: it takes root: run as root, or with sudo")
