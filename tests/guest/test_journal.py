"""The journal of a network namespace goes when the namespace has gone, and not before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl import runtime
from tests.guest.lab import ROOT, must, run

pytestmark = pytest.mark.guest

NAME = "jn"


@pytest.fixture
def number() -> Iterator[int]:
    """A namespace of the name NAME, by its inode."""
    must("ip", "netns", "add", NAME)
    yield Path(f"/run/netns/{NAME}").stat().st_ino
    run("ip", "netns", "delete", NAME)


def journals() -> set[Path]:
    return set(Path("/run/ipvsctl/journal").iterdir())


def test_the_journal_of_a_deleted_namespace_goes_with_the_next_plan(number: int) -> None:
    def change(name: str) -> set[Path]:
        must(sys.executable, "-m", "ipvsctl", "--netns", name, "service", "add", "fwmark:7")
        return journals()

    must("modprobe", "ip_vs")  # Linux 5.10 does not load it on demand.
    before = journals() if Path("/run/ipvsctl/journal").exists() else set()
    (own,) = change(NAME) - before
    assert (own / "namespace").read_text() == str(number)
    must("ip", "netns", "add", "jo")
    try:
        assert own in change("jo")
        must("ip", "netns", "delete", NAME)
        must(sys.executable, "-m", "ipvsctl", "--netns", "jo", "service", "delete", "fwmark:7")
        assert own not in journals()
    finally:
        must("ip", "netns", "delete", "jo")


def test_a_namespace_is_there_while_a_process_or_a_handle_is_in_it(number: int) -> None:
    asked = frozenset({number})
    words = ["ip", "netns", "exec", NAME, "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin and cat.stdout
        cat.stdin.write(b"x")
        cat.stdin.flush()
        assert cat.stdout.read(1) == b"x"
        handle = os.open(f"/run/netns/{NAME}", os.O_RDONLY)
        must("ip", "netns", "delete", NAME)
        assert runtime.network_namespaces(asked) == asked
        cat.stdin.close()
    assert runtime.network_namespaces(asked) == asked
    os.close(handle)
    assert runtime.network_namespaces(asked) == frozenset()


def test_inside_a_container_every_namespace_counts_as_there() -> None:
    """/proc shows a part of the machine only."""
    script = "from ipvsctl import runtime; print(sorted(runtime.network_namespaces(frozenset({1, 2}))))"
    python = (sys.executable, "-c", script)
    assert run("unshare", "--pid", "--fork", "--mount-proc", *python, cwd=ROOT).stdout == "[1, 2]\n"
    assert run(*python, cwd=ROOT).stdout == "[]\n"
