"""How long a command takes to start, as a ratio to `python3 -c 'import click'` in the same run.

    python -m tests.bench.startup [--rounds 15] [--kernel]

The commands take turns, so that whatever else the machine does falls on all of them alike; the figure is the median.
`--kernel` measures `-j list` on this machine's kernel (needs IPVS and root: run it in the guest).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("ipvsctl")
LIMITS = {"--help": 2.0, "completion": 2.0, "list (emulator)": 2.5, "-j list (kernel)": 3.0}
COMPLETION = {"_IPVSCTL_COMPLETE": "bash_complete", "COMP_WORDS": "ipvsctl serv", "COMP_CWORD": "1"}


def cases(kernel: bool) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Command and environment of each case; the first is what the others are measured against."""
    table: dict[str, tuple[list[str], dict[str, str]]] = {
        "python": ([sys.executable, "-c", "pass"], {}),
        "import click": ([sys.executable, "-c", "import click"], {}),
        "--help": ([str(SCRIPT), "--help"], {}),
        "completion": ([str(SCRIPT)], COMPLETION),
        "list (emulator)": ([str(SCRIPT), "--host", "emulator:bench", "list"], {}),
    }
    if kernel:
        table["-j list (kernel)"] = ([str(SCRIPT), "-j", "list"], {})
    return table


def elapsed(words: list[str], environment: dict[str, str]) -> float:
    """Seconds of one run; its output goes to a pipe that is read, as in a script.

    Not in the checkout: `python -c` looks for modules in the working directory first, the installed command does not.
    """
    start = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, cwd="/")
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended {done.returncode}: {done.stderr.decode()}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kernel", action="store_true")
    options = parser.parse_args()
    table = cases(options.kernel)
    with tempfile.TemporaryDirectory() as directory:
        base = {**os.environ, "IPVSCTL_RUNTIME_DIR": directory}
        times: dict[str, list[float]] = {name: [] for name in table}
        try:
            for turn in range(options.rounds + 1):
                for name, (words, extra) in table.items():
                    seconds = elapsed(words, {**base, **extra})
                    # The first round reads files from disk and starts the emulator.
                    if turn:
                        times[name].append(seconds)
        finally:
            subprocess.run([str(SCRIPT), "emulate", "stop", "bench"], env=base, capture_output=True)
    unit = statistics.median(times["import click"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        limit = f"  at most {LIMITS[name]}" if name in LIMITS else ""
        print(f"{name:20} {median * 1000:7.1f} ms  {median / unit:5.2f} x{limit}")


if __name__ == "__main__":
    main()
