"""How long `connection list` of 20,000 connections takes, as a ratio to `ipvsadm -Lnc`; whole processes, in the guest.

    python -m tests.vm -- .venv/bin/python -m tests.bench.connections [--count 20000] [--rounds 3]

The second run of each counts at the earliest: the first one reads the programs. The figure is the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from tests.bench.connections_lab import director, fill, on

LIMIT = 2.0


def elapsed(namespace: str, *words: str) -> tuple[float, int]:
    """Seconds of a run, and the lines it printed."""
    environment = {**os.environ, "IPVSCTL_HOST": "kernel"}
    start = time.perf_counter()
    done = subprocess.run(["ip", "netns", "exec", namespace, *words], capture_output=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended {done.returncode}: {done.stderr.decode()}")
    return seconds, done.stdout.count(b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--raw", action="store_true", help="time ipvsadm and reading /proc alone")
    options = parser.parse_args()
    ipvsctl = [sys.executable, "-m", "ipvsctl"]
    table = {
        "ipvsadm -Lnc": ["ipvsadm", "-Lnc"],
        "connection list": [*ipvsctl, "connection", "list"],
        "connection list -j": [*ipvsctl, "-j", "connection", "list"],
    }
    if options.raw:
        read = "import os; f = os.open('/proc/net/ip_vs_conn', 0)\nwhile os.read(f, 1 << 16): pass"
        table = {"ipvsadm -Lnc": ["ipvsadm", "-Lnc"], "python": [sys.executable, "-c", "pass"],
                 "read": [sys.executable, "-c", read], "--help": [*ipvsctl, "--help"],
                 "list": [*ipvsctl, "list"]}  # fmt: skip
    slow = False
    for tracked in (False, True):
        with director("bench") as (client, name):
            if tracked:
                on(name, "iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
                on(name, "sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1")
            fill(client, options.count)
            times: dict[str, list[float]] = {words: [] for words in table}
            lines: dict[str, int] = {}
            for _ in range(options.rounds + 1):
                for what, words in table.items():
                    seconds, lines[what] = elapsed(name, *words)
                    times[what].append(seconds)
            medians = {what: statistics.median(each[1:]) for what, each in times.items()}
            base = medians["ipvsadm -Lnc"]
            print(f"{options.count} connections, conntrack {'on' if tracked else 'off'}:")
            for what, seconds in medians.items():
                over = what == "connection list" and seconds > LIMIT * base
                slow |= over
                print(f"  {what:20} {seconds:7.3f} s  {seconds / base:5.2f} x  {lines[what]:6} lines"
                      f"{f', above {LIMIT} x' if over else ''}", flush=True)  # fmt: skip
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
