"""The hook functions of IPVS: gates in the kernel's order, existing connections, scheduling, replies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN, LOCAL_OUT
from ipvsctl.datapath.skb import ACK, FIN, RST, SCTP, SYN, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import NFCT, Conn
from ipvsctl.datapath.vs.states_tcp import CLOSE, ESTABLISHED, FIN_WAIT, SYN_RECV, TIME_WAIT
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import (
    StartDaemon,
    StopDaemon,
)
from ipvsctl.model.status import Daemon
from ipvsctl.wire import sctp, transport
from ipvsctl.wire.address import packed
from tests.datapath.ipvs_host import (
    CLIENT,
    CLIENT6,
    FORWARD_ROUTE,
    OWN,
    SERVER,
    SERVER6,
    VIRTUAL,
    VIRTUAL6,
    Host,
    attach,
    packet,
    server,
    tcp_packet,
    udp_packet,
)

TCP_SERVICE = f"tcp:{VIRTUAL}:80"


def good(skb: Skb) -> bool:
    """Whether every checksum of a packet is right."""
    fresh = Skb(bytearray(skb.data))
    return transport.verify(fresh.data, fresh.family, fresh.protocol, fresh.thoff, fresh.source, fresh.destination)


def opened(host: Host, skb: Skb) -> Conn:
    assert host.give(skb) is Reason.STOLEN
    conns = list(host.vs.conns)
    assert conns
    return conns[-1]


# -- gates ------------------------------------------------------------------------------------------------------------


def test_what_ipvs_has_handled_goes_on() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    skb = tcp_packet(SYN)
    skb.ipvs = True
    assert host.give(skb) is None and not host.sent
    assert host.give_back(skb, FORWARD) is None


@pytest.mark.parametrize(("hook", "taken"), [(LOCAL_IN, False), (LOCAL_OUT, True)])
def test_broadcasts_are_not_for_ipvs_unless_the_host_sends_them(hook: int, taken: bool) -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    skb = tcp_packet(SYN)
    skb.broadcast = True
    assert (host.give(skb, hook) is Reason.STOLEN) == taken


def test_backup_only_needs_a_backup_daemon() -> None:
    host = Host({"backup_only": "1"})
    host.service(TCP_SERVICE, server())
    daemon = Daemon("backup", "eth1")
    assert host.give(tcp_packet(SYN)) is Reason.STOLEN
    host.vs.apply(StartDaemon(daemon))
    assert host.give(tcp_packet(SYN, sport=40001)) is None
    host.vs.apply(StopDaemon(daemon))
    assert host.give(tcp_packet(SYN, sport=40001)) is Reason.STOLEN


@pytest.mark.parametrize(("setting", "marked"), [("0", False), ("1", True)])
def test_ignore_tunneled_marks_what_is_no_protocol_of_ipvs(setting: str, marked: bool) -> None:
    host = Host({"ignore_tunneled": setting})
    host.service(TCP_SERVICE, server())
    skb = packet(b"x" * 20, CLIENT, VIRTUAL, 4)
    assert host.give(skb) is None
    assert skb.ipvs is marked


def test_later_fragments_go_on() -> None:
    host = Host()
    host.service(f"tcp:[{VIRTUAL6}]:80", server(f"[{SERVER6}]:80"))
    skb = tcp_packet(SYN, CLIENT6, VIRTUAL6)
    skb.fragment = 8
    assert host.give(skb) is None


def test_a_packet_without_ports_is_dropped() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    assert host.give(packet(b"ab", CLIENT, VIRTUAL, 6)) is Reason.TRUNCATED
    assert host.give(packet(b"a" * 19, CLIENT, VIRTUAL, 6)) is Reason.TRUNCATED
    assert host.give(packet(b"a" * 7, CLIENT, VIRTUAL, 17)) is Reason.TRUNCATED


# -- requests of nat --------------------------------------------------------------------------------------------------


def test_a_new_connection_is_scheduled_rewritten_and_sent() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    skb = tcp_packet(SYN)
    conn = opened(host, skb)
    assert host.sent == [skb]
    assert (skb.destination, skb.dport, skb.ttl, skb.ipvs, skb.ignore_df) == (packed(SERVER), 8080, 63, True, True)
    assert skb.dst is not None and skb.dst.device == "eth1"
    assert good(skb)
    assert (conn.state, conn.in_packets, conn.timeout) == (SYN_RECV, 1, 60.0)
    assert conn.expires == host.now + 60
    stats = host.vs.report()[0]
    assert (stats.stats.packets_in, stats.stats.bytes_in, stats.stats.connections) == (1, 40, 1)
    assert (stats.servers[0].stats.packets_in, stats.servers[0].active_connections) == (1, 1)


def test_the_next_packet_follows() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(), server(f"{SERVER[:-1]}3:8080"))
    first = tcp_packet(SYN)
    conn = opened(host, first)
    second = tcp_packet(ACK)
    assert host.give(second) is Reason.STOLEN
    assert second.destination == first.destination
    assert (conn.state, conn.in_packets) == (ESTABLISHED, 2)
    assert len(host.vs.conns) == 1


@pytest.mark.parametrize("flags", [ACK, FIN | ACK, RST, SYN | RST])
def test_what_opens_nothing_goes_on(flags: int) -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    assert host.give(tcp_packet(flags)) is None
    assert not len(host.vs.conns)


def test_no_service_wants_it() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    assert host.give(tcp_packet(SYN, dport=81)) is None
    assert not host.errors


def test_udp_zero_checksums_are_computed() -> None:
    """udp_dnat_handler computes a checksum for a datagram without one."""
    host = Host()
    host.service(f"udp:{VIRTUAL}:53", server(f"{SERVER}:53"))
    skb = udp_packet(checksummed=False)
    assert host.give(skb) is Reason.STOLEN
    assert skb.data[skb.thoff + 6 : skb.thoff + 8] != b"\0\0" and good(skb)


def test_sctp_gets_a_new_crc() -> None:
    host = Host()
    host.service(f"sctp:{VIRTUAL}:36412", server(f"{SERVER}:9000"))
    message = sctp.build(40000, 36412, 7, [sctp.chunk(1, 0, b"\0" * 16)])
    skb = packet(message, CLIENT, VIRTUAL, SCTP)
    assert host.give(skb) is Reason.STOLEN
    assert skb.dport == 9000 and sctp.valid(skb.data, skb.thoff)


def test_ipv6_nat() -> None:
    host = Host()
    host.service(f"tcp:[{VIRTUAL6}]:80", server(f"[{SERVER6}]:8080"))
    skb = tcp_packet(SYN, CLIENT6, VIRTUAL6)
    assert host.give(skb) is Reason.STOLEN
    assert (skb.destination, skb.dport, skb.ttl) == (packed(SERVER6), 8080, 63)
    assert good(skb)


def test_one_packet_connections_leave_nothing() -> None:
    host = Host()
    host.service(f"udp:{VIRTUAL}:53", server(f"{SERVER}:53"), flags=("ops",))
    assert host.give(udp_packet()) is Reason.STOLEN
    assert not len(host.vs.conns)
    assert host.vs.report()[0].servers[0].inactive_connections == 0


# -- no server --------------------------------------------------------------------------------------------------------


def test_no_server_is_answered_by_port_unreachable() -> None:
    host = Host()
    host.service(TCP_SERVICE)
    skb = tcp_packet(SYN)
    assert host.give(skb) is Reason.IPVS_NO_DESTINATION
    assert host.errors == [(skb, 3, 3, 0)]


def test_no_server_is_answered_in_ipv6() -> None:
    host = Host()
    host.service(f"tcp:[{VIRTUAL6}]:80", server(f"[{SERVER6}]:80", weight=0))
    skb = tcp_packet(SYN, CLIENT6, VIRTUAL6)
    assert host.give(skb) is Reason.IPVS_NO_DESTINATION
    assert host.errors == [(skb, 1, 4, 0)]


def test_other_ports_of_the_ftp_service_go_on() -> None:
    host = Host()
    host.service(f"tcp:{VIRTUAL}:21", server(f"{SERVER}:21"))
    assert host.give(tcp_packet(SYN, dport=5000)) is None
    assert host.give(tcp_packet(SYN, dport=80)) is None
    assert not host.errors


def test_ftp_data_is_never_scheduled() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    assert host.give(tcp_packet(SYN, sport=20)) is None


def test_cache_bypass_sends_to_the_packets_own_destination() -> None:
    host = Host({"cache_bypass": "1"})
    host.service("fwmark:7")
    skb = tcp_packet(SYN, destination="10.77.0.1")
    skb.mark = 7
    assert host.give(skb) is Reason.STOLEN
    assert skb.destination == packed("10.77.0.1") and skb.ttl == 63
    (conn,) = host.vs.connections()
    assert (conn.server, conn.server_port, conn.flags[0]) == ("0.0.0.0", 0, "bypass")


@pytest.mark.parametrize(("destination", "setting"), [(OWN, "1"), ("10.77.0.1", "0")])
def test_no_bypass_for_local_addresses_or_when_off(destination: str, setting: str) -> None:
    host = Host({"cache_bypass": setting})
    host.service("fwmark:7")
    skb = tcp_packet(SYN, destination=destination)
    skb.mark = 7
    assert host.give(skb) is Reason.IPVS_NO_DESTINATION
    assert len(host.errors) == 1


# -- connections that are over ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "state", "renewed"),
    [
        ("1", TIME_WAIT, True),
        ("1", CLOSE, True),
        ("0", TIME_WAIT, False),
        ("1", ESTABLISHED, False),
        ("1", FIN_WAIT, False),
        ("2", FIN_WAIT, False),  # a nat connection sees its replies
    ],
)
def test_conn_reuse_mode(mode: str, state: int, renewed: bool) -> None:
    host = Host({"conn_reuse_mode": mode})
    host.service(TCP_SERVICE, server())
    conn = opened(host, tcp_packet(SYN))
    conn.state = state
    skb = tcp_packet(SYN)
    assert host.give(skb) is Reason.STOLEN
    assert (host.find(tcp_packet(ACK)) is not conn) == renewed


def test_conn_reuse_mode_2_takes_fin_wait_of_one_way_connections() -> None:
    host = Host({"conn_reuse_mode": "2"})
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "dr"))
    conn = opened(host, tcp_packet(SYN))
    conn.state = FIN_WAIT
    assert host.give(tcp_packet(SYN)) is Reason.STOLEN
    assert host.find(tcp_packet(ACK)) is not conn


@pytest.mark.parametrize(("confirmed", "verdict"), [(True, Reason.IPVS_OLD_CONNTRACK), (False, Reason.STOLEN)])
def test_reuse_waits_for_the_old_conntrack_entry(confirmed: bool, verdict: Reason) -> None:
    host = Host({"conntrack": "1"})
    host.service(TCP_SERVICE, server())
    conn = opened(host, tcp_packet(SYN))
    conn.state = TIME_WAIT
    skb = tcp_packet(SYN)
    attach(host, skb, confirmed=confirmed)
    assert host.give(skb) is verdict
    assert bool(conn.flags & NFCT) == confirmed
    assert conn.expires <= host.now


def test_a_controlling_connection_with_old_conntrack_is_kept() -> None:
    host = Host({"conntrack": "1"})
    host.service(TCP_SERVICE, server())
    conn = opened(host, tcp_packet(SYN))
    conn.state, conn.controls = TIME_WAIT, 1
    skb = tcp_packet(SYN)
    attach(host, skb, confirmed=True)
    assert host.give(skb) is Reason.STOLEN
    assert host.find(tcp_packet(ACK)) is conn


@pytest.mark.parametrize(("setting", "renewed"), [("0", False), ("1", True)])
def test_a_quiesced_server_loses_reopened_connections(setting: str, renewed: bool) -> None:
    host = Host({"expire_nodest_conn": setting})
    address = host.service(TCP_SERVICE, server(), server(f"{SERVER[:-1]}3:8080"))
    conn = opened(host, tcp_packet(SYN))
    assert conn.dest is not None
    host.vs.edit_server(address, replace(conn.dest.server, weight=0))
    again = tcp_packet(SYN)
    assert host.give(again) is Reason.STOLEN
    assert (again.destination != conn.daddr) == renewed


def test_a_deleted_servers_packets_are_dropped() -> None:
    host = Host()
    address = host.service(TCP_SERVICE, server(), server(f"{SERVER[:-1]}3:8080"))
    conn = opened(host, tcp_packet(SYN))
    assert conn.dest is not None
    host.vs.delete_server(address, conn.dest.server.address)
    expires = conn.expires
    host.now += 1
    assert host.give(tcp_packet(ACK)) is Reason.IPVS_SERVER_GONE
    assert conn.expires == expires
    host.settings.write("net.ipv4.vs.expire_nodest_conn", "1")
    assert host.give(tcp_packet(ACK)) is None
    again = tcp_packet(SYN)
    assert host.give(again) is Reason.STOLEN
    assert again.destination != conn.daddr


# -- rare ways


def isakmp(host: Host) -> Conn:
    host.service(f"udp:{VIRTUAL}:500", server(f"{SERVER}:500"), server(f"{SERVER[:-1]}3:500"))
    return opened(host, udp_packet(sport=500, dport=500))


def test_esp_of_a_deleted_server() -> None:
    host = Host()
    conn = isakmp(host)
    assert conn.dest is not None
    address = ServiceAddress.of("udp", VIRTUAL, 500)
    host.vs.delete_server(address, conn.dest.server.address)
    esp = packet(b"x" * 40, CLIENT, VIRTUAL, 50)
    assert host.give(esp) is Reason.IPVS_SERVER_GONE
    host.settings.write("net.ipv4.vs.expire_nodest_conn", "1")
    assert host.give(esp) is None


def test_forward_icmp_lets_all_else_go_on() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    assert host.vs.forward_icmp(packet(b"\x08" + b"x" * 40, CLIENT, SERVER, 1, dst=FORWARD_ROUTE)) is None


@pytest.mark.parametrize(
    ("destination", "bypassed"),
    [
        ("2001:db8::7", True),
        ("fd10::7", True),
        ("fe80::7", True),
        ("::7", True),
        ("ff02::7", False),
        ("::", False),
        ("::ffff:10.0.0.7", False),
        ("e000::7", False),
        ("0100::7", False),
    ],
)
def test_ipv6_addresses_that_are_bypassed(destination: str, bypassed: bool) -> None:
    """ipv6_addr_type: what it calls unicast."""
    host = Host({"cache_bypass": "1"})
    host.service("fwmark:7/inet6")
    skb = tcp_packet(SYN, CLIENT6, destination)
    skb.mark = 7
    host.give(skb)
    assert len(host.vs.conns) == bypassed


@pytest.mark.parametrize(("udp", "kept"), [(True, 0), (False, 1)])
def test_bypass_of_one_packet_services(udp: bool, kept: int) -> None:
    host = Host({"cache_bypass": "1"})
    host.service("fwmark:7", flags=("ops",))
    skb = udp_packet(destination="10.77.0.1") if udp else tcp_packet(SYN, destination="10.77.0.1")
    skb.mark = 7
    assert host.give(skb) is Reason.STOLEN
    conns = list(host.vs.conns)
    assert [conn.in_packets for conn in conns] == [1] * kept
