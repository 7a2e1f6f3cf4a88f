"""The server process: started once, kept, stopped, replaced when it was killed, and deaf to everybody else."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ipvsctl.emulator import client, files
from ipvsctl.emulator.client import RemoteHost
from ipvsctl.errors import NotFound, Refused, Unavailable, UsageError
from ipvsctl.model.address import ServiceAddress
from ipvsctl.model.change import AddService
from ipvsctl.model.service import Service
from tests.emulator.conftest import Plain, end, pid_of

WEB = ServiceAddress.parse("tcp:192.0.2.1:80")
STARTER = """
import sys
from ipvsctl.emulator.client import RemoteHost
sys.stdin.read()
print(RemoteHost.connect("lab").identity)
"""


def add_web(host: RemoteHost) -> None:
    host.ipvs.apply([AddService(Service(WEB, "rr"))])


def test_state_lives_as_long_as_the_server(folder: Path) -> None:
    first = RemoteHost.connect("lab")
    add_web(first)
    first.close()
    again = RemoteHost.connect("lab")
    assert again.identity == first.identity
    assert [status.service.address for status in again.ipvs.services()] == [WEB]
    assert again.name == "emulator:lab"
    again.close()
    client.stop("lab")
    new = RemoteHost.connect("lab")
    assert new.identity != first.identity
    assert new.ipvs.services() == []
    new.close()


def test_names_are_separate_directors(folder: Path) -> None:
    hosts = [RemoteHost.connect(name) for name in ("a", "b", "default")]
    add_web(hosts[1])
    assert [len(host.ipvs.services()) for host in hosts] == [0, 1, 0]
    assert [each["name"] for each in client.running()] == ["a", "b", "default"]
    assert len({each["pid"] for each in client.running()}) == 3
    for host in hosts:
        host.close()


def test_running_tells_what_runs(lab: RemoteHost, folder: Path) -> None:
    (found,) = client.running()
    assert set(found) == {"name", "pid", "started", "socket"}
    assert found["name"] == "lab"
    assert found["socket"] == str(folder / "emulator-lab.sock")
    assert Path(f"/proc/{found['pid']}").exists()
    client.stop("lab")
    assert client.running() == []


def test_stopping_removes_every_file(lab: RemoteHost, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["emulator-lab.pid", "emulator-lab.sock"]
    client.stop("lab")
    assert list(folder.iterdir()) == []
    with pytest.raises(NotFound, match="there is no emulator lab"):
        client.stop("lab")
    with pytest.raises(NotFound):
        RemoteHost.connect("lab", start=False)
    with pytest.raises(Unavailable, match="lost the emulator lab"):
        lab.ipvs.services()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(lab: RemoteHost, folder: Path, number: signal.Signals) -> None:
    end(pid_of("lab"), number)
    assert list(folder.iterdir()) == []


def test_what_a_killed_server_leaves_is_replaced(lab: RemoteHost, folder: Path) -> None:
    add_web(lab)
    end(pid_of("lab"), signal.SIGKILL)
    assert len(list(folder.iterdir())) == 2
    assert client.running() == []
    with pytest.raises(NotFound):
        client.stop("lab")
    new = RemoteHost.connect("lab")
    assert new.ipvs.services() == []
    assert len(client.running()) == 1
    new.close()


def test_many_starters_start_one_server(folder: Path) -> None:
    starters = [
        subprocess.Popen([sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for starter in starters:
        assert starter.stdin
        starter.stdin.close()
    found = set()
    for starter in starters:
        assert starter.stdout
        found.add(starter.stdout.read())
        starter.stdout.close()
        assert starter.wait() == 0
    assert len(found) == 1
    assert len(client.running()) == 1


def test_two_servers_of_a_name_are_one(lab: RemoteHost, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the socket of the first was deleted: its process still has the name."""
    from ipvsctl.emulator import lock
    from ipvsctl.emulator.server import Server

    monkeypatch.setattr(lock, "WAIT", 1)
    with pytest.raises(Refused, match=rf"held by another server process .*{pid_of('lab')}"):
        Server("lab", folder).listen()
    assert lab.ipvs.services() == []


def test_files_are_ours_alone(lab: RemoteHost, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_are_not_served(lab: RemoteHost, folder: Path) -> None:
    """Even if somebody opens directory and socket to them."""
    path = files.socket_path(folder, "lab")
    path.chmod(0o666)
    for each in path.parents:
        if not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o111)
    child = os.fork()
    if child == 0:
        os._exit(_ask_as_nobody(path))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(client.running()) == 1
    assert lab.ipvs.services() == []


def _ask_as_nobody(path: Path) -> int:
    """0 when the connection is made and then closed without an answer; runs in a process of its own."""
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    try:
        connection = Plain(path)
        try:
            answer = connection.ask("server.stop")
        except OSError:
            answer = None
        return 0 if answer is None else 1
    except BaseException:
        return 2


def test_a_run_time_directory_with_a_long_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of a Unix socket has 108 bytes."""
    deep = folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("IPVSCTL_RUNTIME_DIR", str(deep))
    host = RemoteHost.connect("x" * 32)
    assert [each["name"] for each in client.running()] == ["x" * 32]
    host.close()
    client.stop("x" * 32)
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "x" * 33, "ä", "a\0", "a.b", "a\n"])
def test_names_that_cannot_be_one(folder: Path, name: str) -> None:
    for use in (RemoteHost.connect, client.stop):
        with pytest.raises(UsageError, match="is not a name for an emulator"):
            use(name)


def test_a_server_that_cannot_start_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    (folder / "emulator-lab.pid").mkdir()
    with pytest.raises(Unavailable, match=r"cannot start the emulator lab: .*Is a directory"):
        RemoteHost.connect("lab")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="cannot start the emulator lab"):
        RemoteHost.connect("lab")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Unavailable, match="cannot start the emulator lab"):
        RemoteHost.connect("lab")


def test_an_emulator_of_another_version_is_named(lab: RemoteHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PROTOCOL", 99)
    with pytest.raises(Unavailable, match="runs another version"):
        RemoteHost.connect("lab")


def test_a_server_in_the_foreground(folder: Path) -> None:
    """For watching it: it says when it is ready, and Ctrl-C ends it."""
    words = [sys.executable, "-m", "ipvsctl.emulator.server", "lab"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        assert server.stdout
        assert select.select([server.stdout], [], [], 60)[0]
        assert server.stdout.readline() == b"ready\n"
        assert pid_of("lab") == server.pid
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert list(folder.iterdir()) == []


def test_a_detached_server_holds_nothing_of_its_starter(folder: Path) -> None:
    """Its starter's pipes see their end, and its directory can be removed."""
    words = [sys.executable, "-c", "from ipvsctl.emulator.client import RemoteHost; RemoteHost.connect('lab')"]
    done = subprocess.run(words, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    pid = pid_of("lab")
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert {Path(f"/proc/{pid}/fd/{number}").readlink() for number in (0, 1, 2)} == {Path("/dev/null")}
    assert os.getsid(pid) not in (os.getsid(0), 0)


def test_plain_connections_are_served_too(plain: Plain) -> None:
    assert plain.ask("ipvs.timeouts") == {"id": 1, "ok": {"tcp": 900, "tcp_fin": 120, "udp": 300}}


def test_a_command_on_an_emulator_imports_little(lab: RemoteHost) -> None:
    program = (
        "import sys\n"
        "from ipvsctl.emulator.client import RemoteHost\n"
        "host = RemoteHost.connect('lab')\n"
        "host.ipvs.services()\n"
        "print(*sorted(name for name in sys.modules if 'ipvsctl' in name or '.' not in name))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not modules & {"asyncio", "logging", "subprocess", "uuid", "fcntl", "click", "rich", "pyroute2"}
    assert {name for name in modules if name.startswith("ipvsctl.")} == {
        "ipvsctl.emulator", "ipvsctl.emulator.client", "ipvsctl.emulator.files", "ipvsctl.emulator.messages",
        "ipvsctl.errors", "ipvsctl.formats", "ipvsctl.formats.values", "ipvsctl.host", "ipvsctl.model",
        "ipvsctl.model.address", "ipvsctl.model.service", "ipvsctl.model.status", "ipvsctl.runtime",
    }  # fmt: skip
