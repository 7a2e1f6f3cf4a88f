"""One packet on its way through the datapath: the bytes, what was read of them, and what the kernel hangs on them.

`data` begins with the IP header and is the truth; the fields beside it are read once, by `parse`, and every method here
that changes bytes keeps fields and checksums in step. Addresses are 4 or 16 bytes, as in the packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import endpoint, readable
from ipvsctl.wire.checksum import replaced, words

if TYPE_CHECKING:
    from ipvsctl.datapath.ct.entry import Entry
    from ipvsctl.datapath.routing import Dst

TCP, UDP, SCTP, ICMP, ICMPV6, IPIP, IPV6, GRE, UDPLITE = 6, 17, 132, 1, 58, 4, 41, 47, 136
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
PROTOCOL_NAMES = {1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 47: "gre", 58: "icmpv6", 132: "sctp"}

_EXTENSIONS = {0, 43, 60}
"""IPv6 extension headers that are skipped on the way to the transport header; 44 is a fragment, 51 AH."""

_CHECK_AT = {TCP: 16, UDP: 6, ICMPV6: 2}
"""Offset of the checksum that covers the addresses, by protocol."""

# How a packet stands to its conntrack entry: enum ip_conntrack_info of nf_conntrack_common.h.
ESTABLISHED, RELATED, NEW, ESTABLISHED_REPLY, RELATED_REPLY = range(5)
UNTRACKED = 7
NONE = -1
"""No entry was looked for, or none could be made: rules see INVALID."""


class Broken(Exception):
    """The bytes are no IP packet."""


class Skb:
    """A packet. The datapath owns `data`: nobody else may keep a reference to it.

    `thoff` is where the transport header begins; `fragment` the offset of a later fragment in bytes (0: the first, or
    whole), `more` whether fragments follow. `mark` is the firewall mark. `indev` and `outdev` are names of devices, ""
    for none; `dst` the route it has. `ct` and `ctinfo` as in the kernel, `ctinfo` NONE for nothing and UNTRACKED
    without an entry. `template` holds what the CT target asked for. `ipvs` is the kernel's ipvs_property.
    `ignore_df`: may be fragmented without asking. `partial`: its checksum is left to the device (CHECKSUM_PARTIAL).
    `own` for the host's own packets (it has a socket in the kernel).
    `primary` marks the packet that the caller handed in, `checked` that conntrack need not verify its checksum.
    """

    __slots__ = (
        "broadcast",
        "checked",
        "ct",
        "ctinfo",
        "data",
        "destination",
        "dst",
        "family",
        "fragment",
        "fragment_max",
        "hook",
        "ignore_df",
        "indev",
        "ipvs",
        "mark",
        "more",
        "outdev",
        "own",
        "partial",
        "primary",
        "protocol",
        "redirect",
        "source",
        "template",
        "thoff",
    )  # fmt: skip

    def __init__(self, data: bytearray, indev: str = "") -> None:
        """Read the headers; raises Broken for what cannot be forwarded at all. Trims what lies behind the packet."""
        self.data = data
        self.indev = indev
        self.outdev = ""
        self.mark = 0
        self.ct: Entry | None = None
        self.ctinfo = NONE
        self.template: dict[str, object] | None = None
        self.dst: Dst | None = None
        self.ipvs = False
        self.ignore_df = False
        self.own = False
        self.partial = False
        self.primary = False
        self.checked = False
        self.hook = 0
        self.fragment_max = 0
        self.redirect = False
        self.broadcast = False
        self.parse()

    def parse(self) -> None:
        """Read the fields anew of `data`; raises Broken."""
        data = self.data
        if len(data) < 20:
            raise Broken("shorter than an IP header")
        version = data[0] >> 4
        if version == 4:
            self.family = INET
            total = data[2] << 8 | data[3]
            self.thoff = (data[0] & 15) * 4
            if self.thoff < 20 or total < self.thoff or total > len(data):
                raise Broken("its IPv4 lengths do not fit")
            if total < len(data):
                del data[total:]
            self.protocol = data[9]
            self.source = bytes(data[12:16])
            self.destination = bytes(data[16:20])
            offset = data[6] << 8 | data[7]
            self.fragment = (offset & 0x1FFF) * 8
            self.more = bool(offset & 0x2000)
        elif version == 6:
            self._parse6(data)
        else:
            raise Broken(f"IP version {version}")

    def _parse6(self, data: bytearray) -> None:
        if len(data) < 40:
            raise Broken("shorter than an IPv6 header")
        self.family = INET6
        total = 40 + (data[4] << 8 | data[5])
        if total > len(data):
            raise Broken("its IPv6 length does not fit")
        if total < len(data):
            del data[total:]
        self.source = bytes(data[8:24])
        self.destination = bytes(data[24:40])
        self.fragment, self.more = 0, False
        following, at = data[6], 40
        while following in _EXTENSIONS or following == 44 or following == 51:
            if at + 8 > total:
                break  # Cut off: it is forwarded all the same, and is of no protocol but this header's.
            if following == 44:
                offset = data[at + 2] << 8 | data[at + 3]
                self.fragment, self.more = offset & 0xFFF8, bool(offset & 1)
                following, at = data[at], at + 8
                if self.fragment:
                    break
            elif following == 51:
                following, at = data[at], at + (data[at + 1] + 2) * 4
            else:
                following, at = data[at], at + (data[at + 1] + 1) * 8
        self.protocol, self.thoff = following, at

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def sport(self) -> int:
        """Source port; only for protocols that have one."""
        return self.data[self.thoff] << 8 | self.data[self.thoff + 1]

    @property
    def dport(self) -> int:
        """Destination port; only for protocols that have one."""
        return self.data[self.thoff + 2] << 8 | self.data[self.thoff + 3]

    @property
    def flags(self) -> int:
        """The flags of a TCP header; 0 where that is cut off before them."""
        at = self.thoff + 13
        return self.data[at] if at < len(self.data) else 0

    @property
    def ttl(self) -> int:
        """TTL or hop limit."""
        return self.data[8 if self.family == INET else 7]

    @property
    def dont_fragment(self) -> bool:
        """IPv4's DF bit; IPv6 packets are never fragmented on the way."""
        return self.family == INET6 or bool(self.data[6] & 0x40)

    @property
    def has_ports(self) -> bool:
        """Whether the transport header is here and begins with two ports."""
        return self.protocol in (TCP, UDP, SCTP, UDPLITE) and not self.fragment and len(self.data) >= self.thoff + 4

    def __str__(self) -> str:
        """For people: protocol, addresses, ports or ICMP type, TCP flags."""
        name = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        if not self.has_ports:
            more = ""
            if self.protocol in (ICMP, ICMPV6) and not self.fragment and len(self.data) >= self.thoff + 2:
                more = f" type {self.data[self.thoff]} code {self.data[self.thoff + 1]}"
            return f"{name} {readable(self.source)} > {readable(self.destination)}{more}"
        text = f"{name} {endpoint(self.source, self.sport)} > {endpoint(self.destination, self.dport)}"
        if self.protocol == TCP and len(self.data) >= self.thoff + 14:
            names = "".join(letter for bit, letter in enumerate("FSRPAU") if self.flags >> bit & 1)
            text += f" {names or '-'}"
        return text

    # -- changing -----------------------------------------------------------------------------------------------------

    def writable(self, length: int) -> bool:
        """Whether `length` bytes of the transport header are there to be changed (and this is no later fragment)."""
        return not self.fragment and len(self.data) >= self.thoff + length

    def _fix(self, before: int, after: int) -> None:
        """Carry a change of covered words into the transport checksum, as inet_proto_csum_replace4 does."""
        at = _CHECK_AT.get(self.protocol)
        if at is None or self.fragment or (at := at + self.thoff) + 2 > len(self.data):
            return
        check = self.data[at] << 8 | self.data[at + 1]
        if self.protocol == UDP and not check:
            return
        check = replaced(check, before, after)
        if self.protocol == UDP and not check:
            check = 0xFFFF
        self.data[at], self.data[at + 1] = check >> 8, check & 255

    def set_source(self, address: bytes) -> None:
        """Write the source address; header and transport checksums follow."""
        self._set_address(12 if self.family == INET else 8, self.source, address)
        self.source = address

    def set_destination(self, address: bytes) -> None:
        """Write the destination address; header and transport checksums follow."""
        self._set_address(16 if self.family == INET else 24, self.destination, address)
        self.destination = address

    def _set_address(self, at: int, old: bytes, new: bytes) -> None:
        if old == new:
            return
        before, after = words(old), words(new)
        self.data[at : at + len(new)] = new
        if self.family == INET:
            self.set_header_word(10, replaced(self.data[10] << 8 | self.data[11], before, after))
        self._fix(before, after)

    def set_sport(self, port: int) -> None:
        """Write the source port; the transport checksum follows (SCTP's not: see wire.sctp.seal)."""
        self._set_port(self.thoff, port)

    def set_dport(self, port: int) -> None:
        """Write the destination port; the transport checksum follows (SCTP's not: see wire.sctp.seal)."""
        self._set_port(self.thoff + 2, port)

    def _set_port(self, at: int, port: int) -> None:
        before = self.data[at] << 8 | self.data[at + 1]
        if before != port:
            self.set_header_word(at, port)
            self._fix(before, port)

    def set_header_word(self, at: int, value: int) -> None:
        """Write 16 bits at an offset; no checksum follows."""
        self.data[at], self.data[at + 1] = value >> 8, value & 255

    def decrement_ttl(self) -> None:
        """TTL or hop limit less one; IPv4's header checksum follows (ip_decrease_ttl)."""
        if self.family == INET6:
            self.data[7] -= 1
            return
        self.data[8] -= 1
        check = (self.data[10] << 8 | self.data[11]) + 0x0100
        check += check >= 0xFFFF
        self.set_header_word(10, check & 0xFFFF)

    def replace_data(self, data: bytearray) -> None:
        """Become another packet in the same skb (a tunnel header was added or taken off): fields are read anew."""
        self.data = data
        self.parse()
