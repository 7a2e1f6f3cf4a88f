"""Virtual services and real servers as one asks for them.

The words are the kernel's and ipvsadm's; ranges are what the kernel accepts without silently changing the value
(ip_vs_ctl.c: ip_vs_genl_parse_service, ip_vs_genl_parse_dest, ip_vs_add_dest).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address

from ipvsctl.errors import UsageError
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress

INT_MAX = 2**31 - 1
MAX_PERSISTENCE = 31 * 86400
"""Seconds; ipvsadm's limit. Above 2**32/HZ the kernel's jiffies would wrap."""

FORWARDS = ("nat", "dr", "tun")
"""Forwarding methods one can ask for. A host may also report "local" and "bypass" (include/net/ip_vs.h)."""

TUNNEL_TYPES = ("ipip", "gue", "gre")
TUNNEL_CHECKSUMS = ("no", "yes", "remote")

# Bits of IP_VS_SVC_F_*. A scheduler may give the three SCHED bits names of its own.
FLAG_BITS = {"ops": 0x4, "flag-1": 0x8, "flag-2": 0x10, "flag-3": 0x20}
SCHEDULER_FLAGS = {
    "sh": {"sh-fallback": 0x8, "sh-port": 0x10},
    "mh": {"mh-fallback": 0x8, "mh-port": 0x10},
}


def flag_names(bits: int, scheduler: str) -> tuple[str, ...]:
    """Names of the set flag bits, in bit order, in the scheduler's own words where it has some."""
    own = {bit: name for name, bit in SCHEDULER_FLAGS.get(scheduler, {}).items()}
    return tuple(own.get(bit, name) for name, bit in FLAG_BITS.items() if bits & bit)


def flag_bits(names: tuple[str, ...], scheduler: str) -> int:
    """Bits of named flags; raises UsageError for a name unknown or of another scheduler."""
    own = SCHEDULER_FLAGS.get(scheduler, {})
    bits = 0
    for name in names:
        bit = FLAG_BITS.get(name) or own.get(name)
        if bit is None:
            owner = next((s for s, flags in SCHEDULER_FLAGS.items() if name in flags), None)
            if owner:
                raise UsageError(f"flag {name!r} belongs to scheduler {owner}, not {scheduler}")
            raise UsageError(f"flag {name!r} is unknown, expected one of {', '.join([*FLAG_BITS, *own])}")
        bits |= bit
    return bits


@dataclass(frozen=True, slots=True)
class Service:
    """A virtual service.

    `scheduler` 1..15 characters; `flags` names as in `flag_bits`, kept in bit order; `persistent` seconds 1..2678400 or
    None; `netmask` the granularity of persistence, a dotted IPv4 mask or an IPv6 prefix length 1..128, None for a
    single client; `pe` the persistence engine ("sip") or None. Raises UsageError on construction for anything else.
    """

    address: ServiceAddress
    scheduler: str = "wlc"
    flags: tuple[str, ...] = ()
    persistent: int | None = None
    netmask: str | int | None = None
    pe: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.scheduler, "scheduler", 15)
        if self.flags:
            bits = flag_bits(self.flags, self.scheduler)
            object.__setattr__(self, "flags", flag_names(bits, self.scheduler))
        if self.persistent is not None and not 1 <= self.persistent <= MAX_PERSISTENCE:
            raise UsageError(f"persistent {self.persistent} is out of range, expected 1..{MAX_PERSISTENCE} seconds")
        if self.netmask is not None:
            object.__setattr__(self, "netmask", _canonical_netmask(self.netmask, self.address.family))
        if self.pe is not None:
            _check_name(self.pe, "persistence engine", 16)

    def check(self) -> Service:
        """Rules that ipvsadm has and the kernel has not; raises UsageError. Returns the service."""
        address = self.address
        if address.protocol != "fwmark":
            if address.port == 0 and self.persistent is None:
                raise UsageError(f"{address}: port 0 (every port) needs a persistent service")
            if "ops" in self.flags and address.protocol != "udp":
                raise UsageError(f"{address}: one-packet scheduling is for udp and fwmark services")
        return self

    @property
    def bits(self) -> int:
        """The kernel's flag word without PERSISTENT and HASHED."""
        return flag_bits(self.flags, self.scheduler) if self.flags else 0

    def with_scheduler(self, scheduler: str) -> Service:
        """The same service under another scheduler: flag bits keep their meaning of position, as in the kernel."""
        return replace(self, scheduler=scheduler, flags=flag_names(self.bits, scheduler))


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Encapsulation towards a server reached by `tun`: GUE (RFC draft-ietf-intarea-gue, UDP `port` 1..65535) or GRE.

    Plain IPIP is the absence of a Tunnel. `csum` is "no", "yes" or, for GUE, "remote" (remote checksum offload).
    """

    type: str
    port: int = 0
    csum: str = "no"

    def __post_init__(self) -> None:
        if self.type not in ("gue", "gre"):
            raise UsageError(f"tunnel type {self.type!r} is unknown, expected {', '.join(TUNNEL_TYPES)}")
        if self.csum not in TUNNEL_CHECKSUMS:
            raise UsageError(f"tunnel csum {self.csum!r} is unknown, expected {', '.join(TUNNEL_CHECKSUMS)}")
        if self.type == "gue" and not 1 <= self.port <= 65535:
            raise UsageError("a gue tunnel needs a port 1..65535")
        if self.type == "gre" and (self.port or self.csum == "remote"):
            raise UsageError("a gre tunnel takes neither a port nor csum remote")


@dataclass(frozen=True, slots=True)
class Server:
    """A real server of a service.

    `forward` "nat", "dr" or "tun"; `weight` 0..2**31-1 (0: no new connections); `upper` and `lower` thresholds of
    connections 0..2**31-1, 0 for none, lower not above upper. Raises UsageError on construction for anything else.
    """

    address: ServerAddress
    forward: str = "dr"
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel: Tunnel | None = None

    def __post_init__(self) -> None:
        if self.forward not in ("nat", "dr", "tun", "local", "bypass"):
            raise UsageError(f"forward {self.forward!r} is unknown, expected {', '.join(FORWARDS)}")
        if not (0 <= self.weight <= INT_MAX and 0 <= self.upper <= INT_MAX and 0 <= self.lower <= INT_MAX):
            for name in ("weight", "upper", "lower"):
                if not 0 <= getattr(self, name) <= INT_MAX:
                    raise UsageError(f"{name} {getattr(self, name)} is out of range, expected 0..{INT_MAX}")
        if self.lower > self.upper:
            raise UsageError(f"lower threshold {self.lower} is above the upper threshold {self.upper}")
        if self.tunnel is not None and self.forward != "tun":
            raise UsageError(f"a tunnel is for forward tun, not {self.forward}")

    def check(self, service: ServiceAddress) -> Server:
        """Rules between a server and its service (ip_vs_genl_set_cmd); raises UsageError. Returns the server."""
        if self.address.family != service.family and self.forward != "tun":
            raise UsageError(
                f"{self.address}: a server of the other address family than {service} is reached by forward tun only"
            )
        return self


def _check_name(text: str, what: str, limit: int) -> None:
    if not (0 < len(text) <= limit and text.isascii() and text.isprintable() and " " not in text):
        raise UsageError(f"{what} {text!r} is not a name of 1..{limit} characters")


def _canonical_netmask(mask: str | int, family: int) -> str | int | None:
    """None for the default mask, else dotted text (IPv4) or a prefix length (IPv6)."""
    if isinstance(mask, str) and mask.isascii() and mask.isdigit() and len(mask) <= 3:
        mask = int(mask)
    if family == INET6:
        if not (isinstance(mask, int) and 1 <= mask <= 128):
            raise UsageError(f"netmask {mask!r} is out of range, expected an IPv6 prefix length 1..128")
        return None if mask == 128 else mask
    if isinstance(mask, int):
        if not 1 <= mask <= 32:
            raise UsageError(f"netmask {mask} is out of range, expected a prefix length 1..32 or a dotted mask")
        mask = str(IPv4Address((0xFFFFFFFF << (32 - mask)) & 0xFFFFFFFF))
    try:
        IPv4Address(mask)
    except AddressValueError:
        raise UsageError(f"netmask {mask!r} is not an IPv4 mask, expected for instance 255.255.255.0") from None
    return None if mask == "255.255.255.255" else mask


DEFAULT_NETMASK: dict[int, str | int] = {INET: "255.255.255.255", INET6: 128}
