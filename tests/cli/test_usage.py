"""What holds for every command: options before and after it, help, errors on one line, colours, pipes."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main
from ipvsctl.cli.manual import commands
from ipvsctl.cli.tree import COMMANDS, GLOBAL_OPTIONS, Command, root
from tests.cli.conftest import Cli

ALL = dict(commands())


def own_options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and each not in GLOBAL_OPTIONS]


def test_every_command_of_the_table_is_there() -> None:
    assert {name.partition(" ")[0] for name in ALL} == set(COMMANDS)
    assert len(ALL) == 37


@pytest.mark.parametrize("words", sorted(ALL))
def test_help_has_a_sentence_the_options_and_an_example(cli: Cli, words: str) -> None:
    text = cli(*words.split(), "--help").out
    command = ALL[words]
    assert f"Usage: ipvsctl {words} " in text
    assert (command.help or "").split("\n")[0].endswith(".")
    for option in own_options(command):
        assert option.help, option.name
        assert option.help.endswith(".")
        assert option.opts[0] in text
    assert command.examples
    for example in command.examples:
        assert example.startswith(f"ipvsctl {words}") or f" {words} " in f"{example} "
        assert f"  {example}\n" in f"{text}\n"


@pytest.mark.parametrize("words", sorted(ALL))
def test_examples_of_the_help_are_right(words: str) -> None:
    """They parse: what they do is tested elsewhere."""
    for example in ALL[words].examples:
        arguments = example.partition(" > ")[0].rpartition("| ")[2].split()[1:]
        with click.Context(root, obj=Environment()) as context:
            for word in words.split():
                assert arguments.pop(0) == word
                assert isinstance(context.command, click.Group)
                found = context.command.get_command(context, word)
                assert found is not None
                context = click.Context(found, parent=context, obj=context.obj)
            command = context.command
            assert isinstance(command, Command)
            command.make_context(words, arguments, parent=context)


def test_the_table_has_the_helps_first_sentence() -> None:
    context = click.Context(root)
    for name, (_, line) in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str() == line


def test_global_options_before_and_after_the_command(cli: Cli) -> None:
    cli("service", "add", "fwmark:1")
    cli("--host", "emulator:other", "service", "add", "fwmark:2")
    here, other = ({"fwmark:1"}, {"fwmark:2"})

    def addresses(*words: str) -> set[str]:
        return {each["address"] for each in cli(*words).json["services"]}

    assert addresses("-j", "list") == addresses("list", "-j") == addresses("list", "--json") == here
    assert addresses("-j", "--host", "emulator:other", "list") == other
    assert addresses("list", "--host=emulator:other", "-j") == other
    # The last one counts.
    assert addresses("--host", "emulator:other", "list", "-j", "--host", "emulator") == here
    words = ["service", "clear"]
    for at in range(3):
        assert cli(*words[:at], "--dry-run", *words[at:]).out == "- delete service fwmark:1\n1 change\n"
    assert cli("-q", "service", "clear").out == ""


def test_a_dry_run_writes_nothing(cli: Cli) -> None:
    cli("list")
    cli("apply", "--dry-run", "ftp.toml")
    cli("service", "add", "fwmark:1", "--dry-run")
    assert not list(Path(os.environ["IPVSCTL_RUNTIME_DIR"]).glob("journal/*"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nothing"], "There is no command 'nothing'."),
        (["serivce"], "There is no command 'serivce', did you mean 'service'?"),
        (["service", "nothing"], "No such command 'nothing'"),
        (["list", "--nothing"], "No such option"),
        (["list", "tcp:192.0.2.1:80", "more"], "Got unexpected extra argument (more)."),
        (["service", "add"], "Missing argument 'SERVICE'."),
        (["server", "add", "fwmark:1"], "Missing argument 'SERVER'."),
        (["list", "--color", "red"], "'red' is not one of"),
        (["server", "add", "fwmark:1", "10.0.0.1", "--forward", "masq"], "'masq' is not one of"),
        (["sync", "start", "master"], "Missing option '--interface'."),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, words: list[str], text: str) -> None:
    result = cli(*words, status=2)
    assert result.out == ""
    assert result.err.startswith("ipvsctl: ")
    assert text in result.err
    assert result.err.endswith(" --help'.\n")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["list", "192.0.2.1:80"], "'192.0.2.1:80' is not a service"),
        (["list", "tcp:192.0.2.1"], "has no port"),
        (["list", "tcp:192.0.2.1:99999"], "is not a port"),
        (["service", "add", "fwmark:0"], "out of range"),
        (["server", "add", "tcp:192.0.2.1:80", "10.0.0"], "'10.0.0' is not an IPv4 or IPv6 address"),
        (["server", "add", "fwmark:1", "10.0.0.1", "--weight", "-1"], "--weight '-1' is not a number"),
        (["server", "add", "fwmark:1", "10.0.0.1", "--weight", "2147483648"], "expected 0..2147483647"),
        (["server", "add", "fwmark:1", "10.0.0.1", "--weight", "1_0"], "--weight '1_0' is not a number"),
        (["server", "add", "fwmark:1", "10.0.0.1", "--lower", "2", "--upper", "1"], "above the upper threshold"),
        (["service", "add", "fwmark:1", "--persistent=forever"], "--persistent 'forever' is not a duration"),
        (["service", "add", "fwmark:1", "--persistent=32d"], "expected 1..2678400 seconds"),
        (["service", "add", "fwmark:1", "--netmask", "33"], "netmask 33 is out of range"),
        (["--host", "elsewhere", "list"], "there is no host 'elsewhere'"),
        (["--host", "emulator:a/b", "list"], "a/b"),
    ],
)
def test_a_wrong_value_is_one_line_that_has_it(cli: Cli, words: list[str], text: str) -> None:
    result = cli(*words, status=2)
    assert result.out == ""
    assert text in result.err
    assert result.err.count("\n") == 1


def test_no_command_is_help_and_wrong_usage(cli: Cli) -> None:
    for words in ([], ["service"]):
        result = cli(*words, status=2)
        assert result.err.startswith("Usage: ipvsctl")


def test_version(cli: Cli) -> None:
    from ipvsctl import __version__

    assert cli("--version").out == f"ipvsctl {__version__}\n"


def test_the_kernel_host_without_ipvs_names_the_emulator(cli: Cli) -> None:
    if Path("/proc/net/ip_vs").exists() and os.geteuid() == 0:
        assert cli("--host", "kernel", "list").lines
        return
    result = cli("--host", "kernel", "list", status=4)
    assert result.out == ""
    assert "--host emulator" in result.err or "CAP_NET_ADMIN" in result.err
    assert result.err.count("\n") == 1


def test_an_unexpected_exception_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of reach of any command line, so made here."""

    def fail(*_: object) -> None:
        raise KeyError("some\nthing")

    monkeypatch.setattr("ipvsctl.pick.open_host", fail)
    result = cli("list", status=1)
    assert result.err.startswith("ipvsctl: this is a bug in ipvsctl: KeyError at test_usage.py:")
    assert result.err.count("\n") == 1
    err = io.StringIO()
    environment = Environment(stdout=io.StringIO(), stderr=err, variables={"IPVSCTL_TRACEBACK": "1"})
    assert main(["list"], environment) == 1
    assert "Traceback" in err.getvalue()


def run(words: str) -> subprocess.CompletedProcess[str]:
    """A line for the shell, in which `ipvsctl` is this checkout's."""
    line = f'ipvsctl() {{ "{sys.executable}" -m ipvsctl "$@"; }}; {words}'
    # Unbuffered, Python does not notice a pipe that breaks in the middle of a write.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, errors="replace", timeout=120, env=environment
    )


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    # More than a pipe holds, so that the reader is surely gone.
    text = "".join(f'[[service]]\naddress = "fwmark:{mark}"\n' for mark in range(1, 9000))
    Path("many.toml").write_text(text)
    done = run("ipvsctl plan many.toml | head -1; echo ${PIPESTATUS[0]}")
    assert done.stdout.splitlines()[1] == "141"
    assert done.stderr == ""


def test_a_full_disk_is_an_error(cli: Cli) -> None:
    done = run("ipvsctl list > /dev/full")
    assert (done.returncode, done.stderr) == (1, "ipvsctl: cannot write the output: No space left on device\n")


def test_names_that_are_not_utf_8(cli: Cli) -> None:
    done = run(r"printf '[nfct]\nconntrack = true\n' > $'\xff.toml'; LC_ALL=C ipvsctl validate $'\xff.toml'")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": ok: 0 services, 0 servers\n")


# -- colours ----------------------------------------------------------------------------------------------------------


def on_a_terminal(*words: str, **variables: str) -> str:
    """What a command prints on a terminal of 40 columns."""
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    environment = {**os.environ, "TERM": "xterm", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "ipvsctl", *words], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 4096):
            said += part
    except OSError:
        pass
    process.wait(60)
    os.close(leader)
    return said.decode().replace("\r\n", "\n")


def test_colours_only_on_a_terminal_that_wants_them(cli: Cli) -> None:
    cli("service", "add", "tcp:[2001:db8:1111:2222:3333:4444:5555:6666]:80", "--persistent")
    plain = cli("list").out
    assert "\x1b" not in plain
    coloured = on_a_terminal("list")
    assert "\x1b[36m" in coloured
    assert on_a_terminal("list", NO_COLOR="1") == plain
    assert on_a_terminal("list", TERM="dumb") == plain
    assert on_a_terminal("list", "--color", "never") == plain
    assert "\x1b[36m" in on_a_terminal("list", "--color", "always", NO_COLOR="1")
    assert "\x1b[36m" in cli("--color", "always", "list").out
    # Painted, and not otherwise different: nothing is wrapped or cut.
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_json_is_never_coloured(cli: Cli) -> None:
    assert cli("list", "-j", "--color", "always").json == {"services": []}
