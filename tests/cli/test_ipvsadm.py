"""The classic command through every door: its own name, a classic option first, links; and what a plan adds to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipvsctl import pick
from ipvsctl.cli.ipvsadm_start import NAMES, called_as, with_command
from ipvsctl.errors import IpvsctlError, NotPermitted, Refused, Unavailable
from ipvsctl.formats.ipvsadm_options import COMMANDS, HELP, SPELLINGS, VERSION
from ipvsctl.formats.ipvsadm_refusals import message, old_version
from tests.cli.conftest import Cli, journal

WEB = ("-t", "192.0.2.1:80")
TITLES = (
    "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n"
    "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
)
HINT = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.\n"


@pytest.fixture
def web(cli: Cli) -> Cli:
    cli("-A", *WEB, "-s", "rr")
    cli("-a", *WEB, "-r", "10.0.2.2:8080", "-m")
    return cli


def test_every_classic_command_is_known_as_the_first_word() -> None:
    for spelling in SPELLINGS:
        if spelling.key in COMMANDS and spelling.key not in ("help", "version"):
            for word in (f"--{spelling.key}", f"--{spelling.key}=x", spelling.short and f"-{spelling.short}n"):
                if word:
                    assert with_command([word, "-n"]) == ["ipvsadm", word, "-n"]
                    assert with_command(["--host", "emulator", "-j", word]) == [
                        "--host", "emulator", "-j", "ipvsadm", word,
                    ]  # fmt: skip


@pytest.mark.parametrize(
    "words", [["-v", "list"], ["-h"], ["--help"], ["--version"], ["list", "-L"], ["--host"], [], ["-j"], ["-"]]
)
def test_what_is_not_classic_stays_as_it_is(words: list[str]) -> None:
    assert with_command(words) == words


def test_the_names_of_links() -> None:
    assert [called_as(f"/usr/local/sbin/{name}") for name in NAMES] == list(NAMES)
    assert called_as("/usr/bin/ipvsctl") == called_as("ipvsadm-other") == ""


def test_a_classic_command_makes_no_sound(web: Cli) -> None:
    result = web("-a", *WEB, "-r", "10.0.2.3", "-w", "5")
    assert (result.out, result.err) == ("", "")
    assert web("-Ln").out == TITLES + (
        "TCP  192.0.2.1:80 rr\n"
        "  -> 10.0.2.2:8080                Masq    1      0          0         \n"
        "  -> 10.0.2.3:80                  Route   5      0          0         \n"
    )


def test_it_has_its_own_statuses(web: Cli) -> None:
    assert web("-A", *WEB, status=255).err == "Service already exists\n"
    assert web("-L", "-t", "192.0.2.9:80", status=1).err == "No such service\n"
    assert web("-A", "-t", "192.0.2.9", status=2).err == "Zero port specified for non-persistent service\n"
    assert web("ipvsadm", "nonsense", status=255).err == HINT
    assert web("ipvsadm").out.startswith(TITLES)


def test_help_and_version_need_no_kernel(cli: Cli) -> None:
    for word in ("-h", "--help"):
        assert cli("ipvsadm", word).out == HELP.format(version=VERSION, program="ipvsadm")
    assert cli("ipvsadm", "-v").out == f"{VERSION}\n"
    assert not list(Path(os.environ["IPVSCTL_RUNTIME_DIR"]).iterdir())


def test_help_names_every_option() -> None:
    for spelling in SPELLINGS:
        assert f"--{spelling.key}" in HELP
        assert not spelling.short or f"-{spelling.short}" in HELP


def test_a_dry_run_changes_nothing(web: Cli) -> None:
    result = web("--dry-run", "ipvsadm", "-D", *WEB)
    assert result.lines == ["- delete service tcp:192.0.2.1:80 with 1 server", "1 change"]
    result = web("--dry-run", "ipvsadm", "-R", stdin="-A -t 192.0.2.2:80\n-a -t 192.0.2.2:80 -r 10.0.2.2 -m\n")
    assert result.lines[-1] == "2 changes"
    assert web("-Sn").lines == ["-A -t 192.0.2.1:80 -s rr", "-a -t 192.0.2.1:80 -r 10.0.2.2:8080 -m -w 1"]


def test_verbose_tells_each_change(web: Cli) -> None:
    result = web("-v", "ipvsadm", "-E", *WEB, "-s", "wlc")
    assert result.err == "~ edit service tcp:192.0.2.1:80: scheduler rr -> wlc\n"
    result = web("-v", "ipvsadm", "-R", stdin="-D -t 192.0.2.1:80\n")
    assert result.err == "- delete service tcp:192.0.2.1:80 with 1 server\n"


def test_rollback_brings_back_what_a_classic_command_took(web: Cli) -> None:
    before = web("-Sn").out
    web("-C")
    assert web("-Sn").out == ""
    web("rollback", "--last")
    assert web("-Sn").out == before


def test_rollback_brings_back_what_a_stream_of_lines_changed(web: Cli) -> None:
    before = web("-Sn").out
    lines = (
        "-E -t 192.0.2.1:80 -s wlc\n-A -t 192.0.2.1:80\n-a -t 192.0.2.1:80 -r 10.0.2.9 -m\n"
        "-A -t 192.0.2.5:80 -s nosuch\n-a -t 192.0.2.5:80 -r 10.0.2.9 -m\n-A -t 192.0.2.5:80 -s rr\n"
        "-d -t 192.0.2.1:80 -r 10.0.2.2:8080\n--set 10 20 30\n-A -u 192.0.2.1:53\n-D -t 192.0.2.1:80\n-C\n-A -f 7\n"
    )
    result = web("-R", stdin=lines)
    assert result.err == (
        "Service already exists\nScheduler or persistence engine not found\nService not defined\n"
    )
    assert web("-Sn").lines == ["-A -f 7 -s wlc"]
    assert journal().joinpath("running").exists() is False
    web("rollback", "--last")
    assert web("-Sn").out == before
    assert web("-L", "--timeout").out == "Timeout (tcp tcpfin udp): 900 120 300\n"


def test_a_stream_tells_things_in_their_order(cli: Cli) -> None:
    lines = (
        "-A -t 10.0.0.1:80\n-A -t 10.0.0.1:80\n-Sn\n-A -t 10.0.0.2:80 --bogus\n-D -t 10.0.0.1:80\n-Sn\n"
        "-A -t foo\n-C\n"
    )
    result = cli("-R", stdin=lines, status=2)
    assert result.out == "-A -t 10.0.0.1:80 -s wlc\n"
    assert result.err == (
        "Service already exists\n--bogus: unknown option\nillegal virtual server address[:port] specified\n"
    )


def test_a_stream_from_a_pipe_is_run_as_it_comes(cli: Cli) -> None:
    """A program that writes a line and waits for its effect gets it, while the stream is still open."""
    command = [sys.executable, "-m", "ipvsctl", "-R"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write("-A -t 10.0.0.1:80 -s rr\n-Sn\n")
        process.stdin.flush()
        # Output of ours is written out when the line is done, or the next one would wait for this very reader.
        process.stdin.write("-A -t 10.0.0.2:80 -s rr\n-Sn")
        process.stdin.close()
        assert process.stdout.read().count("-A -t 10.0.0.1:80 -s rr\n") == 2
    assert process.returncode == 0


def test_only_commas_are_no_flags(cli: Cli) -> None:
    cli("-A", *WEB, "-b", ",,")
    assert cli("-Sn").out == "-A -t 192.0.2.1:80 -s wlc\n"


def test_a_last_line_without_newline_is_run_whatever_it_ends_in(cli: Cli) -> None:
    cli("-R", stdin="-A -t 10.0.0.1:80   ")
    assert cli("-Sn").out == "-A -t 10.0.0.1:80 -s wlc\n"


def test_marks_that_were_saved_are_read_again(cli: Cli) -> None:
    cli("-A", "-f", "4294967295", "-s", "sh", "-b", "flag-3")
    saved = cli("-Sn").out
    assert saved == "-A -f 4294967295 -s sh -b flag-3\n"
    assert "FWM  -1 sh ()\n" in cli("-Ln").out
    cli("-C")
    cli("-R", stdin=saved)
    assert cli("-Sn").out == saved


@pytest.mark.parametrize("variable", ["POSIXLY_CORRECT", "POSIX_ME_HARDER"])
def test_posix_ends_options_at_the_first_word(cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    cli("--set", "1", "2", "3", "-n", status=2)
    monkeypatch.setenv(variable, "1")
    assert cli("--set", "1", "2", "3", "-n", status=2).err == "unexpected argument -n\n"
    assert cli("ipvsadm", "foo", "-L", status=255).err == HINT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotPermitted("no"), "Permission denied (you must be root)"),
        (Unavailable("no"), "Protocol not available" if os.geteuid() == 0 else "Permission denied (you must be root)"),
    ],
)
def test_without_ipvs_not_even_help_is_given(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: IpvsctlError, reason: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(pick, "open_host", refuse)
    result = cli("--host", "kernel", "ipvsadm", "-h", status=2)
    assert result.out == ""
    assert result.err == (
        f"Can't initialize ipvs: {reason}\n"
        "Are you sure that IP Virtual Server is built in the kernel or as module?\n"
    )


def test_old_kernels_are_warned_of() -> None:
    assert old_version("1.1.4") == old_version("1.2.1") == ""
    warning = old_version("1.1.3")
    assert warning.startswith("Warning: IPVS version mismatch: \n  Kernel compiled with IPVS version 1.1.3\n")
    assert message("list", 95, "?") == "Operation not supported with IPv6"
    assert message("add-server", 999, "words") == "words"


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed ipvsctl, found on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    made = folder / "ipvsctl"
    root = Path(__file__).resolve().parents[2]
    made.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from ipvsctl.cli.main import main\nsys.exit(main())\n"
    )
    made.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return made


def test_links_are_the_classic_programs(cli: Cli, program: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    assert cli("ipvsadm", "--install-links", str(links)).lines == [f"{links / name} -> {program}" for name in NAMES]
    cli("ipvsadm", "--install-links", str(links))

    def call(name: str, *words: str, stdin: str = "") -> tuple[int, str, str]:
        done = subprocess.run([links / name, *words], input=stdin, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    lines = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1\n"
    assert call("ipvsadm", "-A", "-t", "10.0.0.9:80") == (0, "", "")
    assert call("ipvsadm-restore", "--ignored", stdin=f"# c\n\n{lines}") == (0, "", "")
    assert call("ipvsadm-save", "-n") == (0, lines, "")
    status, out, err = call("ipvsadm-save", "-x")
    assert (status, out) == (1, "")
    assert err.startswith("ipvsadm-save: Script to save the IPVS table to stdout.\n")
    assert call("ipvsadm", "foo") == (255, "", HINT)
    assert call("ipvsadm-restore", stdin="-A -t 10.0.0.1:80 -s rr\n-A -t bad\n-A -t 10.0.0.2:80\n")[0] == 2
    assert call("ipvsadm", "-Sn") == (0, "-A -t 10.0.0.1:80 -s rr\n", "")


def test_links_overwrite_nothing(cli: Cli, program: Path, tmp_path: Path) -> None:
    other = tmp_path / "ipvsadm-save"
    other.write_text("mine")
    result = cli("ipvsadm", "--install-links", str(tmp_path), status=3)
    assert str(other) in result.err
    assert other.read_text() == "mine"
    assert not (tmp_path / "ipvsadm").exists()
    result = cli("ipvsadm", "--install-links", str(tmp_path / "nowhere"), status=Refused.status)
    assert "No such file" in result.err
