"""The routing port of an emulated director: what routes and policy rules of ours there are, and which are refused.

The network around an emulated director is assumed, so a device without an address of a family has every gateway of it
as a neighbour. Source of the refusals: fib_semantics.c (fib_check_nh), ipv6/route.c (ip6_validate_gw), fib_rules.c.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from ipaddress import ip_address

from ipvsctl.emulator.state import State
from ipvsctl.host import routing_refusal
from ipvsctl.model.change import AddPolicyRule, AddRoute, DeletePolicyRule, DeleteRoute, RoutingChange
from ipvsctl.model.route import PolicyRule, Route, policy_order, route_order

_METRIC6 = 1024
"""What an IPv6 route without a metric gets (IP6_RT_PRIO_USER)."""


class EmulatedRouting:
    """The routing port of an emulated director."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> tuple[Route, ...]:
        return tuple(sorted(self._state.routes, key=route_order))

    def policy(self) -> tuple[PolicyRule, ...]:
        return tuple(sorted(self._state.policy, key=policy_order))

    def apply(self, change: RoutingChange) -> None:
        state = self._state
        match change:
            case AddRoute(route):
                self._check(change, number=self._refused(_plain(route)))
                state.routes.append(_plain(route))
            case DeleteRoute(route):
                self._check(change, number=0 if _plain(route) in state.routes else errno.ESRCH)
                state.routes.remove(_plain(route))
            case AddPolicyRule(rule):
                self._check(change, number=errno.EEXIST if rule in state.policy else 0)
                state.policy.append(rule)
            case DeletePolicyRule(rule):
                self._check(change, number=0 if rule in state.policy else errno.ENOENT)
                state.policy.remove(rule)

    def _check(self, change: RoutingChange, *, number: int) -> None:
        if number:
            raise routing_refusal(change, number, os.strerror(number))

    def _refused(self, route: Route) -> int:
        """The errno with which the kernel refuses an addition, or 0."""
        if route.device and route.device not in self._state.devices:
            return errno.ENODEV
        if route.via and (number := self._gateway(route)):
            return number
        key = (route.destination, route.table, route.metric)
        there = any((found.destination, found.table, found.metric) == key for found in self._state.routes)
        return errno.EEXIST if there else 0

    def _gateway(self, route: Route) -> int:
        gateway = ip_address(route.via)
        devices = self._state.devices
        own = [
            interface
            for name in ([route.device] if route.device else devices)
            for interface in devices[name].addresses
            if interface.version == gateway.version
        ]
        if gateway.version == 6:
            if any(gateway == interface.ip for device in devices.values() for interface in device.addresses):
                return errno.EINVAL
            if gateway.is_link_local:
                return 0 if route.device not in ("", "lo") else errno.EINVAL
        if own and not any(gateway in interface.network for interface in own):
            return errno.ENETUNREACH
        return 0


def _plain(route: Route) -> Route:
    """The route with a metric that says nothing left out, as routes are told."""
    return replace(route, metric=0) if ":" in route.destination and route.metric == _METRIC6 else route
