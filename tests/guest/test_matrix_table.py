"""The manual's table of FTP transfers is what was measured, and complete."""

from __future__ import annotations

import json
from itertools import product

from tests.guest.matrix_lab import BACKENDS, METHODS, MODES
from tests.guest.matrix_table import MANUAL, RESULTS, page, table

KERNELS = ("5.10", "6.1", "6.12", "7.3")


def test_the_manual_has_what_was_measured() -> None:
    manual = MANUAL.read_text()
    assert '.\\" measured: matrix\n' in manual
    assert page(manual, json.loads(RESULTS.read_text())) == manual, "python -m tests.guest.matrix_table FILE ..."


def test_every_cell_was_measured_and_works() -> None:
    results = json.loads(RESULTS.read_text())
    for kernel, method, mode, backend in product(KERNELS, METHODS, MODES, BACKENDS):
        assert results[kernel][f"{method} {mode}"][backend] in ("RELATED", "NEW"), (kernel, method, mode, backend)


def test_back_ends_that_disagree_are_told_apart() -> None:
    text = table({"6.1": {"dr PORT": {"iptables-legacy": "RELATED", "iptables-nft": "RELATED", "nft": "fails"}}})
    assert ".It dr Ta PORT Ta iptables-legacy RELATED, iptables-nft RELATED, nft fails" in text
    assert "not measured" in table({"6.1": {"dr PORT": {"nft": "RELATED"}}})
