"""Hypothesis strategies for the values of model/."""

from __future__ import annotations

from hypothesis import strategies as st

from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress, parse_ip
from ipvsctl.model.rule import Match, OwnChain, Rule
from ipvsctl.model.service import FLAG_BITS, Server, Service, Tunnel, flag_names
from ipvsctl.model.status import Daemon, ServerStatus, ServiceStatus, Stats, Timeouts

ports = st.integers(0, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(lambda address: parse_ip(str(address))[1])
weights = st.integers(0, 2**31 - 1)
schedulers = st.sampled_from(["rr", "wrr", "lc", "wlc", "sh", "mh", "fo", "nosuch"])


def addresses(family: int) -> st.SearchStrategy[str]:
    return ipv6 if family == INET6 else ipv4


families = st.sampled_from([INET, INET6])

service_addresses = st.one_of(
    st.builds(ServiceAddress.of, st.sampled_from(["tcp", "udp", "sctp"]), st.one_of(ipv4, ipv6), ports),
    st.builds(ServiceAddress.of_mark, st.integers(1, 2**32 - 1), families),
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    """A service that the kernel takes."""
    address = draw(service_addresses)
    scheduler = draw(schedulers)
    bits = sum(draw(st.sets(st.sampled_from(list(FLAG_BITS.values())))))
    if address.family == INET6:
        mask: st.SearchStrategy[str | int] = st.integers(1, 128)
    else:
        mask = st.integers(1, 32)
    return Service(
        address,
        scheduler,
        flag_names(bits, scheduler),
        draw(st.none() | st.integers(1, 2678400)),
        draw(st.none() | mask),
        draw(st.none() | st.just("sip")),
    )


tunnels = st.one_of(
    st.builds(Tunnel, st.just("gue"), st.integers(1, 65535), st.sampled_from(["no", "yes", "remote"])),
    st.builds(Tunnel, st.just("gre"), st.just(0), st.sampled_from(["no", "yes"])),
)


@st.composite
def servers(draw: st.DrawFn, family: int = INET) -> Server:
    """A server for a service of an address family; those reached by tun may be of either."""
    forward = draw(st.sampled_from(["nat", "dr", "tun"]))
    if forward == "tun":
        family = draw(families)
    upper = draw(weights)
    return Server(
        ServerAddress.of(draw(addresses(family)), draw(ports)),
        forward,
        draw(weights),
        upper,
        draw(st.integers(0, upper)),
        draw(st.none() | tunnels) if forward == "tun" else None,
    )


counters = st.integers(0, 2**64 - 1)
stats = st.builds(Stats, *[counters] * len(Stats._fields))
connections = st.integers(0, 2**32 - 1)
server_statuses = st.builds(ServerStatus, servers(), connections, connections, connections, stats)
statuses = st.builds(ServiceStatus, services(), st.lists(server_statuses, max_size=4).map(tuple), stats)

timeouts = st.builds(Timeouts, *[st.integers(0, 2678400)] * 3)
daemons = st.builds(
    Daemon, st.sampled_from(["master", "backup"]), st.sampled_from(["eth0", "lo"]), st.integers(0, 255),
    st.integers(0, 65507), st.sampled_from(["", "224.0.0.81", "ff02::5"]), ports, st.integers(0, 255),
)  # fmt: skip

options = st.lists(st.tuples(st.sampled_from(["dport", "ctstate", "helper"]), st.text(max_size=5)), max_size=2).map(
    tuple
)
rules = st.builds(
    Rule, st.sampled_from(["ACCEPT", "DROP", "CT"]), st.sampled_from(["", "tcp"]), st.just("") | ipv4,
    st.just("") | ipv4, st.sampled_from(["", "eth0"]), st.sampled_from(["", "eth1"]),
    st.lists(st.builds(Match, st.sampled_from(["tcp", "conntrack"]), options), max_size=2).map(tuple), options,
)  # fmt: skip
chains = st.builds(
    OwnChain, families, st.sampled_from(["filter", "raw"]), st.sampled_from(["IPVSCTL-INPUT", "IPVSCTL-OUTPUT"]),
    st.sampled_from(["INPUT", "OUTPUT"]), st.lists(rules, max_size=3).map(tuple),
    st.sampled_from(["first", "last", ""]), st.booleans(),
)  # fmt: skip
