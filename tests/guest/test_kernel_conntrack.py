"""Conntrack entries of connections that IPVS forwards, and a table that is not even there."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator

import pytest

from ipvsctl.kernel.conntrack import KernelConntrack
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.kernel.sysctl import KernelSysctl
from tests.kernel.namespaces import CLONE_NEWNET, fresh_namespace, run
from tests.kernel.test_conntrack import (  # noqa: F401
    conntrack,
    test_each_protocol_is_listed_and_deleted,
    test_one_is_deleted_and_the_others_stay,
    test_without_root,
)

pytestmark = pytest.mark.guest


def test_a_listing_loads_nothing() -> None:
    def loaded() -> set[str]:
        return set(run("cut -d' ' -f1 /proc/modules").split())

    before = loaded()
    with fresh_namespace():
        assert KernelConntrack().entries() == []
    added = loaded() - before
    assert added <= ({"nf_conntrack_netlink", "nfnetlink"} if "nf_conntrack" in before else set())


@pytest.fixture
def server() -> Iterator[str]:
    """A namespace for the real server; its name. The director is the test's own."""
    name = f"ipvsctl-{uuid.uuid4().hex[:8]}"
    run(f"ip netns add {name}")
    try:
        with fresh_namespace():
            run(
                f"ip link add d0 type veth peer name r0 netns {name};"
                "ip address add 10.0.2.1/24 dev d0; ip link set d0 up; ip link set lo up;"
                "ip address add 10.0.9.1/32 dev lo;"
                f"ip -n {name} address add 10.0.2.2/24 dev r0; ip -n {name} link set r0 up;"
                f"ip -n {name} route add default via 10.0.2.1"
            )
            yield name
    finally:
        run(f"ip netns delete {name}")


def inside(name: str) -> socket.socket:
    """A listening socket in another namespace: sockets stay where they were made."""
    import ctypes
    import os

    library = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        assert library.setns(there, CLONE_NEWNET) == 0
        try:
            return socket.create_server(("10.0.2.2", 8080))
        finally:
            assert library.setns(here, CLONE_NEWNET) == 0
    finally:
        os.close(here)
        os.close(there)


def test_a_connection_through_ipvs(server: str) -> None:
    KernelModules().load("ip_vs")
    KernelSysctl().set("net.ipv4.vs.conntrack", "1")
    run(
        "iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT;"
        "ipvsadm -A -t 10.0.9.1:80 -s rr; ipvsadm -a -t 10.0.9.1:80 -r 10.0.2.2:8080 -m"
    )
    with inside(server) as listener, socket.create_connection(("10.0.9.1", 80), timeout=30) as client:
        listener.accept()[0].close()
        port = client.getsockname()[1]
        entries = [entry for entry in KernelConntrack().entries() if entry.source_port == port]
        (entry,) = entries
        assert (entry.protocol, entry.destination, entry.destination_port) == ("tcp", "10.0.9.1", 80)
        assert (entry.reply_source, entry.reply_source_port) == ("10.0.2.2", 8080)
        assert "seen_reply" in entry.status and entry.state and entry.timeout > 0
        KernelConntrack().delete(entry)
        assert entry not in KernelConntrack().entries()
