"""`emulate replay`: captured packets through a datapath, each at its time; a verdict for each, and what left.

Nothing is kept of a packet once it is told, so a capture may be of any length. What the datapath itself remembers
(connections, fragments) ends by its timers, which run on the capture's clock.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from ipvsctl.cli.environment import Environment, output
from ipvsctl.cli.output import count, print_json, progress
from ipvsctl.cli.run import Ended
from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.datapath.verdict import Reason
from ipvsctl.errors import IpvsctlError, Refused, UsageError
from ipvsctl.formats import pcap, pcapng
from ipvsctl.formats.capture import SECOND, Record
from ipvsctl.formats.link_layer import strip
from ipvsctl.formats.packet_text import describe
from ipvsctl.wire.address import readable

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


class Leaving(Protocol):
    """Takes what leaves the director: the time in nanoseconds since 1970, and the packet."""

    def __call__(self, time: int, out: Output, /) -> None: ...


class Replay:
    """Gives records to an engine. `device`: the one that every packet comes in by; None: the capture names it."""

    def __init__(self, engine: Engine, name: str, device: str | None, leaving: Leaving) -> None:
        self.engine = engine
        self.name = name
        self.device = device
        self.leaving = leaving
        self.tally = Tally()
        self._devices = engine.routing.devices
        self._start: int | None = None
        self._now = 0.0
        self._number = 0

    def step(self, record: Record) -> Iterator[Told]:
        """A record's packet, behind what timers did since the one before. Raises UsageError for an unknown device."""
        self._number += 1
        tally = self.tally
        if record.outgoing:
            tally.skipped["outgoing"] += 1
            return
        frame = strip(record.link, record.data)
        if not frame.packet:
            tally.skipped[frame.kind] += 1
            return
        device = self.device or self._device_of(record, frame.vlans)
        if device is None:
            tally.skipped[f"VLAN {'.'.join(map(str, frame.vlans))}"] += 1
            return
        if self._start is None:
            self._start = record.time
        now = (record.time - self._start) / SECOND
        if now < self._now:
            tally.late += 1
            now = self._now
        else:
            yield from self._wait(now)
            self._now = tally.seconds = now
        tally.packets += 1
        tally.cut += record.length > len(record.data)
        tally.merged += len(frame.packet) > self._devices[device].mtu + 60  # 60: a frame's padding
        outputs = self.engine.receive(device, frame.packet, now)
        told = Told(self._number, now, device, frame.packet, *self._verdict(), outputs)
        tally.verdicts[told.verdict] += 1
        if told.verdict == "drop" and told.reason is not None:
            tally.dropped[told.reason] += 1
        self._send(max(record.time, self._start), outputs)
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
                assert self._start is not None
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


# -- telling ----------------------------------------------------------------------------------------------------------


class Teller:
    """Prints verdicts and the summary: on standard error when the capture of what left goes to standard output."""

    def __init__(self, env: Environment, replay: Replay, *, aside: bool) -> None:
        self.env = env
        self.replay = replay
        self.aside = aside
        self.width = max((len(name) for name in replay.engine.routing.devices), default=0)

    def tell(self, told: Told) -> None:
        """One line for a packet."""
        if self.env.quiet:
            return
        if self.env.json:
            self._json(self._to_dict(told))
            return
        left = Counter(each.device for each in told.outputs)
        number = str(told.number or "-")
        line = f"{number:>7}  {told.time:12.6f}  {told.device:{self.width}}  {told.verdict:7}  "
        line += describe(told.packet) if told.number else "a timer ran out"
        if told.reason is not None:
            line += f": {told.reason.value}"
        if left:
            line += f" -> {', '.join(name if n == 1 else f'{name} ({n})' for name, n in left.items())}"
        self._write(line)
        if self.env.verbose:
            for each in told.outputs:
                self._write(f"{'':25}{each.device}: {describe(each.packet)}")

    def summary(self, *, complete: bool) -> None:
        """What became of all packets; `complete`: it is the whole capture."""
        tally = self.replay.tally
        dropped = {reason: number for reason, number in tally.dropped.most_common()}
        skipped, sent = dict(tally.skipped.most_common()), dict(sorted(tally.sent.items()))
        if self.env.json:
            summary = {
                "packets": tally.packets, "seconds": round(tally.seconds, 9), "forwarded": tally.verdicts["forward"],
                "delivered": tally.verdicts["local"], "dropped": tally.verdicts["drop"],
                "waiting": tally.verdicts["wait"], "lost": tally.verdicts["lost"],
                "reasons": {_named(reason): number for reason, number in dropped.items()},
                "skipped": skipped, "sent": sent, "late": tally.late, "cut": tally.cut, "merged": tally.merged,
                "complete": complete,
            }  # fmt: skip
            self._json({"summary": summary})
            return
        words = {"forward": "forwarded", "local": "delivered", "drop": "dropped", "wait": "fragments", "lost": "lost"}
        found = [f"{tally.verdicts[key]} {word}" for key, word in words.items()
                 if tally.verdicts[key] or key in ("forward", "local", "drop")]  # fmt: skip
        head = "" if complete else "so far: "
        self._write(f"{head}{count(tally.packets, 'packet')} in {tally.seconds:.6f} s: {', '.join(found)}")
        width = max((len(str(number)) for number in dropped.values()), default=0)
        for reason, number in dropped.items():
            self._write(f"  dropped {number:>{width}}  {_named(reason)}: {reason.value}")
        for word, some in (("skipped", skipped), ("sent", sent)):
            if some:
                self._write(f"  {word} {', '.join(f'{number} {name}' for name, number in some.items())}")
        for number, text in (
            (tally.cut, "not whole in the capture, and so dropped: capture with a larger snapshot length"),
            (tally.merged, "larger than the MTU: packets were merged before they were captured (ethtool: gro, lro)"),
            (tally.late, "older than the one before, and taken at its time"),
        ):
            if number:
                self._write(f"  note: {number} of the packets {'is' if number == 1 else 'are'} {text}")

    def _to_dict(self, told: Told) -> dict[str, Any]:
        return {
            "number": told.number or None,
            "time": round(told.time, 9),
            "in": told.device or None,
            "packet": describe(told.packet) if told.number else None,
            "verdict": told.verdict,
            "reason": None if told.reason is None else _named(told.reason),
            "text": "" if told.reason is None else told.reason.value,
            "out": [
                {
                    "device": each.device,
                    "next_hop": readable(each.next_hop) if each.next_hop else "",
                    "packet": describe(each.packet),
                }
                for each in told.outputs
            ],
        }

    def _json(self, data: dict[str, Any]) -> None:
        if not self.aside:
            print_json(self.env, data)
            return
        import json

        self.env.error(json.dumps(data))

    def _write(self, text: str) -> None:
        if self.aside:
            self.env.error(text)
        else:
            self.env.write(text)


def _named(reason: Reason) -> str:
    return reason.name.lower().replace("_", "-")


# -- files ------------------------------------------------------------------------------------------------------------


class _Input:
    """A file that counts what was read of it, and whose failures are told as those of a command."""

    def __init__(self, handle: BinaryIO, name: str) -> None:
        self.handle = handle
        self.name = name
        self.done = 0

    def read(self, size: int, /) -> bytes:
        try:
            data = self.handle.read(size)
        except OSError as error:
            raise Refused(f"cannot read {self.name}: {error.strerror or error}") from None
        self.done += len(data)
        return data


class _Target:
    def __init__(self, handle: BinaryIO, name: str) -> None:
        self.handle = handle
        self.name = name

    def write(self, data: bytes, /) -> None:
        try:
            self.handle.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Refused(f"cannot write {self.name}: {error.strerror or error}") from None


def check_names(source: str, out: str | None, file: str | None) -> None:
    """Raise UsageError for names that no run can work with."""
    if source == file == "-":
        raise UsageError("standard input is one file: it cannot be both the capture and --file")
    if out is not None and out != "-" and not out.lower().endswith((".pcap", ".pcapng")):
        raise UsageError(f"--out {out}: expected a name that ends in .pcapng or .pcap, or - for pcapng to standard output")


def replay_file(
    env: Environment, engine: Engine, source: str, device: str | None, out: str | None, file: str | None
) -> None:
    """Replay a capture, write what leaves, and tell. Raises UsageError for a broken one and Ended when interrupted."""
    with ExitStack() as stack:
        handle = _open(env, stack, source)
        name = "<stdin>" if source == "-" else source
        leaving = _leaving(env, stack, handle, engine, name, out, file)
        replay = Replay(engine, name, device, leaving)
        teller = Teller(env, replay, aside=out == "-")
        try:
            given = _Input(handle, name)
            scrolls = not env.quiet and env.stdout.isatty()
            records = pcap.read(given, name)
            with _interruptible() as until, progress(env, _size(handle), hidden=scrolls) as advance:
                for record in until(records):
                    for told in replay.step(record):
                        teller.tell(told)
                    advance(given.done)
        except (IpvsctlError, Ended):
            teller.summary(complete=False)
            raise
        teller.summary(complete=True)


def _open(env: Environment, stack: ExitStack, source: str) -> BinaryIO:
    if source == "-":
        handle: BinaryIO = getattr(env.stdin, "buffer", env.stdin)
        return handle
    try:
        return stack.enter_context(open(source, "rb"))  # noqa: PTH123 - click gave text, and a path may hold anything
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {source}: {reason}") from None


def _leaving(
    env: Environment, stack: ExitStack, handle: BinaryIO, engine: Engine, name: str, out: str | None, file: str | None
) -> Leaving:
    """Where packets that leave are written."""
    own = _identity(handle)
    if own is not None and own == _identity(env.stdout):
        raise UsageError(f"standard output is {name} itself, which would be overwritten")
    if out is None:
        return lambda _, __: None
    if out == "-":
        if env.stdout.isatty():
            raise UsageError("--out -: standard output is a terminal, expected a file or a pipe")
        target = _Target(getattr(env.stdout, "buffer", env.stdout), "the output")
    else:
        for each, what in ((own, name), (_identity(file) if file not in (None, "-") else None, file)):
            if each is not None and each == _identity(out):
                raise UsageError(f"--out {out} is {what} itself, which would be overwritten")
        try:
            target = _Target(stack.enter_context(open(out, "wb")), out)  # noqa: PTH123 - as above
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot write {out}: {reason}") from None
    return _writer(target, engine, out)


def _writer(target: _Target, engine: Engine, out: str) -> Leaving:
    if out.lower().endswith(".pcap"):
        plain = pcap.Writer(target)
        return lambda time, each: plain.write(time, each.packet)
    writer = pcapng.Writer(target, (name for name in engine.routing.devices if name != "lo"))
    return lambda time, each: writer.write(time, each.packet, each.device, outgoing=True)


def _identity(what: Any) -> tuple[int, int] | None:
    """Which regular file a name or a stream is; None for what is none."""
    try:
        found = os.stat(what if isinstance(what, str) else what.fileno())  # noqa: PTH116
    except (OSError, ValueError, AttributeError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _size(handle: BinaryIO) -> int | None:
    try:
        found = os.fstat(handle.fileno())
    except (OSError, ValueError, AttributeError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


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
        for each, old in before.items():
            signal.signal(each, old)
