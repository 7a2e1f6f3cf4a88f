"""Whole conversations through the datapath: a client, a server behind the director, and what they say to each other.

Neither has a stack: the client sends what its script says, the server answers the packet that really came out of the
director, with the addresses that it really bears. So a conversation shows what two hosts would meet: an address that
was not rewritten in an FTP reply, a data connection that a rule drops, a reply that has no way back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.skb import ACK, FIN, PSH, SYN, TCP, UDP, Skb
from ipvsctl.datapath.trace import Step, Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.wire import ipv4, ipv6, tcp, tunnel, udp
from ipvsctl.wire.address import endpoint, readable

FTP_DATA = 20
_ANNOUNCED = 33000
_CLIENT_DATA = 40100
_PACE = 0.01
"""Seconds between two packets."""
FIRST = 1000, 500000
"""Sequence numbers that client and server begin with."""
MASK = 0xFFFFFFFF


@dataclass(slots=True)
class Walk:
    """One packet's way. `title` says who sends what; `verdict` as Engine.verdict; `arrived` whether the peer got it.

    `device` is where it came in, "" for a packet of the host's own. A packet that goes past the host has the verdict
    "direct".
    """

    title: str
    packet: bytes
    device: str
    verdict: Reason | str
    steps: list[Step]
    outputs: list[Output]
    arrived: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def answers(self) -> list[bool]:
        """For each of the outputs whether it is not the packet but what the host answered: an ICMP error, a reset."""
        return [step.answer for step in self.steps if step.data.get("leaves", "lo") != "lo"]

    @property
    def passed(self) -> list[Output]:
        """The outputs that are the packet."""
        return [output for output, answer in zip(self.outputs, self.answers, strict=True) if not answer]


@dataclass(slots=True)
class _End:
    """One end of a TCP connection, as it sees itself and the other one."""

    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    seq: int
    ack: int = 0

    def segment(self, flags: int, data: bytes = b"") -> bytes:
        """The next segment; the sequence number moves on."""
        options = b"\x02\x04\x05\xb4" if flags & SYN else b""
        body = tcp.build(
            self.local[0], self.remote[0], self.local[1], self.remote[1], flags, self.seq,
            self.ack if flags & ACK else 0, 64240, data, options,
        )  # fmt: skip
        self.seq = (self.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & MASK
        return _ip(self.local[0], self.remote[0], TCP, body)

    def take(self, skb: Skb) -> bytes:
        """A segment came: acknowledge it from now on; its payload."""
        data = skb.data
        payload = bytes(data[skb.thoff + (data[skb.thoff + 12] >> 4) * 4 :])
        seq = int.from_bytes(data[skb.thoff + 4 : skb.thoff + 8], "big")
        self.ack = (seq + len(payload) + bool(skb.flags & SYN) + bool(skb.flags & FIN)) & MASK
        return payload


class Lost(Exception):
    """A packet did not reach the other end: the conversation is over."""


class Session:
    """A conversation of `client` (address, port) with the service at `virtual`, whose packets come in by `device`.

    `direct`: servers reached by dr or tun answer the client past the director; None: they do unless the device they
    are on accepts local sources (accept_local), without which the director could not forward their replies. `first`:
    the sequence numbers that client and server begin with.
    """

    def __init__(
        self, engine: Engine, device: str, client: tuple[bytes, int], virtual: tuple[bytes, int],
        direct: bool | None = None, first: tuple[int, int] = FIRST,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.device = device
        self.client = client
        self.virtual = virtual
        self.walks: list[Walk] = []
        self._direct = direct
        self._first = first
        self._server_device = self._method = ""
        self._delivered = b""
        self._now = engine.now

    def run(self, name: str) -> list[Walk]:
        """Hold the conversation of that name (a key of SESSIONS) to its end, or to the packet that is lost."""
        try:
            SESSIONS[name](self)
        except Lost:
            self.walks[-1].arrived = False
        return self.walks

    # -- carrying -----------------------------------------------------------------------------------------------------

    def pass_through(self, title: str, packet: bytes, device: str) -> Walk:
        """Give the engine one packet, by a device or ("") from the host itself, and write down what happens."""
        self._now += _PACE
        self.engine.tracer = tracer = Tracer()
        engine, now = self.engine, self._now
        outputs = engine.receive(device, packet, now) if device else engine.send(packet, now)
        self.engine.tracer = None
        self._delivered = tracer.delivered
        walk = Walk(title, packet, device, self.engine.verdict, tracer.steps, outputs)
        self.walks.append(walk)
        return walk

    def _to_server(self, title: str, packet: bytes) -> Skb:
        """The client sends; what the server gets, out of its tunnel."""
        walk = self.pass_through(f"client: {title}", packet, self.device)
        if walk.verdict == "delivered":
            self._server_device = ""
            return Skb(bytearray(self._delivered))
        self._method = next((step.data["method"] for step in walk.steps if "method" in step.data), "")
        for output in walk.passed:
            inner = tunnel.decapsulate(output.packet) if self._method == "tun" else None
            self._server_device = output.device
            return Skb(bytearray(output.packet if inner is None else output.packet[inner:]))
        raise Lost

    def _to_client(self, title: str, packet: bytes, known: tuple[bytes, int] | None = None) -> Skb:
        """The server sends; what the client gets. `known`: whom it talks to, None when it is called from outside."""
        skb = Skb(bytearray(packet))
        if skb.source == self.virtual[0] and self._is_direct():
            self.walks.append(Walk(f"server: {title}", packet, "", "direct", [], []))
            return skb
        walk = self.pass_through(f"server: {title}", packet, self._server_device)
        for output in walk.passed:
            skb = Skb(bytearray(output.packet))
            if skb.destination != self.client[0]:
                continue
            if known is not None and (skb.source, skb.sport) != known:
                walk.notes.append(f"the client talks to {endpoint(*known)}, not to {endpoint(skb.source, skb.sport)}")
                break
            if skb.source != self.virtual[0]:
                walk.notes.append(f"the client sees it come from {readable(skb.source)}")
            return skb
        raise Lost

    def _is_direct(self) -> bool:
        if not self._server_device or self._method not in ("dr", "tun"):
            return False
        if self._direct is None:
            ours = len(self.virtual[0]) == 16 or self.engine.settings.either(self._server_device, "accept_local")
            return not ours
        return self._direct

    # -- TCP ----------------------------------------------------------------------------------------------------------

    def _connect(self, client_port: int, address: bytes, port: int, what: str = "") -> tuple[_End, _End]:
        """The client opens a connection: both ends, established."""
        client = _End((self.client[0], client_port), (address, port), self._first[0])
        got = self._to_server(f"{what}SYN", client.segment(SYN))
        server = _End((got.destination, got.dport), (got.source, got.sport), self._first[1])
        server.take(got)
        client.take(self._to_client(f"{what}SYN, ACK", server.segment(SYN | ACK), client.remote))
        server.take(self._to_server(f"{what}ACK", client.segment(ACK)))
        return client, server

    def _say(self, client: _End, server: _End, data: bytes, what: str = "") -> bytes:
        """The client says something and the server acknowledges it; what the server heard."""
        heard = server.take(self._to_server(f"{what}{_quoted(data)}", client.segment(PSH | ACK, data)))
        client.take(self._to_client(f"{what}ACK", server.segment(ACK), client.remote))
        return heard

    def _answer(self, client: _End, server: _End, data: bytes, what: str = "") -> bytes:
        """The server says something and the client acknowledges it; what the client heard."""
        heard = client.take(self._to_client(f"{what}{_quoted(data)}", server.segment(PSH | ACK, data), client.remote))
        server.take(self._to_server(f"{what}ACK", client.segment(ACK)))
        return heard

    def _close(self, client: _End, server: _End, what: str = "") -> None:
        client.take(self._to_client(f"{what}FIN, ACK", server.segment(FIN | ACK), client.remote))
        server.take(self._to_server(f"{what}FIN, ACK", client.segment(FIN | ACK)))
        client.take(self._to_client(f"{what}ACK", server.segment(ACK), client.remote))

    def opened(self) -> None:
        """Open a connection and leave it so."""
        self._connect(self.client[1], *self.virtual)

    def tcp(self) -> None:
        """Open and close a connection."""
        self._close(*self._connect(self.client[1], *self.virtual))

    def http(self) -> None:
        """One request and its answer."""
        client, server = self._connect(self.client[1], *self.virtual)
        self._say(client, server, b"GET / HTTP/1.0\r\n\r\n")
        self._answer(client, server, b"HTTP/1.0 200 OK\r\n\r\nhello\n")
        self._close(client, server)

    def udp(self) -> None:
        """One datagram each way."""
        body = udp.build(self.client[0], self.virtual[0], self.client[1], self.virtual[1], b"question")
        got = self._to_server("datagram", _ip(self.client[0], self.virtual[0], UDP, body))
        body = udp.build(got.destination, got.source, got.dport, got.sport, b"answer")
        self._to_client("datagram", _ip(got.destination, got.source, UDP, body), self.virtual)

    # -- FTP ----------------------------------------------------------------------------------------------------------

    def _ftp(self) -> tuple[_End, _End]:
        """The control connection, logged in: conntrack's helper reads commands only behind an earlier line."""
        client, server = self._connect(self.client[1], *self.virtual)
        self._answer(client, server, b"220 ready\r\n")
        self._say(client, server, b"USER anonymous\r\n")
        self._answer(client, server, b"230 logged in\r\n")
        return client, server

    def _transfer(self, client: _End, server: _End) -> None:
        self._answer(client, server, b"hello\n", "data: ")
        self._close(client, server, "data: ")

    def ftp_passive(self) -> None:
        """PASV (EPSV for IPv6): the client opens the data connection to where the reply it got says."""
        if len(self.client[0]) == 16:
            self.ftp_extended_passive()
            return
        client, server = self._ftp()
        self._say(client, server, b"PASV\r\n")
        where = ",".join(str(byte) for byte in (*server.local[0], _ANNOUNCED >> 8, _ANNOUNCED & 255))
        heard = self._answer(client, server, f"227 Entering Passive Mode ({where})\r\n".encode())
        numbers = [int(number) for number in re.findall(rb"\d+", heard)[1:7]]
        address, port = bytes(numbers[:4]), numbers[4] << 8 | numbers[5]
        if address != self.virtual[0]:
            self.walks[-2].notes.append(f"the client was told to connect to {readable(address)}")
        self._transfer(*self._connect(_CLIENT_DATA, address, port, "data: "))

    def ftp_extended_passive(self) -> None:
        """EPSV: the reply names a port only."""
        client, server = self._ftp()
        self._say(client, server, b"EPSV\r\n")
        heard = self._answer(client, server, f"229 Entering Extended Passive Mode (|||{_ANNOUNCED}|)\r\n".encode())
        port = int(re.findall(rb"\|(\d+)\|", heard)[0])
        self._transfer(*self._connect(_CLIENT_DATA, self.virtual[0], port, "data: "))

    def _opened_by_server(self, control: tuple[_End, _End], command: str, address: bytes) -> None:
        client, server = control
        self._say(client, server, command.encode())
        self._answer(client, server, b"200 ok\r\n")
        opener = _End((server.local[0], FTP_DATA), (address, _CLIENT_DATA), self._first[1])
        got = self._to_client("data: SYN", opener.segment(SYN))
        listener = _End((got.destination, got.dport), (got.source, got.sport), self._first[0])
        listener.take(got)
        opener.take(self._to_server("data: SYN, ACK", listener.segment(SYN | ACK)))
        listener.take(self._to_client("data: ACK", opener.segment(ACK), listener.remote))
        self._transfer(listener, opener)

    def ftp_active(self) -> None:
        """PORT (EPRT for IPv6): the server opens the data connection from its port 20."""
        if len(self.client[0]) == 16:
            self.ftp_extended_active()
            return
        where = ",".join(str(byte) for byte in (*self.client[0], _CLIENT_DATA >> 8, _CLIENT_DATA & 255))
        self._opened_by_server(self._ftp(), f"PORT {where}\r\n", self.client[0])

    def ftp_extended_active(self) -> None:
        """EPRT: the same with the address in words."""
        family = 2 if len(self.client[0]) == 16 else 1
        where = f"|{family}|{readable(self.client[0])}|{_CLIENT_DATA}|"
        self._opened_by_server(self._ftp(), f"EPRT {where}\r\n", self.client[0])


SESSIONS: dict[str, Callable[[Session], None]] = {
    "tcp": Session.tcp,
    "http": Session.http,
    "udp": Session.udp,
    "dns": Session.udp,
    "ftp-passive": Session.ftp_passive,
    "ftp-extended-passive": Session.ftp_extended_passive,
    "ftp-active": Session.ftp_active,
    "ftp-extended-active": Session.ftp_extended_active,
}
"""Conversations by name."""


def _ip(source: bytes, destination: bytes, protocol: int, payload: bytes | bytearray) -> bytes:
    if len(source) == 16:
        return bytes(ipv6.build(source, destination, protocol, payload))
    return bytes(ipv4.build(source, destination, protocol, payload, df=True))


def _quoted(data: bytes) -> str:
    return data.split(b"\r\n")[0].decode("ascii", "replace").strip()
