"""Reading doctor's evidence: every part of an emulated director, what is missing, and trial connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.errors import NotPermitted, Refused, Unavailable
from ipvsctl.formats.iptables_save import parse as parse_rules
from ipvsctl.formats.snapshot_file import parse
from ipvsctl.knowledge.checks import examine as find
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress
from ipvsctl.model.change import AddServer, AddService
from ipvsctl.model.facts import ConnectionGroup, Facts, FlowGroup, Link, LinkAddress
from ipvsctl.model.route import Route
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Connection, ConntrackEntry
from ipvsctl.plan.examine import examine, facts_of
from ipvsctl.plan.witness import MOST, journeys

VIP, RS = "192.168.1.100", "10.0.2.2"
WEB = ServiceAddress.parse(f"tcp:{VIP}:80")
LINKS = (
    Link("eth0", True, 1500, "02:00:00:00:00:01", (LinkAddress("10.0.1.1/24"), LinkAddress(f"{VIP}/32"))),
    Link("eth1", True, 1500, "02:00:00:00:00:02", (LinkAddress("10.0.2.1/24"),)),
)
ROUTES = (Route("0.0.0.0/0", "eth0", "10.0.1.254"),)
DROP = parse_rules(f"*filter\n-A INPUT -d {VIP}/32 -j DROP\nCOMMIT", INET)
ACCEPT = parse_rules("*filter\n-A INPUT -j ACCEPT\nCOMMIT", INET)


@pytest.fixture
def host() -> EmulatedHost:
    made = EmulatedHost("examined")
    made.modules.load("ip_vs")
    made.sysctl.set("net.ipv4.ip_forward", "1")
    server = Server(ServerAddress.parse(RS, WEB), "nat")
    made.ipvs.apply([AddService(Service(WEB, "rr")), AddServer(WEB, server)])
    return made


def test_an_emulated_director(host: EmulatedHost) -> None:
    facts = examine(host)
    assert [str(status.service.address) for status in facts.services] == [str(WEB)]
    assert facts.sysctls["net.ipv4.ip_forward"] == facts.sysctls["net.ipv4.conf.eth1.forwarding"] == "1"
    assert facts.features["ip_vs"] == "loaded" and facts.features["ip_vs_rr"] == "loaded"
    assert facts.timeouts.tcp == 900 and facts.table_size
    assert set(facts.missing) == {"kept", "links", "routes", "neighbours", "listeners"}
    (journey,) = facts.journeys
    assert (journey.session, journey.forward, journey.lost) == ("tcp", "nat", "")
    assert journey.client == journey.source != ""


def test_nothing_is_asked_of_ipvs_that_is_not_loaded() -> None:
    host = EmulatedHost("empty")
    facts = examine(host)
    assert host.modules.feature("ip_vs").state == "loadable"
    assert facts.services == () and "services" not in facts.missing
    assert "IPVS is not loaded" in facts.notes[-1]


def test_connections_and_flows_are_counted(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def connections() -> Iterator[Connection]:
        for number in range(9):
            yield Connection("tcp", f"10.9.0.{number}", 1024, VIP, 80, RS, 80, "SYN_RECV")
        yield Connection("tcp", "10.9.0.1", 0, VIP, 0, RS, 0, "NONE", flags=("template",))
        yield Connection("tcp", "10.9.0.1", 99, VIP, 80, RS, 80, "SYN_RECV", flags=("synced",))

    def stream() -> Iterator[ConntrackEntry]:
        entry = ConntrackEntry("tcp", "10.9.0.1", VIP, 1, 80, RS, "10.9.0.1", 80, 1, "ESTABLISHED")
        yield entry
        yield entry._replace(status=("seen_reply",))
        yield entry._replace(destination="10.8.8.8", reply_source="10.8.8.8")

    monkeypatch.setattr(host, "connections", connections)
    monkeypatch.setattr(host.conntrack, "stream", stream)
    facts = examine(host)
    clients = tuple(f"10.9.0.{number}" for number in range(5))
    assert facts.connections == (
        ConnectionGroup("tcp", VIP, 80, RS, 80, "SYN_RECV", 9, clients),
        ConnectionGroup("tcp", VIP, 80, RS, 80, "SYN_RECV", 1, ("10.9.0.1",), True),
    )
    assert facts.flows == (
        FlowGroup("tcp", VIP, 80, RS, "ESTABLISHED", False, "", 1),
        FlowGroup("tcp", VIP, 80, RS, "ESTABLISHED", True, "", 1),
    )


def test_a_packet_must_pass_every_rule_set(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second in ((DROP, ACCEPT), (ACCEPT, DROP)):
        found = Facts(links=LINKS, routes=ROUTES, tables={"iptables-legacy": first, "iptables-nft": second})
        monkeypatch.setattr(host, "evidence", lambda found=found: found)
        monkeypatch.setattr(host, "snapshot", refuse(Refused("two tables")))
        facts = examine(host)
        assert "journeys" not in facts.missing
        assert {"input-drops", "two-rule-sets"} <= {finding.id for finding in find(facts)}


def refuse(error: Exception) -> Any:
    def raises(*_: object, **__: object) -> Any:
        raise error

    return raises


def test_what_cannot_be_read_is_missing(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "snapshot", refuse(Refused("it has several next hops")))
    monkeypatch.setattr(host, "evidence", lambda: Facts(links=LINKS, routes=ROUTES))
    monkeypatch.setattr(host.firewall, "owners", refuse(Unavailable("no python-iptables")))
    monkeypatch.setattr(host, "connections", refuse(NotPermitted("not yours")))
    facts = examine(host)
    assert facts.missing == {
        "journeys": "it has several next hops", "own": "no python-iptables", "connections": "not yours",
    }  # fmt: skip
    assert facts.services and facts.sysctls


def test_without_services_there_is_no_trial(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.ipvs, "services", refuse(NotPermitted("not yours")))
    facts = examine(host)
    assert facts.missing["services"] == "not yours" and "journeys" in facts.missing


def test_a_saved_state_has_the_kernels_defaults() -> None:
    text = '[[device]]\nname = "eth0.5"\n[sysctl]\n"net.ipv4.ip_forward" = 1\n"net.ipv4.conf.all.rp_filter" = 2\n'
    facts = facts_of(parse(text, "x.toml"))
    assert facts.sysctls["net.ipv4.conf.eth0/5.forwarding"] == "1"
    assert facts.sysctls["net.ipv4.conf.eth0/5.send_redirects"] == "1"
    assert facts.highest("eth0.5", "rp_filter") == 2
    assert facts.number("net.ipv4.vs.conntrack") == 0 and facts.number("net.ipv4.vs.sync_threshold") == 3
    assert facts.number("net.netfilter.nf_conntrack_max") is None
    assert "neighbours" in facts.missing and "links" not in facts.missing
    assert "links" in facts_of(parse(text, "x.toml"), assumed=True).missing


NETWORK = f"""
[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "{VIP}/32"]
[[device]]
name = "eth1"
addresses = ["10.0.2.1/24"]
[sysctl]
"net.ipv4.ip_forward" = 1
"""


def with_services(*texts: str, forward: str = "nat") -> str:
    server = f'[[service.server]]\naddress = "{RS}"\nforward = "{forward}"\n'
    return NETWORK + "".join(f'[[service]]\naddress = "{text}"\nscheduler = "rr"\n{server}' for text in texts)


def test_what_is_tried() -> None:
    """FTP with its data connections, UDP; no marks, no SCTP, no address that is not the host's."""
    text = with_services(f"tcp:{VIP}:21", f"udp:{VIP}:53", f"sctp:{VIP}:9", "tcp:10.5.5.5:80")
    found, note = journeys(parse(text, "x.toml"))
    assert [(each.service, each.session) for each in found] == [
        (f"tcp:{VIP}:21", "tcp"), (f"tcp:{VIP}:21", "ftp-passive"), (f"tcp:{VIP}:21", "ftp-active"),
        (f"udp:{VIP}:53", "udp"),
    ]  # fmt: skip
    assert note == ""


def test_a_long_list_is_cut_and_said_so() -> None:
    found, note = journeys(parse(with_services(*(f"tcp:{VIP}:{port}" for port in range(1000, 1070))), "x"))
    assert len(found) == MOST and str(MOST) in note
    assert not any(each.lost for each in found)


def test_where_a_connection_is_lost() -> None:
    text = with_services(f"tcp:{VIP}:80") + "[timeout]\ntcp = 900\n"
    text = "iptables = '''\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n'''\n" + text
    (journey,), _ = journeys(parse(text, "x.toml"))
    assert (journey.lost, journey.reason, journey.hook) == ("reply", "POLICY", "FORWARD")
    assert journey.rule.startswith("filter FORWARD policy") and journey.title == "server: SYN, ACK"
    assert journey.state == "NEW" or journey.state == "INVALID"
