"""Tunnels: what is put around a packet, byte by byte, and found again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.wire import ipv4, ipv6, transport, tunnel, udp
from ipvsctl.wire.address import packed
from ipvsctl.wire.checksum import correct

A, B = packed("10.0.1.2"), packed("192.168.1.100")
A6, B6 = packed("fd00::2"), packed("fd00::1")
INNER = bytes(ipv4.build(A, B, 17, udp.build(A, B, 1, 2, b"hello")))
INNER6 = bytes(ipv6.build(A6, B6, 17, udp.build(A6, B6, 1, 2, b"hello")))


@pytest.mark.parametrize("kind", ["ipip", "gre", "gue"])
@pytest.mark.parametrize("inner", [INNER, INNER6], ids=["4", "6"])
@pytest.mark.parametrize("ends", [(A, B), (A6, B6)], ids=["in 4", "in 6"])
@pytest.mark.parametrize("checksummed", [False, True])
def test_in_and_out(kind: str, inner: bytes, ends: tuple[bytes, bytes], checksummed: bool) -> None:
    data = tunnel.encapsulate(kind, inner, *ends, checksummed=checksummed, sport=7)
    at = tunnel.decapsulate(data)
    header = 20 if len(ends[0]) == 4 else 40
    extra = {"ipip": 0, "gre": 8 if checksummed else 4, "gue": 12}[kind]
    assert at == header + extra
    assert data[at:] == inner
    if header == 20:
        assert ipv4.valid(data)
    assert tunnel.decapsulate(data[:at]) is None


def test_gre_header() -> None:
    assert tunnel.gre_payload(INNER)[:4].hex() == "00000800"
    assert tunnel.gre_payload(INNER6)[:4].hex() == "000086dd"
    data = tunnel.gre_payload(INNER, checksummed=True)
    assert data[:4].hex() == "80000800"
    assert correct(data)
    assert tunnel.gre_header(data, 0) == (4, 8)
    assert tunnel.gre_header(data[:7], 0) is None
    assert tunnel.gre_header(b"\x20\0\x08\0" + bytes(8), 0) is None  # a key: IPVS does not take it
    assert tunnel.gre_header(b"\0\1\x08\0", 0) is None  # version 1: PPTP
    assert tunnel.gre_header(b"\0\0\x08\6", 0) is None


def test_gue_header() -> None:
    data = tunnel.gue(INNER, A, B, 33333, checksummed=True)
    assert data[20:28].hex()[:12] == "823517c0" + f"{12 + len(INNER):04x}"
    assert data[28:32].hex() == "00040000"
    assert transport.verify(data, 2, 17, 20, A, B)
    assert tunnel.gue(INNER, A, B, 33333)[26:28] == b"\0\0"
    remote = tunnel.gue_payload(INNER, (20, 26))
    assert remote[:12].hex() == "02040001800000000014001a"
    assert tunnel.gue_header(remote, 0) == (4, 12)
    assert tunnel.gue_header(remote[:11], 0) is None
    assert tunnel.gue_header(b"\x20\4\0\0", 0) is None  # a control message
    assert tunnel.gue_header(b"\x40\4\0\0", 0) is None  # version 1
    assert tunnel.gue_header(b"\0\6\0\0", 0) is None


def test_what_is_no_tunnel() -> None:
    assert tunnel.decapsulate(INNER) is None
    assert tunnel.decapsulate(INNER6) is None
    assert tunnel.decapsulate(tunnel.gue(INNER, A, B, 1, 6081)) is None
    assert tunnel.decapsulate(tunnel.gue(INNER, A, B, 1, 6081), 6081) == 32
    assert tunnel.decapsulate(ipv4.fragment(tunnel.ipip(INNER, A, B), 28)[0]) is None
    assert tunnel.decapsulate(ipv4.build(A, B, 41, INNER)) is None  # says IPv6, is IPv4


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    tunnel.decapsulate(data)
    tunnel.decapsulate(tunnel.outer(A, B, 47, data))
    tunnel.decapsulate(tunnel.outer(A6, B6, 0, data))
