"""The names that recipes write and find again on a host: sysctls, own chains, numbers of tables and rules."""

from __future__ import annotations

from collections.abc import Iterable

from ipvsctl.errors import UsageError
from ipvsctl.model.address import parse_ip
from ipvsctl.model.rule import OwnChain, Rule

CONNTRACK = "net.ipv4.vs.conntrack"
SNAT_REROUTE = "net.ipv4.vs.snat_reroute"
BE_LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"
AUTOMATIC_HELPER = "net.netfilter.nf_conntrack_helper"
IP_FORWARD = "net.ipv4.ip_forward"
IP6_FORWARD = "net.ipv6.conf.all.forwarding"

INPUT = "IPVSCTL-INPUT"
FORWARD = "IPVSCTL-FORWARD"
FORWARD_DROP = "IPVSCTL-FORWARD-DROP"
TRACK = "IPVSCTL-TRACK"
PREROUTING = "IPVSCTL-PREROUTING"
OUTPUT = "IPVSCTL-OUTPUT"
SPOOF = "IPVSCTL-SPOOF"
MARK = "IPVSCTL-MARK"
MARK_OUTPUT = "IPVSCTL-MARK-OUTPUT"

UPLINK_TABLE = 100
"""The first routing table for an uplink that names none; the next ones count up."""

UPLINK_PRIORITY = 1000
"""Priority of the first uplink's policy rule; the others follow."""

UPLINKS = 1000
"""The most uplinks: priorities from UPLINK_PRIORITY on are ours."""

HELPED = {"ftp": 21}
"""The port that a helper is for when its service is on every port (kernel-wide: nf_conntrack_ftp's own)."""

_TRACKING_MATCHES = ("conntrack", "state", "connbytes", "connlimit", "connmark", "connlabel", "helper", "cluster")
_TRACKING_TARGETS = ("CT", "NOTRACK", "CONNMARK", "CONNSECMARK", "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "SYNPROXY")


def of_device(device: str, name: str) -> str:
    """The IPv4 sysctl of a device; dots in the device's name are written "/"."""
    return f"net.ipv4.conf.{device.replace('.', '/')}.{name}"


def accept_local(device: str) -> str:
    """The sysctl that lets packets from our own addresses in on a device."""
    return of_device(device, "accept_local")


def asks_for_tracking(rule: Rule) -> bool:
    """Whether a rule makes the kernel register conntrack's hooks in its namespace (each calls nf_ct_netns_get)."""
    return rule.target in _TRACKING_TARGETS or any(match.name in _TRACKING_MATCHES for match in rule.matches)


def tracks(chain: OwnChain) -> bool:
    """Whether a chain has a rule that makes the kernel register conntrack's hooks."""
    return any(map(asks_for_tracking, chain.rules))


def is_host(text: str) -> bool:
    """Whether a rule's address is a single one: a rule made by hand may say a network, or nothing."""
    try:
        parse_ip(text)
    except UsageError:
        return False
    return True


def unique(items: Iterable[str]) -> tuple[str, ...]:
    """Each text once, in the order of its first mention, without empty ones."""
    return tuple(dict.fromkeys(item for item in items if item))
