"""Matches of the packet itself, and the list of all that can be evaluated.

Sources: xt_mark.c, xt_iprange.c, xt_length.c, xt_hl.c, xt_dscp.c, xt_pkttype.c, xt_statistic.c. A match that is not in
the list is refused by name: bpf, cgroup, cluster, connlabel, connlimit, cpu, devgroup, ecn, hashlimit, mac, nfacct,
osf, owner, physdev, policy, quota, rateest, realm, recent, set, socket, string, time, u32 and others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.nf import matches_ct, matches_host, matches_transport
from ipvsctl.datapath.nf.limit import limit
from ipvsctl.datapath.nf.options import U32, Context, MatchBuilder, Matching, Options, masked, number, span
from ipvsctl.datapath.nf.walk import Test
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_words import network_numbers

if TYPE_CHECKING:
    from ipvsctl.datapath.skb import Skb

DSCP_CLASSES = {
    "EF": 46, "VA": 44, "LE": 1, "BE": 0, "DF": 0, **{f"CS{n}": n * 8 for n in range(8)},
    **{f"AF{a}{b}": a * 8 + b * 2 for a in range(1, 5) for b in range(1, 4)},
}  # fmt: skip
"""Differentiated services by name (RFC 2474 and its kin)."""

TOS_NAMES = {
    "minimize-delay": 0x10, "maximize-throughput": 0x08, "maximize-reliability": 0x04, "minimize-cost": 0x02,
    "normal-service": 0,
}  # fmt: skip


def comment(_context: Context, options: Options) -> Matching:
    """`-m comment`: matches everything."""
    options.plain("comment")
    return Matching(())


def mark(_context: Context, options: Options) -> Matching:
    """`-m mark --mark VALUE[/MASK]`."""
    inverted, text = options.needed("mark")
    value, mask = masked(text)
    if mask == U32 and not inverted:
        return Matching((lambda skb: skb.mark == value,))
    return Matching((lambda skb: (skb.mark & mask == value) != inverted,))


def iprange(context: Context, options: Options) -> Matching:
    """`-m iprange --src-range, --dst-range FIRST-LAST`."""
    tests: list[Test] = []
    for name in ("src-range", "dst-range"):
        found = options.take(name)
        if found is not None:
            first, dash, last = found[1].partition("-")
            low = network_numbers(context.family, first)[0]
            high = network_numbers(context.family, last)[0] if dash else low
            tests.append(_range_test(low, high, name == "src-range", found[0]))
    if not tests:
        raise UsageError("takes --src-range or --dst-range")
    return Matching(tuple(tests))


def _range_test(first: int, last: int, source: bool, inverted: bool) -> Test:
    size = 4 if last < 1 << 32 and first < 1 << 32 else 16
    # Bytes of one length compare as the numbers they are; a small IPv6 range just gets its zeros.
    lengths = {each: (first.to_bytes(each, "big"), last.to_bytes(each, "big")) for each in {size, 16}}

    def in_range(skb: Skb) -> bool:
        address = skb.source if source else skb.destination
        low, high = lengths[len(address)]
        return (low <= address <= high) != inverted

    return in_range


def length(_context: Context, options: Options) -> Matching:
    """`-m length --length BYTES[:BYTES]`: the packet from its IP header on."""
    inverted, text = options.needed("length")
    low, high = span(text, 65535, "a length")
    return Matching((lambda skb: (low <= len(skb.data) <= high) != inverted,), stable=False)


def ttl(context: Context, options: Options) -> Matching:
    """`-m ttl --ttl-eq, --ttl-lt, --ttl-gt N`; `-m hl --hl-eq ...` for IPv6."""
    prefix = "hl" if context.six else "ttl"
    found = [(name, wish) for name in ("eq", "lt", "gt") if (wish := options.take(f"{prefix}-{name}")) is not None]
    if len(found) != 1:
        raise UsageError(f"takes one of --{prefix}-eq, --{prefix}-lt and --{prefix}-gt")
    name, (inverted, text) = found[0]
    value = number(text, 255, "a number of hops")
    if name == "eq":
        return Matching((lambda skb: (skb.ttl == value) != inverted,), stable=False)
    if inverted:
        raise UsageError(f"--{prefix}-{name} cannot be negated")
    if name == "lt":
        return Matching((lambda skb: skb.ttl < value,), stable=False)
    return Matching((lambda skb: skb.ttl > value,), stable=False)


def traffic_class(skb: Skb) -> int:
    """The type of service or traffic class byte."""
    data = skb.data
    if data[0] >> 4 == 4:
        return data[1]
    return (data[0] & 15) << 4 | data[1] >> 4


def tos_value(text: str, named_mask: int) -> tuple[int, int]:
    """Value and mask of VALUE[/MASK] or of a name, which has a mask of its own; raises UsageError."""
    if text.lower() in TOS_NAMES:
        return TOS_NAMES[text.lower()], named_mask
    return masked(text, 255)


def tos(_context: Context, options: Options) -> Matching:
    """`-m tos --tos VALUE[/MASK]`."""
    inverted, text = options.needed("tos")
    value, mask = tos_value(text, 0x3F)
    return Matching((lambda skb: (traffic_class(skb) & mask == value) != inverted,), stable=False)


def dscp(_context: Context, options: Options) -> Matching:
    """`-m dscp --dscp VALUE`, `--dscp-class NAME`."""
    found = options.take("dscp")
    by_name = options.take("dscp-class")
    if (found is None) == (by_name is None):
        raise UsageError("takes one of --dscp and --dscp-class")
    inverted, value = found[0] if found else False, 0
    if found is not None:
        value = number(found[1], 63, "a DSCP")
    elif by_name is not None:
        if by_name[1].upper() not in DSCP_CLASSES:
            raise UsageError(f"{by_name[1]!r} is not a class of DSCP")
        inverted, value = by_name[0], DSCP_CLASSES[by_name[1].upper()]
    return Matching((lambda skb: (traffic_class(skb) >> 2 == value) != inverted,), stable=False)


def pkttype(_context: Context, options: Options) -> Matching:
    """`-m pkttype --pkt-type unicast`: what is neither broadcast nor multicast; there is no link layer to ask."""
    inverted, text = options.needed("pkt-type")
    if text not in ("unicast", "host"):
        raise UsageError(f"--pkt-type {text} cannot be evaluated: there is no link layer here")

    def unicast(skb: Skb) -> bool:
        first = skb.destination[0]
        grouped = first == 0xFF if len(skb.destination) == 16 else first & 0xF0 == 0xE0
        return (grouped or skb.broadcast) == inverted

    return Matching((unicast,))


def statistic(context: Context, options: Options) -> Matching:
    """`-m statistic --mode nth --every N [--packet P]`, `--mode random --probability P`."""
    mode = options.plain("mode")
    engine = context.engine
    if mode == "random":
        inverted, text = options.needed("probability")
        try:
            chance = float(text)
        except ValueError:
            chance = -1.0
        if not 0.0 <= chance <= 1.0:
            raise UsageError(f"{text!r} is not a probability, expected 0..1")
        # lround: halves go away from zero.
        threshold = int(0x80000000 * chance + 0.5)
        return Matching((lambda _skb: (engine.random(0x80000000) < threshold) != inverted,), stable=False)
    if mode != "nth":
        raise UsageError(f"--mode {mode} is unknown, expected nth or random")
    inverted, text = options.needed("every")
    every = number(text, U32, "a number of packets")
    packet = number(options.plain("packet") or "0", U32, "the number of a packet")
    if not every or packet >= every:
        raise UsageError("--packet must be less than --every, which must not be 0")
    return Matching((_Nth(every - 1, packet, inverted).test,), stable=False)


class _Nth:
    """Every so many packets one; `last` is the number that comes before 0."""

    __slots__ = ("_count", "_inverted", "_last")

    def __init__(self, last: int, packet: int, inverted: bool) -> None:
        self._last, self._inverted = last, inverted
        self._count = last - packet

    def test(self, _skb: Skb) -> bool:
        self._count = 0 if self._count == self._last else self._count + 1
        return (self._count == 0) != self._inverted


MATCHES: dict[str, MatchBuilder] = {
    "addrtype": matches_host.addrtype,
    "comment": comment,
    "connbytes": matches_ct.connbytes,
    "connmark": matches_ct.connmark,
    "conntrack": matches_ct.conntrack,
    "dscp": dscp,
    "helper": matches_ct.helper,
    "hl": ttl,
    "icmp": matches_transport.icmp,
    "icmp6": matches_transport.icmp6,
    "iprange": iprange,
    "ipvs": matches_host.ipvs,
    "length": length,
    "limit": limit,
    "mark": mark,
    "multiport": matches_transport.multiport,
    "pkttype": pkttype,
    "rpfilter": matches_host.rpfilter,
    "sctp": matches_transport.sctp,
    "state": matches_ct.state,
    "statistic": statistic,
    "tcp": matches_transport.tcp,
    "tcpmss": matches_transport.tcpmss,
    "tos": tos,
    "ttl": ttl,
    "udp": matches_transport.udp,
    "udplite": matches_transport.udp,
}

ONLY = {"icmp": 4, "ttl": 4, "icmp6": 6, "hl": 6}
"""Matches that one version of IP has."""
