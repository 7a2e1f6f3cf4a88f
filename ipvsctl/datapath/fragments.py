"""Fragments: put together as they come in, cut again when they leave.

Who asks for a whole packet has queues of his own ("user"): the host's own stack, conntrack at either hook, IPVS.
Sources: ip_fragment.c, inet_fragment.c, ip_output.c; ipv6/reassembly.c, nf_conntrack_reasm.c, ip6_output.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ipvsctl.datapath.fragment_queue import (
    FIRST,
    LAST,
    QUEUE_SIZE,
    SKB_SIZE,
    Pool,
    Queue,
    Whole,
    place_of,
    transport_cut,
)
from ipvsctl.datapath.skb import TCP, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET
from ipvsctl.wire import ipv4, ipv6

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

LOCAL_DELIVER, CONNTRACK_IN, CONNTRACK_OUT, VS_IN, VS_OUT, VS_FWD = range(6)
"""Users. IPv6 has no IPVS ones: there IPVS sees what nf_defrag left."""

_TCP_HEADER = 20
_ECN = {1: 0, 2: 0, 4: 0, 8: 0, 6: 0, 12: 3, 10: 3, 14: 3}
"""inet_fragment.c: ip_frag_ecn_table: what is OR-ed into the field; a mixture that is not here makes no packet."""


class Fragments:
    """All queues of a namespace. `last_size` is the largest fragment of the packet that `add` returned last, 0 if none.

    That is what goes into `skb.fragment_max` (IPCB(skb)->frag_max_size).
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.last_size = 0
        self._four = Pool("net.ipv4.ipfrag_high_thresh", "net.ipv4.ipfrag_time")
        self._six = Pool("net.ipv6.ip6frag_high_thresh", "net.ipv6.ip6frag_time")
        self._six_conntrack = Pool(
            "net.netfilter.nf_conntrack_frag6_high_thresh", "net.netfilter.nf_conntrack_frag6_timeout"
        )
        self._peers: dict[bytes, list[int]] = {}
        """Fragments seen of a source, and queues that it has."""

    def __len__(self) -> int:
        return len(self._four.queues) + len(self._six.queues) + len(self._six_conntrack.queues)

    def add(self, skb: Skb, user: int) -> bytearray | Reason:
        """A fragment comes in: the whole packet when it is the last one missing, else why not.

        Gives an IPv6 packet back as it is, `last_size` 0, when nf_defrag lets it pass (no fragment header, a first
        fragment without its transport header, a middle one of odd size); the host's own stack answers those. Of the
        whole packet the mark is the first fragment's, as in the kernel. The skb is the queue's unless a packet comes
        back; then it is for the caller to call `replace_data`.
        """
        self.last_size = 0
        if skb.family == INET:
            return self._add4(skb, user)
        if user == LOCAL_DELIVER:
            return self._deliver6(skb)
        return self._gather6(skb, user)

    def _queue(self, pool: Pool, key: bytes, user: int, source: bytes) -> Queue | None:
        """inet_frag_find; None: no memory is left for it, or for any fragment."""
        settings = self.engine.settings
        if pool.memory > settings.get(pool.limit, 4 << 20) or not settings.get(pool.limit, 1):
            return None
        queue = pool.queues.get(key)
        if queue is None:
            queue = Queue(self, pool, key, user, source)
            queue.expires = self.engine.now + settings.get(pool.timeout, 30 if pool is self._four else 60)
            pool.queues[key] = queue
            pool.memory += queue.memory
            self.engine.timers.watch(queue)
            if source:
                peer = self._peers.get(source)
                if peer is None:
                    peer = self._peers[source] = [0, 0]
                peer[1] += 1
        return queue

    def _kill(self, queue: Queue) -> None:
        if queue.pool.queues.pop(queue.key, None) is None:
            return
        self.engine.timers.forget(queue)
        queue.pool.memory -= queue.memory
        if queue.source:
            peer = self._peers[queue.source]
            peer[1] -= 1
            if not peer[1]:
                del self._peers[queue.source]

    def _keep(self, queue: Queue, skb: Skb, begin: int, payload: bytes, size: int) -> None:
        """A piece is in: count it. `size` that of the fragment, for the kernel's skb->truesize."""
        queue.pieces[begin] = payload
        queue.meat += len(payload)
        room = SKB_SIZE + (1 << (size + 383).bit_length())
        queue.memory += room
        queue.pool.memory += room
        if not begin:
            queue.flags |= FIRST
            queue.head = skb

    # -- IPv4 ---------------------------------------------------------------------------------------------------------

    def _add4(self, skb: Skb, user: int) -> bytearray | Reason:
        """ip_defrag, ip_frag_queue."""
        data = skb.data
        limit = self.engine.settings.get("net.ipv4.ipfrag_max_dist", 64)
        key = b"%c%c%b%b" % (user, data[9], bytes(data[4:6]), bytes(data[12:20]))
        queue = self._queue(self._four, key, user, skb.source if limit else b"")
        if queue is None:
            return Reason.FRAGMENT_FULL
        if limit and queue.source and self._too_far(queue, limit):
            self._restart(queue)
        begin, length = skb.fragment, skb.thoff
        end = begin + len(data) - length
        if skb.more:
            end &= ~7
        if not queue.last(end, skb.more) or end <= begin:
            self._kill(queue)
            return Reason.FRAGMENT_BROKEN
        inserted = queue.insert(begin, end)
        if inserted is None:
            return Reason.FRAGMENT
        if not inserted:
            self._kill(queue)
            return Reason.FRAGMENT_BROKEN
        size = length + end - begin
        queue.ecn |= 1 << (data[1] & 3)
        queue.max_size = max(queue.max_size, size)
        if data[6] & 0x40:
            queue.max_df = max(queue.max_df, size)
        self._keep(queue, skb, begin, bytes(data[length:size]), size)
        if queue.flags != FIRST | LAST or queue.meat != queue.length:
            return Reason.FRAGMENT
        return self._whole4(queue, skb)

    def _too_far(self, queue: Queue, limit: int) -> bool:
        """Whether too many other fragments of this source came since the last of this packet (ip_frag_too_far)."""
        peer = self._peers[queue.source]
        peer[0] += 1
        before, queue.rid = queue.rid, peer[0]
        return bool(queue.runs) and queue.rid - before > limit

    def _restart(self, queue: Queue) -> None:
        """The identification was used again, most likely: begin anew."""
        queue.pool.memory -= queue.memory - QUEUE_SIZE
        queue.memory = QUEUE_SIZE
        queue.clear()
        queue.expires = self.engine.now + self.engine.settings.get("net.ipv4.ipfrag_time", 30)
        self.engine.timers.watch(queue)

    def _whole4(self, queue: Queue, skb: Skb) -> bytearray | Reason:
        """ip_frag_reasm: DF is set when the largest fragment had it; the packet is cut again when it leaves."""
        self._kill(queue)
        ecn = _ECN.get(queue.ecn)
        head = queue.head
        if ecn is None or head is None:
            return Reason.FRAGMENT_BROKEN
        total = head.thoff + queue.length
        if total > ipv4.MAXIMUM:
            return Reason.FRAGMENT_BROKEN
        whole = self._join(queue, head.data[: head.thoff])
        whole[2], whole[3] = total >> 8, total & 255
        whole[1] |= ecn
        whole[6], whole[7] = (0x40 if queue.max_df == queue.max_size else 0), 0
        ipv4.seal(whole)
        self.last_size = max(queue.max_df, queue.max_size)
        skb.mark = head.mark
        return whole

    @staticmethod
    def _join(queue: Queue, header: bytearray) -> Whole:
        order = sorted(queue.pieces)
        pieces = [queue.pieces[begin] for begin in order]
        return Whole(header + b"".join(pieces), [len(piece) for piece in pieces])

    # -- IPv6 ---------------------------------------------------------------------------------------------------------

    def _deliver6(self, skb: Skb) -> bytearray | Reason:
        """ipv6_frag_rcv: what is wrong is answered with a parameter problem."""
        found = place_of(skb.data)
        if found is None:
            return skb.data
        data, at = skb.data, found[1]
        if skb.fragment_max or len(data) == 40 or len(data) < at + 8:
            return self._problem(skb, 0, at)
        if not (data[at + 3] & 0xF9 or data[at + 2]):
            self.last_size = len(data)
            return data
        if transport_cut(data, 40, data[6]):
            return self._problem(skb, 3, 0)
        queue = self._queue6(self._six, skb, LOCAL_DELIVER, at)
        if queue is None:
            return Reason.FRAGMENT_FULL
        begin = (data[at + 2] << 8 | data[at + 3]) & 0xFFF8
        end = begin + len(data) - at - 8
        more = bool(data[at + 3] & 1)
        if end > ipv6.MAXIMUM:
            return self._problem(skb, 0, at + 2)
        if more and end & 7:
            return self._problem(skb, 0, 4)
        if not queue.last(end, more) or end == begin:
            self._kill(queue)
            return Reason.FRAGMENT_BROKEN
        return self._take6(queue, skb, found, begin, end, len(data))

    def _problem(self, skb: Skb, code: int, pointer: int) -> Reason:
        self.engine.ip.icmp_error(skb, 4, code, pointer)
        return Reason.FRAGMENT_BROKEN

    def _gather6(self, skb: Skb, user: int) -> bytearray | Reason:
        """nf_ct_frag6_gather, nf_ct_frag6_queue: an overlap kills the queue, a contradiction about the end does not."""
        data = skb.data
        found = place_of(data)
        if found is None or len(data) == 40:
            return data
        at = found[1]
        if transport_cut(data, at, ipv6.FRAGMENT):
            return data
        if len(data) < at + 8:
            return Reason.FRAGMENT_BROKEN
        queue = self._queue6(self._six_conntrack, skb, user, at)
        if queue is None:
            return Reason.FRAGMENT_FULL
        begin = (data[at + 2] << 8 | data[at + 3]) & 0xFFF8
        end = begin + len(data) - at - 8
        more = bool(data[at + 3] & 1)
        if end > ipv6.MAXIMUM:
            return Reason.FRAGMENT_BROKEN
        if more and end & 7:
            self._kill(queue)
            return data
        if not queue.last(end, more) or end == begin:
            return Reason.FRAGMENT_BROKEN
        return self._take6(queue, skb, found, begin, end, len(data))

    def _queue6(self, pool: Pool, skb: Skb, user: int, at: int) -> Queue | None:
        """The key has no protocol; the device counts for multicast and link-local destinations only."""
        data = skb.data
        scoped = data[24] == 0xFF or (data[24] == 0xFE and data[25] & 0xC0 == 0x80)
        device = skb.indev.encode() if scoped else b""
        key = b"%c%b%b%b" % (user, bytes(data[at + 4 : at + 8]), bytes(data[8:40]), device)
        return self._queue(pool, key, user, b"")

    def _take6(
        self, queue: Queue, skb: Skb, found: tuple[int, int], begin: int, end: int, size: int
    ) -> bytearray | Reason:
        inserted = queue.insert(begin, end)
        if inserted is None:
            return Reason.FRAGMENT
        if not inserted:
            self._kill(queue)
            return Reason.FRAGMENT_BROKEN
        data = skb.data
        queue.ecn |= 1 << (data[1] >> 4 & 3)
        queue.max_size = max(queue.max_size, size)
        self._keep(queue, skb, begin, bytes(data[found[1] + 8 :]), size)
        if queue.flags != FIRST | LAST or queue.meat != queue.length:
            return Reason.FRAGMENT
        self._kill(queue)
        ecn = _ECN.get(queue.ecn)
        head = queue.head
        place = place_of(head.data) if head is not None else None
        if ecn is None or head is None or place is None:
            return Reason.FRAGMENT_BROKEN
        field, at = place
        payload = at - 40 + queue.length
        if payload > ipv6.MAXIMUM:
            return Reason.FRAGMENT_BROKEN
        header = head.data[:at]
        header[field] = head.data[at]
        header[4], header[5] = payload >> 8, payload & 255
        header[1] |= ecn << 4
        self.last_size = queue.max_size
        skb.mark = head.mark
        return self._join(queue, header)

    # -- time ---------------------------------------------------------------------------------------------------------

    def expire(self, queue: Queue) -> None:
        """ip_expire, ip6frag_expire_frag_queue: the sender learns of it when the first fragment is there.

        Conntrack's IPv4 queues tell it only when the packet was for the host itself.
        """
        self._kill(queue)
        head = queue.head
        if head is None:
            return
        head.primary = False
        if head.family == INET:
            route = self.engine.routing.input(head)
            if not isinstance(route, Reason) and (queue.user != CONNTRACK_IN or route.kind == "local"):
                head.dst = route
                self.engine.ip.icmp_error(head, 11, 1)
        else:
            self.engine.ip.icmp_error(head, 3, 1)
        self.engine.drop(head, Reason.FRAGMENT_TIMEOUT)

    # -- going out ----------------------------------------------------------------------------------------------------

    @staticmethod
    def outgoing(skb: Skb, mtu: int, identification: Callable[[], int]) -> list[bytearray] | Reason:
        """What leaves by a device of this MTU: the packet itself, its pieces, or TOO_BIG: tell the sender this MTU.

        ip_finish_output, ip_fragment; ip6_finish_output, ip6_fragment. `identification` gives an IPv6 fragment header
        its number; a packet that came in pieces leaves in pieces that are no larger.
        """
        data, largest = skb.data, skb.fragment_max
        if skb.family == INET:
            if len(data) <= mtu and not largest:
                return [data]
            df = bool(data[6] & 0x40)
            if df and (not skb.ignore_df or largest > mtu):
                return Reason.TOO_BIG
            pieces = Fragments.split(data, min(mtu, largest or mtu), INET, df and largest > 0)
            return pieces or Reason.FRAGMENT_BROKEN
        if len(data) <= mtu and (not largest or len(data) <= largest):
            return [data]
        if (not skb.ignore_df and len(data) > mtu) or largest > mtu:
            return Reason.TOO_BIG
        if ipv6.unfragmentable(data) is None:
            return Reason.FRAGMENT_BROKEN
        size = max(largest, ipv6.MINIMUM_MTU) if largest else mtu
        return Fragments.split(data, size, skb.family, identification=identification()) or Reason.TOO_BIG

    @staticmethod
    def split(data: bytearray, mtu: int, family: int, df: bool = False, identification: int = 0) -> list[bytearray]:
        """Cut a packet into pieces of at most `mtu` bytes; none when they would carry less than 8 bytes.

        One that was put together falls apart as it came, if its pieces are small enough (the fast path of
        ip_do_fragment and ip6_fragment, which never sets DF); else the pieces are as large as they may be.
        """
        sizes = data.sizes if isinstance(data, Whole) else []
        if sizes and sizes[0] < _TCP_HEADER and data[9 if family == INET else 6] == TCP:
            sizes = []  # tcp_v4_early_demux has put the TCP header in one place, out of the first two pieces.
        if family == INET:
            length = (data[0] & 15) * 4
            if _fits(sizes, len(data) - length, mtu - length):
                return _apart4(data, sizes, length)
            return ipv4.fragment(data, mtu, df)
        found = ipv6.unfragmentable(data)
        if found is not None and _fits(sizes, len(data) - found[0], mtu - found[0] - 8):
            return _apart6(data, sizes, found, identification)
        return ipv6.fragment(data, mtu, identification)


def _fits(sizes: list[int], length: int, room: int) -> bool:
    """Whether the pieces still make up the payload and each is small enough."""
    return room >= 8 and bool(sizes) and max(sizes) <= room and sum(sizes) == length


def _apart4(data: bytearray, sizes: list[int], length: int) -> list[bytearray]:
    header = data[:length]
    pieces = []
    at, last = length, len(data)
    for size in sizes:
        piece = header + data[at : at + size]
        more = at + size < last
        offset = (at - length) >> 3 | (ipv4.MF if more else 0)
        piece[2], piece[3] = len(piece) >> 8, len(piece) & 255
        piece[6], piece[7] = offset >> 8, offset & 255
        ipv4.seal(piece)
        pieces.append(piece)
        if at == length and length > ipv4.HEADER:
            header[ipv4.HEADER :] = ipv4.copied_options(header[ipv4.HEADER :])
        at += size
    return pieces


def _apart6(data: bytearray, sizes: list[int], found: tuple[int, int], identification: int) -> list[bytearray]:
    length, field = found
    header = data[:length]
    kind, header[field] = header[field], ipv6.FRAGMENT
    pieces = []
    at, last = length, len(data)
    for size in sizes:
        piece = header + ipv6.fragment_header(kind, at - length, at + size < last, identification)
        piece += data[at : at + size]
        payload = len(piece) - ipv6.HEADER
        piece[4], piece[5] = payload >> 8, payload & 255
        pieces.append(piece)
        at += size
    return pieces
