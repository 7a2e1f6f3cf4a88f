"""What the kernel refuses, what it holds that we would not write, and batches that fail half-way."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence

import pytest

from ipvsctl.errors import AlreadyExists, IpvsctlError, NotFound, NotPermitted, Refused
from ipvsctl.kernel import ipvs_tables as wire
from ipvsctl.kernel.ipvs import KernelIpvs
from ipvsctl.kernel.ipvs_codec import _build, command
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    IpvsChange,
    ZeroCounters,
)
from ipvsctl.model.service import Server, Service, Tunnel
from tests.guest.ipvs_port import WEB, WEB6, empty_port, many, refused, saved, server

pytestmark = pytest.mark.guest


@pytest.fixture
def port() -> Iterator[KernelIpvs]:
    with empty_port() as made:
        yield made


UNKNOWN = ServiceAddress.parse("tcp:10.0.0.77:80")
MEMBER = server("10.1.0.2", forward="nat")
STRANGER = server("10.1.0.77", forward="nat")


def odd(text: str = "10.1.0.3", forward: str = "nat", weight: int = 1, upper: int = 0, lower: int = 0,
        tunnel: Tunnel | None = None) -> AddServer:  # fmt: skip
    """A server that the model would not let us make."""
    return AddServer(WEB, _build(Server, ServerAddress.parse(text, WEB), forward, weight, upper, lower, tunnel))


REFUSALS: list[tuple[str, IpvsChange, type[IpvsctlError], str]] = [
    ("EEXIST", AddService(Service(WEB)), AlreadyExists, "the service exists already"),
    ("ENOENT scheduler", AddService(Service(UNKNOWN, "nosuch")), Refused, "no scheduler 'nosuch' here"),
    ("ENOENT engine", AddService(Service(UNKNOWN, "rr", pe="nosuch")), Refused, "persistence engine 'nosuch'"),
    ("ENOENT edit", EditService(Service(WEB, "nosuch"), Service(WEB)), Refused, "no scheduler 'nosuch' here"),
    ("EINVAL netmask", AddService(_build(Service, WEB6, "rr", (), None, 0, None)), Refused, "invalid"),
    ("ESRCH edit", EditService(Service(UNKNOWN), Service(UNKNOWN)), NotFound, "there is no such service"),
    ("ESRCH delete", DeleteService(Service(UNKNOWN)), NotFound, "there is no such service"),
    ("ESRCH zero", ZeroCounters(UNKNOWN), NotFound, "there is no such service"),
    ("ESRCH add server", AddServer(UNKNOWN, MEMBER), NotFound, "there is no service tcp:10.0.0.77:80"),
    ("ESRCH edit server", EditServer(UNKNOWN, MEMBER, MEMBER), NotFound, "there is no service tcp:10.0.0.77:80"),
    ("ESRCH delete server", DeleteServer(UNKNOWN, MEMBER), NotFound, "there is no service tcp:10.0.0.77:80"),
    ("EEXIST server", AddServer(WEB, server("10.1.0.2")), AlreadyExists, "exists already in tcp:10.0.0.1:80"),
    ("ENOENT edit server", EditServer(WEB, STRANGER, STRANGER), NotFound, "no such server in tcp:10.0.0.1:80"),
    ("ENOENT delete server", DeleteServer(WEB, STRANGER), NotFound, "no such server in tcp:10.0.0.1:80"),
    ("EINVAL any", odd("0.0.0.0"), Refused, "not a unicast address"),
    ("EINVAL multicast", odd("224.0.0.1"), Refused, "not a unicast address"),
    ("EINVAL broadcast", odd("255.255.255.255"), Refused, "not a unicast address"),
    ("EINVAL family", odd("[fd00::9]:80"), Refused, "tunnel and family do not go together"),
    ("EINVAL gue", odd(forward="tun", tunnel=_build(Tunnel, "gue", 0, "no")), Refused, "tunnel and family"),
    ("ERANGE weight", odd(weight=-1), Refused, "weight or thresholds are out of the kernel's range"),
    ("ERANGE lower", odd(lower=1), Refused, "weight or thresholds are out of the kernel's range"),
]


def test_refusals(port: KernelIpvs) -> None:
    port.apply([AddService(Service(WEB)), AddServer(WEB, MEMBER)])
    before = saved()
    outcome = refused(port, *(change for _, change, _, _ in REFUSALS))
    for (name, change, wanted, text), error in zip(REFUSALS, outcome, strict=True):
        assert type(error) is wanted, name
        assert str(error).startswith(f"cannot {change}: "), name
        assert text in str(error), name
        assert "\n" not in str(error), name
    assert saved() == before


def as_nobody(work: Sequence[IpvsChange] | None) -> str:
    """What an unprivileged process gets, which forgets privilege before the port opens its socket."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "nothing was raised"
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            port = KernelIpvs()
            port.services() if work is None else port.apply(work)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    assert os.waitpid(child, 0)[1] == 0
    return answer


def test_without_privilege(port: KernelIpvs) -> None:
    hint = "IPVS needs CAP_NET_ADMIN in the initial user namespace: run as root, or with sudo"
    assert as_nobody(None) == f"NotPermitted: cannot list the services: {hint}"
    # So many that their answers would not fit the socket's buffer at once.
    changes = [AddService(Service(address, "rr")) for address in many(1000)]
    assert as_nobody(changes) == f"{NotPermitted.__name__}: cannot {changes[0]}: {hint}"
    assert saved() == []


def test_a_failure_in_the_middle_of_a_batch(port: KernelIpvs) -> None:
    changes = [AddService(Service(address, "rr")) for address in many(2000)]
    changes[1000] = changes[17]
    outcome = refused(port, *changes)
    assert len(outcome) == 2000
    tried = [error for error in outcome if str(error) != "not tried: an earlier change failed"]
    assert 1000 < len(tried) < 2000, "there is more than one chunk"
    assert [type(error) for error in tried if error] == [AlreadyExists]
    assert outcome[1000] is not None
    assert "not tried" not in str(outcome[1000])
    done = {change.service.address for change, error in zip(changes, outcome, strict=True) if error is None}
    assert {status.service.address for status in port.services()} == done
    assert len(done) == len(tried) - 1

    # And a chunk of which every message fails: each has its own error.
    again = refused(port, *changes[:600])
    assert [type(error) for error in again if "not tried" not in str(error)].count(AlreadyExists) > 100
    assert None not in again
    # The port goes on after it.
    port.apply([DeleteService(Service(address)) for address in done])
    assert port.services() == []


def test_what_others_leave_behind(port: KernelIpvs) -> None:
    """Values that the model refuses are read, listed and deleted."""
    address = ("family", 2), ("protocol", 47), ("address", b"\x0a\0\0\x09" + bytes(12)), ("port", 0)
    service = wire.encode(wire.SERVICE, (
        *address, ("scheduler", "none"), ("flags", b"\xff" * 8), ("timeout", 0), ("netmask", b"\1\2\3\4"),
    ))  # fmt: skip
    for method in range(8):
        dest = wire.encode(wire.DEST, (
            ("address", bytes([10, 1, 0, method + 1]) + bytes(12)), ("port", socket.htons(method)), ("forward", method),
            ("weight", 1), ("upper", 0), ("lower", 0), ("tunnel_type", 9), ("tunnel_flags", 3),
        ))  # fmt: skip
        if method == 0:
            message = wire.encode(wire.TOP, [("service", service)])
            assert list(port._netlink.batch([command(wire.NEW_SERVICE) + message])) == [(range(1), {})]
        message = wire.encode(wire.TOP, [("service", service), ("dest", dest)])
        assert list(port._netlink.batch([command(wire.NEW_DEST) + message])) == [(range(1), {})]

    (status,) = port.services()
    assert str(status.service.address) == "ip-47:10.0.0.9:0"
    assert status.service.scheduler == "none"
    assert status.service.flags == ("ops", "flag-1", "flag-2", "flag-3")
    assert (status.service.persistent, status.service.netmask) == (0, "1.2.3.4")
    assert [one.server.forward for one in status.servers] == [
        "method-7", "method-6", "method-5", "bypass", "dr", "tun", "local", "nat",
    ]  # fmt: skip
    tunnels = [one.server.tunnel for one in status.servers if one.server.tunnel]
    assert [(tunnel.type, tunnel.csum) for tunnel in tunnels] == [("type-9", "remote")]

    was = status.servers[0].server
    still = _build(Server, was.address, was.forward, 5, 0, 0, None)
    port.apply([EditServer(status.service.address, still, was)])
    assert port.service(status.service.address).servers[0].server == still
    port.apply([DeleteServer(status.service.address, one.server) for one in status.servers])
    port.apply([DeleteService(status.service)])
    assert port.services() == []


def test_a_service_that_went_while_it_was_listed(port: KernelIpvs) -> None:
    assert port._servers(UNKNOWN) == ()
    assert port._servers(ServiceAddress.of_mark(99, INET)) == ()
