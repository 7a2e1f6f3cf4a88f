"""Packets and settings that tests/fuzz found, each with what the kernel does with it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.session import Session
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats import iptables_save
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.route import Route
from ipvsctl.model.service import Server, Service
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed

DEVICES = (
    Device("eth0", ("10.0.1.1/24", "fd00:1::1/64", "192.168.1.100/32", "2001:db8::100/128")),
    Device("eth1", ("10.0.2.1/24", "fd00:2::1/64")),
)
CLIENT, VIP, SERVER = packed("10.0.1.2"), packed("192.168.1.100"), packed("10.0.2.2")
CLIENT6, VIP6, SERVER6 = packed("fd00:1::2"), packed("2001:db8::100"), packed("fd00:2::2")
FORWARDS = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


def director(*wishes: ServiceWish, **more: Any) -> Engine:
    sysctls = FORWARDS | more.pop("sysctls", {})
    routes = (Route("0.0.0.0/0", "eth0", "10.0.1.254"),)
    return Engine(Snapshot(DEVICES, routes, sysctls=sysctls, services=wishes, **more), random.Random(1).randrange)


def service(protocol: str = "udp", forward: str = "nat", family: int = INET, **more: Any) -> ServiceWish:
    vip, server = ("192.168.1.100", "10.0.2.2") if family == INET else ("2001:db8::100", "fd00:2::2")
    address = ServiceAddress.of(protocol, vip, 53)
    return ServiceWish(Service(address, "rr", **more), (Server(ServerAddress.of(server, 53), forward),))


def test_a_later_fragment_quoted_in_an_icmpv6_error_has_no_header_to_read() -> None:
    """ipv6_find_hdr: -ENOENT when an extension header would follow a later fragment's; IPVS lets the error pass."""
    quoted = ipv6.build(VIP6, CLIENT6, ipv6.FRAGMENT, ipv6.fragment_header(ipv6.FRAGMENT, 10704, True, 1))
    assert icmp.embedded(quoted, 0) is None
    assert icmp.embedded(quoted + b"\0\0\0\1" + bytes(4), 0) is None
    engine = director(service(family=INET6))
    packet = bytes.fromhex(
        "6ffdf22100383a4020010db8007700000000000000000007fd00000100000000000000000000000305041e168830e3b3603e912500382cfd"
        "fd000001000000000000000000000003fd0000030000000000000000000000042c000031d50a2b71"
    )
    engine.receive("eth1", packet, 1.0)
    assert isinstance(engine.verdict, Reason) or engine.verdict


def test_a_mobility_header_is_a_transport() -> None:
    """exthdrs_core.c: ipv6_ext_hdr does not name it, so rules and conntrack see protocol 135."""
    packet = ipv6.build(CLIENT6, VIP6, 135, bytes((59, 0)) + bytes(6))
    skb = Skb(packet)
    assert (skb.protocol, skb.thoff) == (135, 40)
    assert [kind for kind, _, _ in ipv6.extensions(packet)] == [135]


def test_the_header_checksum_counts_on_the_loopback_device_too() -> None:
    """ip_rcv_core asks ip_fast_csum whatever the device; what the host sends itself is sealed."""
    engine = director()
    packet = ipv4.build(packed("127.0.0.1"), packed("127.0.0.1"), 1, icmp.build(bytes(4), bytes(4), 8, 0, b"abcd"))
    packet[10] ^= 1
    assert engine.receive("lo", bytes(packet), 1.0) == []
    assert engine.verdict is Reason.HEADER
    packet[10] ^= 1
    engine.send(bytes(packet), 2.0)
    assert engine.drops[Reason.HEADER] == 1
    assert engine.verdict == "delivered"


@pytest.mark.parametrize("df", [False, True])
def test_an_error_about_a_tunnel_ends_at_the_director(df: bool) -> None:
    """ip_vs_in_icmp: NF_STOLEN after the client got its own error, or none when it may be fragmented."""
    engine = director(service(forward="tun"))
    body = udp.build(CLIENT, VIP, 40000, 53, bytes(100))
    (sent,) = engine.receive("eth0", bytes(ipv4.build(CLIENT, VIP, 17, body, df=df)), 1.0)
    error = icmp.build(SERVER, packed("10.0.2.1"), 3, 4, b"\0\0\x05\x14", sent.packet[:548])
    told = engine.receive("eth1", bytes(ipv4.build(SERVER, packed("10.0.2.1"), 1, error)), 1.1)
    assert engine.verdict == "delivered"
    assert [output.packet[16:20] for output in told] == ([CLIENT] if df else [])


def test_a_setting_that_is_a_list_of_ranges() -> None:
    """proc_do_large_bitmap, cpulist: no single number; the texts are read where they matter."""
    engine = director()
    engine.settings.write("net.ipv6.icmp.ratemask", "0-1,3-127")
    assert engine.settings.text["net.ipv6.icmp.ratemask"] == "0-1,3-127"
    engine.settings.write("net.ipv4.vs.est_cpulist", "")
    engine.settings.write("net.ipv4.vs.amemthresh", "-5")
    assert engine.settings["net.ipv4.vs.amemthresh"] == -5


def test_a_tcp_header_that_ends_before_its_flags_is_explained() -> None:
    """A rule that drops it as INVALID (nf_conntrack_tcp: short packet) is a reason to look at the flags it has not."""
    text = "*filter\n-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
    wish = ServiceWish(Service(ServiceAddress.of("tcp", "192.168.1.100", 80), "rr"), service().servers)
    engine = director(wish, tables=iptables_save.parse(text, INET))
    opened = tcp.build(CLIENT, VIP, 40923, 80, tcp.SYN, 1, 0, 100)
    for number, segment in enumerate((opened, opened[:8])):
        walk = Session(engine, "eth0", ("10.0.1.2", 40923), ("192.168.1.100", 80)).pass_through(
            "a segment", bytes(ipv4.build(CLIENT, VIP, 6, segment)), "eth0"
        )
        assert (walk.verdict is Reason.RULE) == bool(number)
        explain(engine, walk)
