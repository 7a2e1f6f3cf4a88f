"""Matches of the transport header: xt_tcpudp.c, xt_sctp.c, xt_multiport.c, xt_tcpmss.c, icmp_match, icmp6_match.

A later fragment has no such header and matches none of them, negated or not. A packet that is too short for the header
is dropped by the rule that asks for it (hotdrop), and so is a TCP fragment at offset 8, which would overwrite flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.nf.options import Context, Matching, Options, flags, number, ports, span
from ipvsctl.datapath.nf.walk import HotDrop, Test
from ipvsctl.datapath.skb import TCP
from ipvsctl.errors import UsageError
from ipvsctl.model.address import INET

if TYPE_CHECKING:
    from ipvsctl.datapath.skb import Skb

ALL_PORTS = (0, 65535)
_TCP_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}
_PORT_PROTOCOLS = (6, 17, 33, 132, 136)

_ICMP = {
    "echo-reply": "0", "pong": "0", "destination-unreachable": "3", "network-unreachable": "3/0",
    "host-unreachable": "3/1", "protocol-unreachable": "3/2", "port-unreachable": "3/3", "fragmentation-needed": "3/4",
    "source-route-failed": "3/5", "network-unknown": "3/6", "host-unknown": "3/7", "network-prohibited": "3/9",
    "host-prohibited": "3/10", "tos-network-unreachable": "3/11", "tos-host-unreachable": "3/12",
    "communication-prohibited": "3/13", "host-precedence-violation": "3/14", "precedence-cutoff": "3/15",
    "source-quench": "4", "redirect": "5", "network-redirect": "5/0", "host-redirect": "5/1",
    "tos-network-redirect": "5/2", "tos-host-redirect": "5/3", "echo-request": "8", "ping": "8",
    "router-advertisement": "9", "router-solicitation": "10", "time-exceeded": "11", "ttl-exceeded": "11",
    "ttl-zero-during-transit": "11/0", "ttl-zero-during-reassembly": "11/1", "parameter-problem": "12",
    "ip-header-bad": "12/0", "required-option-missing": "12/1", "timestamp-request": "13", "timestamp-reply": "14",
    "address-mask-request": "17", "address-mask-reply": "18",
}  # fmt: skip
_ICMP6 = {
    "destination-unreachable": "1", "no-route": "1/0", "communication-prohibited": "1/1", "beyond-scope": "1/2",
    "address-unreachable": "1/3", "port-unreachable": "1/4", "failed-policy": "1/5", "reject-route": "1/6",
    "packet-too-big": "2", "time-exceeded": "3", "ttl-exceeded": "3", "ttl-zero-during-transit": "3/0",
    "ttl-zero-during-reassembly": "3/1", "parameter-problem": "4", "bad-header": "4/0", "unknown-header-type": "4/1",
    "unknown-option": "4/2", "echo-request": "128", "ping": "128", "echo-reply": "129", "pong": "129",
    "mld-listener-query": "130", "mld-listener-report": "131", "mld-listener-done": "132",
    "mld-listener-reduction": "132", "router-solicitation": "133", "router-advertisement": "134",
    "neighbour-solicitation": "135", "neighbor-solicitation": "135", "neighbour-advertisement": "136",
    "neighbor-advertisement": "136", "redirect": "137",
}  # fmt: skip

_CHUNKS = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "ECN_ECNE": 12, "ECN_CWR": 13,
    "SHUTDOWN_COMPLETE": 14, "I_DATA": 64, "ASCONF_ACK": 128, "RE_CONFIG": 130, "PAD": 132, "ASCONF": 193,
    "FORWARD_TSN": 192, "I_FORWARD_TSN": 194,
}  # fmt: skip
_CHUNK_FLAGS = {"DATA": "----IUBE", "I_DATA": "----IUBE", "ABORT": "-------T", "SHUTDOWN_COMPLETE": "-------T"}
"""The letters of a chunk's flags, the highest bit first."""


def need_protocol(context: Context, *protocols: int) -> None:
    """Refuse a match or target whose module checks that the rule has its protocol."""
    if context.protocol not in protocols:
        raise UsageError("needs its protocol with -p, not negated")


def _port_test(at: int, size: int, wish: tuple[bool, tuple[int, int]]) -> Test:
    """A port at an offset of the transport header, of which `size` bytes must be there; not for later fragments."""
    inverted, (low, high) = wish
    if low == high and not inverted:

        def exactly(skb: Skb) -> bool:
            start = skb.thoff
            data = skb.data
            if skb.fragment:
                return _no_fragment(skb, size)
            if len(data) < start + size:
                raise HotDrop
            start += at
            return (data[start] << 8 | data[start + 1]) == low

        return exactly

    def between(skb: Skb) -> bool:
        start = skb.thoff
        data = skb.data
        if skb.fragment:
            return _no_fragment(skb, size)
        if len(data) < start + size:
            raise HotDrop
        start += at
        return (low <= (data[start] << 8 | data[start + 1]) <= high) != inverted

    return between


def _no_fragment(skb: Skb, size: int) -> bool:
    if skb.fragment == 8 and size == 20 and skb.family == INET:
        raise HotDrop
    return False


def _header_test(size: int) -> Test:
    """The transport header is there."""

    def there(skb: Skb) -> bool:
        if skb.fragment:
            return _no_fragment(skb, size)
        if len(skb.data) < skb.thoff + size:
            raise HotDrop
        return True

    return there


def _port_tests(options: Options, size: int) -> list[Test]:
    tests = []
    for name, at in (("sport", 0), ("dport", 2)):
        found = options.take(name)
        if found is not None:
            wish = found[0], ports(found[1])
            if wish != (False, ALL_PORTS):
                tests.append(_port_test(at, size, wish))
    return tests or [_header_test(size)]


def tcp(context: Context, options: Options) -> Matching:
    """`-m tcp`: ports, --tcp-flags MASK COMPARED, --syn, --tcp-option."""
    need_protocol(context, TCP)
    tests = _port_tests(options, 20)
    stable = True
    wish = options.take("tcp-flags")
    if (syn := options.take("syn")) is not None:
        wish = syn[0], "FIN,SYN,RST,ACK SYN"
    if wish is not None:
        words = wish[1].split()
        if len(words) != 2:
            raise UsageError("--tcp-flags takes two lists of flags")
        tests.append(_flags_test(flags(words[0], _TCP_FLAGS), flags(words[1], _TCP_FLAGS), wish[0]))
        stable = False
    option = options.take("tcp-option")
    if option is not None:
        kind = number(option[1], 255, "a TCP option")
        if not kind:
            raise UsageError("--tcp-option 0 asks for nothing")
        tests.append(_option_test(kind, option[0]))
        stable = False
    return Matching(tuple(tests), stable)


def _flags_test(mask: int, compared: int, inverted: bool) -> Test:
    return lambda skb: (skb.data[skb.thoff + 13] & mask == compared) != inverted


def _option_test(kind: int, inverted: bool) -> Test:
    def option(skb: Skb) -> bool:
        header = tcp_options(skb)
        at = 0
        while at < len(header):
            if header[at] == kind:
                return not inverted
            at += 1 if header[at] < 2 or at == len(header) - 1 else header[at + 1] or 1
        return inverted

    return option


def tcp_options(skb: Skb) -> bytearray:
    """The bytes of a TCP header's options; raises HotDrop for a header that is cut off or says it is too short."""
    start = skb.thoff
    if len(skb.data) < start + 20:
        raise HotDrop
    end = start + (skb.data[start + 12] >> 4) * 4
    if end < start + 20 or end > len(skb.data):
        raise HotDrop
    return skb.data[start + 20 : end]


def tcpmss(context: Context, options: Options) -> Matching:
    """`-m tcpmss --mss LOW[:HIGH]`: the MSS option (xt_tcpmss.c)."""
    need_protocol(context, TCP)
    inverted, text = options.needed("mss")
    low, high = span(text, 65535, "an MSS")

    def mss(skb: Skb) -> bool:
        header = tcp_options(skb)
        at = 0
        while at < len(header):
            if header[at] == 2 and len(header) - at >= 4 and header[at + 1] == 4:
                return (low <= (header[at + 2] << 8 | header[at + 3]) <= high) != inverted
            at += 1 if header[at] < 2 or at == len(header) - 1 else header[at + 1] or 1
        return inverted

    return Matching((mss,), stable=False)


def udp(context: Context, options: Options) -> Matching:
    """`-m udp`, `-m udplite`: ports."""
    need_protocol(context, 17, 136)
    return Matching(tuple(_port_tests(options, 8)))


def sctp(context: Context, options: Options) -> Matching:
    """`-m sctp`: ports, --chunk-types all|any|only LIST (xt_sctp.c).

    With negated chunk types the kernel drops a packet whose chunks are cut off as well, but counts it in the rule.
    """
    need_protocol(context, 132)
    tests = _port_tests(options, 12)
    wish = options.take("chunk-types")
    if wish is not None:
        tests.append(_chunk_test(wish[1], wish[0]))
    return Matching(tuple(tests), stable=wish is None)


def _chunk_test(text: str, inverted: bool) -> Test:
    how, _, names = text.partition(" ")
    if how not in ("all", "any", "only") or not names:
        raise UsageError("--chunk-types takes all, any or only, and a list of types")
    wanted: dict[int, tuple[int, int]] = {}
    for each in names.split(","):
        name, _, letters = each.partition(":")
        if name.upper() in ("ALL", "NONE"):
            wanted = dict.fromkeys(range(256), (0, 0)) if name.upper() == "ALL" else {}
            continue
        if name.upper() not in _CHUNKS:
            raise UsageError(f"{name!r} is not a type of chunk")
        known = _CHUNK_FLAGS.get(name.upper(), "--------")
        mask = value = 0
        for letter in letters:
            if letter == "-" or letter.upper() not in known:
                raise UsageError(f"{letter!r} is not a flag of chunk {name}")
            bit = 128 >> known.index(letter.upper())
            mask |= bit
            # An upper-case letter asks for the flag, a lower-case one for its absence.
            value |= bit if letter.isupper() else 0
        wanted[_CHUNKS[name.upper()]] = mask, value

    def chunks(skb: Skb) -> bool:
        data, at = skb.data, skb.thoff + 12
        missing = set(wanted)
        while True:
            length = data[at + 2] << 8 | data[at + 3] if at + 4 <= len(data) else 0
            if not length:
                raise HotDrop
            kind = wanted.get(data[at])
            fits = kind is not None and data[at + 1] & kind[0] == kind[1]
            if how == "any" and fits:
                return not inverted
            if how == "only" and not fits:
                return inverted
            if fits:
                missing.discard(data[at])
            at += length + 3 & ~3
            if at >= len(data):
                return (how == "only" or (how == "all" and not missing)) != inverted

    return chunks


def multiport(context: Context, options: Options) -> Matching:
    """`-m multiport --sports, --dports or --ports LIST`: up to 15 ports, a range counting twice."""
    need_protocol(context, *_PORT_PROTOCOLS)
    found = [(name, wish) for name in ("sports", "dports", "ports") if (wish := options.take(name)) is not None]
    if len(found) != 1:
        raise UsageError("takes one of --sports, --dports and --ports")
    name, (inverted, text) = found[0]
    spans = [ports(each) for each in text.split(",")]
    if sum(1 if low == high else 2 for low, high in spans) > 15:
        raise UsageError(f"--{name} takes at most 15 ports, a range counting twice")
    wanted = bytearray(65536)
    for low, high in spans:
        wanted[low : high + 1] = b"\1" * (high + 1 - low)
    members = frozenset(port for port in range(65536) if wanted[port]) if sum(wanted) < 4096 else bytes(wanted)
    return Matching((_multiport_test(members, name, inverted),))


def _multiport_test(members: frozenset[int] | bytes, name: str, inverted: bool) -> Test:
    table = members if isinstance(members, bytes) else None
    few = members if isinstance(members, frozenset) else frozenset[int]()
    source, destination = name != "dports", name != "sports"

    def ports_test(skb: Skb) -> bool:
        if skb.fragment:
            return False
        data, at = skb.data, skb.thoff
        if len(data) < at + 4:
            raise HotDrop
        if destination:
            port = data[at + 2] << 8 | data[at + 3]
            if table[port] if table is not None else port in few:
                return not inverted
        if source:
            port = data[at] << 8 | data[at + 1]
            if table[port] if table is not None else port in few:
                return not inverted
        return inverted

    return ports_test


def icmp(context: Context, options: Options) -> Matching:
    """`-m icmp --icmp-type TYPE[/CODE]`; type "any" and 255 mean every one."""
    need_protocol(context, 1)
    inverted, text = options.needed("icmp-type")
    name = text.lower()
    return _icmp_test("255" if name == "any" else _ICMP.get(name, name), inverted, 255)


def icmp6(context: Context, options: Options) -> Matching:
    """`-m icmp6 --icmpv6-type TYPE[/CODE]`."""
    need_protocol(context, 58)
    inverted, text = options.needed("icmpv6-type")
    return _icmp_test(_ICMP6.get(text.lower(), text), inverted, -1)


def _icmp_test(text: str, inverted: bool, every: int) -> Matching:
    kind, slash, code = text.partition("/")
    wanted = number(kind, 255, "an ICMP type")
    only = number(code, 255, "an ICMP code") if slash else -1

    def icmp_type(skb: Skb) -> bool:
        if skb.fragment:
            return False
        data, at = skb.data, skb.thoff
        if len(data) < at + 8:
            raise HotDrop
        return (wanted == every or (data[at] == wanted and only in (-1, data[at + 1]))) != inverted

    return Matching((icmp_type,), stable=False)
