"""The errors of ipvsctl, and the exit status that each one means.

    IpvsctlError
    |-- Refused           1   the host said no to a change that was well formed
    |   |-- Drift         1   a check found that the host is not as it should be
    |   `-- NotTried      1   a change of a batch was left out because an earlier one failed
    |-- UsageError        2   wrong usage: an argument out of range, options that exclude each other
    |   `-- FileError     2   a director file that cannot be read as one; names file and line
    |-- NotFound          3   the service, server, sysctl ... is not there
    |-- AlreadyExists     3   it is there already
    |-- Unavailable       4   the feature is missing on this host
    |   `-- NotPermitted  4   the caller lacks the privilege
    |-- PlanFailed        5   a plan failed half-way; everything was undone
    `-- UndoFailed        6   a plan failed half-way and so did its undo; names what is left

A message is one line that says what was tried, on what, why it failed and what to do. Both hosts, the kernel and the
emulator, raise the same class for the same reason; the conformance suite holds them to it.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of the command; a contract for scripts."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    UNDONE = 5
    UNDO_FAILED = 6
    INTERRUPTED = 130


class IpvsctlError(Exception):
    """Base of every error that reaches the user as one line."""

    status = Exit.REFUSED


class Refused(IpvsctlError):
    """The host refused the change: what it was asked is well formed, but not possible there."""


class Drift(Refused):
    """A check found a difference between what should be and what is."""


class NotTried(Refused):
    """A change of a batch that was left out because an earlier one failed."""


class UsageError(IpvsctlError):
    """The request itself is wrong: no host could carry it out."""

    status = Exit.USAGE


class FileError(UsageError):
    """A director file is wrong at a line of it."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason


class NotFound(IpvsctlError):
    """What the request names does not exist on the host."""

    status = Exit.NOT_FOUND


class AlreadyExists(IpvsctlError):
    """What the request would add exists on the host."""

    status = Exit.NOT_FOUND


class Unavailable(IpvsctlError):
    """The host lacks a feature: a module, a sysctl, a program."""

    status = Exit.UNAVAILABLE


class NotPermitted(Unavailable):
    """The caller may not do this on the host."""


class PlanFailed(IpvsctlError):
    """A plan stopped at a step and everything before it was undone."""

    status = Exit.UNDONE


class UndoFailed(IpvsctlError):
    """A plan stopped at a step and undoing the steps before it failed too."""

    status = Exit.UNDO_FAILED
