"""How ip_vs_ftp reads commands and replies: tables of what ip_vs_ftp_get_addrport and ip_vs_ftp_in take."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.vs.ftp_text import (
    ACTIVE,
    EPSV,
    PASV,
    STOP,
    extended_address,
    passive_request,
    plain_address,
)
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import packed


@pytest.mark.parametrize(
    ("payload", "family", "mode"),
    [
        (b"PASV\r\n", INET, PASV),
        (b"pasv\r\n", INET, PASV),
        (b"NOOP\r\nPASV\r\n", INET, PASV),
        (b"PASV\n", INET, ACTIVE),
        (b"PASV \r\n", INET, ACTIVE),
        (b"PASV\r\n", INET6, ACTIVE),
        (b"EPSV\r\n", INET, EPSV),
        (b"EPSV\r\n", INET6, EPSV),
        (b"EPSV\r", INET, ACTIVE),
        (b"EPSV 1\r\n", INET, EPSV),
        (b"EPSV 1\r\n", INET6, STOP),
        (b"EPSV 2\r\n", INET6, EPSV),
        (b"EPSV 2\r\n", INET, STOP),
        (b"EPSV ALL\r\n", INET, STOP),
        (b"EPSV 1", INET, STOP),
        (b"EPSVX EPSV\r\n", INET, EPSV),
        (b"USER x\r\n", INET, ACTIVE),
        (b"", INET, ACTIVE),
        (b"EPSV\r\nPASV\r\n", INET, EPSV),
        (b"PASV\r\nEPSV\r\n", INET, PASV),
    ],
)
def test_passive_request(payload: bytes, family: int, mode: int) -> None:
    assert passive_request(payload, family) == mode


@pytest.mark.parametrize(
    ("payload", "pattern", "skip", "address", "port", "text"),
    [
        (b"PORT 10,0,0,2,4,1\r\n", b"PORT", b" ", "10.0.0.2", 1025, b"10,0,0,2,4,1"),
        (b"port  10,0,0,2,4,1\r\n", b"PORT", b" ", "10.0.0.2", 1025, b"10,0,0,2,4,1"),
        (b"PORT10,0,0,2,4,1\r\n", b"PORT", b" ", "10.0.0.2", 1025, b"10,0,0,2,4,1"),
        (
            b"227 Entering Passive Mode (172,16,0,2,195,80).\r\n",
            b"227 ",
            b"(",
            "172.16.0.2",
            50000,
            b"172,16,0,2,195,80",
        ),
        (b"227 =172,16,0,2,195,80\r\n", b"227 ", b"(", "172.16.0.2", 50000, b"172,16,0,2,195,80"),
        (b"227 ((172,16,0,2,195,80)\r\n", b"227 ", b"(", "172.16.0.2", 50000, b"172,16,0,2,195,80"),
        (b"PORT ,,,,,\r", b"PORT", b" ", "0.0.0.0", 0, b",,,,,"),
    ],
)
def test_plain_address(payload: bytes, pattern: bytes, skip: bytes, address: str, port: int, text: bytes) -> None:
    place = plain_address(payload, pattern, skip[0])
    assert place is not None
    assert (place.address, place.port) == (packed(address), port)
    assert payload[place.start : place.end] == text


@pytest.mark.parametrize(
    "payload",
    [
        b"PORT 10,0,0,2,4,1",  # the line is not complete
        b"PORT 10,0,0,2,4\r\n",
        b"PORT 10,0,0,256,4,1\r\n",
        b"PORT 10.0.0.2.4.1\r\n",
        b"XPORT 10,0,0,2,4,1\r\n",
        b"PORT    ",
        b"POR",
        b"",
    ],
)
def test_plain_address_is_refused(payload: bytes) -> None:
    assert plain_address(payload, b"PORT", 0x20) is None


def test_a_seventh_number_ends_the_address() -> None:
    place = plain_address(b"PORT 1,2,3,4,5,6,7\r\n", b"PORT", 0x20)
    assert place is not None and place.end == len(b"PORT 1,2,3,4,5,6")


@pytest.mark.parametrize(
    ("payload", "pattern", "skip", "family", "bare", "address", "port", "text"),
    [
        (b"EPRT |1|10.0.0.2|1025|\r\n", b"EPRT", b" ", INET, False, "10.0.0.2", 1025, b"|1|10.0.0.2|1025|"),
        (b"EPRT !1!10.0.0.2!1025!\r\n", b"EPRT", b" ", INET, False, "10.0.0.2", 1025, b"!1!10.0.0.2!1025!"),
        (b"EPRT |2|2001:db8::2|1025|\r\n", b"EPRT", b" ", INET6, False, "2001:db8::2", 1025, b"|2|2001:db8::2|1025|"),
        (b"229 Extended Passive Mode (|||50000|)\r\n", b"229 ", b"(", INET, True, "", 50000, b"|||50000|"),
        (b"229 ok (!!!50000!)\r\n", b"229 ", b"(", INET6, True, "", 50000, b"!!!50000!"),
        (b"229 ok (|1|172.16.0.9|50000|)\r\n", b"229 ", b"(", INET, True, "172.16.0.9", 50000, b"|1|172.16.0.9|50000|"),
    ],
)
def test_extended_address(
    payload: bytes, pattern: bytes, skip: bytes, family: int, bare: bool, address: str, port: int, text: bytes
) -> None:
    place = extended_address(payload, pattern, skip[0], family, bare)
    assert place is not None
    assert place.address == (packed(address) if address else b"")
    assert place.port == port
    assert payload[place.start : place.end] == text


@pytest.mark.parametrize(
    ("payload", "family", "bare"),
    [
        (b"EPRT |1|10.0.0.2|1025", INET, False),
        (b"EPRT |2|2001:db8::2|1025|\r\n", INET, False),
        (b"EPRT |1|10.0.0.2|1025|\r\n", INET6, False),
        (b"EPRT |||1025|\r\n", INET, False),
        (b"EPRT ||10.0.0.2|1025|\r\n", INET, True),
        (b"EPRT |1|10.0.0|1025|\r\n", INET, False),
        (b"EPRT |1|10.0.0.2|0|\r\n", INET, False),
        (b"EPRT |1|10.0.0.2|65536|\r\n", INET, False),
        (b"EPRT |1|10.0.0.2||\r\n", INET, False),
        (b"EPRT 11110.0.0.21102511\r\n", INET, False),
        (b"EPRT |2|fe80::1%eth0|1025|\r\n", INET6, False),
        (b"EPRT \x80" + b"1\x8010.0.0.2\x801025\x80\r\n", INET, False),
        (b"EPRT ", INET, False),
    ],
)
def test_extended_address_is_refused(payload: bytes, family: int, bare: bool) -> None:
    assert extended_address(payload, b"EPRT", 0x20, family, bare) is None
