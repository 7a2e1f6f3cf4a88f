"""What the words of `trace` stand for: a packet or the ends of a conversation. What they leave out is filled in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from ipvsctl.errors import UsageError
from ipvsctl.formats.packet_text import parse
from ipvsctl.formats.packet_words import endpoint, split
from ipvsctl.model.address import FAMILY_NAMES, INET, INET6
from ipvsctl.wire.address import packed, readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

ARROWS = (">", "->")
_CLIENT_PORT = 40000
_PORTED = ("tcp", "udp", "sctp")
_KIND = {"icmp": "echo-request", "icmpv6": "echo-request", "sctp": "INIT"}
"""What a packet is when nothing is said of it."""
_TCP, _UDP = 6, 17
_STRANGERS = {INET: "192.0.2.1", INET6: "2001:db8:ffff::1"}
"""Documentation's addresses: a client from far away."""

End = tuple[bytes, int]
"""Address and port."""


def packet_of(words: Sequence[str], flags: str | None, open_already: bool) -> bytes:
    """The packet; the arrow, a client's port, TCP's flags and ICMP's type may be left out.

    `open_already`: TCP flags that are not given are those of a packet in an open connection.
    """
    found = split(words[0]) if len(words) == 1 else list(words)
    found = [_quoted(word) for word in found if word not in ARROWS]
    if found and found[0] == "raw":
        return parse(" ".join(found))
    if len(found) < 3:
        raise UsageError(
            f"{' '.join(found)!r} is no packet, expected PROTOCOL SOURCE[:PORT] DESTINATION[:PORT] as in "
            "tcp 10.0.1.2:40000 192.168.1.100:80 (a shell takes > for itself: leave it out)"
        )
    protocol, source, destination, rest = found[0], found[1], found[2], found[3:]
    if flags is not None and protocol != "tcp":
        raise UsageError(f"--flags is for tcp, {protocol} has none")
    if protocol in _PORTED and endpoint(source)[1] is None and endpoint(destination)[1] is not None:
        source = f"[{source.strip('[]')}]:{_CLIENT_PORT}" if ":" in source else f"{source}:{_CLIENT_PORT}"
    named = bool(rest) and "=" not in rest[0] and not rest[0].startswith("[")
    if protocol == "tcp":
        if flags is not None and named and _are_flags(rest[0]):
            raise UsageError(f"the flags are given twice: {rest[0]} and --flags {flags}")
        if flags is not None or not (named and _are_flags(rest[0])):
            rest = [flags or ("A" if open_already else "S"), *rest]
    elif protocol in _KIND and not named and not any(word.startswith(("type=", "frag=")) for word in rest):
        rest = [_KIND[protocol], *rest]
    return parse(" ".join((protocol, source, ">", destination, *rest)))


def _quoted(word: str) -> str:
    """data=... with the quotes that the shell has taken."""
    if not word.startswith("data=") or (word.startswith('data="') and word.endswith('"') and len(word) > 6):
        return word
    text = word.removeprefix("data=").replace('"', '\\"')
    return f'data="{text}"'


def _are_flags(word: str) -> bool:
    return word == "-" or set(word) <= set("FSRPAUEC")


def ends_of(engine: Engine, name: str, words: Sequence[str], device: str | None) -> tuple[End, End]:
    """Client and service of a conversation; without words the first service that fits, and some client."""
    protocol = "udp" if name in ("udp", "dns") else "tcp"
    port = {"udp": 53, "dns": 53}.get(name, 21 if name.startswith("ftp") else 80)
    plain = [word.removeprefix(f"{protocol}:") for word in words if word not in ARROWS]
    if len(plain) > 2:
        raise UsageError(f"--session {name}: expected CLIENT[:PORT] SERVICE[:PORT], got {' '.join(words)!r}")
    address, given = endpoint(plain[-1]) if plain else _served(engine, name, protocol, port)
    service = address, port if given is None else given
    family = INET6 if len(address) == 16 else INET
    if len(plain) < 2:
        return (_stranger(engine, family, device), _CLIENT_PORT), service
    client, given = endpoint(plain[0])
    if len(client) != len(address):
        raise UsageError(f"--session {name}: {plain[0]} and {plain[1]} are not of one address family")
    return (client, _CLIENT_PORT if given is None else given), service


def _served(engine: Engine, name: str, protocol: str, port: int) -> End:
    """Address and port of the first service of a protocol, one on its port rather than another."""
    number = _UDP if protocol == "udp" else _TCP
    fitting = [each for each in engine.vs.services.all() if each.protocol == number and not each.fwmark]
    if name.startswith("ftp"):
        fitting = [each for each in fitting if each.port in (port, 0)]
    best = next((each for each in fitting if each.port == port), fitting[0] if fitting else None)
    if best is None:
        where = f" on port {port}" if name.startswith("ftp") else ""
        raise UsageError(
            f"--session {name}: there is no {protocol} service{where}, expected CLIENT[:PORT] SERVICE[:PORT]"
        )
    return best.address, best.port or port


def _stranger(engine: Engine, family: int, device: str | None) -> bytes:
    """An address that a client may have: far away, or a neighbour on a device that no server is behind."""
    from ipvsctl.datapath.verdict import Reason

    servers = {dest.address for service in engine.vs.services.all() for dest in service.dests}
    ways = (engine.routing.output(INET6 if len(address) == 16 else INET, address) for address in servers)
    behind = {way.device for way in ways if not isinstance(way, Reason)}
    for shy in (True, False):
        for text in _candidates(engine, family):
            address = packed(text)
            way = engine.routing.output(family, address)
            if isinstance(way, Reason) or way.kind != "unicast" or device not in (None, way.device):
                continue
            if address not in servers and not (shy and way.device in behind):
                return address
    where = f" on {device}" if device else ""
    raise UsageError(
        f"no client of {FAMILY_NAMES[family]} can be reached{where}, expected CLIENT[:PORT] SERVICE[:PORT]"
    )


def _candidates(engine: Engine, family: int) -> Iterator[str]:
    yield _STRANGERS[family]
    for known in engine.routing.devices.values():
        for text in known.addresses:
            own = ip_interface(text)
            if (own.version == 6) == (family == INET6) and known.name != "lo" and not own.ip.is_link_local:
                for index in range(1, min(4, own.network.num_addresses)):
                    yield str(own.network[index])


def in_device(engine: Engine, source: bytes) -> str:
    """The device that the route back to a source leaves by."""
    from ipvsctl.datapath.verdict import Reason

    family = INET6 if len(source) == 16 else INET
    if engine.routing.is_local(family, source):
        raise UsageError(
            f"{readable(source)} is an address of the host itself: --in DEVICE is needed, or --local for a packet that "
            "the host sends"
        )
    found = engine.routing.output(family, source)
    if isinstance(found, Reason):
        raise UsageError(f"there is no route back to {readable(source)}: --in DEVICE is needed")
    return found.device
