"""README.md: its tour prints what it says, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipvsctl.cli.tree import root
from tests.cli.conftest import Cli, in_shell

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text()


def test_the_tour_prints_what_it_says(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    count = 0
    for block in re.findall(r"(?ms)^```\n(\$ .*?)^```$", README):
        for example in re.findall(r"(?ms)^\$ .*?(?=^\$ |\Z)", block):
            line, _, expected = example.partition("\n")
            assert in_shell(line.removeprefix("$ ")) == expected, line
            count += 1
    assert count >= 8


def test_the_file_of_the_tour_is_the_one_in_the_checkout() -> None:
    (shown,) = re.findall(r"(?ms)^```toml\n# tests/examples/ftp.toml\n(.*?)^```$", README)
    comment, _, rest = (TOP / "tests/examples/ftp.toml").read_text().partition("\n")
    assert comment.startswith("#")
    assert shown == rest


def test_what_it_names_is_there() -> None:
    for path in re.findall(r"(?<![\w/])(?:tests|man|completions|ipvsctl)/[\w./-]*\w", README):
        assert (TOP / path).exists(), path
    (commands,) = re.findall(r"(?m)^Everything else is a command too: (.*)$", README)
    for name in re.findall(r"`([\w ]+)`", commands):
        assert name in root.list_commands(None), name  # type: ignore[arg-type]
