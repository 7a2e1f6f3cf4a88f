"""Journals do not grow without end: many commands after an apply, and namespaces that are gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsctl import journal, runtime
from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.journal import Journals
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import AddServer, AddService, Change, EditServer
from ipvsctl.model.service import Server, Service
from ipvsctl.plan.execute import execute, undo

VIP = ServiceAddress.parse("tcp:192.0.2.1:80")
BOOT = runtime.boot_id()


def server(weight: int) -> Server:
    return Server(ServerAddress.parse("10.0.0.2", VIP), "nat", weight)


def run(host: EmulatedHost, command: str, *changes: Change, apply: bool = False) -> None:
    journals = Journals(host.identity)
    with journals.lock():
        execute(changes, host, journals.open(command, apply=apply))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedHost]:
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(tmp_path / "run"))
    made = EmulatedHost("journal")
    made.modules.load("ip_vs")
    yield made
    made.close()


@pytest.mark.parametrize("commands", [9, 10, 11, 57])
def test_many_commands_after_an_apply_are_few_records(
    host: EmulatedHost, monkeypatch: pytest.MonkeyPatch, commands: int
) -> None:
    monkeypatch.setattr(journal, "MERGED_ABOVE", 10)
    run(host, "apply a.toml", AddService(Service(VIP)), AddServer(VIP, server(0)), apply=True)
    start = host.ipvs.service(VIP)
    apply_record = Journals(host.identity).history()[0].path
    for weight in range(commands):
        run(host, f"server edit {weight + 1}", EditServer(VIP, server(weight + 1), server(weight)))
    records = Journals(host.identity).history()
    assert len(records) <= 11
    assert records[-1].path == apply_record
    assert sum(record.steps for record in records[:-1]) == commands
    # The newest are still there one by one, the oldest as one that says so.
    assert records[0].command == f"server edit {commands}"
    if commands > 10:
        merged = records[-2]
        assert merged.command == f"server edit 1 and {merged.steps - 1} commands after it"
        assert len(merged.undo) == 1
    *newer, _ = Journals(host.identity).to_roll_back()
    for record in newer:
        assert undo(record.undo, host) == []
    assert host.ipvs.service(VIP) == start


def test_a_merge_that_is_cut_off_undoes_the_same(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the merged record is there and the others are, too."""
    monkeypatch.setattr(journal, "MERGED_ABOVE", 10)
    run(host, "apply a.toml", AddService(Service(VIP)), AddServer(VIP, server(0)), apply=True)
    for weight in range(10):
        run(host, "server edit", EditServer(VIP, server(weight + 1), server(weight)))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        run(host, "server edit", EditServer(VIP, server(11), server(10)))
    *newer, _ = Journals(host.identity).to_roll_back()
    assert len(newer) == 11
    for record in newer:
        assert undo(record.undo, host) == []
    assert host.ipvs.service(VIP).servers[0].server == server(0)


def test_a_record_that_cannot_be_read_is_not_merged(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MERGED_ABOVE", 3)
    run(host, "apply a.toml", AddService(Service(VIP)), AddServer(VIP, server(0)), apply=True)
    run(host, "server edit", EditServer(VIP, server(1), server(0)))
    broken = Journals(host.identity).history()[0].path
    text = broken.read_text().replace("edit-server", "weird")
    broken.write_text(text)
    for weight in range(1, 8):
        run(host, "server edit", EditServer(VIP, server(weight + 1), server(weight)))
    assert broken.read_text() == text
    assert len(list(broken.parent.glob("*.undo"))) == 9


# -- namespaces -------------------------------------------------------------------------------------------------------


def left_behind(name: str, namespace: int | None) -> Path:
    """A journal as an ipvsctl in another namespace left it."""
    directory = runtime.runtime_directory() / "journal" / name
    directory.mkdir(parents=True)
    (directory / "0001.undo").write_text(json.dumps({"command": "x", "apply": True, "steps": 0}) + "\n")
    if namespace is not None:
        (directory / "namespace").write_text(str(namespace))
    return directory


def test_journals_of_what_is_gone_go_with_the_next_plan(host: EmulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which namespaces are there is what tests/guest/test_journal.py tries on a kernel."""
    monkeypatch.setattr(journal, "network_namespaces", lambda asked: asked - {7})
    gone = left_behind(f"{BOOT}-netns-cookie-7", 7)
    here = left_behind(f"{BOOT}-netns-cookie-1", 8)
    earlier = left_behind("00000000-0000-0000-0000-000000000000-netns-cookie-1", 8)
    silent = left_behind(f"{BOOT}-netns-cookie-9", None)
    emulated = left_behind("emulator-x-netns-y-1", 7)
    run(host, "service add", AddService(Service(VIP)))
    assert [path.exists() for path in (gone, here, earlier, silent, emulated)] == [False, True, False, True, True]
    assert Journals(host.identity).history()


def test_without_other_journals_nobody_looks_for_namespaces(
    host: EmulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(journal, "network_namespaces")
    run(host, "service add", AddService(Service(VIP)))
