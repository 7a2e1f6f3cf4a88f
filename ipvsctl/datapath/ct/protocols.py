"""The trackers by protocol, and those too short for a file of their own: UDP, UDP-Lite, GRE and everything else.

Sources: nf_conntrack_proto_udp.c, nf_conntrack_proto_gre.c, nf_conntrack_core.c (generic_packet,
nf_conntrack_handle_packet). DCCP, which the kernel has a tracker for, is tracked by its ports as everything else is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ipvsctl.datapath.ct import icmp, sctp, tcp
from ipvsctl.datapath.ct.entry import ASSURED, CONFIRMED, NAT_CLASH, SEEN_REPLY, Entry
from ipvsctl.datapath.ct.outcome import ACCEPT, Outcome
from ipvsctl.datapath.ct.tuples import DCCP
from ipvsctl.datapath.skb import GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Skb
from ipvsctl.wire.checksum import correct, pseudo

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.table import Conntrack

Tracker = Callable[["Conntrack", Entry, Skb, bool], Outcome]
"""`tracker(ct, entry, skb, reply)`: what becomes of a packet of an entry, and of the entry."""

STREAM_AFTER = 2.0
"""Seconds after which a UDP exchange that goes on is a stream."""

_UDP_TIMEOUT, _UDP_STREAM = "net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream"
_GRE_TIMEOUT, _GRE_STREAM = "net.netfilter.nf_conntrack_gre_timeout", "net.netfilter.nf_conntrack_gre_timeout_stream"
_GENERIC_TIMEOUT = "net.netfilter.nf_conntrack_generic_timeout"


def udp(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """A datagram (nf_conntrack_udp_packet). `entry.proto` is the time from which on the exchange is a stream."""
    data, at = skb.data, skb.thoff
    there = len(data) - at
    if there < 8 or not 8 <= data[at + 4] << 8 | data[at + 5] <= there:
        return ct.invalid("the UDP datagram is cut off, or its length is wrong")
    if (data[at + 6] or data[at + 7]) and ct.wrong_checksum(skb):
        return ct.invalid("the UDP checksum is wrong")
    status = entry.status
    if not status & CONFIRMED:
        entry.proto = ct.engine.now + STREAM_AFTER
    if not status & SEEN_REPLY:
        ct.refresh(entry, skb, reply, ct.settings[_UDP_TIMEOUT])
    elif ct.engine.now > entry.proto:
        ct.refresh(entry, skb, reply, ct.settings[_UDP_STREAM])
        if not status & NAT_CLASH:
            entry.status |= ASSURED
    else:
        ct.refresh(entry, skb, reply, ct.settings[_UDP_TIMEOUT])
    return ACCEPT


def udplite(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """A UDP-Lite datagram (nf_conntrack_udplite_packet): two-way is a stream at once, and a checksum must be there.

    Conntrack checks it with UDP's protocol number in the pseudo header (udplite_error), where the sender has put its
    own: with nf_conntrack_checksum set, what is right makes the packet INVALID.
    """
    data, at = skb.data, skb.thoff
    there = len(data) - at
    if there < 8:
        return ct.invalid("the UDP-Lite datagram is cut off")
    if not 8 <= (data[at + 4] << 8 | data[at + 5] or there) <= there:
        return ct.invalid("the UDP-Lite checksum covers what is not there")
    if not (data[at + 6] or data[at + 7]) or (ct.checks(skb) and not _sums_as_udp(skb)):
        return ct.invalid("the UDP-Lite checksum is missing, or is not what it would be if this were UDP")
    if entry.status & SEEN_REPLY:
        ct.refresh(entry, skb, reply, ct.settings[_UDP_STREAM])
        if not entry.status & NAT_CLASH:
            entry.status |= ASSURED
    else:
        ct.refresh(entry, skb, reply, ct.settings[_UDP_TIMEOUT])
    return ACCEPT


def _sums_as_udp(skb: Skb) -> bool:
    data, at = skb.data, skb.thoff
    covered = data[at + 4] << 8 | data[at + 5] or len(data) - at
    start = pseudo(skb.source, skb.destination, UDP, len(data) - at)
    return correct(memoryview(data)[at : at + covered], start)


def gre(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """A GRE packet (nf_conntrack_gre_packet). The entry keeps the timeouts that held when it began."""
    if not entry.status & CONFIRMED:
        entry.proto = (ct.settings[_GRE_TIMEOUT], ct.settings[_GRE_STREAM])
    timeout, stream = entry.proto
    if entry.status & SEEN_REPLY:
        ct.refresh(entry, skb, reply, stream)
        entry.status |= ASSURED
    else:
        ct.refresh(entry, skb, reply, timeout)
    return ACCEPT


def generic(ct: Conntrack, entry: Entry, skb: Skb, reply: bool) -> Outcome:
    """A packet of any other protocol: addresses are all that is known of it."""
    ct.refresh(entry, skb, reply, ct.settings[_GENERIC_TIMEOUT])
    return ACCEPT


TRACKERS: dict[int, Tracker] = {
    TCP: tcp.packet, UDP: udp, UDPLITE: udplite, ICMP: icmp.packet4, ICMPV6: icmp.packet6, SCTP: sctp.packet, GRE: gre,
}  # fmt: skip

NO_CLASH = frozenset({TCP, ICMP, ICMPV6, SCTP, GRE, DCCP})
"""Protocols whose packets are dropped when another entry took their tuple; others may go on with that entry."""


_STATES = {TCP: tcp.STATES, SCTP: sctp.STATES}
_CLOSING = {TCP: tcp.CLOSING, SCTP: sctp.CLOSING}


def closing(entry: Entry) -> bool:
    """Whether even an assured entry may go when the table is full (can_early_drop): its connection ends."""
    states = _CLOSING.get(entry.original[0])
    return states is not None and entry.proto.state in states


def state_name(entry: Entry) -> str:
    """The state's name as ctnetlink reports it; "" for protocols without states."""
    names = _STATES.get(entry.original[0])
    return "" if names is None else names[entry.proto.state]
