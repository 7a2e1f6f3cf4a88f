"""Export and apply are a fixed point: a host that became a director gives a file that changes nothing on it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipvsctl.errors import UsageError
from ipvsctl.formats.director_file import parse, render
from ipvsctl.knowledge.recipes import BE_LIBERAL, CONNTRACK, SNAT_REROUTE, director_of, wanted
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.director import Director, FirewallWish, Found, Nfct, ServiceWish, Uplink, Wanted
from ipvsctl.model.route import Route, policy_order, route_order
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import KERNEL_TIMEOUTS, ServerStatus, ServiceStatus
from ipvsctl.plan.difference import difference

VIRTUAL = {2: ("192.168.1.100", "192.168.1.101"), 10: ("2001:db8::100", "2001:db8::101")}
SERVERS = {2: ("10.0.2.2", "10.0.2.3"), 10: ("fd00:2::2", "fd00:2::3")}
GATEWAYS = {2: ("203.0.113.1", "203.0.113.9"), 10: ("2001:db8:1::1", "2001:db8:1::9")}
MODULES = ("ip_vs", "nf_conntrack")
"""What has the sysctls that the host below has."""

addresses = st.builds(
    lambda family, index, protocol, port: ServiceAddress.of(protocol, VIRTUAL[family][index], port),
    st.sampled_from((2, 10)), st.integers(0, 1), st.sampled_from(("tcp", "udp", "sctp")), st.sampled_from((0, 21, 53)),
)  # fmt: skip


@st.composite
def wishes(draw: st.DrawFn) -> ServiceWish:
    mark = draw(st.booleans())
    family = draw(st.sampled_from((2, 10)))
    address = ServiceAddress.of_mark(draw(st.integers(1, 3)), family) if mark else draw(addresses)
    servers = tuple(
        Server(ServerAddress.of(host, address.port or 80), draw(st.sampled_from(("nat", "dr", "tun"))))
        for host in SERVERS[address.family][: draw(st.integers(0, 2))]
    )
    members = tuple(each for each in draw(st.lists(addresses, max_size=3, unique=True)) if each.family == family)
    helped = address.protocol == "tcp" and address.port in (0, 21) and draw(st.booleans())
    persistent = 300 if address.port == 0 or helped or draw(st.booleans()) else None
    return ServiceWish(
        Service(address, "rr", persistent=persistent), servers, "ftp" if helped else None, members if mark else ()
    )


@st.composite
def directors(draw: st.DrawFn) -> Director:
    flag = st.sampled_from((None, True, False))
    services = draw(st.lists(wishes(), max_size=4, unique_by=lambda wish: wish.service.address))
    # A packet has one mark.
    seen: set[ServiceAddress] = set()
    for index, wish in enumerate(services):
        services[index] = replace(wish, members=tuple(each for each in wish.members if each not in seen))
        seen.update(wish.members)
    devices = draw(st.lists(st.sampled_from(("eth1", "eth2.100", "eth0", "all")), max_size=2, unique=True))
    protect = [a for family in (2, 10) for a in VIRTUAL[family] if draw(st.booleans())]
    clients = [a for family in (2, 10) for a in SERVERS[family] if draw(st.booleans())]
    firewall = FirewallWish("auto", tuple(protect), draw(st.sampled_from(("drop", "accept"))), tuple(clients))
    uplinks = [
        Uplink(address, device, gateway, draw(st.sampled_from((0, 0, 100, 101, 7))))
        for family in (2, 10)
        for address, gateway, device in zip(VIRTUAL[family], GATEWAYS[family], ("eth3", "eth4"), strict=True)
        if draw(st.booleans())
    ]
    return Director(
        tuple(services),
        draw(st.none() | st.builds(Nfct, flag, flag, flag, st.just(tuple(devices)))),
        firewall if draw(st.booleans()) and (protect or services) else None,
        tuple(draw(st.sampled_from(((), (("net.ipv4.vs.expire_nodest_conn", "1"),))))),
        uplinks=tuple(uplinks),
    )


def host_of(director: Director, want: Wanted) -> Found:
    """A host on which the plan was run, as it would be observed."""
    sysctls: dict[str, str | None] = {CONNTRACK: "0", SNAT_REROUTE: "1", BE_LIBERAL: "0"}
    sysctls |= dict(want.sysctls) | {f"net.ipv4.conf.{d.replace('.', '/')}.rp_filter": "2" for d in want.loosen}
    services = sorted(director.services, key=lambda wish: wish.service.address.sort_key)
    chains = sorted(want.chains or (), key=lambda chain: (chain.family, chain.table, chain.name))
    return Found(
        modules=dict.fromkeys((*want.modules, *MODULES), "loaded"), chains=tuple(chains), sysctls=sysctls,
        timeouts=KERNEL_TIMEOUTS,
        services={
            wish.service.address: ServiceStatus(wish.service, tuple(ServerStatus(s) for s in reversed(wish.servers)))
            for wish in services
        },
        routes=tuple(sorted(want.routes or (), key=route_order)),
        policy=tuple(sorted(want.policy or (), key=policy_order)),
    )  # fmt: skip


@settings(max_examples=300)
@given(directors())
def test_a_file_of_the_host_changes_nothing(director: Director) -> None:
    try:
        want = wanted(director)
    except UsageError:
        assume(False)
    host = host_of(director, want)
    assert not difference(want, host).changes, "the first apply is whole"
    exported = director_of(host)
    again = wanted(exported)
    assert difference(again, host).changes == ()
    # Nothing that the file said is lost; the tables that were chosen are named now.
    assert [w.helper for w in exported.services] == [host_helper(director, w) for w in exported.services]
    assert {w.service.address: w.members for w in exported.services} == {
        w.service.address: w.members for w in director.services
    }
    assert [replace(u, table=0) for u in exported.uplinks] == [replace(u, table=0) for u in director.uplinks]
    assert parse(render(exported).encode(), "export.toml") == exported


def host_helper(director: Director, wish: ServiceWish) -> str | None:
    return next(each.helper for each in director.services if each.service.address == wish.service.address)


def test_uplinks_of_one_table_share_its_route() -> None:
    both = tuple(Uplink(address, "eth3", "203.0.113.1", 100) for address in VIRTUAL[2])
    want = wanted(Director(uplinks=both))
    assert want.routes == (Route("0.0.0.0/0", "eth3", "203.0.113.1", 100),)
    assert [(rule.priority, rule.source, rule.table) for rule in want.policy or ()] == [
        (1000, "192.168.1.100/32", 100), (1001, "192.168.1.101/32", 100),
    ]  # fmt: skip


def test_tables_that_are_chosen_do_not_meet_those_that_are_given() -> None:
    three = (
        Uplink(VIRTUAL[2][0], "eth3", GATEWAYS[2][0]), Uplink(VIRTUAL[2][1], "eth4", GATEWAYS[2][1], 100),
        Uplink(VIRTUAL[10][0], "eth3", GATEWAYS[10][0]),
    )  # fmt: skip
    assert [route.table for route in wanted(Director(uplinks=three)).routes or ()] == [101, 100, 102]
