"""Short ways to say services, servers and what becomes of changes."""

from __future__ import annotations

from collections.abc import Sequence

from ipvsctl.errors import IpvsctlError
from ipvsctl.host import BatchError, Host
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import IPVS_CHANGES, AddServer, AddService, Change
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.status import Daemon, ServiceStatus, Timeouts

WEB = ServiceAddress.parse("tcp:192.0.2.1:80")
WEB6 = ServiceAddress.parse("tcp:[2001:db8::1]:80")


def service(
    text: str, scheduler: str = "rr", *flags: str, persistent: int | None = None, netmask: str | int | None = None,
    pe: str | None = None,
) -> Service:  # fmt: skip
    return Service(ServiceAddress.parse(text), scheduler, flags, persistent, netmask, pe)


def server(
    text: str, forward: str = "nat", weight: int = 1, *, upper: int = 0, lower: int = 0, tunnel: Tunnel | None = None
) -> Server:
    return Server(ServerAddress.parse(text, WEB), forward, weight, upper, lower, tunnel)


def attempt(host: Host, *changes: Change) -> list[IpvsctlError | None]:
    """Make changes of IPVS's tables; what became of each."""
    wanted = [change for change in changes if isinstance(change, IPVS_CHANGES)]
    assert len(wanted) == len(changes)
    try:
        host.ipvs.apply(wanted)
    except BatchError as failure:
        assert len(failure.outcome) == len(changes)
        return list(failure.outcome)
    return [None] * len(changes)


def must(host: Host, *changes: Change) -> None:
    assert attempt(host, *changes) == [None] * len(changes)


def web(host: Host, *servers: Server, address: ServiceAddress = WEB) -> None:
    """A service with servers, added in the order given."""
    must(host, AddService(Service(address, "rr")), *(AddServer(address, each) for each in servers))


def servers_of(host: Host, address: ServiceAddress = WEB) -> list[Server]:
    """A service's servers in the host's order."""
    return [status.server for status in host.ipvs.service(address).servers]


State = tuple[list[ServiceStatus], Timeouts, Sequence[Daemon]]


def state(host: Host) -> State:
    return host.ipvs.services(), host.ipvs.timeouts(), host.ipvs.daemons()
