"""The laws of the house: who may import whom, what enters where, how long a file may be, and the linters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ipvsctl"
FILES = sorted(PACKAGE.rglob("*.py"))

# An import points to the same layer or to one above it in this list.
LAYERS = [
    ("errors",),
    ("model",),
    ("wire",),
    ("formats",),
    ("knowledge",),
    ("datapath",),
    ("host",),
    ("plan",),
    ("runtime",),
    ("journal",),
    ("kernel", "emulator"),
    ("pick",),
    ("cli", "__main__"),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

PURE = ("errors", "model", "wire", "formats", "knowledge", "datapath", "plan", "host")
FORBIDDEN_IN_PURE = {"socket", "os", "subprocess", "time", "random", "threading"}

# Third-party packages enter by named doors.
DOORS = {
    "click": "cli/",
    "rich": "cli/output.py",
    "pyroute2": "kernel/",
    "iptc": "kernel/",
    "rtoml": "formats/",
}

MAX_LINES = 400


def imports(path: Path) -> list[str]:
    """Every module that a file imports, wherever in it, as a dotted name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module or ""]
            if node.module == "ipvsctl":
                found += [f"ipvsctl.{alias.name}" for alias in node.names]
    return found


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_upwards(path: Path) -> None:
    mine = layer(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] != "ipvsctl" or len(parts) == 1 or parts[1] == "__version__":
            continue
        theirs = parts[1]
        assert theirs in RANK, f"{name(path)} imports ipvsctl.{theirs}, which has no layer"
        assert mine == "__init__" or RANK[theirs] <= RANK[mine], f"{name(path)} imports downwards: {module}"
        assert {mine, theirs} != {"kernel", "emulator"}, f"{name(path)}: kernel and emulator never meet"
        if theirs in ("kernel", "emulator") and mine != theirs:
            allowed = ("pick.py", "cli/emulate.py", "cli/trace.py")
            assert name(path) in allowed, f"{name(path)} reaches behind host.py: {module}"


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) in PURE], ids=name)
def test_pure_layers_have_no_io(path: Path) -> None:
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in FORBIDDEN_IN_PURE, f"{name(path)} imports {module}"
        door = DOORS.get(top)
        known = top in sys.stdlib_module_names or top == "ipvsctl" or (door and name(path).startswith(door))
        assert known, f"{name(path)} imports the third-party package {top}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_third_party_packages_enter_by_their_door(path: Path) -> None:
    for module in imports(path):
        top = module.split(".")[0]
        if top in sys.stdlib_module_names or top == "ipvsctl":
            continue
        assert top in DOORS, f"{name(path)} imports {top}, which is no dependency"
        assert name(path).startswith(DOORS[top]), f"{name(path)} imports {top}; its door is {DOORS[top]}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES, f"{name(path)} is longer than {MAX_LINES} lines"
    assert len(path.relative_to(PACKAGE).parts) <= 3, f"{name(path)} lies too deep"
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{name(path)} does not open with what it is about"


def test_ruff() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "ipvsctl", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_strict(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "-p", "ipvsctl"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
