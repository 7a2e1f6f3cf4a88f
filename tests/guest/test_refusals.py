"""Hosts that cannot be a director say so in one line, with status 4, and nothing is changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.lab import Lab, Result, must, run, saved_rules
from tests.guest.test_director import FTP_TOML

pytestmark = pytest.mark.guest

IPVSCTL = (sys.executable, "-m", "ipvsctl")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # Asking ipvsadm for the state would bring it, and its sysctls.
    must("modprobe", "ip_vs")
    with Lab("r") as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "ftp.toml"
    path.write_text(FTP_TOML)
    for parent in (path, *path.parents[:-2]):
        parent.chmod(0o755)
    return str(path)


def one_clear_line(result: Result, *words: str) -> None:
    assert result.status == 4, result
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ipvsctl: ")
    for word in words:
        assert word in lines[0], lines[0]


def inside(lab: Lab, *words: str) -> Result:
    """A command in the director's namespace, with its own mounts."""
    return lab.on(lab.director, "unshare", "-m", "sh", "-c", *words)


def test_without_privilege(lab: Lab, file: str) -> None:
    before = lab.state()
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/", "XDG_RUNTIME_DIR=")
    for words in (
        ["list"],
        ["apply", file],
        ["service", "add", "tcp:10.9.9.9:80"],
        ["sysctl", "set", "net.ipv4.ip_forward", "1"],
    ):
        one_clear_line(lab.on(lab.director, *user, *IPVSCTL, *words), "root")
    assert lab.state() == before


def test_inside_a_user_namespace(lab: Lab, file: str) -> None:
    """Root of an unprivileged namespace is not root enough for IPVS (GENL_ADMIN_PERM)."""
    before = lab.state()
    for words in (["list"], ["apply", file]):
        one_clear_line(run("unshare", "-Urn", *IPVSCTL, *words))
    assert lab.state() == before


def test_with_a_read_only_proc_sys(lab: Lab, file: str) -> None:
    before = lab.state()
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$0" "$@"'
    one_clear_line(inside(lab, script, *IPVSCTL, "apply", file), "read-only")
    one_clear_line(inside(lab, script, *IPVSCTL, "sysctl", "set", "net.ipv4.ip_forward", "1"), "read-only")
    assert lab.state() == before


def untouched(lab: Lab) -> tuple[str, str, str]:
    """Rules, sysctls and modules, read without a tool that would load one."""
    loaded = sorted(line.split()[0] for line in Path("/proc/modules").read_text().splitlines())
    rules = lab.on(lab.director, "iptables-legacy-save").stdout
    return saved_rules(rules), lab.on(lab.director, "sysctl", "net.ipv4.ip_forward").stdout, " ".join(loaded)


def test_without_ipvs(file: str) -> None:
    """No module in memory, none on disk, and the kernel cannot load one by itself."""
    helper = Path("/proc/sys/kernel/modprobe")
    program = helper.read_text().strip()
    loaded = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    for module in sorted((name for name in loaded if name.startswith("ip_vs")), reverse=True):
        run("rmmod", module)
    assert "ip_vs " not in Path("/proc/modules").read_text(), "ip_vs is still in use"
    helper.write_text("/nonexistent")
    try:
        with Lab("n") as lab:
            # Not lab.state(): ipvsadm loads ip_vs by itself.
            before = untouched(lab)
            hidden = 'mount -t tmpfs none /lib/modules && exec "$0" "$@"'
            one_clear_line(inside(lab, hidden, *IPVSCTL, "list"), "--host emulator")
            one_clear_line(inside(lab, hidden, *IPVSCTL, "apply", file), "ip_vs", "--host emulator")
            one_clear_line(inside(lab, hidden, *IPVSCTL, "service", "add", "tcp:10.9.9.9:80"), "--host emulator")
            assert untouched(lab) == before
    finally:
        helper.write_text(program)
    must("modprobe", "ip_vs")


def test_unknown_namespace() -> None:
    result = run(*IPVSCTL, "--netns", "nosuch", "list")
    assert result.status == 3, result
    assert len(result.stderr.strip().splitlines()) == 1
