"""Garbage, giants, dawdlers and deserters: none of them ends the server, changes its state or keeps others waiting."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsctl.emulator import files
from ipvsctl.emulator.client import RemoteHost
from ipvsctl.emulator.dispatch import CALLS, answer
from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.emulator.messages import MAX_REQUEST
from ipvsctl.formats.changes import change_to_dict
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import AddServer, AddService, Change
from ipvsctl.model.service import Server, Service
from tests.emulator.conftest import Plain, pid_of

WEB = ServiceAddress.parse("tcp:192.0.2.1:80")
ADD = change_to_dict(AddService(Service(WEB, "rr")))


def request(call: Any, args: Any, number: Any = 1) -> bytes:
    return json.dumps({"id": number, "call": call, "args": args}).encode()


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "blank": b"   ",
    "binary": bytes(range(256)).replace(b"\n", b""),
    "not-utf8": b'{"id": 1, "call": "\xff\xfe"}',
    "utf16": '{"id": 1, "call": "server.stop"}'.encode("utf-16").replace(b"\n", b""),
    "text": b"GET / HTTP/1.1\r",
    "number": b"7",
    "list": b"[1, 2]",
    "null": b"null",
    "half": b'{"id": 1, "call": ',
    "two": b'{"id": 1} {"id": 2}',
    "nan": b'{"id": NaN, "call": "ipvs.info"}',
    "huge-number": b'{"id": ' + b"9" * 100_000 + b"}",
    "deep": b"[" * 200_000,
    "deep-object": b'{"id":1,"call":"ipvs.apply","args":' + b'{"changes":' * 100_000,
    "no-id": b'{"call": "ipvs.info"}',
    "list-id": b'{"id": [1], "call": "ipvs.info"}',
    "long-id": request("ipvs.info", {}, "x" * 1000),
    "no-call": b'{"id": 1}',
    "call-number": request(7, {}),
    "call-list": request(["ipvs.info"], {}),
    "call-unknown": request("ipvs.nosuch", {}),
    "call-private": request("ipvs.__class__", {}),
    "args-list": request("ipvs.info", []),
    "args-null": request("sysctl.get", None),
    "args-text": request("ipvs.apply", "changes"),
    "more-args": request("ipvs.info", {"a": 1}),
    "wrong-arg": request("sysctl.get", {"nome": "x"}),
    "number-for-text": request("sysctl.get", {"name": 7}),
    "apply-nothing": request("ipvs.apply", {}),
    "apply-text": request("ipvs.apply", {"changes": "abc"}),
    "apply-null": request("ipvs.apply", {"changes": [None]}),
    "apply-unknown": request("ipvs.apply", {"changes": [{"change": "format-disk"}]}),
    "apply-sysctl": request("ipvs.apply", {"changes": [
        {"change": "set-sysctl", "name": "net.ipv4.ip_forward", "value": "1", "before": None, "resets": []},
    ]}),
    "apply-second-is-broken": request("ipvs.apply", {"changes": [ADD, {**ADD, "service": {}}]}),
    "apply-bad-address": request("ipvs.apply", {"changes": [ADD, {
        **ADD, "service": {**ADD["service"], "address": "tcp:1"},
    }]}),
    "apply-float": request("ipvs.apply", {"changes": [{**ADD, "service": {**ADD["service"], "persistent": 1.5}}]}),
    "apply-true": request("ipvs.apply", {"changes": [{**ADD, "service": {**ADD["service"], "persistent": True}}]}),
    "surrogate": request("sysctl.set", {"name": "net.ipv4.\ud800", "value": "\udfff"}),
    "service-number": request("ipvs.service", {"address": 1}),
    "rules-null": request("firewall.replace", {"change": None}),
    "rules-service": request("firewall.replace", {"change": ADD}),
    "conntrack-null": request("conntrack.delete", {"entry": {}}),
}  # fmt: skip


def healthy(host: RemoteHost) -> None:
    assert host.ipvs.services() == []
    assert host.sysctl.get("net.ipv4.ip_forward") == "0"


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_answered_with_an_error(case: str) -> None:
    host = EmulatedHost()
    reply = json.loads(answer(host, GARBAGE[case]))
    assert set(reply) == {"id", "error"}
    assert reply["error"]["class"] in ("UsageError", "NotFound")
    assert "\n" not in reply["error"]["message"]
    assert len(reply["error"]["message"]) < 600
    assert host.state.services == {}
    assert host.sysctl.get("net.ipv4.ip_forward") == "0"


def test_garbage_over_the_socket(lab: RemoteHost, plain: Plain) -> None:
    pid = pid_of("lab")
    for case, data in GARBAGE.items():
        plain.send(data + b"\n")
        reply = plain.line()
        assert reply is not None, case
        assert "error" in reply, case
        healthy(lab)
    # The connection is as good as before.
    assert "ok" in plain.ask("server.hello")
    assert pid_of("lab") == pid


keys = st.sampled_from(["changes", "change", "service", "server", "name", "value", "address", "entry"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["rr", "tcp:1.1.1.1:1", "\0", "é"])
json_values = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(call=st.sampled_from(sorted(CALLS)), args=json_values)
def test_every_request_gets_a_line(call: str, args: Any) -> None:
    host = EmulatedHost()
    line = answer(host, request(call, args))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    reply = json.loads(line)
    assert reply["id"] == 1
    assert ("ok" in reply) != ("error" in reply)
    if "error" in reply:
        assert "the emulator failed" not in reply["error"]["message"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_every_line_gets_a_line(line: bytes) -> None:
    reply = json.loads(answer(EmulatedHost(), line.replace(b"\n", b" ")))
    assert "error" in reply


def test_a_fault_of_the_host_is_told_and_survived() -> None:
    host = EmulatedHost()
    host.state.services = None  # type: ignore[assignment]
    reply = json.loads(answer(host, request("ipvs.services", {})))
    assert reply["error"]["message"].startswith("the emulator failed: AttributeError")


def test_half_a_line_and_a_hasty_end_change_nothing(lab: RemoteHost, folder: Path) -> None:
    whole = request("ipvs.apply", {"changes": [ADD]})
    for cut in (1, len(whole) // 2, len(whole)):
        connection = Plain(files.socket_path(folder, "lab"))
        connection.send(whole[:cut])
        # Reset instead of a polite end.
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        healthy(lab)


def test_a_line_in_pieces_is_a_line(plain: Plain) -> None:
    for byte in request("sysctl.get", {"name": "net.ipv4.ip_forward"}) + b"\n":
        plain.send(bytes((byte,)))
    assert plain.line() == {"id": 1, "ok": "0"}


def test_many_lines_at_once_are_answered_in_order(plain: Plain) -> None:
    plain.send(b"".join(request("server.hello", {}, number) + b"\n" for number in range(500)))
    assert [plain.line()["id"] for _ in range(500)] == list(range(500))


def test_the_last_requests_are_answered_after_the_sender_closed_its_side(plain: Plain) -> None:
    plain.send(request("server.hello", {}) + b"\n" + request("ipvs.info", {}) + b"\n" + b'{"half')
    plain.socket.shutdown(socket.SHUT_WR)
    assert "ok" in plain.line()
    assert "ok" in plain.line()
    assert plain.line() is None


def test_a_line_that_does_not_end_is_cut_off(lab: RemoteHost, plain: Plain) -> None:
    piece = b"x" * 2**20
    sent = 0
    with pytest.raises(OSError):
        while sent < 2 * MAX_REQUEST:
            plain.send(piece)
            sent += len(piece)
    assert sent <= MAX_REQUEST + 4 * 2**20
    healthy(lab)


def test_a_big_request_that_ends_is_read(plain: Plain) -> None:
    blank = b" " * (MAX_REQUEST - 1000)
    plain.send(b'{"id": 1, "call": "sysctl.get", ' + blank + b'"args": {"name": "net.ipv4.ip_forward"}}\n')
    assert plain.line() == {"id": 1, "ok": "0"}


def test_who_does_not_read_waits_alone(lab: RemoteHost, plain: Plain, folder: Path) -> None:
    changes: list[Change] = [AddService(Service(WEB, "rr"))]
    changes += [
        AddServer(WEB, Server(ServerAddress.of(f"10.1.{n // 250}.{n % 250 + 1}", 80), "nat")) for n in range(2000)
    ]
    assert plain.ask("ipvs.apply", changes=[change_to_dict(change) for change in changes]) == {"id": 1, "ok": None}
    # Each answer is half a megabyte, and nobody reads them.
    plain.send(b"".join(request("ipvs.services", {}, number) + b"\n" for number in range(50)))
    assert len(lab.ipvs.services()) == 1
    other = Plain(files.socket_path(folder, "lab"))
    assert "ok" in other.ask("server.hello")
    other.close()
    # They come when they are read, all of them.
    assert [plain.line()["id"] for _ in range(50)] == list(range(50))


def test_dawdlers_keep_nobody_waiting_and_the_oldest_make_room(lab: RemoteHost, folder: Path) -> None:
    path = files.socket_path(folder, "lab")
    dawdlers = []
    for _ in range(400):
        dawdler = Plain(path)
        dawdler.send(b'{"id": 1, ')
        dawdlers.append(dawdler)
        healthy(lab)
    assert dawdlers[0].line() is None
    late = Plain(path)
    assert "ok" in late.ask("server.hello")
    for each in (*dawdlers, late):
        each.close()
    healthy(lab)
