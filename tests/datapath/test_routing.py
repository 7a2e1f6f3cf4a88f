"""Routing: tables, rules, the checks of a packet that comes in, and the choice of a source."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.fib import CACHED, Dst
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.snapshot import Device
from ipvsctl.wire.address import packed, readable
from tests.datapath.ip_rig import DEVICES, ROUTES, Host, datagram


def arrive(host: Host, source: str, destination: str, device: str = "eth0", mark: int = 0) -> tuple[Dst | Reason, Skb]:
    skb = Skb(datagram(source, destination), device)
    skb.mark = mark
    return host.routing.input(skb), skb


def kind(host: Host, source: str, destination: str, device: str = "eth0", mark: int = 0) -> object:
    """The kind of the route, or why there is none."""
    found, _ = arrive(host, source, destination, device, mark)
    return found if isinstance(found, Reason) else found.kind


def out(host: Host, destination: str, source: str = "", **how: object) -> tuple[object, ...] | Reason:
    """Kind, device, gateway, source of an output route."""
    family = INET6 if ":" in destination else INET
    found = host.routing.output(family, packed(destination), packed(source) if source else b"", **how)  # type: ignore
    if isinstance(found, Reason):
        return found
    return found.kind, found.device, readable(found.gateway) if found.gateway else "", readable(found.source)


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("10.0.0.9", "10.0.0.1", "local"),
        ("10.0.0.9", "192.168.1.1", "local"),
        ("10.0.0.9", "192.168.1.7", "unicast"),
        ("10.0.0.9", "10.0.0.255", "broadcast"),
        ("10.0.0.9", "255.255.255.255", "broadcast"),
        ("0.0.0.0", "255.255.255.255", "broadcast"),
        ("0.0.0.0", "0.0.0.0", "broadcast"),
        ("10.0.0.9", "10.0.0.0", "unicast"),  # since 5.14 the network's own address is an ordinary one
        ("10.0.0.9", "224.0.0.1", "multicast"),
        ("10.0.0.9", "224.0.0.5", Reason.NOT_MEMBER),
        ("224.0.0.5", "10.0.0.1", Reason.MARTIAN_SOURCE),
        ("255.255.255.255", "10.0.0.1", Reason.MARTIAN_SOURCE),
        ("0.0.0.0", "10.0.0.1", Reason.MARTIAN_SOURCE),
        ("10.0.0.9", "0.0.0.0", Reason.MARTIAN_DESTINATION),
        ("0.1.2.3", "10.0.0.1", "local"),  # 0/8 but 0.0.0.0 is valid since 5.3
        ("10.0.0.9", "127.0.0.1", Reason.MARTIAN_DESTINATION),
        ("127.0.0.1", "10.0.0.1", Reason.MARTIAN_SOURCE),
        ("127.0.0.1", "127.0.0.1", Reason.MARTIAN_DESTINATION),
        ("10.0.0.1", "192.168.1.7", Reason.MARTIAN_SOURCE),
        ("192.168.1.1", "10.0.0.1", Reason.MARTIAN_SOURCE),
        ("10.0.0.255", "192.168.1.7", "unicast"),  # with rp_filter 0 only own addresses are looked for
    ],
)
def test_an_ipv4_packet_that_comes_in(source: str, destination: str, expected: object) -> None:
    assert kind(Host(), source, destination) == expected


@pytest.mark.parametrize(
    ("sysctls", "source", "destination", "device", "expected"),
    [
        ({"net.ipv4.conf.all.accept_local": 1}, "192.168.1.1", "10.0.0.9", "eth1", "unicast"),
        ({"net.ipv4.conf.eth1.accept_local": 1}, "192.168.1.1", "10.0.0.9", "eth1", "unicast"),
        ({"net.ipv4.conf.eth0.accept_local": 1}, "192.168.1.1", "10.0.0.9", "eth1", Reason.MARTIAN_SOURCE),
        # accept_local does not help against strict rp_filter: the route back is by the loopback device
        ({"net.ipv4.conf.eth1.accept_local": 1, "net.ipv4.conf.all.rp_filter": 1},
         "10.0.0.1", "10.0.0.9", "eth1", Reason.RP_FILTER),
        ({"net.ipv4.conf.eth1.accept_local": 1, "net.ipv4.conf.all.rp_filter": 2},
         "10.0.0.1", "10.0.0.9", "eth1", "unicast"),
        ({"net.ipv4.conf.all.rp_filter": 1}, "10.0.0.9", "192.168.1.7", "eth0", "unicast"),
        ({"net.ipv4.conf.all.rp_filter": 1}, "10.0.0.9", "192.168.1.7", "eth1", Reason.RP_FILTER),
        ({"net.ipv4.conf.all.rp_filter": 1}, "10.0.0.9", "192.168.1.1", "eth1", Reason.RP_FILTER),
        ({"net.ipv4.conf.eth1.rp_filter": 1}, "10.0.0.9", "192.168.1.7", "eth1", Reason.RP_FILTER),
        ({"net.ipv4.conf.all.rp_filter": 2, "net.ipv4.conf.eth1.rp_filter": 1},
         "10.0.0.9", "192.168.1.7", "eth1", "unicast"),
        ({"net.ipv4.conf.all.rp_filter": 1}, "10.0.0.255", "192.168.1.7", "eth0", Reason.MARTIAN_SOURCE),
        ({"net.ipv4.conf.eth0.route_localnet": 1}, "10.0.0.9", "127.0.0.1", "eth0", "local"),
        ({"net.ipv4.conf.eth0.route_localnet": 1}, "127.0.0.9", "10.0.0.1", "eth0", "local"),
        ({"net.ipv4.ip_forward": 0}, "10.0.0.9", "192.168.1.7", "eth0", Reason.NOT_FORWARDING),
        ({"net.ipv4.ip_forward": 0}, "10.0.0.9", "10.0.0.1", "eth0", "local"),
        ({"net.ipv4.conf.eth0.forwarding": 0}, "10.0.0.9", "192.168.1.7", "eth0", Reason.NOT_FORWARDING),
        ({"net.ipv4.conf.eth0.forwarding": 0}, "192.168.1.9", "10.0.0.7", "eth1", "unicast"),
    ],
)  # fmt: skip
def test_sysctls_decide(
    sysctls: dict[str, object], source: str, destination: str, device: str, expected: object
) -> None:
    assert kind(Host(sysctls), source, destination, device) == expected


def test_the_order_of_checks_without_forwarding() -> None:
    """A martian source is found before forwarding is asked for in local delivery, and after it when passing through."""
    host = Host({"net.ipv4.ip_forward": 0})
    assert kind(host, "10.0.0.1", "192.168.1.7") == Reason.NOT_FORWARDING
    assert kind(host, "10.0.0.1", "192.168.1.1") == Reason.MARTIAN_SOURCE


def test_a_sysctl_written_later_counts_at_once() -> None:
    host = Host()
    assert kind(host, "192.168.1.1", "10.0.0.9", "eth1") == Reason.MARTIAN_SOURCE
    host.settings.write("net.ipv4.conf.all.accept_local", "1")
    assert kind(host, "192.168.1.1", "10.0.0.9", "eth1") == "unicast"
    host.settings.write("net.ipv4.ip_forward", "0")
    assert kind(host, "192.168.1.7", "10.0.0.9", "eth1") == Reason.NOT_FORWARDING


def test_a_device_that_is_not_there() -> None:
    host = Host()
    assert kind(host, "10.0.0.9", "10.0.0.1", "eth7") == Reason.NO_ROUTE
    assert kind(host, "fd10::9", "fd10::1", "eth7") == Reason.NO_ROUTE


def test_the_longest_prefix_and_the_lowest_metric() -> None:
    routes = (
        Route("10.8.0.0/16", "eth1", "192.168.1.2"),
        Route("10.8.3.0/24", "eth1", "192.168.1.4", metric=20),
        Route("10.8.3.0/24", "eth1", "192.168.1.3", metric=10),
        Route("10.8.3.128/25", kind="blackhole"),
        Route("10.9.0.0/16", kind="unreachable"),
        Route("10.10.0.0/16", kind="prohibit"),
        Route("10.11.0.0/16", kind="throw"),
        *ROUTES,
    )
    host = Host(routes=routes)
    assert out(host, "10.8.1.1") == ("unicast", "eth1", "192.168.1.2", "192.168.1.1")
    assert out(host, "10.8.3.1") == ("unicast", "eth1", "192.168.1.3", "192.168.1.1")
    assert out(host, "10.8.3.200") == Reason.BLACKHOLE
    assert out(host, "10.9.0.1") == Reason.UNREACHABLE
    assert out(host, "10.10.0.1") == Reason.PROHIBITED
    assert out(host, "10.11.0.1") == Reason.NO_ROUTE
    assert out(host, "10.12.0.1") == ("unicast", "eth0", "10.0.0.254", "10.0.0.1")
    assert out(host, "10.8.3.1", device="eth0") == ("unicast", "eth0", "10.0.0.254", "10.0.0.1")
    assert out(Host(routes=()), "10.12.0.1") == Reason.NO_ROUTE


def test_until_the_first_rule_local_and_main_are_one_table() -> None:
    """fib_frontend.c: fib_unmerge: a longer prefix in main wins over a shorter one in local."""
    devices = (Device("lo", ("10.5.0.1/24",), 65536), *DEVICES)
    routes = (Route("10.5.0.128/25", "eth1"), *ROUTES)
    assert kind(Host(devices=devices, routes=routes), "10.0.0.9", "10.5.0.9") == "local"
    assert kind(Host(devices=devices, routes=routes), "10.0.0.9", "10.5.0.200") == "unicast"
    rule = PolicyRule(INET, 100, source="10.77.0.0/16")
    assert kind(Host(devices=devices, routes=routes, policy=(rule,)), "10.0.0.9", "10.5.0.200") == "local"


def test_policy_rules() -> None:
    routes = (*ROUTES, Route("0.0.0.0/0", "eth1", "192.168.1.254", table=100), Route("10.66.0.0/16", "eth1", table=101))
    rules = (
        PolicyRule(INET, 50, mark=1, mask=0xF, table=100),
        PolicyRule(INET, 60, source="10.0.0.77", table=100),
        PolicyRule(INET, 70, destination="10.66.0.0/16", table=101),
        PolicyRule(INET, 80, in_device="eth1", action="prohibit"),
        PolicyRule(INET, 90, destination="10.67.0.0/16", action="blackhole"),
        PolicyRule(INET, 91, destination="10.68.0.0/16", action="unreachable"),
        PolicyRule(INET, 92, out_device="eth1", table=100),
    )
    host = Host(routes=routes, policy=rules)
    assert out(host, "8.8.8.8") == ("unicast", "eth0", "10.0.0.254", "10.0.0.1")
    assert out(host, "8.8.8.8", mark=0x31) == ("unicast", "eth1", "192.168.1.254", "192.168.1.1")
    assert out(host, "8.8.8.8", mark=2)[1] == "eth0"  # type: ignore[index]
    assert out(host, "10.66.1.1") == ("unicast", "eth1", "", "192.168.1.1")
    assert out(host, "10.67.1.1") == Reason.BLACKHOLE
    assert out(host, "10.68.1.1") == Reason.NO_ROUTE
    assert out(host, "8.8.8.8", device="eth1")[2] == "192.168.1.254"  # type: ignore[index]
    # a rule with a source sees none when an IPv4 output route has none yet; "iif eth1" never matches there
    assert out(host, "8.8.8.8", "10.0.0.1")[1] == "eth0"  # type: ignore[index]
    assert kind(host, "192.168.1.9", "8.8.8.8", "eth1") == Reason.PROHIBITED
    found, _ = arrive(host, "10.0.0.77", "8.8.8.8")
    assert isinstance(found, Dst) and found.device == "eth1"


def test_marked_packets_become_local() -> None:
    """The recipe of firewall mark services: ip rule fwmark 1 lookup 100; ip route add local 0/0 dev lo table 100."""
    rule = PolicyRule(INET, 100, mark=1, mask=1, table=100)
    host = Host(routes=(*ROUTES, Route("0.0.0.0/0", "lo", table=100, kind="local")), policy=(rule,))
    assert kind(host, "10.0.0.9", "192.168.1.7", mark=1) == "local"
    assert kind(host, "10.0.0.9", "192.168.1.7") == "unicast"
    assert not host.routing.is_local(INET, packed("192.168.1.7"))
    # No answer has such an address for its source: it is none of the host's.
    assert out(host, "10.0.0.9", "192.168.1.7") == Reason.NO_ROUTE
    assert out(host, "10.0.0.9", "192.168.1.7", any_source=True)[3] == "192.168.1.7"  # type: ignore[index]


def test_rules_make_the_source_check_look_at_routes() -> None:
    """With rules the kernel asks the tables for the source; a mark counts only with src_valid_mark."""
    routes = (*ROUTES, Route("0.0.0.0/0", kind="blackhole", table=100))
    rules = (PolicyRule(INET, 10, mark=7, mask=0xFF, table=100),)
    strict = {"net.ipv4.conf.all.rp_filter": 1}
    marked = Host({**strict, "net.ipv4.conf.all.src_valid_mark": 1}, routes=routes, policy=rules)
    skb = Skb(datagram("10.0.0.9", "10.0.0.1"), "eth0")
    skb.mark = 7
    check = marked.routing.four.validate
    assert check(skb, marked.routing.interfaces["eth0"], packed("10.0.0.1"), "") is Reason.RP_FILTER
    marked.settings.write("net.ipv4.conf.all.src_valid_mark", "0")
    assert check(skb, marked.routing.interfaces["eth0"], packed("10.0.0.1"), "") is True


def test_secondary_addresses_and_preferred_sources() -> None:
    devices = (
        Device("eth0", ("10.0.0.1/24", "10.0.0.2/24", "10.5.0.1/24", "10.0.0.3/32")),
        Device("lo", ("203.0.113.1/32",), 65536),
    )
    host = Host(
        devices=devices, routes=(Route("0.0.0.0/0", via="10.5.0.9"), Route("10.7.0.0/16", "eth0", source="10.0.0.2"))
    )
    assert out(host, "10.0.0.9") == ("unicast", "eth0", "", "10.0.0.1")
    assert out(host, "8.8.8.8") == ("unicast", "eth0", "10.5.0.9", "10.5.0.1")
    assert out(host, "10.7.0.1") == ("unicast", "eth0", "", "10.0.0.2")
    assert out(host, "10.0.0.2") == ("local", "lo", "", "10.0.0.1")
    assert out(host, "10.0.0.3") == ("local", "lo", "", "10.0.0.3")
    assert out(host, "127.3.4.5") == ("local", "lo", "", "127.0.0.1")
    assert out(host, "10.0.0.9", "10.0.0.2")[3] == "10.0.0.2"  # type: ignore[index]
    assert out(host, "10.0.0.9", "10.0.0.77") == Reason.NO_ROUTE
    assert out(host, "10.0.0.9", "127.0.0.1") == Reason.LOOPBACK_SOURCE
    assert readable(host.routing.select_source("eth0", packed("10.5.0.77"))) == "10.5.0.1"
    assert readable(host.routing.select_source("nowhere", packed("10.5.0.77"))) == "203.0.113.1"


def test_output_of_groups_and_broadcasts() -> None:
    host = Host()
    assert out(host, "255.255.255.255", "192.168.1.1") == ("broadcast", "eth1", "", "192.168.1.1")
    assert out(host, "224.0.0.5", device="eth1") == ("multicast", "eth1", "", "192.168.1.1")
    assert out(host, "239.1.1.1") == ("multicast", "eth0", "", "10.0.0.1")
    assert out(host, "192.168.1.255") == ("broadcast", "eth1", "", "192.168.1.1")


def test_types_of_addresses() -> None:
    host = Host({"net.ipv6.conf.all.forwarding": 1}, routes=())
    types = {
        "10.0.0.1": "local", "127.9.9.9": "local", "10.0.0.255": "broadcast", "255.255.255.255": "broadcast",
        "0.0.0.0": "broadcast", "224.1.1.1": "multicast", "8.8.8.8": "unicast", "10.0.0.9": "unicast",
        "fd10::1": "local", "::1": "local", "ff02::1": "multicast", "fd10::9": "unicast", "fd77::1": "unreachable",
        "fd10::": "anycast",
    }  # fmt: skip
    for text, expected in types.items():
        family = INET6 if ":" in text else INET
        assert host.routing.address_type(family, packed(text)) == expected, text
    assert host.routing.is_local(INET6, packed("fd20::1")) and not host.routing.is_local(INET6, packed("fd20::2"))


@pytest.mark.parametrize(
    ("source", "destination", "device", "expected"),
    [
        ("fd10::9", "fd10::1", "eth0", "local"),
        ("fd10::9", "fd20::1", "eth0", "local"),
        ("fd10::9", "fd20::7", "eth0", "unicast"),
        ("fd10::1", "fd20::7", "eth1", "unicast"),  # IPv6 knows no martian sources
        ("fe80::9", "fe80::a", "eth0", "local"),
        ("fe80::9", "fe80::a", "eth1", "unicast"),  # another host's on that link
        ("fe80::9", "ff02::1", "eth0", "multicast"),
        ("fe80::9", "ff02::1:ff00:a", "eth0", "multicast"),
        ("fe80::9", "ff02::1:ff00:b", "eth0", Reason.NOT_MEMBER),
        ("fe80::9", "ff02::2", "eth0", "multicast"),  # all routers: this host forwards
        ("fd10::9", "fd20::", "eth0", "local"),  # the subnet-router anycast address
    ],
)
def test_an_ipv6_packet_that_comes_in(source: str, destination: str, device: str, expected: object) -> None:
    assert kind(Host(), source, destination, device) == expected


def test_ipv6_without_forwarding() -> None:
    """ip6_forward asks only "all", and a packet without any route is answered nevertheless."""
    host = Host({"net.ipv6.conf.all.forwarding": 0}, routes=())
    assert kind(host, "fd10::9", "fd20::7") == Reason.NOT_FORWARDING
    assert kind(host, "fd10::9", "fd77::7") == Reason.NO_ROUTE
    assert kind(host, "fd10::9", "fd20::") == Reason.NOT_FORWARDING
    assert kind(host, "fe80::9", "ff02::2") == Reason.NOT_MEMBER
    one = Host({"net.ipv6.conf.all.forwarding": 0, "net.ipv6.conf.eth0.forwarding": 1})
    assert kind(one, "fd10::9", "fd20::7") == Reason.NOT_FORWARDING


def test_ipv6_source_selection() -> None:
    devices = (
        Device("eth0", ("2001:db8:1::1/64", "fd10::1/64", "fd10::5/64", "fe80::a/64")),
        Device("eth1", ("2001:db8:2::1/64", "fd10:2::1/64", "fe80::b/64")),
    )
    host = Host(
        devices=devices, routes=(Route("::/0", "eth1", "fe80::fe"), Route("fd77::/16", "eth0", source="fd10::5"))
    )
    assert out(host, "2600::1") == ("unicast", "eth1", "fe80::fe", "2001:db8:2::1")
    assert out(host, "fd99::1") == ("unicast", "eth1", "fe80::fe", "fd10:2::1")  # same label
    assert out(host, "fd10::9") == ("unicast", "eth0", "", "fd10::1")
    assert out(host, "fd77::9") == ("unicast", "eth0", "", "fd10::5")
    assert out(host, "fe80::9", device="eth1") == ("unicast", "eth1", "", "fe80::b")
    assert out(host, "fe80::9", device="eth0") == ("unicast", "eth0", "", "fe80::a")
    assert out(host, "2001:db8:2::1") == ("local", "lo", "", "2001:db8:2::1")
    assert out(host, "::1") == ("local", "lo", "", "::1")
    assert out(host, "ff02::1", device="eth1") == ("multicast", "eth1", "", "fe80::b")
    assert out(Host(devices=devices, routes=()), "2600::1") == Reason.NO_ROUTE


def test_ipv6_rules_and_rejecting_routes() -> None:
    routes = (
        Route("::/0", "eth0", "fd10::fe"), Route("::/0", "eth1", "fd20::fe", table=7),
        Route("fd55::/16", kind="prohibit"), Route("fd56::/16", kind="blackhole"),
        Route("fd57::/16", kind="unreachable"),
    )  # fmt: skip
    rules = (PolicyRule(INET6, 5, source="fd20::/64", table=7), PolicyRule(INET6, 6, mark=9, mask=9, table=7))
    host = Host(routes=routes, policy=rules)
    assert out(host, "2600::1", "fd20::1")[1] == "eth1"  # type: ignore[index]
    assert out(host, "2600::1", "fd10::1")[1] == "eth0"  # type: ignore[index]
    assert out(host, "2600::1", "fd10::1", mark=9)[1] == "eth1"  # type: ignore[index]
    assert kind(host, "fd20::9", "fd55::1", "eth1") == "unicast"
    assert kind(host, "fd10::9", "fd55::1") == Reason.PROHIBITED
    assert kind(host, "fd10::9", "fd56::1") == Reason.BLACKHOLE
    assert kind(host, "fd10::9", "fd57::1") == Reason.UNREACHABLE


def test_of_equal_ipv6_routes_the_one_by_the_device_it_came_in_is_taken() -> None:
    """rt6_score_route: the incoming device is a wish."""
    routes = (Route("fd88::/16", "eth0", "fd10::fe"), Route("fd88::/16", "eth1", "fd20::fe"))
    host = Host(routes=routes)
    for device, source in (("eth0", "fd10::9"), ("eth1", "fd20::9")):
        found, _ = arrive(host, source, "fd88::1", device)
        assert isinstance(found, Dst) and found.device == device
    found, _ = arrive(host, "::1", "fd88::1", "lo")
    assert isinstance(found, Dst) and found.device == "eth0"


@pytest.mark.parametrize(
    ("sysctls", "source", "destination", "expected"),
    [
        ({}, "10.0.0.9", "8.8.8.8", True),
        ({}, "172.16.5.5", "8.8.8.8", False),  # the client is behind a router: err < RT_SCOPE_HOST
        ({"net.ipv4.conf.all.send_redirects": 0}, "10.0.0.9", "8.8.8.8", True),
        ({"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth0.send_redirects": 0}, "10.0.0.9", "8.8.8.8", False),
        ({}, "10.0.0.9", "192.168.1.7", False),
    ],
)
def test_when_a_redirect_is_due(sysctls: dict[str, object], source: str, destination: str, expected: bool) -> None:
    _, skb = arrive(Host(sysctls), source, destination)
    assert skb.redirect is expected


def test_mtu_of_routes() -> None:
    host = Host(routes=(*ROUTES, Route("10.44.0.0/16", "eth1", mtu=1000)))
    found = host.routing.output(INET, packed("10.44.0.1"))
    assert isinstance(found, Dst) and found.mtu == 1000
    own = host.routing.output(INET, packed("10.0.0.1"))
    assert isinstance(own, Dst) and own.mtu == 65535 and own.device == "lo"


def test_neighbours() -> None:
    host = Host(devices=(Device("eth0", ("10.0.0.1/24",), hosts=("10.0.0.9",)),), routes=())
    assert host.routing.neighbour("eth0", packed("10.0.0.9")) and not host.routing.neighbour("eth0", packed("10.0.0.8"))
    assert Host().routing.neighbour("eth0", packed("10.0.0.8"))


def test_the_cache_is_bounded() -> None:
    host = Host()
    for number in range(CACHED + 10):
        host.routing.output(INET, (0x08000000 + number).to_bytes(4, "big"))
    assert len(host.routing.fib4._cache) <= CACHED
