"""`connection list` where nothing is joined: IPVS's table alone, tens of thousands of rows, as fast as may be.

Nearly all of a row is what very many others have too (virtual address, server, state), so its text is made once. What
joined rows look like is in connection_text.py, which takes its columns from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.output import print_lines
from ipvsctl.model.connection import Connection

HEADINGS = ("Proto", "Client", "Virtual", "Server", "State", "Expires", "Conntrack", "Flags", "Helper", "Expects")
RIGHT = 5
"""The column that ends flush."""

CHUNK = 1000
"""Rows that are printed at once; the first so many say how wide the columns are."""

SHOWN = frozenset({"template", "no-client-port", "synced", "one-packet"})
"""Of a connection's flags those that make it another kind of row; -j shows all that the host tells."""

Cells = tuple[str, ...]


def endpoint(address: str, port: int) -> str:
    """ADDRESS:PORT, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def clock(seconds: int) -> str:
    """Minutes and seconds, as ipvsadm shows a timer."""
    return f"{seconds // 60:02}:{seconds % 60:02}"


def flags_text(flags: Iterable[str]) -> str:
    return ",".join(flag for flag in flags if flag in SHOWN) or "-"


def cells_of(found: Connection) -> Cells:
    """The columns of a connection without an entry."""
    return (
        found.protocol, endpoint(found.client, found.client_port), endpoint(found.virtual, found.virtual_port),
        endpoint(found.server, found.server_port), found.state, clock(found.expires), "-", flags_text(found.flags), "-",
        "-",
    )  # fmt: skip


def widths_of(rows: Iterable[Cells]) -> list[int]:
    """How wide each column has to be."""
    return [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]


def layout(widths: list[int]) -> str:
    """What `format` makes a line of."""
    fields = (f"{{:{'>' if at == RIGHT else ''}{width}}}" for at, width in enumerate(widths[:-1]))
    return "  ".join((*fields, "{}"))


def print_plain(env: Environment, connections: Iterable[Connection]) -> int:
    """Print connections as they come, in columns as wide as the first ones need; how many there were."""
    rows = iter(connections)
    first = list(islice(rows, CHUNK))
    widths = widths_of(map(cells_of, first))
    form = layout(widths)
    print_lines(env, [[(form.format(*HEADINGS), "bold")]])
    count = 0
    chunk = first
    while chunk:
        count += len(chunk)
        lines = list(_lines(chunk, widths))
        if env.coloured:
            print_lines(env, [[(line, "")] for line in lines])
        else:
            env.write("\n".join(lines))
        chunk = list(islice(rows, CHUNK))
    return count


def _lines(rows: list[Connection], widths: list[int]) -> Iterator[str]:
    wide, timer = widths[1], widths[RIGHT]
    starts: dict[str, str] = {}
    middles: dict[tuple[str, int, str, int, str], str] = {}
    ends: dict[tuple[int, tuple[str, ...]], str] = {}
    for protocol, client, port, virtual, virtual_port, server, server_port, state, expires, flags, _ in rows:
        try:
            start = starts[protocol]
            middle = middles[virtual, virtual_port, server, server_port, state]
            end = ends[expires, flags]
        except KeyError:
            start = starts[protocol] = f"{protocol:{widths[0]}}  "
            middle = middles[virtual, virtual_port, server, server_port, state] = "  ".join((
                "", endpoint(virtual, virtual_port).ljust(widths[2]), endpoint(server, server_port).ljust(widths[3]),
                state.ljust(widths[4]), "",
            ))  # fmt: skip
            tail = ("-".ljust(widths[6]), flags_text(flags).ljust(widths[7]), "-".ljust(widths[8]), "-")
            end = ends[expires, flags] = "  ".join((clock(expires).rjust(timer), *tail))
        text = f"[{client}]:{port}" if ":" in client else f"{client}:{port}"
        yield f"{start}{text.ljust(wide)}{middle}{end}"
