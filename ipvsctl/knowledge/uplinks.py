"""Several uplinks (S4): for each virtual address with an uplink of its own a routing table and the rule that asks it.

Replies of nat servers get their virtual address after they were routed, so they take the uplink only when they are
routed again: net.ipv4.vs.snat_reroute. Replies of dr and tun servers come in from the virtual address already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.names import UPLINK_PRIORITY, UPLINK_TABLE, UPLINKS, is_host
from ipvsctl.model.address import INET6, parse_ip
from ipvsctl.model.director import Uplink
from ipvsctl.model.route import PolicyRule, Route

_EVERYWHERE = ("0.0.0.0/0", "::/0")


def routing(uplinks: Iterable[Uplink]) -> tuple[tuple[Route, ...], tuple[PolicyRule, ...]]:
    """The default route of each uplink's table, and the policy rules; the order of the file decides the numbers.

    Raises UsageError for two uplinks of one table that differ.
    """
    wanted = tuple(uplinks)
    taken = {uplink.table for uplink in wanted}
    free = (number for number in count(UPLINK_TABLE) if number not in taken)
    routes: dict[tuple[str, int], Route] = {}
    policy = []
    for index, uplink in enumerate(wanted):
        family, address = parse_ip(uplink.address)
        table = uplink.table or next(free)
        length = 128 if family == INET6 else 32
        route = Route(_EVERYWHERE[family == INET6], uplink.device, uplink.gateway, table)
        # Uplinks that share a gateway may share its table.
        if routes.setdefault((route.destination, table), route) != route:
            raise UsageError(f"uplink of {uplink.address}: expected another table than {table}, which has a gateway")
        policy.append(PolicyRule(family, UPLINK_PRIORITY + index, f"{address}/{length}", table=table))
    return tuple(routes.values()), tuple(policy)


def uplinks_of(routes: Iterable[Route], policy: Iterable[PolicyRule]) -> Iterator[Uplink]:
    """The uplinks that routes and rules with our priorities make."""
    defaults = {(route.table, route.destination): route for route in routes if route.via and route.kind == "unicast"}
    for rule in sorted(policy, key=lambda rule: rule.priority):
        address, _, length = rule.source.partition("/")
        plain = PolicyRule(rule.family, rule.priority, rule.source, table=rule.table)
        route = defaults.get((rule.table, _EVERYWHERE[rule.family == INET6]))
        whole = length in ("", "128" if rule.family == INET6 else "32") and is_host(address)
        if route and whole and rule == plain and 0 <= rule.priority - UPLINK_PRIORITY < UPLINKS:
            yield Uplink(address, route.device, route.via, rule.table)
