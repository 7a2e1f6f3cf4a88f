"""Matches that ask other parts of the host: xt_addrtype.c and the rpfilter matches ask routing, xt_ipvs.c asks IPVS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.hooks import LOCAL_IN, LOCAL_OUT, POST_ROUTING, PRE_ROUTING
from ipvsctl.datapath.nf.options import Context, Matching, Options, network_test, number
from ipvsctl.datapath.nf.walk import Test
from ipvsctl.datapath.skb import ESTABLISHED_REPLY, SCTP, TCP, UDP
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import BYPASS, LOCALNODE, MASQ, METHOD_MASK, ROUTE, TUNNEL, Conn
from ipvsctl.datapath.vs.header import Header
from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_words import protocol_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipvsctl.datapath.skb import Skb

_TYPES = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW",
    "NAT", "XRESOLVE",
)  # fmt: skip
_NOT_IN_IPV6 = {"BROADCAST", "BLACKHOLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"}
_METHODS = {
    "GATE": ROUTE, "IPIP": TUNNEL, "MASQ": MASQ, "LOCALNODE": LOCALNODE, "BYPASS": BYPASS
}  # fmt: skip
_AH, _ESP = 51, 50
_IPVS_PROTOCOLS = frozenset((TCP, UDP, SCTP, _AH, _ESP))
_ANYWHERE = (bytes(4), b"\xff" * 4)
_MAPPED = bytes(10) + b"\xff\xff"


# -- addrtype ---------------------------------------------------------------------------------------------------------


def addrtype(context: Context, options: Options) -> Matching:
    """`-m addrtype --src-type, --dst-type LIST, --limit-iface-in, --limit-iface-out`."""
    limit_in, limit_out = options.flag("limit-iface-in"), options.flag("limit-iface-out")
    if limit_in and limit_out:
        raise UsageError("takes one of --limit-iface-in and --limit-iface-out")
    if limit_out and context.hooks & {PRE_ROUTING, LOCAL_IN}:
        raise UsageError("--limit-iface-out is not for PREROUTING and INPUT")
    if limit_in and context.hooks & {POST_ROUTING, LOCAL_OUT}:
        raise UsageError("--limit-iface-in is not for POSTROUTING and OUTPUT")
    tests: list[Test] = []
    for name in ("src-type", "dst-type"):
        found = options.take(name)
        if found is None:
            continue
        wanted = frozenset(each.upper() for each in found[1].split(","))
        for each in wanted:
            if each not in _TYPES or (context.six and each in _NOT_IN_IPV6):
                raise UsageError(f"{each!r} is not a type of address of {'IPv6' if context.six else 'IPv4'}")
        check = _check6(context, wanted) if context.six else _check4(context, wanted)
        tests.append(_type_test(check, name == "src-type", found[0], limit_in, limit_out))
    if not tests:
        raise UsageError("takes --src-type or --dst-type")
    return Matching(tuple(tests))


def _type_test(
    check: Callable[[bytes, str], bool], source: bool, inverted: bool, limit_in: bool, limit_out: bool
) -> Test:
    def address_type(skb: Skb) -> bool:
        device = skb.indev if limit_in else skb.outdev if limit_out else ""
        return check(skb.source if source else skb.destination, device) != inverted

    return address_type


def _check4(context: Context, wanted: frozenset[str]) -> Callable[[bytes, str], bool]:
    engine = context.engine
    lower = frozenset(each.lower() for each in wanted)

    def check(address: bytes, device: str) -> bool:
        routing = engine.routing
        kind = routing.address_type(context.family, address)
        if device and kind in ("local", "broadcast") and not _on_device(context, address, device):
            # __inet_dev_addr_type: a route of another device does not count, and what has no route is unicast.
            kind = "unicast"
        return kind in lower

    return check


def _on_device(context: Context, address: bytes, device: str) -> bool:
    """Whether the local or broadcast address is one by what the device has."""
    interface = context.engine.routing.interfaces.get(device)
    if address in _ANYWHERE:
        return True
    if interface is None:
        return False
    if context.six:
        return any(each.value == address for each in interface.addresses6)
    number = int.from_bytes(address, "big")
    return any(
        # The loopback network is local as a whole; of another one the last address is its broadcast address.
        each.value == address
        or (each.on_link(address) and (device == "lo" or not (number + 1) & (1 << each.shift) - 1))
        for each in interface.addresses4
    )


def _check6(context: Context, wanted: frozenset[str]) -> Callable[[bytes, str], bool]:
    """Multicast, unicast and unspecified must all hold; of the types that routing knows, one of them."""
    engine = context.engine
    routed = frozenset(each.lower() for each in wanted & {"LOCAL", "ANYCAST", "UNREACHABLE"})
    multicast, unicast, nothing = "MULTICAST" in wanted, "UNICAST" in wanted, "UNSPEC" in wanted

    def check(address: bytes, device: str) -> bool:
        group, none = address[0] == 0xFF, not any(address)
        if multicast and not group:
            return False
        if unicast and (group or none or address.startswith(_MAPPED)):
            return False
        if nothing and not none:
            return False
        if not routed:
            return True
        kind = engine.routing.address_type(context.family, address)
        if kind == "local" and device:
            return "local" in routed and _on_device(context, address, device)
        return kind in routed

    return check


# -- rpfilter ---------------------------------------------------------------------------------------------------------


def rpfilter(context: Context, options: Options) -> Matching:
    """`-m rpfilter --loose --validmark --accept-local --invert`: the way back leaves by the device (ipt_rpfilter.c)."""
    if context.table not in ("raw", "mangle"):
        raise UsageError("is for the tables raw and mangle")
    if context.hooks - {PRE_ROUTING}:
        raise UsageError("is for PREROUTING")
    loose, mark = options.flag("loose"), options.flag("validmark")
    local, inverted = options.flag("accept-local"), options.flag("invert")
    engine, six = context.engine, context.six

    def back(skb: Skb) -> bool:
        source, destination = skb.source, skb.destination
        # What has a route already is the host's own, heard back: its broadcasts come in on the device they leave by.
        if skb.indev == "lo" or skb.dst is not None or (not any(source) if six else _no_source4(source, destination)):
            return not inverted
        # The way back is looked up without a source where the destination is none that an answer could have.
        group = destination[0] == 0xFF if six else not destination[0] or destination[0] >= 0xE0
        answer = b"" if group or not any(destination) else destination
        number = skb.mark if mark else 0
        if six:
            linked = source[0] == 0xFE and source[1] & 0xC0 == 0x80
            device = skb.indev if linked or not loose else ""
            found = engine.routing.fib6.lookup(source, answer, number, "lo", device, linked)
        else:
            found = engine.routing.fib4.lookup(source, answer, number, "lo")
        if isinstance(found, Reason) or found.failure is not None:
            return inverted
        if found.kind == "local" and six:
            return local != inverted
        if found.kind != "unicast" and not (found.kind == "local" and local):
            return inverted
        return (loose or found.device == skb.indev) != inverted

    return Matching((back,))


def _no_source4(source: bytes, destination: bytes) -> bool:
    """0.0.0.0/8 to everyone or to a group of the link, as DHCP does it."""
    return not source[0] and (destination == b"\xff\xff\xff\xff" or destination[:3] == b"\xe0\0\0")


# -- ipvs -------------------------------------------------------------------------------------------------------------


def ipvs(context: Context, options: Options) -> Matching:
    """`-m ipvs`: --ipvs alone is the packet's mark of IPVS; with other options its connection is looked up.

    It is looked up as that of a packet from the client that has its server's address already, so it is found behind
    LVS-NAT's translation; for any other packet of IPVS nothing is found.
    """
    marked = options.take("ipvs")
    checks = _conn_checks(context, options)
    if marked is not None and marked[0]:
        if checks:
            raise UsageError("! --ipvs does not go together with other options")
        return Matching((lambda skb: not skb.ipvs,), stable=False)
    if not checks:
        if marked is None:
            raise UsageError("asks for nothing")
        return Matching((lambda skb: skb.ipvs,), stable=False)
    engine, wanted = context.engine, tuple(checks)

    def connection(skb: Skb) -> bool:
        if not skb.ipvs or skb.protocol not in _IPVS_PROTOCOLS or skb.fragment:
            return False
        sport = dport = 0
        if skb.protocol in (TCP, UDP, SCTP):
            if not skb.has_ports:
                return False
            sport, dport = skb.sport, skb.dport
        conn = engine.vs.conns.find_out(
            Header(skb.family, skb.protocol, skb.source, skb.destination, sport, dport, 0, skb.thoff, inverse=True)
        )
        return conn is not None and all(check(skb, conn) for check in wanted)

    return Matching((connection,), stable=False)


def _conn_checks(context: Context, options: Options) -> list[Callable[[Skb, Conn], bool]]:
    checks: list[Callable[[Skb, Conn], bool]] = []
    if (found := options.take("vproto")) is not None:
        checks.append(_protocol_check(protocol_number(found[1]), found[0]))
    if (found := options.take("vaddr")) is not None:
        checks.append(_address_check(network_test(context.family, found[1]), found[0]))
    if (found := options.take("vport")) is not None:
        checks.append(_port_check(number(found[1], 65535, "a port"), found[0]))
    if (found := options.take("vportctl")) is not None:
        checks.append(_control_check(number(found[1], 65535, "a port"), found[0]))
    if (found := options.take("vmethod")) is not None:
        if found[1].upper() not in _METHODS:
            raise UsageError(f"--vmethod {found[1]!r} is unknown, expected GATE, IPIP or MASQ")
        checks.append(_method_check(_METHODS[found[1].upper()], found[0]))
    if (found := options.take("vdir")) is not None:
        if found[1].upper() not in ("ORIGINAL", "REPLY"):
            raise UsageError(f"--vdir {found[1]!r} is neither ORIGINAL nor REPLY")
        checks.append(_direction_check((found[1].upper() == "REPLY") != found[0]))
    return checks


def _protocol_check(wanted: int, inverted: bool) -> Callable[[Skb, Conn], bool]:
    return lambda skb, _conn: (skb.protocol == wanted) != inverted


def _address_check(check: Callable[[bytes], bool], inverted: bool) -> Callable[[Skb, Conn], bool]:
    return lambda _skb, conn: check(conn.vaddr) != inverted


def _port_check(wanted: int, inverted: bool) -> Callable[[Skb, Conn], bool]:
    return lambda _skb, conn: (conn.vport == wanted) != inverted


def _control_check(wanted: int, inverted: bool) -> Callable[[Skb, Conn], bool]:
    return lambda _skb, conn: (conn.control is not None and conn.control.vport == wanted) != inverted


def _method_check(wanted: int, inverted: bool) -> Callable[[Skb, Conn], bool]:
    return lambda _skb, conn: (conn.flags & METHOD_MASK == wanted) != inverted


def _direction_check(reply: bool) -> Callable[[Skb, Conn], bool]:
    return lambda skb, _conn: skb.ct is not None and (skb.ctinfo >= ESTABLISHED_REPLY) == reply
