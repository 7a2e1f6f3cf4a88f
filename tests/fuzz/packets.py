"""Single packets with structure: every header the datapath reads, in every order it may meet them, mostly well formed.

What is built here has right lengths and checksums; mutate.py spoils that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

from ipvsctl.model.address import INET, INET6
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, tunnel, udp
from ipvsctl.wire.address import packed
from tests.fuzz.places import CLIENTS, EDGES8, EDGES16, EDGES32, GUE, ODD, OTHER_PORTS, OWN, PORTS, SERVERS, VIPS

_OPTIONS4 = (
    b"\x01", b"\x00", b"\x07\x07\x04\x0a\x00\x01\x01", b"\x44\x0c\x05\x00" + bytes(8), b"\x44\x0c\x05\x03" + bytes(8),
    b"\x83\x07\x04\x0a\x00\x01\x02", b"\x89\x07\x04\x0a\x00\x02\x02", b"\x94\x04\x00\x00", b"\x82\x0b" + bytes(9),
    b"\x86\x08" + bytes(6), b"\x07\x27\x04" + bytes(36), b"\x44\x28\x05\xf1" + bytes(36),
)  # fmt: skip
_TCP_OPTIONS = (
    b"\x01", b"\x00", b"\x02\x04\x05\xb4", b"\x02\x04\x00\x00", b"\x03\x03\x07", b"\x03\x03\xff", b"\x04\x02",
    b"\x01\x01\x08\x0a" + bytes(8), b"\x05\x0a" + b"\x00\x00\x10\x00\x00\x00\x20\x00", b"\x05\x12" + bytes(16),
    b"\x02\x00", b"\x08\x01", b"\xfe\x28", b"\x13\x12" + bytes(16), b"\x05\x02",
)  # fmt: skip
_EXTENSIONS = (0, 43, 60, 51)
_OPTIONS6 = (b"\x01\x04\0\0\0\0", b"\x05\x02\0\0\x01\0", b"\xc2\x04\0\1\0\0", b"\x3e\x04\0\0\0\0", b"\xfe\x04abcd",
             b"\x00\x00\x00\x00\x00\x00", b"\x01\xff\0\0\0\0", b"\xc9\x10\0\0\0\0")  # fmt: skip

_POOLS: dict[str, Mapping[int, tuple[str, ...]]] = {
    "client": CLIENTS, "service": VIPS, "server": SERVERS, "own": OWN, "odd": ODD
}  # fmt: skip


def corpus() -> list[tuple[str, bytes]]:
    """The packets that were found before: where they come in ("" for the host's own), and their bytes."""
    lines = (Path(__file__).resolve().parent / "corpus" / "found.txt").read_text().splitlines()
    found = [line.split() for line in lines if line and not line.startswith("#")]
    return [("" if device == "-" else device, bytes.fromhex(packet)) for device, packet in found]


class Packets:
    """Makes packets for a family, or of both."""

    def __init__(self, random: Random, families: tuple[int, ...], flood: bool = False) -> None:
        self.random = random
        self.families = families
        self.flood = flood
        self._identification = 0

    # -- parts --------------------------------------------------------------------------------------------------------

    def family(self) -> int:
        """One that the director has, or now and then another."""
        if self.random.random() < 0.03:
            return self.random.choice((INET, INET6))
        return self.random.choice(self.families)

    def address(self, family: int, side: str = "") -> bytes:
        """An address of a `side`: "client", "service", "server", "own"; "" for any at all."""
        random = self.random
        if not side or random.random() < 0.04:
            side = random.choice(("client", "service", "server", "own", "odd"))
        if self.flood and side == "client" and random.random() < 0.9:
            first = b"\xc6\x12" if family == INET else b"\x20\x01\x0d\xb8\x00\x77"
            return first + random.randbytes((4 if family == INET else 16) - len(first))
        if random.random() < 0.005:
            return random.randbytes(4 if family == INET else 16)
        return packed(random.choice(_POOLS[side][family]))

    def port(self) -> int:
        """A port with a meaning, or any."""
        random = self.random
        chance = random.random()
        if chance < 0.55:
            return random.choice(PORTS[random.choice(("tcp", "tcp", "udp", "sctp"))])
        return random.choice(OTHER_PORTS) if chance < 0.75 else random.randrange(65536)

    def number(self, bits: int = 32) -> int:
        """A number at an edge, or any."""
        if self.random.random() < 0.3:
            return self.random.choice({8: EDGES8, 16: EDGES16, 32: EDGES32}[bits])
        return self.random.getrandbits(bits)

    def payload(self) -> bytes:
        """Bytes of some length, which mean nothing."""
        random = self.random
        if random.random() < 0.002:
            return random.randbytes(4) * random.choice((16200, 16360, 16368, 16371, 16373, 16375, 16376)) + bytes(3)
        length = random.choice((0, 0, 1, 2, 7, 8, 20, 40, 100, random.randrange(1500), random.randrange(4000)))
        return random.randbytes(4) * (length // 4) + bytes(length % 4)

    def ip(self, source: bytes, destination: bytes, protocol: int, body: bytes | bytearray) -> bytes:
        """A packet; at times with options or extension headers, with few hops, with DF."""
        random = self.random
        ttl = random.choice((64, 64, 64, 64, 64, 64, 64, 2, 1, 0, 255))
        tos = random.choice((0, 0, 0, 0, 1, 2, 3, 0x10, 0xB8, 255))
        if len(source) == 4:
            self._identification = (self._identification + 1) & 0xFFFF
            options = b""
            while random.random() < 0.06 and len(options) < 30:
                options += random.choice(_OPTIONS4)
            room = ipv4.MAXIMUM - ipv4.HEADER - (len(options[:40]) + 3 & ~3)
            return bytes(ipv4.build(
                source, destination, protocol, body[:room], ttl, tos, random.choice((self._identification, 0)),
                random.random() < 0.6, options=options[:40],
            ))  # fmt: skip
        headers, kind = bytearray(), protocol
        if random.random() < 0.1:
            headers, kind = self.extensions(protocol)
        return bytes(
            ipv6.build(
                source, destination, kind, bytes(headers + body)[: ipv6.MAXIMUM], ttl, tos, random.getrandbits(20)
            )
        )

    def extensions(self, protocol: int) -> tuple[bytearray, int]:
        """Extension headers before a header of a kind, and what the first of them is."""
        random = self.random
        data, kind = bytearray(), protocol
        for _ in range(random.choice((1, 1, 2, 3, 9))):
            this = random.choice((0, 60, 43, *_EXTENSIONS, 44))
            if this == 44:
                header = ipv6.fragment_header(kind, random.choice((0, 0, 0, 8)), random.random() < 0.1, self.number())
            elif this == 51:
                header = bytes((kind, 4)) + bytes(22)
            elif this == 43:
                header = ipv6.extension(kind, bytes((random.choice((0, 2, 3, 4)), random.choice((0, 0, 1)))) + bytes(4))
            else:
                header = ipv6.extension(kind, random.choice(_OPTIONS6) + bytes(8 * random.choice((0, 0, 1, 4))))
            data[:0] = header
            kind = this
        return data, kind

    # -- transports ---------------------------------------------------------------------------------------------------

    def tcp(self, source: bytes, destination: bytes, sport: int, dport: int, flags: int = -1) -> bytearray:
        """A segment of any kind."""
        random = self.random
        options = b""
        while random.random() < 0.3 and len(options) < 24:
            options += random.choice(_TCP_OPTIONS)
        if flags < 0:
            flags = random.choice((2, 2, 16, 16, 24, 18, 4, 20, 17, 1, 0, 63, random.getrandbits(8)))
        data = self.payload() if random.random() < 0.5 else random.choice(FTP)
        return tcp.build(source, destination, sport, dport, flags, self.number(), self.number(), self.number(16),
                         data, options[:40], self.number(16) if flags & 32 else 0)  # fmt: skip

    def sctp(self, sport: int, dport: int) -> bytearray:
        """A packet with chunks of any kind."""
        random = self.random
        chunks = [
            sctp.chunk(random.choice((*range(15), 64, 128, 130, 192, 193, 255)), random.getrandbits(8),
                       random.randbytes(random.choice((0, 1, 4, 12, 16, 40))))
            for _ in range(random.choice((0, 1, 1, 1, 2, 5)))
        ]  # fmt: skip
        return sctp.build(sport, dport, self.number(), chunks)

    def error(self, family: int, source: bytes, destination: bytes, quoted: bytes) -> bytes:
        """An ICMP error that quotes a packet."""
        random = self.random
        if family == INET:
            kind = random.choice((3, 3, 3, 4, 5, 11, 12))
            code = random.choice((0, 1, 2, 3, 4, 4, 13, 15)) if kind == 3 else random.choice((0, 1, 2))
            if random.random() < 0.5:
                quoted = quoted[: (quoted[0] & 15) * 4 + random.choice((0, 4, 8, 8, 8, 20))] if quoted else quoted
            quoted = quoted[: random.choice((548, 548, 65000))]
        else:
            kind = random.choice((1, 1, 2, 2, 3, 4, 0, 5, 100))
            code = random.choice((0, 1, 3, 4, 6))
            quoted = quoted[: random.choice((1232, 1232, 48, 60, 65000))]
        rest = random.choice(
            (bytes(4), b"\0\0" + self.number(16).to_bytes(2, "big"), b"\0\0\5\x14", random.randbytes(4))
        )
        return self.ip(source, destination, 1 if family == INET else 58,
                       icmp.build(source, destination, kind, code, rest, quoted))  # fmt: skip

    # -- whole packets ------------------------------------------------------------------------------------------------

    def any(self, depth: int = 0) -> bytes:
        """A packet of any kind, from somewhere to somewhere."""
        random = self.random
        family = self.family()
        source = self.address(family, random.choice(("client", "client", "client", "server", "")))
        destination = self.address(
            family, random.choice(("service", "service", "service", "server", "own", "client", ""))
        )
        return self.between(family, source, destination, depth)

    def between(self, family: int, source: bytes, destination: bytes, depth: int = 0) -> bytes:
        """A packet of any kind from one host to another."""
        random = self.random
        four = family == INET
        kind = random.choices(
            ("tcp", "udp", "sctp", "echo", "icmp", "error", "tunnel", "other", "udplite", "noise"),
            (36, 16, 8, 5, 3, 10 if depth < 4 else 0, 10 if depth < 4 else 0, 6, 2, 4),
        )[0]
        sport, dport = self.port() if random.random() < 0.2 else random.randint(40000, 40030), self.port()
        if random.random() < 0.2:
            sport, dport = dport, sport
        match kind:
            case "tcp":
                return self.ip(source, destination, 6, self.tcp(source, destination, sport, dport))
            case "udp":
                body = udp.build(source, destination, sport, dport, self.payload(), random.random() < 0.85)
                return self.ip(source, destination, 17, body)
            case "sctp":
                return self.ip(source, destination, 132, self.sctp(sport, dport))
            case "echo":
                ask, answer, number = (8, 0, 1) if four else (128, 129, 58)
                body = icmp.build(source, destination, random.choice((ask, ask, answer)), 0,
                                  b"\0" + random.randbytes(3), self.payload())  # fmt: skip
                return self.ip(source, destination, number, body)
            case "icmp":
                kinds = (
                    (0, 8, 13, 14, 15, 16, 17, 18, 40, 255) if four else (128, 129, 130, 133, 134, 135, 136, 137, 255)
                )
                body = icmp.build(source, destination, random.choice(kinds), 0, random.randbytes(4), self.payload())
                return self.ip(source, destination, 1 if four else 58, body)
            case "error":
                # About a packet that went the other way, or about anything.
                inner = (
                    self.between(family, destination, self.address(family), depth + 1)
                    if random.random() < 0.7
                    else self.any(depth + 1)
                )
                return self.error(family, source, destination, inner)
            case "tunnel":
                return self.tunnel(source, destination, self.any(depth + 1))
            case "udplite":
                body = bytearray(udp.build(source, destination, sport, dport, self.payload()))
                body[4:6] = random.choice((b"\0\0", b"\0\x08", b"\0\x07", b"\xff\xff"))
                return self.ip(source, destination, 136, body)
            case "other":
                number = random.choice((0, 2, 33, 44, 135, 47, 50, 51, 59, 89, 103, 112, 253, 255))
                return self.ip(source, destination, number, self.payload())
            case _:
                return self.ip(source, destination, random.choice((6, 17, 1, 58, 132, 47, 4, 41)),
                               random.randbytes(random.randrange(64)))  # fmt: skip

    def tunnel(self, source: bytes, destination: bytes, inner: bytes) -> bytes:
        """The packet inside another one, if it still fits."""
        random = self.random
        if not inner:
            inner = b"\x45"
        inner = inner[:60000]
        kind = random.choice(("ipip", "gre", "gue"))
        if kind == "ipip":
            return self.ip(source, destination, tunnel.inner_protocol(inner), inner)
        if kind == "gre":
            return self.ip(source, destination, 47, tunnel.gre_payload(inner, random.random() < 0.4))
        remote = (random.choice((20, 40, 0)), random.choice((16, 6, 2))) if random.random() < 0.2 else None
        body = udp.build(source, destination, 50000, GUE, tunnel.gue_payload(inner, remote), random.random() < 0.5)
        return self.ip(source, destination, 17, body)

    # -- fragments ----------------------------------------------------------------------------------------------------

    def fragments(self, packet: bytes) -> list[bytes]:
        """A packet in pieces: in order or not, twice, with holes, overlapping; it may have been in pieces before."""
        random = self.random
        if len(packet) < 60:
            return [packet]
        size = random.choice((68, 100, 100, 296, 576, 1280))
        if packet[0] >> 4 == 4:
            data = bytearray(packet)
            if (data[0] & 15) < 5 or len(data) < (data[0] & 15) * 4 + 8:
                return [packet]
            if not random.random() < 0.1:
                data[6] &= 0xBF
            ipv4.seal(data)
            pieces = ipv4.fragment(data, max(size, (data[0] & 15) * 4 + 8), random.random() < 0.1)
        else:
            pieces = ipv6.fragment(packet, max(size, 100), self.number())
        if len(pieces) < 2:
            return [packet]
        found = [bytes(piece) for piece in pieces[:40]]
        chance = random.random()
        if chance < 0.4:
            return found
        if chance < 0.6:
            random.shuffle(found)
        elif chance < 0.7:
            del found[random.randrange(len(found))]
        elif chance < 0.8:
            found.insert(random.randrange(len(found)), random.choice(found))
        elif chance < 0.9:
            found.insert(random.randrange(len(found)), _moved(random, random.choice(found)))
        else:
            found.reverse()
        return found


def _moved(random: Random, piece: bytes) -> bytes:
    """A fragment at another offset, so that it overlaps others."""
    data = bytearray(piece)
    by = random.choice((-8, 8, 16, -16, 64))
    if data[0] >> 4 == 4:
        word = data[6] << 8 | data[7]
        word = word & 0xE000 | max(0, min((word & 0x1FFF) + by // 8, 0x1FFF))
        if random.random() < 0.2:
            word ^= 0x2000
        data[6:8] = word.to_bytes(2, "big")
        ipv4.seal(data)
        return bytes(data)
    for kind, at, _ in ipv6.extensions(data):
        if kind == ipv6.FRAGMENT:
            word = data[at + 2] << 8 | data[at + 3]
            word = max(0, min((word & 0xFFF8) + by, 0xFFF8)) | word & 7
            data[at + 2 : at + 4] = (word ^ (random.random() < 0.2)).to_bytes(2, "big")
            break
    return bytes(data)


FTP = (
    b"USER anonymous\r\n", b"PORT 10,0,1,2,156,64\r\n", b"PORT 10,0,1,2,156,64", b"PORT 999,0,1,2,1,1\r\n", b"PASV\r\n",
    b"EPSV\r\n", b"EPSV ALL\r\n", b"EPRT |1|10.0.1.2|40000|\r\n", b"EPRT |2|fd00:1::2|40000|\r\n", b"EPRT |2|:|0|\r\n",
    b"227 Entering Passive Mode (10,0,2,2,117,48).\r\n", b"227 (10,0,2,2,0,0)\r\n", b"227 10,0,2,2,117,48\r\n",
    b"229 Entering Extended Passive Mode (|||30000|)\r\n", b"229 (|||99999|)\r\n", b"229 (|2|fd00:2::2|300|)\r\n",
    b"229 \r\n", b"EPRT |1|10.0.1.2|", b"PORT 10,0,1,2,156,64\r\nPORT 10,0,1,2,156,65\r\n", b"\r\n", b"PORT ",
    b"PORT 1,2,3,4,5,6\n", b"227 (1,2,3,4,5,6", b"PORT 00000000000000010,0,1,2,1,1\r\n",
)  # fmt: skip
