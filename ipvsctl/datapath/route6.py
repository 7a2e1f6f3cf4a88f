"""IPv6 routing decisions: of packets that come in and of the host's own (net/ipv6/route.c, ip6_output.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.fib import Dst, Fib, Hop
from ipvsctl.datapath.interfaces import Interface
from ipvsctl.datapath.source6 import select6
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.route import LOCAL

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb

ANY = bytes(16)
LOOPBACK = bytes(15) + b"\1"
_ROUTERS = (b"\xff\x01" + bytes(13) + b"\2", b"\xff\x02" + bytes(13) + b"\2", b"\xff\x05" + bytes(13) + b"\2")
"""Groups that a forwarding host joins (addrconf.c: dev_forward_change)."""


def link_local(address: bytes) -> bool:
    """fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def strict(address: bytes) -> bool:
    """rt6_need_strict: the device is part of such a destination: link-local, multicast, loopback."""
    first = address[0]
    return first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80) or address == LOOPBACK


class Routing6:
    """IPv6's half of routing. There is no check of the source: IPv6 has neither accept_local nor rp_filter."""

    def __init__(self, engine: Engine, fib: Fib, interfaces: dict[str, Interface]) -> None:
        self.engine = engine
        self.fib = fib
        self.interfaces = interfaces
        self.forwarding = False
        self._own = {each.value: interface.name for interface in interfaces.values() for each in interface.addresses6}
        self._anycast: frozenset[bytes] = frozenset()
        """Subnet-router addresses (addrconf.c: addrconf_join_anycast), of devices that forward."""

    def refresh(self) -> None:
        """Sysctls have changed. ip6_forward asks "all" only; a device's own switch makes its router addresses."""
        settings = self.engine.settings
        self.forwarding = bool(settings.everywhere("ipv6", "forwarding"))
        found: set[bytes] = set()
        for interface in self.interfaces.values():
            if interface.name != "lo" and settings.device("ipv6", interface.name, "forwarding"):
                found.update(
                    (each.network << each.shift).to_bytes(16, "big")
                    for each in interface.addresses6
                    if each.length < 127
                )
        self._anycast = frozenset(found - self._own.keys())

    def is_local(self, address: bytes) -> bool:
        """Whether table local calls it local."""
        return address in self._own or self.fib.kind(address, LOCAL) == "local"

    def is_anycast(self, address: bytes) -> bool:
        """A subnet-router address of ours."""
        return address in self._anycast

    def owner(self, address: bytes) -> str:
        """The device that has an address, "" for none."""
        return self._own.get(address, "")

    def has_address(self, address: bytes, device: str) -> bool:
        """ipv6_chk_addr: an address of the host; a link-local one (and ::1) must be the device's own."""
        owner = self._own.get(address)
        if owner is None or owner == device:
            return owner is not None
        interface = self.interfaces.get(device)
        if not (link_local(address) or address == LOOPBACK):
            return True
        return interface is not None and any(each.value == address for each in interface.addresses6)

    def member(self, group: bytes, device: str) -> bool:
        """ipv6_chk_mcast_addr: the groups a device joins by itself."""
        interface = self.interfaces.get(device)
        if interface is None:
            return False
        if group in interface.groups6:
            return True
        return group in _ROUTERS and bool(self.engine.settings.device("ipv6", device, "forwarding"))

    def address_type(self, address: bytes) -> str:
        """xt_addrtype.c: match_lookup_rt6; "unicast" for all else. The first that applies."""
        if address[0] == 0xFF:
            return "multicast"
        if self.is_local(address):
            return "local"
        if address in self._anycast:
            return "anycast"
        return "unreachable" if isinstance(self.fib.lookup(address, b"", 0, "lo"), Reason) else "unicast"

    def input(self, skb: Skb) -> Dst | Reason:
        """ip6_route_input, and of ip6_forward what it says of forwarding at all."""
        device, destination = skb.indev, skb.destination
        if device not in self.interfaces:
            return Reason.NO_ROUTE
        if destination in self._anycast:
            return Dst("local", "lo", b"", 65535, b"", True, 128)
        hop = self.fib.lookup(destination, skb.source, skb.mark, device, device, strict(destination))
        if hop.__class__ is not Hop:
            assert isinstance(hop, Reason)
            return hop
        if hop.kind == "unicast" and not self.forwarding:
            return Reason.NOT_FORWARDING
        if hop.kind == "multicast" and not self.member(destination, device):
            return Reason.NOT_MEMBER
        return hop.way_in

    def output(self, destination: bytes, source: bytes = b"", mark: int = 0, device: str = "") -> Dst | Reason:
        """ip6_dst_lookup: the route, then a source when there is none, then the route again with it."""
        if source == ANY:
            source = b""
        must = strict(destination)
        hop = self.fib.lookup(destination, source, mark, "lo", device, must or (bool(device) and not source))
        if not source:
            found = hop if isinstance(hop, Hop) else None
            if found is not None and found.source:
                source = found.source
            else:
                source = select6(self.interfaces, self._device_of(found), destination)
            if source and (found is None or not self.fib.simple):
                hop = self.fib.lookup(destination, source, mark, "lo", device, must or bool(device))
        if hop.__class__ is not Hop:
            assert isinstance(hop, Reason)
            return hop
        way = hop.way_out
        if source == way.source:
            return way
        return Dst(way.kind, way.device, way.gateway, way.mtu, source, False, way.prefix)

    @staticmethod
    def _device_of(hop: Hop | None) -> str:
        return "" if hop is None else hop.device
