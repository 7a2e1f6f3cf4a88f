"""Generic netlink: against the controller family, which every Linux has, and against scripted answers.

The scripted kernel is for what no real one can be made to do on demand: dumps that are interrupted, buffers that
overrun, answers out of place.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ipvsctl.errors import Refused, Unavailable
from ipvsctl.kernel import netlink
from ipvsctl.kernel.ipvs import NO_IPVS, KernelIpvs
from ipvsctl.kernel.netlink import GENERIC_HEADER, GenericNetlink

GET_FAMILY = GENERIC_HEADER.pack(3, 1, 0)
SOME_ID = 25


def family_query(name: str) -> bytes:
    """A request for a family by name: CTRL_CMD_GETFAMILY with CTRL_ATTR_FAMILY_NAME."""
    value = name.encode() + b"\0"
    return GET_FAMILY + netlink._ATTRIBUTE.pack(4 + len(value), 2) + value + bytes(-len(value) % 4)


@pytest.fixture
def controller() -> Iterator[GenericNetlink]:
    channel = GenericNetlink("nlctrl", "no controller")
    yield channel
    channel.close()


def test_request(controller: GenericNetlink) -> None:
    assert b"nlctrl\0" in controller.request(family_query("nlctrl"))


def test_a_refused_request_raises_its_errno_and_the_next_goes_on(controller: GenericNetlink) -> None:
    with pytest.raises(OSError) as caught:
        controller.request(family_query("nosuchfam"))
    assert caught.value.errno == errno.ENOENT
    assert b"nlctrl\0" in controller.request(family_query("nlctrl"))


def test_dump(controller: GenericNetlink) -> None:
    families = controller.dump(GET_FAMILY)
    assert sum(b"nlctrl\0" in family for family in families) == 1
    assert len(families) == len(controller.dump(GET_FAMILY))


def test_batch_maps_errors_to_messages_and_stops_where_the_caller_stops(controller: GenericNetlink) -> None:
    """More messages than a chunk takes; the failed ones are in the second, and no third is sent."""
    list(controller.batch([family_query("nlctrl")]))
    assert controller._socket is not None
    controller._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    messages = [family_query("nlctrl")] * 200
    size = controller._chunk(controller._socket, messages, 0)
    assert 0 < size < 100
    for index in (size, size + 7):
        messages[index] = family_query("nosuchfam")
    batch = controller.batch(messages)
    assert next(batch) == (range(size), {})
    sent = controller._sequence
    chunk, failures = next(batch)
    assert chunk == range(size, 2 * size)
    assert {index: error.errno for index, error in failures.items()} == {size: errno.ENOENT, size + 7: errno.ENOENT}
    assert controller._sequence == sent + size + 1


def test_a_chunk_fits_a_datagram(controller: GenericNetlink) -> None:
    controller.request(family_query("nlctrl"))
    assert controller._socket is not None
    stop = controller._chunk(controller._socket, [bytes(1000)] * 1000, 0)
    assert stop <= netlink._CHUNK // 1016
    # A message larger than that goes alone: the kernel, not we, refuses it.
    assert controller._chunk(controller._socket, [bytes(100_000)] * 2, 1) == 2


def test_a_family_that_is_not_there() -> None:
    channel = GenericNetlink("NOSUCHFAM", "it is not there")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"^it is not there$"):
            channel.request(b"\1\1\0\0")
    assert channel._socket is None
    with pytest.raises(Unavailable, match=r"^it is not there$"):
        list(channel.batch([b"\1\1\0\0"]))


def test_the_line_for_a_kernel_without_ipvs() -> None:
    assert "modprobe ip_vs" in NO_IPVS
    assert "--host emulator" in NO_IPVS
    port = KernelIpvs()
    port.apply([])
    port.close()


class Script:
    """A channel that answers as a test says: a function of the request's sequence number gives the datagrams."""

    def __init__(self, *answers: Callable[[int], list[bytes]]) -> None:
        self.answers = list(answers)
        self.queue: list[bytes | OSError] = []
        self.senders: list[int] = []

    def send(self, data: bytes) -> int:
        self.queue = list(self.answers.pop(0)(netlink._HEADER.unpack_from(data)[3]))
        return len(data)

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        item = self.queue.pop(0)
        if isinstance(item, OSError):
            raise item
        return item, [], 0, (self.senders.pop(0) if self.senders else 0, 0)

    def getsockopt(self, level: int, option: int) -> int:
        return 212992

    def close(self) -> None:
        pass


def scripted(*answers: Callable[[int], list[bytes]]) -> GenericNetlink:
    channel = GenericNetlink("TEST", "absent")
    script = Script(*answers)
    channel._nl = netlink.pyroute2_module("pyroute2.netlink")
    channel._family = SOME_ID
    # Closing and opening again must find the script, not the kernel.
    channel._open = lambda: script  # type: ignore[assignment,method-assign,return-value]
    return channel


def message(number: int, kind: int = SOME_ID, body: bytes = b"\1\1\0\0data", flags: int = 2) -> bytes:
    return netlink._HEADER.pack(16 + len(body), kind, flags, number, 0) + body


def done(number: int, code: int = 0, flags: int = 2) -> bytes:
    return message(number, 3, netlink._CODE.pack(code), flags)


def failed(number: int, code: int, words: str = "") -> bytes:
    body = netlink._CODE.pack(-code) + bytes(16)
    if words:
        body += netlink._ATTRIBUTE.pack(8, 7) + bytes(4)
        body += netlink._ATTRIBUTE.pack(5 + len(words), 1) + words.encode() + b"\0" + bytes(-(len(words) + 1) % 4)
    return message(number, 2, body, 0x300 if words else 0x100)


def test_answers_to_others_and_of_others_are_passed_over() -> None:
    channel = scripted(lambda n: [message(n - 1), message(n, body=b"\1\1\0\0fake"), message(n, 1, b""), message(n)])
    channel._open().senders = [0, 4711]  # type: ignore[attr-defined]
    assert channel.request(b"\1\1\0\0") == b"data"


def test_an_interrupted_dump_is_taken_again() -> None:
    marked = scripted(
        lambda n: [message(n, body=b"\1\1\0\0old!", flags=0x12), done(n)],
        lambda n: [message(n), done(n, flags=0x12)],
        lambda n: [message(n) + message(n, body=b"\1\1\0\0longer!!") + done(n)],
    )
    assert marked.dump(b"\4\1\0\0") == [b"data", b"longer!!"]
    for_ever = scripted(*[lambda n: [message(n), done(n, flags=0x12)]] * 20)
    with pytest.raises(Refused, match="try again"):
        for_ever.dump(b"\4\1\0\0")


def test_an_overrun_dump_is_taken_again() -> None:
    lost = OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
    channel = scripted(
        lambda n: [message(n), lost],  # type: ignore[list-item]
        lambda n: [message(n), message(n, 4, bytes(4))],
        lambda n: [message(n), done(n)],
    )
    assert channel.dump(b"\4\1\0\0") == [b"data"]


def test_a_dump_that_ends_with_an_error() -> None:
    channel = scripted(lambda n: [message(n), done(n, -errno.ENOMEM)], lambda n: [failed(n, errno.EPERM)])
    for number in (errno.ENOMEM, errno.EPERM):
        with pytest.raises(OSError) as caught:
            channel.dump(b"\4\1\0\0")
        assert caught.value.errno == number


def test_the_kernels_own_words() -> None:
    channel = scripted(lambda n: [failed(n, errno.EINVAL, "no such thing")], lambda n: [failed(n, errno.EINVAL)])
    for words in ("no such thing", os.strerror(errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            channel.request(b"\1\1\0\0")
        assert caught.value.strerror == words


@pytest.mark.parametrize("size", range(1, 24))
def test_a_message_cut_short(size: int) -> None:
    """A whole message has 24 bytes; a datagram without even a header counts as none."""
    if size >= 16:
        with pytest.raises(Refused, match="cannot read the kernel's answer"):
            scripted(lambda n: [message(n)[:size]]).request(b"\1\1\0\0")
    with pytest.raises(Refused, match="cannot read the kernel's answer"):
        scripted(lambda n: [message(n) + message(n)[:size]]).dump(b"\1\1\0\0")


def test_no_answer() -> None:
    channel = scripted(lambda n: [BlockingIOError(errno.EAGAIN, "try again")])  # type: ignore[list-item]
    with pytest.raises(Unavailable, match="no answer from the kernel within 30 s"):
        channel.request(b"\1\1\0\0")


def test_waiting_has_an_end(controller: GenericNetlink) -> None:
    """Nothing was asked, so a real socket has nothing to receive."""
    controller.request(family_query("nlctrl"))
    assert controller._socket is not None
    limit = controller._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
    assert struct.unpack("@ll", limit) == (netlink.TIMEOUT, 0)
    controller._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 1000))
    with pytest.raises(Unavailable, match="no answer from the kernel"):
        netlink._receive(controller._socket)


def test_a_batch_whose_answers_are_lost() -> None:
    channel = scripted(
        lambda n: [message(n + 2, 2, netlink._CODE.pack(0) + bytes(16))],
        lambda n: [OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))],  # type: ignore[list-item]
    )
    assert list(channel.batch([b"\1\1\0\0"] * 2)) == [(range(2), {})]
    with pytest.raises(Refused, match="cannot tell what the kernel changed"):
        list(channel.batch([b"\1\1\0\0"] * 2))


def python(code: str) -> None:
    """Run code in an interpreter of its own, where nothing is imported yet."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_module_of_pyroute2_without_the_package() -> None:
    """Neither asyncio nor anything else of pyroute2 is imported, and the package as a whole is there when wanted."""
    python("""
import sys
from ipvsctl.kernel.netlink import pyroute2_module
netlink = pyroute2_module("pyroute2.netlink")
assert netlink.NLM_F_DUMP == 0x300
assert pyroute2_module("pyroute2.netlink") is netlink
assert not {"asyncio", "pyroute2.ndb.main", "pyroute2.netlink.core"} & set(sys.modules)
assert not hasattr(sys.modules["pyroute2"], "__wrapped__")
assert "pyroute2.netlink.core" not in sys.modules

nlsocket = pyroute2_module("pyroute2.netlink.nlsocket")
assert "pyroute2.ndb.main" not in sys.modules

import pyroute2
assert pyroute2.netlink is netlink
assert "pyroute2.ndb.main" not in sys.modules
from pyroute2 import IPRoute, NDB
from pyroute2.iproute import IPRoute as same
assert IPRoute is same and "pyroute2.ndb.main" in sys.modules
assert pyroute2.NetlinkError is netlink.exceptions.NetlinkError
assert pyroute2.__version__ and type(pyroute2).__name__ == "module"
""")


def test_the_package_that_is_there_already_is_used() -> None:
    python("""
import pyroute2
from ipvsctl.kernel.netlink import pyroute2_module
assert pyroute2_module("pyroute2.netlink") is pyroute2.netlink
assert type(pyroute2).__name__ == "module"
""")


def test_importing_the_port_opens_nothing_and_imports_no_pyroute2() -> None:
    python("""
import sys
import ipvsctl.kernel.ipvs
assert not any(name.startswith("pyroute2") for name in sys.modules)
ipvsctl.kernel.ipvs.KernelIpvs().close()
assert not any(name.startswith("pyroute2") for name in sys.modules)
""")


def test_pyroute2_missing() -> None:
    python("""
import importlib.util
from ipvsctl.errors import Unavailable
from ipvsctl.kernel import netlink
netlink.find_spec = lambda name: None
try:
    netlink.pyroute2_module("pyroute2.netlink")
except Unavailable as error:
    assert "pip install pyroute2" in str(error)
else:
    raise SystemExit("no error")
""")
