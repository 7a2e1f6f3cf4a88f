"""Connection tracking entries of the namespace, through ctnetlink.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h (attributes), nf_conntrack_common.h (status bits),
nf_conntrack_tcp.h and nf_conntrack_sctp.h (states); net/netfilter/nf_conntrack_netlink.c, ctnetlink_dump_table and
ctnetlink_del_conntrack.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from ipvsctl.errors import IpvsctlError, NotFound, NotPermitted, Refused, Unavailable
from ipvsctl.kernel import nfnetlink
from ipvsctl.kernel.nfnetlink import NESTED, attribute, attributes
from ipvsctl.model.address import INET6, parse_ip
from ipvsctl.model.status import ConntrackEntry

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 58: "icmpv6", 132: "sctp", 136: "udplite"}
"""Names as conntrack(8) prints them; a protocol that is not here goes by its number."""

TCP_STATES = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
    "SYN_SENT2",
)  # fmt: skip
SCTP_STATES = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT", "HEARTBEAT_ACKED",
)  # fmt: skip
STATUS = (
    "expected", "seen_reply", "assured", "confirmed", "src_nat", "dst_nat", "seq_adjust", "src_nat_done",
    "dst_nat_done", "dying", "fixed_timeout", "template", "nat_clash", "helper", "offload", "hw_offload",
)  # fmt: skip
"""Names of the IPS_* bits, from bit 0 on."""

_GET, _DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _HELP, _TIMEOUT, _MARK = 1, 2, 3, 4, 5, 7, 8
_NUMBERS = {name: number for number, name in PROTOCOLS.items()}
_ICMP = {1: (4, 5, 6), 58: (7, 8, 9)}  # CTA_PROTO_ICMP_ID, _TYPE, _CODE and their ICMPV6 sisters
_STATES = {1: TCP_STATES, 3: SCTP_STATES}  # by CTA_PROTOINFO_*
_LOADED = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class KernelConntrack:
    """The conntrack table of the namespace that the process is in.

    ICMP has no ports: an entry's `source_port` is then the identifier and its `destination_port` type * 256 + code, as
    struct nf_conntrack_tuple keeps them in the same place.
    """

    def entries(self) -> list[ConntrackEntry]:
        """Every entry, IPv4 and IPv6, in the kernel's order. Without nf_conntrack in the kernel there are none."""
        # The request itself would load nf_conntrack, and from then on every packet could be tracked: not by a listing.
        if not _LOADED.exists():
            return []
        try:
            return [_entry(family, body) for family, body in nfnetlink.dump(nfnetlink.CONNTRACK, _GET)]
        except OSError as error:
            raise _explain("cannot list the conntrack entries", error) from None

    def delete(self, entry: ConntrackEntry) -> None:
        """Forget an entry, found by its original direction in the default zone; raises NotFound."""
        what = f"cannot delete the conntrack entry {_name(entry)}"
        family, _ = parse_ip(entry.source)
        if parse_ip(entry.destination)[0] != family:
            raise Refused(f"{what}: its addresses are of two families")
        if not _LOADED.exists():
            raise NotFound(f"{what}: the kernel tracks no connections, nf_conntrack is not loaded")
        # Without a tuple the kernel would forget everything; it is the only attribute and always there.
        try:
            nfnetlink.ask(nfnetlink.CONNTRACK, _DELETE, family, attribute(_TUPLE_ORIG | NESTED, _tuple(entry, family)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise NotFound(f"{what}: there is no such entry") from None
            raise _explain(what, error) from None


def _entry(family: int, body: bytes) -> ConntrackEntry:
    found = attributes(body)
    protocol, source, source_port, destination, destination_port = _end_points(family, found[_TUPLE_ORIG])
    _, reply_source, reply_source_port, reply_destination, reply_destination_port = _end_points(
        family, found[_TUPLE_REPLY]
    )
    state = helper = ""
    if _PROTOINFO in found:
        for kind, info in attributes(found[_PROTOINFO]).items():
            number = attributes(info).get(1)
            if number and kind in _STATES:
                state = _STATES[kind][number[0]] if number[0] < len(_STATES[kind]) else str(number[0])
    if _HELP in found:
        helper = attributes(found[_HELP]).get(1, b"").rstrip(b"\0").decode("ascii", "replace")
    bits = _number(found.get(_STATUS))
    return ConntrackEntry(
        PROTOCOLS.get(protocol, str(protocol)), source, destination, source_port, destination_port,
        reply_source, reply_destination, reply_source_port, reply_destination_port,
        state, _number(found.get(_TIMEOUT)), _number(found.get(_MARK)), helper,
        tuple(name for bit, name in enumerate(STATUS) if bits >> bit & 1),
    )  # fmt: skip


def _end_points(family: int, data: bytes) -> tuple[int, str, int, str, int]:
    """Protocol, source, its port, destination, its port of one direction."""
    parts = attributes(data)
    addresses, ports = attributes(parts[1]), attributes(parts[2])
    protocol = ports[1][0]
    if family == INET6:
        source, destination = (parse_ip(socket.inet_ntop(INET6, addresses[kind]))[1] for kind in (3, 4))
    else:
        source, destination = socket.inet_ntoa(addresses[1]), socket.inet_ntoa(addresses[2])
    if protocol in _ICMP:
        identifier, kind, code = (_number(ports.get(name)) for name in _ICMP[protocol])
        return protocol, source, identifier, destination, kind << 8 | code
    return protocol, source, _number(ports.get(2)), destination, _number(ports.get(3))


def _tuple(entry: ConntrackEntry, family: int) -> bytes:
    """The original direction of an entry as the kernel wants it to find the entry."""
    first = 3 if family == INET6 else 1
    addresses = b"".join(
        attribute(first + place, socket.inet_pton(family, text))
        for place, text in enumerate((entry.source, entry.destination))
    )
    number = _NUMBERS.get(entry.protocol)
    if number is None:
        if not entry.protocol.isdecimal() or not int(entry.protocol) < 256:
            raise Refused(f"cannot delete the conntrack entry {_name(entry)}: unknown protocol {entry.protocol!r}")
        number = int(entry.protocol)
    protocol = attribute(1, bytes((number,)))
    if number in _ICMP:
        identifier, kind, code = _ICMP[number]
        protocol += attribute(identifier, entry.source_port.to_bytes(2, "big"))
        protocol += attribute(kind, bytes((entry.destination_port >> 8,)))
        protocol += attribute(code, bytes((entry.destination_port & 0xFF,)))
    else:
        protocol += attribute(2, entry.source_port.to_bytes(2, "big"))
        protocol += attribute(3, entry.destination_port.to_bytes(2, "big"))
    return attribute(1 | NESTED, addresses) + attribute(2 | NESTED, protocol)


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else 0


def _name(entry: ConntrackEntry) -> str:
    return (
        f"{entry.protocol} {entry.source} port {entry.source_port} "
        f"to {entry.destination} port {entry.destination_port}"
    )


def _explain(what: str, error: OSError) -> IpvsctlError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{what}: it needs CAP_NET_ADMIN: run as root, or with sudo")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{what}: no answer from the kernel: see its log with dmesg")
    # EINVAL is nfnetlink_rcv_msg's answer for a subsystem that is not there; a kernel without netfilter has no socket.
    if error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.ECONNREFUSED):
        return Unavailable(f"{what}: the kernel has no ctnetlink here: modprobe nf_conntrack_netlink")
    return Refused(f"{what}: {error.strerror}")
