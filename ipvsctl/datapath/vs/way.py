"""The route to a real server: __ip_vs_get_out_rt and __ip_vs_get_out_rt_v6 of net/netfilter/ipvs/ip_vs_xmit.c.

It is an output route that depends on nothing but the server's address (no source, no mark, no device), kept per server
as the kernel keeps it. The checks come in the kernel's order: is there a route, does the way cross the local boundary,
TTL, MTU.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs.entry import Dest
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.routing import Dst

_LOOPBACK6 = b"\0" * 15 + b"\x01"
_CACHE = 65536
"""Routes kept at most; far more than a director has servers."""

MIN_PMTU, MTU_EXPIRES = 552, 600.0
"""net.ipv4.route.min_pmtu and mtu_expires (seconds), the kernel's defaults."""


class _Kept:
    """A server's route (struct ip_vs_dest_dst), `known_hop` as the packet asked that it was looked up for.

    `learned`: a path MTU was known already. What is learned later changes such a route where it is kept. One that was
    kept before is looked up anew, but not until the next packet for the server (update_or_create_fnhe).
    """

    __slots__ = ("dst", "expires", "known_hop", "learned")

    def __init__(self, dst: Dst, known_hop: bool, learned: bool, expires: float) -> None:
        self.dst = dst
        self.known_hop = known_hop
        self.learned = learned
        self.expires = expires


class Ways:
    """Routes to servers, and what ICMP told of their path MTU."""

    __slots__ = ("_cache", "_engine", "_pmtu")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache: dict[Dest, _Kept] = {}
        self._pmtu: dict[bytes, tuple[int, float]] = {}

    def forget(self) -> None:
        """Routes have changed."""
        self._cache.clear()

    def forget_server(self, dest: Dest) -> None:
        """A server was edited, or came back (__ip_vs_update_dest)."""
        self._cache.pop(dest, None)

    def to(self, dest: Dest | None, address: bytes, known_hop: bool = False) -> Dst | None:
        """The route to a server; None when there is none.

        `known_hop` (IP_VS_RT_MODE_KNOWN_NH, for dr): the server is the next hop, whatever the packet's destination. A
        server that was edited from nat to dr has connections of both kinds, and all go the way of the first packet: by
        a route without a hop packets of dr go to their own destination on the link, as the kernel's do.
        """
        if dest is None:
            return self._look_up(address, known_hop)
        kept = self._cache.get(dest)
        if kept is not None and kept.expires > self._engine.now:
            # A route made for one next hop only is in no cache of the kernel's, so nothing makes it stale.
            alone = known_hop and kept.dst.gateway == dest.address
            if kept.learned or alone or dest.address not in self._pmtu:
                return kept.dst
        dst = self._look_up(dest.address, known_hop)
        if dst is None:
            self._cache.pop(dest, None)
            return None
        if len(self._cache) >= _CACHE:
            self._cache.clear()
        known = self._pmtu.get(dest.address)
        self._cache[dest] = _Kept(dst, known_hop, known is not None, known[1] if known is not None else float("inf"))
        return dst

    def kept_mtu(self, dest: Dest | None) -> int:
        """The MTU of the route that is kept for a server, stale or not; 0 when none is."""
        kept = None if dest is None else self._cache.get(dest)
        return kept.dst.mtu if kept is not None else 0

    def _look_up(self, address: bytes, known_hop: bool) -> Dst | None:
        family = INET if len(address) == 4 else INET6
        dst = self._engine.routing.output(family, address)
        if isinstance(dst, Reason):
            return None
        known = self._pmtu.get(address)
        if known is not None and known[1] <= self._engine.now:
            del self._pmtu[address]
            known = None
        hop = known_hop and not dst.gateway and dst.kind != "local"
        if hop or (known is not None and known[0] < dst.mtu):
            dst = copy(dst)
            if hop:
                dst.gateway = address
            if known is not None:
                dst.mtu = min(dst.mtu, known[0])
        return dst

    def update_pmtu(self, address: bytes, mtu: int) -> None:
        """ipv4_update_pmtu (net/ipv4/route.c): an ICMP error says that packets to `address` may have `mtu` bytes.

        The host's own packets to that address keep to it as well, those that it forwards only if it is very small.
        """
        dst = self._look_up(address, False)
        if dst is None or dst.mtu < mtu:
            return
        locked = mtu < MIN_PMTU
        if locked:
            mtu = min(dst.mtu, MIN_PMTU)
        if mtu < dst.mtu or address not in self._pmtu:
            self._engine.flows.clear()
        if len(self._pmtu) >= _CACHE:
            self._pmtu.clear()
        self._pmtu[address] = mtu, self._engine.now + MTU_EXPIRES
        self._engine.routing.four.learn_path_mtu(address, mtu, locked, self._engine.now + MTU_EXPIRES)
        for dest, kept in self._cache.items():
            if dest.address == address and kept.learned:
                kept.dst, kept.expires = self._look_up(address, kept.known_hop) or dst, self._engine.now + MTU_EXPIRES

    def has_learned(self, address: bytes) -> bool:
        """Whether an ICMP error told of the path MTU to a server, not too long ago."""
        known = self._pmtu.get(address)
        return known is not None and known[1] > self._engine.now

    def crosses(self, skb: Skb, local: bool, redirects: bool, allows_local: bool = True) -> Verdict:
        """crosses_local_route_boundary: a reason when the packet must not go there.

        `local`: the new route is local. `redirects` (nat): a packet that was to be forwarded may become local.
        """
        if local:
            if not allows_local or not (redirects or (skb.dst is not None and skb.dst.kind == "local")):
                return Reason.IPVS_CROSSES_LOCAL
        elif skb.family == INET:
            if skb.source[0] == 127:
                return Reason.LOOPBACK_SOURCE
        elif skb.source == _LOOPBACK6 and skb.indev in ("", "lo"):
            return Reason.LOOPBACK_SOURCE
        return None

    def leave(self, skb: Skb, dst: Dst, icmp: bool, mtu: int, dont_care: bool = False) -> Verdict:
        """The packet goes away by `dst`: TTL and MTU are checked, and it gets the route.

        `icmp`: it is an ICMP error, which is never answered by another; `mtu` what may be sent of it (for a tunnel less
        than the device's); `dont_care`: an IPv4 packet may be fragmented whatever it says (pmtu_disc=0 of tunnels).
        """
        engine = self._engine
        if skb.ttl <= 1:
            if skb.family == INET:
                engine.ip.icmp_error(skb, 11, 0)
            else:
                engine.ip.icmp_error(skb, 3, 0)
            return Reason.TTL
        skb.decrement_ttl()
        if skb.family == INET6:
            if (skb.fragment_max or len(skb.data)) > mtu:
                if not skb.fragment and not icmp:
                    engine.ip.icmp_error(skb, 2, 0, mtu)
                return Reason.TOO_BIG
        elif len(skb.data) > mtu and skb.data[6] & 0x40 and not icmp and not dont_care:
            engine.ip.icmp_error(skb, 3, 4, mtu)
            return Reason.TOO_BIG
        skb.dst = dst
        skb.ignore_df = True
        if engine.tracer is not None:
            engine.tracer.note(
                f"goes by {dst.device}" + (f", next hop {readable(dst.gateway)}" if dst.gateway else ", on link"),
                device=dst.device,
            )
        return None

    def unreachable(self, skb: Skb) -> Reason:
        """dst_link_failure: the client is told that the host cannot be reached (IPv4), or the address (IPv6)."""
        if skb.family == INET:
            self._engine.ip.icmp_error(skb, 3, 1)
        else:
            self._engine.ip.icmp_error(skb, 1, 3)
        return Reason.IPVS_NO_ROUTE
