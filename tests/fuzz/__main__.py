"""Fuzz the datapath: `python -m tests.fuzz --packets 1000000`; without --seed always the same packets.

--packets N    about how many packets (default 100000)
--minutes M    stop after so many minutes
--seed S       the seed of everything
--round N      play one round of the seed only, with as many packets as it had
--twin KIND    run that round beside a twin: traced or slow
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.drive import Tally, play
from tests.fuzz.formats import findings

_HANGS = 600
"""Seconds after which a round is taken to be stuck: the traceback says where."""

TWINS = ("", "", "traced", "", "slow")
"""What the rounds run beside, in turn."""


def plan(number: int) -> tuple[int, str]:
    """Packets and twin of a round: one in twelve is long, one in fifty very long."""
    packets = 100_000 if number % 50 == 40 else 20_000 if number % 12 == 11 else 2_000
    return packets, TWINS[number % len(TWINS)]


def rounds(seed: int, packets: int, until: float) -> Iterator[tuple[int, Tally]]:
    """Rounds until there were enough packets, or the time is up."""
    number = 0
    while packets > 0 and time.monotonic() < until:
        faulthandler.dump_traceback_later(_HANGS, exit=True)
        most, twin = plan(number)
        tally = play(seed, number, min(most, packets), twin)
        packets -= max(tally.packets, 1)
        yield number, tally
        number += 1


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> int:
    """Run, print what was found; the exit status says whether anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--packets", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int)
    parser.add_argument("--twin", default=None)
    options = parser.parse_args()
    if options.round is not None:
        most, twin = plan(options.round)
        tally = play(options.seed, options.round, most, twin if options.twin is None else options.twin)
        print(*tally.findings, sep="\n")
        print(tally.packets, "packets:", dict(tally.verdicts.most_common()))
        return bool(tally.findings)

    start = time.monotonic()
    until = start + options.minutes * 60 if options.minutes else float("inf")
    total = Tally()
    marks: list[tuple[int, int]] = []
    for number, tally in rounds(options.seed, options.packets, until):
        total.add(tally)
        for finding in tally.findings:
            print(finding, flush=True)
        while len(marks) < 4 and total.packets * 4 >= options.packets * (len(marks) + 1):
            marks.append((total.packets, memory()))
            print(f"{total.packets} packets, {number + 1} rounds, {time.monotonic() - start:.0f} s, "
                  f"{memory() >> 20} MiB, {len(total.findings)} findings", flush=True)  # fmt: skip
    faulthandler.cancel_dump_traceback_later()
    texts = list(findings(options.seed, min(options.packets // 50, 20_000)))
    print(*texts, sep="\n", end="\n" if texts else "")
    print(f"{total.packets} packets in, {total.sent} out, {total.events} events, {time.monotonic() - start:.0f} s")
    print(f"the slowest took {total.slowest * 1000:.0f} ms")
    print("verdicts:", ", ".join(f"{name} {count}" for name, count in total.verdicts.most_common()))
    print("memory:", ", ".join(f"{size >> 20} MiB at {packets}" for packets, size in marks))
    print(len(total.findings) + len(texts), "findings")
    return bool(total.findings or texts)


if __name__ == "__main__":
    sys.exit(main())
