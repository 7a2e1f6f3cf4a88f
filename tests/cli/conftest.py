"""The command on an emulated director: in this process through `main`, or as a process of its own."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main

FTP = """\
[nfct]
conntrack = true
accept_local = ["eth1"]

[[service]]
address = "tcp:192.168.1.100:21"
scheduler = "rr"
persistent = 300
helper = "ftp"
[[service.server]]
address = "10.0.2.2"
forward = "nat"

[firewall]
protect = ["192.168.1.100"]
local_clients = ["10.0.2.2"]

[sysctl]
"net.ipv4.vs.expire_nodest_conn" = 1

[timeout]
tcp_fin = 130
"""


def in_shell(line: str) -> str:
    """What a command line as a person types it prints, on both streams; `ipvsctl` is this checkout's."""
    shell = f'ipvsctl() {{ "{sys.executable}" -m ipvsctl "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout


@dataclass(frozen=True)
class Result:
    """What a command line ended with."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it is."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Cli:
    """Runs command lines in this process."""

    def __call__(self, *words: str, stdin: str = "", status: int = 0) -> Result:
        out, err = io.StringIO(), io.StringIO()
        found = main(words, Environment(stdin=io.StringIO(stdin), stdout=out, stderr=err))
        result = Result(found, out.getvalue(), err.getvalue())
        assert "Traceback" not in result.err
        assert result.status == status, result
        return result

    def process(self, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """The same as a process of its own."""
        command = [sys.executable, "-m", "ipvsctl", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """The command, its run-time files in a directory of the test's own, its host an emulator of the test's own."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(run))
    monkeypatch.setenv("IPVSCTL_HOST", "emulator")
    for name in ("NO_COLOR", "IPVSCTL_TRACEBACK", "_IPVSCTL_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ftp.toml").write_text(FTP)
    yield Cli()
    from ipvsctl.emulator.client import running, stop

    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(run))
    for each in running():
        stop(each["name"])


def until(happened: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for what another process does; returns what `happened` returned."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        select.select([], [], [], 0.01)
    return result


def journal() -> Path:
    """The journal of the only host there is."""
    (found,) = Path(os.environ["IPVSCTL_RUNTIME_DIR"], "journal").iterdir()
    return found
