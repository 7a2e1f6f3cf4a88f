"""Entries as ctnetlink reports them (nf_conntrack_netlink.c: ctnetlink_dump_table)."""

from __future__ import annotations

from ipvsctl.datapath.ct.entry import Entry, parts
from ipvsctl.datapath.ct.protocols import state_name
from ipvsctl.model.status import ConntrackEntry
from ipvsctl.wire.address import readable

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}

STATUS = (
    "expected", "seen_reply", "assured", "confirmed", "src_nat", "dst_nat", "seq_adjust", "src_nat_done",
    "dst_nat_done", "dying", "fixed_timeout", "template", "nat_clash", "helper",
)  # fmt: skip
"""Names of the status bits, from bit 0 on."""


_JIFFY = 0.004
"""Seconds; the kernel counts in whole ones of these, and 120 s set a moment ago are 120 and not 119."""


def report(entry: Entry, now: float) -> ConntrackEntry:
    """One entry; its timeout in whole seconds left, as the kernel cuts them."""
    protocol, source, destination, first, second = parts(entry.original)
    _, reply_source, reply_destination, reply_first, reply_second = parts(entry.reply)
    return ConntrackEntry(
        PROTOCOLS.get(protocol, str(protocol)), readable(source), readable(destination), first, second,
        readable(reply_source), readable(reply_destination), reply_first, reply_second,
        state_name(entry), max(int(entry.expires - now + _JIFFY), 0), entry.mark, getattr(entry.helper, "name", ""),
        tuple(name for bit, name in enumerate(STATUS) if entry.status >> bit & 1),
    )  # fmt: skip
