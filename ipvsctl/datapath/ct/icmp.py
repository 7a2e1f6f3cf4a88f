"""Connection tracking of ICMP and ICMPv6: questions and their answers, and errors about other connections.

Sources: nf_conntrack_proto_icmp.c (nf_conntrack_icmpv4_error, nf_conntrack_inet_error, nf_conntrack_icmp_packet) and
nf_conntrack_proto_icmpv6.c (their sisters, and nf_conntrack_icmpv6_redirect).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct import tuples
from ipvsctl.datapath.ct.entry import CONFIRMED, Entry
from ipvsctl.datapath.ct.outcome import ACCEPT, Outcome
from ipvsctl.datapath.skb import ICMP, RELATED, RELATED_REPLY, UNTRACKED, Skb
from ipvsctl.model.address import INET, INET6

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.table import Conntrack

_ERRORS4 = frozenset({3, 4, 5, 11, 12})
"""Unreachable, source quench, redirect, time exceeded, parameter problem."""

_HIGHEST4 = 18
_QUESTIONS4 = frozenset({8, 13, 15, 17})
_QUESTIONS6 = frozenset({128, 139})

_NEVER6 = frozenset({130, 131, 132, 133, 134, 135, 136, 143})
"""Multicast listener and neighbour discovery: never tracked."""

_REDIRECT6, _REDIRECTED_HEADER = 137, 4


def error(ct: Conntrack, skb: Skb) -> Outcome | None:
    """The part of an ICMP packet that comes before any lookup.

    ACCEPT: the packet is an error about a connection and related to it, or it is never tracked; skb says which.
    INVALID: it has no connection. None: it is no error, and has a tuple of its own.
    """
    if skb.protocol == ICMP:
        return _error4(ct, skb) if skb.family == INET else None
    return _error6(ct, skb) if skb.family == INET6 else None


def _error4(ct: Conntrack, skb: Skb) -> Outcome | None:
    data, at = skb.data, skb.thoff
    if len(data) < at + 8:
        return ct.invalid("the ICMP header is cut off")
    if ct.wrong_checksum(skb):
        return ct.invalid("the ICMP checksum is wrong")
    kind = data[at]
    if kind > _HIGHEST4:
        return ct.invalid("there is no such ICMP type")
    return _about(ct, skb, at + 8) if kind in _ERRORS4 else None


def _error6(ct: Conntrack, skb: Skb) -> Outcome | None:
    data, at = skb.data, skb.thoff
    if len(data) < at + 8:
        return ct.invalid("the ICMPv6 header is cut off")
    if ct.wrong_checksum(skb):
        return ct.invalid("the ICMPv6 checksum is wrong")
    kind = data[at]
    if kind in _NEVER6:
        skb.ctinfo = UNTRACKED
        return ACCEPT
    if kind == _REDIRECT6:
        return _redirect6(ct, skb)
    return _about(ct, skb, at + 8) if kind < 128 else None


def _redirect6(ct: Conntrack, skb: Skb) -> Outcome | None:
    data, at = skb.data, skb.thoff
    if len(data) < at + 40:
        return ct.invalid("the redirect is cut off")
    if data[at + 1]:
        return None
    source = skb.source
    if skb.ttl != 255 or source[0] != 0xFE or source[1] & 0xC0 != 0x80:
        return ct.invalid("a redirect that does not come from the link")
    at += 40
    if len(data) < at + 2 or not data[at + 1]:
        return ct.invalid("a redirect without options")
    return _about(ct, skb, at + 8) if data[at] == _REDIRECTED_HEADER else None


def _about(ct: Conntrack, skb: Skb, at: int) -> Outcome:
    """The error quotes a packet: it is related to that packet's connection, and goes the way of the answers to it."""
    quoted = tuples.embedded(skb.data, at, skb.family)
    answer = None if quoted is None else tuples.invert(quoted)
    found = None if answer is None else ct.find(answer)
    if found is None:
        return ct.invalid("an ICMP error about no connection that is known")
    entry, reply = found
    key = entry.reply if reply else entry.original
    end = len(key) - 4
    if key[(end + 1) >> 1 : end] != skb.destination:
        return ct.invalid("an ICMP error that does not go to the sender of the packet it quotes")
    skb.ct = entry
    skb.ctinfo = RELATED_REPLY if reply else RELATED
    return ACCEPT


def packet4(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """A question or an answer (nf_conntrack_icmp_packet)."""
    if skb.family != INET or entry.original[-2] not in _QUESTIONS4:
        return ct.invalid("no ICMP question that begins something")
    ct.refresh(entry, skb, reply, ct.settings["net.netfilter.nf_conntrack_icmp_timeout"])
    return ACCEPT


def packet6(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """A question or an answer (nf_conntrack_icmpv6_packet)."""
    if skb.family != INET6 or not (entry.status & CONFIRMED or entry.original[-2] in _QUESTIONS6):
        return ct.invalid("no ICMPv6 question that begins something")
    ct.refresh(entry, skb, reply, ct.settings["net.netfilter.nf_conntrack_icmpv6_timeout"])
    return ACCEPT
