"""Debian's kernels: which suites the lab knows, and how one kernel comes into the cache.

Apt does the fetching, with a private list of sources and a private state folder: so mirror, proxies, signatures and
checksums are handled by the tool that knows them, the host's own package lists stay untouched, and neither root nor
an installation is needed. A kernel is unpacked beside its final place and renamed into it last; what is there under
its final name is complete.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.errors import LabError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The flavour without a suffix: the cloud flavour has IPVS, but no 9p to reach the host's files with.
KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules)-[0-9][^-]*(-[0-9][^-]*)?-amd64")


@dataclass(frozen=True, slots=True)
class Suite:
    """One of Debian's suites, and whether the security mirror has newer kernels for it."""

    name: str
    linux: str
    security: bool


SUITES = {
    suite.name: suite
    for suite in (
        Suite("bullseye", "5.10", security=True),
        Suite("bookworm", "6.1", security=True),
        Suite("bookworm-backports", "6.12", security=False),
        Suite("trixie-backports", "7.3", security=False),
    )
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: its image, and the folder that holds its module tree under the release's name."""

    release: str
    image: Path
    modules: Path

    @property
    def tree(self) -> Path:
        """The module tree itself, where modules.dep lies."""
        return self.modules / self.release


def cache_folder() -> Path:
    """Where kernels are kept between runs."""
    if chosen := os.environ.get("IPVSCTL_LAB_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ipvsctl-lab"


def fetch(suite: Suite, cache: Path) -> Kernel:
    """The suite's kernel, from the cache if it is there, else from the mirror."""
    home = cache / suite.name
    if home.is_dir():
        return kernel_in(home)
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{suite.name}.lock"):
        if not home.is_dir():  # Another run may have fetched it while this one waited for the lock.
            with tempfile.TemporaryDirectory(prefix=f".{suite.name}-", dir=cache) as scratch:
                unpacked = Path(scratch) / "kernel"
                for package in _download(suite, Path(scratch)):
                    _run(["dpkg", "-x", str(package), str(unpacked)])
                _index_modules(unpacked)
                unpacked.rename(home)
    return kernel_in(home)


def kernel_in(unpacked: Path) -> Kernel:
    """The kernel inside a folder of unpacked packages; since 7.x Debian keeps everything under /usr."""
    for modules in (unpacked / "lib/modules", unpacked / "usr/lib/modules"):
        for tree in sorted(modules.glob("*/")):
            for image in (unpacked / f"boot/vmlinuz-{tree.name}", tree / "vmlinuz"):
                if image.is_file():
                    return Kernel(tree.name, image, modules)
    raise LabError(f"{unpacked} holds no kernel image with its modules; remove the folder to have it fetched again")


def kernel_packages(depends: str) -> list[str]:
    """The packages to unpack, out of what `apt-cache depends --recurse` prints for the metapackage."""
    names = (line.strip() for line in depends.splitlines() if line and not line[0].isspace())
    return sorted({name for name in names if KERNEL_PACKAGE.fullmatch(name)})


def mirrors(index_targets: str) -> tuple[str, str]:
    """The archive's and the security archive's address, from lines of "release address" of the host's own sources."""
    archive = security = ""
    for line in index_targets.splitlines():
        release, _, address = line.partition(" ")
        if release.endswith("-security"):
            security = security or address
        elif not release.endswith(("-updates", "-backports")):
            archive = archive or address
    if not archive:
        raise LabError("apt knows no Debian mirror to fetch a kernel from (apt-get indextargets lists none)")
    # A host without the security archive still has every suite: each kernel is in the main one too, only older.
    return archive, security


def source_lines(suite: Suite, archive: str, security: str) -> Iterator[str]:
    """The private sources.list for one suite."""
    signed = f"[arch=amd64 signed-by={KEYRING}]"
    yield f"deb {signed} {archive} {suite.name} main"
    if suite.security and security:
        yield f"deb {signed} {security} {suite.name}-security main"


def _download(suite: Suite, scratch: Path) -> Iterable[Path]:
    """Download the suite's kernel packages into the scratch folder."""
    listed = _run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"])
    lines = source_lines(suite, *mirrors(listed))
    (scratch / "sources.list").write_text("".join(f"{line}\n" for line in lines))
    (scratch / "status").touch()  # An empty list of installed packages: nothing here is "already the newest version".
    for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
        (scratch / folder).mkdir(parents=True)
    config = scratch / "apt.conf"
    config.write_text(_apt_config(scratch))
    _run(["apt-get", "-q", "update", "--error-on=any"], config)
    recursion = ["--recurse", "--important", "--no-conflicts", "--no-breaks", "--no-replaces"]
    names = kernel_packages(_run(["apt-cache", "depends", *recursion, "linux-image-amd64"], config))
    if not names:
        raise LabError(f"{suite.name}: linux-image-amd64 depends on no kernel image that the lab knows how to unpack")
    _run(["apt-get", "-q", "download", *names], config, cwd=scratch / "debs")
    return sorted((scratch / "debs").glob("*.deb"))


def _apt_config(scratch: Path) -> str:
    """Options that keep apt inside the scratch folder; all else (proxies, transports) stays as the host has it."""
    options = {
        "Dir::Etc::SourceList": scratch / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": scratch / "state",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        # The scratch folder belongs to the caller; apt's own user could not write there.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
        "Acquire::http::Timeout": 30,
        "Acquire::https::Timeout": 30,
    }
    return "".join(f'{name} "{value}";\n' for name, value in options.items())


def _index_modules(unpacked: Path) -> None:
    """Write modules.dep and its like, which Debian leaves to the installation."""
    kernel = kernel_in(unpacked)
    # depmod insists on BASE/lib/modules; packages that use /usr/lib are met by taking their /usr as the base.
    depmod = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "depmod"
    _run([depmod, "-b", str(kernel.modules.parent.parent), kernel.release])


def _run(command: list[str], apt_config: Path | None = None, cwd: Path | None = None) -> str:
    """Run a helper and give its standard output; a failure is told with what it printed."""
    env = {**os.environ, "LC_ALL": "C"}
    if apt_config:
        env["APT_CONFIG"] = str(apt_config)
    try:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=900)
    except FileNotFoundError as missing:
        raise LabError(f"{command[0]} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise LabError(f"{' '.join(command[:2])} did not end within {late.timeout:.0f} s") from late
    if done.returncode:
        raise LabError(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two runs do not fetch the same kernel at once."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
