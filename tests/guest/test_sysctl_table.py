"""The table of sysctls against the running kernel, whichever it is: every name has a row, and the row is right.

tests/conformance/test_sysctls.py tries the same bounds on one kernel and on the emulator; here every kernel is asked
for what it has and the table does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl.errors import Refused
from ipvsctl.kernel.modules import KernelModules
from ipvsctl.kernel.sysctl import KernelSysctl
from ipvsctl.knowledge.sysctls import SYSCTLS, Sysctl, find
from tests.kernel.namespaces import fresh_namespace

pytestmark = pytest.mark.guest

VS = "net.ipv4.vs."
NF = "net.netfilter.nf_conntrack_"


@pytest.fixture
def sysctl() -> Iterator[KernelSysctl]:
    """The sysctls of a namespace that nobody has touched, with every module that has some."""
    for module in ("ip_vs", "ip_vs_lblc", "ip_vs_lblcr", "nf_conntrack"):
        KernelModules().load(module)
    with fresh_namespace():
        yield KernelSysctl()


def version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", Path("/proc/sys/kernel/osrelease").read_text())
    assert found
    return int(found[1]), int(found[2])


def has(row: Sysctl) -> bool:
    """Whether the row's own words say that this kernel has it."""
    words = row.kernels
    if not words:
        return True
    if found := re.fullmatch(r"(\d+)\.(\d+) and (later|earlier)", words):
        asked = int(found[1]), int(found[2])
        return version() >= asked if found[3] == "later" else version() <= asked
    if found := re.fullmatch(r"before (\d+)\.(\d+)", words):
        return version() < (int(found[1]), int(found[2]))
    assert words == "built with CONFIG_IP_VS_DEBUG", words
    return False


def test_every_sysctl_of_the_kernel_has_a_row(sysctl: KernelSysctl) -> None:
    unknown = [name for prefix in (VS, NF) for name in sysctl.names(prefix) if find(name) is None]
    assert unknown == []


def test_every_row_says_which_kernels_have_it(sysctl: KernelSysctl) -> None:
    wrong = [
        f"{row.name}: {'is' if sysctl.get(row.name) is not None else 'is not'} there, the table says {row.kernels!r}"
        for row in SYSCTLS.values()
        if row.name.startswith((VS, NF)) and row.namespaced and has(row) is not (sysctl.get(row.name) is not None)
    ]
    assert wrong == []


def test_defaults(sysctl: KernelSysctl) -> None:
    differs = {}
    for row in SYSCTLS.values():
        value = sysctl.get(row.name.replace("*", "lo"))
        if value is not None and row.default is not None and value != row.default:
            differs[row.name] = value
    # 5.10 reports changes by default, later kernels when somebody listens: the row says so.
    if version() < (5, 15):
        assert differs.pop(f"{NF}events") == "1"
    assert differs == {}


def test_bounds_of_ipvs(sysctl: KernelSysctl) -> None:
    """Both ends are taken and read back, what lies beyond is not."""
    tried = 0
    for row in SYSCTLS.values():
        if not row.name.startswith(VS) or row.kind not in ("int", "u8", "seconds", "power"):
            continue
        before = sysctl.get(row.name)
        if before is None:
            continue
        power = row.kind == "power"
        for value in (1, 1 << 30) if power else (row.lowest, row.highest):
            sysctl.set(row.name, str(value))
            assert sysctl.get(row.name) == str(value), row.name
        for value in (0, 3) if power else (row.lowest - 1, row.highest + 1):
            with pytest.raises(Refused):
                sysctl.set(row.name, str(value))
                pytest.fail(f"{row.name} took {value}")
        sysctl.set(row.name, before)
        tried += 1
    assert tried > 20


def test_what_may_be_written(sysctl: KernelSysctl) -> None:
    for row in SYSCTLS.values():
        file = Path("/proc/sys", *row.name.split("."))
        if row.name.startswith((VS, NF)) and row.namespaced and file.exists():
            assert bool(file.stat().st_mode & 0o200) is row.writable, row.name
