"""ipvsadm's lines: written, read back, and every bad one told of; its order; its numbers."""

from __future__ import annotations

from functools import cmp_to_key
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipvsctl.errors import FileError, Refused
from ipvsctl.formats.ipvsadm_lines import NumericNames, read, save_lines
from ipvsctl.formats.ipvsadm_listing import scaled
from ipvsctl.formats.ipvsadm_text import _compare, _merge_sort, address_text, sort_services
from ipvsctl.model.address import INET6, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.row import ServiceRow, row_of
from ipvsctl.model.service import Server, Service
from ipvsctl.model.status import ServerStatus, ServiceStatus
from tests.formats.strategies import wishes
from tests.strategies import service_addresses

WEB = ServiceAddress.parse("tcp:192.0.2.1:80")


def row(wish: ServiceWish) -> ServiceRow:
    return row_of(ServiceStatus(wish.service, tuple(ServerStatus(server) for server in wish.servers)))


def has_line(wish: ServiceWish) -> bool:
    """Whether ipvsadm can be told of it: names as modules have them, and no port but the service's without NAT."""
    service = wish.service
    names = [service.scheduler, service.pe or "x"]
    return all(name.replace("-", "a").isalnum() and name != "ipvsadm" for name in names) and all(
        server.forward == "nat" or service.address.protocol == "fwmark" or server.address.port == service.address.port
        for server in wish.servers
    )


@settings(deadline=None)
@given(service_addresses.flatmap(lambda address: wishes(address, True)))
def test_what_is_saved_reads_as_the_same(wish: ServiceWish) -> None:
    assume(has_line(wish))
    text = "".join(save_lines([row(wish)], whole=True))
    (found,) = read(text, "t", NumericNames())
    assert found.service == wish.service
    assert set(found.servers) == set(wish.servers)


@settings(deadline=None)
@given(service_addresses.flatmap(lambda address: wishes(address, True)))
def test_what_has_no_line_is_refused_by_name(wish: ServiceWish) -> None:
    try:
        text = "".join(save_lines([row(wish)], whole=True))
    except Refused as error:
        assert str(wish.service.address) in str(error)
        assert not has_line(wish)
        return
    (found,) = read(text, "t", NumericNames())
    assert (found.service, set(found.servers)) == (wish.service, set(wish.servers))


def test_thresholds_and_masks_are_kept_by_save_and_not_by_ipvsadm() -> None:
    server = Server(ServerAddress.parse("10.0.0.2", WEB), "nat", 3, 100, 50)
    table = [row(ServiceWish(Service(WEB, "rr", netmask="255.255.255.0"), (server,)))]
    assert list(save_lines(table, whole=True)) == [
        "-A -t 192.0.2.1:80 -s rr -M 255.255.255.0\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -m -w 3 -x 100 -y 50\n"
    ]
    assert list(save_lines(table)) == ["-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -m -w 3\n"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-A -t 10.0.0.1", "Zero port specified for non-persistent service"),
        ("-A -t 10.0.0.1:80 -s rr -s rr", "multiple 'scheduler' options specified"),
        ("-A -t 10.0.0.1:80 --bogus", "--bogus: unknown option"),
        ("foo", "'foo' is no command, expected -A or -a"),
        ("-C", "--clear changes a table, and a file describes one: expected -A or -a"),
        ("-D -t 10.0.0.1:80", "--delete-service changes a table, and a file describes one: expected -A or -a"),
        ("-a -t 10.0.0.9:80 -r 10.0.0.2 -m",
         "there is no service tcp:10.0.0.9:80 in the lines before: its -A line is missing"),
        ("-A -t 10.0.0.2:80", "tcp:10.0.0.2:80 is there already, in line 1"),
        ("-a -t 10.0.0.2:80 -r 10.0.0.3:80 -m -w 1", "10.0.0.3:80 is a server of tcp:10.0.0.2:80 already"),
        ("-a -t 10.0.0.2:80 -r 10.0.0.4 -m -y 5", "lower threshold 5 is above the upper threshold 0"),
        ("-a -t 10.0.0.2:80 -r 10.0.0.999:80 -m -w 1", "illegal real server address[:port] specified"),
        ("-a -t 10.0.0.2:80 -r 10.0.0.5:99999 -m -w 1", "illegal real server address[:port] specified"),
        ("-a -t 10.0.0.2:80 -r 10.0.0.5:80 -m -w 4294967296", "illegal weight specified"),
    ],
)  # fmt: skip
def test_a_bad_line_is_told_with_its_number(line: str, reason: str) -> None:
    text = f"-A -t 10.0.0.2:80\n# comment\n\n-a -t 10.0.0.2:80 -r 10.0.0.3:80 -m -w 1\n{line}\n"
    with pytest.raises(FileError) as caught:
        read(text, "rules", NumericNames())
    assert str(caught.value) == f"rules:5: {reason}"


def test_every_bad_line_is_told() -> None:
    with pytest.raises(FileError) as caught:
        read("\n".join(["-B"] * 30), "rules", NumericNames())
    assert [str(caught.value), *caught.value.__notes__] == [
        f"rules:{number}: '-B' is no command, expected -A or -a" for number in range(1, 31)
    ]


def test_comments_and_the_short_way_for_servers() -> None:
    text = (
        "  # indented\nipvsadm -A -t 10.0.0.2:80 -s rr # why\n-a -t 10.0.0.2:80 -r 10.0.0.3:8080 -g -w 1\r\n"
        "-a -t 10.0.0.2:80 -r 10.0.0.4:8080 -m -w 7 #x\n-a -t 10.0.0.2:80 -r 10.0.0.5:8080 -m -w 7"
    )
    (wish,) = read(text, "t", NumericNames())
    assert [(str(server.address), server.forward, server.weight) for server in wish.servers] == [
        ("10.0.0.3:80", "dr", 1), ("10.0.0.4:8080", "nat", 7), ("10.0.0.5:8080", "nat", 7),
    ]  # fmt: skip


# -- order and numbers ------------------------------------------------------------------------------------------------


def test_addresses_half_a_circle_apart_come_the_other_way_round() -> None:
    addresses = [ServiceAddress.of("tcp", text, 80) for text in ("10.0.0.1", "192.168.0.1")]
    found = sort_services([ServiceRow(Service(address), ()) for address in addresses])
    assert [each.service.address.address for each in found] == ["192.168.0.1", "10.0.0.1"]


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9)), max_size=30))
def test_the_merge_sort_sorts_where_that_has_a_meaning(keys: list[tuple[int, int]]) -> None:
    small = [(first % 2**31, second) for first, second in keys]
    merged = [key for key, _ in _merge_sort([(key, at) for at, key in enumerate(small)])]
    assert merged == sorted(small)
    # Else it need not be sorted, but nothing is lost, and neighbours that were merged are in order.
    merged = [key for key, _ in _merge_sort([(key, at) for at, key in enumerate(keys)])]
    assert sorted(merged) == sorted(keys)


def test_the_merge_sort_is_not_what_pythons_sort_does() -> None:
    random = Random(7)
    keys = [(random.randrange(2**32),) for _ in range(120)]
    merged = [key for key, _ in _merge_sort([(key, at) for at, key in enumerate(keys)])]
    assert merged != sorted(keys, key=cmp_to_key(_compare))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("::ffff:a00:6", "::ffff:10.0.0.6"), ("::1", "::1"), ("::", "::"), ("::a00:6", "::10.0.0.6"),
        ("::5", "::5"), ("2001:db8::1", "2001:db8::1"), ("::1:0:0:1", "::1:0:0:1"),
        ("::ffff:0:a00:6", "::ffff:0:a00:6"),
    ],
)  # fmt: skip
def test_some_addresses_end_as_ipv4(address: str, text: str) -> None:
    assert address_text(ServiceAddress("tcp", INET6, address, 80).address) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "        0"), (99999999, " 99999999"), (10**8, "  100000K"), (10**9 - 1, "  999999K"), (10**9, "    1000M"),
        (10**11 - 1, "   99999M"), (10**11, "     100G"), (10**14 - 1, "   99999G"), (10**14, "     100T"),
        (2**64 - 1, "18446744T"),
    ],
)  # fmt: skip
def test_counters_are_cut_as_ipvsadm_cuts_them(number: int, text: str) -> None:
    assert scaled(number) == text
