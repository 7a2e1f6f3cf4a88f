"""`emulate send`: packets into an emulated director, and a line for what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.output import count, print_json, print_lines
from ipvsctl.cli.replay_files import STDIN, Input, open_input
from ipvsctl.formats import packet_text, pcap
from ipvsctl.formats.link_layer import OTHER_HOST, packet_type, strip

if TYPE_CHECKING:
    from ipvsctl.model.connection import Fate

    Inject = Callable[[Iterable[bytes]], Iterator[Fate]]

_AT_ONCE = 5000
_STYLES = {"forward": "green", "drop": "red"}


def send_packets(env: Environment, inject: Inject, capture: str | None, texts: tuple[str, ...]) -> None:
    """Send what a capture or texts say, and tell. Raises UsageError for what is no capture or no packet."""
    verdicts: Counter[str] = Counter()
    left = 0
    with ExitStack() as stack:
        packets = iter([packet_text.parse(text) for text in texts]) if capture is None else _read(env, stack, capture)
        while part := list(islice(packets, _AT_ONCE)):
            for packet, fate in zip(part, [] if env.dry_run else inject(part), strict=False):
                verdicts[fate.verdict] += 1
                left += len(fate.outputs)
                if not env.quiet:
                    _tell(env, packet, fate)
    if env.json:
        print_json(env, {"packets": verdicts.total(), "verdicts": dict(verdicts), "left": left})
    else:
        words = ", ".join(f"{number} {word}" for word, number in sorted(verdicts.items()))
        env.write(f"{count(verdicts.total(), 'packet')}{': ' if words else ''}{words}; {left} left")


def _read(env: Environment, stack: ExitStack, capture: str) -> Iterator[bytes]:
    """The IP packets of a capture that came in."""
    given = Input(open_input(env, stack, capture), STDIN if capture == "-" else capture)
    for record in pcap.read(given, given.name):
        if record.outgoing or packet_type(record.link, record.data) == OTHER_HOST:
            continue
        if packet := strip(record.link, record.data).packet:
            yield packet


def _tell(env: Environment, packet: bytes, fate: Fate) -> None:
    text = packet_text.describe(packet)
    left = [(device, packet_text.describe(data)) for device, data in fate.outputs]
    if env.json:
        out = [{"device": device, "packet": words} for device, words in left]
        print_json(env, {"packet": text, "verdict": fate.verdict, "reason": fate.reason or None, "out": out})
        return
    why = f": {fate.reason}" if fate.reason else ""
    lines = [[(f"{fate.verdict:7}", _STYLES.get(fate.verdict, "")), (f"  {text}{why}", "")]]
    lines += [[(f"         -> {device}  {words}", "")] for device, words in left]
    print_lines(env, lines)
