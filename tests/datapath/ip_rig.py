"""A host without rules and services, whose hooks can be looked at; and packets to give it.

eth0 (10.0.0.1/24, fd10::1/64) is the world with the default route, eth1 (192.168.1.1/24, fd20::1/64) the inner network.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from ipvsctl.datapath.engine import Engine, Output
from ipvsctl.datapath.hooks import HOOK_NAMES, PRE_ROUTING
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed, readable

DEVICES = (
    Device("eth0", ("10.0.0.1/24", "fd10::1/64", "fe80::a/64")),
    Device("eth1", ("192.168.1.1/24", "fd20::1/64", "fe80::b/64")),
)
ROUTES = (Route("0.0.0.0/0", via="10.0.0.254"), Route("::/0", "eth0", "fd10::fe"))
FORWARD = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


class Host(Engine):
    """An engine. `walk`: the hooks passed, each with the devices that rules see; `hooked`: what is asked there."""

    def __init__(
        self,
        sysctls: dict[str, object] | None = None,
        *,
        devices: tuple[Device, ...] = DEVICES,
        routes: tuple[Route, ...] = ROUTES,
        policy: tuple[PolicyRule, ...] = (),
        defrag: bool = False,
    ) -> None:
        self.walk: list[tuple[str, str, str]] = []
        self.hooked: dict[str, Callable[[Skb], Verdict]] = {}
        values = {**FORWARD, **{name: str(value) for name, value in (sysctls or {}).items()}}
        snapshot = Snapshot(devices=devices, routes=routes, policy=policy, sysctls=values)
        super().__init__(snapshot, Random(1).randrange)
        self.now = 100.0
        if defrag:
            self.hooked = {"PREROUTING": self.ip.defrag, "OUTPUT": self.ip.defrag}

    def receive(self, device: str, packet: bytes | bytearray, now: float | None = None) -> list[Output]:
        self.walk = []
        return super().receive(device, bytes(packet), self.now if now is None else now)

    def send(self, packet: bytes | bytearray, now: float | None = None, mark: int = 0) -> list[Output]:
        self.walk = []
        return super().send(bytes(packet), self.now if now is None else now, mark)

    def run(self, hook: int, skb: Skb) -> bool:
        name = HOOK_NAMES[hook]
        self.walk.append((name, skb.indev, skb.outdev))
        if name in self.hooked:
            before, skb.hook = skb.hook, hook
            verdict = self.hooked[name](skb)
            skb.hook = before
            if verdict is not None:
                if verdict is not Reason.STOLEN:
                    self.drop(skb, verdict)
                return False
        return super().run(hook, skb)

    def skb(self, packet: bytes | bytearray, device: str = "eth0") -> Skb:
        """A packet that came in and has its route."""
        skb = Skb(bytearray(packet), device)
        skb.hook = PRE_ROUTING
        found = self.routing.input(skb)
        assert not isinstance(found, Reason), found
        skb.dst = found
        return skb


# -- packets ----------------------------------------------------------------------------------------------------------


def ip(source: str, destination: str, protocol: int, payload: bytes | bytearray, **fields: Any) -> bytearray:
    """A packet of either family; `ttl` is the hop limit as well, `tos` the traffic class."""
    if ":" not in source:
        return ipv4.build(packed(source), packed(destination), protocol, payload, **fields)
    ttl, tos = fields.pop("ttl", 64), fields.pop("tos", 0)
    return ipv6.build(packed(source), packed(destination), protocol, payload, ttl, tos, **fields)


def segment(
    source: str, destination: str, flags: int = tcp.SYN, seq: int = 1000, ack: int = 0, payload: bytes = b"",
    sport: int = 4000, dport: int = 80, options: bytes = b"", **fields: Any,
) -> bytearray:  # fmt: skip
    body = tcp.build(packed(source), packed(destination), sport, dport, flags, seq, ack, 500, payload, options)
    return ip(source, destination, 6, body, **fields)


def datagram(
    source: str, destination: str, payload: bytes = b"x", sport: int = 4000, dport: int = 53, **fields: Any
) -> bytearray:
    body = udp.build(packed(source), packed(destination), sport, dport, payload)
    return ip(source, destination, 17, body, **fields)


def echo(source: str, destination: str, payload: bytes = b"abcd", **fields: Any) -> bytearray:
    six = ":" in source
    body = icmp.build(packed(source), packed(destination), 128 if six else 8, 0, b"\0\1\0\2", payload)
    return ip(source, destination, 58 if six else 1, body, **fields)


class Seen(NamedTuple):
    """A packet in few words. `rest` is ICMP's word behind the checksum."""

    source: str
    destination: str
    protocol: int
    ttl: int
    tos: int
    kind: int
    code: int
    rest: int
    body: bytes


def seen(packet: bytes | bytearray) -> Seen:
    skb = Skb(bytearray(packet))
    at, data = skb.thoff, skb.data
    tos = data[1] if skb.family == 2 else (data[0] << 4 | data[1] >> 4) & 255
    return Seen(
        readable(skb.source), readable(skb.destination), skb.protocol, skb.ttl, tos, data[at], data[at + 1],
        int.from_bytes(data[at + 4 : at + 8], "big"), bytes(data[at + 8 :]),
    )  # fmt: skip
