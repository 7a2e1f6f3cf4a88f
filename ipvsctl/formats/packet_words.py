"""The words of a packet's short notation: to split, to look up, and to say what was expected."""

from __future__ import annotations

from collections.abc import Mapping

from ipvsctl.errors import UsageError
from ipvsctl.formats.packet_names import PATTERN
from ipvsctl.model.address import parse_ip, parse_port
from ipvsctl.wire.address import packed, readable

_ESCAPES = {"r": 13, "n": 10, "t": 9, "0": 0, "\\": 92, '"': 34}
_ESCAPED = {13: "\\r", 10: "\\n", 9: "\\t", 92: "\\\\", 34: '\\"'}


def split(text: str) -> list[str]:
    """Words between blanks; what stands in quotes or brackets is of one word. Raises UsageError when one stays open."""
    words: list[str] = []
    word = ""
    depth, quoted, escaped = 0, False, False
    for letter in text:
        if not quoted and not depth and letter.isspace():
            if word:
                words.append(word)
            word = ""
            continue
        word += letter
        if escaped:
            escaped = False
        elif quoted:
            escaped = letter == "\\"
            quoted = letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in "[]":
            depth += 1 if letter == "[" else -1
            if depth < 0:
                raise UsageError(f"{text!r}: a ] too many")
    if quoted or depth:
        raise UsageError(f"{text!r} ends too early, expected {'a closing quote' if quoted else ']'}")
    if word:
        words.append(word)
    return words


def integer(text: str, maximum: int, what: str, minimum: int = 0) -> int:
    """A number, decimal or hexadecimal after 0x; `what` is the word it stands in, for the error."""
    digits = text.removeprefix("0x")
    base = 10 if digits == text else 16
    known = "0123456789" if base == 10 else "0123456789abcdefABCDEF"
    if not digits or len(digits) > 20 or any(digit not in known for digit in digits):
        raise UsageError(f"{what!r}: {text!r} is not a number, expected {minimum}..{maximum}")
    if not minimum <= int(digits, base) <= maximum:
        raise UsageError(f"{what!r}: {text} is out of range, expected {minimum}..{maximum}")
    return int(digits, base)


def from_hex(text: str, what: str) -> bytes:
    """Bytes from pairs of hexadecimal digits."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{what!r} is not hexadecimal, expected pairs of digits 0-9 and a-f") from None
    if " " in text:
        raise UsageError(f"{what!r} is not hexadecimal, expected no blanks")
    return data


def from_quoted(text: str) -> bytes:
    r"""The bytes of "..." with the escapes \r \n \t \0 \\ \" and \xHH."""
    if len(text) < 2 or not (text[0] == text[-1] == '"'):
        raise UsageError(f'data={text} is not quoted, expected data="..."')
    data = bytearray()
    letters = iter(text[1:-1])
    for letter in letters:
        if letter == '"':
            raise UsageError(f"data={text} goes on behind the closing quote")
        if letter != "\\":
            data += letter.encode()
            continue
        escape = next(letters, "")
        if escape == "x":
            data += from_hex(next(letters, "") + next(letters, "_"), f"data={text}")
        elif escape in _ESCAPES and escape:
            data.append(_ESCAPES[escape])
        else:
            raise UsageError(f'data={text}: \\{escape} is no escape, expected \\r \\n \\t \\0 \\\\ \\" or \\xHH')
    return bytes(data)


def quoted(data: bytes) -> str | None:
    """The text of `from_quoted`; None for bytes that are not for people."""
    if any(byte not in _ESCAPED and not 32 <= byte < 127 for byte in data):
        return None
    return '"' + "".join(_ESCAPED.get(byte) or chr(byte) for byte in data) + '"'


def endpoint(text: str) -> tuple[bytes, int | None]:
    """Address and port of ADDRESS, ADDRESS:PORT, [IPV6] or [IPV6]:PORT; raises UsageError."""
    address, port = text, None
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":"):
            raise UsageError(f"{text!r} is not an address, expected [IPV6]:PORT")
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    return packed(parse_ip(address)[1]), None if port is None else parse_port(port, text)


def address_text(address: bytes, port: int | None) -> str:
    """The text of `endpoint`."""
    name = readable(address)
    if port is None:
        return name
    return f"[{name}]:{port}" if len(address) == 16 else f"{name}:{port}"


class Words:
    """The words behind the addresses: bare ones, KEY=VALUE, and at most one packet in brackets.

    Each is asked for once; what nobody has asked for is an error, and the words that were asked for are what was
    expected there.
    """

    def __init__(self, words: list[str]) -> None:
        self.bare: list[str] = []
        self.keys: dict[str, str] = {}
        self.embedded: str | None = None
        self.known: list[str] = []
        for word in words:
            key, sign, value = word.partition("=")
            if word.startswith("["):
                if self.embedded is not None or not word.endswith("]"):
                    raise UsageError(f"{word!r} is not expected, one packet in brackets is enough")
                self.embedded = word[1:-1]
            elif key in self.keys or word in self.bare:
                raise UsageError(f"{word!r}: {key} is there twice")
            elif sign:
                self.keys[key] = value
            else:
                self.bare.append(word)

    def flag(self, name: str) -> bool:
        """Whether a bare word is there."""
        self.known.append(name)
        if name in self.bare:
            self.bare.remove(name)
            return True
        return False

    def one_of(self, names: Mapping[str, tuple[int, int]], what: str) -> tuple[int, int] | None:
        """The value of the bare word that is one of the names."""
        self.known.append(what)
        for word in self.bare:
            if word in names:
                self.bare.remove(word)
                return names[word]
        return None

    def text(self, name: str) -> str | None:
        """The value of KEY=VALUE."""
        self.known.append(f"{name}=")
        return self.keys.pop(name, None)

    def number(self, name: str, default: int, maximum: int, *, minimum: int = 0) -> int:
        """The number of KEY=NUMBER."""
        found = self.text(name)
        return default if found is None else integer(found, maximum, f"{name}={found}", minimum)

    def hex(self, name: str) -> bytes | None:
        """The bytes of KEY=HEX."""
        found = self.text(name)
        return None if found is None else from_hex(found, f"{name}={found}")

    def payload(self) -> bytes:
        """The bytes of data="..." or hex=, filled up to len= with the pattern."""
        written, coded = self.text("data"), self.hex("hex")
        if written is not None and coded is not None:
            raise UsageError("data= and hex= exclude each other")
        data = from_quoted(written) if written is not None else coded or b""
        length = self.number("len", len(data), 65535, minimum=len(data))
        return data + PATTERN[len(data) : length]

    def finish(self, protocol: str) -> None:
        """Raise UsageError for the first word that nobody has asked for."""
        left = [*self.bare, *(f"{key}={value}" for key, value in self.keys.items())]
        if self.embedded is not None:
            left.append(f"[{self.embedded}]")
        if left:
            known = ", ".join(dict.fromkeys(self.known))
            raise UsageError(f"{left[0]!r} is no word of a packet of {protocol}, expected one of: {known}")
