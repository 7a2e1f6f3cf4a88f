"""ipvsadm's captured answers, given by the classic command on a real kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cli.ipvsadm_cases import SESSION_HOSTS, UNORDERED, cases, differences, session, single
from tests.guest.ipvsadm_worker import Worker, workers

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with workers("ipvsadm-cases") as (made,):
        yield made


@pytest.fixture
def files() -> Iterator[None]:
    """Names come from /etc/hosts alone, and it is as before afterwards."""
    kept = {path: path.read_text() for path in (Path("/etc/hosts"), Path("/etc/nsswitch.conf"))}
    switch = Path("/etc/nsswitch.conf")
    lines = [line for line in kept[switch].splitlines() if not line.startswith("hosts:")]
    switch.write_text("\n".join([*lines, "hosts: files", ""]))
    yield
    for path, text in kept.items():
        path.write_text(text)


def give(name: str) -> None:
    lines = [" ".join(words) for words in SESSION_HOSTS[name]]
    Path("/etc/hosts").write_text("\n".join([*lines, ""]))


def test_every_wrong_command_line(worker: Worker, files: None) -> None:
    wrong = []
    for case in cases():
        status, out, err = worker(list(case.words), ours=True)
        if (status, out, err.split("\n")[0]) != (case.status, "", case.err):
            wrong.append((case.where, case.line, status, out, err))
    assert not wrong


def test_every_command_line_with_all_of_its_answer(worker: Worker, files: None) -> None:
    worker(["-C"], ours=True)

    def run(name: str, words: Sequence[str], stdin: str) -> tuple[int, str, str]:
        return worker(list(words), ours=True, name=name, stdin=stdin)

    assert not differences(single(), run)


@pytest.mark.parametrize("name", ["session1", "session3"])
def test_every_step_of_a_session(worker: Worker, files: None, name: str) -> None:
    give(name)
    worker(["-C"], ours=True)
    worker(["--set", "900", "120", "300"], ours=True)
    beside: list[tuple[object, object]] = []

    def run(program: str, words: Sequence[str], stdin: str) -> tuple[int, str, str]:
        found = worker(list(words), ours=True, name=program, stdin=stdin)
        if words and words[0].startswith("-L"):
            # The order that a hash table gave the services is to be seen by both programs on the same table only.
            beside.append((found, worker(list(words), ours=False, name=program, stdin=stdin)))
        return found

    steps = session(name)
    assert not differences(steps, run)
    assert len(beside) > len(UNORDERED & {step.where for step in steps}) > 0
    assert not [pair for pair in beside if pair[0] != pair[1]]
