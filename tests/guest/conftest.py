"""What a kernel does differently from 6.1, for which the guest's tests are written.

As in the conformance suite a difference is an expected failure with its reason, and one that is gone fails as well.
"""

from __future__ import annotations

import os

import pytest

RELEASE = ".".join(os.uname().release.split(".")[:2])

_TABLES = "until 5.15 a table is in every namespace while its module is loaded, so it cannot go from one"

KNOWN: dict[str, dict[str, str]] = {
    "5.10": {
        "test_tables_that_were_not_there_are_gone_again": _TABLES,
        "test_a_table_that_others_have_stays_empty": _TABLES,
        "test_a_table_with_a_foreign_rule_stays": _TABLES,
        "test_a_policy_set_meanwhile_stays": _TABLES,
        "test_removing_the_firewall_is_exactly_as_before": _TABLES,
        "test_a_foreign_jump_to_a_chain_of_ours_keeps_nothing_closed": _TABLES,
    },
}
"""The kernel's version -> test function -> why it fails there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = KNOWN.get(RELEASE, {})
    for item in items:
        name = getattr(item, "originalname", "")
        if name in known and item.get_closest_marker("guest"):
            item.add_marker(pytest.mark.xfail(reason=known[name], strict=True))
