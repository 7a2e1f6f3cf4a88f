"""ipvsadm's captured answers, given by the classic command on an emulated director."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from ipvsctl.cli import ipvsadm_names
from ipvsctl.cli.environment import Environment
from ipvsctl.cli.ipvsadm_start import run as run_classic
from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.emulator.state import Device, State
from ipvsctl.host import Host
from ipvsctl.knowledge.ipvsadm_differences import DIFFERENCES
from tests.cli.ipvsadm_cases import CHANGED, SESSION_HOSTS, Run, cases, differences, expected, session, single

SERVICES = {
    "http": (80, ("tcp",)), "https": (443, ("tcp", "udp")), "http-alt": (8080, ("tcp", "udp")),
    "domain": (53, ("tcp", "udp")), "sip": (5060, ("tcp", "udp")), "ssh": (22, ("tcp",)), "ftp": (21, ("tcp",)),
    "smtp": (25, ("tcp",)), "www": (80, ("tcp",)), "webcache": (8080, ("tcp",)),
}  # fmt: skip
"""As in /etc/services of the machine where the answers were captured."""


class Lent(Environment):
    """Surroundings with a host that somebody else closes."""

    def __init__(self, host: Host, stdin: str) -> None:
        super().__init__(stdin=io.StringIO(stdin), stdout=io.StringIO(), stderr=io.StringIO())
        self.host_name = "emulator:t"
        self._host = host


def director() -> EmulatedHost:
    """An emulated director with the addresses that the machine of the sessions had."""
    state = State()
    addresses = (IPv4Interface("10.0.0.1/24"), IPv4Interface("10.9.9.9/32"), IPv6Interface("2001:db8::9/128"))
    state.devices = {"lo": state.devices["lo"], "d0": Device(addresses=addresses)}
    return EmulatedHost("t", state)


def runner(host: Host) -> Run:
    def run(name: str, words: Sequence[str], stdin: str) -> tuple[int, str, str]:
        env = Lent(host, stdin)
        status = run_classic(env, name, list(words))
        assert isinstance(env.stdout, io.StringIO)
        assert isinstance(env.stderr, io.StringIO)
        return status, env.stdout.getvalue(), env.stderr.getvalue()

    return run


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Give the C library the names of a session, and no others."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(run))
    for name in ("POSIXLY_CORRECT", "POSIX_ME_HARDER"):
        monkeypatch.delenv(name, raising=False)

    def give(which: str) -> None:
        known = SESSION_HOSTS.get(which, ())
        to_name = {address: (names[0], [], []) for address, *names in known}
        to_address = {name: address for address, *names in known for name in names if ":" not in address}
        to_address["ip6-localhost"] = "127.0.0.1"
        monkeypatch.setattr(ipvsadm_names.socket, "gethostbyaddr", _table(to_name))
        monkeypatch.setattr(ipvsadm_names.socket, "gethostbyname", _table(to_address))
        ports = {(name, protocol): port for name, (port, protocols) in SERVICES.items() for protocol in protocols}
        names = {(port, protocol): name for (name, protocol), port in reversed(ports.items())}
        monkeypatch.setattr(ipvsadm_names.socket, "getservbyname", _table(ports))
        monkeypatch.setattr(ipvsadm_names.socket, "getservbyport", _table(names))

    give("")
    yield give


def _table(known: dict) -> Callable[..., object]:
    def look(*key: object) -> object:
        try:
            return known[key if len(key) > 1 else key[0]]
        except KeyError:
            raise OSError("not known") from None

    return look


def test_every_wrong_command_line(hosts: Callable[[str], None]) -> None:
    run = runner(director())
    wrong = []
    for case in cases():
        status, out, err = run("ipvsadm", case.words, case.stdin)
        if (status, out, err.split("\n")[0]) != (case.status, "", case.err):
            wrong.append((case.where, case.line, status, out, err))
    assert not wrong


def test_every_command_line_with_all_of_its_answer(hosts: Callable[[str], None]) -> None:
    host = director()
    assert not differences(single(), runner(host))


@pytest.mark.parametrize("name", ["session1", "session3"])
def test_every_step_of_a_session(hosts: Callable[[str], None], name: str) -> None:
    hosts(name)
    assert not differences(session(name), runner(director()))


def test_what_differs_is_in_the_table() -> None:
    known = {difference.id for difference in DIFFERENCES}
    assert set(CHANGED) <= known
    steps = {step.where: step for name in SESSION_HOSTS for step in session(name)}
    for difference, where in CHANGED.items():
        assert where <= set(steps), difference
        for each in where:
            expected(steps[each])
