"""Letting go of an empty iptables-legacy table that one of our plans brought into being.

A table exists from its first use until its module goes. The kernel refuses to unload the module while any namespace has
a rule in such a table (ip_tables.c, do_replace takes a reference for rules beyond the initial ones), but it would not
refuse for an empty table with a policy of its own. So the module is unloaded only when no other namespace has it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ipvsctl.kernel.modules import PROGRAMS
from ipvsctl.kernel.tables import existing_tables
from ipvsctl.model.address import INET6

_NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def let_go(family: int, table: str) -> bool:
    """Remove an empty table of this namespace; False when it has to stay: others have it, or it is built in.

    Call with iptables' lock held and every handle of the table closed.
    """
    if any(table in names for names in _tables_of_others(family)):
        return False
    module = f"{'ip6table' if family == INET6 else 'iptable'}_{table}"
    program = next((file for folder in PROGRAMS if os.access(file := f"{folder}/rmmod", os.X_OK)), None)
    if program is not None:
        # Refused or late, the table just stays.
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([program, module], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    return table not in existing_tables(family)


def _tables_of_others(family: int) -> Iterator[list[str]]:
    """Names of the tables of every other namespace that a process or a name keeps alive."""
    name = "ip6_tables_names" if family == INET6 else "ip_tables_names"
    seen = {_inode(Path("/proc/self/ns/net"))}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if (inode := _inode(process / "ns/net")) not in seen:
                seen.add(inode)
                yield (process / "net" / name).read_text().split()
        except OSError:
            # It ended meanwhile, or we may not look: then nothing may be taken away.
            yield [*_EVERY] if (process / "ns").exists() else []
    for mount in _NAMED.iterdir() if _NAMED.is_dir() else ():
        if (inode := _inode(mount)) not in seen:
            seen.add(inode)
            yield _read_inside(mount, family)


_EVERY = ("filter", "raw", "mangle", "nat", "security")


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _read_inside(mount: Path, family: int) -> list[str]:
    """Tables of a namespace that has no process: a child enters it, for our own must stay where it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            descriptor = os.open(mount, os.O_RDONLY | os.O_CLOEXEC)
            if ctypes.CDLL(None).setns(descriptor, _CLONE_NEWNET) == 0:
                os.write(writer, " ".join(existing_tables(family)).encode())
                status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text.split() if status == 0 else [*_EVERY]
