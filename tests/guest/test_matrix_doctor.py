"""Doctor and the matrix of FTP transfers: silent where everything works, and right about why something cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.lab import VIP, must
from tests.guest.matrix_lab import METHODS, MatrixLab, director_file

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatrixLab]:
    # Tables of nftables' own could do what doctor would miss, so that it says less: no probe here.
    with MatrixLab("q", tmp_path_factory.mktemp("doctor"), probe="") as made:
        made.foreign_rules()
        yield made


@pytest.fixture
def undone(lab: MatrixLab) -> Iterator[None]:
    yield from lab.undone()


@pytest.mark.parametrize("method", METHODS)
def test_doctor_finds_no_error_where_everything_works(lab: MatrixLab, undone: None, method: str) -> None:
    lab.apply(director_file(method))
    assert lab.fetch().stdout == "rs1\n"
    assert lab.errors() == {}


@pytest.mark.parametrize(
    ("method", "broken", "told"),
    [
        ("nat", "iptables-legacy -t raw -F IPVSCTL-PREROUTING", "helper-missing"),
        ("dr", "sysctl -qw net.ipv4.vs.conntrack=0", "invalid-drops"),
        ("dr", "sysctl -qw net.ipv4.conf.eth1.accept_local=0", "accept-local-missing"),
        ("tun", "iptables-legacy -F IPVSCTL-FORWARD", "forward-drops"),
        ("tun", f"ipvsadm -E -t {VIP}:21 -s rr", "ftp-not-persistent"),
    ],
)
def test_a_cell_that_cannot_work_is_explained(
    lab: MatrixLab, undone: None, method: str, broken: str, told: str
) -> None:
    """One thing is taken away by hand: the transfer fails, and doctor says why."""
    lab.apply(director_file(method))
    must("ip", "netns", "exec", lab.director, *broken.split())
    failed = lab.on(lab.client, "curl", "-sS", "--max-time", "8", f"ftp://{VIP}/name")
    assert failed.status != 0, failed
    findings = lab.findings()
    assert told in findings, findings
    assert findings[told]["fix"], findings[told]
