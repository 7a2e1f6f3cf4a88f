"""Synchronisation daemons and timeouts."""

from __future__ import annotations

import pytest

from ipvsctl.errors import AlreadyExists, IpvsctlError, NotFound, Refused, UsageError
from ipvsctl.host import Host
from ipvsctl.model.change import AddServer, DeleteServer, IpvsChange, SetTimeouts, StartDaemon, StopDaemon
from ipvsctl.model.status import Daemon, Timeouts
from tests.conformance.support import WEB, attempt, must, server, state, web

DEFAULTS = Timeouts(900, 120, 300)

# What was asked for, and what runs then.
KINDS = (
    (Daemon("master", "eth0"), Daemon("master", "eth0", 0, 1472, "224.0.0.81", 8848, 1)),
    (Daemon("backup", "eth0", 7), Daemon("backup", "eth0", 7, 1472, "224.0.0.81", 8848, 1)),
    (Daemon("backup", "lo"), Daemon("backup", "lo", 0, 65507, "224.0.0.81", 8848, 1)),
    (
        Daemon("master", "eth1", 255, 1000, "239.1.2.3", 10000, 64),
        Daemon("master", "eth1", 255, 1000, "239.1.2.3", 10000, 64),
    ),
    (Daemon("master", "eth0", 1, 1), Daemon("master", "eth0", 1, 1, "224.0.0.81", 8848, 1)),
    (Daemon("backup", "eth0", 1, 1), Daemon("backup", "eth0", 1, 1024, "224.0.0.81", 8848, 1)),
    (Daemon("master", "eth0", 1, 65507), Daemon("master", "eth0", 1, 65507, "224.0.0.81", 8848, 1)),
    (Daemon("master", "eth0", group="ff02::81"), Daemon("master", "eth0", 0, 1452, "ff02::81", 8848, 1)),
    (Daemon("backup", "lo", group="ff02::81"), Daemon("backup", "lo", 0, 65487, "ff02::81", 8848, 1)),
    (Daemon("backup", "eth0", 2, group="ff05::1:2"), Daemon("backup", "eth0", 2, 1452, "ff05::1:2", 8848, 1)),
)


def test_every_kind_runs_with_the_defaults_filled_in(host: Host) -> None:
    for asked, running in KINDS:
        must(host, StartDaemon(asked))
        assert host.ipvs.daemons() == [running]
        must(host, StopDaemon(running))
        assert host.ipvs.daemons() == []


def test_both_roles_at_once(host: Host) -> None:
    backup, master = Daemon("backup", "eth1", 2), Daemon("master", "eth0", 1)
    must(host, StartDaemon(backup), StartDaemon(master))
    assert [(daemon.role, daemon.interface) for daemon in host.ipvs.daemons()] == [
        ("master", "eth0"), ("backup", "eth1"),
    ]  # fmt: skip
    # Only the role says which one is to stop.
    must(host, StopDaemon(Daemon("master", "lo", 99)))
    assert [daemon.role for daemon in host.ipvs.daemons()] == ["backup"]


REFUSED: tuple[tuple[IpvsChange, type[IpvsctlError], str], ...] = (
    (StartDaemon(Daemon("master", "eth1", 2)), AlreadyExists, "it runs already"),
    (StartDaemon(Daemon("master", "nosuch0")), NotFound, "there is no such device"),
    (StartDaemon(Daemon("backup", "nosuch0")), NotFound, "there is no such device"),
    (StartDaemon(Daemon("backup", "eth0", group="10.0.0.1")), Refused, "the group is not multicast"),
    (StartDaemon(Daemon("backup", "nosuch0", group="10.0.0.1")), Refused, "the group is not multicast"),
    (StartDaemon(Daemon("backup", "eth0", group="2001:db8::1")), Refused, "the group is not multicast"),
    (StopDaemon(Daemon("backup", "eth0")), NotFound, "it is not running"),
    (AddServer(WEB, server("[2001:db8::2]:80", "tun")), Refused, "tunnel and family do not go together"),
)


@pytest.mark.parametrize(("change", "error", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_refusals_change_nothing(host: Host, change: IpvsChange, error: type[IpvsctlError], words: str) -> None:
    web(host, server("10.0.2.2"))
    must(host, StartDaemon(Daemon("master", "eth0", 1)))
    before = state(host)
    (failure,) = attempt(host, change)
    assert type(failure) is error
    assert str(failure).startswith(f"cannot {change}: ")
    assert words in str(failure)
    assert state(host) == before


def test_loopback_has_no_ipv6_multicast(host: Host) -> None:
    (failure,) = attempt(host, StartDaemon(Daemon("master", "lo", group="ff02::81")))
    assert type(failure) is Refused
    assert str(failure).endswith(": Network is unreachable")
    assert host.ipvs.daemons() == []


def test_no_daemon_beside_a_service_of_two_families(host: Host) -> None:
    other = server("[2001:db8::2]:80", "tun")
    web(host, server("10.0.2.2"), other)
    start = StartDaemon(Daemon("backup", "eth0"))
    (failure,) = attempt(host, start)
    assert type(failure) is Refused
    assert "a service has servers of two families" in str(failure)
    must(host, DeleteServer(WEB, other), start)


def test_a_group_that_is_no_address_is_wrong_usage_and_nothing_is_done(host: Host) -> None:
    web(host)
    with pytest.raises(UsageError):
        host.ipvs.apply([AddServer(WEB, server("10.0.2.2")), StartDaemon(Daemon("master", "eth0", group="nosuch"))])
    assert host.ipvs.service(WEB).servers == ()
    assert host.ipvs.daemons() == []


def test_timeouts(host: Host) -> None:
    assert host.ipvs.timeouts() == DEFAULTS
    for asked, found in (
        (Timeouts(1, 2, 3), Timeouts(1, 2, 3)),
        (Timeouts(0, 0, 0), Timeouts(1, 2, 3)),
        (Timeouts(0, 60, 0), Timeouts(1, 60, 3)),
        (Timeouts(2678400, 2678400, 2678400), Timeouts(2678400, 2678400, 2678400)),
    ):
        must(host, SetTimeouts(asked, DEFAULTS))
        assert host.ipvs.timeouts() == found
    must(host, *SetTimeouts(Timeouts(), DEFAULTS).inverse())
    assert host.ipvs.timeouts() == DEFAULTS


def test_version_and_table(host: Host) -> None:
    info = host.ipvs.info()
    assert info.version == "1.2.1"
    # Kernels whose table grows begin with none.
    assert info.table_size in (4096, 0)
