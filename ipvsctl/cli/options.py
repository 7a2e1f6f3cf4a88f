"""Arguments and options that several commands share, each declared once: how its text is read and completed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ipvsctl.cli.tree import completed_by
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.model.address import ServerAddress, ServiceAddress

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType

INT_MAX = 2**31 - 1
LONGEST = 31 * 86400
"""Seconds: the longest timeout that IPVS takes."""


class _Service(_ParamType):
    """A virtual service: tcp:ADDRESS:PORT, udp:..., sctp:..., fwmark:MARK[/inet6]."""

    name = "service"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ServiceAddress:
        from ipvsctl.model.address import ServiceAddress

        return value if isinstance(value, ServiceAddress) else ServiceAddress.parse(value)


class _Server(_ParamType):
    """A real server of the service given before it: ADDRESS or ADDRESS:PORT."""

    name = "server"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ServerAddress:
        from ipvsctl.model.address import ServerAddress

        if isinstance(value, ServerAddress) or ctx is None:
            raise UsageError(f"{value!r} stands where no server can")
        return ServerAddress.parse(value, ctx.params["service"])


class Number(_ParamType):
    """A whole number in ASCII digits, lowest..highest."""

    name = "number"

    def __init__(self, lowest: int = 0, highest: int = INT_MAX) -> None:
        self.lowest = lowest
        self.highest = highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits = value.isascii() and value.isdigit() and len(value) <= 20
        if not (digits and self.lowest <= int(value) <= self.highest):
            raise UsageError(f"{_subject(param)} {value!r} is not a number, expected {self.lowest}..{self.highest}")
        return int(value)


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)


class Duration(_ParamType):
    """A time: seconds, or days, hours, minutes and seconds as in 1m30s. Whole seconds unless `fraction`."""

    name = "duration"

    def __init__(self, lowest: int = 1, highest: int = LONGEST, *, fraction: bool = False) -> None:
        self.lowest = lowest
        self.highest = highest
        self.fraction = fraction

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return value
        match = _DURATION.fullmatch(value) if value and len(value) <= 32 else None
        if match:
            days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
            total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
            if self.fraction and 0 < total <= self.highest:
                return total
            if total == int(total) and self.lowest <= total <= self.highest:
                return int(total)
        raise UsageError(
            f"{_subject(param)} {value!r} is not a duration, expected {self.lowest}..{self.highest} seconds, as in 90, "
            "90s or 1m30s"
        )


def _subject(param: click.Parameter | None) -> str:
    if param is None:
        return "value"
    return param.human_readable_name if isinstance(param, click.Argument) else param.opts[0]


SERVICE = _Service()
SERVER = _Server()

existing_service = click.argument("service", type=SERVICE, metavar="SERVICE", shell_complete=completed_by("services"))
new_service = click.argument("service", type=SERVICE, metavar="SERVICE", shell_complete=completed_by("protocols"))
existing_server = click.argument("server", type=SERVER, metavar="SERVER", shell_complete=completed_by("servers"))
new_server = click.argument("server", type=SERVER, metavar="SERVER", shell_complete=completed_by("nothing"))


def file_argument(function: F) -> F:
    """FILE: a path, or - for standard input."""
    return click.argument("file", metavar="FILE", shell_complete=completed_by("files"))(function)


def several(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which help shows them."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def environment(function: Callable[..., R]) -> Callable[..., R]:
    """The environment of the run as a command's first argument."""
    return click.pass_obj(function)
