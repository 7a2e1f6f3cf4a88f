"""The IPVS connection table of the namespace, from procfs: netlink has no call for it.

Source: net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_seq_show and ip_vs_conn_sync_seq_show. ip_vs_conn_sync tells where
an entry came from, ip_vs_conn what a persistence engine keeps with it; nothing tells the forwarding method or flags.
The kernel gives a page of rows at a time and finds its place again by counting, so a row may be seen twice or not at
all when connections come and go meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ipvsctl.errors import NotPermitted, Refused, Unavailable
from ipvsctl.model.connection import Connection

if TYPE_CHECKING:
    from ipvsctl.model.status import Stats

TABLE = Path("/proc/thread-self/net/ip_vs_conn_sync")
WITH_ENGINES = Path("/proc/thread-self/net/ip_vs_conn")
"""Of the thread: /proc/net is the namespace of the process's first thread."""

COUNTERS = Path("/proc/thread-self/net/ip_vs_stats")
_ENGINE = Path("/sys/module/ip_vs_pe_sip")
_BUFFER = 1 << 16
_SYNCED, _TEMPLATE, _NO_PORT = "synced", "template", "no-client-port"
_UNKNOWN = "0000"
_PLAIN = 73
"""Characters of a row of IPv4 whose protocol has at most three, with its newline."""

_TEMPLATE_STATES = frozenset({"NONE", "ASSURED"})


def connections() -> Iterator[Connection]:
    """The table, row by row; raises Unavailable, NotPermitted or Refused."""
    return parse(_lines(TABLE), _engines())


def parse(lines: Iterable[str], engines: dict[str, str] | None = None) -> Iterator[Connection]:
    """The rows of ip_vs_conn_sync below its heading; `engines` by what a row begins with, as `_engines` gives them."""
    rows = iter(lines)
    next(rows, None)
    address, number, name = _address, _number, _protocol
    middles: dict[str, tuple[str, int, str, int, str, tuple[str, ...]]] = {}
    plain: tuple[str, ...] = ()
    synced = (_SYNCED,)
    new = tuple.__new__  # Half the time of a call of the class, and there are very many rows.
    for row in rows:
        try:
            if len(row) == _PLAIN and row[3] == " " == row[12] and row[13:17] != _UNKNOWN and not engines:
                # Columns of a fixed width, and nearly all rows have the middle in common with many others.
                middle = middles.get(row[18:64])
                if middle is None:
                    if len(middles) >= 1 << 14:
                        middles.clear()
                    middle = middles[row[18:64]] = _middle(row[18:64])
                virtual, to, server, at, state, flags = middle
                yield new(Connection, (
                    name(row[:3]), address(row[4:12]), number(row[13:17]), virtual, to, server, at, state,
                    int(row[65:72]), flags, "",
                ))  # fmt: skip
                continue
            protocol, client, client_port, virtual, virtual_port, server, port, state, origin, expires = row.split()
            flags = plain if origin == "LOCAL" else synced
            if client_port == _UNKNOWN:
                flags = (_TEMPLATE if state in _TEMPLATE_STATES else _NO_PORT, *flags)
            pe = engines.get(row[: row.index(state)].rstrip(), "") if engines else ""
            yield new(Connection, (
                _protocol(protocol), address(client), number(client_port), address(virtual), number(virtual_port),
                address(server), number(port), state, int(expires), flags, pe,
            ))  # fmt: skip
        except ValueError:
            raise Refused(f"cannot read {TABLE.name}: {row.rstrip()!r} is not a connection") from None


def _middle(text: str) -> tuple[str, int, str, int, str, tuple[str, ...]]:
    """Virtual address, server, state and flags of an IPv4 row."""
    virtual, to, server, at, state, origin = text.split()
    return _address(virtual), _number(to), _address(server), _number(at), state, () if origin == "LOCAL" else (_SYNCED,)


def totals() -> Stats:
    """The counters of the namespace as a whole: two lines of hexadecimal numbers, each below two of headings.

    Source: ip_vs_ctl.c, ip_vs_stats_show. Raises as `connections` does.
    """
    from ipvsctl.model.status import Stats

    rows = [row.split() for row in _lines(COUNTERS)]
    try:
        first, second = (list(map(_number, row)) for row in (rows[2], rows[5]))
        return Stats(*first, *second)
    except (ValueError, IndexError, TypeError):
        raise Refused(f"cannot read {COUNTERS.name}: not two lines of five counters") from None


def _engines() -> dict[str, str]:
    """What persistence engines keep, by the text of the row up to its state; few rows have any."""
    if not _ENGINE.exists():
        return {}
    found = {}
    for row in _lines(WITH_ENGINES):
        words = row.split(None, 9)
        if len(words) == 10:
            found[" ".join(words[:7])] = words[9].strip()
    return {_padded(row): data for row, data in found.items()}


def _padded(row: str) -> str:
    """The words of a row as ip_vs_conn_sync prints them: the protocol is three characters wide."""
    protocol, rest = row.split(" ", 1)
    return f"{protocol:3} {rest}"


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="ascii", errors="replace", buffering=_BUFFER) as file:
            yield from file
    except FileNotFoundError:
        from ipvsctl.kernel.ipvs import NO_IPVS

        raise Unavailable(f"cannot read {path.name}: {NO_IPVS}") from None
    except PermissionError:
        raise NotPermitted(f"cannot read {path}: permission denied") from None
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror or os.strerror(error.errno or 0)}") from None


@lru_cache(maxsize=1 << 16)
def _address(text: str) -> str:
    """Eight digits of an IPv4 address, or an IPv6 address in full."""
    if ":" in text:
        from ipvsctl.model.address import parse_ip

        return parse_ip(text)[1]
    number = int(text, 16)
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


@lru_cache(maxsize=1 << 16)
def _number(text: str) -> int:
    return int(text, 16)


@lru_cache(maxsize=256)
def _protocol(name: str) -> str:
    """ "TCP" is tcp, and IP_47 the protocol 47."""
    return name[3:] if name.startswith("IP_") else name.strip().lower()
