"""One boot: start QEMU on a kernel, run a command on the host's own files, bring back output and exit status.

The guest sees the whole file system of the host, read-only, with a layer in memory over it: whatever the command
writes is gone at power-off, except under /share. Output comes through a virtio port, byte for byte as the command
wrote it; the exit status comes as a file on the share, because only a guest that reached the end can have written
it. The kernel's own console goes to a log, shown only when something went wrong.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.vm import initramfs
from tests.vm.errors import LabError
from tests.vm.kernels import Kernel

CONSOLE_LINES = 80

MACHINE = (
    # TCG by name: /dev/kvm can be there and openable, and a guest under it still hang.
    *("-accel", "tcg,thread=multi", "-m", "3072", "-smp", "2"),
    # Without the "fast string" features: TCG runs such instructions byte by byte, and with them the kernel would clear
    # and copy pages five times slower.
    *("-cpu", "max,erms=off,fsrm=off"),
    *("-nodefaults", "-nic", "none", "-display", "none", "-no-reboot"),
)
KERNEL_LINE = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on rdinit=/init"


@dataclass(frozen=True, slots=True)
class Job:
    """What to run in the guest, and where."""

    command: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    timeout: float
    share: Path | None = None


def run(kernel: Kernel, job: Job, output: Callable[[bytes], object]) -> int:
    """Boot the kernel, run the job, hand its output over as it comes; the job's exit status."""
    with tempfile.TemporaryDirectory(prefix="ipvsctl-lab-") as scratch:
        home = Path(scratch)
        share = job.share or home / "share"
        share.mkdir(parents=True, exist_ok=True)
        status = share / f".{home.name}"  # A name of this boot's own, so that two boots can use one share.
        console = home / "console"
        archive = home / "initramfs"
        files = {"job": job_script(job, status.name).encode(), "checkout": os.fsencode(job.cwd)}
        archive.write_bytes(initramfs.build(kernel, files))
        try:
            late = _boot(qemu_command(kernel, archive, console, share), job.timeout, output)
            return _read_status(status, console, late, job.timeout)
        finally:
            status.unlink(missing_ok=True)


def job_script(job: Job, status: str) -> str:
    """The shell script that becomes process 1 once the files are in place."""
    closed = shlex.join(str(folder) for folder in closed_folders([job.cwd, Path(sys.base_prefix)]))
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in guest_environment(job.env).items())
    return f"""\
{exports}
hostname ipvs-lab
ip link set lo up
{f"chmod o+x {closed}" if closed else ""}
cd {shlex.quote(str(job.cwd))} && {shlex.join(job.command)} </dev/null >/dev/lab-output 2>&1
echo $? >/share/{status}
sync
/run/lab/busybox poweroff -f
"""


def closed_folders(paths: Iterable[Path]) -> list[Path]:
    """The folders on the way to these paths that only their owner may enter, such as a home that holds the checkout.

    The guest opens them (in its own layer), so that a job can also try what happens without privilege.
    """
    folders = {folder for path in paths for folder in (path, *path.parents)}
    return sorted(folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH)


def guest_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The job's environment: as little of the host's as will do, so that runs are alike."""
    path = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    path += [folder for folder in ("/usr/sbin", "/sbin", "/usr/bin", "/bin") if folder not in path]
    return {
        "PATH": ":".join(path),
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        # The job's output is followed live.
        "PYTHONUNBUFFERED": "1",
        "IPVSCTL_SHARE": "/share",
        **extra,
    }


def qemu_command(kernel: Kernel, archive: Path, console: Path, share: Path) -> list[str]:
    """QEMU's command line."""
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        raise LabError("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)")
    return [
        # QEMU must not outlive the lab, however the lab ends.
        *("setpriv", "--pdeathsig", "KILL", "--", qemu),
        *MACHINE,
        *("-kernel", str(kernel.image), "-initrd", str(archive), "-append", KERNEL_LINE),
        *("-serial", f"file:{console}"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-chardev", "file,id=output,path=/dev/stdout", "-device", "virtserialport,chardev=output,name=output"),
        *_shared("root", Path("/"), "readonly=on,multidevs=remap"),
        *_shared("modules", kernel.modules, "readonly=on"),
        *_shared("share", share, "multidevs=remap"),
    ]


def _shared(tag: str, path: Path, options: str) -> list[str]:
    """One of the host's folders, under a tag that the guest mounts."""
    # A comma ends an option of QEMU's; two stand for one.
    safe = str(path.resolve()).replace(",", ",,")
    return [
        *("-fsdev", f"local,id={tag},path={safe},security_model=none,{options}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _boot(command: Sequence[str], timeout: float, output: Callable[[bytes], object]) -> bool:
    """Run QEMU until it ends or time is up; whether time was up."""
    deadline = time.monotonic() + timeout
    # A session of its own: Ctrl-C reaches the lab alone, which then ends QEMU.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as qemu:
        try:
            assert qemu.stdout
            return not _copy(qemu.stdout, deadline, output)
        finally:
            qemu.kill()


def _copy(source: IO[bytes], deadline: float, output: Callable[[bytes], object]) -> bool:
    """Hand over what comes until the other side closes; false if the deadline came first."""
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            data = os.read(source.fileno(), 65536)
            if not data:
                return True
            output(data)
    return False


def _read_status(status: Path, console: Path, late: bool, timeout: float) -> int:
    """The job's exit status; without one, say why and show where the kernel had got to."""
    if late:
        reason = f"the guest was stopped: not done within {timeout:.0f} s"
    else:
        try:
            return int(status.read_text())
        except FileNotFoundError:
            reason = "the guest ended without an exit status"
        except ValueError:
            reason = "the guest left a broken exit status"
    lines = console.read_text(errors="replace").splitlines() if console.exists() else []
    raise LabError("\n".join([f"{reason}; its console ended with:", *lines[-CONSOLE_LINES:]]))
