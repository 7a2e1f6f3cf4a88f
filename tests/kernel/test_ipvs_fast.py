"""The fast ways of the IPVS decoder: taken on a kernel's bytes, and of one mind with the general way on any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.errors import Refused
from ipvsctl.kernel import ipvs_codec as codec
from ipvsctl.kernel import ipvs_tables as wire
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.row import ServerRow, row_of
from ipvsctl.model.service import Service
from ipvsctl.model.status import ServiceStatus, Stats
from tests.kernel.test_ipvs_codec import ANSWER, COUNTED64, SERVICES, TCP4, ZEROS64

BY_ADDRESS = [(answer, service, stats) for answer, service, stats in SERVICES if service.address.protocol != "fwmark"]


@pytest.mark.parametrize(("answer", "service", "stats"), BY_ADDRESS, ids=[str(case[1].address) for case in BY_ADDRESS])
def test_services_of_a_kernel_are_read_the_fast_way(answer: str, service: Service, stats: Stats) -> None:
    data = bytes.fromhex(answer)
    assert codec._plain_service(data) == codec._walked_service(data) == (service, stats)


@pytest.mark.parametrize("answer", [ANSWER + ZEROS64, ANSWER + COUNTED64])
def test_servers_of_a_kernel_are_rows_of_what_they_are(answer: str) -> None:
    data = bytes.fromhex(answer)
    assert codec._STATUS_NEST.decode(data) == codec._walked(data)
    assert codec.decode_rows([data], INET) == rows([data], INET)


def rows(messages: list[bytes], family: int) -> list[ServerRow]:
    """Rows by way of the values."""
    servers = tuple(codec.decode_server(message, family) for message in messages)
    return list(row_of(ServiceStatus(Service(TCP4), servers)).servers)


@given(st.sampled_from([SERVICES[0][0], SERVICES[1][0], SERVICES[2][0]]), st.data())
def test_a_service_of_any_bytes_is_read_alike_both_ways(answer: str, data: st.DataObject) -> None:
    message = broken(bytes.fromhex(answer), data)
    try:
        general = codec._walked_service(message)
    except Refused:
        with pytest.raises(Refused):
            codec.decode_service(message)
    else:
        assert codec.decode_service(message) == general


@given(st.sampled_from([ANSWER + ZEROS64, ANSWER + COUNTED64]), st.sampled_from([INET, INET6]), st.data())
def test_a_server_of_any_bytes_is_read_alike_both_ways(answer: str, family: int, data: st.DataObject) -> None:
    message = broken(bytes.fromhex(answer), data)
    try:
        general = rows([message], family)
    except Refused:
        with pytest.raises(Refused):
            codec.decode_rows([message], family)
    else:
        assert codec.decode_rows([message], family) == general


def broken(message: bytes, data: st.DataObject) -> bytes:
    """A few bytes changed, or the end cut off."""
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed)


def test_attributes_in_another_order_are_read_the_general_way() -> None:
    answer, service, _ = SERVICES[0]
    found = wire.decode(wire.SERVICE, bytes.fromhex(answer)[4:])
    body = wire.encode(wire.SERVICE, [(name, found[name]) for name in reversed(found) if name in codec._OWN_SETTINGS])
    body = codec.service_key(TCP4)[4:] + body
    turned = wire.nest_head("service", len(body)) + body
    assert codec._plain_service(turned) is None
    assert codec.decode_service(turned)[0] == service
