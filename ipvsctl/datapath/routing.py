"""Routing: where a packet goes. The tables are built of a snapshot here; route4.py and route6.py ask them.

Addresses bring their routes with them, as fib_frontend.c: fib_add_ifaddr and addrconf.c: add_addr say: the address and
its broadcast address in table local, the connected network in table main.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.fib import HOST, LINK, UNIVERSE, Dst, Fib, Hop, Rule
from ipvsctl.datapath.interfaces import Address, Interface, select4
from ipvsctl.datapath.route4 import Routing4
from ipvsctl.datapath.route6 import Routing6
from ipvsctl.datapath.source6 import select6
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.route import LOCAL, MAIN, PolicyRule, Route
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.wire.address import packed

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb

__all__ = ["Dst", "Routing"]

_ACTIONS = {
    "lookup": None, "blackhole": Reason.BLACKHOLE, "unreachable": Reason.NO_ROUTE, "prohibit": Reason.PROHIBITED
}  # fmt: skip
"""What a policy rule's action comes to: the kernel makes no difference between "unreachable" and no route at all."""

_METRIC6 = 256
"""Of the routes that IPv6 addresses bring (IP6_RT_PRIO_ADDRCONF)."""

_METRIC6_GIVEN = 1024
"""Of IPv6 routes added without one (IP6_RT_PRIO_USER)."""


class Routing:
    """A host's devices, addresses, tables and rules. `four` and `six` decide for each family."""

    def __init__(self, engine: Engine, snapshot: Snapshot) -> None:
        self.engine = engine
        self.devices: dict[str, Device] = {"lo": _loopback(snapshot.devices)}
        self.devices.update((device.name, device) for device in snapshot.devices if device.name != "lo")
        self.interfaces = {name: Interface(device) for name, device in self.devices.items()}
        self.fib4, self.fib6 = Fib(INET), Fib(INET6)
        self._local_mtu = min(self.devices["lo"].mtu, 65535)
        for interface in self.interfaces.values():
            self._add_addresses4(interface)
            self._add_addresses6(interface)
        for route in snapshot.routes:
            self._add_route(route)
        self.fib4.finish(self._rule(rule) for rule in snapshot.policy if rule.family == INET)
        self.fib6.finish(self._rule(rule) for rule in snapshot.policy if rule.family == INET6)
        self.four = Routing4(engine, self.fib4, self.interfaces)
        self.four.custom_local = any(
            route.kind == "local" and ":" not in route.destination for route in snapshot.routes
        )
        self.six = Routing6(engine, self.fib6, self.interfaces)
        self._refresh()
        engine.settings.watch(self._refresh)

    def _refresh(self) -> None:
        for interface in self.interfaces.values():
            interface.refresh(self.engine.settings)
        self.six.refresh()
        self.fib4.forget()
        self.fib6.forget()

    # -- asking -------------------------------------------------------------------------------------------------------

    def input(self, skb: Skb) -> Dst | Reason:
        """Where a packet that came in by `skb.indev` goes (ip_route_input, ip6_route_input); may set skb.redirect."""
        return self.four.input(skb) if skb.family == INET else self.six.input(skb)

    def output(
        self,
        family: int,
        destination: bytes,
        source: bytes = b"",
        mark: int = 0,
        device: str = "",
        any_source: bool = False,
    ) -> Dst | Reason:
        """Where the host's own packets go; Dst.source is `source`, or the one that is chosen when it is b"".

        As in the kernel, an IPv4 source that is no address of the host is refused, unless `any_source`
        (FLOWI_FLAG_ANYSRC).
        """
        if family == INET:
            return self.four.output(destination, source, mark, device, any_source)
        return self.six.output(destination, source, mark, device)

    def is_local(self, family: int, address: bytes) -> bool:
        """Whether an address is the host's (RTN_LOCAL in table local)."""
        return self.four.is_local(address) if family == INET else self.six.is_local(address)

    def address_type(self, family: int, address: bytes) -> str:
        """inet_addr_type; for IPv6 what xt_addrtype.c finds: local, multicast, anycast, unreachable or unicast."""
        return self.four.address_type(address) if family == INET else self.six.address_type(address)

    def select_source(self, device: str, destination: bytes) -> bytes:
        """An address to send from by a device (inet_select_addr, ipv6_dev_get_saddr); b"" when there is none."""
        if len(destination) == 4:
            return select4(self.interfaces, device, destination, UNIVERSE)
        return select6(self.interfaces, device, destination)

    def neighbour(self, device: str, address: bytes) -> bool:
        """Whether an address answers on the link of a device (Device.hosts)."""
        interface = self.interfaces.get(device)
        return interface is None or interface.hosts is None or address in interface.hosts

    # -- building -----------------------------------------------------------------------------------------------------

    def _add_addresses4(self, interface: Interface) -> None:
        name, mtu = interface.name, min(interface.device.mtu, 65535)
        local, main = self.fib4.table(LOCAL), self.fib4.table(MAIN)
        for each in interface.addresses4:
            source = each.primary.value
            local.add(each.value, Hop("local", name, b"", self._local_mtu, 32, 0, HOST, source))
            network = each.network << each.shift
            if each.secondary or not network or each.length == 32:
                continue
            prefix = network.to_bytes(4, "big")
            if name == "lo":
                local.add(prefix, Hop("local", name, b"", self._local_mtu, each.length, 0, HOST, source))
            else:
                main.add(prefix, Hop("unicast", name, b"", mtu, each.length, 0, LINK, source))
            if each.length < 31:
                last = (network | (1 << each.shift) - 1).to_bytes(4, "big")
                local.add(last, Hop("broadcast", name, b"", mtu, 32, 0, LINK, source))

    def _add_addresses6(self, interface: Interface) -> None:
        name, mtu = interface.name, interface.device.mtu
        local, main = self.fib6.table(LOCAL), self.fib6.table(MAIN)
        for each in interface.addresses6:
            local.add(each.value, Hop("local", name, b"", self._local_mtu, 128, 0, UNIVERSE, b""))
            prefix = (each.network << each.shift).to_bytes(16, "big")
            main.add(prefix, Hop("unicast", name, b"", mtu, each.length, _METRIC6, UNIVERSE, b""))
        if name != "lo":
            local.add(b"\xff" + bytes(15), Hop("multicast", name, b"", mtu, 8, _METRIC6, UNIVERSE, b""))

    def _add_route(self, route: Route) -> None:
        prefix = Address(route.destination)
        four = prefix.bits == 32
        fib = self.fib4 if four else self.fib6
        gateway = packed(route.via) if route.via else b""
        name = route.device or (self._device_towards(gateway) if gateway else "lo")
        device = self.devices.get(name)
        if device is None:
            return  # The device is down: the kernel would have taken its routes away.
        scope = HOST if route.kind == "local" else UNIVERSE if gateway or not four else LINK
        source = packed(route.source) if route.source else b""
        if four and not source and route.kind == "unicast":
            source = select4(self.interfaces, name, gateway, scope)
        mtu = min(route.mtu or (self._local_mtu if route.kind == "local" else device.mtu), 65535)
        metric = route.metric or (0 if four else _METRIC6_GIVEN)
        network = (prefix.network << prefix.shift).to_bytes(prefix.bits // 8, "big")
        fib.table(route.table).add(network, Hop(route.kind, name, gateway, mtu, prefix.length, metric, scope, source))

    def _device_towards(self, gateway: bytes) -> str:
        for interface in self.interfaces.values():
            addresses = interface.addresses4 if len(gateway) == 4 else interface.addresses6
            if any(each.length < each.bits and each.on_link(gateway) for each in addresses):
                return interface.name
        return ""

    def _rule(self, rule: PolicyRule) -> Rule:
        fib = self.fib4 if rule.family == INET else self.fib6
        action = _ACTIONS.get(rule.action, Reason.BLACKHOLE)
        return Rule(
            rule.priority, fib.table(rule.table) if rule.action == "lookup" else None, action, _prefix(rule.source),
            _prefix(rule.destination), rule.mark, rule.mask, rule.in_device, rule.out_device,
        )  # fmt: skip


def _prefix(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    each = Address(text)
    return (each.network, each.shift) if each.length else None


def _loopback(devices: tuple[Device, ...]) -> Device:
    """The loopback device with the addresses it always has before those that a snapshot gives it."""
    given = next((device for device in devices if device.name == "lo"), Device("lo", mtu=65536))
    own = tuple(each for each in ("127.0.0.1/8", "::1/128") if each not in given.addresses)
    return Device("lo", own + given.addresses, given.mtu)
