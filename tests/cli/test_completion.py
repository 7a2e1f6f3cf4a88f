"""What completion offers, without a shell; the shells themselves are in test_shells.py."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.main import main
from tests.cli.conftest import Cli

WEB = "tcp:192.0.2.1:80"


@pytest.fixture
def offered(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Offered:
    return Offered(monkeypatch)


class Offered:
    """What bash is offered for a line; the cursor is at its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, line: str) -> list[str]:
        with self.monkeypatch.context() as patch:
            patch.setenv("_IPVSCTL_COMPLETE", "bash_complete")
            patch.setenv("COMP_WORDS", line)
            out, err = io.StringIO(), io.StringIO()
            assert main([], Environment(stdout=out, stderr=err)) == 0
        assert err.getvalue() == ""
        return [each.partition(",")[2] for each in out.getvalue().splitlines() if each]


def test_commands(offered: Offered) -> None:
    assert offered("ipvsctl ser") == ["service", "server"]
    assert offered("ipvsctl service ") == ["add", "clear", "delete", "edit", "show", "zero"]
    assert offered("ipvsctl --host kernel serv") == ["service", "server"]


def test_options(offered: Offered) -> None:
    assert offered("ipvsctl list --t") == ["--thresholds", "--tunnel"]
    assert offered("ipvsctl service add tcp:192.0.2.1:80 --sch") == ["--scheduler"]
    assert offered("ipvsctl --dry") == ["--dry-run"]
    assert offered("ipvsctl service clear --dry") == ["--dry-run"]


def test_values_that_are_known(offered: Offered) -> None:
    assert offered("ipvsctl service add x --scheduler w") == ["wrr", "wlc"]
    assert offered("ipvsctl service add x --scheduler=w") == ["wrr", "wlc"]
    assert offered("ipvsctl service add x -s sh --flag sh") == ["sh-fallback", "sh-port"]
    assert offered("ipvsctl server add x y --forward ") == ["nat", "dr", "tun"]
    assert offered("ipvsctl sync start ") == ["master", "backup"]
    assert offered("ipvsctl sysctl get net.ipv4.vs.conntr") == ["net.ipv4.vs.conntrack"]
    assert offered("ipvsctl sysctl set conntr") == ["conntrack"]
    assert offered("ipvsctl sysctl get net.ipv4.conf.lo.accept_l") == ["net.ipv4.conf.lo.accept_local"]
    assert offered("ipvsctl module load ip_vs_f") == ["ip_vs_ftp", "ip_vs_fo"]
    assert offered("ipvsctl service add ud") == ["udp:"]
    assert "lo" in offered("ipvsctl sync start master --interface ")
    assert offered("ipvsctl list --color a") == ["auto", "always"]


def test_words_of_a_trace(cli: Cli, offered: Offered) -> None:
    assert offered("ipvsctl trace ") == ["tcp", "udp", "sctp", "icmp", "icmpv6"]
    assert offered("ipvsctl trace tcp ") == []
    assert offered("ipvsctl trace --session ftp-a") == ["ftp-active"]
    assert offered("ipvsctl trace --expect rej") == ["reject"]
    assert offered("ipvsctl trace --expect ipvs-no-") == [
        "ipvs-no-destination", "ipvs-no-connection", "ipvs-no-route",
    ]  # fmt: skip
    assert offered("ipvsctl trace --state e") == ["established"]
    assert "lo" in offered("ipvsctl trace --in ")
    Path("state.toml").write_text('[[device]]\nname = "wan0"\n[[device]]\nname = "lan0"\n')
    assert offered("ipvsctl trace --file state.toml --in ") == ["wan0", "lan0"]
    assert offered("ipvsctl trace --file nowhere.toml --in ") == []
    cli("service", "add", WEB)
    assert offered("ipvsctl trace --session http 10.0.1.2 tcp:") == [WEB]
    assert offered("ipvsctl trace --session http --file state.toml 10.0.1.2 ") == []


def test_values_that_are_on_the_host(cli: Cli, offered: Offered) -> None:
    cli("service", "add", WEB)
    cli("server", "add", WEB, "10.0.2.2:8080", "--forward", "nat")
    cli("service", "add", "udp:[2001:db8::1]:53")
    assert offered("ipvsctl list ") == [WEB, "udp:[2001:db8::1]:53"]
    assert offered("ipvsctl service delete tcp:") == [WEB]
    assert offered("ipvsctl service delete udp:[2001") == ["udp:[2001:db8::1]:53"]
    assert offered(f"ipvsctl server edit {WEB} ") == ["10.0.2.2:8080"]
    assert offered(f"ipvsctl server edit --weight 3 {WEB} 10.0") == ["10.0.2.2:8080"]
    assert offered(f"ipvsctl server add {WEB} ") == []
    assert offered("ipvsctl --host emulator:other list ") == []
    assert offered("ipvsctl --host emulator:d") == ["emulator:default"]
    assert offered("ipvsctl emulate stop ") == ["default"]


def test_completion_starts_nothing(cli: Cli, offered: Offered) -> None:
    assert offered("ipvsctl list ") == []
    assert offered("ipvsctl emulate stop ") == []
    assert cli("emulate", "list", "-j").json == {"emulators": []}


def test_completion_tells_nothing(cli: Cli, offered: Offered) -> None:
    """Neither errors nor what the next command is to tell."""
    assert offered("ipvsctl --host kernel --netns nowhere list ") == []
    assert offered("ipvsctl --host nothing list ") == []
    assert offered("ipvsctl server edit nonsense ") == []
    assert offered("ipvsctl list 'tcp:") == []
    assert offered("ipvsctl list \\") == []
    assert offered("") == offered("ipvsctl ")


def test_files_are_left_to_the_shell(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setenv("_IPVSCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "ipvsctl apply ft")
    main([], Environment(stdout=out))
    assert out.getvalue() == "file,ft\n"


@pytest.mark.parametrize("instruction", ["bash_source", "zsh_source", "fish_source"])
def test_scripts_are_printed(cli: Cli, monkeypatch: pytest.MonkeyPatch, instruction: str) -> None:
    out = io.StringIO()
    monkeypatch.setenv("_IPVSCTL_COMPLETE", instruction)
    assert main([], Environment(stdout=out)) == 0
    names = {"bash": "ipvsctl.bash", "zsh": "_ipvsctl", "fish": "ipvsctl.fish"}
    top = Path(__file__).parents[2]
    assert out.getvalue() == (top / "completions" / names[instruction.partition("_")[0]]).read_text()


def test_a_shell_that_is_not_known(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_IPVSCTL_COMPLETE", "csh_source")
    assert main([], Environment(stdout=io.StringIO())) == 1
