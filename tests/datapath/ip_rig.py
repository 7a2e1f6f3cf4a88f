"""A host with nothing but its IP layer and hooks that only look on; and packets to give it.

eth0 (10.0.0.1/24, fd10::1/64) is the world with the default route, eth1 (192.168.1.1/24, fd20::1/64) the inner network.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import cast

from ipvsctl.datapath.engine import Output
from ipvsctl.datapath.hooks import HOOK_NAMES
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


class Host:
    """What the IP layer needs of an engine. `walk` lists the hooks passed with the devices that rules would see."""

    def __init__(
        self,
        *,
        devices: tuple[Device, ...] = DEVICES,
        routes: tuple[Route, ...] = ROUTES,
        policy: tuple[PolicyRule, ...] = (),
        **sysctls: object,
    ) -> None:
        values = {name.replace("__", "."): str(value) for name, value in sysctls.items()}
        self.now = 100.0
        self.tracer = None
        self.outputs: list[Output] = []
        self.drops: Counter[Reason] = Counter()
        self.verdict: Reason | str = ""
        self.backlog: deque[Skb] = deque()
        self.timers = Timers()
        self.settings = Settings({**FORWARD, **values})
        self.random = Random(1).randrange
        self.walk: list[tuple[str, str, str, str]] = []
        self.hooked: dict[str, Callable[[Skb], Verdict]] = {}
        self.routing = Routing(self, Snapshot(devices=devices, routes=routes, policy=policy))  # type: ignore[arg-type]
        self.ip = Ip(self)  # type: ignore[arg-type]
        self.local = Local(self)  # type: ignore[arg-type]
