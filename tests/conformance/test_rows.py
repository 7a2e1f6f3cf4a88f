"""Rows of lists are the same services and servers as the values; a refusal has the kernel's number."""

from __future__ import annotations

import errno

from ipvsctl.host import Host
from ipvsctl.model.change import AddServer, AddService, DeleteServer, DeleteService, EditServer
from ipvsctl.model.row import row_of
from tests.conformance.support import WEB, WEB6, attempt, must, server, service, web
from tests.conformance.test_servers import KINDS as SERVERS
from tests.conformance.test_services import KINDS as SERVICES


def test_rows_are_the_services(host: Host) -> None:
    must(host, *map(AddService, SERVICES))
    must(host, *(AddServer(WEB, each) for each in SERVERS if each.address.family == WEB.family))
    must(host, AddServer(WEB6, server("[2001:db8::2]:80")), AddServer(WEB6, server("10.0.2.2:80", "tun")))
    rows = sorted(host.ipvs.rows(), key=lambda row: row.service.address.sort_key)
    assert [(row.service, list(row.servers), row.stats) for row in rows] == [
        (row.service, list(row.servers), row.stats) for row in map(row_of, host.ipvs.services())
    ]
    assert len(rows) == len(SERVICES)
    known = {str(each.address) for each in SERVERS if each.address.family == WEB.family}
    assert {each.place for row in rows for each in row.servers} == known | {"[2001:db8::2]:80", "10.0.2.2:80"}


def test_no_services_are_no_rows(host: Host) -> None:
    assert list(host.ipvs.rows()) == []


def test_a_refusal_tells_the_number_of_the_kernel(host: Host) -> None:
    web(host, server("10.0.2.2:80"))
    numbers = []
    for change in (
        AddService(service("tcp:192.0.2.1:80")),
        AddService(service("tcp:192.0.2.9:80", "nosuch")),
        DeleteService(service("tcp:192.0.2.9:80")),
        AddServer(WEB, server("10.0.2.2:80")),
        AddServer(WEB6, server("[2001:db8::2]:80")),
        EditServer(WEB, server("10.0.2.9:80"), server("10.0.2.9:80")),
        DeleteServer(WEB, server("10.0.2.9:80")),
        AddServer(WEB, server("224.0.0.1:80")),
    ):
        (error,) = attempt(host, change)
        assert error is not None
        numbers.append(error.number)
    assert numbers == [
        errno.EEXIST, errno.ENOENT, errno.ESRCH, errno.EEXIST, errno.ESRCH, errno.ENOENT, errno.ENOENT, errno.EINVAL,
    ]  # fmt: skip
