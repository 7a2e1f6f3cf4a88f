"""A small engine for the tests of IPVS's tables: time, settings and timers, and nothing that handles packets."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.skb import SYN, TCP, Skb
from ipvsctl.datapath.timers import Timers
from ipvsctl.datapath.vs.conns import Connections
from ipvsctl.datapath.vs.defense import Defense
from ipvsctl.datapath.vs.entry import Conn, Dest
from ipvsctl.datapath.vs.header import Header, Refusal
from ipvsctl.datapath.vs.schedule import Scheduling
from ipvsctl.datapath.vs.services import Services
from ipvsctl.datapath.vs.states import INPUT, set_state
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.service import Server, Service
from ipvsctl.wire.address import packed

VIP = "192.0.2.1"
HTTP = ServiceAddress.parse("tcp:192.0.2.1:80")


class Bench:
    """The tables of one namespace; `engine` is all they see of it."""

    def __init__(self, seed: int = 7, **settings: int) -> None:
        names = {f"net.ipv4.vs.{name}": str(value) for name, value in settings.items()}
        self.tracked: list[str] = []
        self.dropped: list[Conn] = []
        self.engine: Any = SimpleNamespace(
            now=100.0, settings=Settings(names), timers=Timers(), tracer=None, random=Random(seed).randrange,
            ct=SimpleNamespace(
                use=lambda family: self.tracked.append(f"use {family}"),
                unuse=lambda family: self.tracked.append(f"unuse {family}"),
            ),
        )  # fmt: skip
        self.services = Services(self.engine)
        self.conns = Connections(self.engine)
        self.scheduling = Scheduling(self.engine, self.services, self.conns)
        self.defense = Defense(self.engine, self.conns)
        self.engine.vs = SimpleNamespace(
            conns=self.conns, defense=self.defense, drop_conntrack=self.dropped.append, services=self.services
        )

    def write(self, name: str, value: int) -> None:
        """Write a sysctl of IPVS."""
        self.engine.settings.write(f"net.ipv4.vs.{name}", str(value))

    def add(self, address: ServiceAddress = HTTP, *servers: tuple[Any, ...], **options: Any) -> list[Dest]:
        """A service with servers given as (address, weight, forward, upper, lower); the Dests in the order given."""
        self.services.add(Service(address, **options))
        return [self.server(address, *server) for server in servers]

    def server(
        self, address: ServiceAddress, text: str, weight: int = 1, forward: str = "dr", upper: int = 0, lower: int = 0
    ) -> Dest:
        """Add one more server."""
        return self.services.add_server(address, self.wish(address, text, weight, forward, upper, lower))

    @staticmethod
    def wish(
        address: ServiceAddress, text: str, weight: int = 1, forward: str = "dr", upper: int = 0, lower: int = 0
    ) -> Server:
        return Server(ServerAddress.parse(text, address), forward, weight, upper, lower)

    def packet(self, header: Header, flags: int = SYN, indev: str = "eth0", mark: int = 0) -> Any:
        """What the tables read of an skb: flags of the transport header, mark and device."""
        data = bytearray(header.length + 40)
        if header.protocol == TCP:
            data[header.length + 13] = flags
        elif header.protocol == 132:
            data[header.length + 12] = flags
        skb: Any = object.__new__(Skb)
        skb.data, skb.indev, skb.mark = data, indev, mark
        return skb

    def open(self, client: str = "198.51.100.1:1024", **options: Any) -> Conn | Refusal | None:
        """A client's first packet: scheduled, its state set, its timer started."""
        header = header_of(client, options.pop("to", f"{VIP}:80"), options.pop("protocol", TCP))
        skb = self.packet(header, **options)
        conn = self.scheduling.conn_schedule(skb, header)
        if isinstance(conn, Conn):
            set_state(conn, INPUT, skb, header, self.engine)
            conn.in_packets += 1
            self.conns.put(conn, self.engine.now)
        return conn

    def send(self, conn: Conn, flags: int, direction: int = INPUT) -> None:
        """A further segment of a connection."""
        header = Header(conn.family, conn.protocol, conn.caddr, conn.vaddr, conn.cport, conn.vport, 0, 20)
        set_state(conn, direction, self.packet(header, flags), header, self.engine)
        self.conns.put(conn, self.engine.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, the timers with it."""
        end = self.engine.now + seconds
        while self.engine.now < end:
            self.engine.now = min(self.engine.now + 1, end)
            while self.engine.timers.poll(self.engine.now):
                pass


def header_of(client: str, virtual: str, protocol: int = TCP) -> Header:
    """A header from two endpoints as text."""
    (source, sport), (destination, dport) = _endpoint(client), _endpoint(virtual)
    return Header(10 if len(source) == 16 else 2, protocol, source, destination, sport, dport, 0, 20)


def _endpoint(text: str) -> tuple[bytes, int]:
    host, _, port = text.rpartition(":")
    return packed(host.strip("[]")), int(port)
