"""What the lab tells QEMU and the guest, and what it makes of the end of a boot; none of it boots anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vm import guest
from tests.vm.__main__ import main
from tests.vm.errors import LabError
from tests.vm.guest import Job
from tests.vm.kernels import Kernel

KERNEL = Kernel("6.1", Path("/cache/boot/vmlinuz-6.1"), Path("/cache/lib/modules"))


def test_the_job_script_is_a_valid_script_and_quotes(tmp_path: Path) -> None:
    checkout = tmp_path / "some one"
    checkout.mkdir(mode=0o700)
    job = Job(["sh", "-c", "echo 'a b' $X"], checkout, {"X": "it's; $HOME"}, 1)
    script = guest.job_script(job, "status")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert """export X='it'"'"'s; $HOME'\n""" in script
    assert f"cd '{checkout}' && sh -c" in script
    assert f"'{checkout}'" in next(line for line in script.splitlines() if line.startswith("chmod o+x "))


def test_closed_folders_are_found_on_the_whole_way(tmp_path: Path) -> None:
    inner = tmp_path / "home/checkout"
    inner.mkdir(parents=True)
    assert not {inner, inner.parent} & set(guest.closed_folders([inner]))
    inner.parent.chmod(0o700)
    assert {inner, inner.parent} & set(guest.closed_folders([inner])) == {inner.parent}


def test_the_environment_is_small_and_the_callers_word_is_last() -> None:
    environment = guest.guest_environment({"TERM": "xterm", "EXTRA": "1"})
    assert environment["TERM"] == "xterm"
    assert environment["EXTRA"] == "1"
    assert environment["IPVSCTL_SHARE"] == "/share"
    assert {"/usr/sbin", "/sbin"} <= set(environment["PATH"].split(":"))
    assert "LOGNAME" not in environment


def test_the_machine_is_emulated_by_name_and_the_host_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    command = guest.qemu_command(KERNEL, Path("/t/initramfs"), Path("/t/console"), Path("/t/a,b"))
    assert command[command.index("-accel") + 1].startswith("tcg")
    shares = [command[i + 1] for i, word in enumerate(command) if word == "-fsdev"]
    assert [("readonly=on" in share) for share in shares] == [True, True, False]
    assert "path=/t/a,,b," in shares[2]


def test_without_qemu_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LabError, match="qemu-system-x86"):
        guest.qemu_command(KERNEL, Path("/i"), Path("/c"), Path("/s"))


@pytest.mark.parametrize(
    ("status", "late", "reason"),
    [
        (None, True, "not done within 5 s"),
        ("0\n", True, "not done within 5 s"),
        (None, False, "without an exit status"),
        ("", False, "broken exit status"),
    ],
)
def test_no_status_is_a_failure_that_shows_the_console(
    tmp_path: Path, status: str | None, late: bool, reason: str
) -> None:
    (tmp_path / "console").write_text("first\n" * 200 + "Kernel panic\n")
    if status is not None:
        (tmp_path / "status").write_text(status)
    with pytest.raises(LabError, match=reason) as caught:
        guest._read_status(tmp_path / "status", tmp_path / "console", late, 5)
    assert str(caught.value).endswith("Kernel panic")
    assert len(str(caught.value).splitlines()) == 1 + guest.CONSOLE_LINES


def test_a_status_is_read(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("3\n")
    assert guest._read_status(tmp_path / "status", tmp_path / "console", False, 5) == 3


def test_output_is_handed_over_until_the_end() -> None:
    parts: list[bytes] = []
    late = guest._boot([sys.executable, "-c", "print('x' * 100_000)"], 60, parts.append)
    assert not late
    assert b"".join(parts) == b"x" * 100_000 + b"\n"


def test_the_deadline_ends_the_machine() -> None:
    begin = time.monotonic()
    pids: list[bytes] = []
    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    assert guest._boot([sys.executable, "-c", script], 1.5, pids.append)
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(b"".join(pids)), 0)


def test_an_interrupt_ends_the_machine() -> None:
    pids: list[bytes] = []

    def interrupt(data: bytes) -> None:
        pids.append(data)
        raise KeyboardInterrupt

    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with pytest.raises(KeyboardInterrupt):
        guest._boot([sys.executable, "-c", script], 60, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids[0]), 0)


@pytest.mark.parametrize("arguments", [[], ["--env", "no-value", "--", "true"], ["--suite", "sid", "--", "true"]])
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
