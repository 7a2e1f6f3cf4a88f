"""The guest's first file system: busybox, the modules that reach the host's files, and the script that uses them.

It is built anew for every boot (some milliseconds), because it also carries the job's script: so there is nothing
cached that could be stale. The archive is cpio's "newc" format, uncompressed, as the kernel reads it.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.vm.errors import LabError
from tests.vm.kernels import Kernel

# What the first script needs before it can mount anything. What a kernel has built in is not in modules.dep.
NEEDED = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "virtio_rng")

INIT = Path(__file__).with_name("init.sh")


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of the archive: a folder, or a file with its content."""

    name: str
    mode: int
    data: bytes = b""


def build(kernel: Kernel, files: Mapping[str, bytes]) -> bytes:
    """The archive for one boot; `files` are the caller's own, by their name in the archive."""
    modules = load_order(read_dependencies(kernel.tree / "modules.dep"), NEEDED)
    members = {
        "bin/busybox": _busybox().read_bytes(),
        "init": INIT.read_bytes(),
        "modules/order": "".join(f"/modules/{plain_name(path)}\n" for path in modules).encode(),
        **{f"modules/{plain_name(path)}": unpacked_module(kernel.tree / path) for path in modules},
        **files,
    }
    return archive(tree_of(members))


def read_dependencies(modules_dep: Path) -> dict[str, list[str]]:
    """modules.dep as a mapping: a module's path to the paths of the modules it needs."""
    try:
        return parse_dependencies(modules_dep.read_text())
    except FileNotFoundError as missing:
        raise LabError(f"{modules_dep} is missing; remove the kernel's folder to have it fetched again") from missing


def parse_dependencies(text: str) -> dict[str, list[str]]:
    """Each line is `path: path path ...`, relative to the tree."""
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        table[path] = needs.split()
    return table


def load_order(table: Mapping[str, list[str]], wanted: Iterable[str]) -> list[str]:
    """The wanted modules and all they need, each after its own needs; names not in the table are built in."""
    by_name = {module_name(path): path for path in table}
    order: list[str] = []

    def visit(path: str) -> None:
        if path in order:
            return
        for need in table[path]:
            visit(need)
        order.append(path)

    for name in wanted:
        if path := by_name.get(module_name(name)):
            visit(path)
    return order


def module_name(path: str) -> str:
    """A module's name as the kernel spells it: no folder, no ending, underscores."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def plain_name(path: str) -> str:
    """The file name of a module once it is unpacked."""
    return PurePosixPath(path).name.partition(".ko")[0] + ".ko"


def unpacked_module(path: Path) -> bytes:
    """A module's bytes without compression, which busybox's insmod would not undo."""
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    if path.suffix != ".xz":
        raise LabError(f"{path}: the lab cannot unpack modules with this ending")
    # Not Python's lzma: an interpreter built from source may lack it, and busybox has to be here anyway.
    return subprocess.run([_busybox(), "xz", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout


def tree_of(files: Mapping[str, bytes]) -> Iterator[Entry]:
    """The files as executables, each folder before what lies in it."""
    seen: set[str] = set()
    for name, data in files.items():
        for folder in reversed(PurePosixPath(name).parents[:-1]):
            if str(folder) not in seen:
                seen.add(str(folder))
                yield Entry(str(folder), stat.S_IFDIR | 0o755)
        yield Entry(name, stat.S_IFREG | 0o755, data)


def archive(entries: Iterable[Entry]) -> bytes:
    """The entries as a cpio archive."""
    parts = [_member(number, entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _member(0, Entry("TRAILER!!!", 0))])


def _member(inode: int, entry: Entry) -> bytes:
    """One member: a magic and thirteen fields of eight hex digits, the name, the data; padded to four bytes."""
    name = entry.name.encode() + b"\0"
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _busybox() -> Path:
    """The static busybox; a dynamically linked one would find no libraries in the archive."""
    found = shutil.which("busybox", path="/bin:/usr/bin")
    if not found or b"/ld-linux" in Path(found).read_bytes()[:4096]:
        raise LabError("busybox is not installed as a static program (Debian: busybox-static)")
    return Path(found)
