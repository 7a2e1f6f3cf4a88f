"""Targets that change the packet: TCPMSS (xt_TCPMSS.c), TTL and HL (xt_HL.c), DSCP and TOS (xt_DSCP.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import FORWARD, LOCAL_OUT, POST_ROUTING
from ipvsctl.datapath.nf.matches import DSCP_CLASSES, tos_value, traffic_class
from ipvsctl.datapath.nf.matches_transport import need_protocol
from ipvsctl.datapath.nf.options import Context, Doing, Options, number
from ipvsctl.datapath.nf.walk import CONTINUE
from ipvsctl.datapath.skb import TCP
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import UsageError
from ipvsctl.wire.checksum import replaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipvsctl.datapath.nf.walk import Outcome
    from ipvsctl.datapath.skb import Skb

_MSS, _MSS_LENGTH = 2, 4
_HEADERS = {False: 40, True: 60}
"""IP and TCP headers without options, by whether it is IPv6."""

_LEAST_MSS = {False: 536, True: 1220}
"""What a host that says nothing is taken to have (RFC 1122; RFC 2460 and 879)."""

_ANY = 0xFFFFFFFF


# -- MSS --------------------------------------------------------------------------------------------------------------


def tcpmss(context: Context, options: Options) -> Doing:
    """`-j TCPMSS --set-mss N` or `--clamp-mss-to-pmtu`: make a SYN's MSS smaller, or put one in."""
    need_protocol(context, TCP)
    clamp, text = options.flag("clamp-mss-to-pmtu"), options.plain("set-mss")
    if clamp == (text is not None):
        raise UsageError("takes one of --set-mss and --clamp-mss-to-pmtu")
    if clamp and context.hooks - {FORWARD, LOCAL_OUT, POST_ROUTING}:
        raise UsageError("--clamp-mss-to-pmtu is for FORWARD, OUTPUT and POSTROUTING")
    if not _asks_for_syn(context):
        raise UsageError("is for SYN packets: the rule needs --syn or --tcp-flags that ask for SYN")
    fixed = number(text, 65535, "an MSS") if text is not None else 0
    least = _HEADERS[context.six]
    engine, family, six = context.engine, context.family, context.six

    def smaller(skb: Skb) -> Outcome:
        if skb.fragment:
            return CONTINUE
        length = len(skb.data) - skb.thoff
        if length < 20 or not 20 <= (header := (skb.data[skb.thoff + 12] >> 4) * 4) <= length:
            return Reason.RULE_TRUNCATED
        mss = fixed
        if clamp:
            back = engine.routing.output(family, skb.source)
            mtu = min(
                skb.dst.mtu if skb.dst is not None else _ANY, _ANY if isinstance(back, Reason) else back.mtu
            )  # fmt: skip
            if mtu <= least:
                return Reason.TOO_BIG
            mss = mtu - least & 0xFFFF
        if not _lower(skb, header, mss) and length == header and header < 60:
            _insert(skb, min(mss, _LEAST_MSS[six]))
        return CONTINUE

    return Doing(smaller)


def _asks_for_syn(context: Context) -> bool:
    for match in context.rule.matches:
        if match.name == "tcp":
            for name, value in match.options:
                if name == "syn" and not value.startswith("!"):
                    return True
                if name == "tcp-flags" and not value.startswith("!") and len(words := value.split()) == 2:
                    return bool({"SYN", "ALL"} & set(words[1].upper().split(",")))
    return False


def _lower(skb: Skb, header: int, mss: int) -> bool:
    """Whether there is an MSS option; it is never made larger."""
    data, start = skb.data, skb.thoff
    at = start + 20
    while at <= start + header - _MSS_LENGTH:
        if data[at] == _MSS and data[at + 1] == _MSS_LENGTH:
            old = data[at + 2] << 8 | data[at + 3]
            if old > mss:
                skb.set_header_word(at + 2, mss)
                # An option may begin at an odd byte; the kernel takes its value for an aligned word all the same.
                _carry(skb, old, mss)
            return True
        at += 1 if data[at] < 2 or not data[at + 1] else data[at + 1]
    return False


def _carry(skb: Skb, before: int, after: int) -> None:
    at = skb.thoff + 16
    skb.set_header_word(at, replaced(skb.data[at] << 8 | skb.data[at + 1], before, after))


def _insert(skb: Skb, mss: int) -> None:
    """Put an MSS option in front of the others; there is no payload."""
    data, start = skb.data, skb.thoff
    length = len(data) - start
    data[start + 20 : start + 20] = bytes((_MSS, _MSS_LENGTH, mss >> 8, mss & 255))
    old = data[start + 12] << 8 | data[start + 13]
    data[start + 12] += _MSS_LENGTH // 4 << 4
    new = data[start + 12] << 8 | data[start + 13]
    _carry(skb, length + old, length + _MSS_LENGTH + (_MSS << 8 | _MSS_LENGTH) + mss + new)
    if data[0] >> 4 == 4:
        _set_total(skb, (data[2] << 8 | data[3]) + _MSS_LENGTH)
    else:
        skb.set_header_word(4, (data[4] << 8 | data[5]) + _MSS_LENGTH & 0xFFFF)


def _set_total(skb: Skb, total: int) -> None:
    data = skb.data
    before = data[2] << 8 | data[3]
    skb.set_header_word(2, total & 0xFFFF)
    skb.set_header_word(10, replaced(data[10] << 8 | data[11], before, total & 0xFFFF))


# -- TTL, type of service ---------------------------------------------------------------------------------------------


def ttl(context: Context, options: Options) -> Doing:
    """`-j TTL --ttl-set, --ttl-dec, --ttl-inc N`; `-j HL --hl-set ...` for IPv6."""
    prefix = "hl" if context.six else "ttl"
    found = [(how, text) for how in ("set", "dec", "inc") if (text := options.plain(f"{prefix}-{how}")) is not None]
    if len(found) != 1:
        raise UsageError(f"takes one of --{prefix}-set, --{prefix}-dec and --{prefix}-inc")
    how, text = found[0]
    value = number(text, 255, "a number of hops")
    if how != "set" and not value:
        raise UsageError(f"--{prefix}-{how} 0 changes nothing")
    at, six = (7 if context.six else 8), context.six

    def change(skb: Skb) -> Outcome:
        data = skb.data
        old = data[at]
        new = value if how == "set" else min(255, old + value) if how == "inc" else max(0, old - value)
        if new != old:
            data[at] = new
            if not six:
                skb.set_header_word(10, replaced(data[10] << 8 | data[11], old << 8, new << 8))
        return CONTINUE

    return Doing(change, reroutes=True)


def dscp(_context: Context, options: Options) -> Doing:
    """`-j DSCP --set-dscp N`, `--set-dscp-class NAME`."""
    text, name = options.plain("set-dscp"), options.plain("set-dscp-class")
    if (text is None) == (name is None):
        raise UsageError("takes one of --set-dscp and --set-dscp-class")
    if name is not None and name.upper() not in DSCP_CLASSES:
        raise UsageError(f"{name!r} is not a class of DSCP")
    value = number(text, 63, "a DSCP") if text is not None else DSCP_CLASSES[(name or "").upper()]
    return Doing(_class_target(lambda old: old & 3 | value << 2), reroutes=True)


def tos(_context: Context, options: Options) -> Doing:
    """`-j TOS --set-tos VALUE[/MASK]`, --and-tos, --or-tos, --xor-tos."""
    found = [(how, text) for how in ("set", "and", "or", "xor") if (text := options.plain(f"{how}-tos")) is not None]
    if len(found) != 1:
        raise UsageError("takes one of --set-tos, --and-tos, --or-tos and --xor-tos")
    how, text = found[0]
    if how == "set":
        value, mask = tos_value(text, 0x3F)
    else:
        bits = number(text, 255, "bits")
        value, mask = {"and": (0, bits ^ 255), "or": (bits, bits), "xor": (bits, 0)}[how]
    return Doing(_class_target(lambda old: old & ~mask & 255 ^ value), reroutes=True)


def _class_target(change: Callable[[int], int]) -> Callable[[Skb], Outcome]:
    def target(skb: Skb) -> Outcome:
        old = traffic_class(skb)
        new = change(old)
        if new != old:
            data = skb.data
            if data[0] >> 4 == 4:
                data[1] = new
                skb.set_header_word(10, replaced(data[10] << 8 | data[11], old, new))
            else:
                data[0] = data[0] & 0xF0 | new >> 4
                data[1] = data[1] & 15 | (new & 15) << 4
        return CONTINUE

    return target
