"""What IPVS keeps while it runs: services, destinations and connections (include/net/ip_vs.h).

The words are the kernel's: a destination (dest) is a real server of one service. Addresses are 4 or 16 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipvsctl.datapath.vs.conns import Connections
    from ipvsctl.model.service import Server, Service

# Forwarding methods and flags of a connection: IP_VS_CONN_F_*.
MASQ, LOCALNODE, TUNNEL, ROUTE, BYPASS = range(5)
METHOD_MASK = 7
HASHED, NOOUTPUT, INACTIVE, NO_CPORT, TEMPLATE, ONE_PACKET, NFCT = 0x40, 0x80, 0x100, 0x800, 0x1000, 0x2000, 0x10000
METHODS = {"nat": MASQ, "local": LOCALNODE, "tun": TUNNEL, "dr": ROUTE, "bypass": BYPASS}
METHOD_NAMES = {number: name for name, number in METHODS.items()}

# Flags of a destination: IP_VS_DEST_F_*.
AVAILABLE, OVERLOAD = 1, 2


class Counters:
    """Totals of a service, a destination or of all (struct ip_vs_kstats)."""

    __slots__ = ("connections", "inbytes", "inpkts", "outbytes", "outpkts", "rates")

    def __init__(self) -> None:
        self.connections = self.inpkts = self.outpkts = self.inbytes = self.outbytes = 0
        self.rates: Any = None


class Dest:
    """A real server. `active`, `inactive`, `persistent` count connection entries; `flags` AVAILABLE and OVERLOAD.

    `weight`, `upper`, `lower` as the administrator set them; `last_weight` the last that was not 0 (mh needs it).
    """

    __slots__ = (
        "active",
        "address",
        "family",
        "flags",
        "idle_since",
        "inactive",
        "last_weight",
        "lower",
        "method",
        "persistent",
        "port",
        "server",
        "service",
        "stats",
        "upper",
        "weight",
    )  # fmt: skip

    def __init__(self, server: Server, address: bytes) -> None:
        self.server = server
        self.address = address
        self.family = server.address.family
        self.port = server.address.port
        self.method = METHODS[server.forward]
        self.weight = server.weight
        self.last_weight = server.weight
        self.upper, self.lower = server.upper, server.lower
        self.flags = AVAILABLE
        self.active = self.inactive = self.persistent = 0
        self.idle_since = 0.0
        self.stats = Counters()
        self.service: VirtualService | None = None


class VirtualService:
    """A service. `dests` is the kernel's list: most recently added first. `scheduler` keeps its own state."""

    __slots__ = (
        "address", "dests", "family", "fwmark", "netmask", "ops", "pe", "persistent", "port", "protocol", "scheduler",
        "service", "stats", "tracked",
    )  # fmt: skip

    def __init__(self, service: Service, protocol: int, address: bytes, port: int) -> None:
        self.service = service
        self.family = service.address.family
        self.protocol = protocol
        self.address = address
        self.port = port
        self.fwmark = service.address.fwmark
        self.dests: list[Dest] = []
        self.scheduler: Any = None
        self.stats = Counters()
        self.ops = "ops" in service.flags
        self.persistent = service.persistent or 0
        self.netmask: bytes = b""
        self.pe = service.pe
        self.tracked = False
        """Whether it asked for connection tracking: a nat destination of port 21 (ip_vs_register_conntrack)."""


class Conn:
    """A connection (struct ip_vs_conn): client c, virtual v, destination d.

    `timeout` is what each packet sets the timer to, `expires` when it ends. `controls` counts the connections that this
    one controls (n_control), `control` is the one that controls it (a template, or an FTP control connection).
    """

    __slots__ = (
        "app",
        "app_data",
        "caddr",
        "control",
        "controls",
        "cport",
        "daddr",
        "daf",
        "dest",
        "dport",
        "expires",
        "family",
        "flags",
        "fwmark",
        "in_packets",
        "protocol",
        "slot",
        "state",
        "table",
        "timeout",
        "vaddr",
        "vport",
    )  # fmt: skip

    def __init__(
        self, table: Connections, family: int, protocol: int, client: tuple[bytes, int], virtual: tuple[bytes, int],
        server: tuple[bytes, int], flags: int,
    ) -> None:  # fmt: skip
        self.table = table
        self.family = self.daf = family
        self.protocol = protocol
        self.caddr, self.cport = client
        self.vaddr, self.vport = virtual
        self.daddr, self.dport = server
        self.flags = flags
        self.state = 0
        self.timeout = 3.0
        self.expires = 0.0
        self.slot = 0
        self.in_packets = 0
        self.fwmark = 0
        self.dest: Dest | None = None
        self.control: Conn | None = None
        self.controls = 0
        self.app: Any = None
        self.app_data: Any = None

    @property
    def method(self) -> int:
        return self.flags & METHOD_MASK

    def on_timer(self, now: float) -> None:
        """Its time has come."""
        self.table.expire(self, now)
