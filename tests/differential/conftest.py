"""The comparison with a kernel runs when it is asked for by its mark: it boots a guest and takes minutes."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "differential: boots a kernel in QEMU and compares the datapath with it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "differential" in config.getoption("markexpr"):
        return
    kept = [item for item in items if item.get_closest_marker("differential") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
