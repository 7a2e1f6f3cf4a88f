"""What `emulate replay` prints: a line for each packet and a summary, for people and as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.output import count
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats.packet_text import describe
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.cli.replay import Replay, Told

_WORDS = {"forward": "forwarded", "local": "delivered", "drop": "dropped", "wait": "waiting fragments", "lost": "lost"}
"""Verdicts, and what the summary calls them."""

_LONG = re.compile(r'"(?:[^"\\]|\\.){65,}"|[0-9a-f]{65,}')
_KEPT = 40
"""Characters of a long payload on a line for people."""


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
            self._write(json.dumps(self._to_dict(told)))
            return
        left = Counter(each.device for each in told.outputs)
        number = str(told.number or "-")
        line = f"{number:>7}  {told.time:12.6f}  {told.device:{self.width}}  {told.verdict:7}  "
        line += _short(told.packet) if told.number else "a timer ran out"
        if told.reason is not None:
            line += f": {told.reason.value}"
        if left:
            line += f" -> {', '.join(name if n == 1 else f'{name} ({n})' for name, n in left.items())}"
        self._write(line)
        if self.env.verbose:
            for each in told.outputs:
                self._write(f"{'':25}{each.device}: {_short(each.packet)}")

    def summary(self, *, complete: bool) -> None:
        """What became of all packets; `complete`: it is the whole capture."""
        tally = self.replay.tally
        dropped = dict(tally.dropped.most_common())
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
            self._write(json.dumps({"summary": summary}))
            return
        found = [f"{tally.verdicts[key]} {word}" for key, word in _WORDS.items()
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

    def _write(self, text: str) -> None:
        if self.aside:
            self.env.error(text)
        else:
            self.env.write(text)


def _short(packet: bytes) -> str:
    """A packet on a line of bearable length."""
    return _LONG.sub(lambda found: f"{found[0][:_KEPT]}...", describe(packet))


def _named(reason: Reason) -> str:
    return reason.name.lower().replace("_", "-")
