"""What pcap.py and pcapng.py share: a captured frame, and bytes read one after the other with their offset."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ipvsctl.errors import UsageError

MAXIMUM = 262144
"""Bytes of the longest record; libpcap's MAXIMUM_SNAPLEN. What claims to be longer is taken for a broken file."""

SECOND = 10**9


class Source(Protocol):
    """Something to read bytes from; fewer than asked for is no end yet, none is."""

    def read(self, size: int, /) -> bytes: ...


class Target(Protocol):
    """Something to write bytes to."""

    def write(self, data: bytes, /) -> object: ...


class Record(NamedTuple):
    """A captured frame. `time` in nanoseconds since 1970; `link` its link type (link_layer.py).

    `interface` counts the section's interfaces (0 in pcap), `device` is that one's name, "" when the file does not say.
    `length` is what it had on the wire; more than `data` when the capture cut it off. `outgoing`: the file says that
    the capturing host sent it.
    """

    time: int
    link: int
    data: bytes
    interface: int = 0
    device: str = ""
    length: int = 0
    outgoing: bool = False


class Stream:
    """A source with an offset, which every complaint names."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.name = name
        self.offset = 0

    def take(self, size: int, what: str) -> bytes:
        """Exactly so many bytes, else UsageError; b"" at the end of the file when `what` is ""."""
        data = self.source.read(size)
        while data and len(data) < size:
            more = self.source.read(size - len(data))
            if not more:
                break
            data += more
        if len(data) < size and (data or what):
            raise self.broken(f"the file ends inside {what or 'a record'}, {size - len(data)} bytes too early")
        self.offset += len(data)
        return data

    def skip(self, size: int, what: str) -> None:
        """Pass over so many bytes without keeping them."""
        while size > 0:
            size -= len(self.take(min(size, 65536), what))

    def broken(self, reason: str, back: int = 0) -> UsageError:
        """The error of what is wrong `back` bytes before where we are."""
        return UsageError(f"{self.name}: byte {self.offset - back}: {reason}")
