"""Whatever is in a file, reading it ends with a director or with a FileError that names the line."""

from __future__ import annotations

import time

from ipvsctl.errors import Exit, FileError
from ipvsctl.formats.director_file import parse
from ipvsctl.formats.director_grammar import TABLES
from tests.formats.broken import WHOLE, broken_files
from tests.formats.broken_values import WRONG

SECONDS = 60
"""For all files together; they take 5 on a slow machine."""

SAYS_WHAT_IS_RIGHT = (
    "expected", "not TOML: ", "needs", "takes neither", "is above the", "is for", "belongs to", "is reached by",
    "is not an IPv4 or IPv6 address",
)  # fmt: skip


def test_the_whole_file_that_the_broken_ones_are_made_of_is_right() -> None:
    director = parse(WHOLE, "whole.toml")
    assert len(director.services) == 2
    assert director.nfct and director.firewall and director.sysctls and director.timeouts and director.syncs


def test_every_broken_file_is_an_error_at_its_line() -> None:
    started = time.monotonic()
    names, contents, mistakes = set(), set(), []
    for name, content, line in broken_files():
        names.add(name)
        contents.add(hash(content))
        try:
            director = parse(content, "broken.toml")
        except FileError as error:
            notes = getattr(error, "__notes__", [])
            if line is not None and error.line != line:
                mistakes.append(f"{name}: line {error.line} instead of {line}: {error.reason}")
            elif not 1 <= error.line <= content.count(b"\n") + 1:
                mistakes.append(f"{name}: line {error.line} is not in the file")
            elif not error.reason.strip() or not all(text.isprintable() for text in (error.reason, *notes)):
                mistakes.append(f"{name}: not one printable line: {error.reason!r} {notes}")
            elif not any(words in error.reason for words in SAYS_WHAT_IS_RIGHT):
                mistakes.append(f"{name}: does not say what was expected: {error.reason}")
            elif len(error.reason) > 400:
                mistakes.append(f"{name}: {len(error.reason)} characters")
            assert str(error) == f"broken.toml:{error.line}: {error.reason}"
            assert error.status == Exit.USAGE
        else:
            mistakes.append(f"{name}: taken for {director}"[:200])
    assert not mistakes, "\n".join(mistakes)
    assert len(names) == len(contents) >= 200
    assert time.monotonic() - started < SECONDS


def test_every_key_is_given_a_wrong_value() -> None:
    tried = {(header, key) for header, _, key in WRONG}
    elsewhere = {
        ("[[service]]", "server"),  # _shapes
        ("[firewall]", "local_clients"),  # _rules, over several lines
    }
    known = {(table, key) for table, keys in TABLES.items() if table.startswith("[") for key in keys}
    assert known == {pair for pair in tried if pair[0] != "[sysctl]"} | elsewhere
