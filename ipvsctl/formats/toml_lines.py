"""Where in a TOML text a key or a value is: path -> line number.

The TOML parser gives values without positions, because a correct file needs none. Only when something is wrong is the
text read a second time, here, for the lines of the few paths that the errors are about. A path is the way down through
tables and arrays, for instance ("service", 2, "server", 0, "weight").

The text is TOML already (the parser took it), so this reads structure and skips everything else: table headers, arrays
of tables, dotted and quoted keys, strings of all four kinds, arrays and inline tables over several lines, comments.
Text that is not TOML ends the search; it never raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?>[ \t\r\n]+|#[^\n]*)*+")
_SPACE = re.compile(r"[ \t]*+")
_KEY = re.compile(r"""([A-Za-z0-9_-]++)|"((?>[^"\\\n]+|\\.)*+)"|'([^'\n]*+)'""")
_SCALAR = re.compile(
    r'''"""(?>[^"\\]+|\\.|"{1,2}(?!"))*+"{3,5}'''
    r"""|'''(?>[^']+|'{1,2}(?!'))*+'{3,5}"""
    r"""|"(?>[^"\\\n]+|\\.)*+"|'[^'\n]*+'|[^\s,\]}#"'\[{][^,\]}\n#]*+""",
    re.DOTALL,
)
# Nearly every line of a real file: a bare key and a value that ends on the line.
_PLAIN = re.compile(r"""[ \t]*+([A-Za-z0-9_-]++)[ \t]*+=[ \t]*+(?:"[^"\\\n]*+"|[^"'\[{\n#]++)[ \t\r]*+(?=\n|#|\Z)""")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def locate(text: str, wanted: Iterable[Path]) -> dict[Path, int]:
    """The line, from 1, of every wanted path; of the nearest path around it where it is not in the text itself.

    A table is where its header is (an inline table where it begins), a value where its key is, an array's element where
    the element begins.
    """
    paths = set(wanted)
    around = {path[:end] for path in paths for end in range(len(path))}
    missing = set(paths)
    found: dict[Path, int] = {(): 1}
    for path, line in _Scanner(text).positions():
        if path not in found and (path in paths or path in around):
            found[path] = line
            missing.discard(path)
            if not missing:
                break
    lines = {}
    for path in paths:
        nearest = path
        while nearest not in found:
            nearest = nearest[:-1]
        lines[path] = found[nearest]
    return lines


class _End(Exception):
    """The text goes on in a way that is not TOML."""


class _Scanner:
    """One pass over a text; `at` is the place reached, `line` its line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 1 if text.startswith("\ufeff") else 0
        self.line = 1
        self.counted = 0
        self.lengths: dict[Path, int] = {}

    def positions(self) -> Iterator[tuple[Path, int]]:
        """Paths with their lines in the order of the text; a path may come more than once, first is where it begins."""
        try:
            yield from self._document()
        except (_End, RecursionError):
            return

    def _document(self) -> Iterator[tuple[Path, int]]:
        table: Path = ()
        end = len(self.text)
        while True:
            self._skip(_BLANK)
            if self.at >= end:
                return
            if self.text[self.at] == "[":
                line = self._here()
                table = self._header()
                for depth in range(1, len(table) + 1):
                    yield table[:depth], line
            elif plain := _PLAIN.match(self.text, self.at):
                yield (*table, plain[1]), self._here()
                self.at = plain.end()
            else:
                yield from self._pair(table)

    def _header(self) -> Path:
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        keys = self._keys()
        self._expect("]]" if is_array else "]")
        path: Path = ()
        for key in keys[:-1]:
            path = (*path, key)
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
        path = (*path, keys[-1])
        if is_array:
            index = self.lengths.get(path, 0)
            self.lengths[path] = index + 1
            path = (*path, index)
        return path

    def _pair(self, table: Path) -> Iterator[tuple[Path, int]]:
        line = self._here()
        path = table
        for key in self._keys():
            path = (*path, key)
            yield path, line
        self._expect("=")
        self._skip(_SPACE)
        yield from self._value(path)

    def _value(self, path: Path) -> Iterator[tuple[Path, int]]:
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            yield from self._items(path, "]")
        elif opening == "{":
            yield from self._items(path, "}")
        else:
            self._skip(_SCALAR)

    def _items(self, path: Path, closing: str) -> Iterator[tuple[Path, int]]:
        """The elements of an array or the pairs of an inline table, from the opening bracket to the closing one."""
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self.text.startswith(closing, self.at):
                self.at += 1
                return
            begin = self.at
            if closing == "]":
                yield (*path, index), self._here()
                yield from self._value((*path, index))
                index += 1
            else:
                yield from self._pair(path)
            self._skip(_BLANK)
            if self.text.startswith(",", self.at):
                self.at += 1
            elif self.at == begin or not self.text.startswith(closing, self.at):
                raise _End

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            match = _KEY.match(self.text, self.at)
            if match is None:
                raise _End
            bare, basic, literal = match.groups()
            keys.append(bare if bare is not None else literal if literal is not None else _ESCAPE.sub(_unescape, basic))
            self.at = match.end()
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _End
        self.at = match.end()

    def _expect(self, word: str) -> None:
        if not self.text.startswith(word, self.at):
            raise _End
        self.at += len(word)

    def _here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line


def _unescape(match: re.Match[str]) -> str:
    number = match[1] or match[2] or match[3]
    if number is None:
        return _ESCAPED.get(match[4], match[4])
    return chr(int(number, 16)) if int(number, 16) <= 0x10FFFF else ""
