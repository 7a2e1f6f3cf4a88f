"""The application ip_vs_ftp on control connections of nat services."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ipvsctl.datapath.hooks import FORWARD
from ipvsctl.datapath.skb import ACK, SYN, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import NFCT, NO_CPORT, Conn
from ipvsctl.datapath.vs.states_tcp import LISTEN
from ipvsctl.wire.address import packed
from tests.datapath.ipvs_host import (
    CLIENT,
    CLIENT6,
    FORWARD_ROUTE,
    SERVER,
    SERVER6,
    VIRTUAL,
    VIRTUAL6,
    Host,
    attach,
    server,
    tcp_packet,
)

HELPER = SimpleNamespace(timeout=300)


def session(forward: str = "nat", *, loaded: bool = True, port: int = 21) -> tuple[Host, Conn]:
    """A host with an established control connection."""
    host = Host(modules={"ip_vs_ftp"} if loaded else set())
    host.service(f"tcp:{VIRTUAL}:{port}", server(f"{SERVER}:{port}", forward))
    assert host.give(tcp_packet(SYN, dport=port)) is Reason.STOLEN
    assert host.give(tcp_packet(ACK, dport=port)) is Reason.STOLEN
    conn = host.find(tcp_packet(ACK, dport=port))
    assert conn is not None
    return host, conn


def command(host: Host, payload: bytes) -> Reason | None:
    return host.give(tcp_packet(ACK, dport=21, payload=payload))


def reply(payload: bytes) -> Skb:
    return tcp_packet(ACK, SERVER, CLIENT, 21, 40000, payload, indev="eth1", dst=FORWARD_ROUTE)


def data_connections(host: Host, control: Conn) -> list[Conn]:
    return [conn for conn in host.vs.conns if conn is not control]


def test_a_control_connection_uses_conntrack() -> None:
    host, conn = session()
    assert conn.app is host.vs.ftp and conn.flags & NFCT
    host.vs.ftp.ports = frozenset({2121})
    host.give(tcp_packet(SYN, sport=50000, dport=21))
    other = host.find(tcp_packet(ACK, sport=50000, dport=21))
    assert other is not None and other.app is None and not other.flags & NFCT


@pytest.mark.parametrize(("forward", "loaded", "port"), [("dr", True, 21), ("nat", False, 21), ("nat", True, 80)])
def test_others_are_not_bound(forward: str, loaded: bool, port: int) -> None:
    _, conn = session(forward, loaded=loaded, port=port)
    assert conn.app is None and not conn.flags & NFCT


def test_active_mode_expects_the_servers_data_connection() -> None:
    host, control = session()
    assert command(host, b"PORT 10,0,0,2,156,65\r\n") is Reason.STOLEN
    (data,) = data_connections(host, control)
    assert (data.caddr, data.cport) == (packed(CLIENT), 40001)
    assert (data.vaddr, data.vport, data.daddr, data.dport) == (packed(VIRTUAL), 20, packed(SERVER), 20)
    assert (data.state, data.timeout, data.control, data.flags & NFCT) == (LISTEN, 120.0, control, NFCT)
    assert data.expires == host.now + 120 and control.controls == 1
    skb = tcp_packet(SYN, SERVER, CLIENT, 20, 40001, indev="eth1", dst=FORWARD_ROUTE)
    assert host.give_back(skb, FORWARD) is None
    assert (skb.source, skb.sport) == (packed(VIRTUAL), 20)


def test_the_same_command_again_makes_no_second_entry() -> None:
    host, control = session()
    for _ in range(2):
        assert command(host, b"PORT 10,0,0,2,156,65\r\n") is Reason.STOLEN
    assert len(data_connections(host, control)) == 1 and control.controls == 1


def test_extended_active_mode() -> None:
    host, control = session()
    assert command(host, b"EPRT |1|10.0.0.7|50001|\r\n") is Reason.STOLEN
    (data,) = data_connections(host, control)
    assert (data.caddr, data.cport) == (packed("10.0.0.7"), 50001)


def test_passive_mode() -> None:
    host, control = session()
    assert command(host, b"PASV\r\n") is Reason.STOLEN
    text = b"227 Entering Passive Mode (172,16,0,2,195,80).\r\n"
    skb = reply(text)
    attach(host, skb, confirmed=True, ctinfo=3, helper=HELPER)
    assert host.give_back(skb, FORWARD) is None
    assert host.mangled == [(text.index(b"172"), len(b"172,16,0,2,195,80"), b"192,168,1,100,195,80")]
    assert len(host.expected) == 1
    (data,) = data_connections(host, control)
    assert (data.cport, data.vport, data.daddr, data.dport) == (0, 50000, packed(SERVER), 50000)
    assert data.flags & NO_CPORT and data.state == LISTEN and data.control is control
    # The client comes from any port, and its port is known then.
    first = tcp_packet(SYN, sport=41000, dport=50000)
    assert host.give(first) is Reason.STOLEN
    assert (first.destination, first.dport) == (packed(SERVER), 50000)
    assert data.cport == 41000 and not data.flags & NO_CPORT
    assert host.give(tcp_packet(SYN, sport=41001, dport=50000)) is None


def test_a_reply_is_rewritten_once() -> None:
    host, _ = session()
    command(host, b"PASV\r\n")
    for _ in range(2):
        skb = reply(b"227 x (172,16,0,2,195,80)\r\n")
        attach(host, skb, confirmed=True, ctinfo=3)
        assert host.give_back(skb, FORWARD) is None
    assert len(host.mangled) == 1


def test_without_conntrack_a_reply_is_dropped_and_its_retransmission_leaks() -> None:
    host, control = session()
    command(host, b"PASV\r\n")
    text = b"227 x (172,16,0,2,195,80)\r\n"
    assert host.give_back(reply(text), FORWARD) is Reason.IPVS_APPLICATION
    assert len(data_connections(host, control)) == 1
    again = reply(text)
    assert host.give_back(again, FORWARD) is None
    assert again.data.endswith(text)


def test_extended_passive_mode() -> None:
    host, control = session()
    command(host, b"EPSV\r\n")
    text = b"229 Extended (!!!50000!)\r\n"
    skb = reply(text)
    attach(host, skb, confirmed=True, ctinfo=3)
    assert host.give_back(skb, FORWARD) is None
    assert host.mangled == [(text.index(b"!"), len(b"!!!50000!"), b"|||50000|")]
    assert not host.expected  # no helper: conntrack refuses
    (data,) = data_connections(host, control)
    assert (data.vport, data.daddr, data.dport) == (50000, packed(SERVER), 50000)


def test_port_after_pasv_forgets_passive_mode() -> None:
    host, _ = session()
    command(host, b"PASV\r\n")
    command(host, b"PORT 10,0,0,2,156,65\r\n")
    skb = reply(b"227 x (172,16,0,2,195,80)\r\n")
    assert host.give_back(skb, FORWARD) is None
    assert not host.mangled


def test_only_established_sessions_are_read() -> None:
    host, control = session()
    control.state = LISTEN
    host.vs.ftp.incoming(control, tcp_packet(ACK, dport=21, payload=b"PASV\r\n"))
    assert not control.app_data


def test_segments_with_a_wrong_checksum_are_dropped() -> None:
    host, _ = session()
    skb = tcp_packet(ACK, dport=21, payload=b"PASV\r\n")
    skb.data[-1] ^= 1
    assert host.give(skb) is Reason.LOCAL_CHECKSUM
    skb = reply(b"220 hello\r\n")
    skb.data[-1] ^= 1
    assert host.give_back(skb, FORWARD) is Reason.LOCAL_CHECKSUM


def test_ipv6() -> None:
    host = Host(modules={"ip_vs_ftp"})
    host.service(f"tcp:[{VIRTUAL6}]:21", server(f"[{SERVER6}]:21"))
    for flags, payload in ((SYN, b""), (ACK, b""), (ACK, b"EPRT |2|fd10::2|50001|\r\n"), (ACK, b"EPSV 2\r\n")):
        assert host.give(tcp_packet(flags, CLIENT6, VIRTUAL6, dport=21, payload=payload)) is Reason.STOLEN
    control = host.find(tcp_packet(ACK, CLIENT6, VIRTUAL6, dport=21))
    assert control is not None
    (data,) = data_connections(host, control)
    assert (data.caddr, data.cport, data.vport) == (packed(CLIENT6), 50001, 20)
    skb = tcp_packet(
        ACK, SERVER6, CLIENT6, 21, 40000, b"229 x (|||6000|)\r\n", indev="eth1", dst=FORWARD_ROUTE
    )  # fmt: skip
    attach(host, skb, confirmed=True, ctinfo=3)
    assert host.give_back(skb, FORWARD) is None
    assert host.mangled[0][2] == b"|||6000|"
