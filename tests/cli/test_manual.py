"""ipvsctl(8): its generated parts are current, it is well formed, and its examples print what it says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ipvsctl.cli.manual import MANUAL, commands, current
from ipvsctl.errors import Exit
from tests.cli.conftest import Cli, in_shell
from tests.needs import need_program

TOP = Path(__file__).parents[2]
PAGE = (TOP / MANUAL).read_text()


def test_generated_parts_are_current() -> None:
    for name, text in current(PAGE).items():
        assert (TOP / name).read_text() == text, f"{name} is not current: python -m ipvsctl.cli.manual --write"


def test_every_command_and_status_is_in_the_page() -> None:
    for words, _ in commands():
        assert re.search(rf"^\.It Cm {words}\b", PAGE, re.MULTILINE)
    told = {int(number) for number in re.findall(r"^\.It (\d+)$", PAGE, re.MULTILINE)}
    assert told >= set(Exit)


def test_mandoc_finds_nothing_to_warn_of() -> None:
    need_program("mandoc")
    done = subprocess.run(
        ["mandoc", "-Tlint", "-W", "warning", str(TOP / MANUAL)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def examples() -> Iterator[tuple[str, str]]:
    """Command lines of the page, and what they print, in order."""
    for block in re.findall(r"(?ms)^\.Bd -literal\n(.*?)^\.Ed$", PAGE):
        for example in re.findall(r"(?ms)^\$ .*?(?=^\$ |\Z)", block.replace("\\&", "").replace("\\e", "\\")):
            line, _, output = example.partition("\n")
            yield line.removeprefix("$ "), output


def test_the_examples_print_what_the_page_says(cli: Cli) -> None:
    """One after the other, in one director. A file that is shown is one that the examples behind it use."""
    Path("ftp.toml").unlink()
    count = 0
    for line, expected in examples():
        if line.startswith("cat "):
            Path(line.removeprefix("cat ")).write_text(expected)
        elif not line.startswith("export "):
            assert in_shell(line) == expected, line
            count += 1
    assert count >= 12
