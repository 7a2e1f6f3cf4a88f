"""From the bytes of a packet to its short notation; packet_text.py says what the notation is.

What is written is read again before it is given away: a text that does not make these very bytes is not used. So there
are three steps: in the protocol's own words, as `ip` with its payload in hexadecimal, and all of it as `raw`.
"""

from __future__ import annotations

from struct import unpack, unpack_from

from ipvsctl.errors import UsageError
from ipvsctl.formats.packet_names import (
    EXTENSION_NAMES,
    FLAGS,
    ICMP_NAMES,
    ICMPV6_NAMES,
    NAMES,
    NUMBERS,
    PATTERN,
    WINDOW,
    wrong,
)
from ipvsctl.formats.packet_parse import BODIES, DEPTH, parse
from ipvsctl.formats.packet_words import address_text, quoted
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, tunnel
from ipvsctl.wire.address import readable

_SUMS = {"tcp": (16, 2), "udp": (6, 2), "gue": (6, 2), "icmp": (2, 2), "icmpv6": (2, 2), "sctp": (8, 4), "gre": (4, 2)}
"""Where the transport checksum is, and its bytes."""


def describe(packet: bytes) -> str:
    """The shortest text that says everything of a packet: `parse` makes the same bytes of it, whatever they are."""
    packet = bytes(packet)
    return _describe(packet, {}, 0) or f"raw {packet.hex()}".rstrip()


Memory = dict[bytes, str | None]
"""Texts of the packets inside, which are needed once for each way to write the outer one."""


def _describe(packet: bytes, memory: Memory, depth: int) -> str | None:
    """The text of a packet, or of the beginning of one that its length field says is longer; None: there is none."""
    head = _Head.read(packet)
    if head is None or depth > DEPTH or (head.missing and not depth):
        return None
    for protocol in (head.own_name(), "ip"):
        for sums in ("", "badsum", "sum"):
            text = _Speaker(head, protocol, sums, memory, depth).text() if protocol else None
            if text is None:
                break
            try:
                made = parse(text)
            except UsageError:
                break
            if made[: len(packet)] == packet and len(made) == head.total:
                return text
    return None


class _Head:
    """What the IP header says. `body` is what follows it, as far as it is there; `missing` how many bytes are not."""

    __slots__ = (
        "at",
        "body",
        "destination",
        "fragment",
        "fragmented",
        "identification",
        "missing",
        "more",
        "packet",
        "protocol",
        "six",
        "source",
        "total",
        "words",
    )  # fmt: skip

    def __init__(self, packet: bytes) -> None:
        self.packet = packet
        self.six = bool(packet) and packet[0] >> 4 == 6
        self.source = self.destination = self.body = b""
        self.protocol = self.at = self.total = self.missing = 0
        self.fragment, self.more, self.fragmented, self.identification = 0, False, False, 0
        self.words: list[str] = []

    @classmethod
    def read(cls, packet: bytes) -> _Head | None:
        head = cls(packet)
        if not packet or packet[0] >> 4 not in (4, 6) or not (head._read6() if head.six else head._read4()):
            return None
        head.body = packet[head.at :]
        head.missing = head.total - len(packet)
        return head if head.missing >= 0 else None

    def _read4(self) -> bool:
        packet = self.packet
        if len(packet) < 20:
            return False
        length = (packet[0] & 15) * 4
        if length < 20 or len(packet) < length:
            return False
        tos, self.total, self.identification, flags, ttl, self.protocol, check = unpack_from(">xBHHHBBH", packet)
        self.source, self.destination = packet[12:16], packet[16:20]
        self.fragment, self.more = (flags & ipv4.OFFSET) * 8, bool(flags & ipv4.MF)
        self.fragmented = bool(self.fragment or self.more)
        self.at = length
        self._say("ttl", ttl, 64)
        self._say("tos", tos, 0)
        if flags & ipv4.DF:
            self.words.append("df")
        if length > 20:
            self.words.append(f"ipoptions={packet[20:length].hex()}")
        if not ipv4.valid(packet):
            header = bytearray(packet[:length])
            ipv4.seal(header)
            bad = wrong(header[10] << 8 | header[11])
            self.words.append("badipsum" if check == bad else f"ipsum={check:#06x}")
        return True

    def _read6(self) -> bool:
        packet = self.packet
        if len(packet) < 40:
            return False
        self.source, self.destination = packet[8:24], packet[24:40]
        first, payload = unpack_from(">IH", packet)
        self.total = 40 + payload
        self._say("hop", packet[7], 64)
        self._say("tclass", first >> 20 & 255, 0)
        if first & 0xFFFFF:
            self.words.append(f"flow={first & 0xFFFFF:#x}")
        names: list[str] = []
        self.protocol, self.at = packet[6], 40
        for kind, start, length in ipv6.extensions(packet):
            if kind in EXTENSION_NAMES and not self.fragmented:
                body = packet[start + 2 : start + length]
                padding = body == b"\1\4\0\0\0\0"
                names.append(EXTENSION_NAMES[kind] + ("" if padding else f":{body.hex()}"))
            elif kind == ipv6.FRAGMENT and not self.fragmented:
                offset, self.identification = unpack_from(">HI", packet, start + 2)
                self.fragmented, self.fragment, self.more = True, offset & 0xFFF8, bool(offset & 1)
            else:
                break
            self.protocol, self.at = packet[start], start + length
        if names:
            self.words.append(f"ext={','.join(names)}")
        return True

    def _say(self, key: str, value: int, default: int) -> None:
        if value != default:
            self.words.append(f"{key}={value}")

    def own_name(self) -> str:
        """The name of the protocol; "" for one that has none here."""
        if self.protocol == 17 and not self.fragmented and self.body[2:4] == tunnel.GUE_PORT.to_bytes(2, "big"):
            return "gue"
        return NAMES.get(self.protocol, "")


class _Speaker:
    """Writes one text. `sums` says how the transport checksum is given: not at all, as badsum, or as a number."""

    def __init__(self, head: _Head, protocol: str, sums: str, memory: Memory, depth: int) -> None:
        self.head = head
        self.memory = memory
        self.depth = depth
        self.protocol = protocol
        self.body = head.body
        self.sums = sums
        self.ports: tuple[int, int] | None = None
        self.words: list[str] = []
        self.embedded = ""

    def text(self) -> str | None:
        """The whole text; None when it cannot be written this way."""
        head = self.head
        speak = {
            "tcp": self._tcp, "udp": self._udp, "sctp": self._sctp, "icmp": self._icmp, "icmpv6": self._icmp,
            "ipip": self._ipip, "gre": self._gre, "gue": self._gue, "ip": self._ip,
        }[self.protocol]  # fmt: skip
        if self.sums and (self.protocol == "ip" or not self._checksum()):
            return None
        headless = head.fragment or (head.fragmented and self.protocol not in ("tcp", "udp", "sctp"))
        if headless and self.protocol != "ip":
            if self.protocol not in NUMBERS:
                return None
            self._payload(self.body, head.missing)
        elif not speak():
            return None
        first, second = self.ports or (None, None)
        source, destination = address_text(head.source, first), address_text(head.destination, second)
        words = [self.protocol, source, ">", destination, *self.words]
        if head.identification:
            words.append(f"{'ipid' if self.protocol.startswith('icmp') else 'id'}={head.identification}")
        if head.fragmented:
            words.append(f"frag={head.fragment}{'+' if head.more else ''}")
        words += head.words
        if self.embedded:
            words.append(f"[{self.embedded}]")
        return " ".join(words)

    def _checksum(self) -> bool:
        at, length = _SUMS.get(self.protocol, (0, 0))
        field = self.body[at : at + length]
        if not length or len(field) < length:
            return False
        number = int.from_bytes(field, "little" if length == 4 else "big")
        self.words.append("badsum" if self.sums == "badsum" else f"sum={number:#0{2 + 2 * length}x}")
        return True

    def _payload(self, data: bytes, missing: int = 0) -> None:
        """data=, hex= or len=; `missing` bytes that are not there are said to be the pattern's."""
        total = len(data) + missing
        text = quoted(data)
        if data == PATTERN[: len(data)]:
            if total:
                self.words.append(f"len={total}")
            return
        self.words.append(f"hex={data.hex()}" if text is None else f"data={text}")
        if missing:
            self.words.append(f"len={total}")

    def _number(self, key: str, value: int, default: int = 0) -> None:
        if value != default:
            self.words.append(f"{key}={value}")

    def _ip(self) -> bool:
        self.words.append(f"proto={self.head.protocol}")
        self._payload(self.body, self.head.missing)
        return True

    def _take_ports(self) -> bool:
        if len(self.body) < 4:
            return False
        self.ports = self.body[0] << 8 | self.body[1], self.body[2] << 8 | self.body[3]
        return True

    def _tcp(self) -> bool:
        body, missing = self.body, self.head.missing
        if not self._take_ports() or len(body) + missing < 20 or len(body) < 8:
            return False
        if len(body) < 20:  # quoted, and cut off: the rest of the header is made up
            self.words += [f"seq={int.from_bytes(body[4:8], 'big')}"]
            if len(body) >= 12:
                self._number("ack", int.from_bytes(body[8:12], "big"))
            if len(body) > 12:
                return False
            self._payload(b"", len(body) + missing - 20)
            return True
        seq, ack, offset, flags, window, urgent = unpack_from(">IIBBHxxH", body, 4)
        length = (offset >> 4) * 4
        if length < 20 or length > len(body):
            return False
        self.words.insert(0, "".join(letter for bit, letter in enumerate(FLAGS) if flags >> bit & 1) or "-")
        self.words.append(f"seq={seq}")
        self._number("ack", ack)
        self._number("window", window, WINDOW)
        self._number("urg", urgent)
        self._tcp_options(tcp.options(body, 0), body[20:length])
        self._payload(body[length:], missing)
        return True

    def _tcp_options(self, found: tcp.Options, coded: bytes) -> None:
        if tcp.build_options(found) != coded:
            self.words.append(f"options={coded.hex()}")
            return
        if found.mss is not None:
            self.words.append(f"mss={found.mss}")
        if found.wscale is not None:
            self.words.append(f"wscale={found.wscale}")
        if found.sack_permitted:
            self.words.append("sackok")
        if found.timestamps:
            self.words.append("ts={}:{}".format(*found.timestamps))
        if found.sack:
            self.words.append("sack=" + ",".join(f"{left}-{right}" for left, right in found.sack))

    def _udp(self) -> bool:
        body, missing = self.body, self.head.missing
        if not self._take_ports() or len(body) < 8:
            return False
        length, check = unpack_from(">HH", body, 4)
        self._number("ulen", length, len(body) + missing)
        if not check and not self.sums:
            self.words.append("nosum")
        self._payload(body[8:], missing)
        return True

    def _sctp(self) -> bool:
        body = self.body
        if not self._take_ports() or self.head.missing or len(body) < 12:
            return False
        names = []
        for kind, flags, content in sctp.chunks(body, 0):
            name = sctp.CHUNK_NAMES[kind] if kind < len(sctp.CHUNK_NAMES) else str(kind)
            usual = 3 if kind == sctp.DATA else 0
            body_text = "" if content == BODIES.get(kind, b"") else f":{content.hex()}"
            names.append(name + (f"/{flags}" if flags != usual else "") + body_text)
        if names:
            self.words.insert(0, ",".join(names))
        self.words.append(f"tag={unpack('>I', body[4:8])[0]}")
        return True

    def _icmp(self) -> bool:
        body = self.body
        if len(body) < 8:
            return False
        kind, code, tail = body[0], body[1], body[4:8]
        six = self.head.six
        name = (ICMPV6_NAMES if six else ICMP_NAMES).get((kind, code))
        self.words[:0] = [name] if name else [f"type={kind}", f"code={code}"]
        high, low = unpack(">HH", tail)
        if kind in ((128, 129) if six else (0, 8, 13, 14)):
            self.words += [f"id={high}", f"seq={low}"]
        elif six and kind in (2, 4):
            self.words.append(f"{'mtu' if kind == 2 else 'pointer'}={high << 16 | low}")
        elif not six and (kind, code) == (3, 4) and not high:
            self.words.append(f"mtu={low}")
        elif not six and kind == 5:
            self.words.append(f"gateway={readable(tail)}")
        elif not six and kind == 12 and not (high & 255 or low):
            self.words.append(f"pointer={high >> 8}")
        elif high or low:
            self.words.append(f"rest={tail.hex()}")
        if self.head.missing or not icmp.is_error(self.head.protocol, kind) or not self._quote(body[8:]):
            self._payload(body[8:], self.head.missing)
        return True

    def _quote(self, data: bytes) -> bool:
        inner = self._inner(data)
        head = _Head.read(data)
        if inner is None or head is None:
            return False
        default = min(head.total, 1232 if self.head.six else (data[0] & 15) * 4 + 8)
        self._number("quote", len(data), default)
        self.embedded = inner
        return True

    def _inside(self, data: bytes) -> bool:
        self.embedded = (self._inner(data) if not self.head.missing else None) or ""
        return bool(self.embedded)

    def _inner(self, data: bytes) -> str | None:
        if data not in self.memory:
            self.memory[data] = _describe(data, self.memory, self.depth + 1)
        return self.memory[data]

    def _ipip(self) -> bool:
        return self._inside(self.body)

    def _gre(self) -> bool:
        found = tunnel.gre_header(self.body, 0)
        if found is None:
            return False
        if found[1] == 8:
            self.words.append("csum")
        return self._inside(self.body[found[1] :])

    def _gue(self) -> bool:
        body = self.body
        found = tunnel.gue_header(body, 8) if self._take_ports() and len(body) >= 12 else None
        if found is None:
            self.protocol = "udp"
            return self._udp()
        if body[6:8] != b"\0\0":
            self.words.append("csum")
        if found[1] == 12:
            self.words.append("remcsum={}:{}".format(*unpack_from(">HH", body, 16)))
        if self._inside(body[8 + found[1] :]):
            return True
        self.protocol, self.words = "udp", [word for word in self.words if word.startswith(("sum", "badsum"))]
        return self._udp()
