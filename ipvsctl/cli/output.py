"""How results look: aligned columns, colours on a terminal, JSON. The only place that knows rich.

A line is a list of spans, each a text and a style. The columns are computed here and are the same with and without
colours: rich only paints, and is imported only then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ipvsctl.cli.environment import Environment, output

Span = tuple[str, str]
Line = list[Span]

HEADING = "bold"


def print_json(env: Environment, data: Any) -> None:
    """One JSON document on one line."""
    env.write(json.dumps(data, ensure_ascii=True))


def print_lines(env: Environment, lines: Iterable[Line]) -> None:
    """Print lines as they are: never wrapped, never cut."""
    if not env.coloured:
        text = "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
        if text:
            env.write(text)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=env.stdout, force_terminal=True, highlight=False, color_system="standard", soft_wrap=True,
        no_color=False, _environ=dict(env.variables),
    )  # fmt: skip
    with output():
        for line in lines:
            console.print(Text.assemble(*line))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[Line]:
    """Lines of aligned columns two blanks apart, below headings; the columns numbered in `right` end flush."""
    body = [list(row) for row in rows]
    flush = set(right)
    widths = [max(len(row[i]) for row in [list(headings), *body]) for i in range(len(headings))]

    def line(row: Sequence[str], style: str) -> Line:
        cells = [text.rjust(width) if i in flush else text.ljust(width)
                 for i, (text, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        return [("  ".join(cells).rstrip(), style)]

    return [line(headings, HEADING), *(line(row, "") for row in body)]


def pairs(items: Iterable[tuple[str, object]], indent: str = "") -> list[Line]:
    """Lines of names and values, the values aligned."""
    known = [(name, str(value)) for name, value in items]
    width = max((len(name) for name, _ in known), default=0)
    return [[(f"{indent}{name:{width}}  ", HEADING), (value, "")] for name, value in known]


@contextmanager
def progress(env: Environment, total: int | None, *, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, gone afterwards: call what it gives with the bytes done, as often as you like.

    `total` None: nobody knows. There is none where standard error is no terminal, or when it is to be `hidden`.
    """
    if hidden or env.variables.get("TERM") == "dumb" or not env.stderr.isatty():
        yield lambda _: None
        return
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(file=env.stderr, _environ=dict(env.variables))
    bar = Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, auto_refresh=False, transient=True
    )
    due = 0.0

    def advance(done: int) -> None:
        nonlocal due
        if (now := monotonic()) >= due:
            due = now + 0.1
            bar.update(task, completed=done, refresh=True)

    with bar:
        task = bar.add_task("", total=total)
        yield advance


def count(number: int, noun: str) -> str:
    """ "1 change", "2 changes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def abbreviated(number: int) -> str:
    """A counter as ipvsadm abbreviates it: whole below 100,000,000, then thousands K, millions M, G and T, cut."""
    for limit, divisor, unit in ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G")):
        if number < limit:
            return f"{number // divisor}{unit}"
    return f"{number // 10**12}T"
