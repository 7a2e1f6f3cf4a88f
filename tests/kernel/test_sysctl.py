"""Sysctls of a real network namespace: what is read, what is refused and why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl.errors import NotFound, NotPermitted, Refused, Unavailable, UsageError
from ipvsctl.kernel.sysctl import KernelSysctl
from tests.kernel.namespaces import as_nobody, fresh_namespace, run
from tests.needs import need_root

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sysctl() -> Iterator[KernelSysctl]:
    with fresh_namespace():
        yield KernelSysctl()


def test_values_belong_to_the_namespace(sysctl: KernelSysctl) -> None:
    sysctl.set("net.ipv4.conf.all.accept_local", "1")
    assert sysctl.get("net.ipv4.conf.all.accept_local") == "1"
    with fresh_namespace():
        assert sysctl.get("net.ipv4.conf.all.accept_local") == "0"
    assert sysctl.get("net.ipv4.conf.all.accept_local") == "1"


def test_tabs_become_blanks(sysctl: KernelSysctl) -> None:
    sysctl.set("net.ipv4.ip_local_port_range", "20000   30000")
    assert sysctl.get("net.ipv4.ip_local_port_range") == "20000 30000"


def test_a_dot_in_a_device_name(sysctl: KernelSysctl) -> None:
    run("ip link add name v0.100 type veth peer name v1")
    sysctl.set("net.ipv4.conf.v0/100.accept_local", "1")
    assert run("cat /proc/sys/net/ipv4/conf/v0.100/accept_local") == "1\n"
    assert "net.ipv4.conf.v0/100.accept_local" in sysctl.names("net.ipv4.conf.")


def test_absent_is_none_and_cannot_be_set(sysctl: KernelSysctl) -> None:
    for name in ("net.ipv4.no_such", "net.ipv4", "net.ipv4.conf.nodev.rp_filter", "net.ipv4.ip_forward.deeper"):
        assert sysctl.get(name) is None
        with pytest.raises(NotFound, match="no such sysctl"):
            sysctl.set(name, "1")


@pytest.mark.parametrize("name", ["", "..", "net..ipv4", "net.ipv4.", ".net", "net.//.x", "net./.x", "a\0b", "../x"])
def test_names_that_leave_the_tree(name: str) -> None:
    sysctl = KernelSysctl()
    for call in (sysctl.get, sysctl.check_writable, lambda name: sysctl.set(name, "1")):
        with pytest.raises(UsageError, match="is not a sysctl"):
            call(name)


@pytest.mark.parametrize(
    ("name", "value"), [("net.ipv4.ip_forward", "yes"), ("net.ipv4.ip_default_ttl", "999"), ("net.ipv4.ip_forward", "")]
)
def test_what_the_kernel_does_not_take(sysctl: KernelSysctl, name: str, value: str) -> None:
    before = sysctl.get(name)
    if not value:
        # proc_dointvec takes a line without a number for no change at all.
        with pytest.raises(Refused):
            sysctl.set(name, value)
    else:
        with pytest.raises(Refused, match=f"cannot set {name} to {value}: .*{value}"):
            sysctl.set(name, value)
    assert sysctl.get(name) == before


def test_what_the_kernel_changes_is_put_back(sysctl: KernelSysctl) -> None:
    sysctl.set("net.ipv4.ip_local_reserved_ports", "8080")
    with pytest.raises(Refused, match="would make 1-3 of it"):
        sysctl.set("net.ipv4.ip_local_reserved_ports", "1,2,3")
    assert sysctl.get("net.ipv4.ip_local_reserved_ports") == "8080"
    sysctl.set("net.ipv4.ip_local_reserved_ports", "")
    assert sysctl.get("net.ipv4.ip_local_reserved_ports") == ""


def test_numbers_are_compared_as_numbers(sysctl: KernelSysctl) -> None:
    sysctl.set("net.ipv4.ip_default_ttl", "0x20")
    assert sysctl.get("net.ipv4.ip_default_ttl") == "32"
    sysctl.set("net.ipv4.ip_local_port_range", "20000 30000")
    sysctl.set("net.ipv4.ip_local_port_range", "21000")
    assert sysctl.get("net.ipv4.ip_local_port_range") == "21000 30000"


def test_a_value_is_not_a_path_nor_a_second_line(sysctl: KernelSysctl) -> None:
    with pytest.raises(UsageError):
        sysctl.set("net.ipv4.ip_forward", "1\0")
    with pytest.raises(Refused):
        sysctl.set("net.ipv4.ip_forward", "1\n0")
    assert sysctl.get("net.ipv4.ip_forward") == "0"


def test_write_only(sysctl: KernelSysctl) -> None:
    sysctl.set("net.ipv4.route.flush", "1")
    sysctl.check_writable("net.ipv4.route.flush")


def test_without_root(sysctl: KernelSysctl) -> None:
    with as_nobody():
        assert sysctl.get("net.ipv4.ip_forward") == "0"
        with pytest.raises(NotPermitted, match="takes root"):
            sysctl.set("net.ipv4.ip_forward", "1")
        for name in ("net.ipv4.ip_forward", "net.ipv4.vs.not_there_yet"):
            with pytest.raises(NotPermitted, match="takes root"):
                sysctl.check_writable(name)


def test_what_even_root_may_not(sysctl: KernelSysctl) -> None:
    with pytest.raises(NotPermitted, match="even root"):
        sysctl.set("net.netfilter.nf_conntrack_count", "1")
    with pytest.raises(NotPermitted, match="even root"):
        sysctl.check_writable("net.netfilter.nf_conntrack_count")


def test_check_writable_is_quiet_where_set_works(sysctl: KernelSysctl) -> None:
    sysctl.check_writable("net.ipv4.ip_forward")
    sysctl.check_writable("net.ipv4.vs.not_there_yet")


def inside(wrapper: list[str], code: str) -> str:
    """What a program prints under a wrapper, in namespaces this process must not enter itself."""
    start = "from ipvsctl.errors import *\nfrom ipvsctl.kernel.sysctl import KernelSysctl\nsysctl = KernelSysctl()\n"
    result = subprocess.run([*wrapper, sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


REFUSED = """
for name in ("net.ipv4.ip_forward", "net.ipv4.vs.not_there_yet"):
    for call in (sysctl.check_writable, lambda name: sysctl.set(name, "1")):
        try:
            call(name)
            print("done")
        except IpvsctlError as error:
            print(type(error).__name__, error)
"""


def test_read_only_mount() -> None:
    need_root()
    mount = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    lines = inside(["unshare", "-mn", "sh", "-ec", mount, "sh"], REFUSED).splitlines()
    assert [line.split()[0] for line in lines] == ["Unavailable", "Unavailable", "Unavailable", "NotFound"]
    assert all("read-only here" in line for line in lines[:3])


def test_root_of_an_unprivileged_user_namespace() -> None:
    need_root()
    lines = inside(["unshare", "-rn"], REFUSED).splitlines()
    assert lines[:2] == ["done", "done"]  # The namespace's own sysctls are its root's.
    assert "NotPermitted" in lines[2] and "unprivileged user namespace" in lines[2]
    assert lines[3].startswith("NotFound")


def test_names(sysctl: KernelSysctl) -> None:
    names = sysctl.names("net.ipv4.tcp_rmem")
    assert names == ["net.ipv4.tcp_rmem"]
    assert sysctl.names("net.ipv4.conf.lo.acc") == [
        "net.ipv4.conf.lo.accept_local", "net.ipv4.conf.lo.accept_redirects", "net.ipv4.conf.lo.accept_source_route",
    ]  # fmt: skip
    everything = sysctl.names("net.ipv4")
    assert everything == sorted(everything) and "net.ipv4.conf.all.rp_filter" in everything
    assert sysctl.names("net.no.such.") == [] and sysctl.names("net.no.such") == []
    assert all(sysctl.get(name) is not None for name in sysctl.names("net.ipv4.conf.all."))


def test_other_errors_are_words_too() -> None:
    with pytest.raises(Unavailable, match="cannot set net_x"):
        KernelSysctl(Path("/nonexistent/root")).check_writable("net_x")
