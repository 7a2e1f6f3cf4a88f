"""What the trackers of the protocols ask of conntrack: timeouts, counters, checksums, and a word for the trace.

Source: nf_conntrack_core.c (__nf_ct_refresh_acct, nf_ct_acct_update), netfilter/utils.c (nf_checksum).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import CONFIRMED, DYING, FIXED_TIMEOUT, Entry
from ipvsctl.datapath.ct.outcome import ACCEPT, INVALID, Outcome
from ipvsctl.datapath.ct.tcp_window import State
from ipvsctl.datapath.hooks import PRE_ROUTING
from ipvsctl.datapath.skb import Skb
from ipvsctl.wire import transport

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_CHECKSUM = "net.netfilter.nf_conntrack_checksum"


class Tracking:
    """The part of Conntrack that the trackers use.

    `tcp` is where the state of a packet's TCP connection is loaded; `unpacked` are connections that keep theirs ready.
    """

    __slots__ = ("engine", "settings", "tcp", "timers", "unpacked")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.settings = engine.settings
        self.timers = engine.timers
        self.tcp = State()
        self.unpacked: deque[bytes] = deque()

    def refresh(self, entry: Entry, skb: Skb, reply: bool, timeout: float) -> None:
        """The entry lives this long from now on, and the packet is counted (nf_ct_refresh_acct)."""
        status = entry.status
        if not status & FIXED_TIMEOUT:
            if status & CONFIRMED:
                self.expire_at(entry, self.engine.now + timeout)
            else:
                entry.timeout = timeout
        if entry.octets is not None:
            self.account(entry, skb, reply)

    def expire_at(self, entry: Entry, when: float) -> None:
        """Move the end of a confirmed entry."""
        sooner = when < entry.expires
        entry.expires = when
        if sooner and not entry.status & DYING:
            self.timers.watch(entry)

    def account(self, entry: Entry, skb: Skb, reply: bool) -> None:
        """Count a packet of a direction, when nf_conntrack_acct was on as the entry was made."""
        if entry.packets is not None and entry.octets is not None:
            entry.packets[reply] += 1
            entry.octets[reply] += len(skb.data)

    def checks(self, skb: Skb) -> bool:
        """Whether the transport checksum is to be looked at: as the packet comes in, once."""
        return not skb.checked and skb.hook == PRE_ROUTING and bool(self.settings[_CHECKSUM])

    def wrong_checksum(self, skb: Skb) -> bool:
        """Whether the transport checksum makes the packet INVALID."""
        if not self.checks(skb):
            return False
        skb.checked = transport.verify(
            skb.data, skb.family, skb.protocol, skb.thoff, skb.source, skb.destination
        )  # fmt: skip
        return not skb.checked

    def note(self, text: str, minor: bool = False) -> None:
        """For the trace."""
        if self.engine.tracer is not None:
            self.engine.tracer.note(text, minor=minor)

    def invalid(self, why: str) -> Outcome:
        """INVALID, with the reason for the trace."""
        if self.engine.tracer is not None:
            self.engine.tracer.note(f"INVALID: {why}", invalid=why)
        return INVALID

    def ignored(self, why: str) -> Outcome:
        """ACCEPT of a packet that changes nothing, with the reason for the trace."""
        if self.engine.tracer is not None:
            self.engine.tracer.note(f"conntrack: {why}")
        return ACCEPT
