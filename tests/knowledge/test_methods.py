"""What the rules of the recipes let through and what not, decided by the datapath: every method, every mode of FTP."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.history import listen_for_servers
from ipvsctl.datapath.nf.own import tables_of
from ipvsctl.datapath.session import Walk
from ipvsctl.datapath.verdict import Reason
from ipvsctl.knowledge.assumed import host_around
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.director import Director, FirewallWish, Nfct, ServiceWish
from ipvsctl.model.service import Server, Service
from tests.datapath.traced import talk, walk

MODES = ("ftp-passive", "ftp-extended-passive", "ftp-active", "ftp-extended-active")
VIRTUAL = {2: "192.168.1.100", 10: "2001:db8::100"}
SERVER = {2: "10.0.2.2", 10: "fd00:2::2"}
CLIENT = {2: "10.0.1.2", 10: "fd00:1::2"}


def at(family: int, port: int, address: str = "") -> str:
    where = address or VIRTUAL[family]
    return f"[{where}]:{port}" if family == 10 else f"{where}:{port}"


def service(forward: str, port: int = 21, family: int = 2, helper: str | None = "ftp") -> ServiceWish:
    address = ServiceAddress.parse(f"tcp:{at(family, port)}")
    persistent = 300 if helper and forward != "nat" else None
    server = Server(ServerAddress.of(SERVER[family], port), forward)
    return ServiceWish(Service(address, "rr", persistent=persistent), (server,), helper)


def director(*services: ServiceWish, gateway: bool = True, conntrack: bool = True, policy: str = "drop") -> Director:
    family = services[0].service.address.family
    return Director(
        services, Nfct(conntrack, accept_local=("eth1",) if gateway else ()),
        FirewallWish(protect=(VIRTUAL[family],), forward_policy=policy),
    )  # fmt: skip


def engine(wanted: Director, **changes: tuple[str, ...]) -> Engine:
    """A datapath that is the director. `changes`: chain name -> texts; rules that hold one of them are left out."""
    snapshot, chains = host_around(wanted)
    found = [
        replace(
            chain, rules=tuple(r for r in chain.rules if not any(t in str(r) for t in changes.get(_key(chain), ())))
        )
        for chain in chains
    ]
    made = Engine(replace(snapshot, tables=tables_of(found)), random.Random(0).randrange)
    listen_for_servers(made)
    return made


def _key(chain: object) -> str:
    return str(chain).rsplit("-", 1)[1].lower()


def converse(made: Engine, mode: str, family: int = 2, port: int = 21) -> list[Walk]:
    return talk(made, mode, (VIRTUAL[family], port), CLIENT[family])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("forward", ["nat", "dr", "tun"])
def test_every_mode_of_ftp_passes_through_the_director(forward: str, family: int, mode: str) -> None:
    """S8, S9, S10: with everything else closed."""
    walks = converse(engine(director(service(forward, family=family))), mode, family)
    assert walks[-1].arrived, [(each.title, each.verdict) for each in walks[-2:]]
    assert any("data: " in each.title for each in walks)
    assert not any(each.verdict == "direct" for each in walks)


@pytest.mark.parametrize(("forward", "mode", "chain", "rule"), [
    ("nat", "ftp-passive", "prerouting", "CT"),
    ("nat", "ftp-active", "prerouting", "CT"),
    ("dr", "ftp-passive", "prerouting", "CT"),
    ("dr", "ftp-active", "prerouting", "CT"),
    ("tun", "ftp-passive", "prerouting", "CT"),
    ("tun", "ftp-active", "forward", "--sport 20"),
    ("tun", "ftp-extended-active", "forward", "--sport 20"),
    ("dr", "ftp-passive", "input", "RELATED"),
    ("nat", "ftp-active", "forward", "RELATED"),
])  # fmt: skip
def test_no_rule_is_there_for_nothing(forward: str, mode: str, chain: str, rule: str) -> None:
    made = engine(director(service(forward)), **{chain: (rule,)})
    assert not converse(made, mode)[-1].arrived


@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("forward", ["nat", "dr", "tun"])
def test_other_ports_of_the_virtual_address_are_closed(forward: str, family: int) -> None:
    """The persistent service on port 21 would send every port from 1024 up to its server: only rules close them."""
    made = engine(director(service(forward, family=family)))
    assert converse(made, "ftp-passive", family)[-1].arrived
    for protocol, port in (("tcp", 20), ("tcp", 22), ("tcp", 80), ("tcp", 8080), ("tcp", 33001), ("udp", 53)):
        found = walk(
            made, f"{protocol} {at(family, 40200, CLIENT[family])} > {at(family, port)}" + " S" * (protocol == "tcp")
        )
        assert found.verdict is Reason.RULE, (protocol, port)
        assert not found.outputs


@pytest.mark.parametrize("forward", ["dr", "tun"])
def test_spoofed_packets_are_dropped_in_front_of_conntrack(forward: str) -> None:
    """S27: from the virtual address by the clients' device; from another address of ours by the servers'."""
    made = engine(director(service(forward)))
    converse(made, "ftp-passive")
    for text, device in (
        ("tcp 192.168.1.100:21 > 10.0.1.2:40000 SA", "eth0"),
        ("tcp 192.168.1.100:20 > 10.0.1.2:40100 S", "eth0"),
        ("tcp 10.255.255.1:80 > 10.0.1.2:40100 S", "eth1"),
        ("tcp 10.255.255.5:22 > 192.168.1.100:21 S", "eth1"),
        ("udp 10.255.255.1:53 > 10.255.255.5:53", "eth1"),
    ):
        found = walk(made, text, device)
        assert found.verdict is Reason.RULE, text
        assert not any("conntrack" in step.function for step in found.steps), text
    # Without the rule accept_local lets it in, which is what the rule is for.
    open_to_all = engine(director(service(forward)), spoof=("DROP",))
    assert walk(open_to_all, "tcp 10.255.255.5:22 > 192.168.1.100:21 S", "eth1").verdict is not Reason.RULE


def test_ipv6_has_the_same_check() -> None:
    made = engine(director(service("dr", family=10)))
    assert walk(made, "tcp [2001:db8::100]:20 > [fd00:1::2]:40100 S", "eth0").verdict is Reason.RULE
    assert walk(made, "tcp [fdff:ffff::1]:80 > [fd00:1::2]:40100 S", "eth1").verdict is Reason.RULE
    assert converse(made, "ftp-active", 10)[-1].arrived


def test_the_host_itself_is_no_spoofer() -> None:
    """Its packets to itself come in by lo."""
    made = engine(director(service("dr")))
    assert walk(made, "udp 10.255.255.1:53 > 10.255.255.5:53", "").verdict is Reason.NO_LISTENER


@pytest.mark.parametrize("conntrack", [True, False])
@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("forward", ["dr", "tun"])
def test_one_way_traffic_passes_though_it_is_invalid(forward: str, family: int, conntrack: bool) -> None:
    """S18: servers answer past the director."""
    wanted = director(service(forward, 80, family, None), gateway=False, conntrack=conntrack)
    made = engine(wanted)
    walks = talk(made, "http", (VIRTUAL[family], 80), CLIENT[family], direct=True)
    assert walks[-1].arrived
    assert any(each.verdict == "direct" for each in walks)
    assert walk(made, f"tcp {at(family, 40300, CLIENT[family])} > {at(family, 81)} S").verdict is Reason.RULE


@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("forward", ["nat", "dr", "tun"])
def test_a_mark_stands_for_its_members(forward: str, family: int) -> None:
    address = ServiceAddress.of_mark(7, family)
    members = tuple(ServiceAddress.parse(f"tcp:{at(family, port)}") for port in (80, 443))
    server = Server(ServerAddress.of(SERVER[family], 80), forward)
    made = engine(director(ServiceWish(Service(address, "rr"), (server,), None, members)))
    assert talk(made, "http", (VIRTUAL[family], 80), CLIENT[family])[-1].arrived
    assert walk(made, f"tcp {at(family, 40301, CLIENT[family])} > {at(family, 443)} S").verdict == "sent"
    assert walk(made, f"tcp {at(family, 40302, CLIENT[family])} > {at(family, 81)} S").verdict is Reason.RULE


@pytest.mark.parametrize(("policy", "verdict"), [("drop", Reason.RULE), ("accept", "sent")])
def test_other_forwarding_goes_by_the_policy(policy: str, verdict: object) -> None:
    made = engine(director(service("nat"), policy=policy))
    assert walk(made, "tcp 10.0.1.2:40000 > 10.0.2.2:22 S").verdict == verdict


def test_a_forged_packet_is_explained() -> None:
    made = engine(director(service("dr")))
    by_clients = walk(made, "tcp 192.168.1.100:21 > 10.0.1.2:40000 SA", "eth0")
    found = explain(made, by_clients)
    assert found is not None and found.mend == ""
    assert "192.168.1.100, a virtual address, by eth0: it is forged" in found.why
    found = explain(made, walk(made, "udp 10.255.255.1:53 > 10.255.255.5:53", "eth1"))
    assert found is not None and found.mend == "" and "forged" in found.why
