"""Names of what stands in packets as numbers: protocols, TCP's flags, ICMP's types and codes, extension headers."""

from __future__ import annotations

PROTOCOLS = ("tcp", "udp", "sctp", "icmp", "icmpv6", "ipip", "gre", "gue", "ip")
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58, "gre": 47, "gue": 17}
NAMES = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6", 4: "ipip", 41: "ipip", 47: "gre"}

FLAGS = "FSRPAUEC"
"""TCP's flags from bit 0 on: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR."""

EXTENSIONS = {"hopopts": 0, "routing": 43, "dstopts": 60}
EXTENSION_NAMES = {number: name for name, number in EXTENSIONS.items()}

# Type and code by name, iptables' names where it has them; the first name of a pair is the one that is written.
ICMP = {
    "echo-reply": (0, 0), "network-unreachable": (3, 0), "host-unreachable": (3, 1), "protocol-unreachable": (3, 2),
    "port-unreachable": (3, 3), "fragmentation-needed": (3, 4), "source-route-failed": (3, 5),
    "network-unknown": (3, 6), "host-unknown": (3, 7), "network-prohibited": (3, 9), "host-prohibited": (3, 10),
    "communication-prohibited": (3, 13), "destination-unreachable": (3, 0), "source-quench": (4, 0),
    "network-redirect": (5, 0), "host-redirect": (5, 1), "redirect": (5, 0), "echo-request": (8, 0),
    "router-advertisement": (9, 0), "router-solicitation": (10, 0), "ttl-exceeded": (11, 0), "time-exceeded": (11, 0),
    "reassembly-timeout": (11, 1), "parameter-problem": (12, 0), "required-option-missing": (12, 1),
    "timestamp-request": (13, 0), "timestamp-reply": (14, 0), "address-mask-request": (17, 0),
    "address-mask-reply": (18, 0),
}  # fmt: skip
ICMPV6 = {
    "no-route": (1, 0), "communication-prohibited": (1, 1), "beyond-scope": (1, 2), "address-unreachable": (1, 3),
    "port-unreachable": (1, 4), "failed-policy": (1, 5), "reject-route": (1, 6), "destination-unreachable": (1, 0),
    "packet-too-big": (2, 0), "ttl-exceeded": (3, 0), "time-exceeded": (3, 0), "reassembly-timeout": (3, 1),
    "bad-header": (4, 0), "unknown-header-type": (4, 1), "unknown-option": (4, 2), "parameter-problem": (4, 0),
    "echo-request": (128, 0), "echo-reply": (129, 0), "router-solicitation": (133, 0),
    "router-advertisement": (134, 0), "neighbour-solicitation": (135, 0), "neighbour-advertisement": (136, 0),
    "redirect": (137, 0),
}  # fmt: skip


def _written(names: dict[str, tuple[int, int]]) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for name, numbers in names.items():
        found.setdefault(numbers, name)
    return found


ICMP_NAMES = _written(ICMP)
ICMPV6_NAMES = _written(ICMPV6)

WINDOW = 64240
"""TCP window of a packet that names none: what Linux announces."""

PATTERN = bytes(range(256)) * 257
"""What a payload of len=N bytes begins with."""


def wrong(check: int) -> int:
    """The checksum that `badsum` puts in the place of a right one: never 0, which is UDP's "none"."""
    return check ^ 0x5555 or 0xAAAA
