"""How rows of `connection list` and `connection watch` look: columns for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, starmap
from typing import Any

from ipvsctl.cli.connection_plain import CHUNK, HEADINGS, SHOWN, Cells, cells_of, clock, endpoint, layout, widths_of
from ipvsctl.cli.environment import Environment, output
from ipvsctl.cli.output import Line, print_lines
from ipvsctl.model.connection import ConntrackEntry, Expectation
from ipvsctl.plan.join import CONNTRACK, IPVS, Joined

_TOLD = {"assured", "expected", "seq_adjust", "src_nat", "dst_nat", "offload", "dying"}
"""Of the status bits of an entry those that say something that the other columns do not."""

ORPHANS = {IPVS: "no-conntrack", CONNTRACK: "no-ipvs"}
"""How an orphan is marked: what it has not."""


def cells(row: Joined) -> Cells:
    """The columns of a row."""
    found, entry = row.connection, row.entry
    if entry is None and found is not None and not row.orphan and not row.awaited:
        return cells_of(found)
    protocol, client, client_port, virtual, virtual_port, server, port = row.ends
    words = [flag for flag in found.flags if flag in SHOWN] if found is not None else []
    if entry is not None:
        words += [name for name in entry.status if name in _TOLD]
    if row.orphan:
        words.append(ORPHANS[row.orphan])
    return (
        protocol, endpoint(client, client_port), endpoint(virtual, virtual_port), endpoint(server, port),
        found.state if found else "-", clock(found.expires) if found else "-", conntrack_state(entry),
        ",".join(words) or "-", (entry.helper if entry else "") or "-", _expects(row),
    )  # fmt: skip


def conntrack_state(entry: ConntrackEntry | None) -> str:
    """The state of an entry; of protocols without states whether a reply was seen."""
    if entry is None:
        return "-"
    return entry.state or ("REPLIED" if "seen_reply" in entry.status else "UNREPLIED")


def _expects(row: Joined) -> str:
    if row.awaited:
        return "awaited"
    return ",".join(endpoint(each.destination, each.destination_port) for each in row.expects) or "-"


def print_rows(env: Environment, texts: Iterator[Cells]) -> int:
    """Print rows as they come, in columns as wide as the first ones need; how many there were."""
    first = list(islice(texts, CHUNK))
    line = layout(widths_of(first)).format
    print_lines(env, [[(line(*HEADINGS), "bold")]])
    count = 0
    chunk = first
    while chunk:
        count += len(chunk)
        if env.coloured:
            print_lines(env, [_painted(row, line(*row)) for row in chunk])
        else:
            env.write("\n".join(starmap(line, chunk)))
        chunk = list(islice(texts, CHUNK))
    return count


def _painted(row: Cells, text: str) -> Line:
    words = row[7].split(",")
    orphan = any(mark in words for mark in ORPHANS.values())
    return [(text, "yellow" if orphan else "dim" if "template" in words else "")]


def row_to_dict(row: Joined) -> dict[str, Any]:
    """A row as -j shows it."""
    protocol, client, client_port, virtual, virtual_port, server, port = row.ends
    found, entry = row.connection, row.entry
    return {
        "protocol": protocol,
        "client": endpoint(client, client_port),
        "virtual": endpoint(virtual, virtual_port),
        "server": endpoint(server, port),
        "service": None if row.service is None else str(row.service),
        "state": None if found is None else found.state,
        "expires": None if found is None else found.expires,
        "flags": [] if found is None else list(found.flags),
        "pe": (found.pe if found is not None else "") or None,
        "conntrack": None if entry is None else entry_to_dict(entry),
        "expects": [_expectation_to_dict(each) for each in row.expects],
        "awaited": row.awaited,
        "orphan": row.orphan or None,
    }


def entry_to_dict(entry: ConntrackEntry) -> dict[str, Any]:
    """A conntrack entry as -j shows it."""
    return {
        "state": entry.state or None,
        "timeout": entry.timeout,
        "status": list(entry.status),
        "mark": entry.mark,
        "helper": entry.helper or None,
        "source": endpoint(entry.source, entry.source_port),
        "destination": endpoint(entry.destination, entry.destination_port),
        "reply_source": endpoint(entry.reply_source, entry.reply_source_port),
        "reply_destination": endpoint(entry.reply_destination, entry.reply_destination_port),
    }


def _expectation_to_dict(each: Expectation) -> dict[str, Any]:
    return {
        "source": endpoint(each.source, each.source_port) if each.source else None,
        "destination": endpoint(each.destination, each.destination_port),
        "timeout": each.timeout,
        "helper": each.helper or None,
    }


def print_json_rows(env: Environment, rows: Iterable[Joined], closing: Callable[[int], dict[str, Any]]) -> int:
    """Print one JSON document, written as the rows come; `closing` gives what follows them. How many there were."""
    import json

    def texts() -> Iterator[str]:
        for row in rows:
            yield json.dumps(row_to_dict(row))

    count = 0
    made = texts()
    with output():
        env.stdout.write('{"connections": [')
        while chunk := list(islice(made, CHUNK)):
            env.stdout.write((", " if count else "") + ", ".join(chunk))
            count += len(chunk)
        env.stdout.write("]")
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in closing(count).items())
    env.write(rest + "}")
    return count
