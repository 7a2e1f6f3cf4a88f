"""What waits while a packet is put together: a queue of its fragments (inet_fragment.c), and how they are read."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import Skb
from ipvsctl.wire import ipv6
from ipvsctl.wire.checksum import Buffer

if TYPE_CHECKING:
    from ipvsctl.datapath.fragments import Fragments

FIRST, LAST = 1, 2
QUEUE_SIZE = 208
SKB_SIZE = 256
"""Bytes that the kernel counts for a queue and for an skb without its data (x86-64)."""


class Whole(bytearray):
    """A packet made of fragments. `sizes` are the bytes of payload that each brought, in order.

    The kernel keeps the fragments as they are behind the first one's header, and sends just these on when the device
    takes them: a packet that was cut unevenly stays so. Lost as soon as the payload changes its length.
    """

    __slots__ = ("sizes",)

    def __init__(self, data: bytearray, sizes: list[int]) -> None:
        super().__init__(data)
        self.sizes = sizes


class Pool:
    """Queues that share a limit: `memory` is what they take, in bytes as the kernel counts them."""

    __slots__ = ("limit", "memory", "queues", "timeout")

    def __init__(self, limit: str, timeout: str) -> None:
        self.queues: dict[bytes, Queue] = {}
        self.memory = 0
        self.limit = limit
        self.timeout = timeout


class Queue:
    """The fragments of one packet. `runs` are [begin, end] of pieces without a gap, `pieces` payloads by offset."""

    __slots__ = (
        "ecn", "expires", "flags", "fragments", "head", "key", "length", "max_df", "max_size", "meat", "memory",
        "pieces", "pool", "rid", "runs", "slot", "source", "user",
    )  # fmt: skip

    def __init__(self, fragments: Fragments, pool: Pool, key: bytes, user: int, source: bytes) -> None:
        self.fragments = fragments
        self.pool = pool
        self.key = key
        self.user = user
        self.source = source
        self.expires = 0.0
        self.slot = 0
        self.rid = 0
        self.max_size = self.max_df = 0
        self.memory = QUEUE_SIZE
        self.clear()

    def clear(self) -> None:
        """Forget every fragment; the largest sizes stay, as in ip_frag_reinit."""
        self.flags = self.length = self.meat = self.ecn = 0
        self.runs: list[list[int]] = []
        self.pieces: dict[int, bytes] = {}
        self.head: Skb | None = None

    def on_timer(self, now: float) -> None:
        """The others did not come."""
        self.fragments.expire(self)

    def insert(self, begin: int, end: int) -> bool | None:
        """Note a piece: true for a new one, None for one that is there already, false when it overlaps.

        inet_frag_queue_insert: a run grows at the end of the queue only, so a piece that spans two runs overlaps even
        when every byte of it is there.
        """
        runs = self.runs
        if not runs or end > runs[-1][1]:
            if runs and begin < runs[-1][1]:
                return False
            if runs and begin == runs[-1][1]:
                runs[-1][1] = end
            else:
                runs.append([begin, end])
            return True
        at = bisect_right(runs, [begin, 1 << 20])
        if at and begin < runs[at - 1][1]:
            return None if end <= runs[at - 1][1] else False
        if at < len(runs) and end > runs[at][0]:
            return False
        runs.insert(at, [begin, end])
        return True

    def last(self, end: int, more: bool) -> bool:
        """Keep account of where the packet ends; false when that contradicts what is known."""
        if not more:
            if end < self.length or (self.flags & LAST and end != self.length):
                return False
            self.flags |= LAST
            self.length = end
        elif end > self.length:
            if self.flags & LAST:
                return False
            self.length = end
        return True


def place_of(data: Buffer) -> tuple[int, int] | None:
    """Where an IPv6 packet's next-header field is that names a fragment header, and where that begins.

    None: there is none, as nf_conntrack_reasm.c: find_prev_fhdr sees it. It may lie behind the packet's end.
    """
    field, at, total = 6, 40, len(data)
    while data[field] != ipv6.FRAGMENT:
        kind = data[field]
        if kind not in (ipv6.HOPOPTS, ipv6.ROUTING, ipv6.AUTHENTICATION, ipv6.DSTOPTS) or at + 2 > total:
            return None
        field = at
        at += (data[at + 1] + 2) * 4 if kind == ipv6.AUTHENTICATION else (data[at + 1] + 1) * 8
    return (field, at) if at <= total else None


def transport_cut(data: Buffer, at: int, kind: int) -> bool:
    """Whether a first fragment, read from the header of a kind at `at` on, ends inside the transport header.

    ipv6_frag.h: ipv6frag_thdr_truncated, with exthdrs_core.c: ipv6_skip_exthdr, which gives up on a cut-off header.
    """
    total = len(data)
    while kind in (ipv6.HOPOPTS, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.AUTHENTICATION, ipv6.NONE, ipv6.DSTOPTS):
        if kind == ipv6.NONE or at + 2 > total:
            return False
        length = (data[at + 1] + 1) * 8
        if kind == ipv6.FRAGMENT:
            if at + 4 > total or (data[at + 2] << 8 | data[at + 3]) & 0xFFF8:
                return False
            length = 8
        elif kind == ipv6.AUTHENTICATION:
            length = (data[at + 1] + 2) * 4
        kind, at = data[at], at + length
    return at + {6: 20, 17: 8, 58: 8}.get(kind, 1) > total
