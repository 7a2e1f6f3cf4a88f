"""The two tables joined: what belongs together, what is alone, and whose service it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import Connection, ConntrackEntry, Expectation, ServerStatus, ServiceStatus
from ipvsctl.plan.join import Join, Joined, Services, wanted


def status(address: str, *servers: str) -> ServiceStatus:
    service = Service(ServiceAddress.parse(address), "rr")
    made = (ServerStatus(Server(ServerAddress.parse(each, service.address), "nat")) for each in servers)
    return ServiceStatus(service, tuple(made))


def conn(port: int = 4000, state: str = "ESTABLISHED", **more: Any) -> Connection:
    values = {"protocol": "tcp", "client": "10.0.1.2", "virtual": "192.0.2.1", "virtual_port": 80, "server": "10.0.2.2",
              "server_port": 8080, "expires": 60}  # fmt: skip
    return Connection(**{**values, "client_port": port, "state": state, **more})


def entry(port: int = 4000, **more: Any) -> ConntrackEntry:
    values = {"protocol": "tcp", "source": "10.0.1.2", "source_port": port, "destination": "192.0.2.1",
              "destination_port": 80, "reply_source": "10.0.2.2", "reply_destination": "10.0.1.2",
              "reply_source_port": 8080, "reply_destination_port": port, "state": "ESTABLISHED"}  # fmt: skip
    return ConntrackEntry(**{**values, **more})


WEB = status("tcp:192.0.2.1:80", "10.0.2.2:8080", "10.0.2.3:8080")
FTP = status("tcp:192.0.2.9:21", "10.0.2.2:21")
MARK = status("fwmark:7", "10.0.3.3:0")
SERVICES = Services([WEB, FTP, MARK])


def joined(connections: list[Connection], entries: list[ConntrackEntry], **more: Any) -> list[Joined]:
    join = Join(SERVICES, entries, tracked=more.pop("tracked", True), **more)
    return [*join.join(connections), *join.left()]


def test_one_connection_is_one_row() -> None:
    (row,) = joined([conn()], [entry()])
    assert row == Joined(conn(), entry(), "", WEB.service.address)
    assert row.ends == ("tcp", "10.0.1.2", 4000, "192.0.2.1", 80, "10.0.2.2", 8080)


def test_orphans_of_both_sides() -> None:
    first, second = joined([conn(1)], [entry(2)])
    assert (first.orphan, first.entry, first.service) == ("ipvs", None, WEB.service.address)
    assert (second.orphan, second.connection, second.service) == ("conntrack", None, WEB.service.address)
    assert second.ends == ("tcp", "10.0.1.2", 2, "192.0.2.1", 80, "10.0.2.2", 8080)


def test_nothing_is_an_orphan_while_ipvs_uses_no_conntrack() -> None:
    assert [row.orphan for row in joined([conn(1)], [], tracked=False)] == [""]


def test_entries_of_other_traffic_are_no_rows() -> None:
    others = [entry(destination="192.0.2.77"), entry(destination_port=443), entry(protocol="udp")]
    assert joined([], others) == []


def test_templates_and_synchronised_connections_are_no_orphans() -> None:
    rows = [conn(0, "ASSURED", flags=("template",)), conn(5, flags=("synced",))]
    assert [row.orphan for row in joined(rows, [])] == ["", ""]


def test_a_template_of_a_mark() -> None:
    template = conn(0, "NONE", protocol="ip", virtual="0.0.0.7", virtual_port=0, server="10.0.3.3", server_port=0,
                    flags=("template",))  # fmt: skip
    (row,) = joined([template], [])
    assert (row.service, row.orphan) == (MARK.service.address, "")


def test_a_connection_of_a_mark_is_known_by_its_server() -> None:
    (row,) = joined([conn(virtual="198.51.100.5", server="10.0.3.3")], [])
    assert row.service == MARK.service.address
    two = Services([MARK, status("fwmark:8", "10.0.3.3:0")])
    assert two.of(conn(virtual="198.51.100.5", server="10.0.3.3")) is None


def test_active_ftp_begins_at_the_server() -> None:
    """PORT: the server's port 20 to the client; IPVS's connection is client to port 20 of the virtual address."""
    data = conn(33000, virtual="192.0.2.9", virtual_port=20, server="10.0.2.2", server_port=20)
    opened = ConntrackEntry("tcp", "10.0.2.2", "10.0.1.2", 20, 33000, "10.0.1.2", "192.0.2.9", 33000, 20, "ESTABLISHED")
    (row,) = joined([data], [opened])
    assert (row.entry, row.orphan, row.service) == (opened, "", FTP.service.address)


def test_passive_ftp_is_awaited() -> None:
    """227: the port that the client will come from is not known; conntrack expects it."""
    control = entry(5000, destination="192.0.2.9", destination_port=21, reply_source_port=21, helper="ftp")
    listening = conn(0, "LISTEN", virtual="192.0.2.9", virtual_port=50000, server_port=50000, flags=("no-client-port",))
    expected = Expectation("tcp", "10.0.1.2", 0, "192.0.2.9", 50000, "10.0.1.2", 5000, "192.0.2.9", 21, 300)
    master = conn(5000, virtual="192.0.2.9", virtual_port=21, server_port=21)
    rows = joined([master, listening], [control], expectations=[expected])
    assert [(row.orphan, row.awaited, row.expects) for row in rows] == [("", False, (expected,)), ("", True, ())]
    (alone,) = joined([listening], [])
    assert (alone.orphan, alone.awaited) == ("ipvs", False)


def test_ftp_data_and_every_port_belong_to_their_service() -> None:
    assert SERVICES.exact("tcp", "192.0.2.9", 40000) == FTP.service.address
    assert SERVICES.exact("tcp", "192.0.2.9", 22) is None
    every = status("tcp:192.0.2.1:0", "10.0.2.2:0")
    both = Services([every, WEB])
    assert both.exact("tcp", "192.0.2.1", 443) == every.service.address
    assert both.exact("tcp", "192.0.2.1", 80) == WEB.service.address


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"service": WEB.service.address}, True),
        ({"service": FTP.service.address}, False),
        ({"server": ServerAddress.of("10.0.2.2", 0)}, True),
        ({"server": ServerAddress.of("10.0.2.2", 8080)}, True),
        ({"server": ServerAddress.of("10.0.2.2", 81)}, False),
        ({"client": "10.0.1.2"}, True),
        ({"client": "10.0.0.0/8"}, True),
        ({"client": "10.0.2.0/24"}, False),
        ({"client": "2001:db8::/32"}, False),
        ({"state": "established"}, True),
        ({"state": "SYN_RECV"}, False),
        ({"orphans": True}, False),
        ({"client": "10.0.1.0/24", "state": "ESTABLISHED"}, True),
        ({"client": "10.0.1.0/24", "state": "FIN_WAIT"}, False),
    ],
)
def test_filters(filters: dict[str, Any], fits: bool) -> None:
    (row,) = joined([conn()], [entry()])
    test = wanted(**filters)
    assert test is not None
    assert test(row) is fits


def test_no_filter_and_a_broken_one() -> None:
    assert wanted() is None
    with pytest.raises(ValueError, match="house"):
        wanted(client="house")


PORTS = st.sets(st.integers(1, 40))


@given(PORTS, PORTS)
def test_every_row_of_both_tables_is_there_once(of_ipvs: set[int], of_conntrack: set[int]) -> None:
    rows = joined([conn(port) for port in sorted(of_ipvs)], [entry(port) for port in sorted(of_conntrack)])
    assert {row.ends[2] for row in rows if not row.orphan} == of_ipvs & of_conntrack
    assert {row.ends[2] for row in rows if row.orphan == "ipvs"} == of_ipvs - of_conntrack
    assert {row.ends[2] for row in rows if row.orphan == "conntrack"} == of_conntrack - of_ipvs
    assert len(rows) == len(of_ipvs | of_conntrack)
