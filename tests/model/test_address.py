"""Written forms of services and servers: what is read, what is refused, and that writing gives it back."""

from __future__ import annotations

import pytest
from hypothesis import given

from ipvsctl.errors import UsageError
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from tests import strategies as some

GOOD = [
    ("tcp:192.0.2.1:80", ServiceAddress("tcp", INET, "192.0.2.1", 80)),
    ("udp:[2001:db8::1]:53", ServiceAddress("udp", INET6, "2001:db8::1", 53)),
    ("udp:[2001:DB8:0::1]:53", ServiceAddress("udp", INET6, "2001:db8::1", 53)),
    ("sctp:192.0.2.1:36412", ServiceAddress("sctp", INET, "192.0.2.1", 36412)),
    ("tcp:192.0.2.1:0", ServiceAddress("tcp", INET, "192.0.2.1", 0)),
    ("fwmark:7", ServiceAddress("fwmark", INET, fwmark=7)),
    ("fwmark:7/inet6", ServiceAddress("fwmark", INET6, fwmark=7)),
    ("fwmark:4294967295", ServiceAddress("fwmark", INET, fwmark=4294967295)),
]

BAD = [
    "", "tcp", "tcp:", "tcp:192.0.2.1", "tcp:192.0.2.1:", "tcp:192.0.2.1:x", "tcp:192.0.2.1:65536", "tcp:192.0.2.1:-1",
    "tcp:192.0.2.1:+80", "tcp:192.0.2.1:٨٠", "tcp:192.0.2.256:80", "tcp:192.0.2.01:80", "tcp:2001:db8::1:80",
    "tcp:[2001:db8::1]", "tcp:[2001:db8::1:80", "tcp:[192.0.2.1]:80", "tcp:[fe80::1%eth0]:80", "http:192.0.2.1:80",
    "TCP:192.0.2.1:80", "fwmark:0", "fwmark:-1", "fwmark:4294967296", "fwmark:7/ipv6", "fwmark:",
    "fwmark:0x7", " tcp:192.0.2.1:80", "tcp:192.0.2.1:80\n", "tcp:vip.example.com:80",
]  # fmt: skip


@pytest.mark.parametrize(("text", "address"), GOOD)
def test_services_are_read(text: str, address: ServiceAddress) -> None:
    assert ServiceAddress.parse(text) == address


@pytest.mark.parametrize("text", BAD)
def test_bad_services_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServiceAddress.parse(text)
    assert "\n" not in str(caught.value)


@given(some.service_addresses)
def test_services_survive_writing(address: ServiceAddress) -> None:
    assert ServiceAddress.parse(str(address)) == address


SERVICE = ServiceAddress.parse("tcp:192.0.2.1:80")


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.2.2", ServerAddress(INET, "10.0.2.2", 80)),
        ("10.0.2.2:8080", ServerAddress(INET, "10.0.2.2", 8080)),
        ("10.0.2.2:0", ServerAddress(INET, "10.0.2.2", 0)),
        ("[2001:db8::2]:81", ServerAddress(INET6, "2001:db8::2", 81)),
        ("[2001:db8::2]", ServerAddress(INET6, "2001:db8::2", 80)),
        ("2001:db8::2", ServerAddress(INET6, "2001:db8::2", 80)),
    ],
)
def test_servers_are_read(text: str, server: ServerAddress) -> None:
    assert ServerAddress.parse(text, SERVICE) == server
    assert ServerAddress.parse(str(server), SERVICE) == server


@pytest.mark.parametrize(
    "text", ["", "10.0.2", "10.0.2.2:", "10.0.2.2:99999", "[2001:db8::2]x", "web1", "10.0.2.2:80:80"]
)
def test_bad_servers_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        ServerAddress.parse(text, SERVICE)


def test_listing_order_is_by_number() -> None:
    texts = ["fwmark:7", "tcp:10.0.0.10:80", "tcp:10.0.0.9:80", "tcp:10.0.0.9:8", "udp:10.0.0.1:53", "tcp:[::1]:80"]
    ordered = sorted(map(ServiceAddress.parse, texts), key=lambda address: address.sort_key)
    assert [str(address) for address in ordered] == [
        "tcp:10.0.0.9:8", "tcp:10.0.0.9:80", "tcp:10.0.0.10:80", "udp:10.0.0.1:53", "tcp:[::1]:80", "fwmark:7",
    ]  # fmt: skip
