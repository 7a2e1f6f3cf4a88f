"""The server process of a named emulator: `python -m ipvsctl.emulator.server NAME`.

One thread, one loop, one host. A connection sends requests, one per line, and gets an answer to each in turn; a request
is carried out whole before the next one is looked at. What a connection may hold is bounded: one request, and answers
only until its owner reads them. Of too many connections the one that was silent for longest is closed.

Only processes of the same user, or root's, are served (unix(7), SO_PEERCRED); the socket has mode 0600.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ipvsctl.emulator import files
from ipvsctl.emulator.dispatch import Call, answer
from ipvsctl.emulator.host import EmulatedHost
from ipvsctl.emulator.lock import PidFile
from ipvsctl.emulator.messages import MAX_REQUEST, PROTOCOL, READY, check_name
from ipvsctl.errors import IpvsctlError, Refused

_RECEIVE = 2**18
_LINES_A_TURN = 32
_ALL_REQUESTS = 4 * MAX_REQUEST
_CONNECTIONS = 256
_BACKLOG = 1024
_LAST_WORDS = 1.0


class _Connection:
    """A client: what it sent that is not yet a line, and what it has not yet read."""

    __slots__ = ("ended", "received", "scanned", "sent", "socket", "unsent")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.received = bytearray()
        self.scanned = 0
        self.unsent: bytes = b""
        self.sent = 0
        self.ended = False

    def line(self) -> bytes | None:
        """The next whole line, without its newline."""
        end = self.received.find(b"\n", self.scanned)
        if end < 0:
            self.scanned = len(self.received)
            return None
        line = bytes(self.received[:end])
        del self.received[: end + 1]
        self.scanned = 0
        return line


class Server:
    """Serves one emulated director on a socket until it is asked to stop, or gets SIGTERM or SIGINT."""

    def __init__(self, name: str, folder: Path, limit: int = MAX_REQUEST, connections: int = _CONNECTIONS) -> None:
        self._host = EmulatedHost(check_name(name))
        self._name = name
        self._limit = limit
        self._most = connections
        self._path = files.socket_path(folder, name)
        self._pid_file = PidFile(files.pid_path(folder, name))
        self._started = int(time.time())
        self._selector = selectors.DefaultSelector()
        # Least recently heard first.
        self._connections: OrderedDict[int, _Connection] = OrderedDict()
        self._waiting: dict[int, _Connection] = {}
        self._running = True
        self._calls: dict[str, Call] = {
            "server.hello": (lambda args: None, lambda host, _: self._hello()),
            "server.stop": (lambda args: None, lambda host, _: self._stop()),
        }

    def listen(self) -> None:
        """Take the name and listen. Raises Refused when another server has it; replaces what a killed one left."""
        self._pid_file.take()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        # The name appears when the socket listens, so that nobody finds one that refuses.
        hidden = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        hidden.unlink(missing_ok=True)
        files.bind(self._listener, hidden)
        hidden.chmod(0o600)
        self._listener.listen(_BACKLOG)
        hidden.rename(self._path)
        self._pid_file.write(json.dumps({**self._hello(), "socket": str(self._path)}))
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wake_on_signals()

    def run(self) -> None:
        """Serve until asked to stop; then remove socket and pid file."""
        try:
            while self._running:
                for key, events in self._selector.select(0 if self._waiting else None):
                    if isinstance(key.data, _Connection):
                        self._serve(key.data, events)
                    else:
                        key.data()
                for connection in list(self._waiting.values()):
                    self._work(connection)
        finally:
            self._close()

    # -- calls of the server itself -----------------------------------------------------------------------------------

    def _hello(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "name": self._name,
            "instance": self._host.instance,
            "pid": os.getpid(),
            "started": self._started,
        }

    def _stop(self) -> None:
        """Files first: who reads the answer finds the name free."""
        self._running = False
        self._remove()

    # -- connections --------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except OSError:
            # Gone already, or no descriptor is left: then the oldest connection makes room.
            self._drop_oldest()
            return
        connected.setblocking(False)
        connection = _Connection(connected)
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        user: int = struct.unpack("3i", credentials)[1]
        if user not in (0, os.geteuid()):
            connected.close()
            return
        self._connections[connected.fileno()] = connection
        self._selector.register(connected, selectors.EVENT_READ, connection)
        if len(self._connections) > self._most:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if self._connections:
            self._drop(next(iter(self._connections.values())))

    def _drop(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if number in self._connections:
            del self._connections[number]
            self._waiting.pop(number, None)
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _serve(self, connection: _Connection, events: int) -> None:
        """A connection can be read from or written to."""
        if connection.socket.fileno() not in self._connections:
            return
        self._connections.move_to_end(connection.socket.fileno())
        try:
            if events & selectors.EVENT_WRITE:
                self._send(connection)
            if events & selectors.EVENT_READ:
                self._receive(connection)
        except OSError:
            self._drop(connection)
            return
        self._work(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        connection.received += data
        connection.ended = not data

    def _work(self, connection: _Connection) -> None:
        """Answer the lines that are there, a few at a time, as long as the answers are read."""
        number = connection.socket.fileno()
        self._waiting.pop(number, None)
        try:
            for _ in range(_LINES_A_TURN):
                if connection.unsent or not self._running:
                    break
                line = connection.line()
                if line is None:
                    self._check_bounds(connection)
                    break
                self._reply(connection, answer(self._host, line, self._calls))
            else:
                self._waiting[number] = connection
            if connection.ended and not connection.unsent and number not in self._waiting:
                self._drop(connection)
            else:
                self._want(connection)
        except OSError:
            self._drop(connection)

    def _check_bounds(self, connection: _Connection) -> None:
        """Close a connection whose line grows too long, alone or with all the others'."""
        held = len(connection.received)
        if held <= self._limit:
            everybody = sum(len(each.received) for each in self._connections.values()) if held > _RECEIVE else 0
            if everybody <= _ALL_REQUESTS:
                return
        connection.received.clear()
        connection.ended = True
        message = f"not a request: it is longer than {self._limit} bytes, or too many long ones are under way"
        refusal = {"id": None, "error": {"class": "UsageError", "message": message}}
        self._reply(connection, json.dumps(refusal).encode() + b"\n")

    def _reply(self, connection: _Connection, data: bytes) -> None:
        connection.unsent, connection.sent = data, 0
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        view = memoryview(connection.unsent)
        try:
            while connection.sent < len(view):
                connection.sent += connection.socket.send(view[connection.sent :])
        except BlockingIOError:
            return
        connection.unsent, connection.sent = b"", 0

    def _want(self, connection: _Connection) -> None:
        """Wait for the owner to read its answer, before it may ask more; else for its next request."""
        events = selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ
        if self._selector.get_key(connection.socket).events != events:
            self._selector.modify(connection.socket, events, connection)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _wake_on_signals(self) -> None:
        """SIGTERM and SIGINT end the loop between two requests."""
        self._wakeup, written = socket.socketpair()
        self._wakeup.setblocking(False)
        written.setblocking(False)
        self._written = written
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._stop)

    def _remove(self) -> None:
        """Remove socket and pid file, once: a successor may have made its own since."""
        if self._pid_file.held:
            self._path.unlink(missing_ok=True)
            self._pid_file.remove()

    def _close(self) -> None:
        self._remove()
        self._listener.close()
        for connection in list(self._connections.values()):
            # The last answers: to whoever asked for the end, and to those who asked just before.
            if connection.unsent:
                connection.socket.settimeout(_LAST_WORDS)
                with contextlib.suppress(OSError):
                    connection.socket.sendall(memoryview(connection.unsent)[connection.sent :])
            self._drop(connection)
        self._selector.close()


def _detach() -> None:
    """Become a process of nobody's: the starter is not left with a child to wait for."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def _silence() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)


def main(arguments: list[str]) -> int:
    """Serve the emulator of a name until it is stopped; with --detach in a process of its own."""
    detached = "--detach" in arguments
    names = [argument for argument in arguments if argument != "--detach"]
    os.umask(0o077)
    try:
        if len(names) != 1:
            raise Refused("usage: python -m ipvsctl.emulator.server [--detach] NAME")
        folder = files.directory()
        if detached:
            _detach()
        server = Server(names[0], folder)
        server.listen()
    except (IpvsctlError, OSError) as error:
        print(error, file=sys.stderr)
        return int(getattr(error, "status", 1))
    os.write(1, READY)
    if detached:
        _silence()
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
