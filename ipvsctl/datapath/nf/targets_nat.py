"""Targets of the nat table: SNAT, DNAT (xt_nat.c), MASQUERADE, REDIRECT, NETMAP; all of them ask for conntrack.

They decide what a connection's addresses become; nat.setup finds free ports and ct/nat.py rewrites its packets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import LOCAL_IN, LOCAL_OUT, POST_ROUTING, PRE_ROUTING
from ipvsctl.datapath.nf.options import Context, Doing, Options, number, ports
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_words import network_numbers

if TYPE_CHECKING:
    from ipvsctl.datapath.nf.walk import Outcome
    from ipvsctl.datapath.skb import Skb

SOURCE_HOOKS = frozenset((POST_ROUTING, LOCAL_IN))
DESTINATION_HOOKS = frozenset((PRE_ROUTING, LOCAL_OUT))


def _flags(options: Options, *names: str) -> frozenset[str]:
    return frozenset(name for name in names if options.flag(name))


def _span(context: Context, text: str) -> tuple[bytes | None, bytes | None, tuple[int, int] | None, int | None]:
    """[FIRST[-LAST]][:PORT[-PORT[/BASE]]], IPv6 addresses with ports in brackets; raises UsageError."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if rest.startswith("-["):
            last, bracket, rest = rest[2:].partition("]")
            inside = f"{inside}-{last}"
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is not an address or range with ports")
        numbers = rest[1:]
    elif context.six:
        inside, numbers = text, ""
    else:
        inside, _, numbers = text.partition(":")
    low = high = None
    if inside:
        first, dash, last = inside.partition("-")
        size = 16 if context.six else 4
        for each in (first, last):
            if "/" in each:
                raise UsageError(f"{each!r} is not an address")
        low = network_numbers(context.family, first)[0].to_bytes(size, "big")
        high = network_numbers(context.family, last)[0].to_bytes(size, "big") if dash else low
        if high < low:
            raise UsageError(f"{text!r} is a range that ends before it begins")
    numbers, slash, base = numbers.partition("/")
    return low, high, _ports(numbers), number(base, 65535, "a port") if slash else None


def _ports(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = ports(text, "-")
    if not found[0]:
        raise UsageError(f"{text!r}: port 0 cannot be translated to")
    return found


def snat(context: Context, options: Options) -> Doing:
    """`-j SNAT --to-source`."""
    return _translate(context, options, "to-source", "src")


def dnat(context: Context, options: Options) -> Doing:
    """`-j DNAT --to-destination`."""
    return _translate(context, options, "to-destination", "dst")


def _translate(context: Context, options: Options, option: str, manip: str) -> Doing:
    text = options.plain(option)
    if not text:
        raise UsageError(f"--{option} is missing")
    low, high, numbers, base = _span(context, text)
    flags = _flags(options, "random", "random-fully", "persistent")
    engine = context.engine

    def translate(skb: Skb) -> Outcome:
        entry = skb.ct
        return None if entry is None else engine.nat.setup(entry, manip, low, high, numbers, flags, base)

    return Doing(translate, tracks=True)


def masquerade(context: Context, options: Options) -> Doing:
    """`-j MASQUERADE --to-ports`: the address that the host would send from by this way (nf_nat_masquerade.c)."""
    numbers = _ports(options.plain("to-ports") or "")
    flags = _flags(options, "random", "random-fully")
    engine = context.engine
    return Doing(lambda skb: engine.nat.masquerade(skb, numbers, flags), tracks=True)


def redirect(context: Context, options: Options) -> Doing:
    """`-j REDIRECT --to-ports`: to the host itself (nf_nat_redirect.c)."""
    numbers = _ports(options.plain("to-ports") or "")
    flags = _flags(options, "random")
    engine = context.engine
    return Doing(lambda skb: engine.nat.redirect(skb, numbers, flags), tracks=True)


def netmap(context: Context, options: Options) -> Doing:
    """`-j NETMAP --to NETWORK`: the network's bits of the address are replaced (xt_NETMAP.c)."""
    text = options.plain("to")
    if not text:
        raise UsageError("--to is missing")
    network, mask = network_numbers(context.family, text)
    size = 16 if context.six else 4
    first = network.to_bytes(size, "big")
    last = (network | (1 << size * 8) - 1 - mask).to_bytes(size, "big")
    engine = context.engine
    return Doing(lambda skb: engine.nat.netmap(skb, first, last), tracks=True)
