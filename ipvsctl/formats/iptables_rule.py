"""One rule of iptables, from the words behind `-A CHAIN` to values; see iptables_save.py."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.errors import UsageError
from ipvsctl.formats import iptables_words as tables
from ipvsctl.formats.iptables_words import Word, network, protocol_name
from ipvsctl.model.address import INET6
from ipvsctl.model.rule import Match, Rule
from ipvsctl.model.snapshot import SavedRule

LONG = {
    "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d", "--in-interface": "-i",
    "--out-interface": "-o", "--protocol": "-p", "--proto": "-p", "--fragment": "-f", "--fragments": "-f",
    "--match": "-m", "--jump": "-j", "--goto": "-g", "--set-counters": "-c", "--ipv4": "-4", "--ipv6": "-6",
    "--append": "-A", "--insert": "-I", "--new-chain": "-N", "--policy": "-P", "--flush": "-F", "--table": "-t",
}  # fmt: skip
"""Commands and options that have a short name as well."""

_SYN = "FIN,SYN,RST,ACK SYN"


class _Part:
    """An extension of a rule while it is read: a match, or the target. `known`: its options and how many words each."""

    def __init__(self, name: str, known: dict[str, int] | None) -> None:
        self.name = name
        self.known = known
        self.options: list[tuple[str, str]] = []


class RuleReader:
    """Reads one rule, which is several where it names several addresses."""

    def __init__(self, family: int, words: list[Word]) -> None:
        self._family = family
        self._words = words
        self._at = 0
        self._inverted = False
        self._header = {"-s": "", "-d": "", "-i": "", "-o": "", "-p": ""}
        self._fragment: Match | None = None
        self._matches: list[_Part] = []
        self._target: _Part | None = None
        self._last: _Part | None = None
        self._goto = False
        self._skip = False
        self.packets = self.octets = 0

    def read(self) -> list[SavedRule]:
        """The rules; none for a rule of the other family. Raises UsageError."""
        while self._at < len(self._words):
            word = self._next()
            if word == Word("!"):
                if self._inverted:
                    raise UsageError("there are two !")
                self._inverted = True
            elif word.quoted or not word.text.startswith("-"):
                raise UsageError(f"{word.text!r} is no option")
            else:
                self._option(word.text)
                self._inverted = False
        if self._inverted:
            raise UsageError("nothing follows the !")
        return [] if self._skip else list(self._rules())

    def _next(self) -> Word:
        if self._at >= len(self._words):
            raise UsageError(f"{self._words[-1].text} is not followed by its value")
        self._at += 1
        return self._words[self._at - 1]

    def _option(self, text: str) -> None:
        if text.startswith("--") and "=" in text:
            text, _, value = text.partition("=")
            self._words.insert(self._at, Word(value, True))
        elif text[:1] == "-" and text[1:2] != "-" and len(text) > 2:
            self._words.insert(self._at, Word(text[2:], True))
            text = text[:2]
        option = LONG.get(text, text)
        if option in self._header:
            self._header_option(option)
        elif option == "-f":
            self._fragment = Match("entry", (("fragment", self._sign()),))
        elif option in ("-4", "-6"):
            self._skip = (option == "-6") != (self._family == INET6)
        elif option == "-c":
            self.packets, self.octets = self._count(), self._count()
        elif option == "-m":
            name = self._next().text
            self._last = _Part(name, tables.MATCHES.get(name))
            self._matches.append(self._last)
        elif option in ("-j", "-g"):
            if self._target is not None:
                raise UsageError("a rule has one target")
            name = self._next().text
            self._target = self._last = _Part(name, tables.TARGETS.get(name))
            self._goto = option == "-g"
        elif option.startswith("--"):
            self._extension_option(option[2:])
        else:
            raise UsageError(f"there is no option {option}")

    def _sign(self) -> str:
        return "!" if self._inverted else ""

    def _count(self) -> int:
        text = self._next().text
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"{text!r} is not a counter")
        return int(text)

    def _header_option(self, option: str) -> None:
        word = self._next()
        if word == Word("!"):
            self._inverted = not self._inverted
            word = self._next()
        value = word.text
        if not value:
            raise UsageError(f"{option} has an empty value")
        if option == "-p":
            value = protocol_name(value)
            if not value and self._inverted:
                raise UsageError("! -p all matches nothing")
        self._header[option] = self._sign() + value if value else ""

    def _extension_option(self, option: str) -> None:
        part = self._owner(option)
        name = tables.SAME.get(option, option)
        count = part.known.get(option) if part.known is not None else None
        words: list[str] = []
        if option in tables.TEXTS:
            count = 1
        if count is None:
            while self._at < len(self._words) and not self._ends(self._words[self._at]):
                words.append(self._next().text)
        else:
            if count and not self._inverted and self._words[self._at : self._at + 1] == [Word("!")]:
                self._inverted = True
                self._next()
            words = [self._next().text for _ in range(count)]
        if name == "syn" and part.name == "tcp":
            name, words = "tcp-flags", [_SYN]
        part.options.append((name, self._sign() + " ".join(words)))

    def _ends(self, word: Word) -> bool:
        return not word.quoted and (word.text == "!" or (word.text.startswith("-") and len(word.text) > 1))

    def _owner(self, option: str) -> _Part:
        """The extension that an option belongs to: the last one, one that knows it, or the match that -p implies."""
        last = self._last
        if last is not None and (option in last.known if last.known is not None else last is not self._target):
            return last
        for part in (*reversed(self._matches), *([self._target] if self._target else [])):
            if part.known is not None and option in part.known:
                return part
        implied = tables.IMPLIED.get(self._header["-p"], "")
        if option in tables.MATCHES.get(implied, {}):
            self._last = _Part(implied, tables.MATCHES[implied])
            self._matches.append(self._last)
            return self._last
        if last is None:
            raise UsageError(f"--{option} belongs to no match or target that is named before it")
        return last

    def _rules(self) -> Iterator[SavedRule]:
        matches = tuple(Match(part.name, tuple(part.options)) for part in self._matches)
        if self._fragment is not None:
            matches = (self._fragment, *matches)
        for source in self._addresses("-s"):
            for destination in self._addresses("-d"):
                rule = Rule(
                    self._target.name if self._target else "",
                    protocol=self._header["-p"],
                    source=source,
                    destination=destination,
                    in_interface=self._header["-i"],
                    out_interface=self._header["-o"],
                    matches=matches,
                    target_options=tuple(self._target.options) if self._target else (),
                )
                yield SavedRule(rule, self.packets, self.octets, self._goto)

    def _addresses(self, option: str) -> list[str]:
        text = self._header[option]
        if not text:
            return [""]
        plain = text.removeprefix("!")
        if plain == text:
            return [network(self._family, each) for each in plain.split(",")]
        if "," in plain:
            raise UsageError(f"! {option} takes one address")
        # "not of any address" is a rule that never matches, so it must not become one without an address.
        return ["!" + (network(self._family, plain) or ("::/0" if self._family == INET6 else "0.0.0.0/0"))]
