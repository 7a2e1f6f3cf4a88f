"""The rules, sysctls and modules of statement S14's example, and the way back from a host to a file."""

from __future__ import annotations

import pytest

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.recipes import director_of, wanted
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.director import Director, FirewallWish, Found, Nfct, ServiceWish
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import ServerStatus, ServiceStatus, Timeouts

VIP = ServiceAddress.parse("tcp:192.168.1.100:21")


def wish(address: ServiceAddress = VIP, forward: str = "nat", helper: str | None = "ftp") -> ServiceWish:
    text = "[2001:db8::2]" if address.family == 10 else "10.0.2.2"
    return ServiceWish(Service(address, "rr"), (Server(ServerAddress.parse(text, address), forward),), helper)


def text(director: Director) -> list[str]:
    chains = wanted(director).chains or ()
    return [f"{chain.family} {chain.table} {chain.name} {rule}" for chain in chains for rule in chain.rules]


EXAMPLE = Director((wish(),), Nfct(conntrack=True), FirewallWish(protect=("192.168.1.100",)))


def test_the_rules_of_s14_with_todays_helper_rule() -> None:
    assert text(EXAMPLE) == [
        "2 raw IPVSCTL-PREROUTING -d 192.168.1.100 -p tcp -m tcp --dport 21 -j CT --helper ftp",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p tcp -m tcp --dport 21 -j ACCEPT",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p tcp -j DROP",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p udp -j DROP",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p sctp -j DROP",
        "2 filter IPVSCTL-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "2 filter IPVSCTL-FORWARD-DROP -j DROP",
    ]


def test_modules_and_sysctls_of_the_example() -> None:
    want = wanted(EXAMPLE)
    assert want.modules == ("ip_vs", "nf_conntrack_ftp", "ip_vs_ftp")
    assert want.sysctls == (("net.ipv4.vs.conntrack", "1"), ("net.ipv4.ip_forward", "1"))
    assert want.notes == ()


def test_local_clients_have_their_rules() -> None:
    firewall = FirewallWish(protect=("192.168.1.100",), local_clients=("10.0.2.2",), forward_policy="accept")
    lines = text(Director((wish(),), Nfct(conntrack=True), firewall))
    assert "2 filter IPVSCTL-INPUT -s 10.0.2.2 -p tcp -j ACCEPT" in lines
    assert lines.index("2 filter IPVSCTL-INPUT -s 10.0.2.2 -p tcp -j ACCEPT") < lines.index(
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p tcp -j DROP"
    )
    assert "2 raw IPVSCTL-OUTPUT -d 192.168.1.100 -p tcp -m tcp --dport 21 -j CT --helper ftp" in lines
    assert not any("FORWARD-DROP" in line for line in lines)


def test_every_kind_of_service_is_let_through() -> None:
    services = [
        wish(ServiceAddress.parse(text), helper=None)
        for text in ("udp:192.168.1.100:53", "tcp:192.168.1.100:0", "fwmark:7", "tcp:192.168.1.101:80")
    ]
    lines = text(Director(tuple(services), Nfct(conntrack=True), FirewallWish(protect=("192.168.1.100",))))
    accepted = [line for line in lines if "IPVSCTL-INPUT" in line and line.endswith("ACCEPT")][1:]
    assert accepted == [
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p udp -m udp --dport 53 -j ACCEPT",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -p tcp -j ACCEPT",
        "2 filter IPVSCTL-INPUT -d 192.168.1.100 -m mark --mark 0x7 -j ACCEPT",
    ]


def test_ipv6_services_have_rules_of_their_own_family() -> None:
    six = ServiceAddress.parse("tcp:[2001:db8::100]:21")
    director = Director((wish(six),), Nfct(conntrack=True), FirewallWish(protect=("2001:db8::100",)))
    assert {line.split()[0] for line in text(director)} == {"10"}
    assert ("net.ipv6.conf.all.forwarding", "1") in wanted(director).sysctls


def test_a_helper_without_nat_servers_is_refused() -> None:
    with pytest.raises(UsageError, match="forward dr"):
        wanted(Director((wish(forward="dr"),)))


def test_the_file_wins_over_the_recipe() -> None:
    director = Director((wish(helper=None),), sysctls=(("net.ipv4.ip_forward", "0"),))
    assert wanted(director).sysctls == (("net.ipv4.ip_forward", "0"),)


def test_without_rules_nothing_is_said_about_rules() -> None:
    assert wanted(Director((wish(helper=None),))).chains is None


def test_devices_with_dots_and_accept_local() -> None:
    sysctls = dict(wanted(Director(nfct=Nfct(accept_local=("eth0.100",)))).sysctls)
    assert sysctls == {"net.ipv4.conf.eth0/100.accept_local": "1", "net.ipv4.ip_forward": "1"}


def test_state_rules_without_conntrack_are_noted() -> None:
    (note,) = wanted(Director((wish(),), None, FirewallWish(protect=("192.168.1.100",)))).notes
    assert "conntrack" in note


def test_a_host_that_became_the_director_gives_it_back() -> None:
    firewall = FirewallWish("iptables-legacy", ("192.168.1.100",), "drop", ("10.0.2.2",))
    both = (wish().servers[0], Server(ServerAddress.parse("10.0.2.3", VIP), "nat"))
    director = Director(
        (ServiceWish(Service(VIP, "rr"), both, "ftp"),),
        Nfct(True, True, False, ("eth0.100",)), firewall, (("net.ipv4.vs.expire_nodest_conn", "1"),),
        Timeouts(900, 120, 300),
    )  # fmt: skip
    want = wanted(director)
    servers = tuple(ServerStatus(server) for server in reversed(director.services[0].servers))
    found = Found(
        chains=want.chains or (), sysctls={**dict(want.sysctls), "net.ipv4.vs.drop_entry": "0"},
        timeouts=Timeouts(900, 120, 300),
        services={VIP: ServiceStatus(Service(VIP, "rr"), servers)},
    )  # fmt: skip
    assert director_of(found) == director
