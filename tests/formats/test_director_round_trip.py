"""`render` is `parse` backwards; the short way for plain servers says what the grammar says, and is short."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipvsctl.formats import director_read
from ipvsctl.formats.director_file import parse, render
from ipvsctl.formats.director_grammar import TABLES
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress
from ipvsctl.model.director import Director, Nfct, ServiceWish
from ipvsctl.model.service import Server, Service
from tests.formats.broken import WHOLE
from tests.formats.strategies import directors, names_something
from tests.formats.test_director_file import EXAMPLE, FTP


@settings(deadline=None)
@given(directors())
def test_what_is_rendered_parses_to_the_same_director(director: Director) -> None:
    assume(names_something(director))
    text = render(director)
    assert parse(text, "t") == director
    assert parse(text.encode(), "t") == director
    assert render(parse(text, "t")) == text


@pytest.mark.parametrize("text", [EXAMPLE, WHOLE])
def test_a_hand_written_file_comes_back(text: str) -> None:
    director = parse(text, "t")
    assert parse(render(director), "t") == director


def test_the_canonical_file_is_the_example_without_its_comments() -> None:
    plain = re.sub(r" *#.*", "", EXAMPLE).replace("[[service.server]]", "\n[[service.server]]")
    assert render(parse(EXAMPLE, "t")) == plain


def test_an_address_of_the_directors_own_is_written_as_dr() -> None:
    wish = ServiceWish(Service(FTP), (Server(ServerAddress(INET, "192.168.1.100", 21), "local"),))
    assert 'forward = "dr"' in render(Director((wish,)))


def test_text_is_escaped() -> None:
    director = Director(nfct=Nfct(accept_local=('a"b\\c', "é")), sysctls=(("net.x", 'say "\\"'),))
    assert parse(render(director), "t") == director


# -- the short way for plain servers ----------------------------------------------------------------------------------

anything: st.SearchStrategy[Any] = st.sampled_from([0, -1, True, 1.0, "1", "", None, [], {}, "nat", 2**31, "local"])
number = st.sampled_from([0, 1, 2, 100, 2**31 - 1])
good = st.sampled_from(["10.0.0.1", "10.0.0.1:80", "10.0.0.2", "10.0.0.2:8080", "10.0.0.3:080", "255.255.255.255"])
bad = st.sampled_from([
    "10.0.0.01", "10.0.0.256", "10.0.0.1:", "10.0.0.1:65536", "1.2.3", "1.2.3.4.5", "2001:db8::1", "[2001:db8::1]:80",
    "10.0.0.1:٣",
])  # fmt: skip
forward = st.sampled_from(["nat", "dr", "tun"])
plain_row = st.fixed_dictionaries(
    {"address": good}, optional={"forward": forward, "weight": number, "upper": st.just(2**31 - 1)}
)
row = st.fixed_dictionaries(
    {"address": good | bad},
    optional=dict.fromkeys(("forward", "weight", "upper", "lower"), forward | number | anything),
)
odd = st.dictionaries(st.sampled_from([*TABLES["[[service.server]]"], "other"]), anything)


@settings(max_examples=500)
@given(st.lists(plain_row, max_size=4) | st.lists(row, max_size=3) | st.lists(row | odd | anything) | anything)
def test_the_short_way_agrees_with_the_grammar(rows: Any) -> None:
    service = ServiceAddress.parse("tcp:192.0.2.1:80")
    plain = director_read._plain_servers(rows, service, {})
    if plain is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(director_read, "_plain_servers", lambda *_: None)
            reading = director_read.Reading({"service": [{"address": "tcp:192.0.2.1:80", "server": rows}]})
        assert not reading.problems
        assert reading.director.services[0].servers == plain


def test_plain_servers_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(director_read.Reading, "_server", None)
    assert len(parse(big(3, 10), "t").services[2].servers) == 10


# -- speed ------------------------------------------------------------------------------------------------------------


def big(services: int, servers: int) -> str:
    lines = []
    for i in range(services):
        lines.append(f'[[service]]\naddress = "tcp:10.{i // 250}.{i % 250}.1:80"\nscheduler = "rr"\n')
        for j in range(servers):
            lines.append(
                f'[[service.server]]\naddress = "10.200.{i % 250}.{j + 2}:80"\nforward = "nat"\nweight = {j + 1}\n'
            )
    return "\n".join(lines)


def test_the_checks_cost_no_more_than_a_few_times_the_parser() -> None:
    """1,000 services of 10 servers: 45 ms, 20 of them in the TOML parser; a ratio holds on slow machines as well."""
    import rtoml

    text = big(1000, 10)
    parser = min(_timed(rtoml.loads, text) for _ in range(5))
    whole = min(_timed(parse, text, "t") for _ in range(5))
    assert whole < 5 * parser


def _timed(function: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started
