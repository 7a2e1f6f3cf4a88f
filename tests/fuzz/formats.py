"""Everything that reads bytes or text from outside, given what is nearly right: it answers, or says what is wrong.

Packets in bytes and in words, captures, iptables-save, snapshot and director files. UsageError with its children is how
a reader says no; anything else that is raised is a finding.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random

from ipvsctl.datapath.ct import ftp_commands
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.vs import ftp_text
from ipvsctl.errors import IpvsctlError
from ipvsctl.formats import director_file, iptables_save, link_layer, packet_text, pcap, pcapng, snapshot_file
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire import icmp, ipv4, ipv6, sctp, tcp, transport, tunnel
from tests.fuzz.mutate import mutated
from tests.fuzz.packets import FTP, Packets
from tests.fuzz.worlds import world

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_WORDS = ("0", "-1", "65536", "4294967296", "0x", "::", "1.2.3.4", "[", "]", '"', "\\", "=", ",", ":", "!", "\n", "\0",
          "é", "--", "-j", "-m", "*nat", "COMMIT", "[[", "true", "1e9", "'", "/", "/33", " ", "#", ">", "999999999999",
          "ttl=", "hex=", "frag=", "quote=", "{", "}")  # fmt: skip
_NUMBERS = ("0", "1", "2", "-1", "7", "32", "33", "128", "129", "254", "255", "256", "1500", "65535", "65536", "100000",
            "2147483647", "2147483648", "4294967295", "4294967296", "00", "08", "0x10", "1.5")  # fmt: skip


def findings(seed: int, count: int) -> Iterator[str]:
    """What goes wrong with so many packets and a few hundred texts."""
    random = Random(f"formats/{seed}")
    packets = Packets(random, (INET, INET6))
    seen: list[bytes] = []
    texts: list[str] = []
    for number in range(count):
        packet = packets.any()
        if random.random() < 0.6:
            packet = mutated(random, packet, seen)
        seen = [*seen[-20:], packet]
        yield from _guarded("wire", packet, lambda data: _read(random, data))
        if number % 2 == 0:
            yield from _guarded("FTP", mutated(random, random.choice(FTP), list(FTP)), lambda data: _ftp(random, data))
        if number % 8 == 0:
            yield from _guarded("describe", packet, _there_and_back)
            texts = [*texts[-20:], packet_text.describe(packet[:200])]
        if number % 8 == 4 and texts:
            yield from _guarded("packet text", spoilt(random, random.choice(texts)), packet_text.parse)
        if number % 40 == 0:
            yield from _guarded("a capture", capture(random, seen), _capture)
        if number % 80 == 0:
            for name, text, reader in _files(random):
                yield from _guarded(name, spoilt(random, text), reader)


def _guarded(name: str, given: object, reader: Callable[..., object]) -> Iterator[str]:
    try:
        reader(given)
    except IpvsctlError:
        return
    except Exception:
        shown = given.hex() if isinstance(given, bytes) else repr(given)
        yield f"{name}: {shown}\n{traceback.format_exc()}"


# -- packets ----------------------------------------------------------------------------------------------------------


def _read(random: Random, data: bytes) -> None:
    """Every reader of wire/ that takes bytes as they come; no packet is longer than its length field can say."""
    data = data[: ipv6.HEADER + ipv6.MAXIMUM]
    at = random.choice((0, 20, 40, len(data), random.randrange(len(data) + 1)))
    tcp.options(data, at)
    tcp.header_length(data, at)
    list(sctp.chunks(data, at))
    icmp.embedded(data, at)
    tunnel.decapsulate(data)
    tunnel.gre_header(data, at)
    tunnel.gue_header(data, at)
    source = bytes(16 if random.random() < 0.5 else 4)
    for family in (INET, INET6):
        for protocol in (1, 6, 17, 58, 132, 136, 47):
            transport.verify(data, family, protocol, at, source, source)
    if len(data) >= 20:
        ipv4.valid(data)
        ipv4.copied_options(data[20:])
        if data[0] >> 4 == 4 and 20 <= (data[0] & 15) * 4 <= len(data):
            ipv4.fragment(data, random.choice((0, 20, 68, 576)))
    if len(data) >= 40:
        list(ipv6.extensions(data))
        ipv6.unfragmentable(data)
        ipv6.fragment(data, random.choice((0, 48, 1280)), 1)


def _ftp(random: Random, data: bytes) -> None:
    """What conntrack and IPVS read in a control connection; a place they find lies inside."""
    family, size = random.choice(((INET, 4), (INET6, 16)))
    found = ftp_commands.search(data, random.random() < 0.5, bytes(size))
    if isinstance(found, ftp_commands.Announced) and not 0 < found.offset <= found.offset + found.length <= len(data):
        raise AssertionError(f"{found} lies outside")
    ftp_text.passive_request(data, family)
    for pattern, skip in ((b"227 ", 0x28), (b"PORT ", 0x20)):
        plain = ftp_text.plain_address(data, pattern, skip)
        if plain is not None and not 0 <= plain.start <= plain.end <= len(data):
            raise AssertionError(f"{plain} lies outside")
    for pattern, skip, bare in ((b"229 ", 0x28, True), (b"EPRT ", 0x20, False)):
        long = ftp_text.extended_address(data, pattern, skip, family, bare)
        if long is not None and not 0 <= long.start <= long.end <= len(data):
            raise AssertionError(f"{long} lies outside")


def _there_and_back(packet: bytes) -> None:
    text = packet_text.describe(packet)
    if packet_text.parse(text) != packet:
        raise AssertionError(f"{text!r} is not this packet")


def capture(random: Random, packets: list[bytes]) -> bytes:
    """A capture file with something wrong in it."""
    target = BytesIO()
    if random.random() < 0.5:
        writer = pcap.Writer(target, random.choice((0, 1, 101, 113, 228, 276)))
        for packet in packets:
            writer.write(random.getrandbits(60), packet)
    else:
        other = pcapng.Writer(target, ["eth0", "eth1"])
        for packet in packets:
            other.write(random.getrandbits(60), packet, random.choice(("eth0", "eth1")), outgoing=random.random() < 0.5)
    data = bytearray(target.getvalue())
    for _ in range(random.choice((0, 1, 1, 3, 10))):
        at = random.randrange(len(data))
        data[at : at + random.choice((1, 4))] = random.choice(
            (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", random.randbytes(4))
        )
    if random.random() < 0.3:
        del data[random.randrange(len(data)) :]
    return bytes(data)


def _capture(data: bytes) -> None:
    for record in pcap.read(BytesIO(data)):
        frame = link_layer.strip(record.link, record.data)
        if frame.packet:
            packet_text.describe(frame.packet[:100])


# -- texts ------------------------------------------------------------------------------------------------------------


def spoilt(random: Random, text: str) -> str:
    """A text with something wrong in it."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(text) + 1)
        match random.randint(0, 7):
            case 5 | 6 | 7:
                numbers = list(re.finditer(r"\d+", text))
                if numbers:
                    found = random.choice(numbers)
                    text = text[: found.start()] + random.choice(_NUMBERS) + text[found.end() :]
            case 0:
                text = text[:at] + random.choice(_WORDS) + text[at:]
            case 1:
                text = text[:at] + text[at + random.choice((1, 1, 5, 40)) :]
            case 2:
                words = text.split(" ")
                words[random.randrange(len(words))] = random.choice(_WORDS)
                text = " ".join(words)
            case 3:
                lines = text.split("\n")
                lines.insert(random.randrange(len(lines)), random.choice(lines))
                text = "\n".join(lines)
            case _:
                text = text[:at] + chr(random.choice((0, 9, 34, 39, 92, 127, 255, 0x2028, 0x1F600))) + text[at + 1 :]
    return text


def _files(random: Random) -> Iterator[tuple[str, str, Callable[[str], object]]]:
    snapshot = world(random, random.random() < 0.5)
    yield "a snapshot file", snapshot_file.render(snapshot), _snapshot
    tables = [table for table in snapshot.tables if table.family == INET]
    yield "iptables-save", iptables_save.render(tables) or "*filter\nCOMMIT\n", _rules
    for path in sorted(_EXAMPLES.glob("*.toml")):
        text = path.read_text()
        yield path.name, text, _snapshot if snapshot_file.is_snapshot(text) else _director


def _snapshot(text: str) -> None:
    snapshot = snapshot_file.parse(text, "the file")
    Engine(snapshot, Random(1).randrange)


def _rules(text: str) -> None:
    engine = Engine(world(Random(1), True), Random(1).randrange)
    for table in iptables_save.parse(text, INET):
        engine.tables.load(table)


def _director(text: str) -> None:
    director_file.parse(text, "the file")
