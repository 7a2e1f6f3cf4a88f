"""Devices, addresses, routes and policy rules of the namespace, through rtnetlink.

What addresses bring with them (local, broadcast and connected routes) and what every namespace has (the three rules)
is left out: a snapshot says it by the addresses. Source: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h,
fib_rules.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ipvsctl.errors import Refused
from ipvsctl.kernel.talk import DUMP, REQUEST, attributes, talk
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.route import LOCAL, PolicyRule, Route
from ipvsctl.model.snapshot import Device
from ipvsctl.wire.address import readable

_NETLINK_ROUTE = 0
_GETLINK, _GETADDR, _GETROUTE, _GETRULE = 18, 22, 26, 34
_NEW = {_GETLINK: 16, _GETADDR: 20, _GETROUTE: 24, _GETRULE: 32}
"""RTM_NEW*: what a dump answers."""
_IFF_UP = 1
_KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
_RULE_ACTIONS = {1: "lookup", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_PROTO_KERNEL = 2
_CLONED = 0x200
_SELECTORS = {12, 19, 20, 22, 23, 24}
"""FRA_TUN_ID, FRA_L3MDEV, FRA_UID_RANGE, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE."""
_SUPPRESS = 14
_NOTHING = b"\xff" * 4
_INVERT = 2
_FIXED_RULES = {0: LOCAL, 32766: 254, 32767: 253}


def devices() -> tuple[Device, ...]:
    """The devices that are up, with their addresses in the kernel's order."""
    addresses: dict[int, list[str]] = {}
    for family, body in _dump(_GETADDR, 8):
        length, index = body[1], struct.unpack_from("=I", body, 4)[0]
        found = attributes(body[8:])
        # IFA_LOCAL is the address itself where IFA_ADDRESS is that of the other end.
        address = found.get(2) if family == INET else found.get(1)
        if address is not None:
            addresses.setdefault(index, []).append(f"{readable(address)}/{length}")
    result = []
    for _, body in _dump(_GETLINK, 16):
        index, flags = struct.unpack_from("=iI", body, 4)
        found = attributes(body[16:])
        if flags & _IFF_UP and 3 in found:
            mtu = struct.unpack("=I", found[4])[0] if 4 in found else 1500
            result.append(Device(_text(found[3]), tuple(addresses.get(index, ())), mtu))
    return tuple(result)


def routes() -> tuple[Route, ...]:
    """The routes that no address brings. Raises Refused for one that a snapshot cannot say (several next hops)."""
    names = _names()
    result = []
    for family, body in _dump(_GETROUTE, 12):
        route = _route(family, body, names)
        if route is not None:
            result.append(route)
    return tuple(result)


def _route(family: int, body: bytes, names: dict[int, str]) -> Route | None:
    length, table, protocol, kind = body[1], body[4], body[5], body[7]
    flags = struct.unpack_from("=I", body, 8)[0]
    found = attributes(body[12:])
    if 15 in found:
        table = struct.unpack("=I", found[15])[0]
    device = names.get(struct.unpack("=I", found[4])[0], "") if 4 in found else ""
    destination = found.get(1, bytes(16 if family == INET6 else 4))
    link_local = family == INET6 and (destination[0] == 0xFF or destination[:2] == b"\xfe\x80")
    if flags & _CLONED or protocol == _PROTO_KERNEL or kind not in _KINDS or (table == LOCAL and link_local):
        return None
    text = f"{readable(destination)}/{length}"
    if 9 in found:
        raise Refused(f"cannot trace with the route {text} of table {table}: it has several next hops")
    via = found.get(5, b"")
    if 18 in found:  # RTA_VIA: a next hop of the other family
        raise Refused(f"cannot trace with the route {text} of table {table}: its next hop is of another family")
    metrics = attributes(found.get(8, b""))
    return Route(
        text, device, readable(via) if via else "", table, _KINDS[kind], readable(found[7]) if 7 in found else "",
        struct.unpack("=I", found[6])[0] if 6 in found else 0,
        struct.unpack("=I", metrics[2])[0] if 2 in metrics else 0,
    )  # fmt: skip


def policy() -> tuple[PolicyRule, ...]:
    """The policy rules beyond those that every namespace has. Raises Refused for one that a snapshot cannot say."""
    result = []
    for family, body in _dump(_GETRULE, 12):
        to_length, from_length, table, action = body[1], body[2], body[4], body[7]
        flags = struct.unpack_from("=I", body, 8)[0]
        found = attributes(body[12:])
        priority = struct.unpack("=I", found[6])[0] if 6 in found else 0
        if 15 in found:
            table = struct.unpack("=I", found[15])[0]
        plain = not (to_length or from_length or {2, 3, 10, 17} & found.keys())
        if plain and _FIXED_RULES.get(priority) == table:
            continue
        suppresses = found.get(_SUPPRESS, _NOTHING) != _NOTHING
        if suppresses or _SELECTORS & found.keys() or flags & _INVERT or action not in _RULE_ACTIONS or body[3]:
            raise Refused(f"cannot trace with the policy rule {priority}: it selects by what a trace does not know")
        result.append(
            PolicyRule(
                family, priority,
                f"{readable(found[2])}/{from_length}" if 2 in found else "",
                f"{readable(found[1])}/{to_length}" if 1 in found else "",
                struct.unpack("=I", found[10])[0] if 10 in found else 0,
                struct.unpack("=I", found[16])[0] if 16 in found and 10 in found else 0,
                _text(found[3]) if 3 in found else "",
                _text(found[17]) if 17 in found else "",
                _RULE_ACTIONS[action], table,
            )
        )  # fmt: skip
    return tuple(result)


def _names() -> dict[int, str]:
    found = {}
    for _, body in _dump(_GETLINK, 16):
        name = attributes(body[16:]).get(3)
        if name is not None:
            found[struct.unpack_from("=i", body, 4)[0]] = _text(name)
    return found


def _dump(request: int, header: int) -> Iterator[tuple[int, bytes]]:
    """Family and content of every object; of IPv4 and IPv6 only, where the object has a family."""
    for kind, body in talk(_NETLINK_ROUTE, request, REQUEST | DUMP, bytes(header)):
        if kind == _NEW[request] and len(body) >= header and (request == _GETLINK or body[0] in (INET, INET6)):
            yield body[0], body


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode("ascii", "replace")
