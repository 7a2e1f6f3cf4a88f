"""What a hook function says of a packet: None to go on (NF_ACCEPT), or the reason why this walk ends here.

Every packet that is not sent or delivered has a reason, and a reason is a sentence a person can use.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a packet's walk ended. STOLEN is no drop: another function has taken the packet over and goes on with it."""

    STOLEN = "taken over"

    # ip_input.c, ip6_input.c: what is not a packet
    HEADER = "the IP header is broken: version, length or checksum"
    TRUNCATED = "the packet is shorter than its headers say"
    FRAGMENT = "a fragment, kept until the others come"
    FRAGMENT_BROKEN = "the fragments do not make a packet"
    FRAGMENT_TIMEOUT = "the other fragments did not come in time"
    FRAGMENT_FULL = "too many other fragments wait already"

    # routing
    NO_ROUTE = "there is no route to the destination"
    UNREACHABLE = "a route says that the destination is unreachable"
    PROHIBITED = "a route or policy rule prohibits it"
    BLACKHOLE = "a blackhole route swallows it"
    MARTIAN_SOURCE = "the source is an impossible address on this device (an own address without accept_local, 127/8)"
    MARTIAN_DESTINATION = "the destination is an impossible address"
    RP_FILTER = "rp_filter: the route back to the source leaves by another device"
    NOT_FORWARDING = "the destination is not ours and forwarding is off on the device it came in by"
    TTL = "the TTL ran out"
    TOO_BIG = "it is larger than the MTU and must not be fragmented"
    NO_NEIGHBOUR = "the next hop does not answer on the link"
    NOT_MEMBER = "the host is not a member of the multicast group"
    DISABLED = "IPv6 is off on the device (disable_ipv6)"
    OPTIONS = "an IP option or extension header that the host does not take"
    LOOPBACK_SOURCE = "a loopback source must not leave the host"

    # iptables
    RULE = "a rule drops it"
    POLICY = "the policy of a chain drops it"
    REJECT = "a rule rejects it"
    RULE_TRUNCATED = "a rule asks for a transport header that is cut off: such a packet is dropped"

    # conntrack and NAT
    CONNTRACK_FULL = "the conntrack table is full"
    CONNTRACK_CLASH = "another connection took the same tuple: it cannot be confirmed"
    CONNTRACK_TCP = "conntrack drops a packet that would reopen a closed connection"
    HELPER = "a conntrack helper drops a command it cannot follow"
    NAT_NO_PORT = "no free port is left for address translation"
    NAT = "address translation cannot rewrite it"
    NAT_DEVICE = "its masqueraded connection now leaves by another device and is forgotten"

    # IPVS
    IPVS_NO_DESTINATION = "IPVS: the service has no server that takes it"
    IPVS_NO_CONNECTION = "IPVS: a nat server sends a packet of no connection (nat_icmp_send tells it so)"
    IPVS_SERVER_GONE = "IPVS: the connection's server was deleted (expire_nodest_conn=0)"
    IPVS_OLD_CONNTRACK = "IPVS: the old connection's conntrack entry must go first; the client's next try is scheduled"
    IPVS_DROP_PACKET = "IPVS: drop_packet drops one in so many new connections"
    IPVS_NO_ROUTE = "IPVS: there is no usable route to the server"
    IPVS_CROSSES_LOCAL = "IPVS: the way to the server would cross the local boundary"
    IPVS_APPLICATION = "IPVS: the application helper cannot rewrite the payload"
    IPVS_OUT_OF_MEMORY = "IPVS: no connection entry could be made"
    IPVS_LOCAL_SYNCED = "IPVS: a synchronised connection to a local server that conntrack knows"
    IPVS_ICMP = "IPVS: an ICMP error that cannot be forwarded"

    # the local stack
    NO_LISTENER = "delivered; nothing listens there"
    LOCAL_CHECKSUM = "the transport checksum is wrong"
    LOCAL_PROTOCOL = "delivered; the host does not speak the protocol"

    def __repr__(self) -> str:
        return self.name


Verdict = Reason | None
"""None: go on to the next function of the hook."""
