"""What a plan names: exactly what differs, in the order that is safe."""

from __future__ import annotations

from typing import Any

from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    Change,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    LoadModule,
    ReplaceRules,
    SetSysctl,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
)
from ipvsctl.model.director import Director, FirewallWish, Found, Nfct, ServiceWish, Wanted
from ipvsctl.model.rule import OwnChain, Rule
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Daemon, ServerStatus, ServiceStatus, Stats, Timeouts
from ipvsctl.plan.difference import difference

VIP = ServiceAddress.parse("tcp:192.168.1.100:21")
OTHER = ServiceAddress.parse("udp:192.168.1.100:53")


def server(text: str, weight: int = 1) -> Server:
    return Server(ServerAddress.parse(text, VIP), "nat", weight)


def status(service: Service, *servers: Server) -> ServiceStatus:
    counters = Stats(connections=5)
    return ServiceStatus(service, tuple(ServerStatus(s, 1, 2, 0, counters) for s in servers), counters)


def found(*statuses: ServiceStatus, **rest: Any) -> Found:
    return Found(services={s.service.address: s for s in statuses}, **rest)


def changes(wish: Wanted, state: Found, prune: bool = False) -> tuple[Change, ...]:
    return difference(wish, state, prune).changes


FTP = Director(
    services=(ServiceWish(Service(VIP, "rr"), (server("10.0.2.2"),), "ftp"),),
    nfct=Nfct(conntrack=True),
    firewall=FirewallWish(protect=("192.168.1.100",)),
    timeouts=Timeouts(tcp=600),
)


def test_the_whole_director_in_safe_order() -> None:
    state = Found(timeouts=Timeouts(900, 120, 300), sysctls={"net.ipv4.ip_forward": "0"})
    plan = changes(wanted(FTP), state)
    assert [type(change) for change in plan] == [
        LoadModule, LoadModule, LoadModule, ReplaceRules, ReplaceRules, SetSysctl, SetSysctl, SetTimeouts, AddService,
        AddServer,
    ]  # fmt: skip
    assert plan[5] == SetSysctl("net.ipv4.vs.conntrack", "1", None)
    assert plan[7] == SetTimeouts(Timeouts(600, 120, 300), Timeouts(900, 120, 300))


def test_a_host_that_is_the_director_needs_nothing() -> None:
    wish = wanted(FTP)
    state = found(
        status(Service(VIP, "rr"), server("10.0.2.2")),
        modules={"ip_vs": "loaded", "nf_conntrack_ftp": "loaded", "ip_vs_ftp": "loaded"},
        chains=wish.chains,
        sysctls={"net.ipv4.vs.conntrack": "1", "net.ipv4.ip_forward": "1"},
        timeouts=Timeouts(600, 120, 300),
    )
    assert changes(wish, state) == ()
    assert changes(wish, state, prune=True) == ()


def test_a_service_is_edited_and_its_servers_follow_the_file() -> None:
    old, new = Service(VIP, "wlc"), Service(VIP, "rr", persistent=300)
    kept, heavier, extra, fresh = server("10.0.2.2"), server("10.0.2.3", 5), server("10.0.2.9"), server("10.0.2.4")
    state = found(status(old, extra, server("10.0.2.3", 1), kept))
    plan = changes(Wanted(services=(ServiceWish(new, (kept, heavier, fresh)),)), state)
    assert plan == (
        EditService(new, old), EditServer(VIP, heavier, server("10.0.2.3", 1)), AddServer(VIP, fresh),
        DeleteServer(VIP, extra),
    )  # fmt: skip


def test_only_prune_removes_what_is_not_named() -> None:
    foreign = status(Service(OTHER, "rr"), server("10.0.2.7:53"), server("10.0.2.8:53"))
    daemon = Daemon("backup", "eth0", 3)
    chain = OwnChain(INET, "raw", "IPVSCTL-OUTPUT", "OUTPUT", (Rule("ACCEPT"),))
    state = found(
        status(Service(VIP, "rr")), foreign, daemons=(daemon,), chains=(chain,), tables=frozenset({(INET, "raw")})
    )
    wish = Wanted(services=(ServiceWish(Service(VIP, "rr")),))
    assert changes(wish, state) == ()
    assert changes(wish, state, prune=True) == (
        ReplaceRules("iptables-legacy", INET, "raw", (), (chain,)),
        StopDaemon(daemon),
        DeleteService(foreign.service, (server("10.0.2.7:53"), server("10.0.2.8:53"))),
    )


def test_nothing_said_means_nothing_done() -> None:
    state = found(status(Service(VIP, "rr")), daemons=(Daemon("master", "eth0"),))
    assert changes(Wanted(), state) == ()


def test_daemons_are_restarted_when_a_named_setting_differs() -> None:
    running = Daemon("master", "eth0", 7, 1472, "224.0.0.81", 8848, 1)
    for wish, expected in (
        (Daemon("master", "eth0", 7), ()),
        (Daemon("master", "eth0", 7, ttl=1, port=8848), ()),
        (Daemon("master", "eth0", 8), (StopDaemon(running), StartDaemon(Daemon("master", "eth0", 8)))),
        (Daemon("master", "eth0", 7, ttl=2), (StopDaemon(running), StartDaemon(Daemon("master", "eth0", 7, ttl=2)))),
        (Daemon("backup", "eth0", 7), (StartDaemon(Daemon("backup", "eth0", 7)),)),
    ):
        assert changes(Wanted(daemons=(wish,)), Found(daemons=(running,))) == expected


def test_timeouts_left_open_stay() -> None:
    state = Found(timeouts=Timeouts(900, 120, 300))
    assert changes(Wanted(timeouts=Timeouts(tcp=900)), state) == ()
    assert changes(Wanted(timeouts=Timeouts(udp=60)), state) == (
        SetTimeouts(Timeouts(900, 120, 60), Timeouts(900, 120, 300)),
    )


def test_sysctls_compare_as_the_kernel_prints_them() -> None:
    wish = Wanted(sysctls=(("net.ipv4.vs.sync_threshold", "3 50"),))
    assert changes(wish, Found(sysctls={"net.ipv4.vs.sync_threshold": "3\t50"})) == ()


def test_undoing_ip_forward_brings_back_what_the_kernel_overwrites() -> None:
    before = {
        "net.ipv4.ip_forward": "0", "net.ipv4.conf.all.accept_redirects": "1", "net.ipv4.conf.all.forwarding": "0",
        "net.ipv4.conf.eth0.forwarding": "1",
    }  # fmt: skip
    (change,) = changes(Wanted(sysctls=(("net.ipv4.ip_forward", "1"),)), Found(sysctls=before))
    assert change.inverse() == (
        SetSysctl("net.ipv4.ip_forward", "0", "1"),
        SetSysctl("net.ipv4.conf.all.accept_redirects", "1"),
        SetSysctl("net.ipv4.conf.all.forwarding", "0"),
        SetSysctl("net.ipv4.conf.eth0.forwarding", "1"),
    )


def test_a_missing_jump_is_a_difference() -> None:
    chain = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("DROP"),))
    lost = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("DROP"),), place="", jump=False)
    moved = OwnChain(INET, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("DROP"),), place="")
    wish = Wanted(chains=(chain,))
    there = frozenset({(INET, "filter")})
    assert changes(wish, Found(chains=(lost,), tables=there)) == (
        ReplaceRules("iptables-legacy", INET, "filter", (chain,), (lost,)),
    )
    assert changes(wish, Found(chains=(moved,), tables=there)) == ()


def test_a_general_sysctl_comes_before_the_particular_ones_it_overwrites() -> None:
    wish = wanted(
        Director(
            services=(ServiceWish(Service(VIP, "rr"), (server("10.0.2.2"),)),),
            sysctls=(("net.ipv4.conf.eth0.forwarding", "0"),),
        )
    )
    state = Found(sysctls={"net.ipv4.ip_forward": "0", "net.ipv4.conf.eth0.forwarding": "0"})
    plan = [change for change in changes(wish, state) if isinstance(change, SetSysctl)]
    assert [change.name for change in plan] == ["net.ipv4.ip_forward", "net.ipv4.conf.eth0.forwarding"]


def test_defences_that_switch_themselves_on_are_not_a_difference() -> None:
    wish = Wanted(sysctls=(("net.ipv4.vs.drop_entry", "2"),))
    assert changes(wish, Found(sysctls={"net.ipv4.vs.drop_entry": "1"})) == ()
    assert len(changes(wish, Found(sysctls={"net.ipv4.vs.drop_entry": "3"}))) == 1
