"""Entries as ctnetlink reports them (nf_conntrack_netlink.c: ctnetlink_dump_table)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import Entry, make_tuple, parts
from ipvsctl.datapath.ct.protocols import state_name
from ipvsctl.model.status import ConntrackEntry, Expectation
from ipvsctl.wire.address import packed, readable

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.expect import Expectation as Expected

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


def report_expectation(expected: Expected, now: float) -> Expectation:
    """What is expected, as ctnetlink lists it (ctnetlink_exp_dump_expect)."""
    protocol, source, destination, port, to = parts(expected.match)
    _, master_source, master_destination, master_port, master_to = parts(expected.master.original)
    return Expectation(
        PROTOCOLS.get(protocol, str(protocol)), "" if expected.any_source else readable(source),
        0 if expected.any_port else port, readable(destination), to,
        readable(master_source), master_port, readable(master_destination), master_to,
        max(int(expected.expires - now + _JIFFY), 0), getattr(expected.helper, "name", ""),
    )  # fmt: skip


def key_of(entry: ConntrackEntry) -> bytes:
    """The tuple of an entry's original direction; b"", which is in no table, for a protocol without a number."""
    number = next((number for number, name in PROTOCOLS.items() if name == entry.protocol), None)
    if number is None:
        if not entry.protocol.isdecimal() or not int(entry.protocol) < 256:
            return b""
        number = int(entry.protocol)
    return make_tuple(
        number, packed(entry.source), packed(entry.destination), entry.source_port, entry.destination_port
    )  # fmt: skip
