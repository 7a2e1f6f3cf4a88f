"""What doctor looks for: one table of checks, by topic.

A check is a pure function of the evidence (model/facts.py) and says nothing where it has seen nothing. Manual, help and
JSON take titles, severities and sources from here.
"""

from __future__ import annotations

from ipvsctl.knowledge.checks import firewall, network, nft, running, services, sync, tracking
from ipvsctl.knowledge.checks.base import Check
from ipvsctl.model.facts import Facts
from ipvsctl.model.finding import SEVERITIES, Finding

__all__ = ["CHECKS", "TOPICS", "Check", "examine", "unchecked"]

TOPICS: dict[str, tuple[Check, ...]] = {
    "Services and servers": services.CHECKS,
    "Addresses, routes, forwarding": network.CHECKS,
    "Connection tracking": tracking.CHECKS,
    "Firewall": (*firewall.CHECKS, *nft.CHECKS),
    "What runs": running.CHECKS,
    "Synchronisation": sync.CHECKS,
}

CHECKS: tuple[Check, ...] = tuple(check for checks in TOPICS.values() for check in checks)


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Everything that the checks find, the worst first, in the table's order otherwise."""
    found = [finding for check in CHECKS for finding in check.findings(facts)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def unchecked(facts: Facts) -> tuple[Check, ...]:
    """The checks that were not made, for want of evidence."""
    return tuple(check for check in CHECKS if check.missing(facts))
