"""Routing tables and policy rules: longest prefix match, rules in the order of their priority, and a cache of answers.

A table keeps one dictionary for each prefix length in use, so a look-up costs as many probes as there are different
lengths, however many routes there are. While no policy rule exists an answer depends on the destination alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.route import DEFAULT, LOCAL, MAIN

CACHED = 16384
"""Answers that are remembered at most, for each family."""

UNIVERSE, LINK, HOST, NOWHERE = 0, 253, 254, 255
"""Scopes of routes and addresses (linux/rtnetlink.h: enum rt_scope_t)."""


class Dst:
    """Where a packet goes: the kernel's struct dst_entry. It is shared between packets, so nobody changes one.

    `kind` local, unicast, broadcast or multicast; `gateway` b"" when the destination is on link; `source` the address
    that a packet without one gets, b"" when none is known; `input`: found for a packet that came in. `prefix` is the
    length of the prefix of the route.
    """

    __slots__ = ("device", "gateway", "input", "kind", "mtu", "prefix", "source")

    def __init__(
        self,
        kind: str,
        device: str,
        gateway: bytes = b"",
        mtu: int = 1500,
        source: bytes = b"",
        input: bool = False,
        prefix: int = 0,
    ) -> None:
        self.kind = kind
        self.device = device
        self.gateway = gateway
        self.mtu = mtu
        self.source = source
        self.input = input
        self.prefix = prefix

    def __repr__(self) -> str:
        way = f" via {self.gateway.hex()}" if self.gateway else ""
        return f"<{self.kind}{way} dev {self.device} mtu {self.mtu}>"


class Hop:
    """One route. `failure` is what the kinds blackhole, unreachable and prohibit say; `scope` the route's own.

    `source` is the preferred source, or what inet_select_addr found; b"" for a local route without one. `way_in` and
    `way_out` are the two Dst that the route stands for.
    """

    __slots__ = (
        "device", "failure", "gateway", "kind", "metric", "mtu", "prefix", "scope", "source", "way_in", "way_out"
    )  # fmt: skip

    def __init__(
        self, kind: str, device: str, gateway: bytes, mtu: int, prefix: int, metric: int, scope: int, source: bytes
    ) -> None:
        self.kind = kind
        self.device = device
        self.gateway = gateway
        self.mtu = mtu
        self.prefix = prefix
        self.metric = metric
        self.scope = scope
        self.source = source
        self.failure = FAILURES.get(kind)
        local = kind in ("local", "broadcast", "anycast")
        shown = "local" if kind == "anycast" else kind
        self.way_in = Dst(shown, "lo" if local else device, gateway, mtu, b"", True, prefix)
        self.way_out = Dst(shown, "lo" if shown == "local" else device, gateway, mtu, source, False, prefix)


FAILURES = {
    "blackhole": Reason.BLACKHOLE, "unreachable": Reason.UNREACHABLE, "prohibit": Reason.PROHIBITED,
    "throw": Reason.NO_ROUTE,
}  # fmt: skip
"""What a kind of route makes of a packet (fib_semantics.c: fib_props); throw ends the look-up in its table only."""

Answer = Hop | Reason


class Table:
    """One routing table of one family."""

    __slots__ = ("_bits", "_lengths", "_routes")

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._routes: dict[int, dict[int, list[Hop]]] = {}
        self._lengths: list[tuple[int, dict[int, list[Hop]]]] = []

    def __len__(self) -> int:
        return sum(len(routes) for routes in self._routes.values())

    def add(self, network: bytes, hop: Hop) -> None:
        """Add a route to the prefix of `hop.prefix` bits of `network`; the lower metric goes first."""
        shift = self._bits - hop.prefix
        routes = self._routes.get(shift)
        if routes is None:
            routes = self._routes[shift] = {}
            self._lengths = sorted(self._routes.items())
        hops = routes.setdefault(int.from_bytes(network, "big") >> shift, [])
        at = len(hops)
        while at and hops[at - 1].metric > hop.metric:
            at -= 1
        hops.insert(at, hop)

    def merged(self, other: Table) -> Table:
        """Both tables as one, this one's routes first; as long as there is no rule the kernel has them so."""
        table = Table(self._bits)
        for part in (self, other):
            for shift, routes in part._routes.items():
                for number, hops in routes.items():
                    table._routes.setdefault(shift, {}).setdefault(number, []).extend(hops)
        table._lengths = sorted(table._routes.items())
        return table

    def find4(self, address: int, device: str, strict: bool) -> Answer | None:
        """The route that takes an address; None: go on with the next rule.

        fib_trie.c: fib_table_lookup: a route by another device than the one asked for is passed over.
        """
        for shift, routes in self._lengths:
            hops = routes.get(address >> shift)
            if hops is not None:
                for hop in hops:
                    if hop.failure is not None:
                        return None if hop.kind == "throw" else hop.failure
                    if not device or hop.device == device:
                        return hop
        return None

    def find6(self, address: int, device: str, strict: bool) -> Answer | None:
        """As find4; a device is a wish, unless `strict` (ipv6/route.c: find_rr_leaf, rt6_score_route)."""
        for shift, routes in self._lengths:
            hops = routes.get(address >> shift)
            if hops is not None:
                found = hops[0] if not device or (len(hops) == 1 and not strict) else _best6(hops, device, strict)
                if found is not None:
                    if found.failure is not None:
                        return None if found.kind == "throw" else found.failure
                    return found
        return None


def _best6(hops: list[Hop], device: str, strict: bool) -> Hop | None:
    """Of the lowest metric that has one that will do, the one by that device, or else the first."""
    fallback = None
    for hop in hops:
        if fallback is not None and hop.metric != fallback.metric:
            break
        if hop.device == device:
            return hop
        if not strict and fallback is None:
            fallback = hop
    return fallback


class Rule:
    """A policy rule (fib_rules.c: fib_rule_match). `action` None: look into `table`."""

    __slots__ = (
        "action", "destination", "destination_shift", "in_device", "mark", "mask", "out_device", "priority", "source",
        "source_shift", "table",
    )  # fmt: skip

    def __init__(
        self,
        priority: int,
        table: Table | None,
        action: Reason | None = None,
        source: tuple[int, int] | None = None,
        destination: tuple[int, int] | None = None,
        mark: int = 0,
        mask: int = 0,
        in_device: str = "",
        out_device: str = "",
    ) -> None:
        self.priority = priority
        self.table = table
        self.action = action
        self.source, self.source_shift = source or (-1, 0)
        self.destination, self.destination_shift = destination or (-1, 0)
        self.mark = mark
        self.mask = mask
        self.in_device = in_device
        self.out_device = out_device

    def matches(self, destination: int, source: int, mark: int, in_device: str, out_device: str) -> bool:
        """Whether it applies; a source of -1 is none, which "from" never matches (for IPv4 none is 0.0.0.0)."""
        return (
            (not self.in_device or self.in_device == in_device)
            and (not self.out_device or self.out_device == out_device)
            and not (self.mark ^ mark) & self.mask
            and (self.source < 0 or (source >= 0 and source >> self.source_shift == self.source))
            and (self.destination < 0 or destination >> self.destination_shift == self.destination)
        )


class Fib:
    """All tables and rules of a family."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.bits = 32 if family == INET else 128
        self.tables: dict[int, Table] = {}
        self.simple = True
        """No policy rules: the source, the mark and the device a packet came in by decide nothing."""
        self._rules: list[Rule] = []
        self._merged = Table(self.bits)
        self._more: Table | None = None
        self._cache: dict[object, Answer] = {}

    def table(self, number: int) -> Table:
        """A table by its number; it is made when it is not there."""
        return self.tables.setdefault(number, Table(self.bits))

    def finish(self, rules: Iterable[Rule]) -> None:
        """All routes are in; `rules` are those beyond the kernel's own. To be called again after every change."""
        own = [Rule(0, self.table(LOCAL)), Rule(32766, self.table(MAIN))]
        if self.family == INET:
            own.append(Rule(32767, self.table(DEFAULT)))
        custom = list(rules)
        self.simple = not custom
        self._rules = sorted([*own, *custom], key=lambda rule: rule.priority)
        # fib_frontend.c: fib_unmerge: until the first rule the two tables of IPv4 are one: the longest prefix of both.
        self._merged = self.table(LOCAL).merged(self.table(MAIN))
        more = self.table(DEFAULT)
        self._more = more if len(more) and self.family == INET else None
        self.forget()

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()

    def lookup(
        self, destination: bytes, source: bytes, mark: int, in_device: str, out_device: str = "", strict: bool = False
    ) -> Answer:
        """The route to a destination, or why there is none (fib_lookup, fib6_rule_lookup).

        `source` b"" for none yet. For IPv6 `out_device` is the device a packet came in by as well.
        """
        key: object
        if self.simple:
            key = (destination, out_device, strict) if out_device else destination
        else:
            key = (destination, source, mark, in_device, out_device, strict)
        found = self._cache.get(key)
        if found is None:
            found = self._search(destination, source, mark, in_device, out_device, strict)
            if len(self._cache) >= CACHED:
                self._cache.clear()
            self._cache[key] = found
        return found

    def _search(
        self, destination: bytes, source: bytes, mark: int, in_device: str, out_device: str, strict: bool
    ) -> Answer:
        address = int.from_bytes(destination, "big")
        found: Answer | None
        if self.simple:
            if self.family == INET:
                found = self._merged.find4(address, out_device, strict)
                if self._more is not None and not isinstance(found, Hop):
                    found = self._more.find4(address, out_device, strict)
            else:
                found = self.tables[LOCAL].find6(address, out_device, strict)
                if found is None:
                    found = self.tables[MAIN].find6(address, out_device, strict)
            return Reason.NO_ROUTE if found is None else found
        absent = -1 if self.family == INET6 else 0
        number = int.from_bytes(source, "big") if source else absent
        for rule in self._rules:
            # Of an IPv6 packet that came in, a rule's "oif" sees nothing.
            wanted = out_device if self.family == INET or in_device == "lo" else ""
            if not rule.matches(address, number, mark, in_device, wanted):
                continue
            if rule.table is None:
                return rule.action or Reason.NO_ROUTE
            find = rule.table.find4 if self.family == INET else rule.table.find6
            found = find(address, out_device, strict)
            if found is not None:
                return found
        return Reason.NO_ROUTE

    def kind(self, address: bytes, number: int = LOCAL) -> str:
        """The kind of the route that one table has for an address, "" for none; rules are not asked."""
        table = self._merged if self.simple and self.family == INET and number in (LOCAL, MAIN) else self.tables[number]
        find = table.find4 if self.family == INET else table.find6
        found = find(int.from_bytes(address, "big"), "", False)
        return found.kind if isinstance(found, Hop) else ""
