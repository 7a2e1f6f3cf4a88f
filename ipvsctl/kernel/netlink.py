"""Generic netlink: one family over one plain socket, in requests, dumps and batches.

Messages go to the kernel in a datagram, each with a sequence number. The kernel works through the datagram before
`send` returns and answers every message that failed, and of the others those that ask for it (af_netlink.c,
netlink_rcv_skb). So a batch asks for one acknowledgement, at its end, and finds the failed messages by their numbers.
A dump comes in several datagrams and ends with NLMSG_DONE; a socket runs one dump at a time.

Message classes and constants are pyroute2's. The `__init__` of that package imports asyncio, ndb and a hundred modules
more, which would cost every command over 0.1 s; `pyroute2_module` gets a submodule without it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, TypeVar

from ipvsctl.errors import Refused, Unavailable

_T = TypeVar("_T")

TIMEOUT = 30
"""Seconds to wait for an answer. The kernel answers at once, but the first request of all may load a module."""

GENERIC_HEADER = struct.Struct("=BBH")
"""genlmsghdr: command, version of the family, reserved. A message given to `GenericNetlink` begins with it."""

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_CODE = struct.Struct("=i")

# Not in pyroute2: include/uapi/asm-generic/socket.h and include/uapi/linux/netlink.h.
_SO_RCVBUFFORCE = 33
_NETLINK_CAP_ACK = 10
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_DATAGRAM = 65536  # The kernel dumps at most 32 KiB at a time (af_netlink.c, netlink_recvmsg).
_CHUNK = 65536
_RECEIVE_BUFFER = 1 << 20
_ANSWER = 2048  # What a queued answer takes of the receive buffer (skb->truesize is 768 to 1280).
_DUMP_TRIES = 10


class _LazyPackage(ModuleType):
    """A package whose `__init__` has not run: the first use of a name from there runs it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        # `from pyroute2 import netns` asks here before the import system looks for a submodule.
        submodule = f"{self.__name__}.{name}"
        if find_spec(submodule):
            return import_module(submodule)
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def pyroute2_module(name: str) -> Any:
    """A submodule of pyroute2, such as "pyroute2.netlink", without the cost of the package's `__init__`.

    The package in sys.modules is then a stand-in that becomes the real one as soon as somebody uses a name of it:
    `import pyroute2` goes on as ever, and its classes are the same. Raises Unavailable when pyroute2 is missing.
    """
    if "pyroute2" not in sys.modules:
        spec = find_spec("pyroute2")
        if spec is None:
            raise Unavailable("cannot talk to the kernel: Python's pyroute2 is missing: pip install pyroute2")
        package = module_from_spec(spec)
        package.__class__ = _LazyPackage
        sys.modules["pyroute2"] = package
    return import_module(name)


class GenericNetlink:
    """A family of generic netlink. The socket is opened, and the family looked up, when something is first asked.

    Messages are bytes: the generic header and attributes. Every call raises Unavailable when there is no such netlink
    family (`absent` is the text) or no answer within TIMEOUT, Refused for an answer that cannot be read, and OSError
    with the kernel's errno, and its words where it has some, when the kernel refuses the message.
    """

    def __init__(self, family: str, absent: str) -> None:
        self._name = family
        self._absent = absent
        self._socket: socket.socket | None = None
        self._nl: Any = None
        self._family = 0
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; the next call opens another and looks the family up anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def request(self, message: bytes) -> bytes:
        """The attributes of the one answer to a message."""
        return self._attempt(lambda: self._request(self._open(), self._family, message))

    def dump(self, message: bytes) -> list[bytes]:
        """The attributes of every answer to a message that asks for a list.

        A dump that the kernel marks as interrupted by a change, or that overran the receive buffer, is taken again.
        """
        for _ in range(_DUMP_TRIES):
            try:
                found = self._attempt(lambda: self._dump(self._open(), message))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            if found is not None:
                return found
        raise Refused(f"cannot read a list from the kernel: it changed in each of {_DUMP_TRIES} readings: try again")

    def batch(self, messages: Sequence[bytes]) -> Iterator[tuple[range, dict[int, OSError]]]:
        """Send messages in chunks; yields the indexes of a chunk and the errors of those of it that failed.

        The next chunk is sent when the next item is asked for, so a caller who stops has sent nothing more. Messages
        that get an answer besides an acknowledgement do not belong in a batch.
        """
        start = 0
        while start < len(messages):
            channel = self._open()
            stop = self._chunk(channel, messages, start)
            try:
                failures = self._send_chunk(channel, messages[start:stop])
            except (OSError, Unavailable) as error:
                self.close()
                raise Refused(f"cannot tell what the kernel changed: {error}: see ipvsctl list") from None
            except BaseException:
                self.close()
                raise
            yield range(start, stop), {start + index: error for index, error in failures.items()}
            start = stop

    def _attempt(self, work: Callable[[], _T]) -> _T:
        """Do a piece of work; close the socket when it was left in the middle of an answer or is of no more use."""
        known = self._socket is not None
        try:
            return work()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOBUFS, errno.EBADF, errno.EBUSY):
                self.close()
            if not known or error.errno != errno.ENOENT:
                raise
        except BaseException:
            self.close()
            raise
        # The family's module was loaded anew since we looked its number up.
        return self._attempt(work)

    def _open(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        nl = self._nl = pyroute2_module("pyroute2.netlink")
        try:
            channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nl.NETLINK_GENERIC)
        except OSError as error:
            raise Unavailable(f"cannot open a generic netlink socket: {error.strerror}: use --host emulator") from None
        try:
            channel.bind((0, 0))
            # The kernel's own limit: that of Python's sockets costs a system call more for each of ours.
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", TIMEOUT, 0))
            for option in (_NETLINK_CAP_ACK, nl.NETLINK_EXT_ACK):
                _try_option(channel, nl.SOL_NETLINK, option, 1)
            # Room for the errors of a whole chunk; without privilege the system's limit decides.
            if not _try_option(channel, socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER):
                _try_option(channel, socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._family = self._resolve(channel)
        except BaseException:
            channel.close()
            raise
        self._socket = channel
        return channel

    def _resolve(self, channel: socket.socket) -> int:
        """The family's number. The kernel itself tries to load the module of a family that it does not know."""
        nl = self._nl
        query = nl.ctrlmsg()
        query["cmd"] = nl.CTRL_CMD_GETFAMILY
        query["version"] = 1
        query["attrs"].append(["CTRL_ATTR_FAMILY_NAME", self._name])
        query.encode()
        try:
            answer = self._request(channel, nl.GENL_ID_CTRL, bytes(query.data[_HEADER.size :]))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise Unavailable(self._absent) from None
            raise
        # The class reads whole messages: give the answer its headers back.
        head = _HEADER.pack(20 + len(answer), nl.GENL_ID_CTRL, 0, 0, 0) + GENERIC_HEADER.pack(1, 1, 0)
        reply = nl.ctrlmsg(head + answer)
        reply.decode()
        number = reply.get_attr("CTRL_ATTR_FAMILY_ID")
        if not isinstance(number, int):
            raise Refused(f"cannot read the kernel's answer: it has no number for the netlink family {self._name}")
        return number

    def _header(self, message: bytes, kind: int, flags: int) -> bytes:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        return _HEADER.pack(_HEADER.size + len(message), kind, flags, self._sequence, 0)

    def _request(self, channel: socket.socket, family: int, message: bytes) -> bytes:
        nl = self._nl
        channel.send(self._header(message, family, nl.NLM_F_REQUEST) + message)
        while True:
            data = _receive(channel)
            for kind, flags, sequence, start, stop in _messages(data):
                if sequence != self._sequence:
                    continue
                if kind == nl.NLMSG_ERROR:
                    raise _failure(data, start, stop, flags) or Refused("cannot read the kernel's answer: it is empty")
                if kind == family:
                    return data[start + GENERIC_HEADER.size : stop]

    def _dump(self, channel: socket.socket, message: bytes) -> list[bytes] | None:
        """The answers of one dump, None when it has to be taken again."""
        nl = self._nl
        done, error, overrun = nl.NLMSG_DONE, nl.NLMSG_ERROR, nl.NLMSG_OVERRUN
        family, interrupted = self._family, nl.NLM_F_DUMP_INTR
        channel.send(self._header(message, family, nl.NLM_F_REQUEST | nl.NLM_F_DUMP) + message)
        wanted = self._sequence
        found: list[bytes] = []
        marks = 0
        while True:
            data = _receive(channel)
            # Servers come as messages with one and the same header. Telling so costs a third of reading each of them.
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
            if kind == family and sequence == wanted and length > 20 and not (length & 3 or len(data) % length):
                head, starts = data[:16], range(0, len(data), length)
                if all(data[start : start + 16] == head for start in starts):
                    found += [data[start + 20 : start + length] for start in starts]
                    marks |= flags
                    continue
            for kind, flags, sequence, start, stop in _messages(data):
                if sequence != wanted:
                    continue
                marks |= flags
                if kind == family:
                    found.append(data[start + 4 : stop])
                elif kind in (done, error):
                    failure = _failure(data, start, stop, flags, done=kind == done)
                    if failure is not None:
                        raise failure
                    return None if marks & interrupted else found
                elif kind == overrun:
                    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    def _chunk(self, channel: socket.socket, messages: Sequence[bytes], start: int) -> int:
        """Where the chunk that begins at `start` ends: it fits a datagram, and all its answers the receive buffer."""
        room = min(_CHUNK, channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32)
        most = max(1, channel.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _ANSWER)
        for stop in range(start, min(len(messages), start + most)):
            room -= _HEADER.size + len(messages[stop])
            if room < 0 and stop > start:
                return stop
        return min(len(messages), start + most)

    def _send_chunk(self, channel: socket.socket, messages: Sequence[bytes]) -> dict[int, OSError]:
        """The errors by index; every message not among them succeeded."""
        nl = self._nl
        pack, size = _HEADER.pack, _HEADER.size
        family, flags = self._family, nl.NLM_F_REQUEST
        # Numbers of a chunk follow one another without a wrap: an answer's number minus the first is the index.
        first = self._sequence + 1 if self._sequence < 0xFFFF0000 else 1
        last = first + len(messages)
        parts = [pack(size + len(m), family, flags, number, 0) + m for number, m in enumerate(messages, first)]
        # The acknowledgement is asked of a message that does nothing: a change that ends in EINTR, as stopping a
        # daemon that has hardly started does, is never acknowledged (af_netlink.c, netlink_rcv_skb).
        parts.append(pack(size, nl.NLMSG_NOOP, flags | nl.NLM_F_ACK, last, 0))
        self._sequence = last
        try:
            channel.send(b"".join(parts))
        except OSError as error:
            raise Refused(f"cannot send the changes to the kernel: {error.strerror}") from None
        failures: dict[int, OSError] = {}
        while True:
            data = _receive(channel)
            for kind, bits, sequence, start, stop in _messages(data):
                if kind == nl.NLMSG_ERROR and first <= sequence <= last:
                    failure = _failure(data, start, stop, bits)
                    if failure is not None:
                        failures[sequence - first] = failure
                    if sequence == last:
                        return failures


def _try_option(channel: socket.socket, level: int, option: int, value: int) -> bool:
    """Set an option that an old kernel may not know or that needs privilege."""
    try:
        channel.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _receive(channel: socket.socket) -> bytes:
    """One datagram of the kernel's; other senders are nobody's business here."""
    while True:
        try:
            data, _, flags, sender = channel.recvmsg(_DATAGRAM)
        except BlockingIOError:
            raise Unavailable(f"no answer from the kernel within {TIMEOUT} s: see its log with dmesg") from None
        if flags & socket.MSG_TRUNC:
            raise Refused(f"cannot read the kernel's answer: it is longer than {_DATAGRAM} bytes")
        if sender[0] == 0 and len(data) >= _HEADER.size:
            return data


def _messages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Type, flags, sequence number, start and end of what follows the header, for each message of a datagram."""
    at, size, unpack = 0, len(data), _HEADER.unpack_from
    while at + 16 <= size:
        length, kind, flags, sequence, _ = unpack(data, at)
        if not 16 <= length <= size - at:
            break
        yield kind, flags, sequence, at + 16, at + length
        at += length + 3 & ~3
    if at < size:
        raise Refused(f"cannot read the kernel's answer: a netlink message is cut short after {at} of {size} bytes")


def _failure(data: bytes, start: int, stop: int, flags: int, done: bool = False) -> OSError | None:
    """The error in an acknowledgement, or at the end of a dump, in the kernel's own words where it has some."""
    number = -_CODE.unpack_from(data, start)[0] if start + _CODE.size <= stop else 0
    if number <= 0:
        return None
    words = os.strerror(number)
    # With NETLINK_CAP_ACK the header of the message, not all of it, comes before the extended acknowledgement.
    at = start + _CODE.size + (0 if done else _HEADER.size)
    while flags & _NLM_F_ACK_TLVS and at + 4 <= stop:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        if kind == _NLMSGERR_ATTR_MSG:
            words = data[at + 4 : min(at + length, stop)].split(b"\0")[0].decode("utf-8", "replace") or words
        at += length + 3 & ~3
    return OSError(number, words)
