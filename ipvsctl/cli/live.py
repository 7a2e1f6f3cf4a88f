"""Commands that go on until they are told to end: ^C, SIGTERM and SIGHUP end them between two steps."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ipvsctl.cli.environment import Environment

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def waiting(*others: int) -> Iterator[Callable[[float], int]]:
    """Gives a wait of so many seconds, which ends early: at a signal, at input of `others`, when a terminal is resized.

    It returns the signal's number, else 0. A signal that is ignored (nohup) stays so.
    """
    received: list[int] = []
    read, write = os.pipe()
    os.set_blocking(write, False)

    def handler(number: int, _: object) -> None:
        if number != signal.SIGWINCH:
            received.append(number)
        with suppress(BlockingIOError):
            os.write(write, b"x")

    def wait(seconds: float) -> int:
        if not received and seconds > 0:
            ready, _, _ = select.select([read, *others], [], [], seconds)
            if read in ready:
                os.read(read, 4096)
        return received[0] if received else 0

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (int(each) for each in (*_ENDING, signal.SIGWINCH)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield wait
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        os.close(read)
        os.close(write)


@contextmanager
def ending() -> Iterator[Callable[[], int]]:
    """Gives what tells the signal that asked to end, 0 for none."""
    with waiting() as wait:
        yield lambda: wait(0)


def nobody_reads(env: Environment) -> bool:
    """Whether the reader of the pipe that is our standard output has gone."""
    try:
        number = env.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(happened & (select.POLLERR | select.POLLNVAL) for _, happened in poll.poll(0))


@contextmanager
def keys(env: Environment) -> Iterator[int | None]:
    """The descriptor of a terminal on standard input whose keys come one by one; None without one."""
    try:
        number = env.stdin.fileno()
        if not env.stdin.isatty():
            raise OSError
    except (OSError, ValueError, AttributeError):
        yield None
        return
    import termios
    import tty

    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
