"""The hosts that must behave alike: the emulator in process and behind its socket, and the real kernel.

The kernel's tests run in the guest (mark "guest"), each in a network namespace of its own that has the devices of an
emulated director. The emulated kernel is 6.1: `KNOWN` lists where a host differs from what the tests say, with the
reason; a difference that is gone fails as well.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipvsctl.emulator.client import RemoteHost, stop
from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.host import Host
from ipvsctl.model.change import StopDaemon

KNOWN: dict[str, dict[str, str]] = {
    "emulator": {},
    "emulator-socket": {},
    "kernel 6.1": {},
    "kernel 5.10": {
        "test_modules_come_when_they_are_needed": "asking for the netlink family loads ip_vs since 5.16",
        "test_only_unicast_addresses_are_servers": "the lowest address of a network was its broadcast until 5.14",
        "test_names_and_defaults": "nf_conntrack_events is 0 or 1 until 5.19",
        "test_ranges": "nf_conntrack_events is 0 or 1 until 5.19",
        "test_refused_values_change_nothing": "conntrack's switches are signed until 5.13",
    },
    "kernel 7.3": {
        "test_default_is_one_for_devices_that_were_never_set": "route_localnet is copied as well",
    },
}
"""Host, and for the kernel its version -> test function -> why it fails there."""

DEVICES = "link set lo up\nlink add eth0 type dummy\nlink set eth0 up\nlink add eth1 type dummy\nlink set eth1 up\n"

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


RELEASE = ".".join(os.uname().release.split(".")[:2])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        host: str = item.callspec.params.get("host", "") if hasattr(item, "callspec") else ""
        known = KNOWN.get(f"kernel {RELEASE}" if host == "kernel" else host, {})
        name = getattr(item, "originalname", "")
        if name in known:
            item.add_marker(pytest.mark.xfail(reason=known[name], strict=True))


@pytest.fixture(params=["emulator", "emulator-socket", pytest.param("kernel", marks=pytest.mark.guest)])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A director in which nothing was done yet."""
    if request.param == "emulator":
        yield EmulatedHost("conformance")
    elif request.param == "emulator-socket":
        monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(tmp_path))
        remote = RemoteHost.connect("conformance")
        yield remote
        remote.close()
        stop("conformance")
    else:
        with kernel() as real:
            yield real


@contextmanager
def kernel() -> Iterator[Host]:
    """The kernel, in a namespace of this test's own."""
    from ipvsctl.kernel.host import KernelHost

    if RELEASE == "5.10":
        # Its netlink family has no alias that would load it (5.16).
        subprocess.run(["modprobe", "ip_vs"], check=True)
    with namespace():
        real = KernelHost.open(None)
        yield real
        for daemon in real.ipvs.daemons():
            real.ipvs.apply([StopDaemon(daemon)])
        real.close()


@contextmanager
def namespace() -> Iterator[None]:
    """A network namespace with the devices lo, eth0 and eth1; the one that we were in comes back."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert _libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["ip", "-batch", "-"], input=DEVICES, text=True, check=True)
        yield
    finally:
        assert _libc.setns(before, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(before)
