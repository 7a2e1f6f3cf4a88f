"""IPv4 routing decisions: of packets that come in and of the host's own (net/ipv4/route.c, fib_frontend.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.fib import LINK, Dst, Fib, Hop
from ipvsctl.datapath.interfaces import Interface, select4
from ipvsctl.datapath.verdict import Reason

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb

ZERO = bytes(4)
EVERYONE = b"\xff\xff\xff\xff"
ALL_HOSTS = b"\xe0\0\0\1"
_KINDS = frozenset({"unicast", "local", "broadcast"})
_PATHS = 65536
"""Hosts whose path MTU is remembered."""


class Routing4:
    """IPv4's half of routing. `custom_local`: somebody added a route of kind local."""

    def __init__(self, engine: Engine, fib: Fib, interfaces: dict[str, Interface]) -> None:
        self.engine = engine
        self.fib = fib
        self.interfaces = interfaces
        self.custom_local = False
        self._own = {each.value: interface.name for interface in interfaces.values() for each in interface.addresses4}
        self._broadcast = Dst("broadcast", "lo", input=True)
        self._path_mtu: dict[bytes, tuple[int, bool, float]] = {}

    def learn_path_mtu(self, destination: bytes, mtu: int, locked: bool, expires: float) -> None:
        """update_or_create_fnhe: packets to a host may have `mtu` bytes; if `locked`, forwarded ones no more either."""
        if len(self._path_mtu) >= _PATHS:
            self._path_mtu.clear()
        self._path_mtu[destination] = mtu, locked, expires

    def _narrowed(self, way: Dst, destination: bytes) -> Dst:
        mtu, locked, expires = self._path_mtu.get(destination, (way.mtu, False, 0.0))
        if mtu >= way.mtu or expires <= self.engine.now or (way.input and not locked):
            return way
        return Dst(way.kind, way.device, way.gateway, mtu, way.source, way.input, way.prefix)

    # -- addresses ----------------------------------------------------------------------------------------------------

    def is_local(self, address: bytes) -> bool:
        """__ip_dev_find: an address of a device, or one that table local calls local."""
        return address in self._own or self.fib.kind(address) == "local"

    def address_type(self, address: bytes) -> str:
        """fib_frontend.c: __inet_dev_addr_type; what no route of table local knows is unicast."""
        if address in (ZERO, EVERYONE):
            return "broadcast"
        if address[0] & 0xF0 == 0xE0:
            return "multicast"
        kind = self.fib.kind(address)
        return kind if kind in _KINDS else "unicast"

    # -- input --------------------------------------------------------------------------------------------------------

    def input(self, skb: Skb) -> Dst | Reason:
        """route.c: ip_route_input_rcu, ip_route_input_slow."""
        interface = self.interfaces.get(skb.indev)
        if interface is None:
            return Reason.NO_ROUTE
        source, destination = skb.source, skb.destination
        first, last = source[0], destination[0]
        if last & 0xF0 == 0xE0:
            return self._input_multicast(skb, interface)
        if first & 0xF0 == 0xE0 or source == EVERYONE:
            return Reason.MARTIAN_SOURCE
        if destination == EVERYONE or (destination == ZERO and source == ZERO):
            return self._input_broadcast(skb, interface)
        if source == ZERO:
            return Reason.MARTIAN_SOURCE
        if destination == ZERO:
            return Reason.MARTIAN_DESTINATION
        if last == 127:
            if not interface.route_localnet:
                return Reason.MARTIAN_DESTINATION
        elif first == 127 and not interface.route_localnet:
            return Reason.MARTIAN_SOURCE
        hop = self.fib.lookup(destination, source, skb.mark, interface.name)
        if hop.__class__ is not Hop:
            assert isinstance(hop, Reason)
            return hop if interface.forwarding else Reason.NOT_FORWARDING
        kind = hop.kind
        if kind == "unicast":
            if not interface.forwarding:
                return Reason.NOT_FORWARDING
            near = self.validate(skb, interface, destination, hop.device)
            if near.__class__ is Reason:
                return near
            if near and hop.device == interface.name and interface.redirects:
                skb.redirect = interface.shared_media or _same_link(interface, source, hop.gateway)
            return self._narrowed(hop.way_in, destination) if self._path_mtu else hop.way_in
        if kind == "local":
            near = self.validate(skb, interface, destination, "")
            return near if near.__class__ is Reason else hop.way_in
        if kind == "broadcast":
            return self._input_broadcast(skb, interface)
        return Reason.MARTIAN_DESTINATION if interface.forwarding else Reason.NOT_FORWARDING

    def _input_broadcast(self, skb: Skb, interface: Interface) -> Dst | Reason:
        if skb.source != ZERO:
            near = self.validate(skb, interface, ZERO, "")
            if isinstance(near, Reason):
                return near
        return self._broadcast

    def _input_multicast(self, skb: Skb, interface: Interface) -> Dst | Reason:
        """ip_mc_validate_source; of the groups only 224.0.0.1 is joined, as no program joins any here."""
        source = skb.source
        if skb.destination != ALL_HOSTS:
            return Reason.NOT_MEMBER
        if source[0] & 0xF0 == 0xE0 or source == EVERYONE or (source[0] == 127 and not interface.route_localnet):
            return Reason.MARTIAN_SOURCE
        if source != ZERO:
            near = self.validate(skb, interface, ZERO, "")
            if isinstance(near, Reason):
                return near
        return Dst("multicast", "lo", input=True)

    def validate(self, skb: Skb, interface: Interface, destination: bytes, device: str) -> bool | Reason:
        """fib_validate_source: may this source come in here? True when it is on link there.

        `device` is the one the packet will leave by, "" for none.
        """
        if not interface.rp_filter and (device != interface.name or not interface.redirects):
            if interface.accept_local:
                return False
            if self.fib.simple and not self.custom_local:
                return Reason.MARTIAN_SOURCE if skb.source in self._own else False
        return self._validate_by_route(skb, interface, destination, device)

    def _validate_by_route(self, skb: Skb, interface: Interface, destination: bytes, device: str) -> bool | Reason:
        """__fib_validate_source: the way back to the source decides."""
        mark = skb.mark if interface.source_mark else 0
        back = self.fib.lookup(skb.source, destination, mark, device or "lo")
        if isinstance(back, Reason):
            return Reason.RP_FILTER if interface.rp_filter else False
        if back.kind != "unicast" and (back.kind != "local" or not interface.accept_local):
            return Reason.MARTIAN_SOURCE
        if back.device == interface.name or (back.kind == "local" and interface.name == "lo"):
            return not back.gateway
        if not interface.addresses4:
            return Reason.RP_FILTER if interface.rp_filter else False
        if interface.rp_filter == 1:
            return Reason.RP_FILTER
        back = self.fib.lookup(skb.source, destination, mark, device or "lo", interface.name)
        return isinstance(back, Hop) and back.kind == "unicast" and not back.gateway

    def way_back(self, skb: Skb) -> bytes:
        """fib_compute_spec_dst: the address of ours that answers a packet that came in."""
        if skb.dst is not None and skb.dst.kind == "local":
            return skb.destination
        interface = self.interfaces.get(skb.indev)
        if skb.source == ZERO or interface is None:
            return select4(self.interfaces, skb.indev, b"", LINK)
        mark = skb.mark if interface.source_mark else 0
        hop = self.fib.lookup(skb.source, ZERO, mark, "lo")
        if isinstance(hop, Hop):
            return hop.source or select4(self.interfaces, hop.device, b"", hop.scope)
        return select4(self.interfaces, skb.indev, skb.source, 0)

    # -- output -------------------------------------------------------------------------------------------------------

    def output(
        self, destination: bytes, source: bytes = b"", mark: int = 0, device: str = "", any_source: bool = False
    ) -> Dst | Reason:
        """route.c: ip_route_output_key_hash_rcu, __mkroute_output."""
        if source == ZERO:
            source = b""
        group = destination[0] & 0xF0 == 0xE0 or destination == EVERYONE
        if source:
            if source[0] & 0xF0 == 0xE0 or source == EVERYONE:
                return Reason.NO_ROUTE
            if group and not device:
                device = self._own.get(source, "")
                if not device:
                    return Reason.NO_ROUTE
                return self._group(destination, source, device)
            if not any_source and not self.is_local(source):
                return Reason.NO_ROUTE
        if device and device not in self.interfaces:
            return Reason.NO_ROUTE
        if device and (destination == EVERYONE or destination[:3] == b"\xe0\0\0"):
            return self._group(destination, source or select4(self.interfaces, device, b"", LINK), device)
        if destination == ZERO:
            address = source or b"\x7f\0\0\1"
            return Dst("local", "lo", b"", 65535, address)
        hop = self.fib.lookup(destination, source, mark, "lo", device)
        if hop.__class__ is not Hop:
            assert isinstance(hop, Reason)
            if not device:
                return hop
            # With a device given the kernel takes the destination to be on link.
            return self._finish(
                Dst("unicast", device, b"", self._mtu(device), source or select4(self.interfaces, device, b"", LINK)),
                destination, source,
            )  # fmt: skip
        way = hop.way_out
        if group:
            return self._group(destination, source or way.source, hop.device)
        chosen = source or way.source
        if not chosen:
            chosen = destination if hop.kind == "local" else select4(self.interfaces, hop.device, b"", hop.scope)
        if chosen != way.source:
            way = Dst(way.kind, way.device, way.gateway, way.mtu, chosen, False, way.prefix)
        if self._path_mtu:
            way = self._narrowed(way, destination)
        return self._finish(way, destination, chosen)

    def _finish(self, way: Dst, destination: bytes, source: bytes) -> Dst | Reason:
        if source and source[0] == 127 and way.device != "lo" and not self.interfaces[way.device].route_localnet:
            return Reason.LOOPBACK_SOURCE
        return way

    def _group(self, destination: bytes, source: bytes, device: str) -> Dst | Reason:
        kind = "broadcast" if destination == EVERYONE else "multicast"
        return self._finish(Dst(kind, device, b"", self._mtu(device), source), destination, source)

    def _mtu(self, device: str) -> int:
        return min(self.interfaces[device].device.mtu, 65535)


def _same_link(interface: Interface, source: bytes, gateway: bytes) -> bool:
    """devinet.c: inet_addr_onlink: one network of the device has them both."""
    return any(each.on_link(source) and (not gateway or each.on_link(gateway)) for each in interface.addresses4)
