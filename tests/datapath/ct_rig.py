"""Conntrack alone: an engine that has a clock, settings, timers and a hook, and packets to put through it."""

from __future__ import annotations

import random
from typing import Any

from ipvsctl.datapath.ct.table import Conntrack
from ipvsctl.datapath.hooks import LOCAL_IN, PRE_ROUTING
from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.skb import TCP, UDP, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.trace import STATES
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.status import ConntrackEntry
from ipvsctl.wire import ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed

CLIENT, SERVER, OTHER = "10.0.0.2", "192.168.1.100", "10.0.0.3"


class Rig:
    """`ct` and what it needs. Every `pass_` of a packet is a walk from PREROUTING to the confirmation."""

    def __init__(self, **settings: int) -> None:
        names = {f"net.netfilter.nf_conntrack_{name}": str(value) for name, value in settings.items()}
        self.now = 1000.0
        self.settings = Settings(names)
        self.timers = Timers()
        self.tracer: Any = None
        self.random = random.Random(7).randrange
        self.modules: set[str] = set()
        self.rebuilt = 0
        self.ct = Conntrack(self)

    def rebuild(self) -> None:
        self.rebuilt += 1

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.timers.poll(self.now)

    def enter(self, packet: bytes, template: dict[str, object] | None = None) -> Skb:
        """Only come in."""
        skb = Skb(bytearray(packet), "eth0")
        skb.hook, skb.template = PRE_ROUTING, template
        self.verdict = self.ct.conntrack_in(skb)
        return skb

    def walk(self, packet: bytes, template: dict[str, object] | None = None) -> str:
        """Come in and through; the state that rules see, or the reason of a drop."""
        skb = self.enter(packet, template)
        if self.verdict is None:
            skb.hook = LOCAL_IN
            self.verdict = self.ct.confirm(skb)
        if self.verdict is not None:
            assert isinstance(self.verdict, Reason)
            return self.verdict.name
        return STATES.get(skb.ctinfo, "INVALID")

    @property
    def only(self) -> ConntrackEntry:
        """The only entry as it is listed."""
        (entry,) = self.ct.report()
        return entry


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    a, b = packed(source), packed(destination)
    build = ipv4.build if len(a) == 4 else ipv6.build
    return bytes(build(a, b, protocol, payload))


def tcp_packet(
    flags: int, seq: int, ack: int = 0, *, source: str = CLIENT, destination: str = SERVER, sport: int = 40000,
    dport: int = 80, window: int = 65535, payload: bytes = b"", options: bytes = b"",
) -> bytes:  # fmt: skip
    segment = tcp.build(
        packed(source), packed(destination), sport, dport, flags, seq % 2**32, ack % 2**32, window, payload, options
    )
    return ip(source, destination, TCP, bytes(segment))


def udp_packet(
    source: str = CLIENT, destination: str = SERVER, sport: int = 5000, dport: int = 53, payload: bytes = b"?"
) -> bytes:
    return ip(source, destination, UDP, bytes(udp.build(packed(source), packed(destination), sport, dport, payload)))


class Talk:
    """Both ends of a TCP connection, which count for themselves. `c` and `s` send; the state comes back."""

    def __init__(self, rig: Rig, sport: int = 40000, client: int = 1000, server: int = 5000) -> None:
        self.rig = rig
        self.sport = sport
        self.seq = {"c": client, "s": server}

    def packet(self, who: str, flags: int, payload: bytes = b"", **more: Any) -> bytes:
        mine, theirs = self.seq[who], self.seq["s" if who == "c" else "c"]
        ends: dict[str, Any] = {"sport": self.sport}
        if who == "s":
            ends = {"source": SERVER, "destination": CLIENT, "sport": 80, "dport": self.sport}
        seq, ack = more.pop("seq", mine), more.pop("ack", theirs if flags & 16 else 0)
        return tcp_packet(flags, seq, ack, payload=payload, **ends, **more)

    def send(self, who: str, flags: int, payload: bytes = b"", **more: Any) -> str:
        packet = self.packet(who, flags, payload, **more)
        self.seq[who] = (self.seq[who] + len(payload) + bool(flags & 2) + bool(flags & 1)) % 2**32
        return self.rig.walk(packet)

    def c(self, flags: int, payload: bytes = b"", **more: Any) -> str:
        return self.send("c", flags, payload, **more)

    def s(self, flags: int, payload: bytes = b"", **more: Any) -> str:
        return self.send("s", flags, payload, **more)

    def open(self, **more: Any) -> Talk:
        assert self.c(2, **more) == "NEW"
        assert self.s(18, **more) == "ESTABLISHED"
        assert self.c(16) == "ESTABLISHED"
        return self

    @property
    def state(self) -> str:
        return self.rig.only.state
