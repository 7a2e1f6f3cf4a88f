"""Turns the written state tables of IPVS into what a packet is looked up in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

INPUT, OUTPUT, INPUT_ONLY = range(3)
"""Directions: of a request, of a reply, of a request of a connection whose replies do not pass here."""

Written = Mapping[str, Mapping[str, str]]
"""By direction and state: the events that lead to another state, as "event>STATE event>STATE"."""

Table = tuple[bytes, ...]
"""The next state: table[direction * events + event][state]."""

_WIDTH = 16
"""A template can be matched by a reply to port 0 and then holds numbers that no connection has: they lead nowhere."""


def compiled(states: Sequence[str], events: Sequence[str], written: Written, lost: str) -> Table:
    """The table as rows of bytes; `lost` is the state that numbers beyond the known ones lead to."""
    number = {name: at for at, name in enumerate(states)}
    rows = []
    for direction in ("INPUT", "OUTPUT", "INPUT_ONLY"):
        of_event = [bytearray(range(len(states))) + bytes([number[lost]] * (_WIDTH - len(states))) for _ in events]
        for state, moves in written[direction].items():
            for move in moves.split():
                event, _, following = move.partition(">")
                of_event[events.index(event)][number[state]] = number[following]
        rows += [bytes(row) for row in of_event]
    return tuple(rows)


def overlaid(written: Written, changes: Written) -> dict[str, dict[str, str]]:
    """The written table with the moves of `changes` in place of its own; a later move of an event wins."""
    return {
        direction: {
            state: f"{moves} {changes.get(direction, {}).get(state, '')}".strip() for state, moves in rows.items()
        }
        for direction, rows in written.items()
    }
