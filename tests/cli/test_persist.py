"""`persist` and `forget` below a root of the test's own: which files, all or none, and never somebody else's."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main
from ipvsctl.formats.units import TAG
from ipvsctl.knowledge import boot
from tests.cli.conftest import FTP, Cli
from tests.kernel.namespaces import as_nobody
from tests.needs import need_program, need_root

PROGRAM = str(Path(sys.executable).with_name("ipvsctl"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's file system: some of the directories are there, and a file of somebody else's."""
    made = tmp_path / "machine"
    (made / "etc/sysctl.d").mkdir(parents=True)
    (made / "etc/sysctl.d/99-sysctl.conf").write_text("kernel.panic = 10\n")
    (made / "etc/systemd/system").mkdir(parents=True)
    return made


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Every file and link below a root, with its mode and what is in it."""
    return {
        f"/{path.relative_to(root)}": (
            stat.S_IMODE(path.lstat().st_mode),
            str(path.readlink()) if path.is_symlink() else path.read_text(),
        )
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def write(cli: Cli, root: Path, file: str = "ftp.toml", **settings: int) -> list[str]:
    return cli("persist", file, "--write", "--root", str(root), "--program", "/opt/ipvsctl", **settings).lines


def test_showing_is_the_default_and_changes_nothing(cli: Cli, root: Path) -> None:
    before = tree(root)
    shown = cli("persist", "ftp.toml", "--root", str(root)).out
    assert cli("persist", "--show", "ftp.toml", "--root", str(root)).out == shown
    assert (
        cli("-j", "--dry-run", "persist", "--write", "ftp.toml", "--root", str(root)).json["files"][0]["state"] == "new"
    )
    assert tree(root) == before
    assert re.findall(r"^==> (\S+)", shown, re.MULTILINE) == list(boot.PATHS)
    files = cli("-j", "persist", "ftp.toml").json["files"]
    assert [each["path"] for each in files] == list(boot.PATHS)
    assert all(each["content"] in shown for each in files if "content" in each)


def test_the_files_say_what_the_director_needs(cli: Cli) -> None:
    files = {each["path"]: each for each in cli("-j", "persist", "ftp.toml").json["files"]}
    assert files[boot.DIRECTOR]["mode"] == "0600"
    assert files[boot.DIRECTOR]["content"] == f"{TAG}\n{FTP}"
    assert files[boot.MODULES]["content"].splitlines() == [TAG, "ip_vs", "nf_conntrack_ftp", "ip_vs_ftp"]
    # Forwarding waits for the rules, and a device's sysctl for the device.
    left = "# Left to ipvsctl.service: net.ipv4.conf.eth1.accept_local, net.ipv4.ip_forward"
    lines = ["net.ipv4.vs.conntrack = 1", "net.ipv4.vs.expire_nodest_conn = 1"]
    assert files[boot.SYSCTLS]["content"].splitlines() == [TAG, left, *lines]
    assert f"\nExecStart={PROGRAM} apply {boot.DIRECTOR}\n" in files[boot.SERVICE]["content"]
    assert files[boot.ENABLED] == {"path": boot.ENABLED, "target": "../ipvsctl.service"}


def test_without_rules_nothing_waits_for_them(cli: Cli) -> None:
    Path("web.toml").write_text(
        '[[service]]\naddress = "tcp:192.0.2.1:80"\n[[service.server]]\naddress = "10.0.0.2"\nforward = "nat"\n'
        '[sysctl]\n"net.ipv4.conf.all.rp_filter" = 2\n"net.ipv4.conf.eth0/100.rp_filter" = 2\n'
    )
    files = {each["path"]: each for each in cli("-j", "persist", "web.toml").json["files"]}
    assert files[boot.SYSCTLS]["content"].splitlines()[1:] == [
        "# Left to ipvsctl.service: net.ipv4.conf.eth0/100.rp_filter",
        "net.ipv4.ip_forward = 1",
        "net.ipv4.conf.all.rp_filter = 2",
    ]


def test_what_is_written_is_what_was_shown_and_goes_again(cli: Cli, root: Path) -> None:
    before = tree(root)
    paths = [f"{root}{path}" for path in boot.PATHS]
    old = os.umask(0o077)
    try:
        assert write(cli, root) == [f"written: {path}" for path in paths]
    finally:
        os.umask(old)
    found = tree(root)
    for file in cli("-j", "persist", "ftp.toml", "--program", "/opt/ipvsctl", "--root", str(root)).json["files"]:
        mode, content = found[file["path"]]
        assert content == file.get("content", file.get("target"))
        assert file.get("mode", f"{mode:04o}") == f"{mode:04o}"
    assert found.keys() == {*before, *boot.PATHS}
    times = {path: os.lstat(path).st_mtime_ns for path in paths}
    assert write(cli, root) == ["no changes"]
    assert {path: os.lstat(path).st_mtime_ns for path in paths} == times

    assert cli("forget", "--root", str(root)).lines == paths
    would = [f"would remove {path}" for path in paths]
    assert cli("forget", "--write", "--dry-run", "--root", str(root)).lines == would
    assert tree(root) == found
    assert cli("-j", "forget", "--write", "--root", str(root)).json["removed"] is True
    assert tree(root) == before
    assert not (root / "etc/ipvsctl").exists()
    assert cli("forget", "--write", "--root", str(root)).out == "no changes\n"
    assert cli("forget", "--root", str(root)).out == ""


def test_only_what_differs_is_written(cli: Cli, root: Path) -> None:
    write(cli, root)
    text = FTP.replace('"net.ipv4.vs.expire_nodest_conn" = 1', '"net.ipv4.vs.expire_nodest_conn" = 0')
    Path("ftp.toml").write_text(text)
    assert write(cli, root) == [f"written: {root}{boot.DIRECTOR}", f"written: {root}{boot.SYSCTLS}"]
    # The copy may be edited in its place, and persisted from there.
    copy = root / boot.DIRECTOR[1:]
    copy.write_text(copy.read_text() + "udp = 200\n")
    assert write(cli, root, str(copy)) == ["no changes"]
    assert copy.read_text().count(TAG) == 1
    # Its mode is part of it.
    copy.chmod(0o644)
    assert write(cli, root, str(copy)) == [f"written: {copy}"]
    # `systemctl enable` writes the link in another way, and `systemctl disable` takes it away.
    link = root / boot.ENABLED[1:]
    link.unlink()
    link.symlink_to(boot.SERVICE)
    assert write(cli, root, str(copy)) == ["no changes"]
    link.unlink()
    assert write(cli, root, str(copy)) == [f"written: {link}"]


@pytest.mark.parametrize("path", boot.PATHS)
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_file_of_somebody_else_is_left_alone_and_so_is_all_else(cli: Cli, root: Path, path: str, kind: str) -> None:
    place = root / path[1:]
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        place.write_text("mine\n")
    elif kind == "link":
        place.symlink_to("/dev/null")
    else:
        place.mkdir()
    before = tree(root)
    error = cli("persist", "ftp.toml", "--write", "--root", str(root), status=3).err
    assert f"{place} was not made by ipvsctl" in error
    assert tree(root) == before
    cli("forget", "--write", "--root", str(root))
    assert tree(root) == before


def test_forget_takes_ours_and_leaves_what_took_a_place_meanwhile(cli: Cli, root: Path) -> None:
    write(cli, root)
    (root / boot.SYSCTLS[1:]).write_text("net.ipv4.ip_forward = 0\n")
    (root / "etc/ipvsctl/notes").write_text("mine\n")
    cli("forget", "--write", "--root", str(root))
    assert tree(root).keys() == {"/etc/sysctl.d/99-sysctl.conf", boot.SYSCTLS, "/etc/ipvsctl/notes"}


@pytest.mark.parametrize("command", ["new", "changed", "forget"])
def test_a_failure_at_any_file_leaves_everything_as_it_was(
    cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The disk fails at the n-th directory, rename or removal, for every n there is."""
    if command != "new":
        write(cli, root)
        Path("ftp.toml").write_text(FTP.replace("conntrack = true", "conntrack = false"))
    before, folders = tree(root), sorted(root.rglob("*"))
    words = ["forget"] if command == "forget" else ["persist", "ftp.toml", "--program", "/opt/other"]
    statuses = []
    while not statuses or statuses[-1]:
        with monkeypatch.context() as patch, Failing(patch, root, len(statuses) + 1):
            statuses.append(run([*words, "--write", "--root", str(root)]))
        if statuses[-1]:
            assert tree(root) == before
            assert sorted(root.rglob("*")) == folders
    # At first nothing had been changed yet, later what had been was undone.
    assert (
        statuses
        == {"new": [1] * 4 + [5] * 4 + [0], "changed": [1] + [5] * 2 + [0], "forget": [1] + [5] * 4 + [0]}[command]
    )


def run(words: list[str]) -> int:
    return main(words, Environment(stdin=io.StringIO(), stdout=io.StringIO(), stderr=io.StringIO()))


class Failing:
    """While it lasts, the n-th directory made, file moved or file of a final name removed below a root fails, once."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, failing: int) -> None:
        self.patch, self.root, self.left = patch, root, failing

    def __enter__(self) -> None:
        for name in ("mkdir", "rename", "unlink"):
            self.patch.setattr(Path, name, self.counting(getattr(Path, name)))

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def counting(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(path: Path, *arguments: object, **settings: object) -> object:
            temporary = path.name.startswith(".") and real.__name__ == "unlink"
            if path.is_relative_to(self.root) and not temporary:
                self.left -= 1
                if self.left == 0:
                    raise OSError(errno.EIO, "Input/output error")
            return real(path, *arguments, **settings)

        return call


def test_a_root_that_leads_out_of_itself_is_refused(cli: Cli, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "etc/modules-load.d").symlink_to(tmp_path / "outside")
    assert "leads out of" in cli("persist", "ftp.toml", "--write", "--root", str(root), status=1).err
    assert list((tmp_path / "outside").iterdir()) == []
    assert "no such directory" in cli("persist", "ftp.toml", "--root", str(root / "nowhere"), status=2).err


def test_without_the_right_to_write_nothing_is_changed(cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Showing needs no right; writing and forgetting end with status 4."""
    need_root()
    write(cli, root)
    Path("ftp.toml").write_text(FTP.replace("conntrack = true", "conntrack = false"))
    before = tree(root)
    for folder in (root, *root.parents):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    at = ("--root", str(root))
    cli("persist", "ftp.toml", *at)  # Imports what nobody may not read.
    cli("persist", "ftp.toml", "--write", "--dry-run", *at)
    with as_nobody():
        cli("persist", "ftp.toml", *at)
        for words in (["persist", "ftp.toml", "--write"], ["forget", "--write"], ["forget"]):
            assert "run as root" in cli(*words, *at, status=4).err
    (root / boot.DIRECTOR[1:]).unlink()
    with as_nobody():
        for words in (["persist", "ftp.toml", "--write"], ["forget", "--write"]):
            assert "run as root" in cli(*words, *at, status=4).err
    assert tree(root).keys() == before.keys() - {boot.DIRECTOR}


def test_without_a_file_it_is_what_the_host_is(cli: Cli, root: Path) -> None:
    assert "there is nothing to persist" in cli("persist", status=2).err
    cli("apply", "ftp.toml")
    exported = cli("export").out
    cli("persist", "--write", "--root", str(root), "--program", "/opt/ipvsctl")
    assert (root / boot.DIRECTOR[1:]).read_text() == f"{TAG}\n{exported}"
    # The host itself is as it was, and its copy is a director file like any other.
    assert cli("-j", "plan", str(root / boot.DIRECTOR[1:])).json["changes"] == []


def test_each_file_is_told_before_it_is_touched(cli: Cli, root: Path) -> None:
    told = cli("-v", "persist", "ftp.toml", "--write", "--root", str(root)).err.splitlines()
    assert [line for line in told if line.startswith("+")] == [f"+ write {root}{path}" for path in boot.PATHS]
    told = cli("-v", "-q", "forget", "--write", "--root", str(root)).err.splitlines()
    assert told == [f"- remove {root}{path}" for path in reversed(boot.PATHS)]


def test_standard_input_is_a_file_too(cli: Cli, root: Path) -> None:
    cli("persist", "-", "--write", "--root", str(root), "--program", "/opt/ipvsctl", stdin=FTP)
    assert (root / boot.DIRECTOR[1:]).read_text() == f"{TAG}\n{FTP}"


def test_wrong_usage(cli: Cli, root: Path) -> None:
    Path("broken.toml").write_text("[nfct]\nnope = 1\n")
    assert "broken.toml:2" in cli("persist", "broken.toml", "--write", "--root", str(root), status=2).err
    assert "--netns" in cli("--netns", "x", "persist", "ftp.toml", status=2).err
    for program in ("ipvsctl", "/nowhere/ipvsctl", "/etc/passwd"):
        assert "--program" in cli("persist", "ftp.toml", "--program", program, status=2).err
    for program in ("/a\nb", "/a$b", '/a"b', "/a'b", "/a\\b"):
        error = cli("persist", "ftp.toml", "--root", str(root), "--program", program, status=2).err
        assert "cannot stand in a unit's command line" in error
    assert boot.SYSCTLS not in tree(root)


def test_systemd_takes_the_unit(cli: Cli, root: Path) -> None:
    need_program("systemd-analyze")
    odd = root / "100% of; a program"
    odd.write_text("#!/bin/sh\n")
    odd.chmod(0o755)
    for program, written in ((PROGRAM, PROGRAM), (str(odd), f'"{root}/100%% of; a program"')):
        cli("persist", "ftp.toml", "--write", "--root", str(root), "--program", program)
        unit = root / boot.SERVICE[1:]
        assert verify(unit) == ""
        assert f"\nExecStart={written} apply {boot.DIRECTOR}\n" in unit.read_text()
    unit.write_text(unit.read_text().replace("Type=oneshot", "Type=once").replace("UMask=", "Umask="))
    assert len(verify(unit).splitlines()) >= 2, "a fault in a unit is not noticed"


def verify(unit: Path) -> str:
    command = ["systemd-analyze", "verify", "--man=no", "--generators=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_the_unit_is_ordered_and_enabled(cli: Cli) -> None:
    (text,) = (
        each["content"] for each in cli("-j", "persist", "ftp.toml").json["files"] if each["path"] == boot.SERVICE
    )
    after = " ".join(re.findall(r"^After=(.*)$", text, re.MULTILINE)).split()
    before = " ".join(re.findall(r"^Before=(.*)$", text, re.MULTILINE)).split()
    assert {"systemd-modules-load.service", "systemd-sysctl.service", "nftables.service", "firewalld.service"} <= {
        *after
    }
    assert {"keepalived.service", "ldirectord.service"} == {*before}
    assert not {*after} & {*before}
    assert "\nWantedBy=multi-user.target\n" in text
    assert "\nExecStop" not in text
