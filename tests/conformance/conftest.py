"""The hosts that must behave alike: the emulator in process and behind its socket, and the real kernel.

The kernel's tests run in the guest (mark "guest"), each in a network namespace of its own that has the devices of an
emulated director. `KNOWN` lists what is known to differ, with the reason; a difference that is gone fails as well.
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

KNOWN: dict[tuple[str, str], str] = {}
"""(host, test with its parameters but the host's) -> why the two differ."""

DEVICES = "link set lo up\nlink add eth0 type dummy\nlink set eth0 up\nlink add eth1 type dummy\nlink set eth1 up\n"

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or "host" not in callspec.params:
            continue
        kind = callspec.params["host"]
        reason = KNOWN.get((kind, item.name.replace(f"{kind}-", "").replace(f"[{kind}]", "")))
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


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
