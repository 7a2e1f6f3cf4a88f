"""Conntrack entries of a real network namespace, made with conntrack(8) and by real connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ipvsctl.errors import NotFound, NotPermitted, Refused, UsageError
from ipvsctl.kernel.conntrack import PROTOCOLS, KernelConntrack
from ipvsctl.model.status import ConntrackEntry
from tests.kernel.namespaces import as_nobody, fresh_namespace, run


@pytest.fixture
def conntrack() -> Iterator[KernelConntrack]:
    with fresh_namespace():
        yield KernelConntrack()


# conntrack(8)'s arguments, and the entry they make. `timeout` runs, so it is compared apart.
MADE: list[tuple[str, ConntrackEntry]] = [
    (
        "-p tcp -s 10.0.1.2 -d 10.0.9.1 --sport 4000 --dport 80 --state ESTABLISHED -u SEEN_REPLY,ASSURED -m 7 "
        "-r 10.0.2.2 -q 10.0.1.2 --reply-port-src 8080 --reply-port-dst 4000",
        ConntrackEntry(
            "tcp", "10.0.1.2", "10.0.9.1", 4000, 80, "10.0.2.2", "10.0.1.2", 8080, 4000, "ESTABLISHED", 100, 7, "",
            ("seen_reply", "assured", "confirmed"),
        ),
    ),
    (
        "-p udp -s 10.0.1.2 -d 10.0.9.1 --sport 4000 --dport 53",
        ConntrackEntry(
            "udp", "10.0.1.2", "10.0.9.1", 4000, 53, "10.0.9.1", "10.0.1.2", 53, 4000, "", 100, 0, "", ("confirmed",)
        ),
    ),
    (
        "-p sctp -s 10.0.1.2 -d 10.0.9.1 --orig-port-src 4000 --orig-port-dst 36412 --state ESTABLISHED "
        "--orig-vtag 1 --reply-vtag 2",
        ConntrackEntry(
            "sctp", "10.0.1.2", "10.0.9.1", 4000, 36412, "10.0.9.1", "10.0.1.2", 36412, 4000, "ESTABLISHED", 100, 0, "",
            ("confirmed",),
        ),
    ),
    (
        "-p icmp -s 10.0.1.2 -d 10.0.9.1 --icmp-type 8 --icmp-code 0 --icmp-id 77",
        ConntrackEntry(
            "icmp", "10.0.1.2", "10.0.9.1", 77, 8 << 8, "10.0.9.1", "10.0.1.2", 77, 0, "", 100, 0, "", ("confirmed",)
        ),
    ),
    (
        "-p gre -s 10.0.1.2 -d 10.0.9.1 --srckey 1 --dstkey 2",
        ConntrackEntry(
            "gre", "10.0.1.2", "10.0.9.1", 1, 2, "10.0.9.1", "10.0.1.2", 2, 1, "", 100, 0, "", ("confirmed",)
        ),
    ),
    (
        "-p 99 -s 10.0.1.2 -d 10.0.9.1",
        ConntrackEntry(
            "99", "10.0.1.2", "10.0.9.1", 0, 0, "10.0.9.1", "10.0.1.2", 0, 0, "", 100, 0, "", ("confirmed",)
        ),
    ),
    (
        "-p tcp -s 2001:db8::1:2 -d 2001:db8::9 --sport 4000 --dport 80 --state SYN_SENT",
        ConntrackEntry(
            "tcp", "2001:db8::1:2", "2001:db8::9", 4000, 80, "2001:db8::9", "2001:db8::1:2", 80, 4000, "SYN_SENT", 100,
            0, "", ("confirmed",),
        ),
    ),
    (
        "-p icmpv6 -s 2001:db8::2 -d 2001:db8::9 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 9",
        ConntrackEntry(
            "icmpv6", "2001:db8::2", "2001:db8::9", 9, 128 << 8, "2001:db8::9", "2001:db8::2", 9, 129 << 8, "", 100, 0,
            "", ("confirmed",),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "entry"), MADE, ids=[each.protocol + each.state for _, each in MADE])
def test_each_protocol_is_listed_and_deleted(conntrack: KernelConntrack, arguments: str, entry: ConntrackEntry) -> None:
    run(f"conntrack -I -t 100 {arguments}")
    (found,) = conntrack.entries()
    assert 95 < found.timeout <= 100
    assert replace(found, timeout=100) == entry
    conntrack.delete(found)
    assert conntrack.entries() == []


def test_one_is_deleted_and_the_others_stay(conntrack: KernelConntrack) -> None:
    for arguments, _ in MADE:
        run(f"conntrack -I -t 100 {arguments}")
    found = conntrack.entries()
    assert len(found) == len(MADE)
    for entry in found:
        conntrack.delete(entry)
        left = conntrack.entries()
        assert entry not in left and len(left) == len(found) - found.index(entry) - 1
        with pytest.raises(NotFound, match=r"cannot delete the conntrack entry .*: there is no such entry"):
            conntrack.delete(entry)


def test_namespaces_do_not_mix(conntrack: KernelConntrack) -> None:
    run(f"conntrack -I -t 100 {MADE[0][0]}")
    with fresh_namespace():
        assert conntrack.entries() == []
    assert len(conntrack.entries()) == 1


def test_real_connections(conntrack: KernelConntrack) -> None:
    """A helper assigned by a CT target, a state that conntrack found, and NAT seen in the reply direction."""
    run(
        "ip link set lo up; iptables-legacy -t raw -A OUTPUT -p tcp --dport 21 -j CT --helper ftp;"
        "iptables-legacy -t nat -A OUTPUT -d 127.0.0.9 -j DNAT --to-destination 127.0.0.1"
    )
    with socket.create_server(("127.0.0.1", 21)) as server, socket.create_connection(("127.0.0.9", 21)) as client:
        server.accept()[0].close()
        port = client.getsockname()[1]
        (entry,) = conntrack.entries()
        assert (entry.protocol, entry.source, entry.source_port) == ("tcp", "127.0.0.1", port)
        assert (entry.destination, entry.reply_source, entry.destination_port) == ("127.0.0.9", "127.0.0.1", 21)
        assert entry.state in ("ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT") and entry.helper == "ftp"
        assert {"seen_reply", "assured", "confirmed", "dst_nat", "dst_nat_done"} <= set(entry.status)


def test_many_entries_come_in_several_datagrams(conntrack: KernelConntrack) -> None:
    lines = "".join(
        f"-I -t 100 -p udp -s 10.0.{number >> 8}.{number & 255} -d 10.9.9.9 --sport 1 --dport 2\n"
        for number in range(600)
    )
    run("conntrack -R -", lines)
    assert len({entry.source for entry in conntrack.entries()}) == 600


def test_without_root(conntrack: KernelConntrack) -> None:
    run(f"conntrack -I -t 100 {MADE[0][0]}")
    (entry,) = conntrack.entries()
    with as_nobody():
        with pytest.raises(NotPermitted, match="cannot list the conntrack entries: it needs CAP_NET_ADMIN"):
            conntrack.entries()
        with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
            conntrack.delete(entry)
    assert len(conntrack.entries()) == 1


def test_what_cannot_be_an_entry(conntrack: KernelConntrack) -> None:
    run(f"conntrack -I -t 100 {MADE[0][0]}")
    (entry,) = conntrack.entries()
    for change in ({"protocol": "bogus"}, {"protocol": "256"}, {"destination": "2001:db8::1"}):
        with pytest.raises(Refused, match="cannot delete the conntrack entry"):
            conntrack.delete(replace(entry, **change))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        conntrack.delete(replace(entry, source=""))
    assert len(conntrack.entries()) == 1


def test_every_named_protocol_was_met() -> None:
    assert {entry.protocol for _, entry in MADE} >= set(PROTOCOLS.values()) - {"dccp", "udplite"}
