"""Rows of the connection and conntrack tables as plain lists and back: what an emulator's socket carries.

There are very many of them, so they go as lists in the order of their fields, without their names. Reading is strict,
as in values.py.
"""

from __future__ import annotations

from typing import Any

from ipvsctl.formats.values import strict
from ipvsctl.model.status import Connection, ConntrackEntry, Expectation

Row = list[Any]

_LISTS = frozenset({"flags", "status"})


def _reader(fields: tuple[str, ...]) -> list[type]:
    """What each field has to be in JSON."""
    numbers = ("port", "expires", "timeout", "mark")
    return [list if name in _LISTS else int if name.endswith(numbers) else str for name in fields]


_CONNECTION, _ENTRY, _EXPECTATION = (
    _reader(kind._fields) for kind in (Connection, ConntrackEntry, Expectation)
)  # fmt: skip


def _values(data: Any, kinds: list[type]) -> Row:
    values = list(data)
    if list(map(type, values)) != kinds:
        raise TypeError(f"{values!r:.200}")
    for at, kind in enumerate(kinds):
        if kind is list:
            if not all(type(each) is str for each in values[at]):
                raise TypeError(f"{values[at]!r:.200}")
            values[at] = tuple(values[at])
    return values


@strict
def connection_from_list(data: Any) -> Connection:
    return Connection._make(_values(data, _CONNECTION))


@strict
def entry_from_list(data: Any) -> ConntrackEntry:
    return ConntrackEntry._make(_values(data, _ENTRY))


@strict
def expectation_from_list(data: Any) -> Expectation:
    return Expectation._make(_values(data, _EXPECTATION))
