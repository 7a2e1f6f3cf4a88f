"""The kernel's IPVS port on an empty table, and small words for its tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ipvsctl.errors import IpvsctlError
from ipvsctl.host import BatchError
from ipvsctl.kernel.ipvs import KernelIpvs
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import IpvsChange, SetTimeouts, StopDaemon
from ipvsctl.model.service import Server
from tests.guest.lab import must

WEB = ServiceAddress.parse("tcp:10.0.0.1:80")
WEB6 = ServiceAddress.parse("tcp:[2001:db8::1]:80")


@contextmanager
def empty_port() -> Iterator[KernelIpvs]:
    """The port, on an empty table before and after; daemons and timeouts are as before when it ends."""
    # ipvsadm loads IPVS where the kernel does not do so itself.
    must("ipvsadm", "-C")
    made = KernelIpvs()
    before = made.timeouts()
    try:
        yield made
    finally:
        must("ipvsadm", "-C")
        made.apply([SetTimeouts(before, before), *map(StopDaemon, made.daemons())])
        made.close()


def server(text: str, service: ServiceAddress = WEB, **settings: object) -> Server:
    return Server(ServerAddress.parse(text, service), **settings)  # type: ignore[arg-type]


def saved() -> list[str]:
    return must("ipvsadm", "-Sn").splitlines()


def refused(port: KernelIpvs, *changes: IpvsChange) -> tuple[IpvsctlError | None, ...]:
    with pytest.raises(BatchError) as caught:
        port.apply(changes)
    return caught.value.outcome


def many(count: int) -> list[ServiceAddress]:
    return [ServiceAddress.of("tcp", f"10.{number >> 8}.{number & 255}.1", 80) for number in range(count)]
