"""Plans on an emulated host: all or nothing, recorded before done, undone from any point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.errors import AlreadyExists, NotFound, PlanFailed, Refused, Unavailable, UndoFailed
from ipvsctl.journal import FileJournal, Journals
from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import (
    AddServer,
    AddService,
    Change,
    DeleteServer,
    DeleteService,
    EditServer,
    LoadModule,
    SetSysctl,
)
from ipvsctl.model.director import Director, FirewallWish, Nfct, ServiceWish
from ipvsctl.model.service import Server, Service
from ipvsctl.plan.difference import difference
from ipvsctl.plan.execute import execute, inverses, undo
from ipvsctl.plan.observe import observe, observe_all

VIP = ServiceAddress.parse("tcp:192.168.1.100:21")


def server(text: str, weight: int = 1) -> Server:
    return Server(ServerAddress.parse(text, VIP), "nat", weight)


FTP = Director(
    (ServiceWish(Service(VIP, "rr"), (server("10.0.2.2"), server("10.0.2.3")), "ftp"),),
    Nfct(conntrack=True, be_liberal=True),
    FirewallWish(protect=("192.168.1.100",)),
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedHost]:
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(tmp_path / "run"))
    made = EmulatedHost("plan")
    # The modules stay when everything else is undone, and bring their sysctls: have them from the start.
    for module in ("ip_vs_ftp", "nf_conntrack_ftp"):
        made.modules.load(module)
    yield made
    made.close()


def ftp_plan(host: EmulatedHost) -> tuple[Change, ...]:
    wish = wanted(FTP)
    return difference(wish, observe(host, wish)).changes


def state(host: EmulatedHost) -> object:
    sysctls = {name: host.sysctl.get(name) for name in host.sysctl.names("net.")}
    return observe_all(host), sysctls


def journal(host: EmulatedHost, apply: bool = True) -> FileJournal:
    return Journals(host.identity).open("apply ftp.toml", apply=apply)


def test_apply_then_roll_back(host: EmulatedHost) -> None:
    before = state(host)
    execute(ftp_plan(host), host, journal(host))
    assert ftp_plan(host) == ()
    journals = Journals(host.identity)
    assert journals.interrupted() is None
    (record,) = journals.to_roll_back()
    assert (record.command, record.apply) == ("apply ftp.toml", True)
    assert undo(record.undo, host) == []
    assert state(host) == before


@pytest.mark.parametrize("broken", ["nosuch", "wlc"])
def test_a_failing_plan_leaves_nothing(host: EmulatedHost, broken: str) -> None:
    """The failing step is the service's when the scheduler is unknown, else one more that is there twice."""
    before = state(host)
    plan = list(ftp_plan(host))
    if broken == "nosuch":
        plan = [AddService(Service(VIP, broken)) if isinstance(change, AddService) else change for change in plan]
    else:
        plan.append(AddServer(VIP, server("10.0.2.3")))
    with pytest.raises(PlanFailed, match=r"step \d+ of \d+ failed"):
        execute(plan, host, journal(host))
    assert state(host) == before
    journals = Journals(host.identity)
    assert journals.interrupted() is None
    with pytest.raises(NotFound):
        journals.to_roll_back()


def test_a_single_command_keeps_the_hosts_own_error(host: EmulatedHost) -> None:
    execute([AddService(Service(VIP))], host, journal(host))
    with pytest.raises(AlreadyExists, match="exists already"):
        execute([AddService(Service(VIP))], host, journal(host), whole=False)


class Killed(BaseException):
    """What a SIGKILL does: nothing of ours runs after it."""


class DyingJournal(FileJournal):
    """A journal whose process dies at a given record, before or after it is written."""

    def __init__(self, directory: Path, at: int, written: bool) -> None:
        super().__init__(directory, "apply ftp.toml", apply=True)
        self._at = at
        self._written = written

    def reach(self, step: int) -> None:
        self._at -= 1
        if self._at < 0 and not self._written:
            raise Killed
        super().reach(step)
        if self._at < 0:
            raise Killed


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("at", range(6))
def test_a_killed_plan_is_restored_from_its_journal(host: EmulatedHost, at: int, written: bool) -> None:
    before = state(host)
    plan = ftp_plan(host)
    journals = Journals(host.identity)
    directory = journals.open("", apply=True)._directory
    with pytest.raises(Killed):
        execute(plan, host, DyingJournal(directory, at, written))
    record = journals.interrupted()
    assert record is not None
    assert record.steps == len(plan)
    assert undo(record.undo, host) == []
    assert state(host) == before


def test_undo_accepts_that_somebody_was_faster(host: EmulatedHost) -> None:
    execute([AddService(Service(VIP)), AddServer(VIP, server("10.0.2.2"))], host, journal(host))
    host.ipvs.apply([DeleteService(Service(VIP))])
    (record,) = Journals(host.identity).to_roll_back()
    assert undo(record.undo, host) == []


def test_what_cannot_be_undone_is_named(host: EmulatedHost) -> None:
    host.ipvs.apply([AddService(Service(VIP)), AddServer(VIP, server("10.0.2.2", 1))])
    plan = [DeleteServer(VIP, server("10.0.2.2", 1)), SetSysctl("net.ipv4.vs.nosuch", "1", "0")]

    class Host(EmulatedHost):
        """Somebody deletes the service between the two steps: the server has nowhere to come back to."""

        def __init__(self) -> None:
            super().__init__("plan", host.state)

    other = Host()
    real = other.sysctl.set

    def meddle(name: str, value: str) -> None:
        host.ipvs.apply([DeleteService(Service(VIP))])
        real(name, value)

    other.sysctl.set = meddle  # type: ignore[method-assign]
    other.sysctl.check_writable = lambda name: None  # type: ignore[method-assign]
    with pytest.raises(UndoFailed, match=r"left as it is: .*10\.0\.2\.2"):
        execute(plan, other, journal(other))


def test_servers_of_an_added_service_need_no_undo_of_their_own() -> None:
    plan: Sequence[Change] = [AddService(Service(VIP)), AddServer(VIP, server("10.0.2.2"))]
    assert inverses(plan) == [(0, DeleteService(Service(VIP)))]
    assert inverses(plan[1:], start=1) == [(1, plan[1].inverse()[0])]


def test_deleting_a_service_is_undone_with_its_servers_in_order(host: EmulatedHost) -> None:
    host.ipvs.apply([AddService(Service(VIP)), *(AddServer(VIP, server(f"10.0.2.{n}")) for n in (2, 3, 4))])
    before = host.ipvs.services()
    servers = tuple(status.server for status in before[0].servers)
    execute([DeleteService(Service(VIP), servers)], host, journal(host))
    assert host.ipvs.services() == []
    (record,) = Journals(host.identity).to_roll_back()
    assert undo(record.undo, host) == []
    assert host.ipvs.services() == before


def test_a_host_that_cannot_is_not_touched(host: EmulatedHost) -> None:
    before = state(host)
    with pytest.raises(Unavailable):
        execute([*ftp_plan(host), LoadModule("nosuch")], host, journal(host))
    assert state(host) == before
    assert Journals(host.identity).interrupted() is None


def test_roll_back_goes_to_the_last_apply(host: EmulatedHost) -> None:
    journals = Journals(host.identity)
    other = ServiceAddress.parse("udp:192.168.1.100:53")
    execute([AddService(Service(other))], host, journal(host, apply=False))
    execute(ftp_plan(host), host, journal(host))
    execute([EditServer(VIP, server("10.0.2.2", 9), server("10.0.2.2"))], host, journal(host, apply=False))
    records = journals.to_roll_back()
    assert [record.apply for record in records] == [False, True]
    assert len(journals.to_roll_back(last=True)) == 1
    for record in records:
        assert undo(record.undo, host) == []
        journals.forget(record)
    assert [str(status.service.address) for status in host.ipvs.services()] == [str(other)]
    assert len(journals.to_roll_back()) == 1


def test_only_one_changes_a_host_at_a_time(host: EmulatedHost) -> None:
    journals = Journals(host.identity)
    other = Journals(host.identity)
    with journals.lock(), pytest.raises(Refused, match="another ipvsctl"), other.lock(wait=0):
        pass
    with other.lock(wait=0):
        pass


def test_the_last_apply_is_never_forgotten(host: EmulatedHost) -> None:
    """However many single commands follow it, and however many plans there have been."""
    journals = Journals(host.identity)
    execute(ftp_plan(host), host, journal(host))
    for weight in range(2, 40):
        change = EditServer(VIP, server("10.0.2.2", weight), server("10.0.2.2", weight - 1))
        execute([change], host, journal(host, apply=False))
    assert journals.to_roll_back()[-1].apply
    newest = journals.history()[0].path
    newest.rename(newest.with_name("9999.undo"))
    execute([EditServer(VIP, server("10.0.2.2", 1), server("10.0.2.2", 39))], host, journal(host))
    assert journals.history()[0].path.name == "10000.undo"
    assert [record.path.stem for record in journals.since("10000")] == ["10000"]


def test_a_record_that_cannot_be_read_is_named(host: EmulatedHost) -> None:
    journals = Journals(host.identity)
    execute([AddService(Service(VIP))], host, journal(host))
    (record,) = journals.history()
    record.path.write_text('{"command": "x", "apply": true, "steps": 1}\n[0, {"change": "weird"}]\n1\n')
    with pytest.raises(Refused, match=record.path.name):
        journals.to_roll_back()


def test_what_came_back_by_other_hands_is_set_to_what_it_was(host: EmulatedHost) -> None:
    host.ipvs.apply([AddService(Service(VIP, "rr"))])
    execute([DeleteService(Service(VIP, "rr"))], host, journal(host))
    host.ipvs.apply([AddService(Service(VIP, "sh"))])
    (record,) = Journals(host.identity).to_roll_back()
    assert undo(record.undo, host) == []
    assert host.ipvs.service(VIP).service == Service(VIP, "rr")


def test_a_fault_of_any_kind_leaves_nothing_half_done(host: EmulatedHost) -> None:
    """As when the disk under the journal is full at the second record."""
    before = state(host)

    class Full(FileJournal):
        """A journal that takes two records."""

        def reach(self, step: int) -> None:
            if step > 2:
                raise OSError(28, "No space left on device")
            super().reach(step)

    directory = journal(host)._directory
    with pytest.raises(PlanFailed, match="No space left"):
        execute(ftp_plan(host), host, Full(directory, "apply ftp.toml", apply=True))
    assert state(host) == before
    assert Journals(host.identity).interrupted() is None
