"""The grammar of a saved state beyond what it shares with the director file: tables, keys, kinds of values.

Readers work as those of director_values.py: they return the value for the model or raise `Wrong`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, Any

from ipvsctl.errors import UsageError
from ipvsctl.formats import director_values as values
from ipvsctl.formats.director_values import Problem, Reader, Wrong, quoted, wrong
from ipvsctl.model.route import MAIN

if TYPE_CHECKING:
    from ipvsctl.formats.toml_lines import Path

ROUTE_KINDS = ("unicast", "local", "blackhole", "unreachable", "prohibit", "throw")
RULE_ACTIONS = ("lookup", "blackhole", "unreachable", "prohibit")
MOST = 100
"""Problems noted of one file; one with more is something else altogether."""

_U32 = 2**32 - 1
_LONGEST_RULES = 8 * 2**20


def _parsed(convert: Callable[[str], object], expected: str) -> Reader:
    """Reader of text that `convert` must take; returns its canonical form."""

    def read(value: Any) -> str:
        try:
            if type(value) is str and "/" in value and "%" not in value:
                return str(convert(value))
        except ValueError:
            pass
        raise wrong(expected, value)

    return read


interface = _parsed(ip_interface, 'an address with its prefix length such as "10.0.1.1/24"')
network = _parsed(ip_network, 'a network without host bits such as "10.0.1.0/24" or "0.0.0.0/0"')


def prefix(value: Any) -> str:
    """A network, or a single address, which gets its full length."""
    if type(value) is str and "/" not in value:
        value = f"{value}/{128 if ':' in value else 32}"
    return str(network(value))


def rules_text(value: Any) -> str:
    """What iptables-save prints; what it says is read elsewhere."""
    if type(value) is not str or len(value) > _LONGEST_RULES:
        raise wrong("the text of iptables-save", value)
    return value


TABLES: dict[str, dict[str, Reader]] = {
    "": dict.fromkeys(("device", "route", "rule", "service", "sysctl", "timeout"), values.any_value) | {
        "modules": values.array(values.name("a module's name", 60), "modules"),
        "iptables": rules_text,
        "ip6tables": rules_text,
        "notes": values.array(values.text("a note"), "notes"),
    },
    "[[device]]": {
        "name": values.device,
        "addresses": values.array(interface, "addresses with their prefix lengths"),
        "mtu": values.integer(68, 65536, " bytes"),
        "hosts": values.array(values.address, "addresses"),
    },
    "[[route]]": {
        "destination": network,
        "device": values.device,
        "via": values.address,
        "table": values.integer(1, _U32),
        "kind": values.word(*ROUTE_KINDS),
        "source": values.address,
        "metric": values.integer(0, _U32),
        "mtu": values.integer(0, 65536, " bytes"),
    },
    "[[rule]]": {
        "family": values.word("inet", "inet6"),
        "priority": values.integer(0, _U32),
        "from": prefix,
        "to": prefix,
        "mark": values.integer(0, _U32),
        "mask": values.integer(0, _U32),
        "in_device": values.device,
        "out_device": values.device,
        "action": values.word(*RULE_ACTIONS),
        "table": values.integer(1, _U32),
    },
}  # fmt: skip
"""Table, as it is written in the file -> key -> reader; "" is the file itself."""

DEFAULTS: Mapping[str, object] = {"mtu": 1500, "table": MAIN, "kind": "unicast", "action": "lookup"}


class Notes:
    """Collects what is wrong with a file; nothing stops at the first problem."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def note(self, path: Path, reason: str, first: Path | None = None) -> None:
        self.problems.append(Problem(path, reason, first))

    def table(
        self, table: Any, where: str, known: Mapping[str, Reader], path: Path, required: Collection[str] = ()
    ) -> dict[str, Any]:  # fmt: skip
        """The keys of a table that are right, read; problems of the others noted. `where` is its written name."""
        if type(table) is not dict:
            self.note(path, f"{where}: {wrong('a table', table)}")
            return {}
        got = {}
        for key, value in table.items():
            if len(self.problems) >= MOST:
                break
            reader = known.get(key)
            if reader is None:
                place = where or "the file"
                self.note((*path, key), f"unknown key {quoted(key)} in {place}, expected {', '.join(known)}")
                required = ()  # it may be the one that is misspelt
                continue
            try:
                got[key] = reader(value)
            except Wrong as error:
                self.note((*path, key, *error.at), f"{key}: {error}")
            except UsageError as error:
                self.note((*path, key), f"{key}: {error}")
        for key in required:
            if key not in table:
                self.note(path, f"{where} has no {key}, expected one")
        return got

    def rows(self, rows: Any, where: str, path: Path) -> list[Any]:
        """The elements of an array of tables."""
        if type(rows) is list:
            return rows
        self.note(path, f"{path[-1]}: {wrong(f'an array of tables, each under {where}', rows)}")
        return []
