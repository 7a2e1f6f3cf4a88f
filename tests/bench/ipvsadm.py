"""The classic program against ours on a table of 5,000 services with 10 servers each: seconds, ratios, memory.

Run it in the guest: `python -m tests.vm -- .venv/bin/python -m tests.bench.ipvsadm`. It changes, and at the end clears,
the IPVS table of the namespace that it runs in. Of each command two runs as whole processes count the second; `--quick`
takes a tenth of the table. With `--profile` it shows where listing and restoring spend their time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVICES, SERVERS = 5000, 10
IPVSADM = "/usr/sbin/ipvsadm"
OURS = [sys.executable, "-m", "ipvsctl"]


def lines(services: int) -> str:
    """The table as `ipvsadm -Sn` writes it."""
    made = []
    for number in range(services):
        service = f"10.{number >> 8}.{number & 255}.1:80"
        made.append(f"-A -t {service} -s rr")
        network = f"172.{16 + (number >> 8)}.{number & 255}"
        made += [f"-a -t {service} -r {network}.{host}:8080 -m -w 1" for host in range(1, SERVERS + 1)]
    return "\n".join(made) + "\n"


def run(command: list[str], text: str = "") -> tuple[float, float, str]:
    """Seconds, peak memory in MB, and output of a command that has to succeed."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(text.encode())
        stdin.seek(0)
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        stdout.seek(0)
        out = stdout.read().decode()
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    return seconds, usage.ru_maxrss / 1024, out


def second(command: list[str], text: str = "", before: list[str] | None = None) -> tuple[float, float, str]:
    """The second of two runs."""
    for _ in range(2):
        if before:
            run(before)
        found = run(command, text)
    return found


def show(name: str, theirs: float, ours: float, goal: float, memory: float) -> None:
    ratio = f"{ours / theirs:5.2f} x (goal {goal} x)"
    print(f"{name:28} ipvsadm {theirs:7.2f} s   ours {ours:7.2f} s   {ratio}   {memory:5.0f} MB")
    sys.stdout.flush()


def main() -> None:
    services = SERVICES // 10 if "--quick" in sys.argv else SERVICES
    text = lines(services)
    clear = [IPVSADM, "-C"]
    subprocess.run(["modprobe", "-a", "ip_vs", "ip_vs_rr"], check=True)
    theirs, _, _ = second([IPVSADM, "-R"], text, clear)
    _, _, saved = run([IPVSADM, "-Sn"])
    ours, memory, _ = second([*OURS, "restore"], text, clear)
    assert run([IPVSADM, "-Sn"])[2] == saved
    show("restore", theirs, ours, 0.5, memory)
    classic, memory, _ = second([*OURS, "ipvsadm", "-R"], text, clear)
    assert run([IPVSADM, "-Sn"])[2] == saved
    show("ipvsadm -R", theirs, classic, 1, memory)
    theirs, _, listed = second([IPVSADM, "-Ln"])
    ours, memory, out = second([*OURS, "ipvsadm", "-Ln"])
    assert out == listed
    show("ipvsadm -Ln", theirs, ours, 2, memory)
    ours, memory, out = second([*OURS, "list"])
    assert out.count("\n") == 2 + services * (1 + SERVERS)
    show("list", theirs, ours, 2, memory)
    ours, memory, out = second([*OURS, "save"])
    assert sorted(out.split("\n")) == sorted(saved.split("\n"))
    show("save (-Ln)", theirs, ours, 2, memory)
    again, memory, _ = second([*OURS, "restore"], text)
    show("restore what is there (-Ln)", theirs, again, 4, memory)
    if "--profile" in sys.argv:
        for words, stdin in ((["ipvsadm", "-Ln"], ""), (["list"], ""), (["restore"], text)):
            if stdin:
                run(clear)
            profile(words, stdin)
    run(clear)


def profile(words: list[str], stdin: str) -> None:
    """Print where a command spends its time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile")
        run([sys.executable, "-m", "cProfile", "-o", str(path), "-m", "ipvsctl", *words], stdin)
        import pstats

        print(f"\n=== {' '.join(words)}")
        pstats.Stats(str(path)).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
