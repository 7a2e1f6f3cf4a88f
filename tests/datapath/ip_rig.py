"""A host with nothing but its IP layer and hooks that only look on; and packets to give it.

eth0 (10.0.0.1/24, fd10::1/64) is the world with the default route, eth1 (192.168.1.1/24, fd20::1/64) the inner network.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple, cast

from ipvsctl.datapath.hooks import HOOK_NAMES, PRE_ROUTING
from ipvsctl.datapath.ip import Ip
from ipvsctl.datapath.local import Local
from ipvsctl.datapath.routing import Routing
from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.skb import Broken, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.snapshot import Device, PolicyRule, Route, Snapshot
from ipvsctl.wire import icmp, ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed, readable

DEVICES = (
    Device("eth0", ("10.0.0.1/24", "fd10::1/64", "fe80::a/64")),
    Device("eth1", ("192.168.1.1/24", "fd20::1/64", "fe80::b/64")),
)
ROUTES = (Route("0.0.0.0/0", via="10.0.0.254"), Route("::/0", "eth0", "fd10::fe"))
FORWARD = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


class Sent(NamedTuple):
    device: str
    packet: bytes
    next_hop: bytes


class Host:
    """What the IP layer needs of an engine. `walk`: the hooks passed, each with the devices that rules would see."""

    def __init__(
        self,
        sysctls: dict[str, object] | None = None,
        *,
        devices: tuple[Device, ...] = DEVICES,
        routes: tuple[Route, ...] = ROUTES,
        policy: tuple[PolicyRule, ...] = (),
        defrag: bool = False,
    ) -> None:
        self.now = 100.0
        self.tracer: Any = None
        self.outputs: list[Sent] = []
        self.drops: Counter[Reason] = Counter()
        self.verdict: Reason | str = ""
        self.backlog: deque[Skb] = deque()
        self.timers = Timers()
        self.settings = Settings({**FORWARD, **{name: str(value) for name, value in (sysctls or {}).items()}})
        self.random = Random(1).randrange
        self.walk: list[tuple[str, str, str]] = []
        self.hooked: dict[str, Callable[[Skb], Verdict]] = {}
        me = cast(Any, self)
        self.routing = Routing(me, Snapshot(devices=devices, routes=routes, policy=policy))
        self.ip = Ip(me)
        self.local = Local(me)
        if defrag:
            self.hooked = {"PREROUTING": self.ip.defrag, "OUTPUT": self.ip.defrag}

    def receive(self, device: str, packet: bytes | bytearray, at: float | None = None) -> list[Sent]:
        self._begin(self.now if at is None else at)
        try:
            skb = Skb(bytearray(packet), device)
        except Broken:
            self.verdict = Reason.HEADER
            return []
        skb.primary = True
        self.ip.receive(skb)
        return self._end()

    def send(self, packet: bytes | bytearray, mark: int = 0) -> list[Sent]:
        self._begin(self.now)
        skb = Skb(bytearray(packet))
        skb.primary = skb.own = True
        skb.mark = mark
        self.local.send(skb)
        return self._end()

    def poll(self, at: float) -> list[Sent]:
        self._begin(at)
        return self._end()

    def _begin(self, at: float) -> None:
        self.now = at
        self.outputs, self.walk, self.verdict = [], [], ""
        self.timers.poll(at)

    def _end(self) -> list[Sent]:
        for _ in range(100):
            if self.backlog:
                self.ip.receive(self.backlog.popleft())
        assert not self.backlog
        return self.outputs

    # -- the engine's side --------------------------------------------------------------------------------------------

    def run(self, hook: int, skb: Skb) -> bool:
        name = HOOK_NAMES[hook]
        self.walk.append((name, skb.indev, skb.outdev))
        before, skb.hook = skb.hook, hook
        verdict = self.hooked[name](skb) if name in self.hooked else None
        skb.hook = before
        if verdict is not None and verdict is not Reason.STOLEN:
            self.drop(skb, verdict)
        return verdict is None

    def drop(self, skb: Skb, reason: Reason) -> None:
        self.drops[reason] += 1
        if skb.primary:
            self.verdict = reason

    def delivered(self, skb: Skb) -> None:
        if skb.primary:
            self.verdict = "delivered"

    def transmit(self, skb: Skb, device: str, next_hop: bytes) -> None:
        if skb.primary:
            self.verdict = "sent"
        if device == "lo":
            skb.indev = "lo"
            self.backlog.append(skb)
        else:
            self.outputs.append(Sent(device, bytes(skb.data), next_hop))

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
