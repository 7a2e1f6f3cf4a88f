"""Replies in the hooks of IPVS, and the facade: hooks in use, changes, time, trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipvsctl.datapath.hooks import FORWARD, LOCAL_IN, LOCAL_OUT
from ipvsctl.datapath.skb import ACK, RST, SYN, Skb
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import Conn
from ipvsctl.datapath.vs.states_tcp import SYN_RECV
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    EditServer,
    SetTimeouts,
    ZeroCounters,
)
from ipvsctl.model.service import Service
from ipvsctl.model.status import Timeouts
from ipvsctl.wire import transport
from ipvsctl.wire.address import packed, readable
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


def good(skb: Skb) -> bool:
    """Whether every checksum of a packet is right."""
    fresh = Skb(bytearray(skb.data))
    return transport.verify(fresh.data, fresh.family, fresh.protocol, fresh.thoff, fresh.source, fresh.destination)


def opened(host: Host, skb: Skb) -> Conn:
    assert host.give(skb) is Reason.STOLEN
    conns = list(host.vs.conns)
    assert conns
    return conns[-1]


def reply(flags: int, **others: object) -> Skb:
    return tcp_packet(flags, SERVER, CLIENT, 8080, 40000, indev="eth1", dst=FORWARD_ROUTE, **others)


# -- replies


def test_a_reply_gets_the_virtual_address_and_a_new_route() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    conn = opened(host, tcp_packet(SYN))
    skb = reply(SYN | ACK)
    assert host.give_back(skb, FORWARD) is None
    assert (skb.source, skb.sport, skb.ipvs) == (packed(VIRTUAL), 80, True)
    assert good(skb) and skb.ttl == 64
    assert host.rerouted == [skb]
    assert conn.state == SYN_RECV
    stats = host.vs.report()[0]
    assert (stats.stats.packets_out, stats.stats.bytes_out) == (1, 40)


@pytest.mark.parametrize(
    ("setting", "hook", "rerouted"),
    [("1", FORWARD, True), ("1", LOCAL_OUT, True), ("1", LOCAL_IN, False), ("0", FORWARD, False)],
)
def test_snat_reroute(setting: str, hook: int, rerouted: bool) -> None:
    host = Host({"snat_reroute": setting})
    host.service(TCP_SERVICE, server())
    opened(host, tcp_packet(SYN))
    assert host.give_back(reply(SYN | ACK), hook) is None
    assert bool(host.rerouted) == rerouted


def test_snat_reroute_without_a_route_drops() -> None:
    host = Host()
    host.reroutable = False
    host.service(TCP_SERVICE, server())
    opened(host, tcp_packet(SYN))
    assert host.give_back(reply(SYN | ACK), FORWARD) is Reason.NO_ROUTE


def test_a_reply_of_dr_is_only_counted() -> None:
    host = Host()
    host.service(TCP_SERVICE, server(f"{SERVER}:80", "dr"))
    conn = opened(host, tcp_packet(SYN))
    skb = tcp_packet(SYN | ACK, VIRTUAL, CLIENT, 80, 40000, indev="eth1", dst=FORWARD_ROUTE)
    before = bytes(skb.data)
    assert host.give_back(skb, FORWARD) is None
    assert bytes(skb.data) == before and skb.ipvs and not host.rerouted
    assert "no-output" not in host.vs.connections()[0].flags
    assert conn.state == SYN_RECV


def test_other_forwarded_packets_go_on() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    skb = reply(SYN | ACK)
    assert host.give_back(skb, FORWARD) is None
    assert skb.source == packed(SERVER) and not skb.ipvs


@pytest.mark.parametrize(("flags", "verdict"), [(ACK, Reason.IPVS_NO_CONNECTION), (RST, None), (RST | ACK, None)])
def test_nat_icmp_send(flags: int, verdict: Reason | None) -> None:
    host = Host({"nat_icmp_send": "1"})
    host.service(TCP_SERVICE, server())
    skb = reply(flags)
    assert host.give_back(skb, FORWARD) is verdict
    assert host.errors == ([(skb, 3, 3, 0)] if verdict else [])


def test_nat_icmp_send_is_for_nat_servers_only() -> None:
    host = Host({"nat_icmp_send": "1"})
    host.service(TCP_SERVICE, server(f"{SERVER}:8080", "dr"))
    assert host.give_back(reply(ACK), FORWARD) is None


def test_udp_reply_of_ipv6() -> None:
    host = Host()
    host.service(f"udp:[{VIRTUAL6}]:53", server(f"[{SERVER6}]:5353"))
    assert host.give(udp_packet(CLIENT6, VIRTUAL6)) is Reason.STOLEN
    skb = udp_packet(SERVER6, CLIENT6, 5353, 40000, indev="eth1", dst=FORWARD_ROUTE)
    assert host.give_back(skb, FORWARD) is None
    assert (skb.source, skb.sport) == (packed(VIRTUAL6), 53) and good(skb)


def test_esp_follows_the_isakmp_connection() -> None:
    host = Host()
    host.service(f"udp:{VIRTUAL}:500", server(f"{SERVER}:500"))
    assert host.give(packet(b"x" * 40, CLIENT, VIRTUAL, 50)) is None
    assert host.give(udp_packet(sport=500, dport=500)) is Reason.STOLEN
    skb = packet(b"x" * 40, CLIENT, VIRTUAL, 50)
    assert host.give(skb) is Reason.STOLEN
    assert skb.destination == packed(SERVER)


def isakmp(host: Host) -> Conn:
    host.service(f"udp:{VIRTUAL}:500", server(f"{SERVER}:500"), server(f"{SERVER[:-1]}3:500"))
    return opened(host, udp_packet(sport=500, dport=500))


def test_esp_replies_get_the_virtual_address() -> None:
    host = Host()
    conn = isakmp(host)
    skb = packet(b"x" * 40, readable(conn.daddr), CLIENT, 50, dst=FORWARD_ROUTE)
    assert host.give_back(skb, FORWARD) is None
    assert skb.source == packed(VIRTUAL) and skb.ipvs
    other = packet(b"x" * 40, OWN, CLIENT, 50, dst=FORWARD_ROUTE)
    assert host.give_back(other, FORWARD) is None
    assert other.source == packed(OWN) and not other.ipvs


@pytest.mark.parametrize("protocol", [1, 47])
def test_replies_of_other_protocols_go_on(protocol: int) -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    skb = packet(b"\x08" + b"x" * 40, SERVER, CLIENT, protocol, dst=FORWARD_ROUTE)
    assert host.give_back(skb, FORWARD) is None and not skb.ipvs


@pytest.mark.parametrize(("hook", "user"), [(LOCAL_IN, 3), (LOCAL_OUT, 4), (FORWARD, 5)])
@pytest.mark.parametrize(("offset", "more"), [(0, True), (64, False)])
def test_fragments_of_replies_wait_for_each_other(hook: int, user: int, offset: int, more: bool) -> None:
    host = Host()
    host.service(f"udp:{VIRTUAL}:53", server(f"{SERVER}:53"))
    assert host.give(udp_packet()) is Reason.STOLEN
    asked = []

    def gather(skb: Skb, user: int) -> Reason | None:
        asked.append(user)
        return Reason.FRAGMENT

    host.ip.gather = gather
    skb = udp_packet(SERVER, CLIENT, 53, 40000, dst=FORWARD_ROUTE)
    skb.fragment, skb.more = offset, more
    assert host.give_back(skb, hook) is Reason.FRAGMENT
    assert asked == [user]
    host.ip.gather = lambda skb, user: setattr(skb, "fragment", 0)
    assert host.give_back(skb, hook) is None
    assert skb.source == packed(VIRTUAL)


def test_a_reply_of_ports_alone_is_too_short_to_be_rewritten() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    opened(host, tcp_packet(SYN))
    ports = bytes(reply(ACK).data[20:24])
    assert host.give_back(packet(ports, SERVER, CLIENT, 6, dst=FORWARD_ROUTE), FORWARD) is Reason.TRUNCATED
    assert host.give_back(packet(ports[:3], SERVER, CLIENT, 6, dst=FORWARD_ROUTE), FORWARD) is None


@pytest.mark.parametrize("version", [4, 6])
def test_no_reroute_to_the_host_itself(version: int) -> None:
    host = Host()
    if version == 4:
        host.service(TCP_SERVICE, server())
        opened(host, tcp_packet(SYN))
        skb = reply(SYN | ACK)
    else:
        host.service(f"tcp:[{VIRTUAL6}]:80", server(f"[{SERVER6}]:8080"))
        opened(host, tcp_packet(SYN, CLIENT6, VIRTUAL6))
        skb = tcp_packet(SYN | ACK, SERVER6, CLIENT6, 8080, 40000)
    skb.dst = LOCAL_ROUTE
    assert host.give_back(skb, LOCAL_OUT) is None
    assert not host.rerouted and skb.ipvs


def test_nat_icmp_send_in_ipv6_and_to_strangers() -> None:
    host = Host({"nat_icmp_send": "1"})
    host.service(f"tcp:[{VIRTUAL6}]:80", server(f"[{SERVER6}]:8080"))
    skb = tcp_packet(ACK, SERVER6, CLIENT6, 8080, 40000, dst=FORWARD_ROUTE)
    assert host.give_back(skb, FORWARD) is Reason.IPVS_NO_CONNECTION
    assert host.errors == [(skb, 1, 4, 0)]
    assert host.give_back(tcp_packet(ACK, SERVER6, CLIENT6, 8081, 40000, dst=FORWARD_ROUTE), FORWARD) is None


# -- the facade


def test_hooks_are_there_while_a_family_has_services() -> None:
    host = Host()
    assert host.vs.hooks(INET) == host.vs.hooks(INET6) == frozenset()
    address = host.service(TCP_SERVICE)
    other = host.service(f"udp:{VIRTUAL}:80")
    assert host.vs.hooks(INET) == {"ipvs"} and host.vs.hooks(INET6) == frozenset()
    assert host.rebuilt == 1
    host.vs.delete_service(address)
    assert host.rebuilt == 1
    host.vs.delete_service(other)
    assert host.vs.hooks(INET) == frozenset() and host.rebuilt == 2


def test_changes_are_applied() -> None:
    host = Host()
    address = host.service(f"tcp:{VIRTUAL}:443")
    service = Service(address)
    host.vs.apply(DeleteService(service))
    host.vs.apply(AddService(service))
    host.vs.apply(AddServer(address, server()))
    host.vs.apply(EditServer(address, replace(server(), weight=5), server()))
    assert host.vs.report()[0].servers[0].server.weight == 5
    host.vs.apply(SetTimeouts(Timeouts(udp=7), Timeouts()))
    assert host.vs.conns.states.timeouts == Timeouts(900, 120, 7)
    host.give(tcp_packet(SYN, dport=443))
    assert host.vs.report()[0].stats.packets_in == 1
    host.vs.apply(ZeroCounters())
    assert host.vs.report()[0].stats.packets_in == 0
    host.vs.apply(DeleteServer(address, server()))
    assert not host.vs.report()[0].servers


def test_rates_are_polled() -> None:
    host = Host()
    assert host.vs.poll_at() is None
    host.service(TCP_SERVICE, server())
    assert host.vs.poll_at() is not None
    host.vs.poll(host.now)
    assert host.vs.poll_at() == host.now + 2


def test_the_trace_tells_what_happened() -> None:
    host = Host()
    host.service(TCP_SERVICE, server())
    host.tracer = Tracer()
    opened(host, tcp_packet(SYN))
    notes = "\n".join(note for step in host.tracer.steps for note in step.notes)
    assert "new connection 10.0.0.2:40000 to 192.168.1.100:80: server 172.16.0.2:8080 (nat)" in notes
    assert "rewritten: tcp 10.0.0.2:40000 > 192.168.1.100:80 S -> tcp 10.0.0.2:40000 > 172.16.0.2:8080 S" in notes
    host.tracer = Tracer()
    host.give(tcp_packet(ACK))
    notes = "\n".join(note for step in host.tracer.steps for note in step.notes)
    assert "known connection" in notes and "SYN_RECV" in notes
    host.tracer = Tracer()
    host.give(tcp_packet(ACK, sport=5))
    assert "does not open a connection" in host.tracer.steps[0].notes[0]
