"""Names of hosts and ports for the classic command, looked up with the C library as ipvsadm does."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from ipaddress import IPv6Address


class LibraryNames:
    """Both directions. Every address of a list is asked for once."""

    def __init__(self) -> None:
        self.host_name = cache(_host_name)
        self.port_name = cache(_port_name)

    def ipv4(self, text: str) -> str | None:
        """An address as inet_aton reads it: in fewer parts, in octal, with something behind a blank."""
        try:
            return socket.inet_ntoa(socket.inet_aton(text))
        except (OSError, ValueError):
            return None

    def ipv6(self, text: str) -> str | None:
        """An IPv6 address in its canonical form."""
        if ":" not in text:
            return None
        try:
            return str(IPv6Address(socket.inet_pton(socket.AF_INET6, text)))
        except (OSError, ValueError):
            return None

    def host(self, text: str) -> str | None:
        """The first IPv4 address of a host."""
        # Python has answers of its own to these two.
        if text in ("", "<broadcast>"):
            return None
        try:
            return socket.gethostbyname(text)
        except (OSError, ValueError):
            return None

    def port(self, text: str, protocol: str) -> int | None:
        """The port of a service in the system's list."""
        try:
            return socket.getservbyname(text, protocol)
        except (OSError, ValueError):
            return None


def _host_name(address: str) -> str | None:
    with suppress(OSError, ValueError):
        return socket.gethostbyaddr(address)[0]
    return None


def _port_name(port: int, protocol: str) -> str | None:
    if port == 0 or not protocol:
        return None
    with suppress(OSError, ValueError, OverflowError):
        return socket.getservbyport(port, protocol)
    return None
