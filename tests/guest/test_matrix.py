"""FTP by every forwarding method, every way to open a data connection, every firewall back end: by `apply FILE` alone.

Real curl, a real FTP server, this guest's kernel. S8 to S10, S14 and S17 to S20 of the NFCT description say what to
expect; every cell works, and EXPECTED says by which state of its data connection. In every cell the other ports of the
virtual address are closed, unrelated forwarding is as `forward_policy` says; `rollback` leaves all as it was.

With IPVSCTL_MATRIX_RESULTS naming a file, what was measured is written there: tests/guest/matrix_table.py makes the
table of the manual page of it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.lab import HTTP_SERVER, VIP, VIP6, curl_modes
from tests.guest.matrix_lab import BACKENDS, CLOSED, METHODS, OTHER, MatrixLab, director_file, mark_file, urls

pytestmark = [pytest.mark.guest, pytest.mark.every_kernel, pytest.mark.timeout(900)]

RELATED, NEW = "RELATED", "NEW"
EXPECTED = {
    **{("nat", mode): RELATED for mode in ("PASV", "EPSV", "PORT", "EPRT")},
    **{("dr", mode): RELATED for mode in ("PASV", "EPSV", "PORT", "EPRT")},
    # The helper never sees the client's commands, which leave inside the tunnel (S10).
    **{("tun", mode): state for mode, state in (("PASV", RELATED), ("EPSV", RELATED), ("PORT", NEW), ("EPRT", NEW))},
}
"""The state of a data connection's first packet in the filter table."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatrixLab]:
    with MatrixLab("m", tmp_path_factory.mktemp("matrix")) as made:
        opened = made.open_ports(*urls(VIP, CLOSED), *urls(VIP6, CLOSED))
        assert opened == sorted([*urls(VIP, CLOSED), *urls(VIP6, CLOSED)]), "the ports to be closed answer before"
        made.serve(made.rs1, HTTP_SERVER, "::", "80,8443")
        made.foreign_rules()
        yield made


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, str]]:
    """What was measured, by "method mode" and back end."""
    return {}


def keep(measured: dict[str, dict[str, str]]) -> None:
    """Write it down when it is asked for."""
    if path := os.environ.get("IPVSCTL_MATRIX_RESULTS"):
        version = ".".join(platform.release().split(".")[:2])
        Path(path).write_text(json.dumps({version: measured}, indent=1) + "\n")


@pytest.fixture
def undone(lab: MatrixLab) -> Iterator[None]:
    yield from lab.undone()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_mode_passes_and_nothing_else(
    lab: MatrixLab, undone: None, measured: dict[str, dict[str, str]], method: str, backend: str
) -> None:
    lab.apply(director_file(method, backend))
    failed = []
    for mode, options in curl_modes():
        result, state = lab.transfer(*options)
        worked = (result.status, result.stdout) == (0, "rs1\n")
        measured.setdefault(f"{method} {mode}", {})[backend] = state if worked else "fails"
        if not worked or state != EXPECTED[method, mode]:
            failed.append(f"{mode}: {state} {result.stdout}{result.stderr}")
    keep(measured)
    assert not failed, f"{failed}\n{lab.explain()}"
    unrelated = urls(OTHER, [8080])
    assert lab.open_ports(*urls(VIP, CLOSED), *unrelated) == [], "forward_policy drop, and closed ports"
    lab.apply(director_file(method, backend, forward_policy="accept"))
    assert lab.open_ports(*urls(VIP, CLOSED), *unrelated) == unrelated, "forward_policy accept, and closed ports"
    result, _ = lab.transfer()
    assert (result.status, result.stdout) == (0, "rs1\n"), f"{result.stderr}\n{lab.explain()}"


@pytest.mark.parametrize(
    ("method", "backend"), [("nat", "iptables-legacy"), ("nat", "nft"), ("dr", "iptables-nft"), ("dr", "nft")]
)
def test_ipv6(lab: MatrixLab, undone: None, method: str, backend: str) -> None:
    """EPSV and EPRT; no accept_local is needed, for IPv6 does not look at the source's being the director's own."""
    lab.apply(director_file(method, backend, family=6))
    for mode, options in curl_modes()[1::2]:
        result, state = lab.transfer(*options, url=f"ftp://[{VIP6}]/name")
        assert (result.status, result.stdout, state) == (0, "rs1\n", RELATED), f"{mode}: {result}\n{lab.explain()}"
    assert lab.open_ports(*urls(VIP6, CLOSED)) == []


@pytest.mark.parametrize("backend", ["iptables-legacy", "nft"])
def test_a_group_of_ports_by_a_firewall_mark(lab: MatrixLab, undone: None, backend: str) -> None:
    """Two ports of the VIP are one service: rules in the mangle table give their packets its mark."""
    lab.apply(mark_file(backend))
    for port in (80, 8443):
        fetched = lab.fetch(url=f"http://{VIP}:{port}/")
        assert (fetched.status, fetched.stdout) == (0, f"port {port}\n"), f"{fetched}\n{lab.explain()}"
    listed = lab.on(lab.director, "ipvsadm", "-Lnc").stdout
    assert all(f"{VIP}:{port} " in listed for port in (80, 8443)), f"the service has not had it: {listed}"
    assert lab.open_ports(*urls(VIP, CLOSED)) == []
