"""The devices as routing sees them: their sysctls put together once, their addresses, and who is chosen as a source."""

from __future__ import annotations

from ipvsctl.datapath.fib import HOST, LINK, UNIVERSE
from ipvsctl.datapath.settings import Settings
from ipvsctl.model.snapshot import Device
from ipvsctl.wire.address import packed


class Address:
    """An address of a device. `network` and `shift` say its prefix; `primary` is what it is secondary to, or itself."""

    __slots__ = ("bits", "length", "network", "primary", "scope", "shift", "value")

    def __init__(self, text: str) -> None:
        address, _, length = text.partition("/")
        self.value = packed(address)
        self.bits = len(self.value) * 8
        self.length = int(length) if length else self.bits
        self.shift = self.bits - self.length
        self.network = int.from_bytes(self.value, "big") >> self.shift
        self.primary: Address = self
        self.scope = HOST if self.bits == 32 and self.value[0] == 127 else UNIVERSE

    @property
    def secondary(self) -> bool:
        return self.primary is not self

    def on_link(self, address: bytes) -> bool:
        """Whether an address lies in the prefix (inet_ifa_match)."""
        return int.from_bytes(address, "big") >> self.shift == self.network


class Interface:
    """A device: what its sysctls and those of "all" come to, and its addresses in the order `ip address` lists them.

    inetdevice.h says how the two combine: forwarding is the device's own, rp_filter the higher, the rest either.
    """

    __slots__ = (
        "accept_local", "addresses4", "addresses6", "device", "disabled6", "forwarding", "groups6", "hosts", "name",
        "redirects", "route_localnet", "rp_filter", "shared_media", "source_mark",
    )  # fmt: skip

    def __init__(self, device: Device) -> None:
        self.device = device
        self.name = device.name
        addresses = [Address(text) for text in device.addresses]
        self.addresses4 = [each for each in addresses if each.bits == 32]
        self.addresses6 = [each for each in addresses if each.bits == 128]
        for at, each in enumerate(self.addresses4):
            for earlier in self.addresses4[:at]:
                # devinet.c: __inet_insert_ifa: the same subnet again makes a secondary address.
                if not earlier.secondary and earlier.length == each.length and earlier.network == each.network:
                    each.primary = earlier
                    break
        self.hosts = None if device.hosts is None else frozenset(packed(host) for host in device.hosts)
        self.groups6 = {b"\xff\x01" + bytes(13) + b"\1", b"\xff\x02" + bytes(13) + b"\1"}
        self.groups6.update(
            b"\xff\x02" + bytes(9) + b"\1\xff" + each.value[13:] for each in self.addresses6
        )  # the solicited-node groups (RFC 4291, 2.7.1)
        self.forwarding = self.accept_local = self.route_localnet = self.source_mark = self.disabled6 = False
        self.redirects = self.shared_media = True
        self.rp_filter = 0

    def refresh(self, settings: Settings) -> None:
        """Read the sysctls anew."""
        self.forwarding = bool(settings.device("ipv4", self.name, "forwarding"))
        self.rp_filter = settings.highest(self.name, "rp_filter")
        self.accept_local = settings.either(self.name, "accept_local")
        self.route_localnet = settings.either(self.name, "route_localnet")
        self.source_mark = settings.either(self.name, "src_valid_mark")
        self.redirects = settings.either(self.name, "send_redirects")
        self.disabled6 = bool(
            settings.everywhere("ipv6", "disable_ipv6") or settings.device("ipv6", self.name, "disable_ipv6")
        )
        # Not in the knowledge tables: its default is 1, and 0 must stand in both places to turn it off.
        self.shared_media = bool(
            settings.get("net.ipv4.conf.all.shared_media", 1)
            or settings.get(f"net.ipv4.conf.{self.name.replace('.', '/')}.shared_media", 1)
        )


def select4(interfaces: dict[str, Interface], name: str, destination: bytes, scope: int) -> bytes:
    """devinet.c: inet_select_addr: a source address for packets by a device; b"" when the host has none at all.

    `destination` b"" for any; an address wider than `scope` is needed.
    """
    interface = interfaces.get(name)
    if interface is not None:
        least = LINK if interface.route_localnet else HOST
        first = b""
        for each in interface.addresses4:
            if each.secondary or min(each.scope, least) > scope:
                continue
            if not destination or each.on_link(destination):
                return each.value
            first = first or each.value
        if first:
            return first
    for other in interfaces.values():
        for each in other.addresses4:
            if not each.secondary and each.scope <= scope:
                return each.value
    return b""
