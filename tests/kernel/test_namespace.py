"""Entering network namespaces and telling them apart."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl.errors import NotFound, NotPermitted, UsageError
from ipvsctl.kernel import namespace
from ipvsctl.kernel.host import KernelHost
from tests.kernel.namespaces import as_nobody, fresh_namespace, run
from tests.needs import need_root


@pytest.fixture
def name() -> Iterator[str]:
    """A named namespace with a sysctl to know it by; this process comes back from it."""
    need_root()
    name = f"ipvsctl-{uuid.uuid4().hex[:8]}"
    run(f"ip netns add {name}; ip netns exec {name} sysctl -qw net.ipv4.ip_default_ttl=77")
    try:
        with fresh_namespace():
            yield name
    finally:
        run(f"ip netns delete {name}")


def ttl() -> str:
    return Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip()


def test_by_name(name: str) -> None:
    namespace.enter(name)
    assert ttl() == "77"


def test_by_path(name: str) -> None:
    namespace.enter(f"/run/netns/{name}")
    assert ttl() == "77"


def test_by_process(name: str) -> None:
    with subprocess.Popen(["ip", "netns", "exec", name, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin and cat.stdout
        # An answer means that it is there, and no longer on its way.
        cat.stdin.write(b"x")
        cat.stdin.flush()
        assert cat.stdout.read(1) == b"x"
        namespace.enter(str(cat.pid))
        assert ttl() == "77"
        cat.stdin.close()


def test_a_host_in_a_namespace(name: str) -> None:
    here = KernelHost.open().identity
    host = KernelHost.open(name)
    assert host.sysctl.get("net.ipv4.ip_default_ttl") == "77"
    assert host.name == "kernel" and host.identity != here
    host.close()


@pytest.mark.parametrize("wrong", ["no-such-namespace", "/no/such/file", "999999999", "/etc/passwd/x"])
def test_unknown(wrong: str) -> None:
    with pytest.raises(NotFound, match="there is no such namespace"):
        namespace.enter(wrong)


@pytest.mark.parametrize("wrong", ["", ".", "..", "a\0b"])
def test_no_name(wrong: str) -> None:
    with pytest.raises(UsageError, match="expected a name, a path or a process's number"):
        namespace.enter(wrong)


def test_no_namespace() -> None:
    need_root()
    for path in ("/etc/passwd", "/proc/self/ns/uts"):
        with pytest.raises(UsageError, match="is not a network namespace"):
            namespace.enter(path)


def test_without_root(name: str) -> None:
    with as_nobody(), pytest.raises(NotPermitted, match="run as root"):
        namespace.enter(name)


def test_identity_is_of_the_namespace_and_lasts() -> None:
    with fresh_namespace():
        first = namespace.identity()
        assert namespace.identity() == first
        with fresh_namespace():
            second = namespace.identity()
        assert namespace.identity() == first
    with fresh_namespace():
        third = namespace.identity()
    assert len({first, second, third, namespace.identity()}) == 4


def test_identity_without_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14 there is no such socket option."""
    monkeypatch.setattr(namespace, "_SO_NETNS_COOKIE", 9999)
    here = namespace.identity()
    assert "-netns-inode-" in here
    with fresh_namespace():
        assert namespace.identity() != here
    assert namespace.identity() == here
