"""What each forwarding method needs of a director: one row for each need, with its reason and its source.

A profile is the rows that hold in one situation: the method, whether the director is the real servers' gateway, clients
on the director itself, FTP, several uplinks. Recipes, `nfct`, doctor and the manual go by these rows. S-numbers are
statements of the NFCT description, other sources are kernel files; all rows hold on 5.10, 6.1, 6.12 and 7.3 alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from ipvsctl.model.address import INET, INET6

FORWARDS = ("nat", "dr", "tun", "local")
ROUTED = ("dr", "tun")
"""Methods that leave the packet's addresses as they are, so that servers answer from the virtual address."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One way to use a director.

    `gateway`: replies pass the director (nat and local: always). `clients`: programs on the director are clients too.
    `ftp`: the service has the helper ftp. `uplinks`: replies leave by an uplink of the virtual address.
    """

    forward: str
    family: int = INET
    gateway: bool = True
    clients: bool = False
    ftp: bool = False
    uplinks: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a situation needs.

    `kind`: "module" (`what` is loaded), "sysctl" (`what` is `value`; DEVICE stands for the real servers' device, 1 -> 2
    for "2 where it would be 1"), "rule" (`what` names it, `value` is the table and hook), "setting" (of the director
    file: `what` is `value`), "impossible" (it cannot work: `value` says what would help), "note".

    The situation: `forwards` any of these; the others None where it makes no difference.
    """

    kind: str
    what: str
    value: str
    reason: str
    source: str
    forwards: tuple[str, ...] = FORWARDS
    family: int | None = None
    gateway: bool | None = None
    clients: bool | None = None
    ftp: bool | None = None
    uplinks: bool | None = None

    def holds(self, situation: Situation) -> bool:
        """Whether a situation needs it."""
        return situation.forward in self.forwards and all(
            wanted is None or wanted == has
            for wanted, has in (
                (self.family, situation.family), (self.gateway, situation.gateway), (self.clients, situation.clients),
                (self.ftp, situation.ftp), (self.uplinks, situation.uplinks),
            )
        )  # fmt: skip


_NAT = ("nat",)
_HELPER_WHY = "kernels no longer assign helpers by port: a rule must, or data connections are NEW and not RELATED"

NEEDS: tuple[Need, ...] = (
    # -- modules
    Need("module", "ip_vs", "", "IPVS itself; it brings net.ipv4.vs.*", "S1"),
    Need("module", "nf_conntrack_ftp", "", "the helper reads FTP's commands, so that data connections are RELATED",
         "S8, S9", ftp=True),
    Need("module", "ip_vs_ftp", "", "rewrites the addresses in PASV and PORT; brings NAT along, so that nf_nat_ftp and "
         "iptable_nat are not needed (sequence numbers are adjusted by conntrack since 3.12)", "S8", _NAT, ftp=True),
    # -- sysctls
    Need("sysctl", "net.ipv4.ip_forward", "1", "replies of the servers are forwarded by the director", "S15", _NAT,
         INET),
    Need("sysctl", "net.ipv4.ip_forward", "1", "replies of the servers are forwarded by their gateway", "S2", ROUTED,
         INET, gateway=True),
    Need("sysctl", "net.ipv6.conf.all.forwarding", "1", "replies of the servers are forwarded by the director", "S15",
         _NAT, INET6),
    Need("sysctl", "net.ipv6.conf.all.forwarding", "1", "replies of the servers are forwarded by their gateway", "S2",
         ROUTED, INET6, gateway=True),
    Need("sysctl", "net.ipv4.conf.DEVICE.accept_local", "1", "replies come in from the virtual address, which is the "
         "director's own: without it routing drops them as martian; IPv6 does not check", "S2, S27; fib_frontend.c: "
         "__fib_validate_source", ROUTED, INET, gateway=True),
    Need("sysctl", "net.ipv4.conf.DEVICE.rp_filter", "1 -> 2", "the strict check asks for a route back to the virtual "
         "address by this device, and there is none; the higher of all and the device counts, so 2 in the device is "
         "enough", "S2; fib_frontend.c: __fib_validate_source", ROUTED, INET, gateway=True),
    Need("sysctl", "net.ipv4.vs.snat_reroute", "1", "a reply is routed by its real server's address first, and by the "
         "virtual address only when it is routed again", "S4, S5, S6; ip_vs_core.c: ip_vs_route_me_harder", _NAT,
         uplinks=True),
    # -- what the director file must say
    Need("setting", "persistent", "SECONDS", "data connections go to the same server only by the client's persistence, "
         "and only a persistent service on port 21 is asked for ports 20 and from 1024 up", "S9, S10; ip_vs_ctl.c: "
         "ip_vs_service_find", ROUTED, ftp=True),
    Need("setting", "conntrack", "true", "without it a packet's conntrack entry ends with the packet, and the helper "
         "with it; only nat services of ip_vs_ftp keep theirs (S12)", "S9, S24", (*ROUTED, "local"), ftp=True),
    Need("impossible", "helper", "make the director the servers' gateway, and name the device of the servers in "
         "accept_local of [nfct]", "the helper must see both directions, and replies that do not pass the director "
         "leave every packet after the SYN INVALID", "S9, S10, S18", ROUTED, gateway=False, ftp=True),
    # -- rules
    Need("rule", "track", "filter INPUT", "conntrack sees packets only while something in the namespace asks for it: "
         "where no other rule of ours matches by state, one that does nothing does", "S3; nf_conntrack_proto.c: "
         "nf_ct_netns_get"),
    Need("rule", "helper", "raw PREROUTING", _HELPER_WHY, "S9, S14; nf_conntrack_helper.c", ftp=True),
    Need("rule", "helper-local", "raw OUTPUT", "connections of the director itself never pass PREROUTING", "S20, S21",
         clients=True, ftp=True),
    Need("rule", "tracked", "filter INPUT", "what belongs to a known connection is for the service", "S3, S14"),
    Need("rule", "port", "filter INPUT", "the service's port is open; whatever the state, for one-way traffic is "
         "INVALID after the SYN", "S14, S18"),
    Need("rule", "clients", "filter INPUT", "replies to the director's own clients come from the real server's "
         "address, before IPVS gives them the virtual one", "S14, S21", _NAT, clients=True),
    Need("rule", "closed", "filter INPUT", "no other tcp, udp and sctp port of the address is reachable", "S14"),
    Need("rule", "forwarded", "filter FORWARD", "replies, and data connections that servers open", "S14, S15"),
    Need("rule", "data", "filter FORWARD", "active FTP: the client's commands leave inside the tunnel before a helper "
         "has seen them, so the data connection from port 20 is NEW", "S10, S14, S22", ("tun",), gateway=True,
         ftp=True),
    Need("rule", "spoof", "raw PREROUTING", "accept_local would let anybody send from the director's addresses: only "
         "virtual ones may come in, and only by the real servers' devices", "S27", ROUTED, gateway=True),
    Need("rule", "mark", "mangle PREROUTING", "a service of a firewall mark gets the packets that bear it when they "
         "reach the director", "ip_vs_core.c: ip_vs_in_hook; ip_vs_ctl.c: ip_vs_service_find"),
    Need("rule", "mark-local", "mangle OUTPUT", "packets of the director itself never pass PREROUTING", "S20, S21",
         clients=True),
    Need("rule", "uplink", "ip rule", "replies from a virtual address leave by its uplink", "S4", uplinks=True),
    # -- what to know
    Need("note", "one-way", "", "the director sees one direction only: packets after the SYN are INVALID, and their "
         "conntrack entries stay in SYN_SENT for 120 s; conntrack = true is of no use to them", "S18", ROUTED,
         gateway=False),
    Need("note", "send_redirects", "", "with clients and servers on one device, send_redirects of all and of that "
         "device must be 0, or servers learn a way past the director", "ip_forward.c: ip_forward", _NAT),
    Need("note", "client-address", "", "a program on the director must bind another address of it than the virtual "
         "one, or the server answers itself", "S27", ROUTED, clients=True),
)  # fmt: skip


def needs(situations: Iterable[Situation], kind: str) -> list[Need]:
    """The rows of a kind that any of the situations needs, each once, in the table's order."""
    found = tuple(situations)
    return [need for need in NEEDS if need.kind == kind and any(need.holds(each) for each in found)]


def situations() -> list[Situation]:
    """Every situation there is: each is a profile."""
    flags = (False, True)
    return [
        Situation(forward, family, gateway, clients, ftp, uplinks)
        for forward, family, gateway, clients, ftp, uplinks in product(
            FORWARDS, (INET, INET6), flags, flags, flags, flags
        )
        if gateway or forward in ROUTED
    ]
