"""The transmitters: route, boundary, TTL, MTU, and what each method makes of a packet (ip_vs_xmit.c)."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.fib import Dst
from ipvsctl.datapath.hooks import LOCAL_OUT
from ipvsctl.datapath.skb import ACK, NONE, SYN, UNTRACKED, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.way import MIN_PMTU, MTU_EXPIRES
from ipvsctl.model.service import Tunnel
from ipvsctl.wire import transport, tunnel
from ipvsctl.wire.address import packed
from tests.datapath.ipvs_host import (
    CLIENT,
    CLIENT6,
    FORWARD_ROUTE,
    LOCAL_ROUTE,
    OWN,
    OWN6,
    SERVER,
    SERVER6,
    VIRTUAL,
    VIRTUAL6,
    Host,
    attach,
    server,
    tcp_packet,
    udp_packet,
)

TCP_SERVICE = f"tcp:{VIRTUAL}:80"
TCP_SERVICE6 = f"tcp:[{VIRTUAL6}]:80"


def tunneled(host: Host, skb: Skb) -> Skb:
    assert host.give(skb) is Reason.STOLEN
    (outer,) = host.sent
    return outer


# -- route, TTL, MTU --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", ["nat", "dr", "tun"])
@pytest.mark.parametrize("ttl", [1, 0])
def test_ttl_runs_out(forward: str, ttl: int) -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", forward))
    skb = tcp_packet(SYN, ttl=ttl)
    assert host.give(skb) is Reason.TTL
    assert host.errors == [(skb, 11, 0, 0)]
    assert skb.destination == packed(VIRTUAL)


def test_hop_limit_runs_out() -> None:
    host = Host()
    host.service(TCP_SERVICE6, server(f"[{SERVER6}]:80"))
    skb = tcp_packet(SYN, CLIENT6, VIRTUAL6, ttl=1)
    assert host.give(skb) is Reason.TTL
    assert host.errors == [(skb, 3, 0, 0)]


@pytest.mark.parametrize(
    ("forward", "kind", "mtu"),
    [
        ("nat", None, 600),
        ("dr", None, 600),
        ("tun", None, 580),
        ("tun", Tunnel("gre"), 576),
        ("tun", Tunnel("gre", csum="yes"), 572),
        ("tun", Tunnel("gue", 6080), 568),
        ("tun", Tunnel("gue", 6080, "yes"), 568),
        ("tun", Tunnel("gue", 6080, "remote"), 568),
    ],
)
def test_mtu(forward: str, kind: Tunnel | None, mtu: int) -> None:
    host = Host()
    host.mtu = 600
    host.service(TCP_SERVICE, server(f"{SERVER}:80", forward, kind))
    fits = tcp_packet(SYN, payload=b"x" * (mtu - 40), df=True)
    assert host.give(fits) is Reason.STOLEN
    skb = tcp_packet(ACK, payload=b"x" * (mtu - 39), df=True)
    assert host.give(skb) is Reason.TOO_BIG
    assert host.errors == [(skb, 3, 4, mtu)]
    assert host.give(tcp_packet(ACK, payload=b"x" * (mtu - 39))) is Reason.STOLEN


def test_mtu_of_ipv6() -> None:
    host = Host()
    host.mtu = 1400
    host.service(TCP_SERVICE6, server(f"[{SERVER6}]:80"))
    skb = tcp_packet(SYN, CLIENT6, VIRTUAL6, payload=b"x" * 1341)
    assert host.give(skb) is Reason.TOO_BIG
    assert host.errors == [(skb, 2, 0, 1400)]
    whole = tcp_packet(SYN, CLIENT6, VIRTUAL6, payload=b"x" * 2000)
    whole.fragment_max = 1400
    assert host.give(whole) is Reason.STOLEN


def test_without_pmtu_disc_a_tunnel_fragments() -> None:
    host = Host({"pmtu_disc": "0"})
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun"))
    outer = tunneled(host, tcp_packet(SYN, payload=b"x" * 1460, df=True))
    assert not host.errors
    assert outer.data[6] & 0x40 == 0
    assert outer.data[4:6] == b"\x12\x34"


@pytest.mark.parametrize(("mtu", "verdict"), [(87, Reason.IPVS_NO_ROUTE), (88, Reason.STOLEN)])
def test_a_tunnel_with_less_than_68_bytes(mtu: int, verdict: Reason) -> None:
    host = Host()
    host.mtu = mtu
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun"))
    assert host.give(tcp_packet(SYN)) is verdict
    assert not host.errors


@pytest.mark.parametrize("forward", ["nat", "dr", "tun"])
def test_no_route_to_the_server(forward: str) -> None:
    host = Host()
    host.service(TCP_SERVICE, server("203.0.113.1:80", forward))
    skb = tcp_packet(SYN)
    assert host.give(skb) is Reason.IPVS_NO_ROUTE
    assert host.errors == [(skb, 3, 1, 0)]


def test_no_route_in_ipv6() -> None:
    host = Host()
    host.service(TCP_SERVICE6, server("[2001:db8::1]:80"))
    skb = tcp_packet(SYN, CLIENT6, VIRTUAL6)
    assert host.give(skb) is Reason.IPVS_NO_ROUTE
    assert host.errors == [(skb, 1, 3, 0)]


# -- the local boundary -----------------------------------------------------------------------------------------------


def test_nat_to_a_local_server_goes_on_rewritten() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{OWN}:8080"))
    skb = tcp_packet(SYN)
    assert host.give(skb) is None
    assert (skb.destination, skb.dport, skb.ttl, skb.ipvs) == (packed(OWN), 8080, 64, True)
    assert skb.dst is LOCAL_ROUTE and not host.sent


@pytest.mark.parametrize("forward", ["dr", "tun", "local"])
def test_other_methods_to_a_local_server_go_on_unchanged(forward: str) -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{OWN}:80", forward))
    skb = tcp_packet(SYN)
    before = bytes(skb.data)
    assert host.give(skb) is None
    assert bytes(skb.data) == before and skb.ipvs


@pytest.mark.parametrize(("forward", "verdict"), [("nat", None), ("dr", Reason.IPVS_CROSSES_LOCAL)])
def test_only_nat_may_make_a_foreign_packet_local(forward: str, verdict: Reason | None) -> None:
    host = Host()
    host.service("fwmark:3", server(f"{OWN}:80", forward))
    skb = tcp_packet(SYN, destination="10.77.0.1", dst=Dst("unicast", "eth0"))
    skb.mark = 3
    assert host.give(skb, LOCAL_OUT) is verdict


@pytest.mark.parametrize(("source", "verdict"), [("127.0.0.1", Reason.LOOPBACK_SOURCE), (CLIENT, Reason.STOLEN)])
def test_a_loopback_source_does_not_leave(source: str, verdict: Reason) -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    assert host.give(tcp_packet(SYN, source, indev="")) is verdict


@pytest.mark.parametrize(("came_in", "verdict"), [(True, Reason.IPVS_CROSSES_LOCAL), (False, None)])
def test_a_loopback_server_is_for_local_clients(came_in: bool, verdict: Reason | None) -> None:
    host = Host()
    host.service(TCP_SERVICE, server("127.0.0.1:8080"))
    skb = tcp_packet(SYN, indev="eth0" if came_in else "", dst=Dst("local", "lo", input=came_in))
    assert host.give(skb, 1 if came_in else LOCAL_OUT) is verdict


def test_a_loopback_server_of_ipv6() -> None:
    host = Host()
    host.service(TCP_SERVICE6, server("[::1]:8080"))
    assert host.give(tcp_packet(SYN, CLIENT6, VIRTUAL6)) is Reason.IPVS_CROSSES_LOCAL
    assert host.give(tcp_packet(SYN, CLIENT6, VIRTUAL6, sport=2, indev="lo")) is None


# -- dr ---------------------------------------------------------------------------------------------------------------


def test_dr_changes_the_next_hop_alone() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "dr"))
    skb = tcp_packet(SYN)
    assert host.give(skb) is Reason.STOLEN
    assert host.sent == [skb]
    assert (skb.destination, skb.dport, skb.ttl) == (packed(VIRTUAL), 80, 63)
    assert skb.dst is not None
    assert (skb.dst.device, skb.dst.gateway) == ("eth1", packed(SERVER))
    assert transport.verify(skb.data, skb.family, 6, skb.thoff, skb.source, skb.destination)


def test_dr_behind_a_router_keeps_the_router() -> None:
    host = Host()
    host.service(TCP_SERVICE, server("10.1.0.1:80", "dr"))
    skb = tcp_packet(SYN)
    assert host.give(skb) is Reason.STOLEN
    assert skb.dst is not None and skb.dst.gateway == packed("10.9.9.9")


# -- tun --------------------------------------------------------------------------------------------------------------


def test_ipip() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun"))
    skb = tcp_packet(SYN, tos=0xB9, ttl=9, df=True)
    inner = bytearray(skb.data)
    outer = tunneled(host, skb)
    data = outer.data
    assert (outer.source, outer.destination, outer.protocol, outer.ttl) == (packed(OWN), packed(SERVER), 4, 8)
    assert data[1] == 0xB9
    assert data[6] & 0x40 and data[4:6] == b"\0\0"
    at = tunnel.decapsulate(data)
    assert at == 20
    inner[8] = 8
    assert data[20:30] == inner[:10] and data[32:] == inner[12:]
    assert outer.dst is not None and outer.dst.device == "eth1"


@pytest.mark.parametrize(("tos", "outer_tos"), [(0, 0), (1, 1), (2, 2), (3, 2), (0x2F, 0x2E)])
def test_ecn(tos: int, outer_tos: int) -> None:
    """INET_ECN_encapsulate: a packet that met congestion is ECT(0) outside."""
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun"))
    outer = tunneled(host, tcp_packet(SYN, tos=tos))
    assert outer.data[1] == outer_tos
    assert outer.data[4:6] == b"\x12\x34"


@pytest.mark.parametrize(("csum", "length"), [("no", 4), ("yes", 8)])
def test_gre(csum: str, length: int) -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun", Tunnel("gre", csum=csum)))
    outer = tunneled(host, tcp_packet(SYN))
    assert outer.protocol == 47
    assert outer.data[20:24] == bytes((0x80 if length == 8 else 0, 0, 8, 0))
    assert tunnel.decapsulate(outer.data) == 20 + length


@pytest.mark.parametrize("csum", ["no", "yes", "remote"])
def test_gue(csum: str) -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun", Tunnel("gue", 6080, csum)))
    outer = tunneled(host, tcp_packet(SYN))
    assert (outer.protocol, outer.dport) == (17, 6080)
    assert 32768 <= outer.sport < 60999
    assert outer.data[28:32] == b"\0\x04\0\0"
    assert (outer.data[26:28] != b"\0\0") == (csum != "no")
    assert transport.verify(outer.data, outer.family, 17, 20, outer.source, outer.destination)
    first = outer.sport
    host.sent.clear()
    assert tunneled(host, tcp_packet(ACK)).sport == first


def test_gue_leaves_the_checksum_of_local_clients_to_the_receiver() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun", Tunnel("gue", 6080, "remote")))
    skb = tcp_packet(SYN, OWN, indev="")
    skb.own = True
    assert host.give(skb, LOCAL_OUT) is Reason.STOLEN
    (outer,) = host.sent
    # Length 2 (in words), IPv4, private flags; remote checksum offload from 20 into 36.
    assert outer.data[28:40] == b"\x02\x04\0\x01\x80\0\0\0\0\x14\0\x24"
    inner = Skb(bytearray(outer.data[40:]))
    assert not transport.verify(inner.data, 2, 6, 20, inner.source, inner.destination)


@pytest.mark.parametrize(
    ("service", "target", "client", "virtual", "protocol", "source"),
    [
        (TCP_SERVICE, f"[{SERVER6}]:80", CLIENT, VIRTUAL, 4, OWN6),
        (TCP_SERVICE6, f"{SERVER}:80", CLIENT6, VIRTUAL6, 41, OWN),
        (TCP_SERVICE6, f"[{SERVER6}]:80", CLIENT6, VIRTUAL6, 41, OWN6),
    ],
)
def test_tunnels_of_mixed_families(
    service: str, target: str, client: str, virtual: str, protocol: int, source: str
) -> None:
    host = Host()
    host.service(service, server(target, "tun"))
    outer = tunneled(host, tcp_packet(SYN, client, virtual, ttl=33))
    assert (outer.protocol, outer.source, outer.ttl) == (protocol, packed(source), 32)
    at = tunnel.decapsulate(outer.data)
    assert at is not None
    assert Skb(bytearray(outer.data[at:])).destination == packed(virtual)


@pytest.mark.parametrize(("setting", "confirmed"), [("0", False), ("1", True)])
def test_a_tunnel_confirms_and_forgets_the_conntrack_entry(setting: str, confirmed: bool) -> None:
    host = Host({"conntrack": setting})
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "tun"))
    skb = tcp_packet(SYN)
    entry = attach(host, skb)
    outer = tunneled(host, skb)
    assert entry.confirmed is confirmed
    assert outer.ct is None and outer.ctinfo == NONE and outer.ipvs


# -- conntrack of the others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", ["nat", "dr"])
def test_without_nfct_the_packet_is_untracked(forward: str) -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", forward))
    skb = tcp_packet(SYN)
    attach(host, skb)
    assert host.give(skb) is Reason.STOLEN
    assert skb.ct is None and skb.ctinfo == UNTRACKED
    invalid = tcp_packet(ACK)
    assert host.give(invalid) is Reason.STOLEN
    assert invalid.ctinfo == NONE


def test_dr_with_nfct_leaves_the_entry_alone() -> None:
    host = Host({"conntrack": "1"})
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "dr"))
    skb = tcp_packet(SYN)
    entry = attach(host, skb)
    assert host.give(skb) is Reason.STOLEN
    assert skb.ct is entry and not host.altered


# -- path MTU ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("told", "known"), [(1400, 1400), (100, MIN_PMTU), (1600, 1500)])
def test_path_mtu_is_learned_and_forgotten(told: int, known: int) -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    ways = host.vs.transmit.ways
    host.give(tcp_packet(SYN))
    dest = next(iter(host.vs.conns)).dest
    ways.update_pmtu(packed(SERVER), told)
    dst = ways.to(dest, packed(SERVER))
    assert dst is not None and dst.mtu == known
    host.now += 601
    dst = ways.to(dest, packed(SERVER))
    assert dst is not None and dst.mtu == 1500


def test_a_route_to_a_next_hop_alone_does_not_get_stale() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(forward="dr"))
    host.give(tcp_packet(SYN))
    ways, dest = host.vs.transmit.ways, next(iter(host.vs.conns)).dest
    ways.update_pmtu(packed(SERVER), 1400)
    dst = ways.to(dest, packed(SERVER), True)
    assert dst is not None and dst.mtu == 1500
    assert host.learned == [(packed(SERVER), 1400, False, host.now + MTU_EXPIRES)]


def test_routes_are_kept() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    host.give(tcp_packet(SYN))
    host.mtu = 1000
    skb = tcp_packet(ACK)
    host.give(skb)
    assert skb.dst is not None and skb.dst.mtu == 1500
    host.vs.transmit.ways.forget()
    skb = tcp_packet(ACK)
    host.give(skb)
    assert skb.dst is not None and skb.dst.mtu == 1000


def test_a_server_edited_from_nat_to_dr_keeps_one_route_for_both() -> None:
    host = Host()
    service = host.service(TCP_SERVICE, server(f"{SERVER}:80"))
    host.give(tcp_packet(SYN))
    for first, hop in ((ACK, b""), (SYN, packed(SERVER))):
        host.vs.edit_server(service, server(f"{SERVER}:80", "dr"))
        if first == ACK:
            host.give(tcp_packet(ACK))
        skb = tcp_packet(SYN, sport=50000)
        host.give(skb)
        assert skb.destination == packed(VIRTUAL)
        assert skb.dst is not None and skb.dst.gateway == hop


def test_udp_by_dr_in_ipv6() -> None:
    host = Host()
    host.service(f"udp:[{VIRTUAL6}]:53", server(f"[{SERVER6}]:53", "dr"))
    skb = udp_packet(CLIENT6, VIRTUAL6)
    assert host.give(skb) is Reason.STOLEN
    assert skb.dst is not None and skb.dst.gateway == packed(SERVER6)
    assert skb.ttl == 63


def test_a_forwarded_packet_of_a_mark_keeps_its_way() -> None:
    host = Host()
    host.service("fwmark:3", server(f"{SERVER}:80", "dr"))
    skb = tcp_packet(SYN, destination="10.77.0.1", dst=FORWARD_ROUTE)
    skb.mark = 3
    assert host.give(skb) is Reason.STOLEN
    assert skb.destination == packed("10.77.0.1")
