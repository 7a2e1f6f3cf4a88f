"""Conversations as scripts: what clients, servers and strangers send, in an order that mostly makes sense.

A script is a generator of (device, packet); None stands for a turn in which nobody can speak. What a server sends is
made of what reached it, so that answers come from the right server with the right addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, udp
from tests.differential.generate_net import Net

SYN, ACK, FIN, RST, PSH = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST, tcp.PSH
Said = tuple[str, bytes] | None
Script = Iterator[Said]


@dataclass(slots=True)
class End:
    """One end of a TCP connection: the addresses that it uses, its numbers, and where its packets come in."""

    device: str
    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    seq: int
    ack: int = 0

    def hear(self, segment: bytes) -> None:
        """What came from the other end."""
        at = (segment[0] & 15) * 4 if segment[0] >> 4 == 4 else 40
        flags = segment[at + 13]
        seq = int.from_bytes(segment[at + 4 : at + 8], "big")
        length = len(segment) - at - (segment[at + 12] >> 4) * 4
        following = (seq + length + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        if flags & SYN or (following - self.ack) & 0xFFFFFFFF < 0x80000000:
            self.ack = following


class Talks:
    """The scripts, on a net that tells what arrives where."""

    def __init__(self, random: Random, net: Net) -> None:
        self.random = random
        self.net = net

    def ip(self, source: bytes, destination: bytes, protocol: int, body: bytes | bytearray, ttl: int = 64) -> bytes:
        """A packet with an identification of its own."""
        if len(source) == 16:
            return bytes(ipv6.build(source, destination, protocol, body, ttl))
        return bytes(ipv4.build(source, destination, protocol, body, ttl, 0, self.net.identification(), True))

    def segment(self, end: End, flags: int, data: bytes = b"", options: bytes = b"") -> Said:
        """The next segment of an end."""
        body = tcp.build(end.local[0], end.remote[0], end.local[1], end.remote[1], flags, end.seq,
                         end.ack if flags & ACK else 0, 29200, data, options)  # fmt: skip
        end.seq = (end.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        return end.device, self.ip(end.local[0], end.remote[0], tcp.PROTOCOL, body)

    def _server(self, client: End) -> End | None:
        """The server's end, made of what reached it of the client's last packet."""
        heard = self.net.heard(client.local[1], 6)
        if heard is None or heard.device == "eth0":
            return None
        server = End(heard.device, heard.destination, heard.source, self.random.getrandbits(32))
        server.hear(heard.packet)
        return server

    def tcp(self, client: End) -> Script:
        """A TCP connection from its beginning to some end."""
        random = self.random
        options = b"\x02\x04\x05\xb4\x04\x02\x08\x0a" + bytes(8) + b"\x01\x03\x03\x07" if random.random() < 0.3 else b""
        first = client.seq
        yield self.segment(client, SYN, options=options)
        if random.random() < 0.15:
            client.seq = first
            yield self.segment(client, SYN, options=options)
        server = self._server(client)
        if server is None:
            if random.random() < 0.5:
                yield self.segment(client, ACK)
            return
        start = server.seq
        yield self._say(server, client, SYN | ACK)
        if random.random() < 0.1:
            server.seq = start
            yield self._say(server, client, SYN | ACK)
        client.ack = (start + 1) & 0xFFFFFFFF
        yield self._say(client, server, ACK)
        for _ in range(random.randint(0, 4)):
            speaker, other = random.choice(((client, server), (server, client)))
            data = b"x" * random.choice((0, 1, 5, 100, 1000))
            before = speaker.seq
            yield self._say(speaker, other, ACK | (PSH if data else 0), data)
            if random.random() < 0.1:
                speaker.seq = before
                yield self._say(speaker, other, ACK | PSH, data)
            if random.random() < 0.6:
                yield self._say(other, speaker, ACK)
        yield from self._end(client, server)

    def _say(self, speaker: End, other: End, flags: int, data: bytes = b"") -> Said:
        """A segment that the other end is taken to hear, unless something else became of it."""
        said = self.segment(speaker, flags, data)
        if flags & (SYN | FIN) or data:
            other.ack = speaker.seq
        return said

    def _end(self, client: End, server: End) -> Script:
        random = self.random
        one, two = random.choice(((client, server), (server, client)))
        match random.randint(0, 5):
            case 0 | 1 | 2:
                yield self._say(one, two, FIN | ACK)
                yield self._say(two, one, ACK)
                yield self._say(two, one, FIN | ACK)
                yield self._say(one, two, ACK)
            case 3:
                yield self._say(one, two, RST | ACK)
            case 4:
                yield self._say(one, two, FIN | ACK)
                yield self._say(two, one, FIN | ACK)
            case _:
                return
        if random.random() < 0.4:
            # The same port once more.
            client.seq = random.getrandbits(32)
            client.ack = 0
            yield self.segment(client, SYN)
            again = self._server(client)
            if again is not None:
                yield self._say(again, client, SYN | ACK)
                yield self._say(client, again, ACK)

    def ftp(self, client: End) -> Script:
        """An FTP dialogue with one transfer."""
        random = self.random
        yield self.segment(client, SYN)
        server = self._server(client)
        if server is None:
            return
        yield self._say(server, client, SYN | ACK)
        client.ack = server.seq
        yield self._say(client, server, ACK)
        yield self._say(server, client, PSH | ACK, b"220 ready\r\n")
        yield self._say(client, server, PSH | ACK, b"USER anonymous\r\n")
        yield self._say(server, client, PSH | ACK, b"230 in\r\n")
        v6 = len(client.local[0]) == 16
        if random.random() < 0.5:
            extended = v6 or random.random() < 0.4
            yield self._say(client, server, PSH | ACK, b"EPSV\r\n" if extended else b"PASV\r\n")
            port = 30000 + random.randint(0, 999)
            digits = b",".join(b"%d" % each for each in (*server.local[0][:4], port >> 8, port & 255))
            text = b"229 Entering (|||%d|)\r\n" % port if extended else b"227 Entering (%b).\r\n" % digits
            yield self._say(server, client, PSH | ACK, text)
            heard = self.net.heard(client.local[1], 6, to_client=True)
            if heard is not None:
                # The length of the text may have changed on the way.
                client.hear(heard.packet)
            yield self._say(client, server, ACK)
            data = End(client.device, (client.local[0], client.local[1] + 1), (client.remote[0], port),
                       random.getrandbits(32))  # fmt: skip
            yield from self.tcp(data)
        else:
            extended = v6 or random.random() < 0.4
            port = client.local[1] + 1
            if extended:
                from ipvsctl.wire.address import readable

                text = b"EPRT |%d|%b|%d|\r\n" % (2 if v6 else 1, readable(client.local[0]).encode(), port)
            else:
                digits = b",".join(b"%d" % each for each in (*client.local[0], port >> 8, port & 255))
                text = b"PORT %b\r\n" % digits
            yield self._say(client, server, PSH | ACK, text)
            yield self._say(server, client, PSH | ACK, b"200 fine\r\n")
            data = End(server.device, (server.local[0], server.local[1] - 1), (server.remote[0], port),
                       random.getrandbits(32))  # fmt: skip
            yield self.segment(data, SYN)
            back = End(client.device, (client.local[0], port), (client.remote[0], 20), random.getrandbits(32))
            heard = self.net.heard(port, 6, to_client=True)
            if heard is not None:
                back.remote = heard.source
                back.hear(heard.packet)
                yield self._say(back, data, SYN | ACK)
                yield self._say(data, back, ACK)
        yield from self._end(client, server)

    def udp(self, device: str, client: tuple[bytes, int], service: tuple[bytes, int]) -> Script:
        """Requests and answers."""
        random = self.random
        for _ in range(random.randint(1, 3)):
            data = b"q" * random.choice((0, 1, 30, 600))
            body = udp.build(client[0], service[0], client[1], service[1], data, len(client[0]) == 16
                             or random.random() < 0.9)  # fmt: skip
            yield device, self.ip(client[0], service[0], udp.PROTOCOL, body)
            heard = self.net.heard(client[1], 17)
            if heard is not None and heard.device != "eth0" and random.random() < 0.8:
                local, remote = heard.destination, heard.source
                body = udp.build(local[0], remote[0], local[1], remote[1], b"a" * random.choice((1, 50, 300)))
                yield heard.device, self.ip(local[0], remote[0], udp.PROTOCOL, body)

    def sctp(self, device: str, client: tuple[bytes, int], service: tuple[bytes, int]) -> Script:
        """An association: handshake, data, shutdown or abort."""
        random = self.random
        tags = random.getrandbits(32) or 1, random.getrandbits(32) or 1

        def of(tag: int) -> bytes:
            return tag.to_bytes(4, "big") + b"\0\1\0\0\0\4\0\4" + b"\0\0\0\1"

        server: tuple[str, tuple[bytes, int], tuple[bytes, int]] | None = None
        dialogue = [(0, 1, of(tags[0]), 0), (1, 2, of(tags[1]), tags[0]), (0, 10, b"cook", tags[1]), (1, 11, b"",
                    tags[0]), (0, 0, b"\0\0\0\1\0\0\0\0\0\0\0\0data", tags[1]), (1, 3, b"\0\0\0\1\0\0\1\0\0\0\0\0",
                    tags[0])]  # fmt: skip
        dialogue += random.choice((
            [(0, 7, b"\0\0\0\1", tags[1]), (1, 8, b"", tags[0]), (0, 14, b"", tags[1])],
            [(1, 6, b"", tags[0])], [(0, 6, b"", tags[1])], [],
        ))  # fmt: skip
        for side, kind, body, tag in dialogue:
            if side == 0:
                data = sctp.build(client[1], service[1], tag, [sctp.chunk(kind, 0, body)])
                yield device, self.ip(client[0], service[0], 132, data)
                heard = self.net.heard(client[1], 132)
                if heard is not None and heard.device != "eth0":
                    server = heard.device, heard.destination, heard.source
            elif server is not None:
                at, local, remote = server
                data = sctp.build(local[1], remote[1], tag, [sctp.chunk(kind, 0, body)])
                yield at, self.ip(local[0], remote[0], 132, data)

    def echo(self, device: str, source: bytes, destination: bytes) -> Script:
        """A ping, and its answer if it was sent on."""
        v6 = len(source) == 16
        rest = self.random.getrandbits(16).to_bytes(2, "big") + b"\0\1"
        body = icmp.build(source, destination, 128 if v6 else 8, 0, rest, b"ping")
        yield device, self.ip(source, destination, 58 if v6 else 1, body)
        for sent in self.net.last:
            if sent.device != device:
                body = icmp.build(destination, source, 129 if v6 else 0, 0, rest, b"ping")
                yield sent.device, self.ip(destination, source, 58 if v6 else 1, body)
