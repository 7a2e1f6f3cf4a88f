"""A saved state: TOML text -> Snapshot, and Snapshot -> text. What `ipvsctl trace --file FILE` reads.

    modules = ["ip_vs_ftp"]
    iptables = '''
    *filter
    -A INPUT -d 192.168.1.100 -j DROP
    COMMIT
    '''

    [[device]]
    name = "eth0"
    addresses = ["10.0.1.1/24", "192.168.1.100/32"]

    [[route]]
    destination = "0.0.0.0/0"
    device = "eth0"
    via = "10.0.1.254"

    [[rule]]
    priority = 100
    mark = 1
    table = 100

    [[service]], [sysctl] and [timeout] as in the director file

A rule whose addresses do not tell its family is IPv4's unless `family = "inet6"`; a mark without a mask has a full one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ipvsctl.errors import FileError, UsageError
from ipvsctl.formats import director_file, iptables_save
from ipvsctl.formats.director_read import Reading
from ipvsctl.formats.snapshot_values import DEFAULTS, TABLES, Notes
from ipvsctl.model.address import FAMILY_NAMES, INET, INET6
from ipvsctl.model.director import Director
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.snapshot import Device, SavedTable, Snapshot
from ipvsctl.model.status import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipvsctl.formats.toml_lines import Path

SHARED = ("service", "sysctl", "timeout")
"""Tables that are the director file's."""

RULES = {"iptables": INET, "ip6tables": INET6}
FULL_MASK = 2**32 - 1

_OWN = re.compile(
    r"^[ \t]*(?:\[\[\s*(?:device|route|rule)\s*\]\]|(?:device|route|rule|modules|ip6?tables|notes)\s*=)", re.MULTILINE
)
_FAMILIES = {name: family for family, name in FAMILY_NAMES.items()}
_LITERAL = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f]*")


def is_snapshot(text: str | bytes) -> bool:
    """Whether a text is a saved state and not a director file: it has a key that only the former knows."""
    content = text.decode(errors="replace") if isinstance(text, bytes) else text
    return bool(_OWN.search(content))


def parse(text: str | bytes, file: str) -> Snapshot:
    """The snapshot of a saved state; `file` is its name in errors.

    Raises FileError with the line of the first problem; further ones are its notes, as in director_file.parse.
    """
    content, tables = load(text, file)
    reading = SnapshotReading(tables)
    if reading.problems:
        raise report(reading, content, file)
    return reading.snapshot


def load(text: str | bytes, file: str) -> tuple[str, dict[str, Any]]:
    """The text as characters, and its tables; raises FileError for what is not TOML."""
    content = director_file.decoded(text, file)
    return content, director_file.tables(content, file)


def report(notes: Notes, content: str, file: str) -> FileError:
    """The error for the problems of a file, in the order of its lines."""
    return director_file.report(notes.problems, content, file)


class SnapshotReading(Notes):
    """Reads the tables of one file; afterwards `snapshot` holds if `problems` is empty."""

    def __init__(self, tables: dict[str, Any]) -> None:
        super().__init__()
        got = self.table(tables, "", TABLES[""], ())
        shared = Reading({key: got[key] for key in SHARED if key in got})
        self.problems += shared.problems
        devices = self._all(got, "device", self._device)
        names = {device.name for device in devices}
        if len(names) < len(devices):
            self._repeated([device.name for device in devices])
        self.names = names | {"lo"}
        self.snapshot = Snapshot(
            devices=tuple(devices),
            routes=tuple(self._all(got, "route", self._route)),
            policy=tuple(self._all(got, "rule", self._rule)),
            sysctls=dict(shared.director.sysctls),
            modules=frozenset(got.get("modules", ())),
            tables=tuple(self._rules(got)),
            services=shared.director.services,
            timeouts=shared.director.timeouts or Timeouts(),
            notes=got.get("notes", ()),
        )

    def _all(self, tables: dict[str, Any], key: str, reader: Callable[[dict[str, Any], Path], Any]) -> list[Any]:
        """What the rows of an array of tables stand for, those with problems left out."""
        where = f"[[{key}]]"
        required = {"device": ("name",), "route": ("destination",), "rule": ("priority",)}[key]
        found = []
        for index, row in enumerate(self.rows(tables.get(key, []), where, (key,))):
            path: Path = (key, index)
            before = len(self.problems)
            got = self.table(row, where, TABLES[where], path, required)
            value = reader(got, path) if len(self.problems) == before else None
            if value is not None:
                found.append(value)
        return found

    def _repeated(self, names: list[str]) -> None:
        for index, name in enumerate(names):
            if (first := names.index(name)) != index:
                self.note(("device", index, "name"), f"device {name} is given twice, expected once",
                          ("device", first, "name"))  # fmt: skip

    def _device(self, got: dict[str, Any], path: Path) -> Device:
        mtu = got.get("mtu", 65536 if got["name"] == "lo" else 1500)
        return Device(got["name"], got.get("addresses", ()), mtu, got.get("hosts"))

    def _route(self, got: dict[str, Any], path: Path) -> Route | None:
        kind = got.get("kind", "unicast")
        if kind in ("unicast", "local") and "device" not in got:
            self.note(path, f"a route of kind {kind} has no device, expected one")
        if got.get("device", "lo") not in self.names:
            self.note((*path, "device"), f"device: there is no [[device]] of the name {got['device']}")
        if kind != "unicast" and "via" in got:
            self.note((*path, "via"), f"via: a route of kind {kind} has no gateway")
        for key in ("via", "source"):
            if key in got and (":" in got[key]) != (":" in got["destination"]):
                self.note((*path, key), f"{key}: expected the address family of {got['destination']}")
        return Route(**got)

    def _rule(self, got: dict[str, Any], path: Path) -> PolicyRule | None:
        families = {INET6 if ":" in got[key] else INET for key in ("from", "to") if key in got}
        if "family" in got:
            families.add(_FAMILIES[got["family"]])
        if len(families) > 1:
            self.note(path, "[[rule]]: expected one address family, not two")
        action = got.get("action", "lookup")
        if action != "lookup" and "table" in got:
            self.note((*path, "table"), f"table: a rule with the action {action} looks nothing up")
        if "mask" in got and "mark" not in got:
            self.note((*path, "mask"), "mask: expected beside a mark only")
        mask = got.get("mask", FULL_MASK if "mark" in got else 0)
        if got.get("mark", 0) & ~mask:
            self.note((*path, "mark"), "mark: it has bits that are not in the mask, no packet would match")
        return PolicyRule(
            family=next(iter(families), INET), priority=got["priority"], source=got.get("from", ""),
            destination=got.get("to", ""), mark=got.get("mark", 0), mask=mask, in_device=got.get("in_device", ""),
            out_device=got.get("out_device", ""), action=action, table=got.get("table", DEFAULTS["table"]),
        )  # fmt: skip

    def _rules(self, got: dict[str, Any]) -> list[SavedTable]:
        found: list[SavedTable] = []
        for key, family in RULES.items():
            if key in got:
                try:
                    found += iptables_save.parse(got[key], family)
                except UsageError as error:
                    self.note((key,), f"{key}: {error}")
        return found


# -- writing ----------------------------------------------------------------------------------------------------------


def render(snapshot: Snapshot) -> str:
    """The canonical file: `parse` gives the same snapshot back."""
    parts = []
    for key, items in (("notes", snapshot.notes), ("modules", tuple(sorted(snapshot.modules)))):
        if items:
            parts.append(f"{key} = [{', '.join(map(text_value, items))}]\n")
    for key, family in RULES.items():
        tables = [table for table in snapshot.tables if table.family == family]
        if tables:
            parts.append(f"{key} = {rules_value(iptables_save.render(tables))}\n")
    parts += [_table("device", _of_device(device)) for device in snapshot.devices]
    parts += [_table("route", _of_route(route)) for route in snapshot.routes]
    parts += [_table("rule", _of_rule(rule)) for rule in snapshot.policy]
    timeouts = None if snapshot.timeouts == Timeouts() else snapshot.timeouts
    shared = Director(services=snapshot.services, sysctls=tuple(snapshot.sysctls.items()), timeouts=timeouts)
    if shared != Director():
        parts.append(director_file.render(shared))
    return "\n".join(parts)


def text_value(text: str) -> str:
    """A string on one line: as it is between apostrophes where a basic string would need escapes."""
    if ('"' in text or "\\" in text) and "'" not in text and "\n" not in text and _LITERAL.fullmatch(text):
        return f"'{text}'"
    escaped = "".join(f"\\u{ord(c):04x}" if c in '"\\' or c < " " or c == "\x7f" else c for c in text)
    return f'"{escaped}"'


def rules_value(text: str) -> str:
    """Text of many lines, as it is where TOML has a form for it."""
    if "'''" in text or not _LITERAL.fullmatch(text):
        return text_value(text)
    return f"'''\n{text}'''"


def _table(name: str, pairs: dict[str, Any]) -> str:
    lines = [f"[[{name}]]"]
    for key, value in pairs.items():
        if isinstance(value, tuple):
            lines.append(f"{key} = [{', '.join(map(text_value, value))}]")
        else:
            lines.append(f"{key} = {text_value(value) if isinstance(value, str) else value}")
    return "\n".join(lines) + "\n"


def _of_device(device: Device) -> dict[str, Any]:
    pairs: dict[str, Any] = {"name": device.name}
    if device.addresses:
        pairs["addresses"] = device.addresses
    if device.mtu != (65536 if device.name == "lo" else 1500):
        pairs["mtu"] = device.mtu
    if device.hosts is not None:
        pairs["hosts"] = device.hosts
    return pairs


def _of_route(route: Route) -> dict[str, Any]:
    pairs: dict[str, Any] = {"destination": route.destination}
    for key in ("device", "via", "table", "kind", "source", "metric", "mtu"):
        value = getattr(route, key)
        if value and (key == "mtu" or value != DEFAULTS.get(key)):
            pairs[key] = value
    return pairs


def _of_rule(rule: PolicyRule) -> dict[str, Any]:
    told = ":" in (rule.source or rule.destination)
    pairs: dict[str, Any] = {"priority": rule.priority}
    if rule.family != (INET6 if told else INET):
        pairs["family"] = FAMILY_NAMES[rule.family]
    for key, value in (("from", rule.source), ("to", rule.destination)):
        if value:
            pairs[key] = value
    if rule.mask:
        pairs["mark"] = rule.mark
        if rule.mask != FULL_MASK:
            pairs["mask"] = rule.mask
    for key in ("in_device", "out_device"):
        if getattr(rule, key):
            pairs[key] = getattr(rule, key)
    if rule.action != "lookup":
        pairs["action"] = rule.action
    elif rule.table != DEFAULTS["table"]:
        pairs["table"] = rule.table
    return pairs
