"""The few rtnetlink messages that lay out a namespace: devices, addresses, routes, policy rules, neighbours.

They go to the kernel in one datagram, each acknowledged: in the guest, starting `ip` once costs more than all of them.
Source: include/uapi/linux/{rtnetlink,if_link,if_addr,fib_rules,neighbour,veth}.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import ip_interface, ip_network
from typing import Any

Message = tuple[int, int, bytes, str]
"""Type, flags beyond REQUEST and ACK, body, and what it is for in an error."""

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_NEWLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH, _NEWRULE = 16, 20, 24, 28, 32
_REQUEST, _ACK, _CREATE, _EXCL, _REPLACE = 1, 4, 0x400, 0x200, 0x100
_ERROR = 2
_UP = 1
_NODAD = 2
_PERMANENT = 0x80
_KINDS = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}
_ACTIONS = {"lookup": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
_BOOT = 3
_UNIVERSE, _LINK, _HOST = 0, 253, 254


def talk(messages: Sequence[Message]) -> None:
    """Send all, in the namespace that this thread is in; raises OSError that names the first that was refused."""
    if not messages:
        return
    parts = []
    for number, (kind, flags, body, _) in enumerate(messages):
        parts.append(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACK | flags, number, 0) + body)
        parts.append(b"\0" * (-len(body) % 4))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        channel.settimeout(20)
        channel.bind((0, 0))
        channel.send(b"".join(parts))
        left = len(messages)
        while left:
            data = channel.recv(1 << 16)
            at = 0
            while at + 16 <= len(data):
                length, kind, _, number, _ = _HEADER.unpack_from(data, at)
                if kind == _ERROR:
                    left -= 1
                    failure = -struct.unpack_from("=i", data, at + 16)[0]
                    if failure:
                        raise OSError(failure, f"{messages[number][3]}: {errno.errorcode.get(failure, failure)} "
                                               f"{os.strerror(failure)}")  # fmt: skip
                at += length + 3 & ~3


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("=I", number))


def veth(name: str, mac: bytes, mtu: int, peer: str, peer_mac: bytes, peer_namespace: int) -> Message:
    """A pair, both ends down yet; `peer_namespace` is a file descriptor of where the other end goes."""
    plain = _IFINFO.pack(0, 0, 0, 0, 0)
    # The other end takes what it is given, whatever its size.
    other = plain + _text(3, peer) + _attribute(1, peer_mac) + _number(4, 65535) + _number(28, peer_namespace)
    info = _text(1, "veth") + _attribute(2, _attribute(1, other))
    body = plain + _text(3, name) + _attribute(1, mac) + _number(4, mtu) + _attribute(18, info)
    return _NEWLINK, _CREATE | _EXCL, body, f"device {name}"


def up(index: int, name: str, mtu: int = 0) -> Message:
    """Set a device up."""
    return _NEWLINK, 0, _IFINFO.pack(0, 0, index, _UP, _UP) + (_number(4, mtu) if mtu else b""), f"device {name}"


def address(text: str, index: int) -> Message:
    """ADDRESS/LENGTH on a device."""
    interface = ip_interface(text)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    scope = _HOST if interface.ip.is_loopback else _UNIVERSE
    body = struct.pack("=BBBBI", family, interface.network.prefixlen, _NODAD if family != socket.AF_INET else 0,
                       scope, index)  # fmt: skip
    return (
        _NEWADDR,
        _CREATE | _EXCL,
        body + _attribute(2, interface.ip.packed) + _attribute(1, interface.ip.packed),
        (f"address {text}"),
    )


def route(data: Mapping[str, Any], indexes: Mapping[str, int]) -> Message:
    """A route, given as the fields of model.snapshot.Route."""
    network = ip_network(data["destination"])
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    table, kind = data["table"], data["kind"]
    scope = _UNIVERSE
    if family == socket.AF_INET:
        scope = _HOST if kind == "local" else _LINK if kind == "unicast" and not data["via"] else _UNIVERSE
    body = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, table if table < 256 else 0, _BOOT, scope,
                       _KINDS[kind], 0)  # fmt: skip
    if network.prefixlen:
        body += _attribute(1, network.network_address.packed)
    body += _number(15, table)
    if data["device"]:
        body += _number(4, indexes[data["device"]])
    if data["via"]:
        body += _attribute(5, socket.inet_pton(family, data["via"]))
    if data["metric"]:
        body += _number(6, data["metric"])
    if data["source"]:
        body += _attribute(7, socket.inet_pton(family, data["source"]))
    if data["mtu"]:
        body += _attribute(8, _number(2, data["mtu"]))
    return _NEWROUTE, _CREATE | _EXCL, body, f"route {data['destination']} table {table}"


def rule(data: Mapping[str, Any]) -> Message:
    """A policy rule, given as the fields of model.snapshot.PolicyRule."""
    family = data["family"]
    source, destination = (ip_network(data[key]) if data[key] else None for key in ("source", "destination"))
    body = struct.pack("=BBBBBBBBI", family, destination.prefixlen if destination else 0,
                       source.prefixlen if source else 0, 0, 0, 0, 0, _ACTIONS[data["action"]], 0)  # fmt: skip
    body += _number(6, data["priority"])
    if data["action"] == "lookup":
        body += _number(15, data["table"])
    if destination:
        body += _attribute(1, destination.network_address.packed)
    if source:
        body += _attribute(2, source.network_address.packed)
    if data["in_device"]:
        body += _text(3, data["in_device"])
    if data["out_device"]:
        body += _text(17, data["out_device"])
    if data["mask"]:
        body += _number(10, data["mark"]) + _number(16, data["mask"])
    return _NEWRULE, _CREATE | _EXCL, body, f"rule {data['priority']}"


def neighbour(host: bytes, index: int, mac: bytes) -> Message:
    """A neighbour that is known for good."""
    family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
    body = struct.pack("=BxxxiHBB", family, index, _PERMANENT, 0, 1) + _attribute(1, host) + _attribute(2, mac)
    return _NEWNEIGH, _CREATE | _REPLACE, body, f"neighbour {host.hex()}"
