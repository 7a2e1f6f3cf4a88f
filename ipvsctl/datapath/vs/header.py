"""What IPVS looks a packet up by: struct ip_vs_iphdr and the ports (ip_vs_fill_iph_skb, ip_vs_fill_iph_skb_icmp)."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Header(NamedTuple):
    """Addresses and ports of a packet, or of the one inside an ICMP error.

    `offset` is where the described IP header begins in the skb's data (0, or behind the ICMP header), `length` where
    its transport header begins. `icmp`: inside an ICMP error. `inverse`: the described packet goes the other way
    (an error about a packet that the server sent). `fragment`: a later fragment, which has no ports.
    """

    family: int
    protocol: int
    source: bytes
    destination: bytes
    sport: int
    dport: int
    offset: int = 0
    length: int = 0
    icmp: bool = False
    inverse: bool = False
    fragment: bool = False


class Refusal(Enum):
    """Why a packet of a service got no connection; what ip_vs_schedule says by NULL and *ignored."""

    NO_DESTINATION = "no server takes it"
    """ip_vs_leave decides: cache bypass, ICMP port unreachable, or the local stack."""
    NOT_OURS = "never scheduled"
    """The packet goes on as if IPVS were not there: FTP data, replies of a local server."""
    FAILED = "no connection could be made"
    """The packet is dropped."""
