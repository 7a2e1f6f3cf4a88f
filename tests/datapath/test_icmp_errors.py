"""ICMP errors: what may be answered, what the answer looks like, and how many there may be."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ipvsctl.datapath.ct.entry import Entry
from ipvsctl.datapath.hooks import LOCAL_IN
from ipvsctl.datapath.limits import HZ, PEERS, Limits
from ipvsctl.datapath.skb import ESTABLISHED_REPLY, NEW, RELATED, RELATED_REPLY, UNTRACKED, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.snapshot import Device
from ipvsctl.wire import icmp, ipv4, tcp, transport
from ipvsctl.wire.address import packed
from tests.datapath.ip_rig import DEVICES, ROUTES, Host, datagram, echo, ip, seen, segment

CLIENT, OWN, SERVER = "10.0.0.9", "10.0.0.1", "192.168.1.7"
CLIENT6, OWN6, SERVER6 = "fd10::9", "fd10::1", "fd20::7"


def errors(
    host: Host, packet: bytes | bytearray, kind: int, code: int, info: int = 0, device: str = "eth0"
) -> list[Any]:
    """What is sent about a packet that came in."""
    host.outputs = []
    host.ip.icmp_error(host.skb(packet, device), kind, code, info)
    return [seen(each.packet) for each in host.outputs]


def message(source: str, destination: str, kind: int, payload: bytes = bytes(28), **fields: Any) -> bytearray:
    body = icmp.build(packed(source), packed(destination), kind, 0, bytes(4), payload)
    return ip(source, destination, 58 if ":" in source else 1, body, **fields)


def test_an_error_about_a_packet_for_the_host_has_its_destination_for_source() -> None:
    packet = datagram(CLIENT, "192.168.1.1", b"payload")
    (told,) = errors(Host(), packet, 3, 3)
    assert told[:2] == ("192.168.1.1", CLIENT)
    assert (told.protocol, told.ttl, told.kind, told.code, told.rest) == (1, 64, 3, 3, 0)
    assert told.body == packet


def test_an_error_about_a_packet_passing_through_has_the_address_of_the_way_back() -> None:
    (told,) = errors(Host(), datagram(CLIENT, SERVER), 11, 0)
    assert told.source == OWN
    inbound = Host({"net.ipv4.icmp_errors_use_inbound_ifaddr": 1})
    (told,) = errors(inbound, datagram("10.0.0.9", SERVER), 11, 0, device="eth1")
    assert told.source == "192.168.1.1"


def test_form_of_an_ipv4_error() -> None:
    host = Host({"net.ipv4.ip_default_ttl": 99})
    host.ip.icmp_error(host.skb(datagram(CLIENT, SERVER, bytes(2000), tos=0xFF)), 3, 4, 1400)
    packet = host.outputs[0].packet
    assert len(packet) == 576 and ipv4.valid(packet) and transport.verify(packet, INET, 1, 20)
    assert packet[1] == 0xDE  # RT_TOS(0xff) | IPTOS_PREC_INTERNETCONTROL
    assert packet[8] == 99 and packet[6:8] == b"\0\0" and seen(packet).rest == 1400
    assert host.walk == [("OUTPUT", "", "eth0"), ("POSTROUTING", "", "eth0")]


def test_the_quotation_fits_the_mtu_of_the_way_back() -> None:
    small = (Device("eth0", ("10.0.0.1/24",), 300), DEVICES[1])
    host = Host(devices=small)
    host.ip.icmp_error(host.skb(datagram(CLIENT, SERVER, bytes(2000))), 11, 0)
    assert len(host.outputs[0].packet) == 300
    tiny = Host(devices=(Device("eth0", ("10.0.0.1/24",), 48), DEVICES[1]))
    assert errors(tiny, datagram(CLIENT, SERVER, bytes(2000)), 11, 0) == []


@pytest.mark.parametrize(
    "packet",
    [
        ip(CLIENT, SERVER, 17, bytes(20), fragment=64),
        message(CLIENT, SERVER, 3),
        message(CLIENT, SERVER, 11),
        message(CLIENT, SERVER, 5),
        message(CLIENT, SERVER, 6),  # undefined ones count as errors
        message(CLIENT, SERVER, 42),  # and so do those above 18
        ip(CLIENT, SERVER, 1, b""),
        datagram(CLIENT, "10.0.0.255"),
        datagram(CLIENT, "255.255.255.255"),
        datagram(CLIENT, "224.0.0.1"),
    ],
)
def test_what_is_never_answered(packet: bytearray) -> None:
    assert errors(Host(), packet, 3, 1) == []


@pytest.mark.parametrize(
    "packet",
    [
        echo(CLIENT, SERVER), message(CLIENT, SERVER, 0), message(CLIENT, SERVER, 13), message(CLIENT, SERVER, 18),
        ip(CLIENT, SERVER, 17, bytes(20), more=True),
    ],
)  # fmt: skip
def test_what_is_answered(packet: bytearray) -> None:
    assert len(errors(Host(), packet, 3, 1)) == 1


def test_a_packet_that_came_as_a_broadcast_or_has_no_route_is_not_answered() -> None:
    host = Host()
    skb = host.skb(datagram(CLIENT, SERVER))
    skb.broadcast = True
    host.ip.icmp_error(skb, 3, 1)
    skb.broadcast, skb.dst = False, None
    host.ip.icmp_error(skb, 3, 1)
    assert host.outputs == []


@pytest.mark.parametrize(("sysctl", "mark"), [("net.ipv4.fwmark_reflect", 7), ("net.ipv4.ip_default_ttl", 0)])
def test_the_mark_is_reflected_only_when_asked_for(sysctl: str, mark: int) -> None:
    host = Host({sysctl: 1})
    marks: list[int] = []
    host.hooked["OUTPUT"] = lambda skb: marks.append(skb.mark)  # type: ignore[func-returns-value]
    skb = host.skb(datagram(CLIENT, SERVER))
    skb.mark = 7
    host.ip.icmp_error(skb, 3, 1)
    assert marks == [mark]


@pytest.mark.parametrize(
    ("ctinfo", "expected"), [(NEW, RELATED_REPLY), (ESTABLISHED_REPLY, RELATED), (0, RELATED_REPLY)]
)
def test_an_error_belongs_to_the_connection_it_is_about(ctinfo: int, expected: int) -> None:
    host = Host()
    entry = Entry(cast(Any, None), b"", b"")
    seen_by_rules: list[tuple[object, int]] = []
    host.hooked["OUTPUT"] = lambda skb: seen_by_rules.append((skb.ct, skb.ctinfo))  # type: ignore[func-returns-value]
    for packet in (datagram(CLIENT, SERVER), datagram(CLIENT6, SERVER6)):
        skb = host.skb(packet)
        skb.ct, skb.ctinfo = entry, ctinfo
        host.ip.icmp_error(skb, 3, 1)
    assert seen_by_rules == [(entry, expected)] * 2


def test_no_answer_with_a_source_that_is_only_marked_as_local() -> None:
    """A service by firewall mark on addresses that no device has: the kernel finds no route for its own answer."""
    rule = PolicyRule(INET, 100, mark=1, mask=1, table=100)
    host = Host(routes=(*ROUTES, Route("0.0.0.0/0", "lo", table=100, kind="local")), policy=(rule,))
    skb = Skb(datagram(CLIENT, SERVER), "eth0")
    skb.mark = 1
    found = host.routing.input(skb)
    assert not isinstance(found, Reason) and found.kind == "local"
    skb.dst = found
    host.ip.icmp_error(skb, 3, 3)
    assert host.outputs == []


def test_errors_for_packets_without_a_route() -> None:
    """ip_error, ip6_pkt_drop."""
    routes = tuple(
        Route(f"10.{60 + at}.0.0/16", kind=kind) for at, kind in enumerate(("unreachable", "prohibit", "blackhole"))
    )
    routes6 = tuple(
        Route(f"fd6{at}::/16", kind=kind) for at, kind in enumerate(("unreachable", "prohibit", "blackhole"))
    )
    host = Host(routes=routes + routes6)
    table = {
        "10.99.0.1": (Reason.NO_ROUTE, [(3, 0)]), "10.60.0.1": (Reason.UNREACHABLE, [(3, 1)]),
        "10.61.0.1": (Reason.PROHIBITED, [(3, 13)]), "10.62.0.1": (Reason.BLACKHOLE, []),
        "fd99::1": (Reason.NO_ROUTE, [(1, 0)]), "fd60::1": (Reason.UNREACHABLE, [(1, 0)]),
        "fd61::1": (Reason.PROHIBITED, [(1, 1)]), "fd62::1": (Reason.BLACKHOLE, []),
    }  # fmt: skip
    for at, (destination, expected) in enumerate(table.items()):
        source = CLIENT6 if ":" in destination else CLIENT
        sent = host.receive("eth0", datagram(source, destination), 200.0 + 60 * at)
        assert (host.verdict, [(seen(each.packet).kind, seen(each.packet).code) for each in sent]) == expected, (
            destination
        )
        assert [name for name, *_ in host.walk][:1] == ["PREROUTING"]
    silent = Host({"net.ipv4.ip_forward": 0}, routes=())
    assert silent.receive("eth0", datagram(CLIENT, "10.99.0.1")) == [] and silent.verdict is Reason.NOT_FORWARDING


def test_a_martian_is_dropped_in_silence() -> None:
    host = Host()
    for source in (OWN, "127.0.0.1", "224.0.0.1"):
        assert host.receive("eth0", datagram(source, SERVER)) == [] and host.verdict is Reason.MARTIAN_SOURCE


# -- limits -----------------------------------------------------------------------------------------------------------


def count(host: Host, packet: bytearray, kind: int, code: int, times: int, at: float) -> int:
    host.now = at
    return sum(len(errors(host, packet, kind, code)) for _ in range(times))


def test_a_host_gets_six_errors_at_once_and_then_one_a_second() -> None:
    host = Host()
    assert count(host, datagram(CLIENT, OWN), 3, 3, 20, 100.0) == 6
    assert count(host, datagram(CLIENT, OWN), 3, 3, 20, 100.9) == 0
    assert count(host, datagram(CLIENT, OWN), 3, 3, 20, 101.1) == 1
    assert count(host, datagram("10.0.0.10", OWN), 3, 3, 20, 101.2) == 6
    assert count(host, datagram(CLIENT, OWN), 3, 3, 20, 200.0) == 6


def test_what_is_not_limited() -> None:
    assert count(Host(), datagram(CLIENT, SERVER), 3, 4, 30, 100.0) == 30
    assert (
        count(
            Host({"net.ipv4.icmp_ratelimit": 0, "net.ipv4.icmp_msgs_burst": 500}),
            datagram(CLIENT, OWN),
            3,
            3,
            30,
            100.0,
        )
        == 30
    )
    assert count(Host({"net.ipv4.icmp_ratemask": 0}), datagram(CLIENT, OWN), 3, 3, 30, 100.0) == 30
    assert count(Host({"net.ipv4.icmp_ratelimit": 500}), datagram(CLIENT, OWN), 3, 3, 30, 100.0) == 6
    assert count(Host(), datagram(CLIENT6, SERVER6), 2, 0, 30, 100.0) == 30


def test_all_hosts_together_get_fifty_at_once() -> None:
    """icmp_global_allow: each costs 0, 1 or 2 of 50 credits; 20 ms bring 20 more."""
    host = Host()
    sent = sum(count(host, datagram(f"10.0.0.{number}", OWN), 3, 3, 1, 100.0) for number in range(2, 250))
    assert 35 <= sent <= 75
    more = sum(count(host, datagram(f"10.0.0.{number}", OWN), 3, 3, 1, 100.02) for number in range(2, 250))
    assert 10 <= more <= 35


def test_ipv6_hosts_get_more_when_the_prefix_is_wide() -> None:
    """icmpv6_xrlim_allow: 1000 ms >> 2 for a /64, so four times as often; six at once all the same."""
    host = Host()
    assert count(host, datagram(CLIENT6, OWN6), 1, 4, 20, 100.0) == 6
    assert count(host, datagram(CLIENT6, OWN6), 1, 4, 20, 100.3) == 1
    assert count(host, datagram(CLIENT6, OWN6), 1, 4, 20, 100.85) == 2
    slow = Host({"net.ipv6.icmp.ratelimit": 4000})
    count(slow, datagram(CLIENT6, OWN6), 1, 4, 20, 100.0)
    assert count(slow, datagram(CLIENT6, OWN6), 1, 4, 20, 100.85) == 0
    free = Host({"net.ipv6.icmp.ratemask": 129})
    assert count(free, datagram(CLIENT6, OWN6), 1, 4, 20, 100.0) == 20


def test_unroutable_packets_cost_a_host_twice() -> None:
    """ip_error takes from the same bucket, capped at five, what icmp_send takes once more."""
    host = Host(routes=())
    assert [len(host.receive("eth0", datagram(CLIENT, "172.31.0.1"), 100.0)) for _ in range(6)] == [1, 1, 0, 0, 0, 0]


def test_the_peers_that_are_remembered_are_bounded() -> None:
    limits = Limits(cast(Any, Host()))
    for number in range(PEERS + 5):
        limits.peer_allow(number.to_bytes(4, "big"), 1000)
    assert len(limits._peers) == PEERS


# -- redirects --------------------------------------------------------------------------------------------------------


def test_redirects() -> None:
    """ip_rt_send_redirect: at once, then after 2, 4, 8 ... fiftieths of a second, nine in all until 20 s of silence."""
    host = Host()
    sent = host.receive("eth0", datagram(CLIENT, "8.8.8.8"), 100.0)
    told = [seen(each.packet) for each in sent if seen(each.packet).protocol == 1]
    assert len(sent) == 2 and len(told) == 1
    assert (told[0].source, told[0].kind, told[0].code, told[0].rest) == (OWN, 5, 1, 0x0A0000FE)
    assert told[0].body[8] == 63  # the TTL was taken off before
    assert len(host.receive("eth0", datagram(CLIENT, "8.8.8.8"), 100.01)) == 1
    at, gaps = 100.0, []
    for number in range(1, 9):
        at += ((HZ // 50 << number) + 1) / HZ
        gaps.append(len(host.receive("eth0", datagram(CLIENT, "8.8.8.8"), at)))
    assert gaps == [2] * 8
    assert len(host.receive("eth0", datagram(CLIENT, "8.8.8.8"), at + 15)) == 1
    assert len(host.receive("eth0", datagram(CLIENT, "8.8.8.8"), at + 15 + 20)) == 1
    assert len(host.receive("eth0", datagram(CLIENT, "8.8.8.8"), at + 35 + 21)) == 2


def test_a_redirect_names_a_host_on_the_link_itself() -> None:
    (told, _) = Host().receive("eth0", datagram(CLIENT, "10.0.0.77"))
    assert seen(told.packet).rest == 0x0A00004D


def test_no_redirects() -> None:
    off: dict[str, object] = {"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth0.send_redirects": 0}
    assert len(Host(off).receive("eth0", datagram(CLIENT, "8.8.8.8"))) == 1
    assert len(Host().receive("eth0", message(CLIENT, "8.8.8.8", 3))) == 1


# -- ICMPv6 -----------------------------------------------------------------------------------------------------------


def test_form_of_an_ipv6_error() -> None:
    packet = datagram(CLIENT6, SERVER6, bytes(2000), tos=0x48)
    host = Host()
    host.ip.icmp_error(host.skb(packet), 2, 0, 1400)
    sent = host.outputs[0].packet
    told = seen(sent)
    assert len(sent) == 1280 and transport.verify(sent, 10, 58, 40, packed(OWN6), packed(CLIENT6))
    assert told[:8] == (OWN6, CLIENT6, 58, 64, 0, 2, 0, 1400)
    assert told.body == packet[:1232]


@pytest.mark.parametrize(
    ("packet", "device", "source"),
    [
        (datagram(CLIENT6, OWN6), "eth0", OWN6),
        (datagram(CLIENT6, "fd20::1"), "eth0", "fd20::1"),
        (datagram(CLIENT6, SERVER6), "eth0", OWN6),
        (datagram("fd20::9", "fd10::9"), "eth1", "fd20::1"),
        (datagram("fe80::9", "fe80::a"), "eth0", "fe80::a"),
        (datagram("fe80::9", OWN6), "eth0", OWN6),
    ],
)
def test_the_source_of_an_ipv6_error(packet: bytearray, device: str, source: str) -> None:
    (told,) = errors(Host(), packet, 1, 4, device=device)
    assert told.source == source


def test_a_route_with_a_preferred_source() -> None:
    host = Host(routes=(Route("fd77::/16", "eth0", "fd10::fe", source="fd20::1"),))
    (told,) = errors(host, datagram("fd77::1", SERVER6), 3, 0)
    assert told.source == "fd20::1"


@pytest.mark.parametrize(
    ("packet", "kind", "answered"),
    [
        (message(CLIENT6, SERVER6, 1), 1, False),
        (message(CLIENT6, SERVER6, 127), 1, False),
        (message(CLIENT6, SERVER6, 128), 1, True),
        (ip(CLIENT6, SERVER6, 58, b""), 1, False),
        (datagram("fe80::9", "ff02::1"), 1, False),
        (datagram("fe80::9", "ff02::1"), 2, True),
        (datagram("::", OWN6), 1, False),
        # later fragments are answered: the kernel does not see a protocol in them
        (ip(CLIENT6, SERVER6, 44, b"\x3a\0\0\x09\0\0\0\1" + bytes(16)), 1, True),
    ],
)
def test_what_ipv6_answers(packet: bytearray, kind: int, answered: bool) -> None:
    assert bool(errors(Host(), packet, kind, 0)) == answered


# -- tcp resets of REJECT ---------------------------------------------------------------------------------------------


def resets(host: Host, packet: bytes | bytearray) -> list[tuple[int, int, int]]:
    """Flags, sequence and acknowledgement of what is sent."""
    host.outputs = []
    host.ip.tcp_reset(host.skb(packet), LOCAL_IN)
    found = []
    for each in host.outputs:
        at = 40 if each.packet[0] >> 4 == 6 else 20
        family, data = (10 if at == 40 else 2), each.packet
        assert transport.verify(
            data, family, 6, at, data[8:24] if at == 40 else data[12:16], data[24:40] if at == 40 else data[16:20]
        )
        assert data[at + 12] == 0x50 and data[at + 14 : at + 16] == b"\0\0"
        found.append(
            (data[at + 13], int.from_bytes(data[at + 4 : at + 8], "big"), int.from_bytes(data[at + 8 : at + 12], "big"))
        )
    return found


@pytest.mark.parametrize(("source", "destination"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_sequence_numbers_of_a_reset(source: str, destination: str) -> None:
    rst, rst_ack = tcp.RST, tcp.RST | tcp.ACK
    assert resets(Host(), segment(source, destination, tcp.SYN, 1000)) == [(rst_ack, 0, 1001)]
    assert resets(Host(), segment(source, destination, tcp.SYN, 1000, options=b"\2\4\5\xb4")) == [(rst_ack, 0, 1001)]
    assert resets(Host(), segment(source, destination, tcp.FIN, 1000, payload=b"12345")) == [(rst_ack, 0, 1006)]
    assert resets(Host(), segment(source, destination, tcp.ACK, 1000, 77, b"12345")) == [(rst, 77, 0)]
    assert resets(Host(), segment(source, destination, tcp.SYN, 0xFFFFFFFF)) == [(rst_ack, 0, 0)]
    assert resets(Host(), segment(source, destination, tcp.RST, 1000)) == []
    broken = segment(source, destination)
    broken[-1] ^= 1
    assert resets(Host(), broken) == []
    assert resets(Host(), datagram(source, destination)) == []


def test_form_of_a_reset() -> None:
    host = Host()
    host.ip.tcp_reset(host.skb(segment(CLIENT, SERVER, tos=0x48)), LOCAL_IN)
    data = host.outputs[0].packet
    assert (data[1], data[4:6], data[6:8], data[8]) == (0, b"\0\0", b"\x40\0", 64)
    assert (data[12:16], data[16:20]) == (packed(SERVER), packed(CLIENT))
    host.outputs = []
    host.ip.tcp_reset(host.skb(segment(CLIENT6, SERVER6, tos=0x48)), LOCAL_IN)
    assert seen(host.outputs[0].packet)[:5] == (SERVER6, CLIENT6, 6, 64, 0)


def test_a_reset_closes_the_tracked_connection() -> None:
    host = Host()
    host.ct.use(INET)
    skb = host.skb(segment(CLIENT, SERVER, tcp.SYN))
    skb.hook = LOCAL_IN
    assert host.ct.conntrack_in(skb) is None
    assert host.ct.confirm(skb) is None
    host.ip.tcp_reset(skb, LOCAL_IN)
    (entry,) = host.ct.report()
    assert (entry.state, entry.timeout) == ("CLOSE", 10)


@pytest.mark.parametrize(("client", "own", "kinds"), [(CLIENT, OWN, (8, 0)), (CLIENT6, OWN6, (128, 129))])
def test_no_error_is_told_about_icmp_while_it_is_sent(client: str, own: str, kinds: tuple[int, int]) -> None:
    """icmp_xmit_lock, icmpv6_xmit_lock: an echo reply that is rejected in OUTPUT is dropped and nothing more."""
    host = Host()

    def reject(skb: Skb) -> Reason:
        host.ip.icmp_error(skb, 1 if ":" in client else 3, 3)
        return Reason.REJECT

    host.hooked["OUTPUT"] = reject
    assert host.receive("eth0", message(client, own, kinds[0])) == []
    del host.hooked["OUTPUT"]
    assert [seen(each.packet).kind for each in host.receive("eth0", message(client, own, kinds[0]))] == [kinds[1]]


def test_an_error_about_an_untracked_packet_cannot_be_untracked() -> None:
    """nf_ct_attach: it has no entry, but CT --notrack takes it for a packet that has one."""
    host = Host()
    states: list[tuple[object, int]] = []
    host.hooked["OUTPUT"] = lambda skb: states.append((skb.ct, skb.ctinfo))
    cause = host.skb(datagram(CLIENT, SERVER), "eth0")
    cause.ctinfo = UNTRACKED
    host.ip.icmp_error(cause, 11, 0)
    assert states == [(None, RELATED)]
