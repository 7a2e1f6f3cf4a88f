"""The timer of `apply --confirm`: a process of its own that undoes the apply unless it is confirmed in time.

It outlives the terminal, the session and the command, because the reason for all this is an apply that cuts the
administrator off. It is forked before the plan runs: an apply that dies in the middle is undone as well. Its time
starts when the apply has ended, which is when it gets the journal's lock.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from ipvsctl.cli.run import named
from ipvsctl.cli.undo import undo_records
from ipvsctl.errors import NotFound, Refused
from ipvsctl.runtime import runtime_directory

if TYPE_CHECKING:
    from ipvsctl.cli.environment import Environment
    from ipvsctl.journal import Journals

POLL = 0.1
"""Seconds between two looks whether somebody has confirmed."""


def start(env: Environment, journals: Journals, record: str, command: str, seconds: float) -> None:
    """Fork the timer for the plan that will have a record's name. Call with the lock held and the apply pending."""
    mark = _mark(journals)
    first = os.fork()
    if first:
        if os.waitpid(first, 0)[1]:
            raise Refused("cannot start the timer of --confirm: no process can be started")
        return
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork() == 0:
            _detach()
            _watch(env, journals, record, command, seconds, mark)
        status = 0
    finally:
        os._exit(status)


def _detach() -> None:
    """Let go of everything inherited: the terminal, the lock, the host's sockets, the directory."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Relative to a directory that we are about to leave.
    os.environ["IPVSCTL_RUNTIME_DIR"] = str(runtime_directory().absolute())
    os.chdir("/")
    os.closerange(0, 2**20)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(null, number)


def _mark(journals: Journals) -> tuple[int, int] | None:
    """What tells this request for confirmation from a later one of the same name."""
    try:
        found = journals.pending_path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _watch(
    env: Environment, journals: Journals, record: str, command: str, seconds: float, mark: tuple[int, int] | None
) -> None:
    with journals.lock(float("inf")):
        pass
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if _mark(journals) != mark:
            return
        time.sleep(min(POLL, left))
    with journals.lock(float("inf")):
        if _mark(journals) == mark:
            _undo(env, journals, record, command, seconds)


def _undo(env: Environment, journals: Journals, record: str, command: str, seconds: float) -> None:
    """Undo the apply and what came after it, with the lock held, and leave word of it."""
    what = f"{named(command)} was not confirmed within {seconds:g}s"
    journals.clear_pending()
    try:
        from ipvsctl.cli.emulate import is_gone
        from ipvsctl.pick import open_host

        if is_gone(env.host_name):
            return
        # The namespace was entered before the fork. A host of the same name may be another one by now.
        host = open_host(env.host_name, None)
        if host.identity != journals.identity:
            return
        records = journals.since(record)
        if not any(each.path.stem in (record, "running") for each in records):
            raise NotFound("its journal is gone")
        undo_records(records, host, journals)
    except Exception as error:
        journals.notify(f"{what}, and undoing it failed: {error}; try `ipvsctl rollback`")
    else:
        journals.notify(f"{what} and has been undone")
