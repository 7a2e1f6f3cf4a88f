"""Whether a command line is one of the classic command, and what runs it then.

Asked of every command line, so it imports nothing. Called as `ipvsadm` nothing but the classic command is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipvsctl.cli.environment import Environment

NAMES = ("ipvsadm", "ipvsadm-save", "ipvsadm-restore")
"""Names of links to ipvsctl by which it is the classic command."""

_WITH_VALUE = ("--host", "--netns", "--color")
_FLAGS = ("-j", "--json", "--dry-run", "-v", "--verbose", "-q", "--quiet")
_SHORT = frozenset("AEDCLlZaedRS")
_LONG = frozenset((
    "add-service", "edit-service", "delete-service", "clear", "list", "zero", "add-server", "edit-server",
    "delete-server", "restore", "save", "set", "start-daemon", "stop-daemon",
))  # fmt: skip


def called_as(path: str) -> str:
    """The classic name that the program was called by, "" for another."""
    name = path.rpartition("/")[2]
    return name if name in NAMES else ""


def with_command(arguments: Sequence[str]) -> list[str]:
    """The arguments with `ipvsadm` before a classic command that is the first word, or the first behind options."""
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word in _WITH_VALUE:
            at += 2
        elif word in _FLAGS or word.partition("=")[0] in _WITH_VALUE:
            at += 1
        else:
            break
    if at >= len(arguments):
        return list(arguments)
    dash, first = arguments[at][:1], arguments[at][1:2]
    long = arguments[at][2:].partition("=")[0]
    classic = dash == "-" and (long in _LONG if first == "-" else first in _SHORT)
    return [*arguments[:at], "ipvsadm", *arguments[at:]] if classic else list(arguments)


def run(env: Environment, name: str, arguments: Sequence[str]) -> int:
    """Be the classic command of a name; returns its exit status."""
    from ipvsctl.cli.ipvsadm_run import Classic

    classic = Classic(env)
    if name == "ipvsadm":
        return classic.run(arguments)
    from ipvsctl.cli import ipvsadm_stream as stream

    return stream.save_script(classic, arguments, name) if name == "ipvsadm-save" else stream.restore_script(classic)
