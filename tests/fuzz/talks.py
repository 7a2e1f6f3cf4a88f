"""Conversations that go on: clients that send what makes sense, servers that answer what really reached them.

A talk is a generator of (device, packet), "" for the host's own processes. Between two packets it may look at what left
the director last. Anything may have become of a packet in between, so nothing here takes an answer for granted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from ipvsctl.datapath.flows import Output
from ipvsctl.wire import icmp, sctp, tcp, tunnel, udp
from ipvsctl.wire.address import readable
from tests.fuzz.mutate import transport
from tests.fuzz.packets import Packets

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH
Talk = Iterator[tuple[str, bytes]]
Host = tuple[bytes, int]


class Heard(NamedTuple):
    """A packet that reached a host, out of its tunnel."""

    device: str
    protocol: int
    source: Host
    destination: Host
    body: bytes
    """From the transport header on."""


class Net:
    """What left the director: because of the last event, and lately."""

    def __init__(self) -> None:
        self.last: list[Heard] = []
        self.recent: deque[tuple[str, bytes]] = deque(maxlen=64)

    def take(self, outputs: Sequence[Output]) -> None:
        """Something left."""
        self.last = []
        for output in outputs[:50]:
            self.recent.append((output.device, output.packet))
            at = tunnel.decapsulate(output.packet) or 0
            heard = _heard(output.device, output.packet[at:])
            if heard is not None:
                self.last.append(heard)

    def heard(self, protocol: int, port: int, source: bytes = b"") -> Heard | None:
        """What arrived from a port (or an address): by its port, or by its address where the port was translated."""
        for each in self.last:
            if each.protocol == protocol and (each.source[1] == port or each.source[0] == source):
                return each
        return None


def _heard(device: str, packet: bytes) -> Heard | None:
    protocol, at = transport(packet)
    if protocol < 0 or len(packet) < at + 8:
        return None
    four = packet[0] >> 4 == 4
    source, destination = (packet[12:16], packet[16:20]) if four else (packet[8:24], packet[24:40])
    body = packet[at:]
    ports = body[0] << 8 | body[1], body[2] << 8 | body[3]
    return Heard(device, protocol, (source, ports[0]), (destination, ports[1]), body)


@dataclass(slots=True)
class End:
    """One end of a TCP connection as it sees itself and the other one."""

    device: str
    local: Host
    remote: Host
    seq: int
    ack: int = 0
    stamps: bool = False

    def hear(self, body: bytes) -> bytes:
        """A segment came: acknowledge it; its payload."""
        if len(body) < 20:
            return b""
        data = body[(body[12] >> 4) * 4 :]
        seq = int.from_bytes(body[4:8], "big")
        self.ack = (seq + len(data) + bool(body[13] & SYN) + bool(body[13] & FIN)) & 0xFFFFFFFF
        return data


class Talks:
    """All kinds of conversations."""

    def __init__(self, random: Random, net: Net, packets: Packets) -> None:
        self.random = random
        self.net = net
        self.packets = packets

    def _said(self, end: End, flags: int, data: bytes = b"", options: bytes = b"") -> tuple[str, bytes]:
        if end.stamps and not options:
            options = b"\x01\x01\x08\x0a" + self.random.randbytes(8)
        window = self.random.choice((29200, 29200, 29200, 65535, 0, 1))
        segment = tcp.build(*(end.local[0], end.remote[0], end.local[1], end.remote[1]), flags, end.seq,
                            end.ack if flags & ACK else 0, window, data, options)  # fmt: skip
        end.seq = (end.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        return end.device, self._ip(end.local[0], end.remote[0], 6, segment)

    def _ip(self, source: bytes, destination: bytes, protocol: int, body: bytes | bytearray) -> bytes:
        """Mostly plain: only such packets take the short way."""
        if self.random.random() < 0.1 or len(source) == 16:
            return self.packets.ip(source, destination, protocol, body)
        return bytes(
            tunnel.outer(source, destination, protocol, body[:65515], 64, 0, self.random.getrandbits(16), True)
        )

    def _other_end(self, end: End) -> End | None:
        """The end that heard the last packet of `end`."""
        heard = self.net.heard(6, end.local[1], end.local[0])
        if heard is None:
            return None
        other = End(heard.device, heard.destination, heard.source, self.random.getrandbits(32), stamps=end.stamps)
        other.hear(heard.body)
        return other

    # -- TCP ----------------------------------------------------------------------------------------------------------

    def tcp(self, client: End) -> Talk:
        """A connection from SYN to some end, with much or little between."""
        ends = yield from self._open(client)
        if ends is None:
            return
        client, server = ends
        for _ in range(self.random.choice((0, 1, 3, 10, 60))):
            speaker, other = self.random.choice(((client, server), (client, server), (server, client)))
            yield from self._say(speaker, other, bytes(self.random.choice((0, 1, 5, 100, 1000, 1448))))
        yield from self._close(client, server)

    def _open(self, client: End) -> Generator[tuple[str, bytes], None, tuple[End, End] | None]:
        random = self.random
        client.stamps = random.random() < 0.2
        options = random.choice((b"", b"\x02\x04\x05\xb4", b"\x02\x04\x05\xb4\x04\x02\x03\x03\x07\x01"))
        first = client.seq
        yield self._said(client, SYN, options=options)
        if random.random() < 0.1:
            client.seq = first
            yield self._said(client, SYN, options=options)
        server = self._other_end(client)
        if server is None:
            if random.random() < 0.3:
                yield self._said(client, ACK)
            return None
        yield self._said(server, SYN | ACK, options=options)
        client.ack = server.seq
        yield self._said(client, ACK)
        return client, server

    def _say(self, speaker: End, other: End, data: bytes) -> Talk:
        """Something is said, perhaps twice, and acknowledged or not."""
        before = speaker.seq
        yield self._said(speaker, PSH | ACK if data else ACK, data)
        if self.random.random() < 0.03:
            speaker.seq = before
            yield self._said(speaker, PSH | ACK, data)
        heard = self.net.heard(6, speaker.local[1], speaker.local[0])
        other.ack = speaker.seq
        if heard is not None and self.random.random() < 0.9:
            other.hear(heard.body)
        if self.random.random() < 0.5:
            yield self._said(other, ACK)
            speaker.ack = other.seq

    def _close(self, client: End, server: End) -> Talk:
        random = self.random
        one, two = random.choice(((client, server), (server, client)))
        match random.randint(0, 4):
            case 0 | 1:
                yield self._said(one, FIN | ACK)
                two.ack = one.seq
                yield self._said(two, FIN | ACK)
                one.ack = two.seq
                yield self._said(one, ACK)
            case 2:
                yield self._said(one, RST | ACK)
            case 3:
                yield self._said(one, FIN | ACK)
            case _:
                return
        if random.random() < 0.4:
            client.seq, client.ack = random.getrandbits(32), 0
            yield self._said(client, SYN)
            again = self._other_end(client)
            if again is not None:
                yield self._said(again, SYN | ACK)

    # -- FTP ----------------------------------------------------------------------------------------------------------

    def ftp(self, client: End) -> Talk:
        """An FTP dialogue with transfers of all four modes."""
        random = self.random
        ends = yield from self._open(client)
        if ends is None:
            return
        client, server = ends
        yield from self._say(server, client, b"220 ready\r\n")
        yield from self._say(client, server, b"USER anonymous\r\n")
        yield from self._say(server, client, b"230 in\r\n")
        for _ in range(random.choice((1, 1, 2, 5))):
            if random.random() < 0.5:
                yield from self._passive(client, server)
            else:
                yield from self._active(client, server)
        yield from self._close(client, server)

    def _passive(self, client: End, server: End) -> Talk:
        random = self.random
        extended = len(server.local[0]) == 16 or random.random() < 0.4
        port = 30000 + random.randint(0, 99)
        digits = b",".join(b"%d" % each for each in (*server.local[0][:4], port >> 8, port & 255))
        text = b"229 Entering (|||%d|)\r\n" % port if extended else b"227 Entering (%b).\r\n" % digits
        yield from self._say(client, server, b"EPSV\r\n" if extended else b"PASV\r\n")
        for line in self._lines(text):
            yield from self._say(server, client, line)
        data = End(client.device, (client.local[0], client.local[1] + 1), (client.remote[0], port),
                   random.getrandbits(32))  # fmt: skip
        if random.random() < 0.8:
            yield from self.tcp(data)

    def _active(self, client: End, server: End) -> Talk:
        random = self.random
        address, port = client.local[0], (client.local[1] + 1) & 0xFFFF
        if len(address) == 16 or random.random() < 0.4:
            kind = 2 if len(address) == 16 else 1
            text = b"EPRT |%d|%b|%d|\r\n" % (kind, readable(address).encode(), port)
        else:
            text = b"PORT %b\r\n" % b",".join(b"%d" % each for each in (*address, port >> 8, port & 255))
        for line in self._lines(text):
            yield from self._say(client, server, line)
        yield from self._say(server, client, b"200 fine\r\n")
        opener = End(server.device, (server.local[0], 20), (server.remote[0], port), random.getrandbits(32))
        if random.random() < 0.8:
            yield from self.tcp(opener)

    def _lines(self, text: bytes) -> list[bytes]:
        """The text in one segment or two, perhaps with more lines around it."""
        random = self.random
        chance = random.random()
        if chance < 0.06:
            at = random.randrange(len(text))
            return [text[:at], text[at:]]
        if chance < 0.1:
            return [text * random.randint(2, 30)]
        if chance < 0.16:
            return [text.replace(b",", random.choice((b";", b",0", b"999,", b"")), 1)]
        return [text]

    # -- the others ---------------------------------------------------------------------------------------------------

    def udp(self, device: str, client: Host, service: Host) -> Talk:
        """Requests and answers."""
        random = self.random
        for _ in range(random.choice((1, 1, 2, 8))):
            body = udp.build(client[0], service[0], client[1], service[1], self.packets.payload(),
                             random.random() < 0.9)  # fmt: skip
            yield device, self._ip(client[0], service[0], 17, body)
            heard = self.net.heard(17, client[1], client[0])
            if heard is not None and random.random() < 0.8:
                body = udp.build(heard.destination[0], heard.source[0], heard.destination[1], heard.source[1],
                                 self.packets.payload(), random.random() < 0.9)  # fmt: skip
                yield heard.device, self._ip(heard.destination[0], heard.source[0], 17, body)

    def sctp(self, device: str, client: Host, service: Host) -> Talk:
        """An association: handshake, data, shutdown or abort."""
        random = self.random
        tags = random.getrandbits(32) or 1, random.getrandbits(32) or 1

        def of(tag: int) -> bytes:
            return tag.to_bytes(4, "big") + b"\0\1\0\0\0\4\0\4" + b"\0\0\0\1"

        dialogue = [(0, 1, of(tags[0]), 0), (1, 2, of(tags[1]), tags[0]), (0, 10, b"cook", tags[1]),
                    (1, 11, b"", tags[0]), (0, 0, bytes(12) + b"data", tags[1]), (1, 3, bytes(12), tags[0]),
                    (0, 4, b"beat", tags[1]), (1, 5, b"beat", tags[0])]  # fmt: skip
        dialogue += random.choice((
            [(0, 7, bytes(4), tags[1]), (1, 8, b"", tags[0]), (0, 14, b"", tags[1])], [(1, 6, b"", tags[0])], [],
        ))  # fmt: skip
        heard: Heard | None = None
        for side, kind, body, tag in dialogue:
            chunks = [sctp.chunk(kind, 0, body)]
            if side == 0:
                yield device, self._ip(client[0], service[0], 132, sctp.build(client[1], service[1], tag, chunks))
                heard = self.net.heard(132, client[1], client[0]) or heard
            elif heard is not None:
                local, remote = heard.destination, heard.source
                yield heard.device, self._ip(local[0], remote[0], 132, sctp.build(local[1], remote[1], tag, chunks))

    def echo(self, device: str, source: bytes, destination: bytes) -> Talk:
        """Pings, and their answers if they were sent on."""
        v6 = len(source) == 16
        rest = self.random.randbytes(2) + b"\0\1"
        number = 58 if v6 else 1
        body = icmp.build(source, destination, 128 if v6 else 8, 0, rest, self.packets.payload())
        yield device, self._ip(source, destination, number, body)
        for heard in self.net.last:
            if heard.protocol == number and heard.body[0] == (128 if v6 else 8):
                to, back = heard.source[0], heard.destination[0]
                body = icmp.build(back, to, 129 if v6 else 0, 0, heard.body[4:8], heard.body[8:])
                yield heard.device, self._ip(back, to, number, body)
