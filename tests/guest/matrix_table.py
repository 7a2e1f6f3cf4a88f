"""The table of measured FTP transfers in ipvsctl(8), from what tests/guest/test_matrix.py has measured.

    python -m tests.guest.matrix_table           say whether the manual page has the table of matrix_results.json
    python -m tests.guest.matrix_table FILE ...  take newly measured files into it first, and write the manual page

A kernel's results are taken as a whole. The table stands in the manual page between two marks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from tests.guest.matrix_lab import BACKENDS, METHODS, MODES

TOP = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("matrix_results.json")
MANUAL = TOP / "man/ipvsctl.8"
_MARKED = re.compile(r'(?ms)^(\.\\" measured: matrix\n).*?^(\.\\" end of measured\n)')

Results = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By kernel version, by method and mode in one text, by back end: the state of the data connection, or "fails"."""


def table(results: Results) -> str:
    """The table in mdoc: a row for every method and mode, a column for every kernel."""
    return "\n".join(_lines(results)) + "\n"


def page(manual: str, results: Results) -> str:
    """The manual page with the table as it should be."""
    return _MARKED.sub(lambda found: f"{found[1]}{table(results)}{found[2]}", manual)


def _lines(results: Results) -> Iterator[str]:
    kernels = sorted(results, key=lambda version: tuple(map(int, version.split("."))))
    cells = {kernel: {row: _cell(found) for row, found in results[kernel].items()} for kernel in kernels}
    width = max(len("Linux 5.10"), *(len(cell) for rows in cells.values() for cell in rows.values()))
    yield f".Bl -column {' '.join(['method', 'mode', *['x' * width for _ in kernels]])}"
    yield f".It method Ta mode Ta {' Ta '.join(f'Linux {kernel}' for kernel in kernels)}"
    for method, mode in product(METHODS, MODES):
        shown = (cells[kernel].get(f"{method} {mode}", "not measured") for kernel in kernels)
        yield f".It {method} Ta {mode} Ta {' Ta '.join(shown)}"
    yield ".El"


def _cell(found: Mapping[str, str]) -> str:
    """What all back ends agree in, or what each has shown."""
    states = {found.get(backend, "not measured") for backend in BACKENDS}
    if len(states) == 1:
        return states.pop()
    return ", ".join(f"{backend} {found.get(backend, 'not measured')}" for backend in BACKENDS)


def main(measured: list[str]) -> int:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in measured:
        results |= json.loads(Path(name).read_text())
    now = MANUAL.read_text()
    wanted = page(now, results)
    if measured:
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        MANUAL.write_text(wanted)
        return 0
    if now != wanted:
        print(f"{MANUAL.relative_to(TOP)} does not have the table of {RESULTS.relative_to(TOP)}")
    return int(now != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
