"""ICMP errors in the hooks of IPVS: from servers, from clients, and about IPVS's own tunnel packets."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN
from ipvsctl.datapath.skb import ACK, SYN, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.service import Tunnel
from ipvsctl.wire import icmp, transport
from ipvsctl.wire.address import packed
from tests.datapath.ipvs_host import (
    CLIENT,
    CLIENT6,
    FORWARD_ROUTE,
    LOCAL_ROUTE,
    OWN,
    SERVER,
    SERVER6,
    VIRTUAL,
    VIRTUAL6,
    Host,
    packet,
    server,
    tcp_packet,
    udp_packet,
)

TCP_SERVICE = f"tcp:{VIRTUAL}:80"
TCP_SERVICE6 = f"tcp:[{VIRTUAL6}]:80"
ROUTER = "172.16.0.254"


def error(
    source: str, destination: str, quoted: bytes, kind: int = 3, code: int = 1, rest: bytes = b"\0\0\0\0",
    *, forwarded: bool = False, broken: bool = False,
) -> Skb:  # fmt: skip
    """An ICMP error as it comes in."""
    message = icmp.build(packed(source), packed(destination), kind, code, rest, quoted)
    if broken:
        message[2] ^= 0xFF
    protocol = 1 if len(packed(source)) == 4 else 58
    return packet(message, source, destination, protocol, dst=FORWARD_ROUTE if forwarded else LOCAL_ROUTE)


def connected(forward: str = "nat", tunnel: Tunnel | None = None, **settings: str) -> Host:
    host = Host(settings)
    host.service(TCP_SERVICE, server(f"{SERVER}:8080", forward, tunnel))
    assert host.give(tcp_packet(SYN)) is Reason.STOLEN
    host.sent.clear()
    return host


def correct(skb: Skb) -> bool:
    return transport.verify(skb.data, skb.family, skb.protocol, skb.thoff, skb.source, skb.destination)


def inner(skb: Skb) -> tuple[bytes, bytes, int, int]:
    quoted = icmp.embedded(skb.data, skb.thoff + 8)
    assert quoted is not None
    ports = quoted.ports(skb.data)
    assert ports is not None
    return quoted.source, quoted.destination, *ports


# -- from the server's side

TO_CLIENT = bytes(tcp_packet(ACK, CLIENT, SERVER, 40000, 8080).data[:28])
"""What a server quotes of a request that it got."""


@pytest.mark.parametrize(("kind", "translated"), [(3, True), (4, True), (11, True), (5, False), (12, False)])
def test_an_error_from_a_server_is_translated(kind: int, translated: bool) -> None:
    host = connected()
    skb = error(SERVER, CLIENT, TO_CLIENT, kind, forwarded=True)
    assert host.give_back(skb, FORWARD) is None
    if not translated:
        assert skb.source == packed(SERVER) and not skb.ipvs
        return
    assert skb.source == packed(VIRTUAL) and skb.ipvs
    assert inner(skb) == (packed(CLIENT), packed(VIRTUAL), 40000, 80)
    assert correct(skb) and host.rerouted == [skb]
    at = skb.thoff + 8
    assert icmp.checksum(skb.data[at : at + 20]) == 0
    assert host.vs.report()[0].stats.packets_out == 1


def test_an_error_from_a_router_is_translated_too() -> None:
    host = connected()
    skb = error(ROUTER, CLIENT, TO_CLIENT, 11, 0, forwarded=True)
    assert host.give_back(skb, FORWARD) is None
    assert skb.source == packed(VIRTUAL)


def test_an_error_with_a_wrong_checksum_is_dropped() -> None:
    host = connected()
    assert host.give_back(error(SERVER, CLIENT, TO_CLIENT, forwarded=True, broken=True), FORWARD) is (
        Reason.LOCAL_CHECKSUM
    )


@pytest.mark.parametrize("length", [0, 10, 20, 23, 27])
def test_errors_that_quote_too_little_go_on(length: int) -> None:
    host = connected()
    skb = error(SERVER, CLIENT, TO_CLIENT[:length], forwarded=True)
    before = bytes(skb.data)
    translated = length >= 24
    assert host.give_back(skb, FORWARD) is None
    assert skb.ipvs is translated and (bytes(skb.data) != before) is translated


def test_a_cut_off_icmp_header_is_dropped() -> None:
    host = connected()
    assert host.give_back(packet(b"\3\0", SERVER, CLIENT, 1, dst=FORWARD_ROUTE), FORWARD) is Reason.TRUNCATED


def test_errors_about_others_go_on() -> None:
    host = connected()
    quoted = bytes(tcp_packet(ACK, CLIENT, SERVER, 40001, 8080).data[:28])
    skb = error(SERVER, CLIENT, quoted, forwarded=True)
    assert host.give_back(skb, FORWARD) is None and not skb.ipvs


def test_an_error_about_dr_is_counted_only() -> None:
    host = connected("dr")
    quoted = bytes(tcp_packet(ACK).data[:28])
    skb = error(ROUTER, CLIENT, quoted, forwarded=True, broken=True)
    before = bytes(skb.data)
    assert host.give_back(skb, FORWARD) is None
    assert bytes(skb.data) == before and skb.ipvs


def test_an_error_from_a_server_in_ipv6() -> None:
    host = Host()
    host.service(TCP_SERVICE6, server(f"[{SERVER6}]:8080"))
    assert host.give(tcp_packet(SYN, CLIENT6, VIRTUAL6)) is Reason.STOLEN
    quoted = bytes(tcp_packet(ACK, CLIENT6, SERVER6, 40000, 8080).data[:60])
    skb = error(SERVER6, CLIENT6, quoted, 1, 4, forwarded=True)
    assert host.give_back(skb, FORWARD) is None
    assert skb.source == packed(VIRTUAL6)
    assert inner(skb) == (packed(CLIENT6), packed(VIRTUAL6), 40000, 80)
    assert correct(skb)


@pytest.mark.parametrize(("kind", "handled"), [(1, True), (2, True), (127, True), (128, False), (135, False)])
def test_icmpv6_types(kind: int, handled: bool) -> None:
    host = Host()
    host.service(TCP_SERVICE6, server(f"[{SERVER6}]:8080"))
    host.give(tcp_packet(SYN, CLIENT6, VIRTUAL6))
    quoted = bytes(tcp_packet(ACK, CLIENT6, SERVER6, 40000, 8080).data[:60])
    skb = error(SERVER6, CLIENT6, quoted, kind, forwarded=True)
    assert host.give_back(skb, FORWARD) is None
    assert skb.ipvs is handled


# -- from the client's side

TO_SERVER = bytes(tcp_packet(ACK, VIRTUAL, CLIENT, 80, 40000).data[:28])
"""What a client quotes of a reply that it got."""


def test_an_error_from_the_client_goes_to_the_server() -> None:
    host = connected()
    skb = error("10.0.0.9", VIRTUAL, TO_SERVER, 3, 4, b"\0\0\x05\0")
    assert host.give(skb) is Reason.STOLEN
    assert host.sent == [skb]
    assert (skb.destination, skb.ttl) == (packed(SERVER), 63)
    assert inner(skb) == (packed(SERVER), packed(CLIENT), 8080, 40000)
    assert correct(skb) and skb.ipvs
    assert host.vs.report()[0].stats.packets_in == 2


@pytest.mark.parametrize("forward", ["dr", "tun"])
def test_other_methods_send_it_as_they_send_packets(forward: str) -> None:
    host = connected(forward)
    host.sent.clear()
    skb = error(CLIENT, VIRTUAL, TO_SERVER)
    assert host.give(skb) is Reason.STOLEN
    if forward == "dr":
        assert host.sent == [skb] and skb.destination == packed(VIRTUAL)
    else:
        assert host.sent[0].protocol == 4


def test_an_error_is_never_answered_by_another_about_its_size() -> None:
    host = connected()
    host.vs.transmit.ways.forget()
    host.mtu = 40
    skb = error(CLIENT, VIRTUAL, TO_SERVER)
    skb.data[6] |= 0x40
    assert host.give(skb) is Reason.STOLEN
    assert not host.errors


def test_an_error_for_a_foreign_address_is_caught_in_forward() -> None:
    host = Host()
    host.service("fwmark:3", server(f"{SERVER}:80"))
    skb = tcp_packet(SYN, destination="10.77.0.1")
    skb.mark = 3
    assert host.give(skb) is Reason.STOLEN
    quoted = bytes(tcp_packet(ACK, "10.77.0.1", CLIENT, 80, 40000).data[:28])
    caught = error(CLIENT, "10.77.0.1", quoted, forwarded=True)
    caught.hook = FORWARD
    assert host.vs.forward_icmp(caught) is Reason.STOLEN
    assert caught.destination == packed(SERVER)
    other = tcp_packet(ACK, dst=FORWARD_ROUTE)
    assert host.vs.forward_icmp(other) is None


def test_in_forward_a_local_server_is_not_possible() -> None:
    host = Host()
    host.service("fwmark:3", server(f"{OWN}:80"))
    skb = tcp_packet(SYN, destination="10.77.0.1")
    skb.mark = 3
    assert host.give(skb) is None
    quoted = bytes(tcp_packet(ACK, "10.77.0.1", CLIENT, 80, 40000).data[:28])
    caught = error(CLIENT, "10.77.0.1", quoted, forwarded=True)
    caught.hook = FORWARD
    assert host.vs.forward_icmp(caught) is Reason.IPVS_CROSSES_LOCAL


def test_echo_goes_on() -> None:
    host = connected(ignore_tunneled="1")
    skb = error(CLIENT, VIRTUAL, b"payload", 8)
    assert host.give(skb) is None
    assert skb.ipvs  # a protocol that is not IPVS's


@pytest.mark.parametrize(("setting", "verdict"), [("0", None), ("1", Reason.STOLEN)])
def test_schedule_icmp(setting: str, verdict: Reason | None) -> None:
    host = Host({"schedule_icmp": setting})
    host.service(TCP_SERVICE, server(f"{SERVER}:80"))
    skb = error("10.0.0.9", VIRTUAL, TO_SERVER, 3, 4)
    assert host.give(skb) is verdict
    assert len(host.vs.conns) == (verdict is not None)
    if verdict is not None:
        assert inner(skb) == (packed(SERVER), packed(CLIENT), 80, 40000)


def test_schedule_icmp_without_a_server_is_silent() -> None:
    host = Host({"schedule_icmp": "1"})
    host.service(TCP_SERVICE)
    assert host.give(error("10.0.0.9", VIRTUAL, TO_SERVER)) is Reason.IPVS_NO_DESTINATION
    assert not host.errors


def test_an_error_from_the_client_in_ipv6() -> None:
    host = Host()
    host.service(TCP_SERVICE6, server(f"[{SERVER6}]:8080"))
    host.give(tcp_packet(SYN, CLIENT6, VIRTUAL6))
    quoted = bytes(tcp_packet(ACK, VIRTUAL6, CLIENT6, 80, 40000).data[:60])
    skb = error(CLIENT6, VIRTUAL6, quoted, 2, 0, b"\0\0\x05\0")
    assert host.give(skb) is Reason.STOLEN
    assert skb.destination == packed(SERVER6) and correct(skb)
    assert inner(skb) == (packed(SERVER6), packed(CLIENT6), 8080, 40000)


# -- about tunnel packets


def tunnel_packet(kind: Tunnel | None, **others: object) -> tuple[Host, bytes, bytes]:
    """A host with a tunnel connection, the client's packet and the outer packet that was sent for it."""
    host = connected("tun", kind)
    host.sent.clear()
    skb = tcp_packet(ACK, payload=b"x" * 100, df=True, **others)
    sent = bytes(skb.data)
    assert host.give(skb) is Reason.STOLEN
    return host, sent, bytes(host.sent[0].data)


@pytest.mark.parametrize(
    ("kind", "headers"),
    [(None, 20), (Tunnel("gre"), 24), (Tunnel("gre", csum="yes"), 28), (Tunnel("gue", 6080, "yes"), 32)],
)
def test_a_smaller_mtu_of_a_tunnel_is_told_to_the_client(kind: Tunnel | None, headers: int) -> None:
    host, sent, outer = tunnel_packet(kind)
    skb = error(ROUTER, OWN, outer[:100], 3, 4, b"\0\0\x04\xb0")
    assert host.give(skb) is Reason.STOLEN
    ((about, *told),) = host.errors
    assert told == [3, 4, 1500 - headers]
    assert (about.source, about.destination, about.thoff) == (packed(CLIENT), packed(VIRTUAL), 20)
    assert about.data[12:24] == sent[12:24]
    large = tcp_packet(ACK, payload=b"x" * 1160, df=True)
    host.errors.clear()
    assert host.give(large) is Reason.TOO_BIG
    assert host.errors == [(large, 3, 4, 1200 - headers)]
    # A second error finds the new route.
    host.errors.clear()
    assert host.give(error(ROUTER, OWN, outer[:100], 3, 4, b"\0\0\x04\x4c")) is Reason.STOLEN
    assert host.errors[0][3] == 1100 - headers


def test_the_kept_route_tells_the_mtu_until_the_next_packet() -> None:
    host, _, outer = tunnel_packet(None)
    for word in (b"\0\0\x04\xb0", b"\0\0\x04\x4c"):
        assert host.give(error(ROUTER, OWN, outer[:100], 3, 4, word)) is Reason.STOLEN
        assert host.errors[-1][3] == 1500 - 20
    host.give(tcp_packet(ACK))
    assert host.give(error(ROUTER, OWN, outer[:100], 3, 4, b"\0\0\x03\xe8")) is Reason.STOLEN
    assert host.errors[-1][3] == 1000 - 20


def test_a_client_without_df_is_not_told() -> None:
    host, _, outer = tunnel_packet(None)
    quoted = bytearray(outer[:60])
    quoted[26] &= ~0x40
    assert host.give(error(ROUTER, OWN, bytes(quoted), 3, 4, b"\0\0\x04\xb0")) is Reason.STOLEN
    assert not host.errors
    dest = next(iter(host.vs.conns)).dest
    dst = host.vs.transmit.ways.to(dest, packed(SERVER))
    assert dst is not None and dst.mtu == 1200


def test_other_errors_about_tunnels_are_told_as_they_are() -> None:
    host, _, outer = tunnel_packet(None)
    assert host.give(error(ROUTER, OWN, outer[:60], 11, 0, b"\x01\x02\x03\x04")) is Reason.STOLEN
    assert host.errors[0][1:] == (11, 0, 0x01020304)


def test_an_mtu_is_16_bits_of_its_word() -> None:
    host, _, outer = tunnel_packet(None)
    assert host.give(error(ROUTER, OWN, outer[:60], 3, 4, b"\xff\xff\x04\xb0")) is Reason.STOLEN
    dest = next(iter(host.vs.conns)).dest
    dst = host.vs.transmit.ways.to(dest, packed(SERVER))
    assert dst is not None and dst.mtu == 1200


def test_udp_that_is_no_tunnel_is_looked_up_as_udp() -> None:
    host = connected("tun", Tunnel("gue", 6080))
    host.service(f"udp:{VIRTUAL}:53", server(f"{SERVER}:53"))
    host.sent.clear()
    assert host.give(udp_packet()) is Reason.STOLEN
    quoted = bytes(udp_packet(VIRTUAL, CLIENT, 53, 40000).data)
    skb = error(CLIENT, VIRTUAL, quoted)
    assert host.give(skb) is Reason.STOLEN
    assert skb.destination == packed(SERVER)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.__setitem__(16, 11),  # another server
        lambda data: data.__setitem__(7, 1),  # a later fragment
        lambda data: data.__setitem__(9, 47),  # another tunnel
        lambda data: data.__setitem__(40, 1),  # another connection inside
        lambda data: data.__setitem__(20, 0x65),  # no IPv4 inside
    ],
)
def test_errors_about_other_tunnel_packets_go_on(change: object) -> None:
    host, _, outer = tunnel_packet(None)
    quoted = bytearray(outer[:60])
    assert callable(change)
    change(quoted)
    assert host.give(error(ROUTER, OWN, bytes(quoted), 11, 0)) is None
    assert not host.errors


def test_a_tunnel_error_must_be_for_the_host() -> None:
    host, _, outer = tunnel_packet(None)
    skb = error(ROUTER, OWN, outer[:60], 11, 0, forwarded=True)
    skb.hook = FORWARD
    assert host.vs.forward_icmp(skb) is None


def test_a_tunnel_error_with_a_wrong_checksum_is_dropped() -> None:
    host, _, outer = tunnel_packet(None)
    assert host.give(error(ROUTER, OWN, outer[:60], 11, 0, broken=True)) is Reason.LOCAL_CHECKSUM


def test_any_bytes_may_come() -> None:
    """Every prefix of every kind of error, at every hook: nothing but a verdict comes out."""
    host, _, outer = tunnel_packet(Tunnel("gue", 6080))
    host.settings.write("net.ipv4.vs.schedule_icmp", "1")
    for quoted in (outer, TO_SERVER, TO_CLIENT, bytes(udp_packet().data)):
        for length in range(len(quoted)):
            for kind in (3, 11):
                host.give(error(ROUTER, OWN, quoted[:length], kind, 4))
                host.give_back(error(ROUTER, OWN, quoted[:length], kind, 4), LOCAL_IN)
    quoted = bytes(tcp_packet(ACK, VIRTUAL6, CLIENT6, 80, 40000).data)
    host.service(TCP_SERVICE6, server(f"[{SERVER6}]:8080"))
    for length in range(len(quoted)):
        host.give(error(CLIENT6, VIRTUAL6, quoted[:length], 1))
        host.give_back(error(CLIENT6, VIRTUAL6, quoted[:length], 1), FORWARD)
