"""How often the host speaks ICMP: the bucket of all messages, and a bucket for each host that is answered.

Source: ipv4/icmp.c (icmp_global_allow, icmpv4_xrlim_allow), ipv6/icmp.c (icmpv6_xrlim_allow), inetpeer.c, and route.c
(ip_rt_send_redirect, ip_error), which draw on the same bucket of a host. Time is counted in the kernel's ticks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine

HZ = 250
BURST = 6
"""Messages that a host may get at once (XRLIM_BURST_FACTOR)."""

PEERS = 65664
"""Hosts that are remembered (inet_peer_threshold)."""

_REDIRECTS, _REDIRECT_LOAD = 9, HZ // 50
_REDIRECT_SILENCE = _REDIRECT_LOAD << _REDIRECTS + 1
_ERROR_COST, _ERROR_BURST = HZ, 5 * HZ


class Peer:
    """What is remembered of one host: the ticks it has saved, when that was counted, and redirects sent to it."""

    __slots__ = ("last", "redirects", "tokens")

    def __init__(self, now: int) -> None:
        self.tokens = 0
        self.last = now - 60 * HZ
        self.redirects = 0

    def allow(self, now: int, cost: int) -> bool:
        """inetpeer.c: inet_peer_xrlim_allow: one message for every `cost` ticks."""
        tokens = min(self.tokens + now - self.last, BURST * cost)
        self.last = now
        allowed = tokens >= cost
        self.tokens = tokens - cost if allowed else tokens
        return allowed


class Limits:
    """The limits of a namespace; IPv4 and IPv6 share the bucket of all messages."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._peers: dict[bytes, Peer] = {}
        self._credit = 0
        self._stamp = -HZ

    def _now(self) -> int:
        return int(self.engine.now * HZ)

    def _peer(self, address: bytes, now: int) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            if len(self._peers) >= PEERS:
                del self._peers[next(iter(self._peers))]
            peer = self._peers[address] = Peer(now)
        return peer

    def all_allow(self) -> bool:
        """icmp_global_allow: icmp_msgs_per_sec, and icmp_msgs_burst at once."""
        if self._credit > 0:
            return True
        now = self._now()
        passed = min(now - self._stamp, HZ)
        if passed < HZ // 50:
            return False
        get = self.engine.settings.get
        more = get("net.ipv4.icmp_msgs_per_sec", 1000) * passed // HZ
        if not more:
            return False
        self._stamp = now
        self._credit = min(self._credit + more, get("net.ipv4.icmp_msgs_burst", 50))
        return True

    def consume(self) -> None:
        """icmp_global_consume: a message was sent; what it costs is random, so that nobody can count them."""
        self._credit -= self.engine.random(3)

    def peer_allow(self, address: bytes, milliseconds: int, shift: int = 0) -> bool:
        """Whether a host may get one more; one for each `milliseconds`, shortened by `shift` bits."""
        now = self._now()
        return self._peer(address, now).allow(now, (milliseconds * HZ + 999) // 1000 >> shift)

    def error_allow(self, address: bytes) -> bool:
        """route.c: ip_error: a packet without a route; the answer passes peer_allow as well."""
        now = self._now()
        peer = self._peer(address, now)
        peer.tokens = min(peer.tokens + now - peer.last, _ERROR_BURST)
        peer.last = now
        if peer.tokens < _ERROR_COST:
            return False
        peer.tokens -= _ERROR_COST
        return True

    def redirect_allow(self, address: bytes) -> bool:
        """route.c: ip_rt_send_redirect: nine in ever longer intervals, then none until 20 seconds of silence."""
        now = self._now()
        peer = self._peer(address, now)
        if now > peer.last + _REDIRECT_SILENCE:
            peer.tokens = peer.redirects = 0
        if peer.redirects >= _REDIRECTS:
            peer.last = now
            return False
        if peer.redirects and now <= peer.last + (_REDIRECT_LOAD << peer.redirects):
            return False
        peer.last = now
        peer.redirects += 1
        return True
