"""Targets that mark, track, reject and log, and the list of all that can be evaluated.

Sources: xt_mark.c, xt_connmark.c, xt_CT.c, ipt_REJECT.c, ip6t_REJECT.c, nf_reject_ipv4.c, nf_reject_ipv6.c, xt_LOG.c.
A target that is not in the list is refused by name: CLUSTERIP, DNPT, ECN, HMARK, IDLETIMER, NFQUEUE, RATEEST, SECMARK,
SET, SNPT, SYNPROXY, TCPOPTSTRIP, TEE, TPROXY and others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.datapath.ct.helpers import find
from ipvsctl.datapath.hooks import FORWARD, LOCAL_OUT, POST_ROUTING
from ipvsctl.datapath.nf import targets_nat, targets_packet
from ipvsctl.datapath.nf.options import U32, Context, Doing, Options, TargetBuilder, masked, number
from ipvsctl.datapath.nf.walk import CONTINUE
from ipvsctl.datapath.skb import NONE, SCTP, TCP, UDP, UDPLITE, UNTRACKED
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import UsageError
from ipvsctl.wire.checksum import checksum, pseudo

if TYPE_CHECKING:
    from ipvsctl.datapath.nf.walk import Outcome
    from ipvsctl.datapath.skb import Skb

_CODES4 = {
    "icmp-net-unreachable": 0, "net-unreach": 0, "icmp-host-unreachable": 1, "host-unreach": 1,
    "icmp-proto-unreachable": 2, "proto-unreach": 2, "icmp-port-unreachable": 3, "port-unreach": 3,
    "icmp-net-prohibited": 9, "net-prohib": 9, "icmp-host-prohibited": 10, "host-prohib": 10,
    "icmp-admin-prohibited": 13, "admin-prohib": 13,
}  # fmt: skip
_CODES6 = {
    "icmp6-no-route": 0, "no-route": 0, "icmp6-adm-prohibited": 1, "adm-prohibited": 1, "icmp6-addr-unreachable": 3,
    "addr-unreach": 3, "icmp6-port-unreachable": 4, "port-unreach": 4, "icmp6-policy-fail": 5, "policy-fail": 5,
    "icmp6-reject-route": 6, "reject-route": 6,
}  # fmt: skip
_RESETS = ("tcp-reset", "tcp-rst")
_UNREACHABLE = {False: 3, True: 1}
_DCCP, _GRE, _ESP, _AH = 33, 47, 50, 51
_NO_CHECKSUM = frozenset((_GRE, _AH, _ESP, SCTP, UDPLITE, _DCCP))
"""Protocols whose checksum is not looked at before something is rejected (nf_reject_verify_csum)."""

_LEVELS = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "err": 3, "error": 3, "warning": 4, "warn": 4, "notice": 5,
    "info": 6, "debug": 7,
}  # fmt: skip


# -- marks ------------------------------------------------------------------------------------------------------------


def _mark_change(options: Options) -> tuple[int, int] | None:
    """Value and mask of new = old & ~mask ^ value; None when no option says how."""
    found = [(how, text) for how in ("set-mark", "set-xmark", "and-mark", "or-mark", "xor-mark")
             if (text := options.plain(how)) is not None]  # fmt: skip
    if len(found) > 1:
        raise UsageError(f"takes one of --{found[0][0]} and --{found[1][0]}")
    if not found:
        return None
    how, text = found[0]
    if how in ("set-mark", "set-xmark"):
        value, mask = masked(text)
        return value, mask | value if how == "set-mark" else mask
    bits = number(text, U32, "a mark")
    return {"and-mark": (0, bits ^ U32), "or-mark": (bits, bits), "xor-mark": (bits, 0)}[how]


def mark(_context: Context, options: Options) -> Doing:
    """`-j MARK`: --set-mark, --set-xmark, --and-mark, --or-mark, --xor-mark."""
    change = _mark_change(options)
    if change is None:
        raise UsageError("says no mark")
    value, kept = change[0], change[1] ^ U32

    def target(skb: Skb) -> Outcome:
        skb.mark = skb.mark & kept ^ value
        return CONTINUE

    return Doing(target, reroutes=True, steady=True)


def connmark(_context: Context, options: Options) -> Doing:
    """`-j CONNMARK`: the connection's mark as MARK has it, --save-mark, --restore-mark; shifts."""
    change = _mark_change(options)
    save, restore = options.flag("save-mark"), options.flag("restore-mark")
    if (change is not None) + save + restore != 1:
        raise UsageError("takes one of --set-xmark and its kin, --save-mark and --restore-mark")
    both = options.plain("mask")
    packet = number(options.plain("nfmask") or both or hex(U32), U32, "a mask")
    connection = number(options.plain("ctmask") or both or hex(U32), U32, "a mask")
    left, right = options.plain("left-shift-mark"), options.plain("right-shift-mark")
    by = number(left or right or "0", 31, "a number of bits") * (1 if left else -1)

    def shifted(bits: int) -> int:
        return bits << by & U32 if by >= 0 else bits >> -by

    if change is not None:
        value, kept = change[0], change[1] ^ U32

        def target(skb: Skb) -> Outcome:
            if skb.ct is not None:
                skb.ct.mark = shifted(skb.ct.mark & kept ^ value)
            return CONTINUE
    elif save:

        def target(skb: Skb) -> Outcome:
            if skb.ct is not None:
                skb.ct.mark = skb.ct.mark & (connection ^ U32) ^ shifted(skb.mark & packet)
            return CONTINUE
    else:

        def target(skb: Skb) -> Outcome:
            if skb.ct is not None:
                skb.mark = skb.mark & (packet ^ U32) ^ shifted(skb.ct.mark & connection)
            return CONTINUE

    return Doing(target, tracks=True, reroutes=restore)


# -- conntrack --------------------------------------------------------------------------------------------------------


def notrack(_context: Context, _options: Options) -> Doing:
    """`-j NOTRACK`, `-j CT --notrack`: rules see UNTRACKED. It asks for no conntrack."""

    def target(skb: Skb) -> Outcome:
        if skb.ct is None and skb.ctinfo == NONE and skb.template is None:
            skb.ctinfo = UNTRACKED
        return CONTINUE

    return Doing(target, steady=True)


def ct(context: Context, options: Options) -> Doing:
    """`-j CT --helper NAME`, `--notrack`: how conntrack is to make the connection's entry. The module is loaded."""
    if options.flag("notrack"):
        return notrack(context, options)
    name = options.plain("helper")
    template: dict[str, object] = {}
    if name:
        if not context.protocol:
            raise UsageError("--helper needs a protocol with -p, not negated")
        helper = find(name, context.protocol)
        if helper is None:
            raise UsageError(f"--helper {name} for protocol {context.protocol} cannot be evaluated")
        context.engine.modules.add(helper.module)
        template["helper"] = name

    def target(skb: Skb) -> Outcome:
        if skb.ct is None and skb.ctinfo == NONE and skb.template is None:
            skb.template = template
        return CONTINUE

    return Doing(target, tracks=True, steady=True)


# -- REJECT and LOG ---------------------------------------------------------------------------------------------------


def reject(context: Context, options: Options) -> Doing:
    """`-j REJECT --reject-with`: port unreachable when nothing is said. The packet is dropped."""
    codes, engine, six = _CODES6 if context.six else _CODES4, context.engine, context.six
    name = options.plain("reject-with") or ("icmp6-port-unreachable" if six else "icmp-port-unreachable")
    if name in _RESETS:
        if context.protocol != TCP:
            raise UsageError(f"--reject-with {name} needs -p tcp, not negated")

        def reset(skb: Skb) -> Outcome:
            engine.ip.tcp_reset(skb, skb.hook)
            return Reason.REJECT

        return Doing(reset)
    if name not in codes:
        raise UsageError(f"--reject-with {name!r} is unknown, expected one of {', '.join((*codes, _RESETS[0]))}")
    kind, code = _UNREACHABLE[six], codes[name]

    def unreachable(skb: Skb) -> Outcome:
        if _may_answer(skb, six):
            engine.ip.icmp_error(skb, kind, code)
        return Reason.REJECT

    return Doing(unreachable)


def _may_answer(skb: Skb, six: bool) -> bool:
    """Whether an ICMP error may tell of it: not of later fragments, nor of what has a wrong checksum."""
    if skb.fragment or (six and skb.thoff >= len(skb.data)):
        return False
    protocol, data, at = skb.protocol, skb.data, skb.thoff
    # A packet of the host itself has no checksum yet in the kernel: it is made by the device. One that conntrack has
    # found right stays so, whatever was put around it since (skb_csum_unnecessary).
    if skb.own or skb.checked or protocol in _NO_CHECKSUM:
        return True
    if protocol == UDP and len(data) >= at + 8 and not (data[at + 6] or data[at + 7]):
        return True
    start = pseudo(skb.source, skb.destination, protocol, len(data) - at) if six or protocol in (TCP, UDP) else 0
    return checksum(memoryview(data)[at:], start) == 0


def log(context: Context, options: Options) -> Doing:
    """`-j LOG`: a note in the trace."""
    prefix = options.plain("log-prefix") or ""
    level = (options.plain("log-level") or "4").lower()
    if level not in _LEVELS:
        number(level, 7, "a level of the log")
    for name in ("tcp-sequence", "tcp-options", "ip-options", "uid", "macdecode"):
        options.flag(f"log-{name}")
    if len(prefix.encode()) > 29:
        raise UsageError("--log-prefix is longer than 29 characters")
    return _noted(context, "log", prefix)


def nflog(context: Context, options: Options) -> Doing:
    """`-j NFLOG`: a note in the trace."""
    prefix = options.plain("nflog-prefix") or ""
    for name in ("group", "range", "size", "threshold"):
        options.plain(f"nflog-{name}")
    return _noted(context, "nflog", prefix)


def _noted(context: Context, what: str, prefix: str) -> Doing:
    engine = context.engine

    def target(skb: Skb) -> Outcome:
        if engine.tracer is not None:
            engine.tracer.note(f"{what}: {prefix}{skb}", log=prefix)
        return CONTINUE

    return Doing(target, steady=True)


def classify(_context: Context, options: Options) -> Doing:
    """`-j CLASSIFY`: the class is for queues, which there are none of."""
    if not options.plain("set-class"):
        raise UsageError("--set-class is missing")
    return Doing(_nothing, steady=True)


def trace(_context: Context, _options: Options) -> Doing:
    """`-j TRACE`: the kernel would log the rules that match; the trace is asked for otherwise here."""
    return Doing(_nothing, steady=True)


def _nothing(_skb: Skb) -> Outcome:
    return CONTINUE


class Known(NamedTuple):
    """A target: its builder, the tables and the hooks it is for (empty: all)."""

    build: TargetBuilder
    tables: tuple[str, ...] = ()
    hooks: frozenset[int] = frozenset()


TARGETS = {
    "CLASSIFY": Known(classify, hooks=frozenset((LOCAL_OUT, FORWARD, POST_ROUTING))),
    "CONNMARK": Known(connmark),
    "CT": Known(ct, ("raw",)),
    "DNAT": Known(targets_nat.dnat, ("nat",), targets_nat.DESTINATION_HOOKS),
    "DSCP": Known(targets_packet.dscp, ("mangle",)),
    "HL": Known(targets_packet.ttl, ("mangle",)),
    "LOG": Known(log),
    "MARK": Known(mark),
    "MASQUERADE": Known(targets_nat.masquerade, ("nat",), frozenset((POST_ROUTING,))),
    "NETMAP": Known(targets_nat.netmap, ("nat",)),
    "NFLOG": Known(nflog),
    "NOTRACK": Known(notrack, ("raw",)),
    "REDIRECT": Known(targets_nat.redirect, ("nat",), targets_nat.DESTINATION_HOOKS),
    "REJECT": Known(reject, ("filter",)),
    "SNAT": Known(targets_nat.snat, ("nat",), targets_nat.SOURCE_HOOKS),
    "TCPMSS": Known(targets_packet.tcpmss),
    "TOS": Known(targets_packet.tos, ("mangle",)),
    "TRACE": Known(trace, ("raw",)),
    "TTL": Known(targets_packet.ttl, ("mangle",)),
}

ONLY = {"TTL": 4, "HL": 6}
"""Targets that one version of IP has."""
