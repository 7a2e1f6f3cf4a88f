"""The C program and ours side by side: the same random command lines, each in a namespace of its own.

After every line status, output, `ipvsadm -Sn` and /proc/net/ip_vs are equal. IPVSCTL_IPVSADM_SEED and
IPVSCTL_IPVSADM_LINES (2,000) choose others; a sequence that fails is made as short as it still fails, and once mended
it is kept in tests/data/ipvsadm/kept.json, which is run first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.cli.ipvsadm_cases import DATA
from tests.cli.ipvsadm_generate import LENGTH, Line, sequence
from tests.guest.ipvsadm_worker import Worker, workers

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2400)]

SEED = int(os.environ.get("IPVSCTL_IPVSADM_SEED", "1"))
LINES = int(os.environ.get("IPVSCTL_IPVSADM_LINES", "2000"))
TRIES = 120
"""Runs of shorter sequences, while a failing one is shrunk."""

RESET = (
    ["-C"], ["--stop-daemon", "master"], ["--stop-daemon", "backup"], ["--set", "900", "120", "300"],
)  # fmt: skip


class Pair:
    """Theirs and ours."""

    def __init__(self, theirs: Worker, ours: Worker) -> None:
        self.theirs, self.ours = theirs, ours
        self.lines = 0

    def reset(self) -> None:
        for words in RESET:
            for worker in (self.theirs, self.ours):
                worker(words, ours=False)

    def both(self, line: Line) -> tuple[Any, Any]:
        """What both came to, with their tables."""
        words, stdin = line
        self.theirs.send(words, ours=False, stdin=stdin, table=True)
        self.ours.send(words, ours=True, stdin=stdin, table=True)
        self.lines += 1
        return _comparable(self.theirs.answer(), line), _comparable(self.ours.answer(), line)

    def first_difference(self, lines: Sequence[Line]) -> tuple[int, Any, Any] | None:
        """The number of the first line after which something differs, and both sides of it."""
        self.reset()
        for number, line in enumerate(lines):
            theirs, ours = self.both(line)
            if theirs != ours:
                return number, theirs, ours
        return None


def _comparable(answer: dict[str, Any], line: Line) -> dict[str, Any]:
    """The answer, where the order of services is that of a hash table without any order."""
    saved = answer["table"][0]
    if "--nosort" in " ".join([*line[0], line[1]]) or " 255." in saved:
        status, out, err = answer["answer"]
        answer["answer"] = [status, sorted(out.split("\n")), err]
    if " 255." in saved:
        answer["table"] = [sorted(text.split("\n")) for text in answer["table"]]
    return answer


def shrunk(pair: Pair, lines: list[Line]) -> list[Line]:
    """A sequence that differs still, with as little in it as a bounded search finds."""
    found = pair.first_difference(lines)
    assert found is not None, "the difference does not come again"
    lines = lines[: found[0] + 1]
    tries = 0
    size = max(1, len(lines) // 2)
    while size and tries < TRIES:
        at, shorter = 0, False
        while at < len(lines) - 1 and tries < TRIES:
            candidate = lines[:at] + lines[min(at + size, len(lines) - 1) :]
            tries += 1
            if pair.first_difference(candidate) is not None:
                lines, shorter = candidate, True
            else:
                at += size
        size = size if shorter and size == 1 else size // 2
    words, stdin = lines[-1]
    for at in range(len(words) - 1, -1, -1):
        candidate = [*lines[:-1], ([*words[:at], *words[at + 1 :]], stdin)]
        if tries < TRIES and pair.first_difference(candidate) is not None:
            words, lines = candidate[-1][0], candidate
        tries += 1
    return lines


def explained(pair: Pair, lines: list[Line]) -> str:
    """A failing sequence as a person, and kept.json, can take it."""
    lines = shrunk(pair, lines)
    found = pair.first_difference(lines)
    assert found is not None, "the difference does not come again"
    return f"{json.dumps(lines)}\n  theirs {json.dumps(found[1])}\n  ours   {json.dumps(found[2])}"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with workers("ipvsadm-theirs", "ipvsadm-ours") as (theirs, ours):
        yield Pair(theirs, ours)


def test_sequences_that_once_differed(pair: Pair) -> None:
    kept = [[(words, stdin) for words, stdin in lines] for lines in json.loads((DATA / "kept.json").read_text())]
    assert not [found for lines in kept if (found := pair.first_difference(lines)) is not None]


def test_random_sequences(pair: Pair) -> None:
    failures = []
    done = pair.lines
    for seed in range(SEED, SEED + -(-LINES // LENGTH)):
        lines = sequence(seed)
        if pair.first_difference(lines) is not None:
            failures.append(f"seed {seed}: {explained(pair, lines)}")
            if len(failures) == 10:
                break
    assert not failures, "\n".join(["", *failures])
    assert pair.lines - done >= LINES
