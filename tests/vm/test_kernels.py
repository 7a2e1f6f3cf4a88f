"""The parts of fetching a kernel that need no mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm.errors import LabError
from tests.vm.kernels import SUITES, Kernel, cache_folder, fetch, kernel_in, kernel_packages, mirrors, source_lines

TARGETS = """\
bookworm http://mirror.example/debian/
bookworm-updates http://mirror.example/debian/
bookworm-security http://mirror.example/debian-security/
"""


def test_mirrors_are_told_apart_by_release() -> None:
    assert mirrors(TARGETS) == ("http://mirror.example/debian/", "http://mirror.example/debian-security/")


def test_a_host_without_the_security_archive_is_served() -> None:
    assert mirrors("trixie http://mirror.example/debian/\n") == ("http://mirror.example/debian/", "")


def test_no_mirror_is_an_error() -> None:
    with pytest.raises(LabError, match="no Debian mirror"):
        mirrors("bookworm-security http://mirror.example/debian-security/\n")


@pytest.mark.parametrize(
    ("suite", "releases"),
    [
        ("bullseye", ["bullseye", "bullseye-security"]),
        ("bookworm", ["bookworm", "bookworm-security"]),
        ("bookworm-backports", ["bookworm-backports"]),
        ("trixie-backports", ["trixie-backports"]),
    ],
)
def test_sources_of_a_suite(suite: str, releases: list[str]) -> None:
    lines = list(source_lines(SUITES[suite], *mirrors(TARGETS)))
    assert [line.split()[-2] for line in lines] == releases
    assert all("signed-by=" in line for line in lines)


def test_without_a_security_mirror_its_line_is_left_out() -> None:
    assert len(list(source_lines(SUITES["bookworm"], "http://mirror.example/debian/", ""))) == 1


@pytest.mark.parametrize(
    ("printed", "packages"),
    [
        ("linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n", []),
        ("linux-image-amd64\nlinux-image-6.1.0-56-amd64\n", ["linux-image-6.1.0-56-amd64"]),
        ("linux-image-6.12.95+deb12-amd64\n", ["linux-image-6.12.95+deb12-amd64"]),
        ("linux-image-6.1.0-0.deb11.21-amd64\n", ["linux-image-6.1.0-0.deb11.21-amd64"]),
        (
            "linux-modules-7.3.4+deb13-amd64\nlinux-image-7.3.4+deb13-amd64\nlinux-binary-7.3.4+deb13-amd64\n",
            [f"linux-{part}-7.3.4+deb13-amd64" for part in ("binary", "image", "modules")],
        ),
        ("linux-image-6.1.0-56-cloud-amd64\nlinux-image-6.1.0-56-rt-amd64\n<linux-image-generic>\nkmod\n", []),
        ("linux-image-6.1.0-56-amd64-dbg\nlinux-image-6.1.0-56-amd64-unsigned\nlinux-base\n", []),
    ],
)
def test_kernel_packages(printed: str, packages: list[str]) -> None:
    assert kernel_packages(printed) == packages


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        ("boot/vmlinuz-6.1.0-56-amd64", "lib/modules/6.1.0-56-amd64"),
        ("usr/lib/modules/7.3.4+deb13-amd64/vmlinuz", "usr/lib/modules/7.3.4+deb13-amd64"),
    ],
)
def test_kernel_in_both_layouts(tmp_path: Path, image: str, modules: str) -> None:
    tree = tmp_path / modules
    tree.mkdir(parents=True)
    (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / image).touch()
    assert kernel_in(tmp_path) == Kernel(tree.name, tmp_path / image, tree.parent)


def test_a_kernel_in_the_cache_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # Nothing to fetch with.
    (tmp_path / "bookworm/lib/modules/6.1").mkdir(parents=True)
    (tmp_path / "bookworm/boot").mkdir()
    (tmp_path / "bookworm/boot/vmlinuz-6.1").touch()
    assert fetch(SUITES["bookworm"], tmp_path).release == "6.1"


def test_a_failed_fetch_leaves_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LabError, match="apt-get is not installed"):
        fetch(SUITES["bookworm"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bookworm.lock"]


def test_a_folder_without_kernel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no kernel image"):
        kernel_in(tmp_path)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("IPVSCTL_LAB_CACHE", raising=False)
    assert cache_folder() == Path("/home/someone/.cache/ipvsctl-lab")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/ipvsctl-lab")
    monkeypatch.setenv("IPVSCTL_LAB_CACHE", "/srv/lab")
    assert cache_folder() == Path("/srv/lab")
