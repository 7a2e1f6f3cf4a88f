"""Address translation: the nat table's functions in the hooks, and what its targets ask for (nf_nat_core.c).

A connection is translated once, when its first packet meets the nat table: SNAT, DNAT and the like choose a tuple and
alter the reply tuple of the unconfirmed entry; without one a null binding only sees that the tuple is not taken. Every
later packet is rewritten by comparing the two tuples. Hook functions: nf_nat_proto.c; targets: nf_nat_masquerade.c,
nf_nat_redirect.c, xt_NETMAP.c; payload: nf_nat_helper.c.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING
from weakref import ref

from ipvsctl.datapath.ct import seqadj
from ipvsctl.datapath.ct.entry import CONFIRMED, DST_NAT, DST_NAT_DONE, SRC_NAT, SRC_NAT_DONE, Entry
from ipvsctl.datapath.ct.nat_packet import rewrite, translate_error
from ipvsctl.datapath.ct.nat_tuple import Range, has_source_in, source_part, unique, with_source
from ipvsctl.datapath.hooks import LOCAL_IN, LOCAL_OUT, POST_ROUTING
from ipvsctl.datapath.skb import ESTABLISHED_REPLY, ICMP, ICMPV6, NEW, RELATED, RELATED_REPLY, TCP, Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.model.address import INET
from ipvsctl.wire.address import packed
from ipvsctl.wire.checksum import checksum, pseudo

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

_LOOPBACK = {4: packed("127.0.0.1"), 16: packed("::1")}
_RANDOM = ("random", "random-fully")


class Binding:
    """What an entry keeps of its translation, in its field `nat`; most have none.

    `mapped`: protocol, source address and port that others see. `device`: where a masqueraded connection leaves.
    """

    __slots__ = ("__weakref__", "device", "mapped")

    def __init__(self) -> None:
        self.mapped = b""
        self.device = ""


class _Known(ref[Binding]):
    """A binding in the table by source: the entry alone keeps it, and its end takes it out, as in the kernel."""

    __slots__ = ("source",)
    source: bytes


class Nat:
    """The nat part of the engine. `by_source`: original source -> bindings, newest last (nf_nat_bysource)."""

    __slots__ = ("_by_source", "_ct", "_engine")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ct = engine.ct
        self._by_source: dict[bytes, list[_Known]] = {}

    # -- hook functions -----------------------------------------------------------------------------------------------

    def pre_routing(self, skb: Skb) -> Verdict:
        """nf_nat_ipv4_pre_routing, nf_nat_ipv6_in: a new destination needs a new route."""
        entry = skb.ct
        if entry is None:
            return None
        destination = skb.destination
        verdict = self._translate(skb, entry, False)
        if verdict is None and skb.destination != destination:
            skb.dst = None
        return verdict

    def local_in(self, skb: Skb) -> Verdict:
        """nf_nat_ipv4_local_in, nf_nat_ipv6_fn."""
        return None if skb.ct is None else self._translate(skb, skb.ct, True)

    def post_routing(self, skb: Skb) -> Verdict:
        """nf_nat_ipv4_out, nf_nat_ipv6_out."""
        return None if skb.ct is None else self._translate(skb, skb.ct, True)

    def local_out(self, skb: Skb) -> Verdict:
        """nf_nat_ipv4_local_fn, nf_nat_ipv6_local_fn.

        Every packet of a connection whose destination is translated is routed again: by IPVS as well, which alters the
        reply tuple, so that its choice of a route does not survive here.
        """
        entry = skb.ct
        if entry is None:
            return None
        verdict = self._translate(skb, entry, False)
        if verdict is not None:
            return verdict
        mine, other = entry.original, entry.reply
        if skb.ctinfo >= ESTABLISHED_REPLY:
            mine, other = other, mine
        end = len(mine) - 4
        half = (end + 1) >> 1
        if mine[half:end] != other[1:half] and not self._engine.ip.route_me_harder(skb, False):
            return Reason.NO_ROUTE
        return None

    def _translate(self, skb: Skb, entry: Entry, source: bool) -> Verdict:
        """nf_nat_ipv4_fn and nf_nat_inet_fn."""
        info = skb.ctinfo
        if info in (RELATED, RELATED_REPLY):
            if skb.protocol == (ICMP if skb.family == INET else ICMPV6):
                return self._translate_error(skb, entry, source)
            new = True
        else:
            new = info == NEW
        if new and not entry.status & (done := SRC_NAT_DONE if source else DST_NAT_DONE):
            verdict: Verdict = self._engine.tables.nat(skb)
            if verdict is not None:
                return verdict
            if not entry.status & done:
                verdict = self._bind_null(entry, source)
                if verdict is not None:
                    return verdict
        elif entry.nat is not None and info < ESTABLISHED_REPLY and skb.hook == POST_ROUTING:
            device = entry.nat.device
            if device and device != skb.outdev:
                self._ct.kill(entry)
                return Reason.NAT_DEVICE
        reply = info >= ESTABLISHED_REPLY
        if not entry.status & (SRC_NAT if source != reply else DST_NAT):
            return None
        if not rewrite(skb, entry.original if reply else entry.reply, source):
            return Reason.NAT
        if self._engine.tracer is not None:
            self._engine.tracer.note(f"address translation makes it {skb}")
        return None

    def _translate_error(self, skb: Skb, entry: Entry, source: bool) -> Verdict:
        before = skb.source, skb.destination
        verdict = translate_error(skb, entry, source)
        if self._engine.tracer is not None and (skb.source, skb.destination) != before:
            self._engine.tracer.note(f"address translation makes it {skb}, its quotation likewise")
        return verdict

    # -- new connections ----------------------------------------------------------------------------------------------

    def setup(
        self, entry: Entry, manip: str, minimum: bytes | None, maximum: bytes | None, ports: tuple[int, int] | None,
        flags: Collection[str] = (), base: int | None = None,
    ) -> Verdict:  # fmt: skip
        """Translate an unconfirmed connection's source ("src") or destination ("dst") (nf_nat_setup_info).

        `minimum` to `maximum` are addresses, None to keep the own one; `ports` the lowest and the highest port or ICMP
        identifier; `flags` of "random", "random-fully", "persistent"; `base` the port that becomes the first of
        `ports` (a shifted port map). A confirmed connection is left as it is.
        """
        source = manip == "src"
        done = SRC_NAT_DONE if source else DST_NAT_DONE
        if entry.status & CONFIRMED:
            return None
        if entry.status & done:
            return Reason.NAT
        wish = Range(
            minimum, minimum if maximum is None else maximum, ports, base,
            any(flag in flags for flag in _RANDOM), "persistent" in flags,
        )  # fmt: skip
        ct = self._ct
        current = ct.invert(entry.reply)
        chosen = unique(
            current, wish, source, lambda key: ct.taken(ct.invert(key), entry), self._reused, self._engine.random,
            entry.master is not None,
        )  # fmt: skip
        if chosen != current:
            ct.alter_reply(entry, ct.invert(chosen))
            entry.status |= SRC_NAT if source else DST_NAT
            if entry.helper is not None:
                seqadj.ensure(entry)
        if source:
            self._remember(entry, chosen)
        entry.status |= done
        return None

    def _bind_null(self, entry: Entry, source: bool) -> Verdict:
        """nf_nat_alloc_null_binding: keep the address, and the port too where the tuple is free."""
        reply = entry.reply
        end = len(reply) - 4
        half = (end + 1) >> 1
        if source:
            if self._ct.taken(reply, entry):
                return self.setup(entry, "src", reply[half:end], None, None)
            original = entry.original
            if reply[half:end] != original[1:half] or reply[end + 2 :] != original[end : end + 2]:
                self._remember(entry, self._ct.invert(reply))
            entry.status |= SRC_NAT_DONE
            return None
        if reply[0] == ICMP or reply[0] == ICMPV6:
            return self.setup(entry, "dst", reply[1:half], None, None)
        # A destination's port is never changed without being asked, taken or not.
        entry.status |= DST_NAT_DONE
        return None

    def _reused(self, current: bytes, wish: Range) -> bytes | None:
        """find_appropriate_src: the newest mapping of the same source that the range allows."""
        for known in reversed(self._by_source.get(source_part(current), ())):
            binding = known()
            if binding is not None:
                key = with_source(current, binding.mapped)
                if has_source_in(key, wish):
                    return key
        return None

    def _remember(self, entry: Entry, chosen: bytes) -> None:
        """Put the connection's source into the table by source; one that is not mapped is never asked for."""
        own, mapped = source_part(entry.original), source_part(chosen)
        if own == mapped:
            return
        if entry.nat is None:
            entry.nat = Binding()
        entry.nat.mapped = mapped
        known = _Known(entry.nat, self._forget)
        known.source = own
        self._by_source.setdefault(own, []).append(known)

    def _forget(self, known: ref[Binding]) -> None:
        """The entry is gone."""
        if isinstance(known, _Known) and (left := self._by_source.get(known.source)) is not None:
            left.remove(known)
            if not left:
                del self._by_source[known.source]

    # -- targets ------------------------------------------------------------------------------------------------------

    def masquerade(self, skb: Skb, ports: tuple[int, int] | None, flags: Collection[str] = ()) -> Verdict:
        """MASQUERADE: the source becomes the leaving device's address towards the next hop (nf_nat_masquerade_ipv4).

        A source of zeros is left alone; a device without an address drops the packet.
        """
        entry = skb.ct
        if entry is None or (skb.family == INET and entry.original[1:5] == b"\0\0\0\0"):
            return None
        towards = skb.destination
        if skb.family == INET and skb.dst is not None and len(skb.dst.gateway) == 4:
            towards = skb.dst.gateway
        address = self._engine.routing.select_source(skb.outdev, towards)
        if not address or not any(address):
            return Reason.NAT
        if entry.nat is None and not entry.status & CONFIRMED:
            entry.nat = Binding()
        if entry.nat is not None:
            entry.nat.device = skb.outdev
        return self.setup(entry, "src", address, None, ports, flags)

    def redirect(self, skb: Skb, ports: tuple[int, int] | None, flags: Collection[str] = ()) -> Verdict:
        """REDIRECT: the destination becomes the host itself: loopback for its own packets, else the first address of
        the device the packet came in by (nf_nat_redirect.c)."""
        if skb.ct is None:
            return None
        length = len(skb.destination)
        address = _LOOPBACK[length]
        if skb.hook != LOCAL_OUT:
            address = self._first_address(skb.indev, length)
            if not address:
                return Reason.NAT
        return self.setup(skb.ct, "dst", address, None, ports, flags)

    def _first_address(self, device: str, length: int) -> bytes:
        found = self._engine.routing.devices.get(device)
        own = [packed(text.partition("/")[0]) for text in found.addresses] if found is not None else []
        own = [address for address in own if len(address) == length]
        # The kernel's list of IPv6 addresses is sorted by scope: link-local ones (fe80::/10) come last.
        own.sort(key=lambda address: length == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80)
        return own[0] if own else b""

    def netmap(self, skb: Skb, minimum: bytes, maximum: bytes, flags: Collection[str] = ()) -> Verdict:
        """NETMAP: the network part of source or destination becomes that of `minimum`, the rest stays (xt_NETMAP.c).

        `minimum` and `maximum` are the first and the last address of the network.
        """
        if skb.ct is None:
            return None
        source = skb.hook == POST_ROUTING or skb.hook == LOCAL_IN
        own = int.from_bytes(skb.source if source else skb.destination)
        low = int.from_bytes(minimum)
        hosts = low ^ int.from_bytes(maximum)
        address = ((own & hosts) | (low & ~hosts)).to_bytes(len(minimum))
        return self.setup(skb.ct, "src" if source else "dst", address, None, None, flags)

    def follow_master(self, entry: Entry, *, direction: int, port: int) -> None:
        """Translate an expected connection as its master is (nf_nat_follow_master).

        `direction` (0 original, 1 reply) is the one in which the master's command went, `port` the destination port
        that was announced. A tuple that is taken shows when the connection is confirmed.
        """
        master = entry.master
        if master is None:
            return
        key = master.reply if direction else master.original
        end = len(key) - 4
        half = (end + 1) >> 1
        self.setup(entry, "src", key[half:end], None, None)
        self.setup(entry, "dst", key[1:half], None, (port, port))

    # -- payload ------------------------------------------------------------------------------------------------------

    def mangle_tcp(self, skb: Skb, entry: Entry, offset: int, length: int, replacement: bytes) -> bool:
        """Replace `length` bytes at `offset` of a TCP segment's payload (nf_nat_mangle_tcp_packet).

        Lengths and checksums follow; a change of length is recorded as adjustment of the packet's direction. False:
        the bytes are not there, or the packet would become longer than 65535 bytes.
        """
        data, at = skb.data, skb.thoff
        if not skb.writable(20):
            return False
        begin = at + (data[at + 12] >> 4) * 4 + offset
        grown = len(data) + len(replacement) - length
        if offset < 0 or length < 0 or begin + length > len(data) or grown > 65535:
            return False
        data[begin : begin + length] = replacement
        if skb.family == INET:
            skb.set_header_word(2, grown)
            data[10] = data[11] = 0
            skb.set_header_word(10, checksum(memoryview(data)[: (data[0] & 15) * 4]))
        else:
            skb.set_header_word(4, grown - 40)
        data[at + 16] = data[at + 17] = 0
        start = pseudo(skb.source, skb.destination, TCP, grown - at)
        skb.set_header_word(at + 16, checksum(memoryview(data)[at:], start))
        delta = len(replacement) - length
        if delta:
            number = int.from_bytes(data[at + 4 : at + 8])
            seqadj.set_adjustment(entry, int(skb.ctinfo >= ESTABLISHED_REPLY), number, delta)
        if self._engine.tracer is not None:
            self._engine.tracer.note(f"payload rewritten: {length} bytes become {replacement.decode('latin-1')!r}")
        return True
