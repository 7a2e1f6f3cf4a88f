"""The last line of tests/run, and when it stands for success."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.tally import Count, count, judge, main

PASSED = "<testcase name='a'/>"
FAILED = "<testcase name='b'><failure>no</failure></testcase>"
ERROR = "<testcase name='c'><error>fixture</error></testcase>"
SKIPPED = "<testcase name='d'><skipped>no root</skipped></testcase>"


def report(*cases: str) -> str:
    return f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"


def test_cases_are_counted_by_how_they_ended() -> None:
    assert count(report(PASSED, PASSED, FAILED, ERROR, SKIPPED)) == Count(passed=2, failed=2, skipped=1)


def test_a_test_that_fails_and_cannot_clean_up_is_one_failure() -> None:
    assert count(report("<testcase><failure/><error/></testcase>")) == Count(failed=1)


@pytest.mark.parametrize(
    ("status", "document", "failed", "complaint"),
    [
        (0, report(PASSED), 0, ""),
        (1, report(PASSED, FAILED), 1, ""),
        (125, None, 1, "left no report"),
        (0, None, 1, "left no report"),
        (0, "<testsuites><tests", 1, "left no report"),
        (5, report(), 1, "ran no test"),
        (5, None, 1, "ran no test"),
        (0, report(SKIPPED), 1, "ran no test"),
        (3, report(PASSED), 1, "ended with status 3"),
        (2, report(PASSED, FAILED), 2, "ended with status 2"),
        (1, report(PASSED), 1, "without a failed test"),
    ],
)
def test_a_run_is_judged(status: int, document: str | None, failed: int, complaint: str) -> None:
    counted, said = judge(status, document)
    assert counted.failed == failed
    assert complaint in said
    assert bool(said) == bool(complaint)


def test_a_narrowed_run_may_be_empty() -> None:
    assert judge(5, report(), may_be_empty=True) == (Count(), "")


@pytest.mark.parametrize(
    ("arguments", "here", "guest", "status", "last"),
    [
        ([], report(PASSED, SKIPPED), report(PASSED), 0, "2 passed, 0 failed, 1 skipped"),
        ([], report(PASSED), report(FAILED), 1, "1 passed, 1 failed, 0 skipped"),
        ([], report(PASSED), report(), 1, "1 passed, 1 failed, 0 skipped"),
        (["--narrowed"], report(PASSED), report(), 0, "1 passed, 0 failed, 0 skipped"),
        (["--narrowed"], report(), report(), 1, "0 passed, 0 failed, 0 skipped"),
    ],
)
def test_the_last_line_and_the_status(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    here: str,
    guest: str,
    status: int,
    last: str,
) -> None:
    words = list(arguments)
    for name, document in (("here", here), ("guest", guest)):
        (tmp_path / name).write_text(document)
        words.append(f"{name}={int('failure' in document)}={tmp_path / name}")
    assert main(words) == status
    assert capsys.readouterr().out.splitlines()[-1] == last
