"""IPVS and conntrack: ip_vs_nfct.c, function by function."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipvsctl.datapath.ct.entry import DYING, Entry, make_tuple
from ipvsctl.datapath.hooks import FORWARD
from ipvsctl.datapath.skb import ACK, SYN, UNTRACKED
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import NFCT, Conn
from ipvsctl.wire.address import packed
from tests.datapath.ipvs_host import (
    CLIENT,
    FORWARD_ROUTE,
    SERVER,
    VIRTUAL,
    Host,
    attach,
    server,
    tcp_packet,
    udp_packet,
)

TCP_SERVICE = f"tcp:{VIRTUAL}:80"


def tracking(forward: str = "nat", **settings: str) -> Host:
    host = Host({"conntrack": "1", **settings})
    host.service(TCP_SERVICE, server(f"{SERVER}:8080", forward))
    return host


def connection(host: Host) -> Conn:
    assert host.give(tcp_packet(SYN)) is Reason.STOLEN
    return next(iter(host.vs.conns))


def test_a_new_nat_connection_alters_the_reply() -> None:
    host = tracking()
    skb = tcp_packet(SYN)
    entry = attach(host, skb)
    assert host.give(skb) is Reason.STOLEN
    assert entry.reply == make_tuple(6, packed(SERVER), packed(CLIENT), 8080, 40000)
    assert entry.original == make_tuple(6, packed(CLIENT), packed(VIRTUAL), 40000, 80)
    assert skb.ct is entry


@pytest.mark.parametrize(
    ("confirmed", "status", "ctinfo"), [(True, 0, 2), (False, DYING, 2), (False, 0, 3), (False, 0, 4)]
)
def test_only_new_entries_in_the_original_direction(confirmed: bool, status: int, ctinfo: int) -> None:
    host = tracking()
    skb = tcp_packet(SYN)
    entry = attach(host, skb, confirmed=confirmed, ctinfo=ctinfo)
    entry.status |= status
    host.give(skb)
    assert not host.altered and skb.ct is entry


def test_a_one_packet_connection_alters_nothing() -> None:
    host = Host({"conntrack": "1"})
    host.service(f"udp:{VIRTUAL}:53", server(f"{SERVER}:53"), flags=("ops",))
    skb = udp_packet()
    attach(host, skb)
    host.give(skb)
    assert not host.altered


def test_a_flow_that_the_server_opens_gets_the_virtual_address() -> None:
    host = tracking()
    connection(host)
    skb = tcp_packet(SYN | ACK, SERVER, CLIENT, 8080, 40000, dst=FORWARD_ROUTE)
    entry = attach(host, skb)
    assert host.give_back(skb, FORWARD) is None
    assert entry.reply == make_tuple(6, packed(CLIENT), packed(VIRTUAL), 40000, 80)


def test_without_the_flag_replies_are_untracked() -> None:
    host = tracking(conntrack="0")
    connection(host)
    skb = tcp_packet(SYN | ACK, SERVER, CLIENT, 8080, 40000, dst=FORWARD_ROUTE)
    attach(host, skb)
    assert host.give_back(skb, FORWARD) is None
    assert (skb.ct, skb.ctinfo) == (None, UNTRACKED)


def test_dr_replies_with_the_flag_stay_tracked() -> None:
    host = tracking("dr")
    connection(host)
    skb = tcp_packet(SYN | ACK, VIRTUAL, CLIENT, 80, 40000, dst=FORWARD_ROUTE)
    entry = attach(host, skb)
    assert host.give_back(skb, FORWARD) is None
    assert skb.ct is entry and not host.altered


def test_the_conntrack_entry_ends_with_the_connection() -> None:
    host = tracking()
    conn = connection(host)
    key = make_tuple(6, packed(CLIENT), packed(VIRTUAL), 40000, 80)
    entry = Entry(cast(Any, host.ct), key, b"")
    host.entries[key] = entry
    host.now = conn.expires + 1
    host.vs.conns.expire(conn, host.now)
    assert host.killed == [entry]


def test_without_the_flag_it_does_not() -> None:
    host = tracking()
    conn = connection(host)
    key = make_tuple(6, packed(CLIENT), packed(VIRTUAL), 40000, 80)
    host.entries[key] = Entry(cast(Any, host.ct), key, b"")
    conn.flags &= ~NFCT
    host.vs.conns.expire(conn, conn.expires + 1)
    assert not host.killed


def test_an_unknown_client_port_is_not_looked_for() -> None:
    host = tracking()
    conn = connection(host)
    conn.cport = 0
    host.vs.drop_conntrack(conn)
    assert not host.killed


@pytest.mark.parametrize("helper", [None, SimpleNamespace(timeout=300)])
def test_expect_related(helper: SimpleNamespace | None) -> None:
    host = tracking()
    conn = connection(host)
    skb = tcp_packet(ACK)
    master = attach(host, skb, helper=helper)
    assert host.vs.nfct.expect_related(master, conn) is (helper is not None)
    if helper is not None:
        ((match, others),) = host.expected
        assert match == make_tuple(6, packed(CLIENT), packed(VIRTUAL), 0, 80)
        assert others["timeout"] == 300.0


def test_an_expected_connection_from_the_client() -> None:
    host = tracking()
    conn = connection(host)
    skb = tcp_packet(SYN)
    entry = attach(host, skb)
    host.now += 5
    host.vs.nfct.expected(entry)
    assert entry.reply == make_tuple(6, packed(SERVER), packed(CLIENT), 8080, 40000)
    assert conn.expires == host.now + conn.timeout


def test_an_expected_connection_from_the_server() -> None:
    host = tracking()
    connection(host)
    skb = tcp_packet(SYN, SERVER, CLIENT, 8080, 40000)
    entry = attach(host, skb)
    host.vs.nfct.expected(entry)
    assert entry.reply == make_tuple(6, packed(CLIENT), packed(VIRTUAL), 40000, 80)


def test_an_expected_connection_that_ipvs_does_not_know() -> None:
    host = tracking()
    skb = tcp_packet(SYN)
    host.vs.nfct.expected(attach(host, skb))
    assert not host.altered


@pytest.mark.parametrize(("port", "forward", "used"), [(21, "nat", 1), (21, "dr", 0), (80, "nat", 0)])
def test_nat_of_port_21_uses_conntrack(port: int, forward: str, used: int) -> None:
    host = Host()
    address = host.service(f"tcp:{VIRTUAL}:{port}", server(f"{SERVER}:{port}", forward))
    assert host.used == used
    host.vs.delete_service(address)
    assert host.used == 0
