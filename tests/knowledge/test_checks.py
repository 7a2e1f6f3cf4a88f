"""Every check speaks up where it should, and only there; what it says is complete, and its commands exist."""

from __future__ import annotations

import shlex

import click
import pytest

from ipvsctl.cli.tree import root
from ipvsctl.knowledge.checks import CHECKS, TOPICS, examine, unchecked
from ipvsctl.knowledge.checks.base import Check, Seen
from ipvsctl.knowledge.sysctls import check as check_sysctl
from ipvsctl.model.facts import PARTS, Facts
from ipvsctl.model.finding import SEVERITIES, Finding
from tests.knowledge.check_cases import CASES as FIRST
from tests.knowledge.check_cases_rules import CASES as SECOND
from tests.knowledge.check_rig import replace, server, service, well

CASES = FIRST | SECOND
BY_ID = {check.id: check for check in CHECKS}
PAIRS = [(id, number, pair) for id, pairs in CASES.items() for number, pair in enumerate(pairs)]
NAMES = [f"{id}-{number}" for id, number, _ in PAIRS]


def of(id: str, facts: Facts) -> list[Finding]:
    return list(BY_ID[id].findings(facts))


@pytest.mark.parametrize(("id", "number", "pair"), PAIRS, ids=NAMES)
def test_a_check_finds_it(id: str, number: int, pair: tuple[Facts, Facts]) -> None:
    bad, good = pair
    assert of(id, bad), id
    assert not of(id, good), [finding.why for finding in of(id, good)]


@pytest.mark.parametrize(("id", "number", "pair"), PAIRS, ids=NAMES)
def test_without_evidence_there_is_no_finding(id: str, number: int, pair: tuple[Facts, Facts]) -> None:
    for part in BY_ID[id].needs:
        assert not of(id, replace(pair[0], missing={part: "not permitted"}))
    assert not of(id, Facts())


def test_every_check_has_cases() -> None:
    assert sorted(CASES) == sorted(BY_ID)
    assert len(BY_ID) == len(CHECKS) >= 40


def test_a_director_that_is_well_has_no_complaints() -> None:
    kept = {"net.ipv4.ip_forward": "1"}
    assert [f.id for f in examine(well(kept=kept)) if f.severity != "info"] == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_row_is_complete(check: Check) -> None:
    assert check.severity in SEVERITIES
    assert check.title and not check.title.startswith(("A ", "The ")) and not check.title.endswith(".")
    assert check.source and set(check.needs) <= PARTS.keys() and check.needs
    assert sum(check in checks for checks in TOPICS.values()) == 1


FOUND = {(f.id, f.subject, f.why): f for id, pairs in CASES.items() for bad, _ in pairs for f in of(id, bad)}


@pytest.mark.parametrize("finding", FOUND.values(), ids=lambda finding: finding.id)
def test_a_finding_says_all_of_it(finding: Finding) -> None:
    assert finding.severity in SEVERITIES
    assert finding.subject and finding.source
    assert len(finding.why) > 30 and "\n" not in finding.why + finding.fix
    assert not finding.mend or finding.fix
    for name, value in finding.mend.sysctls:
        check_sysctl(name, value)
        assert f"{name} {value}" in finding.fix


@pytest.mark.parametrize("finding", FOUND.values(), ids=lambda finding: finding.id)
def test_a_command_that_is_ours_exists(finding: Finding) -> None:
    for command in finding.fix.split(" && "):
        words = shlex.split(command)
        if not words or words[0] != "ipvsctl" or "FILE" in words:
            continue
        context = click.Context(root, info_name="ipvsctl")
        found: click.Command | None = root
        rest = words[1:]
        while isinstance(found, click.Group):
            name, found, rest = found.resolve_command(context, rest)
            assert found is not None, command
            context = click.Context(found, parent=context, info_name=name)
        assert found is not None
        rest = [word.replace("ADDRESS", "10.0.0.9") for word in rest]
        found.make_context(found.name, rest, resilient_parsing=False)


def test_errors_come_first() -> None:
    facts = well(service("tcp:192.0.2.1:80"), service("udp:192.0.2.1:53", server()), kept={"net.ipv4.ip_forward": "1"})
    severities = [SEVERITIES.index(finding.severity) for finding in examine(facts)]
    assert severities == sorted(severities) and len(set(severities)) > 1


def test_unchecked_names_what_was_left_out() -> None:
    left = unchecked(replace(well(), missing={"neighbours": "not permitted"}))
    assert {"nat-gateway", "server-silent"} <= {check.id for check in left} < BY_ID.keys()


def test_a_row_with_an_unknown_part_is_refused() -> None:
    from ipvsctl.knowledge.checks.base import check

    with pytest.raises(ValueError, match="weather"):
        check("x", "x", "error", "weather", "S1", lambda facts: iter([Seen("x", "y")]))
