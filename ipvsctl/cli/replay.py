"""`emulate replay`: captured packets through a datapath, each at its time; a verdict for each, and what left.

Nothing is kept of a packet once it is told, so a capture may be of any length. What the datapath itself remembers
(connections, fragments) ends by its timers, which run on the capture's clock.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.output import progress
from ipvsctl.cli.replay_files import STDIN, File, Input, Leaving, check_stdout, open_input, open_output, size_of, writer
from ipvsctl.cli.replay_text import Teller
from ipvsctl.cli.run import Ended
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import IpvsctlError, UsageError
from ipvsctl.formats import pcap
from ipvsctl.formats.capture import SECOND, Record
from ipvsctl.formats.link_layer import OTHER_HOST, packet_type, strip

_LOCAL = (Reason.NO_LISTENER, Reason.LOCAL_PROTOCOL, Reason.LOCAL_CHECKSUM)
"""The host has got such a packet; only nothing there takes it."""

_POLLS = 500_000
"""Deadlines kept between two packets at most. More lie in a gap of years only: by then no connection is left."""


@dataclass(slots=True)
class Tally:
    """What became of the packets so far. `late`: older than one before; `cut`: the capture has not all of it."""

    seconds: float = 0.0
    packets: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Reason] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    late: int = 0
    cut: int = 0
    merged: int = 0


@dataclass(slots=True)
class Told:
    """One packet's end. `number` counts the capture's records, 0: no packet came, a timer sent `outputs`."""

    number: int
    time: float
    device: str = ""
    packet: bytes = b""
    verdict: str = "timer"
    reason: Reason | None = None
    outputs: list[Output] = field(default_factory=list)


class Replay:
    """Gives records to an engine. `device`: the one that every packet comes in by; None: the capture names it."""

    def __init__(self, engine: Engine, name: str, device: str | None, leaving: Leaving) -> None:
        self.engine = engine
        self.name = name
        self.device = device
        self.leaving = leaving
        self.tally = Tally()
        self._devices = engine.routing.devices
        self._number = self._start = self._clock = 0

    def step(self, record: Record) -> Iterator[Told]:
        """A record's packet, behind what timers did since the one before. Raises UsageError for an unknown device."""
        self._number += 1
        tally = self.tally
        if self._number == 1:
            self._start = self._clock = record.time
        if record.outgoing:
            tally.skipped["outgoing"] += 1
            return
        if packet_type(record.link, record.data) == OTHER_HOST:
            tally.skipped["for other hosts"] += 1
            return
        frame = strip(record.link, record.data)
        if not frame.packet:
            tally.skipped[frame.kind] += 1
            return
        device = self.device or self._device_of(record, frame.vlans)
        if device is None:
            tally.skipped[f"VLAN {'.'.join(map(str, frame.vlans))}"] += 1
            return
        time = max(record.time, self._clock)
        tally.late += record.time < time
        self._clock = time
        now = tally.seconds = (time - self._start) / SECOND
        yield from self._wait(now)
        tally.packets += 1
        tally.cut += record.length > len(record.data)
        tally.merged += len(frame.packet) > self._devices[device].mtu + 60  # 60: a frame's padding
        outputs = self.engine.receive(device, frame.packet, now)
        told = Told(self._number, now, device, frame.packet, *self._verdict(), outputs)
        tally.verdicts[told.verdict] += 1
        if told.verdict == "drop" and told.reason is not None:
            tally.dropped[told.reason] += 1
        self._send(time, outputs)
        yield told

    def _device_of(self, record: Record, vlans: tuple[int, ...]) -> str | None:
        """The device that a record came in by; None for a VLAN that the configuration has no device for."""
        name = record.device
        if not name:
            raise UsageError(
                f"{self.name}: it does not say by which device a packet came in: --device is needed, one of "
                f"{', '.join(self._devices)}"
            )
        if any(vlans):  # a tag of 0 is a priority only
            name = ".".join((name, *(str(number) for number in vlans if number)))
            return name if name in self._devices else None
        if name not in self._devices:
            raise UsageError(
                f"{self.name}: packet {self._number} came in by {name}, which the configuration does not have: "
                f"--device is needed, one of {', '.join(self._devices)}"
            )
        return name

    def _wait(self, now: float) -> Iterator[Told]:
        """Do what is due before a packet comes. Rates of services need no deadline of their own: no packet sees one."""
        engine = self.engine
        for _ in range(_POLLS):
            due = [at for at in (engine.timers.poll_at(), engine.vs.defense.poll_at()) if at is not None]
            at = max(min(due, default=now), engine.now)
            if at >= now:
                return
            outputs = engine.poll(at)
            if outputs:
                self._send(self._start + int(at * SECOND), outputs)
                yield Told(0, at, outputs=outputs)

    def _send(self, time: int, outputs: list[Output]) -> None:
        for each in outputs:
            self.tally.sent[each.device] += 1
            self.leaving(time, each)

    def _verdict(self) -> tuple[str, Reason | None]:
        found = self.engine.verdict
        if isinstance(found, Reason):
            word = "local" if found in _LOCAL else "wait" if found is Reason.FRAGMENT else "drop"
            return word, found
        return {"sent": "forward", "delivered": "local"}.get(found, "lost"), None


def replay_file(
    env: Environment, engine: Engine, source: str, device: str | None, out: str | None, file: str | None
) -> None:
    """Replay a capture, write what leaves, and tell; - is standard input or output.

    Raises UsageError for a capture that is broken, Refused for a file that cannot be read or written, and Ended when a
    signal asks to end: the summary of what was done until then has been printed.
    """
    if not gc.isenabled():  # main's choice, for commands that end at once; what is set up by now stays to the end
        gc.freeze()
        gc.enable()
    with ExitStack() as stack:
        handle = open_input(env, stack, source)
        inputs: tuple[File, ...] = (handle, file if file != "-" else env.stdin)
        check_stdout(env, inputs)
        target = None
        leaving: Leaving = _nowhere
        if out is not None and not env.dry_run:
            target = open_output(env, stack, out, inputs)
            leaving = writer(target, (name for name in engine.routing.devices if name != "lo"))
        given = Input(handle, STDIN if source == "-" else source)
        replay = Replay(engine, given.name, device, leaving)
        teller = Teller(env, replay, aside=target is not None and out == "-")
        scrolls = not env.quiet and (teller.aside or env.stdout.isatty())
        try:
            with _interruptible() as until, progress(env, size_of(handle), hidden=scrolls) as advance:
                for record in until(pcap.read(given, given.name)):
                    for told in replay.step(record):
                        teller.tell(told)
                    advance(given.done)
            if target is not None:
                target.flush()
        except (IpvsctlError, Ended):
            teller.summary(complete=False)
            raise
        teller.summary(complete=True)


def _nowhere(time: int, leaving: Output) -> None:
    """What leaves is not wanted."""


@contextmanager
def _interruptible() -> Iterator[Callable[[Iterator[Record]], Iterator[Record]]]:
    """Gives records until a signal asks to end: Ended comes between two of them, never inside what is written."""
    received: list[int] = []
    waiting = False

    def handler(number: int, _: object) -> None:
        received.append(number)
        if waiting:
            raise Ended(number)

    def until(records: Iterator[Record]) -> Iterator[Record]:
        nonlocal waiting
        while True:
            waiting = True
            try:
                if received:
                    raise Ended(received[0])
                record = next(records, None)
            finally:
                waiting = False
            if record is None:
                return
            yield record

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) is not signal.SIG_IGN:
                before[each] = signal.signal(each, handler)
    try:
        yield until
    finally:
        for number, old in before.items():
            signal.signal(number, old)
