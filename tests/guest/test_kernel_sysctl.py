"""IPVS's own sysctls on a kernel that has them."""

from __future__ import annotations

import pytest

from ipvsctl.errors import NotPermitted, Refused
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.kernel.sysctl import KernelSysctl
from tests.kernel.namespaces import as_nobody, fresh_namespace
from tests.kernel.test_sysctl import (  # noqa: F401
    sysctl,
    test_root_of_an_unprivileged_user_namespace,
    test_what_the_kernel_changes_is_put_back,
    test_what_the_kernel_does_not_take,
)

pytestmark = pytest.mark.guest


def test_ipvs() -> None:
    with fresh_namespace():
        host = KernelSysctl()
        host.check_writable("net.ipv4.vs.conntrack")  # Whether it is there yet, or its module is still to be loaded.
        KernelModules().load("ip_vs")
        names = host.names("net.ipv4.vs.")
        assert {"net.ipv4.vs.conntrack", "net.ipv4.vs.snat_reroute", "net.ipv4.vs.sync_threshold"} <= set(names)
        assert all(host.get(name) is not None for name in names)
        for name in names:
            host.check_writable(name)
            host.set(name, host.get(name) or "")
        host.set("net.ipv4.vs.conntrack", "1")
        with fresh_namespace():
            assert host.get("net.ipv4.vs.conntrack") == "0"
        assert host.get("net.ipv4.vs.conntrack") == "1"


@pytest.mark.parametrize(
    ("name", "value"), [("drop_entry", "7"), ("secure_tcp", "-1"), ("sync_threshold", "5 3"), ("sync_ports", "3")]
)
def test_ipvs_refuses(name: str, value: str) -> None:
    """Some of these the kernel refuses, some it takes for what was there before, without an error."""
    KernelModules().load("ip_vs")
    with fresh_namespace():
        host = KernelSysctl()
        before = host.get(f"net.ipv4.vs.{name}")
        with pytest.raises(Refused, match=f"cannot set net.ipv4.vs.{name} to {value}"):
            host.set(f"net.ipv4.vs.{name}", value)
        assert host.get(f"net.ipv4.vs.{name}") == before


def test_ipvs_modes_that_switch_themselves() -> None:
    KernelModules().load("ip_vs")
    with fresh_namespace():
        host = KernelSysctl()
        for name in ("drop_entry", "drop_packet", "secure_tcp"):
            for value in ("1", "2", "3", "0"):
                host.set(f"net.ipv4.vs.{name}", value)


def test_without_root() -> None:
    KernelModules().load("ip_vs")
    with fresh_namespace(), as_nobody(), pytest.raises(NotPermitted):
        KernelSysctl().set("net.ipv4.vs.conntrack", "1")
