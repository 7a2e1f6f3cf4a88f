"""A boot by the files that `persist` writes ends where `apply` of the director file ends.

systemd itself boots by them, as process 1 of namespaces of its own on the director of a lab.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipvsctl.knowledge import boot
from tests.guest.lab import ROOT, VIP, Lab, Result, must, run
from tests.needs import need

pytestmark = [pytest.mark.guest, pytest.mark.every_kernel, pytest.mark.timeout(600)]

SYSTEMD = "/lib/systemd/systemd"

TOML = f"""\
[nfct]
conntrack = true
be_liberal = true
accept_local = ["eth1"]

[[service]]
address = "tcp:{VIP}:21"
scheduler = "rr"
persistent = 300
helper = "ftp"
[[service.server]]
address = "10.0.2.2"
forward = "nat"
[[service.server]]
address = "10.0.3.3"
forward = "nat"
weight = 2

[[service]]
address = "udp:{VIP}:53"
scheduler = "wlc"
[[service.server]]
address = "10.0.3.3"
forward = "nat"

[firewall]
backend = "BACKEND"
protect = ["{VIP}"]
local_clients = ["10.0.2.2"]

[sysctl]
"net.ipv4.vs.expire_nodest_conn" = 1
"net.ipv4.conf.eth2.rp_filter" = 2

[timeout]
tcp_fin = 130
"""

# /tmp is systemd's to empty. The distribution sets sysctls as well, which a namespace that is only applied to has not.
START = f"""\
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /usr/lib/sysctl.d
mkdir -p /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin {SYSTEMD} --unit=multi-user.target
"""


class Booted:
    """A systemd that has booted, on the director of a lab."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def on(self, *words: str, timeout: float = 120) -> Result:
        return run("nsenter", "-t", str(self.pid), "-m", "-p", "-n", *words, timeout=timeout)


@contextmanager
def booted(lab: Lab) -> Iterator[Booted]:
    """Boot systemd to multi-user.target, and end it afterwards with all that it has started."""
    words = ("ip", "netns", "exec", lab.director, "unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts",
             "--ipc", "--mount-proc", "sh", "-ec", START)  # fmt: skip
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT) as outer:
        try:
            yield Booted(first_process(outer))
        finally:
            outer.send_signal(signal.SIGKILL)


def first_process(outer: subprocess.Popen[bytes]) -> int:
    """Wait until systemd says that it is up; its number outside."""
    script = f"""
until pid=$(cat /proc/{outer.pid}/task/{outer.pid}/children) && [ "$pid" ] &&
      [ "$(readlink /proc/${{pid% }}/exe)" = "$(readlink -f {SYSTEMD})" ] &&
      nsenter -t $pid -m -p -n systemctl is-active multi-user.target >/dev/null 2>&1
do sleep 0.2; done
echo $pid
"""
    return int(must("timeout", "100", "sh", "-c", script))


@pytest.fixture(params=["iptables-legacy", "nft"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    need(Path(SYSTEMD).exists(), "needs systemd, which tests/run installs with root or sudo")
    found = tmp_path / "director.toml"
    found.write_text(TOML.replace("BACKEND", request.param))
    return found


def state(lab: Lab) -> dict[str, str]:
    return {**lab.state(), "nft": lab.on(lab.director, "nft", "-s", "list", "ruleset").stdout}


@contextmanager
def persisted(file: Path) -> Iterator[None]:
    """The files stand in the guest's own file system, which is a layer over the host's."""
    must(sys.executable, "-m", "ipvsctl", "persist", str(file), "--write")
    try:
        yield
    finally:
        must(sys.executable, "-m", "ipvsctl", "forget", "--write")
        assert not [path for path in boot.PATHS if Path(path).is_symlink() or Path(path).exists()]


def test_a_boot_ends_where_apply_ends(file: Path) -> None:
    with Lab("pa") as lab:
        assert lab.ipvsctl("apply", str(file)).status == 0
        expected = state(lab)
        assert ("CT --helper" in expected["iptables"]) != ("ct helper" in expected["nft"])
    with Lab("pb") as lab, persisted(file), booted(lab) as system:
        status = system.on("systemctl", "status", "--no-pager", "--full", boot.UNIT)
        assert "active (exited)" in status.stdout, status
        for early in ("systemd-modules-load.service", "systemd-sysctl.service"):
            assert system.on("systemctl", "is-failed", early).stdout == "active\n"
        found = state(lab)
        for what, text in expected.items():
            assert found[what] == text, what

        # Nothing is left for apply. What was flushed comes back with a reload, and nothing goes with a stop.
        assert lab.ipvsctl("plan", "--check", str(file)).status == 0
        if expected["nft"]:
            must("ip", "netns", "exec", lab.director, "nft", "flush", "ruleset")
        else:
            must("ip", "netns", "exec", lab.director, "iptables-legacy", "-F", "INPUT")
        assert state(lab) != expected
        assert system.on("systemctl", "reload", boot.UNIT).status == 0
        assert system.on("systemctl", "stop", boot.UNIT).status == 0
        assert state(lab) == expected


@pytest.mark.parametrize("file", ["nft"], indirect=True)
def test_what_is_set_early_opens_nothing(file: Path) -> None:
    """Between systemd-sysctl and the unit there is no rule yet."""
    with Lab("pc") as lab, persisted(file):
        must("modprobe", "-a", *(line for line in Path(boot.MODULES).read_text().splitlines() if line[0] != "#"))
        done = lab.on(lab.director, "sysctl", "-p", boot.SYSCTLS)
        assert (done.status, done.stderr) == (0, "")
        opening = lab.on(lab.director, "sysctl", "-n", "net.ipv4.ip_forward", "net.ipv4.conf.eth1.accept_local")
        assert opening.stdout.split() == ["0", "0"]
        assert lab.on(lab.director, "sysctl", "-n", "net.ipv4.vs.conntrack").stdout == "1\n"
