"""Words of an ipvsadm command line to options and their values, by the rules of popt.

A long option is never abbreviated; a single dash begins short options, the first of which that takes a value takes the
rest of the word. A value that is required swallows the next word whatever it is; an optional one only a word that does
not begin with a dash. What is shown of a wrong option is the last word that was consumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipvsctl.errors import UsageError
from ipvsctl.formats.ipvsadm_options import LONG, NONE, OPTIONAL, SHORT, Spelling

_NEXT = "!#:+"
"""In a value: stands for the next word that is no option."""


class OptionError(UsageError):
    """An option that is unknown, lacks its value or has one that it does not take."""


class Words:
    """The walk over a command line. `leftover` collects the words that are no options."""

    def __init__(self, words: Sequence[str], posix: bool = False) -> None:
        self._words: list[str | None] = list(words)
        self._next = 0
        self._cluster = ""
        self._ended = False
        self._posix = posix
        self.leftover: list[str] = []

    @property
    def last(self) -> str:
        """The last word consumed."""
        return self._words[self._next - 1] or "" if self._next else ""

    def option(self) -> tuple[Spelling, str | None] | None:
        """The next option and its value, None at the end; raises OptionError."""
        if self._cluster:
            return self._short()
        while self._next < len(self._words):
            word = self._words[self._next]
            self._next += 1
            if word is None:
                continue
            if self._ended or word[:1] != "-" or word == "-":
                self.leftover.append(word)
                self._ended = self._ended or self._posix
            elif word == "--":
                self._ended = True
            elif word.startswith("--"):
                return self._long(word[2:])
            else:
                self._cluster = word[1:]
                return self._short()
        return None

    def _long(self, text: str) -> tuple[Spelling, str | None]:
        name, equals, value = text.partition("=")
        spelling = LONG.get(name)
        if spelling is None:
            raise self._wrong("unknown option")
        if spelling.value == NONE:
            if equals:
                raise self._wrong("option does not take an argument")
            return spelling, None
        return spelling, self._expand(value) if equals else self._value(spelling)

    def _short(self) -> tuple[Spelling, str | None]:
        letter, rest = self._cluster[0], self._cluster[1:]
        self._cluster = rest
        spelling = SHORT.get(letter)
        if spelling is None:
            raise self._wrong("unknown option")
        if spelling.value == NONE:
            if rest.startswith("="):
                raise self._wrong("option does not take an argument")
            return spelling, None
        self._cluster = ""
        return spelling, self._expand(rest.removeprefix("=")) if rest else self._value(spelling)

    def _value(self, spelling: Spelling) -> str | None:
        """The next word as a value."""
        while self._next < len(self._words) and self._words[self._next] is None:
            self._next += 1
        following = self._words[self._next] if self._next < len(self._words) else None
        if following is None:
            if spelling.value == OPTIONAL:
                return None
            raise self._wrong("missing argument")
        if spelling.value == OPTIONAL and following.startswith("-"):
            return None
        self._next += 1
        return self._expand(following)

    def _expand(self, value: str) -> str:
        while _NEXT in value:
            found = next(
                (i for i in range(self._next, len(self._words)) if (self._words[i] or "-")[:1] != "-"), None
            )  # fmt: skip
            if found is None:
                break
            value = value.replace(_NEXT, self._words[found] or "", 1)
            self._words[found] = None
        return value

    def _wrong(self, what: str) -> OptionError:
        return OptionError(f"{self.last}: {what}")
