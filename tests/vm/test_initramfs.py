"""Module dependencies, and the archive that the kernel unpacks."""

from __future__ import annotations

import lzma
import shutil
import stat
from pathlib import Path

import pytest

from tests.vm.errors import LabError
from tests.vm.initramfs import (
    Entry,
    archive,
    load_order,
    module_name,
    parse_dependencies,
    plain_name,
    tree_of,
    unpacked_module,
)

# depmod lists all needs of a module, but not in the order in which they load.
MODULES_DEP = """\
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache/fscache.ko kernel/fs/netfs/netfs.ko
kernel/fs/fscache/fscache.ko: kernel/fs/netfs/netfs.ko
kernel/fs/netfs/netfs.ko:
kernel/net/9p/9pnet.ko:
kernel/drivers/virtio/virtio-rng.ko.xz:
"""


def test_needs_load_first() -> None:
    assert load_order(parse_dependencies(MODULES_DEP), ["9p"]) == [
        "kernel/net/9p/9pnet.ko",
        "kernel/fs/netfs/netfs.ko",
        "kernel/fs/fscache/fscache.ko",
        "kernel/fs/9p/9p.ko",
    ]


def test_each_module_loads_once() -> None:
    order = load_order(parse_dependencies(MODULES_DEP), ["netfs", "9p", "fscache", "9p"])
    assert order[0] == "kernel/fs/netfs/netfs.ko"
    assert len(order) == len(set(order)) == 4


def test_built_in_modules_are_left_out_and_dashes_are_underscores() -> None:
    assert load_order(parse_dependencies(MODULES_DEP), ["ext4", "virtio_rng"]) == [
        "kernel/drivers/virtio/virtio-rng.ko.xz"
    ]


def test_names() -> None:
    assert module_name("kernel/drivers/virtio/virtio-rng.ko.xz") == "virtio_rng"
    assert plain_name("kernel/drivers/virtio/virtio-rng.ko.xz") == "virtio-rng.ko"


@pytest.mark.skipif(not shutil.which("busybox", path="/bin:/usr/bin"), reason="busybox is not installed")
def test_compressed_modules_are_unpacked(tmp_path: Path) -> None:
    plain = tmp_path / "a.ko"
    plain.write_bytes(b"\x7fELF")
    packed = tmp_path / "b.ko.xz"
    packed.write_bytes(lzma.compress(b"\x7fELF", check=lzma.CHECK_CRC32))
    assert unpacked_module(plain) == unpacked_module(packed) == b"\x7fELF"


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ko.zst").touch()
    with pytest.raises(LabError, match=r"a\.ko\.zst"):
        unpacked_module(tmp_path / "a.ko.zst")


def test_folders_come_before_their_files_and_once() -> None:
    entries = list(tree_of({"bin/busybox": b"b", "init": b"i", "bin/x/y": b"y"}))
    assert [entry.name for entry in entries] == ["bin", "bin/busybox", "init", "bin/x", "bin/x/y"]
    assert [stat.S_ISDIR(entry.mode) for entry in entries] == [True, False, False, True, False]


def test_archive_reads_back() -> None:
    entries = list(tree_of({"bin/a": b"abcde", "empty": b"", "init": b"#!/bin/sh\n"}))
    assert read_archive(archive(entries)) == entries


def read_archive(data: bytes) -> list[Entry]:
    """A second, independent reading of the format: what the kernel would find."""
    entries: list[Entry] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701", "a member starts with the magic"
        assert at % 4 == 0
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = -(-(at + 110 + name_size) // 4) * 4
        if name == b"TRAILER!!!\0":
            return entries
        entries.append(Entry(name[:-1].decode(), mode, data[start : start + size]))
        at = -(-(start + size) // 4) * 4
