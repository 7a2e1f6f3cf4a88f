"""A connection tracking entry: struct nf_conn.

A tuple is one bytes value: protocol (1 byte), source and destination address (4 or 16 each), and two 16-bit numbers:
the ports, for ICMP identifier and type * 256 + code, for GRE the keys of PPTP or 0, 0 for all else. Its length tells
the family. The original and the reply tuple are both keys of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.table import Conntrack

# enum ip_conntrack_status
EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED, SRC_NAT, DST_NAT, SEQ_ADJUST, SRC_NAT_DONE, DST_NAT_DONE, DYING = (
    1 << bit for bit in range(10)
)
FIXED_TIMEOUT, TEMPLATE, NAT_CLASH, HELPER = (1 << bit for bit in range(10, 14))


def make_tuple(protocol: int, source: bytes, destination: bytes, first: int, second: int) -> bytes:
    """A tuple of its parts."""
    return b"%c%b%b%c%c%c%c" % (
        protocol, source, destination, first >> 8, first & 255, second >> 8, second & 255
    )  # fmt: skip


def parts(key: bytes) -> tuple[int, bytes, bytes, int, int]:
    """Protocol, source, destination and the two numbers of a tuple."""
    end = len(key) - 4
    half = (end + 1) >> 1
    return key[0], key[1:half], key[half:end], key[end] << 8 | key[end + 1], key[end + 2] << 8 | key[end + 3]


class Entry:
    """One connection. `expires` in seconds of the engine's clock; `timeout` is what it gets when it is confirmed.

    `proto` holds the protocol's own state (TCP: ct.tcp.State), None where there is none. `packets` and `octets` count
    the original and the reply direction when nf_conntrack_acct is on. `seqadj` and `nat` belong to ct.seqadj, ct.nat.
    """

    __slots__ = (
        "expectations", "expires", "helper", "helper_data", "mark", "master", "nat", "octets", "original", "packets",
        "proto", "reply", "seqadj", "slot", "status", "table", "timeout",
    )  # fmt: skip

    def __init__(self, table: Conntrack, original: bytes, reply: bytes) -> None:
        self.table = table
        self.original = original
        self.reply = reply
        self.status = 0
        self.timeout = 0.0
        self.expires = 0.0
        self.slot = 0
        self.mark = 0
        self.proto: Any = None
        self.helper: Any = None
        self.helper_data: Any = None
        self.master: Entry | None = None
        self.expectations: Any = None
        self.seqadj: Any = None
        self.nat: Any = None
        self.packets: list[int] | None = None
        self.octets: list[int] | None = None

    @property
    def protocol(self) -> int:
        return self.original[0]

    @property
    def confirmed(self) -> bool:
        return bool(self.status & CONFIRMED)

    def on_timer(self, now: float) -> None:
        """Its time has come."""
        self.table.kill(self)
