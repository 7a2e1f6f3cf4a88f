"""A host that has nothing but IPVS: the other parts of the engine only write down what they are asked to do.

Addresses: the client is 10.0.0.2, the virtual address 192.168.1.100 (and fd99::1), servers are in 172.16.0.0/24 (and
fd20::/64) behind eth1; 172.16.0.1 and fd20::1 are the host's own.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from ipvsctl.datapath.ct.entry import CONFIRMED, Entry
from ipvsctl.datapath.fib import Dst
from ipvsctl.datapath.hooks import LOCAL_IN
from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.skb import NONE, UNTRACKED, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.datapath.vs.ipvs import Ipvs
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.wire import ipv4, ipv6, tcp, udp
from ipvsctl.wire.address import packed

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

CLIENT, VIRTUAL, SERVER, OWN = "10.0.0.2", "192.168.1.100", "172.16.0.2", "172.16.0.1"
CLIENT6, VIRTUAL6, SERVER6, OWN6 = "fd10::2", "fd99::1", "fd20::2", "fd20::1"
_LOCAL = {packed(each) for each in (VIRTUAL, OWN, VIRTUAL6, OWN6, "127.0.0.1", "::1")}

LOCAL_ROUTE = Dst("local", "lo", input=True)
FORWARD_ROUTE = Dst("unicast", "eth0", b"", 1500, b"", True)


class Host:
    """The part of an Engine that IPVS sees. `sent`: packets given to LOCAL_OUT; `errors`: ICMP errors asked for."""

    def __init__(self, settings: dict[str, str] | None = None, *, modules: set[str] | None = None) -> None:
        self.settings = Settings({f"net.ipv4.vs.{name}": value for name, value in (settings or {}).items()})
        self.timers = Timers()
        self.now = 100.0
        self.tracer: Tracer | None = None
        self.modules = modules or set()
        self.random = lambda limit: 0x1234 % limit
        self.drops: Counter[Reason] = Counter()
        self.sent: list[Skb] = []
        self.errors: list[tuple[Skb, int, int, int]] = []
        self.ended: list[Skb] = []
        self.learned: list[tuple[object, ...]] = []
        self.rerouted: list[Skb] = []
        self.killed: list[Entry] = []
        self.altered: list[bytes] = []
        self.expected: list[tuple[bytes, Any]] = []
        self.mangled: list[tuple[int, int, bytes]] = []
        self.used = 0
        self.rebuilt = 0
        self.mtu = 1500
        self.reroutable = True
        self.entries: dict[bytes, Entry] = {}
        self.routing = SimpleNamespace(
            output=self._output, select_source=lambda device, destination: packed(OWN),
            address_type=lambda family, address: "local" if address in _LOCAL else "unicast",
            four=SimpleNamespace(learn_path_mtu=lambda *told: self.learned.append(told)),
        )  # fmt: skip
        self.ip = SimpleNamespace(
            icmp_error=lambda skb, kind, code, info=0: self.errors.append((skb, kind, code, info)),
            reinject=self.sent.append, route_me_harder=self._reroute,
        )  # fmt: skip
        self.ct = SimpleNamespace(
            use=lambda family: self._use(1), unuse=lambda family: self._use(-1), untrack=self._untrack,
            alter_reply=self._alter, confirm_now=self._confirm, expect=self._expect, kill=self.killed.append,
            find=lambda key: (self.entries[key], False) if key in self.entries else None,
        )  # fmt: skip
        self.nat = SimpleNamespace(mangle_tcp=self._mangle)
        self.flows = SimpleNamespace(clear=lambda: None, settle=lambda: None)
        self.vs = Ipvs(cast("Engine", self))

    # -- what the other parts do --------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        self.rebuilt += 1

    def delivered(self, skb: Skb) -> None:
        self.ended.append(skb)

    def _output(self, family: int, destination: bytes, source: bytes = b"", mark: int = 0, device: str = "") -> Any:
        if destination in _LOCAL:
            return Dst("local", "lo", b"", 65536)
        if destination[:2] in (packed(SERVER)[:2], packed(SERVER6)[:2]):
            return Dst("unicast", "eth1", b"", self.mtu, packed(OWN if family == INET else OWN6))
        if destination[:1] in (b"\x0a", b"\xfd"):
            return Dst("unicast", "eth0", packed("10.9.9.9") if family == INET else packed("fd10::9"), self.mtu)
        return Reason.NO_ROUTE

    def _reroute(self, skb: Skb, source_type_local: bool) -> bool:
        self.rerouted.append(skb)
        skb.dst = Dst("unicast", "eth9")
        return self.reroutable

    def _use(self, more: int) -> None:
        self.used += more

    def _untrack(self, skb: Skb) -> None:
        skb.ct, skb.ctinfo = None, UNTRACKED

    def _alter(self, entry: Entry, reply: bytes) -> None:
        entry.reply = reply
        self.altered.append(reply)

    def _confirm(self, skb: Skb) -> Reason | None:
        assert skb.ct is not None
        skb.ct.status |= CONFIRMED
        return None

    def _expect(self, master: Entry, match: bytes, mask_source_port: bool, **others: Any) -> bool:
        if master.helper is None:
            return False
        self.expected.append((match, others))
        return True

    def _mangle(self, skb: Skb, entry: Entry, offset: int, length: int, replacement: bytes) -> bool:
        self.mangled.append((offset, length, replacement))
        return True

    # -- for tests ----------------------------------------------------------------------------------------------------

    def service(self, text: str, *servers: Server, **settings: Any) -> ServiceAddress:
        """A service with servers, in the order in which they are added."""
        address = ServiceAddress.parse(text)
        self.vs.add_service(Service(address, **{"scheduler": "rr", **settings}))
        for server in servers:
            self.vs.add_server(address, server)
        return address

    def give(self, skb: Skb, hook: int = LOCAL_IN) -> Reason | None:
        """Hand a packet to ip_vs_in as the hook would."""
        skb.hook = hook
        return self.vs.in_hook(skb)

    def give_back(self, skb: Skb, hook: int) -> Reason | None:
        """Hand a packet to ip_vs_out."""
        skb.hook = hook
        return self.vs.out_hook(skb)

    def find(self, skb: Skb) -> Conn | None:
        """The connection of a request."""
        return self.vs.conns.find_in(
            Header(skb.family, skb.protocol, skb.source, skb.destination, skb.sport, skb.dport)
        )


def server(text: str = f"{SERVER}:8080", forward: str = "nat", tunnel: Tunnel | None = None, weight: int = 1) -> Server:
    address, _, port = text.rpartition(":")
    return Server(ServerAddress.of(address.strip("[]"), int(port)), forward, weight, tunnel=tunnel)


def packet(
    payload: bytes | bytearray, source: str, destination: str, protocol: int, *, ttl: int = 64, df: bool = False,
    tos: int = 0, indev: str = "eth0", dst: Dst | None = LOCAL_ROUTE,
) -> Skb:  # fmt: skip
    """A packet with a route, as it comes to LOCAL_IN."""
    here, there = packed(source), packed(destination)
    if len(here) == 4:
        data = ipv4.build(here, there, protocol, payload, ttl, tos, 7, df)
    else:
        data = ipv6.build(here, there, protocol, payload, ttl, tos)
    skb = Skb(data, indev)
    skb.dst = dst
    return skb


def tcp_packet(
    flags: int, source: str = CLIENT, destination: str = VIRTUAL, sport: int = 40000, dport: int = 80,
    payload: bytes = b"", **others: Any,
) -> Skb:  # fmt: skip
    segment = tcp.build(packed(source), packed(destination), sport, dport, flags, 1000, 2000, 8192, payload)
    return packet(segment, source, destination, 6, **others)


def udp_packet(
    source: str = CLIENT, destination: str = VIRTUAL, sport: int = 40000, dport: int = 53, payload: bytes = b"x",
    checksummed: bool = True, **others: Any,
) -> Skb:  # fmt: skip
    datagram = udp.build(packed(source), packed(destination), sport, dport, payload, checksummed)
    return packet(datagram, source, destination, 17, **others)


def attach(host: Host, skb: Skb, *, confirmed: bool = False, ctinfo: int = 2, helper: Any = None) -> Entry:
    """Give a packet a conntrack entry of its own."""
    first = bytes((skb.protocol,))
    ports = bytes(skb.data[skb.thoff : skb.thoff + 4])
    entry = Entry(
        cast(Any, host.ct), first + skb.source + skb.destination + ports,
        first + skb.destination + skb.source + ports[2:] + ports[:2],
    )  # fmt: skip
    entry.helper = helper
    if confirmed:
        entry.status |= CONFIRMED
    skb.ct, skb.ctinfo = entry, ctinfo
    return entry


__all__ = [
    "CLIENT", "CLIENT6", "FORWARD_ROUTE", "INET", "INET6", "LOCAL_ROUTE", "NONE", "OWN", "OWN6", "SERVER", "SERVER6",
    "VIRTUAL", "VIRTUAL6", "Host", "attach", "packet", "server", "tcp_packet", "udp_packet",
]  # fmt: skip
