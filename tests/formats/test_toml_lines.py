"""Lines of paths in TOML texts of every layout."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsctl.formats.director_file import render
from ipvsctl.formats.toml_lines import locate
from ipvsctl.model.director import Director
from tests.formats.strategies import directors

SERVER = '[[service]]\naddress = "tcp:192.0.2.1:80"\n[[service.server]]\naddress = "10.0.0.2"\n'


def test_lines_of_every_layout() -> None:
    text = '''\
# comment with [table] and key = 1
top = 1
"a.b" = 2

"es\\u0063aped" = 1 # "
'literal "' = 3
a.b . "c.d" = 4
text = """one [x]
key = 1 \\"""
""\\\\"""
raw = \'\'\'
[no]
\'\'\'\'
array = [ # ]
  1, [2,
    3], "]", { x = 1, y = [
      5 ] },
  # , 7
  1979-05-27 07:32:00,
]
inline = { a = { b = 1 }, c.d = 2 }
date = 1979-05-27T07:32:00Z # , ]
[t . 'u']
  k = true
[[s]]
k = 1

[s.sub]
k = 2
[[s.n]]
k = 3
[[s.n]]
\tk = 4 # end
[[s]]
[[s.n]]
[s.n.x]
k=5'''
    expected = {
        ("top",): 2, ("a.b",): 3, ("escaped",): 5, ('literal "',): 6, ("a", "b", "c.d"): 7, ("a",): 7, ("text",): 8,
        ("raw",): 11, ("array",): 14, ("array", 0): 15, ("array", 1): 15, ("array", 1, 1): 16, ("array", 2): 16,
        ("array", 3): 16, ("array", 3, "y"): 16, ("array", 3, "y", 0): 17, ("array", 4): 19, ("inline", "a", "b"): 21,
        ("inline", "c", "d"): 21, ("date",): 22, ("t", "u"): 23, ("t", "u", "k"): 24, ("s",): 25, ("s", 0): 25,
        ("s", 0, "k"): 26, ("s", 0, "sub"): 28, ("s", 0, "sub", "k"): 29, ("s", 0, "n", 0): 30, ("s", 0, "n", 1): 32,
        ("s", 0, "n", 0, "k"): 31, ("s", 0, "n", 1, "k"): 33, ("s", 1): 34, ("s", 1, "n", 0): 35,
        ("s", 1, "n", 0, "x", "k"): 37,
    }  # fmt: skip
    assert locate(text, expected) == expected
    for path, line in expected.items():
        assert locate(text.replace("\n", "\r\n"), [path]) == {path: line}


def test_a_path_that_is_not_there_has_the_line_around_it() -> None:
    assert locate(SERVER, [("service", 0, "server", 0, "weight")]) == {("service", 0, "server", 0, "weight"): 3}
    assert locate(SERVER, [("service", 0, "scheduler"), ("nfct",)]) == {("service", 0, "scheduler"): 1, ("nfct",): 1}


@given(st.text(alphabet="[]{}=\"'.,\\#\nab1 ", max_size=60))
def test_text_that_is_not_toml_ends_the_search(text: str) -> None:
    assert locate(text, [("a", "b")])[("a", "b")] <= text.count("\n") + 1


@settings(deadline=None, max_examples=40)
@given(directors())
def test_lines_of_a_rendered_file(director: Director) -> None:
    text = render(director)
    expected: dict[Any, int] = {}
    service = server = sync = -1
    place: tuple[Any, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if line == "[[service]]":
            service, server = service + 1, -1
            place = ("service", service)
        elif line == "[[service.server]]":
            server += 1
            place = ("service", service, "server", server)
        elif line == "[[sync]]":
            sync += 1
            place = ("sync", sync)
        elif line.startswith("["):
            place = (line[1:-1],)
        elif " = " in line:
            expected[(*place, line.split(" = ")[0].strip('"'))] = number
            continue
        if line:
            expected[place] = number
    expected[()] = 1
    assert locate(text, expected) == expected
