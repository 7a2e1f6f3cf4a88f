"""What goes over an emulator's socket: one JSON object per line, a request and its answer.

    {"id": 1, "call": "sysctl.set", "args": {"name": "net.ipv4.vs.conntrack", "value": "1"}}
    {"id": 1, "ok": null}
    {"id": 1, "error": {"class": "Refused", "message": "cannot set ..."}}

A failed batch has one item per change in its error: {"outcome": [null, {"class": "NotFound", "message": "..."}]}.
"""

from __future__ import annotations

from typing import Any

from ipvsctl import errors
from ipvsctl.errors import IpvsctlError, UsageError
from ipvsctl.host import BatchError

PROTOCOL = 1
"""Version of what is said over the socket; both sides must have the same."""

MAX_REQUEST = 64 * 2**20
"""Bytes of one request with its newline."""

READY = b"ready\n"
"""What a server writes to its standard output once it listens."""

NAME_LENGTH = 32

_CLASSES: dict[str, type[IpvsctlError]] = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, IpvsctlError) and cls is not errors.FileError
}


def check_name(name: str) -> str:
    """The name of an emulator, 1..32 ASCII letters, digits, "_" and "-"; raises UsageError for another."""
    plain = name[:1].isalnum() and name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
    if not plain or len(name) > NAME_LENGTH:
        raise UsageError(f"{name!r} is not a name for an emulator, expected 1..{NAME_LENGTH} of A-Z a-z 0-9 _ -")
    return name


def error_to_dict(error: IpvsctlError | BatchError) -> dict[str, Any]:
    data: dict[str, Any] = {"class": type(error).__name__, "message": str(error)}
    if isinstance(error, BatchError):
        data["outcome"] = [None if each is None else error_to_dict(each) for each in error.outcome]
    return data


def error_from_dict(data: dict[str, Any]) -> IpvsctlError | BatchError:
    """The error that the other side raised; a class that is not known here becomes its base."""
    if data["class"] == BatchError.__name__:
        return BatchError([None if each is None else _single(each) for each in data["outcome"]])
    return _single(data)


def _single(data: dict[str, Any]) -> IpvsctlError:
    return _CLASSES.get(data["class"], IpvsctlError)(str(data["message"]))
