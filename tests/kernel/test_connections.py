"""Rows of procfs and messages of ctnetlink as the kernel writes them."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

from ipvsctl.errors import Refused, Unavailable
from ipvsctl.kernel import connections, conntrack, events
from ipvsctl.kernel.talk import attribute
from ipvsctl.model.status import Connection, ConntrackEntry, Stats

HEADING = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n"
ROW = "TCP 0A000102 9C40 C0A80164 0050 0A000202 1F90 ESTABLISHED LOCAL      899\n"
ROW6 = (
    "UDP fd00:0001:0000:0000:0000:0000:0000:0002 9C40 2001:0db8:0000:0000:0000:0000:0000:0100 0035 "
    "fd00:0002:0000:0000:0000:0000:0000:0002 0035 UDP         SYNC       299\n"
)


def parsed(*rows: str) -> list[Connection]:
    return list(connections.parse([HEADING, *rows]))


def test_rows_of_both_families() -> None:
    assert parsed(ROW, ROW6) == [
        Connection("tcp", "10.0.1.2", 40000, "192.168.1.100", 80, "10.0.2.2", 8080, "ESTABLISHED", 899),
        Connection("udp", "fd00:1::2", 40000, "2001:db8::100", 53, "fd00:2::2", 53, "UDP", 299, ("synced",)),
    ]


def test_templates_and_unknown_ports() -> None:
    rows = (
        "IP  0A000102 0000 00000007 0000 0A000202 0000 NONE        LOCAL      360\n",
        "TCP 0A000102 0000 C0A80164 0050 0A000202 0050 ASSURED     SYNC       300\n",
        "TCP 0A000102 0000 C0A80164 C350 0A000202 C350 LISTEN      LOCAL      119\n",
        "IP_47 0A000102 0000 C0A80164 0000 0A000202 0000 ERR!        LOCAL      1\n",
    )
    found = parsed(*rows)
    assert [each.protocol for each in found] == ["ip", "tcp", "tcp", "47"]
    assert [each.flags for each in found] == [
        ("template",), ("template", "synced"), ("no-client-port",), ("no-client-port",)
    ]  # fmt: skip
    assert found[0].virtual == "0.0.0.7"


@pytest.mark.parametrize("row", ["TCP 0A000102\n", ROW.replace("9C40", "port"), ROW.replace("899", "soon"), "\n"])
def test_rows_that_are_none_are_refused(row: str) -> None:
    with pytest.raises(Refused, match="is not a connection"):
        parsed(row)


def test_engines_keep_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ROW.replace("LOCAL ", "").rstrip() + " sip 4f2a@10.0.1.2\n"
    for name, value in (("TABLE", HEADING + ROW), ("WITH_ENGINES", HEADING + plain)):
        path = tmp_path / name
        path.write_text(value)
        monkeypatch.setattr(connections, name, path)
    monkeypatch.setattr(connections, "_ENGINE", tmp_path)
    (found,) = connections.connections()
    assert found.pe == "sip 4f2a@10.0.1.2"


def test_very_many_rows_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table"
    with path.open("w") as file:
        file.write(HEADING)
        for number in range(100_000):
            file.write(f"UDP {0x0A000000 + number // 60000:08X} {number % 60000:04X} C0A80164 0035 0A000202 0035 "
                       "UDP         LOCAL      285\n")  # fmt: skip
    monkeypatch.setattr(connections, "TABLE", path)
    tracemalloc.start()
    try:
        count = sum(1 for _ in connections.connections())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 100_000
    # Caches of ports and addresses, which are bounded; all the rows would be 60 megabytes.
    assert peak < 20e6, peak


def test_no_ipvs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TABLE", tmp_path / "nothing")
    with pytest.raises(Unavailable, match="modprobe ip_vs"):
        next(connections.connections())


def test_totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ip_vs_stats"
    path.write_text(
        "   Total Incoming Outgoing         Incoming         Outgoing\n"
        "   Conns  Packets  Packets            Bytes            Bytes\n"
        "       A      100       FF             1000                0\n\n"
        " Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n"
        "       1        2        3                4                5\n"
    )
    monkeypatch.setattr(connections, "COUNTERS", path)
    assert connections.totals() == Stats(10, 256, 255, 4096, 0, 1, 2, 3, 4, 5)
    path.write_text("")
    with pytest.raises(Refused):
        connections.totals()


# -- ctnetlink --------------------------------------------------------------------------------------------------------

_NESTED = 0x8000


def direction(which: int, source: bytes, sport: int, destination: bytes, dport: int, protocol: int = 17) -> bytes:
    first = 3 if len(source) == 16 else 1
    addresses = attribute(first, source) + attribute(first + 1, destination)
    ports = attribute(1, bytes((protocol,))) + attribute(2, sport.to_bytes(2, "big"))
    ports += attribute(3, dport.to_bytes(2, "big"))
    return attribute(which | _NESTED, attribute(1 | _NESTED, addresses) + attribute(2 | _NESTED, ports))


CLIENT, VIP, SERVER = bytes((10, 0, 1, 2)), bytes((192, 168, 1, 100)), bytes((10, 0, 2, 2))
TUPLES = direction(1, CLIENT, 4000, VIP, 53) + direction(2, SERVER, 53, CLIENT, 4000)
SETTINGS = (
    attribute(3, struct.pack(">I", 0x408)) + attribute(7, struct.pack(">I", 30)) + attribute(8, struct.pack(">I", 7))
    + attribute(5 | _NESTED, attribute(1, b"ftp\0"))
    + attribute(4 | _NESTED, attribute(1 | _NESTED, attribute(1, b"\3")))
)  # fmt: skip
ENTRY = ConntrackEntry(
    "udp", "10.0.1.2", "192.168.1.100", 4000, 53, "10.0.2.2", "10.0.1.2", 53, 4000, "ESTABLISHED", 30, 7, "ftp",
    ("confirmed", "fixed_timeout"),
)  # fmt: skip


def test_the_usual_order_and_any_other_say_the_same() -> None:
    """The short way takes both tuples as they lie; what is ordered otherwise goes the general way."""
    assert conntrack.decode(2, TUPLES + SETTINGS) == ENTRY
    assert conntrack.decode(2, SETTINGS + TUPLES) == ENTRY
    other = direction(2, SERVER, 53, CLIENT, 4000) + direction(1, CLIENT, 4000, VIP, 53)
    assert conntrack.decode(2, other + SETTINGS) == ENTRY


def test_ipv6_and_icmp_go_the_general_way() -> None:
    source, to = bytes(15) + b"\1", bytes(15) + b"\2"
    six = direction(1, source, 1, to, 2) + direction(2, to, 2, source, 1)
    assert conntrack.decode(10, six)[:5] == ("udp", "::1", "::2", 1, 2)
    addresses = attribute(1 | _NESTED, attribute(1, CLIENT) + attribute(2, VIP))
    echo = attribute(1, b"\1") + attribute(4, b"\0\7") + attribute(5, b"\x08") + attribute(6, b"\0")
    one = addresses + attribute(2 | _NESTED, echo)
    found = conntrack.decode(2, attribute(1 | _NESTED, one) + attribute(2 | _NESTED, one))
    assert (found.protocol, found.source_port, found.destination_port) == ("icmp", 7, 8 << 8)


def message(kind: int, flags: int) -> bytes:
    body = struct.pack("=BBH", 2, 0, 0) + TUPLES + SETTINGS
    return struct.pack("=IHHII", 16 + len(body), 1 << 8 | kind, flags, 0, 0) + body


def test_events_of_one_datagram() -> None:
    data = message(0, 0x600) + message(0, 0) + message(2, 0)
    found = list(events.read(data))
    assert [event.kind for event in found] == ["new", "update", "destroy"]
    assert all(event.entry == ENTRY for event in found)
    assert list(events.read(data[:-1])) == found[:2]
    assert list(events.read(b"\0" * 40)) == []


def test_rows_of_fixed_columns_and_others_say_the_same() -> None:
    """The short way of plain rows; a blank more makes a row go the general way."""
    assert len(ROW) == 73
    for row in (ROW, ROW.replace("LOCAL ", "SYNC  "), ROW.replace("TCP", "IP ")):
        assert parsed(row) == parsed(row.replace("\n", " \n")), row
