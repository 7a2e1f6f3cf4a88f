"""One variable of the kernel under two names, with two values in one director file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

MAX, OLD_MAX = "net.netfilter.nf_conntrack_max", "net.nf_conntrack_max"
ALL, FORWARD = "net.ipv4.conf.all.forwarding", "net.ipv4.ip_forward"


def write(*values: tuple[str, str]) -> None:
    Path("d.toml").write_text("[sysctl]\n" + "".join(f'"{name}" = {value}\n' for name, value in values))


@pytest.mark.parametrize("names", [(MAX, OLD_MAX), (OLD_MAX, MAX), (FORWARD, ALL), (ALL, FORWARD)])
@pytest.mark.parametrize("command", ["validate", "plan", "apply", "persist"])
def test_a_contradiction_is_named_with_its_line(cli: Cli, names: tuple[str, str], command: str) -> None:
    first, second = names
    write((first, "1"), ("net.ipv4.vs.drop_entry", "0"), (second, "0"))
    error = cli(command, "d.toml", status=2).err
    assert f"d.toml:4: {second} = 0 contradicts {first} = 1: both are the same variable of the kernel" in error


def test_the_same_value_twice_is_no_contradiction(cli: Cli) -> None:
    write((OLD_MAX, "4096"), (MAX, '"0x1000"'))
    cli("validate", "d.toml")
    write((MAX, "4096"), ("net.netfilter.nf_conntrack_expect_max", "1"))
    cli("validate", "d.toml")
