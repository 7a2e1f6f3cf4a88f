"""Only files with a selected test are shown to the guest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [([], ["test_a.py", "test_b.py"]), (["-k", "second"], ["test_b.py"]), (["-k", "plain"], [])],
)
def test_files_with_selected_tests(tmp_path: Path, extra: list[str], expected: list[str]) -> None:
    mark = "import pytest\n@pytest.mark.guest\n"
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = guest: needs a kernel\n")
    (tmp_path / "test_a.py").write_text(f"{mark}def test_first(): pass\ndef test_plain(): pass\n")
    (tmp_path / "test_b.py").write_text(f"{mark}def test_second(): pass\n")
    (tmp_path / "test_c.py").write_text("def test_plain_too(): pass\n")
    assert collect(tmp_path, extra) == 0
    assert [Path(line).name for line in (tmp_path / "files").read_text().splitlines()] == expected


def test_a_broken_file_leaves_no_list(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("import nothing_of_this_name\n")
    assert collect(tmp_path, []) != 0
    assert not (tmp_path / "files").exists()


def collect(folder: Path, extra: list[str]) -> int:
    """A process of its own: pytest inside pytest would share the outer one's imports."""
    command = [sys.executable, "-m", "tests.vm.guest_files", str(folder / "files"), f"--rootdir={folder}", str(folder)]
    return subprocess.run([*command, *extra], cwd=ROOT, capture_output=True).returncode
