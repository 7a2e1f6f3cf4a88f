"""The IP layer's walks: the order of checks and hooks, what rules see of devices, TTL, MTU, fragments, next hops."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.fib import Dst
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.route import Route
from ipvsctl.model.snapshot import Device
from ipvsctl.wire import ipv4, ipv6
from ipvsctl.wire.address import packed
from tests.datapath.ip_rig import DEVICES, ROUTES, Host, datagram, ip, seen, segment

SMALL = (DEVICES[0], Device("eth1", ("192.168.1.1/24", "fd20::1/64"), 1300))


def test_forwarding_passes_three_hooks_and_costs_one_hop() -> None:
    host = Host()
    packet = segment("10.0.0.9", "192.168.1.7")
    (sent,) = host.receive("eth0", packet)
    assert host.walk == [("PREROUTING", "eth0", ""), ("FORWARD", "eth0", "eth1"), ("POSTROUTING", "eth0", "eth1")]
    assert (sent.device, sent.next_hop, host.verdict) == ("eth1", packed("192.168.1.7"), "sent")
    assert sent.packet[8] == 63 and ipv4.valid(sent.packet)
    assert sent.packet[:8] == packet[:8] and sent.packet[12:] == packet[12:]


def test_forwarding_to_a_gateway() -> None:
    host = Host()
    (sent,) = host.receive("eth1", segment("192.168.1.7", "8.8.8.8"))
    assert (sent.device, sent.next_hop) == ("eth0", packed("10.0.0.254"))
    (sent,) = host.receive("eth1", segment("fd20::7", "2600::1"))
    assert (sent.device, sent.next_hop, sent.packet[7]) == ("eth0", packed("fd10::fe"), 63)


def test_local_delivery_and_the_answer_over_output() -> None:
    host = Host()
    (sent,) = host.receive("eth0", segment("10.0.0.9", "10.0.0.1"))
    assert host.walk == [
        ("PREROUTING", "eth0", ""), ("INPUT", "eth0", ""), ("OUTPUT", "", "eth0"), ("POSTROUTING", "", "eth0"),
    ]  # fmt: skip
    assert host.verdict is Reason.NO_LISTENER and sent.device == "eth0"


def test_the_host_talks_to_itself() -> None:
    """The route stays with the packet on the loopback device: it is not looked up again."""
    host = Host()
    host.local.listeners.add((17, b"", 53))
    assert host.send(datagram("0.0.0.0", "192.168.1.1")) == []
    assert host.walk == [
        ("OUTPUT", "", "lo"), ("POSTROUTING", "", "lo"), ("PREROUTING", "lo", ""), ("INPUT", "lo", ""),
    ]  # fmt: skip
    assert host.verdict == "delivered"


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (segment("10.0.0.9", "192.168.1.7", ttl=1), Reason.TTL),
        (segment("10.0.0.9", "192.168.1.7", ttl=0), Reason.TTL),
        (segment("fd10::9", "fd20::7", ttl=1), Reason.TTL),
        (datagram("10.0.0.9", "192.168.1.7", bytes(1400), df=True), Reason.TOO_BIG),
        (datagram("fd10::9", "fd20::7", bytes(1400)), Reason.TOO_BIG),
        (segment("::1", "fd20::7"), Reason.MARTIAN_DESTINATION),
        (segment("fd10::9", "::1"), Reason.MARTIAN_DESTINATION),
        (segment("ff02::1", "fd20::7"), Reason.MARTIAN_SOURCE),
        (segment("::", "fd20::7"), Reason.MARTIAN_SOURCE),
        (segment("fe80::9", "fd20::7"), Reason.MARTIAN_SOURCE),
        (datagram("fe80::9", "ff01::1"), Reason.MARTIAN_DESTINATION),
        (datagram("fe80::9", "ff00::1"), Reason.MARTIAN_DESTINATION),
    ],
)
def test_packets_that_are_not_forwarded(packet: bytearray, reason: Reason) -> None:
    host = Host(devices=SMALL)
    sent = host.receive("eth0", packet)
    assert host.verdict is reason
    assert all(each.device == "eth0" for each in sent)
    assert "FORWARD" not in [name for name, *_ in host.walk]


def test_a_wrong_header_checksum() -> None:
    host = Host()
    packet = segment("10.0.0.9", "192.168.1.7")
    packet[10] ^= 1
    assert host.receive("eth0", packet) == [] and host.verdict is Reason.HEADER and host.walk == []


def test_the_ttl_is_looked_at_before_the_mtu() -> None:
    host = Host(devices=SMALL)
    (sent,) = host.receive("eth0", datagram("10.0.0.9", "192.168.1.7", bytes(1400), df=True, ttl=1))
    assert (seen(sent.packet).kind, seen(sent.packet).code) == (11, 0)


def test_a_packet_without_df_leaves_in_pieces() -> None:
    host = Host(devices=SMALL)
    packet = datagram("10.0.0.9", "192.168.1.7", bytes(range(200)) * 10, identification=77)
    sent = host.receive("eth0", packet)
    assert [len(each.packet) for each in sent] == [1300, 748]
    assert [(each.packet[6] << 8 | each.packet[7]) for each in sent] == [0x2000, 1280 >> 3]
    assert b"".join(each.packet[20:] for each in sent) == packet[20:]
    assert all(ipv4.valid(each.packet) for each in sent)


def test_defragmented_packets_leave_as_they_came() -> None:
    host = Host(defrag=True)
    whole = datagram("10.0.0.9", "192.168.1.7", bytes(2000), identification=77)
    pieces = ipv4.fragment(whole, 700)
    for piece in pieces[:-1]:
        assert host.receive("eth0", piece) == [] and host.verdict is Reason.FRAGMENT
    sent = host.receive("eth0", pieces[-1])
    assert [len(each.packet) for each in sent] == [len(each) for each in pieces]
    assert [name for name, *_ in host.walk] == ["PREROUTING", "FORWARD", "POSTROUTING"]


def test_fragments_pass_one_by_one_without_defragmentation() -> None:
    host = Host()
    pieces = ipv4.fragment(datagram("10.0.0.9", "192.168.1.7", bytes(2000), identification=77), 700)
    assert [len(host.receive("eth0", piece)) for piece in pieces] == [1, 1, 1]


def test_fragments_for_the_host_are_put_together_before_input() -> None:
    host = Host()
    host.local.listeners.add((17, b"", 53))
    first, last = ipv4.fragment(datagram("10.0.0.9", "10.0.0.1", bytes(1000), identification=77), 700)
    host.receive("eth0", first)
    assert [name for name, *_ in host.walk] == ["PREROUTING"]
    host.receive("eth0", last)
    assert [name for name, *_ in host.walk] == ["PREROUTING", "INPUT"] and host.verdict == "delivered"


def test_ipv6_fragments_for_the_host_pass_input_one_by_one() -> None:
    host = Host()
    host.local.listeners.add((17, b"", 53))
    first, last = ipv6.fragment(datagram("fd10::9", "fd10::1", bytes(1000)), 700, 9)
    host.receive("eth0", first)
    assert [name for name, *_ in host.walk] == ["PREROUTING", "INPUT"] and host.verdict is Reason.FRAGMENT
    host.receive("eth0", last)
    assert [name for name, *_ in host.walk] == ["PREROUTING", "INPUT"] and host.verdict == "delivered"


def test_ipv6_defragmentation_and_too_large_pieces() -> None:
    host = Host(devices=SMALL, defrag=True)
    whole = datagram("fd10::9", "fd20::7", bytes(2000))
    for piece in ipv6.fragment(whole, 1280, 9):
        sent = host.receive("eth0", piece)
    assert [len(each.packet) for each in sent] == [1280, len(whole) - 1280 + 56]
    for piece in ipv6.fragment(whole, 1400, 10):
        sent = host.receive("eth0", piece)
    assert host.verdict is Reason.TOO_BIG
    assert (seen(sent[0].packet).kind, seen(sent[0].packet).rest) == (2, 1300)


def test_a_reassembled_df_packet_larger_than_the_mtu() -> None:
    """ip_exceeds_mtu: the pieces were larger than the MTU and said DF."""
    host = Host(devices=SMALL, defrag=True)
    whole = datagram("10.0.0.9", "192.168.1.7", bytes(2000), identification=77)
    for piece in ipv4.fragment(whole, 1400, df=True):
        sent = host.receive("eth0", piece)
    assert host.verdict is Reason.TOO_BIG and (seen(sent[0].packet).kind, seen(sent[0].packet).rest) == (3, 1300)


def test_ignore_df_lets_a_packet_be_cut() -> None:
    """What IPVS sets on packets that it sends."""
    host = Host(devices=SMALL)
    skb = host.skb(datagram("10.0.0.9", "192.168.1.7", bytes(1400), df=True))
    skb.ignore_df = True
    host.ip.reinject(skb)
    assert host.walk == [("OUTPUT", "", "eth1"), ("POSTROUTING", "eth0", "eth1")]
    assert [len(each.packet) for each in host.outputs] == [1300, 148]
    assert all(not each.packet[6] & 0x40 for each in host.outputs)


def test_a_drop_at_output_ends_the_walk() -> None:
    host = Host()
    host.hooked["OUTPUT"] = lambda skb: Reason.RULE
    assert host.send(datagram("0.0.0.0", "8.8.8.8")) == [] and host.verdict is Reason.RULE
    assert [name for name, *_ in host.walk] == ["OUTPUT"]


def test_own_packets_get_a_source_and_an_identification() -> None:
    host = Host()
    (sent,) = host.send(datagram("0.0.0.0", "192.168.1.7"))
    skb = Skb(bytearray(sent.packet))
    assert skb.source == packed("192.168.1.1") and skb.data[4:6] != b"\0\0" and ipv4.valid(skb.data)
    (sent,) = host.send(datagram("0.0.0.0", "192.168.1.7", df=True))
    assert sent.packet[4:6] == b"\0\0"
    (sent,) = host.send(datagram("::", "2600::1"))
    assert sent.packet[8:24] == packed("fd10::1")
    assert host.send(datagram("0.0.0.0", "10.9.9.9")) != []
    assert Host(routes=()).send(datagram("0.0.0.0", "10.9.9.9")) == []


def test_a_process_may_send_more_than_the_mtu() -> None:
    host = Host(devices=SMALL)
    assert [len(each.packet) for each in host.send(datagram("0.0.0.0", "192.168.1.7", bytes(1400)))] == [1300, 148]
    assert [len(each.packet) for each in host.send(datagram("::", "fd20::7", bytes(1400)))] == [1296, 208]
    host.send(datagram("0.0.0.0", "192.168.1.7", bytes(1400), df=True))
    assert host.verdict is Reason.TOO_BIG


def test_a_next_hop_that_does_not_answer() -> None:
    """The sender learns of it after three seconds, and only of as many packets as the limits allow."""
    quiet = (DEVICES[0], Device("eth1", ("192.168.1.1/24", "fd20::1/64"), hosts=("192.168.1.7",)))
    host = Host(devices=quiet)
    assert host.receive("eth0", segment("10.0.0.9", "192.168.1.8"), 50.0) == []
    assert host.verdict is Reason.NO_NEIGHBOUR
    assert len(host.receive("eth0", segment("10.0.0.9", "192.168.1.7"), 50.5)) == 1
    assert host.poll(52.9) == []
    (error,) = host.poll(53.3)
    told = seen(error.packet)
    assert (told.source, told.destination, told.kind, told.code) == ("10.0.0.1", "10.0.0.9", 3, 1)
    assert host.poll(60.0) == []
    host.receive("eth0", segment("fd10::9", "fd20::8"), 61.0)
    (error,) = host.poll(65.0)
    assert (seen(error.packet).kind, seen(error.packet).code) == (1, 3)


def test_those_who_wait_longest_are_told_first() -> None:
    host = Host(devices=(DEVICES[0], Device("eth1", ("192.168.1.1/24", "fd20::1/64"), hosts=())))
    host.receive("eth0", segment("10.0.0.9", "192.168.1.8"), 50.0)
    host.receive("eth0", segment("fd10::9", "fd20::8"), 50.05)
    host.receive("eth0", segment("10.0.0.9", "192.168.1.9"), 50.1)
    assert [seen(each.packet).protocol for each in host.poll(60.0)] == [1, 58, 1]
    assert host.timers.poll_at() is None


def test_what_waits_for_a_next_hop_is_bounded() -> None:
    quiet = (DEVICES[0], Device("eth1", ("192.168.1.1/24",), hosts=()))
    host = Host(devices=quiet)
    for number in range(1000):
        host.receive("eth0", datagram("10.0.0.9", "192.168.1.8", bytes(1400), sport=number))
    (waiting,) = host.ip._neighbours._waiting.values()
    assert 50 < len(waiting.packets) < 200
    for number in range(3000):
        host.receive("eth0", datagram("10.0.0.9", f"192.168.1.{number % 250}"))
    assert len(host.ip._neighbours._waiting) <= 1024


def test_route_me_harder() -> None:
    host = Host()
    skb = host.skb(segment("10.0.0.9", "192.168.1.7"))
    skb.set_destination(packed("8.8.8.8"))
    assert host.ip.route_me_harder(skb, False)
    assert skb.dst is not None and (skb.dst.device, skb.dst.gateway) == ("eth0", packed("10.0.0.254"))
    skb.set_destination(packed("192.168.1.1"))
    assert host.ip.route_me_harder(skb, True)
    assert skb.dst.kind == "local" and skb.dst.device == "lo"
    nowhere = Host(routes=())
    skb = nowhere.skb(segment("10.0.0.9", "192.168.1.7"))
    before = skb.dst
    skb.set_destination(packed("8.8.8.8"))
    assert not nowhere.ip.route_me_harder(skb, True) and skb.dst is before


def test_a_route_set_in_prerouting_is_kept() -> None:
    host = Host()

    def steer(skb: Skb) -> None:
        skb.dst = Dst("unicast", "eth1", packed("192.168.1.99"), 1500, b"", True)

    host.hooked["PREROUTING"] = steer  # type: ignore[assignment]
    (sent,) = host.receive("eth0", segment("10.0.0.9", "8.8.8.8"))
    assert (sent.device, sent.next_hop) == ("eth1", packed("192.168.1.99"))


@pytest.mark.parametrize(
    ("options", "reason", "pointer"),
    [
        (b"\1\1\1\0", None, None),
        (b"\x94\4\0\0", None, None),  # router alert
        (b"\x94\3\0\0", Reason.OPTIONS, 21),
        (b"\x83\7\4\x0a\0\0\1\0", Reason.OPTIONS, None),  # loose source route: dropped, nobody is told
        (b"\x07\7\4\0\0\0\0\0", None, None),  # record route
        (b"\x07\7\5\0\0\0\0\0", Reason.OPTIONS, 22),
        (b"\x07\2\4\0", Reason.OPTIONS, 21),
        (b"\x07\x0b\4\0", Reason.OPTIONS, 20),  # longer than the header
        (b"\x44\x08\5\0\0\0\0\0", None, None),
        (b"\x44\x08\4\0\0\0\0\0", Reason.OPTIONS, 22),
        (b"\x07\7\4\0\0\0\0\x07\7\4\0\0\0\0\0\0", Reason.OPTIONS, 27),
    ],
)
def test_ipv4_options(options: bytes, reason: Reason | None, pointer: int | None) -> None:
    host = Host()
    sent = host.receive("eth0", datagram("10.0.0.9", "192.168.1.7", options=options))
    if reason is None:
        assert host.verdict == "sent"
        return
    assert host.verdict is reason
    assert [seen(each.packet).rest >> 24 for each in sent] == ([] if pointer is None else [pointer])
    assert host.walk[0][0] == "PREROUTING"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\1\4\0\0\0\0", "sent"),
        (b"\5\2\0\0\1\0", "sent"),  # router alert
        (b"\1\4\0\0\0\1", None),  # padding that is not zero
        (b"\x3e\2\0\0\1\0", "sent"),  # unknown, to be passed over
        (b"\x7e\2\0\0\1\0", None),  # unknown, to be dropped
        (b"\xbe\2\0\0\1\0", (2, 42)),  # unknown, to be reported
        (b"\1\0\xbe\2\0\0", (2, 44)),
        (b"\xc2\4\0\0\0\1", (0, 44)),  # a jumbogram that is none
    ],
)
def test_hop_by_hop_options(body: bytes, told: object) -> None:
    host = Host()
    inner = datagram("fd10::9", "fd20::7")[40:]
    sent = host.receive("eth0", ip("fd10::9", "fd20::7", 0, ipv6.extension(17, body) + inner))
    if told == "sent":
        assert host.verdict == "sent"
        return
    assert host.verdict is Reason.OPTIONS and host.walk[:1] != [("PREROUTING", "eth0", "")]
    assert [(seen(each.packet).code, seen(each.packet).rest) for each in sent] == ([told] if told else [])


def test_ipv6_switched_off() -> None:
    host = Host({"net.ipv6.conf.eth0.disable_ipv6": 1})
    assert host.receive("eth0", segment("fd10::9", "fd20::7")) == [] and host.verdict is Reason.DISABLED
    assert host.receive("eth1", segment("fd20::9", "fd10::7")) == [] and host.verdict is Reason.DISABLED


def test_broadcasts_are_marked_and_not_forwarded() -> None:
    host = Host()
    marks = []
    host.hooked["INPUT"] = lambda skb: marks.append(skb.broadcast)  # type: ignore[func-returns-value]
    host.receive("eth0", datagram("10.0.0.9", "10.0.0.255"))
    host.receive("eth0", datagram("10.0.0.9", "10.0.0.1"))
    host.receive("eth0", datagram("fe80::9", "ff02::1"))
    assert marks == [True, False, True]


def test_link_local_destinations_stay_on_their_link() -> None:
    host = Host()
    (sent,) = host.receive("eth0", segment("fe80::9", "fe80::77"))
    assert (sent.device, sent.next_hop) == ("eth0", packed("fe80::77"))


def test_routes_by_a_device_that_is_down_are_gone() -> None:
    host = Host(routes=(*ROUTES, Route("10.44.0.0/16", "eth9")))
    (sent,) = host.receive("eth1", segment("192.168.1.7", "10.44.0.1"))
    assert sent.next_hop == packed("10.0.0.254")


@pytest.mark.parametrize("destination", ["10.0.0.255", "224.0.0.1"])
def test_the_host_hears_what_it_sends_to_everybody(destination: str) -> None:
    host = Host()
    (sent,) = host.send(datagram("10.0.0.1", destination))
    assert host.walk == [
        ("OUTPUT", "", "eth0"), ("POSTROUTING", "", "eth0"), ("POSTROUTING", "", "eth0"),
        ("PREROUTING", "eth0", ""), ("INPUT", "eth0", ""),
    ]  # fmt: skip
    assert (sent.device, host.verdict) == ("eth0", "sent")


def test_other_groups_are_not_heard() -> None:
    host = Host()
    host.send(datagram("10.0.0.1", "239.1.2.3"))
    assert host.walk == [("OUTPUT", "", "eth0"), ("POSTROUTING", "", "eth0")]


def test_a_routes_mtu_counts_for_ipv6_when_the_packet_leaves() -> None:
    host = Host(routes=(*ROUTES, Route("fd60::/16", "eth1", "fd20::9", mtu=1300)))
    for size, ttl, mtu in ((1300, 63, 1300), (1500, 64, 1500)):
        (sent,) = host.receive("eth0", datagram("fd10::9", "fd60::1", b"x" * size))
        answer = seen(sent.packet)
        assert (answer.kind, answer.rest, answer.body[7]) == (2, mtu, ttl)


def test_a_full_timestamp_option_counts_who_found_no_room() -> None:
    host = Host()
    (sent,) = host.receive("eth0", datagram("10.0.0.9", "192.168.1.7", options=b"\x44\4\5\x10"))
    assert sent.packet[20:24] == b"\x44\4\5\x20" and ipv4.valid(sent.packet)
    assert host.receive("eth0", datagram("10.0.0.9", "192.168.1.7", options=b"\x44\4\5\xf0")) != []
    assert host.verdict is Reason.OPTIONS


@pytest.mark.parametrize(("locked", "forwarded"), [(False, True), (True, False)])
def test_a_path_mtu_counts_for_own_packets_and_only_if_locked_for_others(locked: bool, forwarded: bool) -> None:
    host = Host()
    host.routing.four.learn_path_mtu(packed("192.168.1.7"), 600, locked, host.now + 10)
    large = b"x" * 800
    assert len(host.send(datagram("192.168.1.1", "192.168.1.7", large))) == 2
    host.receive("eth0", datagram("10.0.0.9", "192.168.1.7", large, df=True))
    assert host.verdict == ("sent" if forwarded else Reason.TOO_BIG)
    host.now += 11
    assert len(host.send(datagram("192.168.1.1", "192.168.1.7", large))) == 1
