"""The routing port on Linux: routes and policy rules of ours, made and removed through rtnetlink.

Both bear `OUR_PROTOCOL`, and a deletion names it: what others made is not found, however alike it is.
Source: include/uapi/linux/rtnetlink.h, fib_rules.h; net/ipv4/fib_frontend.c, net/ipv6/route.c, net/core/fib_rules.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import replace
from ipaddress import ip_network

from ipvsctl.errors import Unavailable
from ipvsctl.host import routing_refusal
from ipvsctl.kernel import routes
from ipvsctl.kernel.talk import ACK, REQUEST, attribute, talk
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import AddPolicyRule, AddRoute, DeletePolicyRule, DeleteRoute, RoutingChange
from ipvsctl.model.route import OUR_PROTOCOL, PolicyRule, Route, policy_order, route_order
from ipvsctl.wire.address import packed

_NETLINK_ROUTE = 0
_NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE = 24, 25, 32, 33
_CREATE, _EXCL = 0x400, 0x200
_KINDS = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}
_ACTIONS = {"lookup": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
_UNIVERSE, _LINK, _HOST, _NOWHERE = 0, 253, 254, 255
_METRIC6 = 1024
"""What an IPv6 route without a metric gets (IP6_RT_PRIO_USER)."""


class KernelRouting:
    """The routing port of the namespace that the process is in."""

    def routes(self) -> tuple[Route, ...]:
        try:
            found = [_as_asked(route) for route in routes.routes(OUR_PROTOCOL)]
        except OSError as error:
            raise Unavailable(f"cannot read the routes: {error.strerror}") from None
        return tuple(sorted(found, key=route_order))

    def policy(self) -> tuple[PolicyRule, ...]:
        try:
            return tuple(sorted(routes.policy(OUR_PROTOCOL), key=policy_order))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return ()  # A kernel without policy routing has no rules, of ours or of anybody's.
            raise Unavailable(f"cannot read the policy rules: {error.strerror}") from None

    def apply(self, change: RoutingChange) -> None:
        try:
            match change:
                case AddRoute(route):
                    _send(_NEWROUTE, _CREATE | _EXCL, _route(route, adding=True))
                case DeleteRoute(route):
                    _send(_DELROUTE, 0, _route(route, adding=False))
                case AddPolicyRule(rule):
                    _send(_NEWRULE, _CREATE | _EXCL, _rule(rule))
                case DeletePolicyRule(rule):
                    _send(_DELRULE, 0, _rule(rule))
        except OSError as error:
            number = error.errno or 0
            if isinstance(change, AddRoute) and number in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                # A device that is down has lost its networks, which is all that the kernel says of it.
                names = {device.name for device in routes.devices()}
                number = number if not change.route.device or change.route.device in names else errno.ENETDOWN
            raise routing_refusal(change, number, os.strerror(number)) from None


def _as_asked(route: Route) -> Route:
    return replace(route, metric=0) if ":" in route.destination and route.metric == _METRIC6 else route


def _send(kind: int, flags: int, body: bytes) -> None:
    for _ in talk(_NETLINK_ROUTE, kind, REQUEST | ACK | flags, body):
        pass


def _route(route: Route, *, adding: bool) -> bytes:
    """The rtmsg of a route; for a deletion the scope is left open, as ip(8) does."""
    network = ip_network(route.destination)
    family = INET if network.version == 4 else INET6
    scope = _UNIVERSE
    if family == INET:
        scope = _HOST if route.kind == "local" else _LINK if route.kind == "unicast" and not route.via else _UNIVERSE
    body = struct.pack(
        "=BBBBBBBBI", family, network.prefixlen, 0, 0, route.table if route.table < 256 else 0, OUR_PROTOCOL,
        scope if adding else _NOWHERE, _KINDS[route.kind], 0,
    )  # fmt: skip
    if network.prefixlen:
        body += attribute(1, network.network_address.packed)
    body += _number(15, route.table)
    if route.device:
        body += _number(4, _index(route.device))
    if route.via:
        body += attribute(5, packed(route.via))
    if route.source:
        body += attribute(7, packed(route.source))
    metric = route.metric or (_METRIC6 if family == INET6 else 0)
    if metric:
        body += _number(6, metric)
    if route.mtu:
        body += attribute(8, _number(2, route.mtu))
    return body


def _rule(rule: PolicyRule) -> bytes:
    """The fib_rule_hdr of a policy rule."""
    lengths, addresses = [], b""
    for kind, text in ((1, rule.destination), (2, rule.source)):
        network = ip_network(text) if text else None
        lengths.append(network.prefixlen if network else 0)
        if network and network.prefixlen:
            addresses += attribute(kind, network.network_address.packed)
    body = struct.pack(
        "=BBBBBBBBI", rule.family, *lengths, 0, rule.table if rule.table < 256 else 0, 0, 0, _ACTIONS[rule.action], 0
    )
    body += addresses + _number(6, rule.priority) + attribute(21, bytes((OUR_PROTOCOL,)))
    if rule.action == "lookup":
        body += _number(15, rule.table)
    if rule.mask:
        body += _number(10, rule.mark) + _number(16, rule.mask)
    for kind, name in ((3, rule.in_device), (17, rule.out_device)):
        if name:
            body += attribute(kind, name.encode() + b"\0")
    return body


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
