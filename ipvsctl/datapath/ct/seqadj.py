"""Sequence numbers of TCP connections whose payload was lengthened or shortened on the way (nf_conntrack_seqadj.c).

For each direction it is known by how much the sequence numbers behind the newest change differ from what the sender
wrote (`after`), by how much those in front of it do (`before`), and where the change is (`position`, a number of the
sender's own). Older changes than the newest are forgotten, as in the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.ct.entry import SEQ_ADJUST
from ipvsctl.wire.checksum import replaced

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.entry import Entry
    from ipvsctl.datapath.skb import Skb

_END, _NOP, _SACK = 0, 1, 5
_WORD = 0xFFFFFFFF


class Way:
    """One direction (struct nf_ct_seqadj)."""

    __slots__ = ("after", "before", "position")

    def __init__(self) -> None:
        self.position = self.before = self.after = 0

    def of(self, number: int) -> int:
        """What is added to a sequence number of the sender (modulo 2**32, any sign)."""
        return self.after if _is_after(number, self.position) else self.before

    def undone(self, number: int) -> int:
        """The sender's own number for one that the receiver acknowledges."""
        behind = _is_after(number - self.before, self.position)
        return (number - (self.after if behind else self.before)) & _WORD


def _is_after(number: int, than: int) -> bool:
    """Later in the circle of 2**32 numbers (`after` of net/tcp.h)."""
    return bool((than - number) & 0x80000000)


def ensure(entry: Entry) -> None:
    """See that the entry can keep adjustments (nfct_seqadj_ext_add); without it `set_adjustment` does nothing."""
    if entry.seqadj is None:
        entry.seqadj = (Way(), Way())


def set_adjustment(entry: Entry, direction: int, seq: int, delta: int) -> None:
    """The payload of the segment at `seq` grew by `delta` bytes (nf_ct_seqadj_set).

    `direction` 0 original, 1 reply. A retransmission of the segment, or of one before it, changes nothing.
    """
    if not delta or entry.seqadj is None:
        return
    entry.status |= SEQ_ADJUST
    way: Way = entry.seqadj[direction]
    if way.before == way.after or _is_after(seq, way.position):
        way.position = seq
        way.before = way.after
        way.after += delta


def offset(entry: Entry, direction: int, seq: int) -> int:
    """What was or will be added to `seq` in a direction; 0 without adjustments (nf_ct_seq_offset)."""
    return 0 if entry.seqadj is None else entry.seqadj[direction].of(seq)


def adjust(skb: Skb, entry: Entry, reply: bool) -> bool:
    """Rewrite sequence and acknowledgement number and SACK blocks (nf_ct_seq_adjust); False: drop the packet."""
    if entry.seqadj is None:
        return True
    this: Way = entry.seqadj[reply]
    other: Way = entry.seqadj[not reply]
    data, at = skb.data, skb.thoff
    if not skb.writable(20):
        return False
    number = int.from_bytes(data[at + 4 : at + 8])
    _write(data, at, at + 4, (number + this.of(number)) & _WORD)
    if not data[at + 13] & 16:
        return True
    _write(data, at, at + 8, other.undone(int.from_bytes(data[at + 8 : at + 12])))
    return _adjust_sack(data, at, other)


def _adjust_sack(data: bytearray, at: int, other: Way) -> bool:
    """nf_ct_sack_adjust: false for options that are cut off."""
    end = at + (data[at + 12] >> 4) * 4
    if end > len(data):
        return False
    option = at + 20
    while option < end:
        kind = data[option]
        if kind == _END:
            return True
        if kind == _NOP:
            option += 1
            continue
        if option + 1 == end or (length := data[option + 1]) < 2 or option + length > end:
            return False
        if kind == _SACK and length >= 10 and (length - 2) % 8 == 0:
            for edge in range(option + 2, option + length, 4):
                _write(data, at, edge, other.undone(int.from_bytes(data[edge : edge + 4])))
        option += length
    return True


def _write(data: bytearray, tcp: int, at: int, number: int) -> None:
    """Write 32 bits of a TCP header and carry the change into its checksum."""
    before = int.from_bytes(data[at : at + 4])
    if before == number:
        return
    data[at : at + 4] = number.to_bytes(4)
    # 2**16 is 1 modulo 0xFFFF: the remainder of a whole number is that of the sum of its words. A SACK block at an odd
    # offset (nobody sends that) gets a wrong checksum here because it gets one in the kernel.
    check = replaced(data[tcp + 16] << 8 | data[tcp + 17], before % 0xFFFF, number % 0xFFFF)
    data[tcp + 16], data[tcp + 17] = check >> 8, check & 255
