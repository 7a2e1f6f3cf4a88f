"""Addresses of virtual services and real servers, and their one written form.

    tcp:192.0.2.1:80   udp:[2001:db8::1]:53   sctp:192.0.2.1:36412   fwmark:7   fwmark:7/inet6
    10.0.2.2   10.0.2.2:8080   [2001:db8::2]:80

A service is found by what the kernel finds it by (ip_vs_ctl.c, ip_vs_service_find): address family with firewall mark,
or family, protocol, address and port. Port 0 stands for every port.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from ipvsctl.errors import UsageError

INET = 2
INET6 = 10
FAMILY_NAMES = {INET: "inet", INET6: "inet6"}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


@lru_cache(maxsize=65536)
def parse_ip(text: str) -> tuple[int, str]:
    """Family (`INET` or `INET6`) and canonical text of an IP address.

    Raises UsageError for anything else; zone identifiers are not addresses a director can use.
    """
    try:
        if ":" in text:
            if "%" in text:
                raise AddressValueError(text)
            return INET6, str(IPv6Address(text))
        IPv4Address(text)
    except AddressValueError:
        raise UsageError(f"{text!r} is not an IPv4 or IPv6 address") from None
    return INET, text


def parse_port(text: str, subject: str) -> int:
    """A port number, 0..65535, from ASCII digits. `subject` is the text the port stands in, for the error."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise UsageError(f"{subject!r}: {text!r} is not a port, expected 0..65535")
    return int(text)


def _split_port(text: str) -> tuple[str, str | None]:
    """Address text and port text: `[v6]:port`, `[v6]`, `v4:port`, `v4`, or a bare IPv6 address."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in address or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is not an address, expected [IPV6]:PORT")
        return address, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    address, colon, port = text.partition(":")
    return address, port if colon else None


def _endpoint(family: int, address: str, port: int) -> str:
    return f"[{address}]:{port}" if family == INET6 else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """What identifies a virtual service.

    `protocol` is "tcp", "udp", "sctp" or "fwmark"; for "fwmark" `address` is "" and `fwmark` is 1..2**32-1, for the
    others `fwmark` is 0. `family` is INET or INET6. Addresses are canonical text: build through `parse` or `of`.
    """

    protocol: str
    family: int
    address: str = ""
    port: int = 0
    fwmark: int = 0

    @classmethod
    def of(cls, protocol: str, address: str, port: int) -> ServiceAddress:
        """The service of a protocol on an address and a port; raises UsageError for values out of range."""
        if protocol not in PROTOCOLS:
            raise UsageError(f"{protocol!r} is not a protocol of IPVS, expected tcp, udp or sctp")
        if not 0 <= port <= 65535:
            raise UsageError(f"port {port} is out of range, expected 0..65535")
        family, canonical = parse_ip(address)
        return cls(protocol, family, canonical, port)

    @classmethod
    def of_mark(cls, mark: int, family: int = INET) -> ServiceAddress:
        """The service of a firewall mark, 1..2**32-1; raises UsageError for others."""
        if not 1 <= mark <= 0xFFFFFFFF:
            raise UsageError(f"firewall mark {mark} is out of range, expected 1..4294967295")
        return cls("fwmark", family, fwmark=mark)

    @classmethod
    def parse(cls, text: str) -> ServiceAddress:
        """Read the written form; raises UsageError that says what was expected."""
        protocol, colon, rest = text.partition(":")
        if colon and protocol == "fwmark":
            mark, slash, family = rest.partition("/")
            known = family in FAMILY_NAMES.values() or not slash
            if not (mark.isascii() and mark.isdigit() and len(mark) <= 10 and known):
                raise UsageError(f"{text!r} is not a service, expected fwmark:MARK or fwmark:MARK/inet6")
            return cls.of_mark(int(mark), INET6 if family == "inet6" else INET)
        if not colon or protocol not in PROTOCOLS:
            raise UsageError(
                f"{text!r} is not a service, expected tcp:ADDRESS:PORT, udp:..., sctp:... or fwmark:MARK[/inet6]"
            )
        address, port = _split_port(rest)
        if not port:
            raise UsageError(f"{text!r} has no port, expected {protocol}:ADDRESS:PORT (IPv6 as [ADDRESS]:PORT)")
        return cls.of(protocol, address, parse_port(port, text))

    def __str__(self) -> str:
        if self.protocol == "fwmark":
            return f"fwmark:{self.fwmark}/inet6" if self.family == INET6 else f"fwmark:{self.fwmark}"
        return f"{self.protocol}:{_endpoint(self.family, self.address, self.port)}"

    @property
    def sort_key(self) -> tuple[int, int, int, int, int]:
        """Order for listings: marks last, then family, protocol, address and port as numbers."""
        number = 0
        if self.address:
            number = int(IPv6Address(self.address) if self.family == INET6 else IPv4Address(self.address))
        return self.fwmark, self.family, PROTOCOLS.get(self.protocol, 0), number, self.port


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """What identifies a real server inside its service: family, address, port (0 for services of every port)."""

    family: int
    address: str
    port: int

    @classmethod
    def of(cls, address: str, port: int) -> ServerAddress:
        """A server's address; raises UsageError for values out of range."""
        if not 0 <= port <= 65535:
            raise UsageError(f"port {port} is out of range, expected 0..65535")
        family, canonical = parse_ip(address)
        return cls(family, canonical, port)

    @classmethod
    def parse(cls, text: str, service: ServiceAddress) -> ServerAddress:
        """Read ADDRESS or ADDRESS:PORT; without a port it is the service's."""
        address, port = _split_port(text)
        family, canonical = parse_ip(address)
        return cls(family, canonical, service.port if port is None else parse_port(port, text))

    def __str__(self) -> str:
        return _endpoint(self.family, self.address, self.port)

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Order for listings: family, address and port as numbers."""
        number = int(IPv6Address(self.address) if self.family == INET6 else IPv4Address(self.address))
        return self.family, number, self.port
