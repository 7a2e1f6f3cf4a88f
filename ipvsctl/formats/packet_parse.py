"""From the short notation of a packet to its bytes; packet_text.py says what the notation is."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, unpack

from ipvsctl.errors import UsageError
from ipvsctl.formats.packet_names import EXTENSIONS, FLAGS, ICMP, ICMPV6, NUMBERS, PROTOCOLS, WINDOW, wrong
from ipvsctl.formats.packet_words import Words, address_text, endpoint, from_hex, integer, split
from ipvsctl.model.address import parse_ip
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, tunnel, udp
from ipvsctl.wire.address import packed

DEPTH = 8
"""Packets in packets, at most."""

_PORTS = ("tcp", "udp", "sctp", "gue")


class _Ends:
    """Source and destination; ports are 0 where there are none."""

    __slots__ = ("destination", "dport", "has_ports", "six", "source", "sport")

    def __init__(self, source: str, destination: str) -> None:
        self.source, sport = endpoint(source)
        self.destination, dport = endpoint(destination)
        self.six = len(self.source) == 16
        if len(self.source) != len(self.destination):
            raise UsageError(f"{destination!r} is not of the family of {source!r}")
        if (sport is None) != (dport is None):
            missing = source if sport is None else destination
            raise UsageError(f"{missing!r} has no port, expected {address_text(endpoint(missing)[0], 1)[:-1]}PORT")
        self.has_ports = sport is not None
        self.sport, self.dport = sport or 0, dport or 0


def parse(text: str) -> bytes:
    """The packet that a text describes; raises UsageError naming the word that is wrong and what was expected."""
    return _parse(text, 0)


def _parse(text: str, depth: int) -> bytes:
    if depth > DEPTH:
        raise UsageError(f"{text!r}: more than {DEPTH} packets in packets")
    words = split(text)
    if words and words[0] == "raw":
        if len(words) > 2:
            raise UsageError(f"{words[2]!r} is not expected, expected: raw HEX")
        return from_hex("".join(words[1:]), text)
    if not words or words[0] not in PROTOCOLS:
        found = repr(words[0]) if words else "nothing"
        raise UsageError(f"{found} is no protocol, expected one of: {', '.join(PROTOCOLS)}, raw")
    protocol = words[0]
    if len(words) < 4 or words[2] not in (">", "->"):
        raise UsageError(f"{text!r} is no packet, expected: {protocol} SOURCE > DESTINATION ...")
    ends = _Ends(words[1], words[3])
    rest = Words(words[4:])
    embedded = None
    if rest.embedded is not None and protocol in _EMBEDDING:
        embedded, rest.embedded = _parse(rest.embedded, depth + 1), None
    network = _Network(rest, ends.six, "ipid" if protocol.startswith("icmp") else "id")
    if protocol in _PORTS and not ends.has_ports and not network.fragmented:
        raise UsageError(f"{words[1]!r} has no port, expected {protocol} ADDRESS:PORT > ADDRESS:PORT")
    if ends.has_ports and (protocol not in _PORTS or network.fragment):
        reason = "a later fragment has no ports" if network.fragment else f"{protocol} has no ports"
        raise UsageError(f"{words[1]!r}: {reason}, expected an address alone")
    try:
        if network.fragmented and not ends.has_ports and protocol in NUMBERS:
            number, payload = NUMBERS[protocol], bytearray(rest.payload())
        else:
            number, payload = _BUILDERS[protocol](ends, rest, embedded)
        rest.finish(protocol)
        return network.build(ends, number, payload)
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from None


class _Network:
    """The words that belong to the IP header."""

    def __init__(self, rest: Words, six: bool, number: str) -> None:
        """`number` is how the identification is called: an echo's has the shorter name in ICMP."""
        self.ttl = rest.number("hop" if six and "ttl" not in rest.keys else "ttl", 64, 255)
        self.tos = rest.number("tclass" if six and "tos" not in rest.keys else "tos", 0, 255)
        self.fragment, self.more = 0, False
        written = rest.text("frag")
        self.fragmented = written is not None
        if written is not None:
            self.more = written.endswith("+")
            self.fragment = integer(written.removesuffix("+"), 65528, f"frag={written}")
            if self.fragment % 8:
                raise UsageError(f"'frag={written}' is not on a boundary, expected a multiple of 8")
        self.identification = 0
        if six:
            self.flow = rest.number("flow", 0, 0xFFFFF)
            self.extensions = _extensions(rest.text("ext"))
            if self.fragmented:
                self.identification = rest.number(number, 0, 0xFFFFFFFF)
            return
        self.identification = rest.number(number, 0, 0xFFFF)
        self.df = rest.flag("df")
        if rest.flag("nodf") and self.df:
            raise UsageError("df and nodf exclude each other")
        self.options = rest.hex("ipoptions") or b""
        self.bad = rest.flag("badipsum")
        self.check = rest.number("ipsum", -1, 0xFFFF)

    def build(self, ends: _Ends, number: int, payload: bytearray) -> bytes:
        """The whole packet; raises ValueError when it gets too long."""
        if ends.six:
            if self.fragmented:
                header = ipv6.fragment_header(number, self.fragment, self.more, self.identification)
                number, payload = ipv6.FRAGMENT, bytearray(header) + payload
            for kind, body in reversed(self.extensions):
                number, payload = kind, bytearray(ipv6.extension(number, body)) + payload
            return bytes(
                ipv6.build(ends.source, ends.destination, number, payload, self.ttl, self.tos, self.flow)
            )  # fmt: skip
        data = ipv4.build(
            ends.source, ends.destination, number, payload, self.ttl, self.tos, self.identification, self.df,
            self.fragment, self.more, self.options,
        )  # fmt: skip
        _spoil(data, 10, self.bad, self.check)
        return bytes(data)


def _extensions(written: str | None) -> list[tuple[int, bytes]]:
    found = []
    for each in (written or "").split(",") if written is not None else ():
        name, colon, body = each.partition(":")
        if name not in EXTENSIONS:
            raise UsageError(f"'ext={written}': {name!r} is unknown, expected one of: {', '.join(EXTENSIONS)}")
        found.append((EXTENSIONS[name], from_hex(body, f"ext={written}") if colon else b"\1\4\0\0\0\0"))
    return found


def _spoil(data: bytearray, at: int, bad: bool, check: int) -> None:
    """Write a checksum that was asked for in the place of the right one."""
    if bad:
        check = wrong(data[at] << 8 | data[at + 1])
    if check >= 0:
        data[at], data[at + 1] = check >> 8, check & 255


def _spoil_transport(data: bytearray, at: int, rest: Words) -> bytearray:
    _spoil(data, at, rest.flag("badsum"), rest.number("sum", -1, 0xFFFF))
    return data


# -- what follows the IP header: each builder gives the protocol number and the bytes ----------------------------------


def _tcp(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    flags = 0
    rest.known.append(f"flags of {FLAGS} or -")
    for word in rest.bare:
        if word == "-" or (set(word) <= set(FLAGS) and len(set(word)) == len(word)):
            flags = sum(1 << FLAGS.index(letter) for letter in word if letter != "-")
            rest.bare.remove(word)
            break
    seq, ack = rest.number("seq", 0, 0xFFFFFFFF), rest.number("ack", 0, 0xFFFFFFFF)
    window, urgent = rest.number("window", WINDOW, 0xFFFF), rest.number("urg", 0, 0xFFFF)
    options = _tcp_options(rest)
    data = tcp.build(
        ends.source, ends.destination, ends.sport, ends.dport, flags, seq, ack, window, rest.payload(), options, urgent
    )
    return 6, _spoil_transport(data, 16, rest)


def _tcp_options(rest: Words) -> bytes:
    coded = rest.hex("options")
    mss, wscale = rest.number("mss", -1, 0xFFFF), rest.number("wscale", -1, 255)
    wanted = tcp.Options(
        None if mss < 0 else mss,
        None if wscale < 0 else wscale,
        rest.flag("sackok"),
        tuple(_pair(each, "-", "sack") for each in (rest.text("sack") or "").split(",") if each),
        _pair(stamps, ":", "ts") if (stamps := rest.text("ts")) is not None else None,
    )
    if coded is not None and wanted != tcp.Options():
        raise UsageError("options= and mss=, wscale=, sackok, sack=, ts= exclude each other")
    return tcp.build_options(wanted) if coded is None else coded


def _pair(written: str, sign: str, key: str) -> tuple[int, int]:
    first, found, second = written.partition(sign)
    what = f"{key}={written}"
    if not found:
        raise UsageError(f"{what!r} is not two numbers, expected {key}=NUMBER{sign}NUMBER")
    return integer(first, 0xFFFFFFFF, what), integer(second, 0xFFFFFFFF, what)


def _udp(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    none = rest.flag("nosum")
    data = udp.build(ends.source, ends.destination, ends.sport, ends.dport, rest.payload(), not none)
    length = rest.number("ulen", -1, 0xFFFF)
    if length >= 0:
        data[4], data[5] = length >> 8, length & 255
        if not none:
            udp.seal(data, ends.source, ends.destination)
    return 17, _spoil_transport(data, 6, rest)


def _sctp(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    tag, payload = rest.number("tag", 0, 0xFFFFFFFF), rest.payload()
    rest.known.append(f"chunks of {','.join(sctp.CHUNK_NAMES)}")
    chunks: list[bytes] = []
    for word in rest.bare:
        if word.split(",")[0].split(":")[0].split("/")[0] in sctp.CHUNK_NAMES or word[0].isdigit():
            chunks = [_chunk(each, word, payload) for each in word.split(",")]
            rest.bare.remove(word)
            break
    if payload and not any(not each[0] for each in chunks):
        raise UsageError("sctp has no DATA chunk that the payload could be in")
    data = sctp.build(ends.sport, ends.dport, tag, chunks)
    right = unpack("<I", data[8:12])[0]
    check = rest.number("sum", right, 0xFFFFFFFF)
    data[8:12] = pack("<I", right ^ 0x55555555 if rest.flag("badsum") else check)
    return 132, data


BODIES = {
    sctp.DATA: pack(">IHHI", 1, 0, 0, 0), sctp.INIT: pack(">IIHHI", 1, 106496, 10, 10, 1),
    sctp.INIT_ACK: pack(">IIHHIHHI", 1, 106496, 10, 10, 1, 7, 8, 0), sctp.SACK: pack(">IIHH", 1, 106496, 0, 0),
    sctp.HEARTBEAT: pack(">HHI", 1, 8, 0), sctp.HEARTBEAT_ACK: pack(">HHI", 1, 8, 0), sctp.SHUTDOWN: pack(">I", 1),
    sctp.COOKIE_ECHO: bytes(4),
}  # fmt: skip
"""What is in a chunk that is only named."""


def _chunk(written: str, word: str, payload: bytes) -> bytes:
    head, colon, body = written.partition(":")
    name, slash, flags = head.partition("/")
    if name in sctp.CHUNK_NAMES:
        kind = sctp.CHUNK_NAMES.index(name)
    elif name.isascii() and name.isdigit():
        kind = integer(name, 255, word)
    else:
        raise UsageError(f"{word!r}: {name!r} is no chunk, expected one of: {', '.join(sctp.CHUNK_NAMES)}")
    bits = integer(flags, 255, word) if slash else 3 if kind == sctp.DATA else 0
    content = from_hex(body, word) if colon else BODIES.get(kind, b"")
    return sctp.chunk(kind, bits, content + payload if kind == sctp.DATA else content)


def _icmp(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    if ends.six:
        raise UsageError("icmp goes with IPv4 addresses, expected icmpv6")
    kind, code = _icmp_type(rest, ICMP, "echo-request, port-unreachable, ... or type=")
    word, half = rest.text("rest"), b"\0\0"
    if word is not None:
        tail = _four(word)
    elif kind in (0, 8, 13, 14):
        tail = pack(">HH", rest.number("id", 0, 0xFFFF), rest.number("seq", 0, 0xFFFF))
    elif (kind, code) == (3, 4):
        tail = half + pack(">H", rest.number("mtu", 0, 0xFFFF))
    elif kind == 5:
        tail = packed(parse_ip(rest.text("gateway") or "0.0.0.0")[1])
        if len(tail) != 4:
            raise UsageError("gateway= is not an IPv4 address")
    elif kind == 12:
        tail = pack(">Bxxx", rest.number("pointer", 0, 255))
    else:
        tail = bytes(4)
    payload = _quote(rest, embedded, ends) if kind in icmp.ERRORS else _no_packet(embedded, rest)
    return 1, _spoil_transport(icmp.build(ends.source, ends.destination, kind, code, tail, payload), 2, rest)


def _icmpv6(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    if not ends.six:
        raise UsageError("icmpv6 goes with IPv6 addresses, expected icmp")
    kind, code = _icmp_type(rest, ICMPV6, "echo-request, packet-too-big, ... or type=")
    word = rest.text("rest")
    if word is not None:
        tail = _four(word)
    elif kind in (128, 129):
        tail = pack(">HH", rest.number("id", 0, 0xFFFF), rest.number("seq", 0, 0xFFFF))
    elif kind in (2, 4):
        tail = pack(">I", rest.number("mtu" if kind == 2 else "pointer", 0, 0xFFFFFFFF))
    else:
        tail = bytes(4)
    payload = _quote(rest, embedded, ends) if kind < 128 else _no_packet(embedded, rest)
    return 58, _spoil_transport(icmp.build(ends.source, ends.destination, kind, code, tail, payload), 2, rest)


def _icmp_type(rest: Words, names: dict[str, tuple[int, int]], what: str) -> tuple[int, int]:
    found = rest.one_of(names, what)
    kind = rest.number("type", -1, 255)
    code = rest.number("code", -1, 255)
    if found is None and kind < 0:
        word = repr(rest.bare[0]) if rest.bare else "nothing"
        raise UsageError(f"{word} is no type of message, expected type=NUMBER or one of: {', '.join(names)}")
    if found is not None and kind >= 0:
        raise UsageError("a name and type= exclude each other")
    first, second = found or (kind, 0)
    return first, second if code < 0 else code


def _four(written: str) -> bytes:
    data = from_hex(written, f"rest={written}")
    if len(data) != 4:
        raise UsageError(f"'rest={written}' has {len(data)} bytes, expected 4")
    return data


def _quote(rest: Words, embedded: bytes | None, ends: _Ends) -> bytes:
    """The quoted packet, cut off; bytes by hex= when it is no packet that can be described."""
    if embedded is None:
        return rest.payload()
    length = len(embedded)
    default = min(length, 1232 if ends.six else (embedded[0] & 15) * 4 + 8 if embedded else 0)
    return embedded[: rest.number("quote", default, length)]


def _no_packet(embedded: bytes | None, rest: Words) -> bytes:
    if embedded is not None:
        raise UsageError("a message that is no error quotes no packet")
    return rest.payload()


def _inside(embedded: bytes | None) -> bytes:
    if not embedded:
        raise UsageError("a tunnel has a packet inside, expected [PACKET]")
    return embedded


def _ipip(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    inner = _inside(embedded)
    return tunnel.inner_protocol(inner), bytearray(inner)


def _gre(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    data = tunnel.gre_payload(_inside(embedded), checksummed := rest.flag("csum"))
    return 47, _spoil_transport(data, 4, rest) if checksummed else data


def _gue(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    written = rest.text("remcsum")
    data = tunnel.gue_payload(_inside(embedded), None if written is None else _remote(written))
    datagram = udp.build(ends.source, ends.destination, ends.sport, ends.dport, data, rest.flag("csum"))
    return 17, _spoil_transport(datagram, 6, rest)


def _remote(written: str) -> tuple[int, int]:
    start, offset = _pair(written, ":", "remcsum")
    if max(start, offset) > 0xFFFF:
        raise UsageError(f"'remcsum={written}' is out of range, expected 0..65535")
    return start, offset


def _ip(ends: _Ends, rest: Words, embedded: bytes | None) -> tuple[int, bytearray]:
    number = rest.number("proto", -1, 255)
    if number < 0:
        raise UsageError("ip names no protocol, expected proto=NUMBER")
    return number, bytearray(rest.payload())


_EMBEDDING = ("icmp", "icmpv6", "ipip", "gre", "gue")
_BUILDERS: dict[str, Callable[[_Ends, Words, bytes | None], tuple[int, bytearray]]] = {
    "tcp": _tcp, "udp": _udp, "sctp": _sctp, "icmp": _icmp, "icmpv6": _icmpv6, "ipip": _ipip, "gre": _gre,
    "gue": _gue, "ip": _ip,
}  # fmt: skip
