"""The nat hooks on the real connection table: bindings, targets, routing again, masquerading, the table by source."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from ipvsctl.datapath.ct import seqadj
from ipvsctl.datapath.ct.entry import DST_NAT, DST_NAT_DONE, SRC_NAT, SRC_NAT_DONE, parts
from ipvsctl.datapath.ct.nat import Nat
from ipvsctl.datapath.ct.table import Conntrack
from ipvsctl.datapath.hooks import LOCAL_IN, LOCAL_OUT, POST_ROUTING, PRE_ROUTING
from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.skb import ESTABLISHED, ESTABLISHED_REPLY, NEW, RELATED_REPLY, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.snapshot import Device
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed
from ipvsctl.wire.transport import verify

CLIENT, SERVER, PUBLIC, INSIDE = (packed(a) for a in ("10.0.0.7", "192.0.2.80", "198.51.100.1", "10.0.0.80"))
CLIENT6, SERVER6, PUBLIC6 = (packed(a) for a in ("fd00::7", "2001:db8::80", "2001:db8:1::1"))
DONE = SRC_NAT_DONE | DST_NAT_DONE


@dataclass
class Route:
    gateway: bytes = b""


class World:
    """An engine with a real connection table and nat, and a nat table that is one function per hook."""

    def __init__(self):
        self.now = 100.0
        self.settings = Settings({})
        self.timers = Timers()
        self.tracer = None
        self.modules = set()
        self.rules = {}
        self.consulted = []
        self.numbers = iter(range(5000, 6000))
        self.rerouted = []
        self.routable = True
        self.tables = SimpleNamespace(nat=self._table)
        self.ip = SimpleNamespace(route_me_harder=self._route)
        self.routing = SimpleNamespace(
            select_source=self._select_source,
            devices={
                "lo": Device("lo", ("127.0.0.1/8", "::1/128")),
                "eth0": Device("eth0", ("fe80::1/64", "10.0.0.254/24", "10.0.0.253/24", "fd00::fe/64")),
                "bare": Device("bare"),
            },
        )
        self.sources = {}
        self.ct = Conntrack(self)
        self.nat = Nat(self)

    def random(self, below):
        return next(self.numbers) % below

    def rebuild(self):
        pass

    def _table(self, skb):
        self.consulted.append(skb.hook)
        rule = self.rules.get(skb.hook)
        return None if rule is None else rule(skb)

    def _route(self, skb, local):
        assert not local
        self.rerouted.append((skb.source, skb.destination))
        return self.routable

    def _select_source(self, device, destination):
        return self.sources.get((device, destination), b"")

    def forwarded(self, skb, device="eth1", confirm=True):
        """PREROUTING, POSTROUTING and the confirmation."""
        return self.begun(skb) or self.finished(skb, device, confirm)

    def begun(self, skb):
        skb.hook = PRE_ROUTING
        return self.ct.conntrack_in(skb) or self.nat.pre_routing(skb)

    def finished(self, skb, device="eth1", confirm=True):
        skb.hook, skb.outdev = POST_ROUTING, device
        return self.nat.post_routing(skb) or (self.ct.confirm(skb) if confirm else None)


def syn(source=CLIENT, sport=40000, destination=SERVER, dport=80, flags=2, **more) -> Skb:
    build = ipv4.build if len(source) == 4 else ipv6.build
    segment = tcp.build(source, destination, sport, dport, flags, 1, 1, 1000, **more)
    return Skb(build(source, destination, 6, segment), "eth0")


def datagram(source=CLIENT, sport=40000, destination=SERVER, dport=53) -> Skb:
    return Skb(ipv4.build(source, destination, 17, udp.build(source, destination, sport, dport, b"?")), "eth0")


def ends(skb) -> tuple:
    return skb.source, skb.sport, skb.destination, skb.dport


@pytest.fixture
def world():
    return World()


def snat(world, address, ports=None, flags=(), **more):
    return lambda skb: world.nat.setup(skb.ct, "src", address, address, ports, flags, **more)


def dnat(world, address, ports=None, flags=(), **more):
    return lambda skb: world.nat.setup(skb.ct, "dst", address, address, ports, flags, **more)


def test_without_an_entry_nothing_happens(world):
    for hook in (world.nat.pre_routing, world.nat.local_in, world.nat.local_out, world.nat.post_routing):
        assert hook(syn()) is None
    assert not world.consulted


def test_null_bindings(world):
    skb = syn()
    before = bytes(skb.data)
    assert world.forwarded(skb) is None
    assert bytes(skb.data) == before
    assert world.consulted == [PRE_ROUTING, POST_ROUTING]
    assert skb.ct.status & (SRC_NAT | DST_NAT | DONE) == DONE
    # A null binding that keeps everything is in no table and costs nothing.
    assert skb.ct.nat is None
    again = syn()
    assert world.forwarded(again) is None
    assert again.ct is skb.ct
    assert again.ctinfo == NEW
    assert len(world.consulted) == 2


def test_snat_both_ways(world):
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    skb = syn()
    assert world.forwarded(skb) is None
    assert ends(skb) == (PUBLIC, 40000, SERVER, 80)
    assert verify(skb.data, 2, 6, skb.thoff, skb.source, skb.destination)
    assert skb.ct.status & (SRC_NAT | DST_NAT | DONE) == SRC_NAT | DONE
    back = syn(SERVER, 80, PUBLIC, 40000, flags=18)
    assert world.begun(back) is None
    assert back.ctinfo == ESTABLISHED_REPLY
    assert ends(back) == (SERVER, 80, CLIENT, 40000)
    assert world.finished(back) is None
    assert ends(back) == (SERVER, 80, CLIENT, 40000)
    third = syn(flags=16)
    assert world.forwarded(third) is None
    assert third.ctinfo == ESTABLISHED
    assert ends(third) == (PUBLIC, 40000, SERVER, 80)


def test_dnat_both_ways_and_the_route_is_dropped(world):
    world.rules[PRE_ROUTING] = dnat(world, INSIDE, (8080, 8080))
    skb = syn()
    skb.dst = Route()
    assert world.begun(skb) is None
    assert ends(skb) == (CLIENT, 40000, INSIDE, 8080)
    assert skb.dst is None
    assert world.finished(skb) is None
    back = syn(INSIDE, 8080, CLIENT, 40000, flags=18)
    back.dst = Route()
    assert world.begun(back) is None
    assert back.dst is not None
    assert world.finished(back) is None
    assert ends(back) == (SERVER, 80, CLIENT, 40000)


def test_ipv6(world):
    world.rules[POST_ROUTING] = snat(world, PUBLIC6)
    skb = syn(CLIENT6, 40000, SERVER6)
    assert world.forwarded(skb) is None
    assert ends(skb) == (PUBLIC6, 40000, SERVER6, 80)
    assert verify(skb.data, 10, 6, skb.thoff, PUBLIC6, SERVER6)
    back = syn(SERVER6, 80, PUBLIC6, 40000, flags=18)
    assert world.forwarded(back) is None
    assert ends(back) == (SERVER6, 80, CLIENT6, 40000)


def test_two_clients_with_one_port(world):
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    first, second = syn(), syn(source=packed("10.0.0.8"))
    assert world.forwarded(first) is None
    assert world.forwarded(second) is None
    # 1024 + 5000 % 64512
    assert ends(second) == (PUBLIC, 6024, SERVER, 80)


def test_same_source_keeps_its_mapping_towards_others(world):
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    assert world.forwarded(datagram(source=packed("10.0.0.8"))) is None
    mapped = datagram()
    assert world.forwarded(mapped) is None
    assert mapped.sport == 6024
    # Towards another server the port 40000 is free, but the source is mapped already.
    other = datagram(destination=packed("192.0.2.81"))
    assert world.forwarded(other) is None
    assert ends(other) == (PUBLIC, 6024, packed("192.0.2.81"), 53)


def test_mapping_ends_with_its_connections(world):
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    assert world.forwarded(datagram(source=packed("10.0.0.8"))) is None
    assert world.forwarded(datagram()) is None
    dropped = datagram(destination=packed("192.0.2.82"))
    assert world.forwarded(dropped, confirm=False) is None
    assert sum(map(len, world.nat._by_source.values())) == 3
    gc.disable()  # Nothing may wait for the collector of cycles.
    try:
        del dropped
        assert sum(map(len, world.nat._by_source.values())) == 2
        world.ct.flush()
        assert not world.nat._by_source
    finally:
        gc.enable()
    other = datagram(destination=packed("192.0.2.81"))
    assert world.forwarded(other) is None
    assert other.sport == 40000


def test_null_binding_gives_way_on_a_clash(world):
    """A connection that would look like another one's replies gets another source port, without any rule."""
    world.rules[PRE_ROUTING] = lambda skb: dnat(world, INSIDE, (80, 80))(skb) if skb.destination == SERVER else None
    assert world.forwarded(syn()) is None
    direct = syn(destination=INSIDE)
    assert world.forwarded(direct) is None
    assert ends(direct) == (CLIENT, 6024, INSIDE, 80)
    assert direct.ct.status & (SRC_NAT | DST_NAT) == SRC_NAT
    assert world.ct.count == 2


def test_setup_of_a_confirmed_or_translated_connection(world):
    skb = syn()
    assert world.forwarded(skb) is None
    reply = skb.ct.reply
    assert world.nat.setup(skb.ct, "src", PUBLIC, None, None) is None
    assert skb.ct.reply == reply
    fresh = syn(sport=1)
    assert world.begun(fresh) is None
    assert world.nat.setup(fresh.ct, "dst", PUBLIC, None, None) is Reason.NAT


def test_drop_in_the_table_ends_the_walk(world):
    world.rules[PRE_ROUTING] = lambda skb: Reason.RULE
    assert world.begun(syn()) is Reason.RULE


def test_local_out_routes_again_only_for_a_new_destination(world):
    skb = syn()
    skb.hook = LOCAL_OUT
    assert world.ct.conntrack_in(skb) is None
    assert world.nat.local_out(skb) is None
    assert not world.rerouted
    world.rules[LOCAL_OUT] = dnat(world, INSIDE)
    skb = syn(sport=2)
    skb.hook = LOCAL_OUT
    assert world.ct.conntrack_in(skb) is None
    assert world.nat.local_out(skb) is None
    assert world.rerouted == [(CLIENT, INSIDE)]
    world.routable = False
    assert world.nat.local_out(skb) is Reason.NO_ROUTE


def test_local_out_routes_what_ipvs_sends(world):
    """A reply tuple that IPVS has altered counts as a translated destination, though no bit is set."""
    skb = syn()
    skb.hook = LOCAL_IN
    assert world.begun(skb) is None
    world.ct.alter_reply(skb.ct, world.ct.invert(world.ct.invert(skb.ct.reply)[:5] + INSIDE + skb.ct.original[9:]))
    skb.set_destination(INSIDE)
    skb.hook = LOCAL_OUT
    assert world.nat.local_out(skb) is None
    assert world.rerouted == [(CLIENT, INSIDE)]
    assert ends(skb) == (CLIENT, 40000, INSIDE, 80)


def test_input_translates_the_source(world):
    world.rules[LOCAL_IN] = snat(world, PUBLIC)
    skb = syn()
    assert world.begun(skb) is None
    skb.hook = LOCAL_IN
    assert world.nat.local_in(skb) is None
    assert ends(skb) == (PUBLIC, 40000, SERVER, 80)


def test_icmp_error_finds_the_client(world):
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    sent = syn()
    assert world.forwarded(sent) is None
    router = packed("203.0.113.1")
    message = icmp.build(router, PUBLIC, 3, 4, b"\0\0\5\0", sent.data[:28])
    error = Skb(ipv4.build(router, PUBLIC, 1, message), "eth1")
    assert world.begun(error) is None
    assert error.ctinfo == RELATED_REPLY
    assert error.destination == CLIENT
    assert world.finished(error, "eth0") is None
    inside = Skb(error.data[error.thoff + 8 :] + bytes(len(sent.data) - 28))
    assert ends(inside) == (CLIENT, 40000, SERVER, 80)


# -- targets ----------------------------------------------------------------------------------------------------------


def test_masquerade(world):
    world.sources[("eth1", packed("203.0.113.1"))] = PUBLIC
    world.rules[POST_ROUTING] = lambda skb: world.nat.masquerade(skb, None)
    skb = syn()
    skb.dst = Route(packed("203.0.113.1"))
    assert world.forwarded(skb) is None
    assert ends(skb) == (PUBLIC, 40000, SERVER, 80)
    assert skb.ct.nat.device == "eth1"


def test_masquerade_that_changes_its_device_ends(world):
    world.sources[("eth1", SERVER)] = PUBLIC
    world.rules[POST_ROUTING] = lambda skb: world.nat.masquerade(skb, None)
    assert world.forwarded(syn()) is None
    back = syn(SERVER, 80, PUBLIC, 40000, flags=18)
    assert world.forwarded(back, "eth0") is None
    assert world.forwarded(syn(flags=16), "eth1") is None
    assert world.ct.count == 1
    assert world.forwarded(syn(flags=16), "eth2") is Reason.NAT_DEVICE
    assert world.ct.count == 0


def test_masquerade_without_an_address(world):
    world.rules[POST_ROUTING] = lambda skb: world.nat.masquerade(skb, None)
    assert world.forwarded(syn()) is Reason.NAT
    nobody = syn(source=bytes(4))
    assert world.forwarded(nobody) is None
    assert nobody.source == bytes(4)


def test_masquerade_with_ports(world):
    world.sources[("eth1", SERVER)] = PUBLIC
    world.rules[POST_ROUTING] = lambda skb: world.nat.masquerade(skb, (100, 109), {"random"})
    skb = syn(sport=105)
    assert world.forwarded(skb) is None
    # Random even though 105 is free: 5000 % 10.
    assert skb.sport == 100


@pytest.mark.parametrize(
    ("hook", "device", "source", "expected"),
    [
        (PRE_ROUTING, "eth0", CLIENT, "10.0.0.254"),
        (PRE_ROUTING, "eth0", CLIENT6, "fd00::fe"),
        (LOCAL_OUT, "", CLIENT, "127.0.0.1"),
        (LOCAL_OUT, "", CLIENT6, "::1"),
        (PRE_ROUTING, "bare", CLIENT, None),
        (PRE_ROUTING, "gone", CLIENT, None),
    ],
)
def test_redirect(world, hook, device, source, expected):
    skb = syn(source, 40000, SERVER if len(source) == 4 else SERVER6)
    skb.hook, skb.indev = hook, device
    assert world.ct.conntrack_in(skb) is None
    verdict = world.nat.redirect(skb, (3128, 3128))
    if expected is None:
        assert verdict is Reason.NAT
    else:
        assert verdict is None
        assert parts(world.ct.invert(skb.ct.reply))[2:] == (packed(expected), 40000, 3128)


def test_netmap(world):
    low, high = packed("172.16.5.0"), packed("172.16.5.255")
    world.rules[PRE_ROUTING] = lambda skb: world.nat.netmap(skb, low, high)
    skb = syn()
    assert world.begun(skb) is None
    assert skb.destination == packed("172.16.5.80")
    world.rules[POST_ROUTING] = lambda skb: world.nat.netmap(skb, low, high)
    assert world.finished(skb) is None
    assert skb.source == packed("172.16.5.7")


def test_shifted_ports(world):
    world.rules[PRE_ROUTING] = dnat(world, INSIDE, (1000, 1099), base=3000)
    skb = syn(dport=3042)
    assert world.begun(skb) is None
    assert skb.dport == 1042


def test_follow_master(world):
    """An active FTP data connection to a client behind SNAT."""
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    control = syn(dport=21)
    assert world.forwarded(control) is None
    data = syn(SERVER, 20, PUBLIC, 1234)
    data.hook = PRE_ROUTING
    assert world.ct.conntrack_in(data) is None
    data.ct.master = control.ct
    world.nat.follow_master(data.ct, direction=0, port=5678)
    assert data.ct.status & DONE == DONE
    # The destination becomes the client; the source is what the master's commands go to: the server itself.
    assert parts(world.ct.invert(data.ct.reply)) == (6, SERVER, CLIENT, 20, 5678)
    assert data.ct.status & (SRC_NAT | DST_NAT) == DST_NAT


# -- payload ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", [b"longer than before", b"x", b"", b"same."])
@pytest.mark.parametrize("six", [False, True])
def test_mangle_tcp(world, replacement, six):
    skb = syn(*((CLIENT6, 5, SERVER6, 21) if six else (CLIENT, 5, SERVER, 21)), payload=b"PORT 12345 end")
    assert world.begun(skb) is None
    assert world.nat.mangle_tcp(skb, skb.ct, 5, 5, replacement)
    again = Skb(bytearray(skb.data))
    assert again.data == skb.data
    assert skb.data[skb.thoff + 20 :] == b"PORT " + replacement + b" end"
    assert verify(skb.data, skb.family, 6, skb.thoff, skb.source, skb.destination)
    assert six or ipv4.valid(skb.data)


def test_mangle_tcp_records_the_change_of_the_packets_direction(world):
    world.ct.settings["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    skb = syn(dport=21, payload=b"abc")
    assert world.forwarded(skb) is None
    seqadj.ensure(skb.ct)
    back = syn(SERVER, 21, CLIENT, 40000, flags=18, payload=b"227 x")
    assert world.begun(back) is None
    assert world.nat.mangle_tcp(back, back.ct, 4, 1, b"yyyy")
    assert seqadj.offset(back.ct, 1, 2) == 3
    assert seqadj.offset(back.ct, 0, 2) == 0


@pytest.mark.parametrize(("offset", "length"), [(0, 4), (4, 0), (-1, 2), (0, -1), (3, 1)])
def test_mangle_tcp_outside_of_the_payload(world, offset, length):
    skb = syn(payload=b"abc")
    assert not world.nat.mangle_tcp(skb, None, offset, length, b"?")


def test_mangle_tcp_that_makes_it_too_long(world):
    skb = syn(payload=bytes(65000))
    assert not world.nat.mangle_tcp(skb, None, 0, 1, bytes(600))


def test_trace(world):
    world.tracer = Tracer()
    world.rules[POST_ROUTING] = snat(world, PUBLIC)
    sent = syn(payload=b"abc")
    assert world.forwarded(sent) is None
    assert world.nat.mangle_tcp(sent, sent.ct, 0, 1, b"xy")
    router = packed("203.0.113.1")
    error = Skb(ipv4.build(router, PUBLIC, 1, icmp.build(router, PUBLIC, 11, 0, bytes(4), sent.data[:28])), "eth1")
    assert world.begun(error) is None
    notes = [note for step in world.tracer.steps for note in step.notes]
    assert [note for note in notes if "conntrack" not in note] == [
        "address translation makes it tcp 198.51.100.1:40000 > 192.0.2.80:80 S",
        "payload rewritten: 1 bytes become 'xy'",
        "address translation makes it icmp 203.0.113.1 > 10.0.0.7 type 11 code 0, its quotation likewise",
    ]
