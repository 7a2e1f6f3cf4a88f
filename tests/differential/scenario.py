"""A scenario: a director's state, and what happens to it. The file's form is told in the package's docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipvsctl.errors import UsageError
from ipvsctl.formats import director_values as values
from ipvsctl.formats import packet_text, snapshot_file
from ipvsctl.formats.changes import change_from_dict, change_to_dict
from ipvsctl.formats.director_values import Wrong, wrong
from ipvsctl.model.change import IPVS_CHANGES, IpvsChange, StartDaemon, StopDaemon
from ipvsctl.model.snapshot import Snapshot

PAUSE = 0.01
"""Seconds between two steps when the file does not say."""

DEEDS = ("in", "send", "change", "sysctl", "flush_conntrack")
LONGEST = 3600.0

_SERVER = {"forward": "dr", "weight": 1, "upper": 0, "lower": 0, "tunnel": None}
_TUNNEL = {"port": 0, "csum": "no"}
_SERVICE: dict[str, Any] = {"scheduler": "wlc", "flags": [], "persistent": None, "netmask": None, "pe": None}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens `at` seconds after the start; `do` is the word of the file.

    "in": packets come in by `device`; "send": a process of the director sends them, with a socket of a `mark`;
    "change": IPVS is changed; "sysctl": sysctls are written; "flush_conntrack": all entries are forgotten.
    """

    at: float
    do: str
    device: str = ""
    packets: tuple[bytes, ...] = ()
    mark: int = 0
    change: IpvsChange | None = None
    sysctls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """`rules` are the texts for iptables-restore by program, as they stand in the file."""

    name: str
    about: str
    snapshot: Snapshot
    steps: tuple[Step, ...] = ()
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def packets(self) -> int:
        """Packets that go into it."""
        return sum(len(step.packets) for step in self.steps)


# -- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Scenario:
    """The scenario of a file; raises FileError with the line of what is wrong."""
    return parse(path.read_bytes(), str(path), path.stem)


def parse(text: str | bytes, file: str, name: str = "") -> Scenario:
    """The scenario of a text; raises FileError."""
    content, tables = snapshot_file.load(text, file)
    about, rows = tables.pop("about", None), tables.pop("step", [])
    reading = snapshot_file.SnapshotReading(tables)
    try:
        about = values.text("a line that says what it is about")(about if about is not None else "")
    except Wrong as error:
        reading.note(("about",), f"about: {error}")
    steps = _Steps(reading, rows).steps
    if reading.problems:
        raise snapshot_file.report(reading, content, file)
    rules = {program: tables[program] for program in snapshot_file.RULES if program in tables}
    return Scenario(name or file, about, reading.snapshot, tuple(steps), rules)


def _packet(value: Any) -> bytes:
    if type(value) is not str:
        raise wrong("a packet in short notation", value)
    return packet_text.parse(value)


def _hex(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise wrong("a packet's bytes in hexadecimal", value) from None


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= LONGEST:
        raise wrong(f"seconds since the start, 0..{LONGEST:.0f}", value)
    return float(value)


def _packets(value: Any) -> tuple[bytes, ...]:
    if type(value) is not list:
        raise wrong("an array of packets", value)
    found = []
    for index, item in enumerate(value):
        try:
            found.append(_packet(item))
        except UsageError as error:
            raise Wrong(str(error), (index,)) from None
    return tuple(found)


def _change(value: Any) -> IpvsChange:
    """A change as changes.py has it, in which what is usual may be left out."""
    if type(value) is not dict:
        raise wrong('a table such as { change = "delete-server", service = ..., server = { address = ... } }', value)
    data = dict(value)
    for key in ("server", "before", "service"):
        if type(data.get(key)) is dict:
            data[key] = _filled(data[key], key == "service" or data.get("change") == "edit-service")
    for new, before in (("server", "before"), ("service", "before"), ("timeouts", "before")):
        if new in data and data.get("change", "").startswith(("edit", "set")):
            data.setdefault(before, data[new])
    if data.get("change") == "delete-service":
        data.setdefault("servers", [])
    if data.get("change") == "zero-counters":
        data.setdefault("service", None)
    change = change_from_dict(data)
    if not isinstance(change, IPVS_CHANGES) or isinstance(change, StartDaemon | StopDaemon):
        raise Wrong(f"expected a change of services, servers, counters or timeouts, not {change.kind}")
    return change


def _filled(data: dict[str, Any], service: bool) -> dict[str, Any]:
    filled = {**(_SERVICE if service else _SERVER), **data}
    if not service and type(filled["tunnel"]) is dict:
        filled["tunnel"] = {**_TUNNEL, **filled["tunnel"]}
    return filled


_KEYS: dict[str, values.Reader] = {
    "at": _seconds,
    "in": values.device,
    "packet": _packet,
    "hex": _hex,
    "packets": _packets,
    "send": _packets,
    "mark": values.integer(0, 2**32 - 1),
    "change": _change,
    "sysctl": values.any_value,
    "flush_conntrack": values.boolean,
}


class _Steps:
    """Reads [[step]]; problems go to the notes of the file."""

    def __init__(self, notes: snapshot_file.SnapshotReading, rows: Any) -> None:
        self.notes = notes
        self.steps: list[Step] = []
        self.names = notes.names
        at = 0.0
        for index, row in enumerate(notes.rows(rows, "[[step]]", ("step",))):
            path: tuple[str | int, ...] = ("step", index)
            if type(row) is dict and type(row.get("send")) is str:
                row = {**row, "send": [row["send"]]}
            before = len(notes.problems)
            got = notes.table(row, "[[step]]", _KEYS, path)
            if len(notes.problems) > before:
                continue
            if got.get("at", at) < at:
                notes.note((*path, "at"), f"at: expected not before {at:g}, the time of the step before")
            at = got.pop("at", round(at + PAUSE, 4) if self.steps else 0.0)
            self._step(got, path, at)

    def _step(self, got: dict[str, Any], path: tuple[str | int, ...], at: float) -> None:
        deeds = [key for key in DEEDS if key in got]
        if len(deeds) != 1:
            self.notes.note(path, f"[[step]]: expected one of {', '.join(DEEDS)}, not {len(deeds)}")
            return
        do = deeds[0]
        told = [key for key in ("packet", "hex", "packets") if key in got]
        if len(told) != (do == "in"):
            self.notes.note(path, "[[step]]: expected one of packet, hex and packets, beside `in` only")
            return
        if "mark" in got and do != "send":
            self.notes.note((*path, "mark"), "mark: expected beside `send` only, packets that come in have none")
        packets: tuple[bytes, ...] = got.get("send", ())
        if do == "in":
            found = got[told[0]]
            packets = found if told == ["packets"] else (found,)
            if got["in"] not in self.names - {"lo"}:
                self.notes.note((*path, "in"), f"in: there is no [[device]] of the name {got['in']}")
        self.steps.append(Step(
            at, do, got.get("in", ""), packets, got.get("mark", 0), got.get("change"), self._sysctls(got, path),
        ))  # fmt: skip

    def _sysctls(self, got: dict[str, Any], path: tuple[str | int, ...]) -> tuple[tuple[str, str], ...]:
        found = []
        table = got.get("sysctl", {})
        if type(table) is not dict:
            self.notes.note((*path, "sysctl"), f"sysctl: {wrong('a table of names in quotes', table)}")
            return ()
        for name, value in table.items():
            try:
                found.append((values.sysctl_name(name), values.sysctl_value(value)))
            except Wrong as error:
                self.notes.note((*path, "sysctl", name), f"sysctl {name}: {error}")
        return tuple(found)


# -- writing ----------------------------------------------------------------------------------------------------------


def render(scenario: Scenario) -> str:
    """A file that reads back as the same scenario, but for the layout of its rules."""
    parts = [f"about = {snapshot_file.text_value(scenario.about)}\n"]
    text = snapshot_file.render(scenario.snapshot)
    parts += [text] if text else []
    parts += [_render_step(step) for step in scenario.steps]
    return "\n".join(parts)


def _render_step(step: Step) -> str:
    lines = ["[[step]]", f"at = {round(step.at, 4)}"]
    match step.do:
        case "in":
            lines.append(f"in = {snapshot_file.text_value(step.device)}")
            texts = [text_of(packet) for packet in step.packets]
            if len(texts) == 1:
                lines.append(f"packet = {texts[0]}")
            else:
                lines.append("packets = [\n" + "".join(f"    {text},\n" for text in texts) + "]")
        case "send":
            lines.append(f"send = [{', '.join(map(text_of, step.packets))}]")
            lines += [f"mark = {step.mark}"] if step.mark else []
        case "change":
            assert step.change is not None
            lines.append(f"change = {_inline(change_to_dict(step.change))}")
        case "sysctl":
            lines.append(f"sysctl = {_inline(dict(step.sysctls))}")
        case _:
            lines.append("flush_conntrack = true")
    return "\n".join(lines) + "\n"


def text_of(packet: bytes) -> str:
    """A packet as a TOML string: in short notation, or its bytes where that cannot say it."""
    try:
        text = packet_text.describe(packet)
        if packet_text.parse(text) == packet:
            return snapshot_file.text_value(text)
    except (UsageError, ValueError):
        pass
    return f'"raw {packet.hex()}"'


def _inline(value: Any) -> str:
    match value:
        case dict():
            pairs = [f"{_key(k)} = {_inline(v)}" for k, v in value.items() if v is not None]
            return f"{{ {', '.join(pairs)} }}"
        case list():
            return f"[{', '.join(map(_inline, value))}]"
        case str():
            return snapshot_file.text_value(value)
        case bool():
            return "true" if value else "false"
    return str(value)


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() else snapshot_file.text_value(name)
