"""A process in a network namespace of its own that runs command lines: of the C program, or of ours in this process.

Started as `python -m tests.guest.ipvsadm_worker NAMESPACE`. Requests and answers are lines of JSON; an answer has what
the command line came to, and on request what the table looks like afterwards.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.ipvsadm_start import run as run_classic
from ipvsctl.kernel.namespace import enter
from tests.guest.lab import must

PROGRAMS = {name: f"/usr/sbin/{name}" for name in ("ipvsadm", "ipvsadm-save", "ipvsadm-restore")}
SETTING = (
    "link set lo up", "link add d0 type dummy", "address add 10.0.0.1/24 dev d0", "address add 10.9.9.9/32 dev d0",
    "-6 address add 2001:db8::9/128 dev d0 nodad", "link set d0 up", "route add 192.168.0.0/16 dev d0",
    "-6 route add 2001:db8::/32 dev d0",
)  # fmt: skip
"""What the namespaces have beside IPVS, in words of `ip`."""

Answer = tuple[int, str, str]


def run_ours(name: str, words: list[str], stdin: str) -> Answer:
    """The classic command in this process."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", newline="")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", newline="")
    env = Environment(stdin=io.StringIO(stdin), stdout=out, stderr=err)
    try:
        status = run_classic(env, name, words)
    finally:
        env.close()
    return status, _text(out), _text(err)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "surrogateescape")


def run_theirs(name: str, words: list[str], stdin: str) -> Answer:
    """The C program."""
    done = subprocess.run(
        [PROGRAMS[name], *words], executable=PROGRAMS[name], input=stdin.encode("utf-8", "surrogateescape"),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    # A shell says 139 of what ended by signal 11.
    return (done.returncode if done.returncode >= 0 else 128 - done.returncode), out, err


def table() -> tuple[str, str]:
    """`ipvsadm -Sn` and /proc/net/ip_vs; the latter's services in the order of their text."""
    saved = run_theirs("ipvsadm", ["-Sn"], "")[1]
    lines = Path("/proc/thread-self/net/ip_vs").read_text().split("\n")
    services: list[list[str]] = []
    for line in lines[3:]:
        if line.startswith("  ->"):
            services[-1].append(line)
        elif line:
            services.append([line])
    return saved, "\n".join(["\n".join(service) for service in sorted(services)])


def serve() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        run = run_ours if request["ours"] else run_theirs
        answer: dict[str, Any] = {"answer": run(request["name"], request["words"], request["stdin"])}
        if request["table"]:
            answer["table"] = table()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Worker:
    """The process, from outside."""

    def __init__(self, namespace: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.guest.ipvsadm_worker", namespace], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def send(
        self, words: list[str], *, ours: bool, name: str = "ipvsadm", stdin: str = "", table: bool = False
    ) -> None:
        assert self._process.stdin
        request = {"ours": ours, "name": name, "words": words, "stdin": stdin, "table": table}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the worker has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def __call__(self, words: list[str], **settings: Any) -> Answer:
        self.send(words, **settings)
        status, out, err = self.answer()["answer"]
        return status, out, err

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


@contextmanager
def workers(*names: str) -> Iterator[list[Worker]]:
    """Workers in namespaces made for them."""
    made: list[Worker] = []
    must("modprobe", "ip_vs")
    for scheduler in ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"):
        # On demand they would be loaded by one namespace while another ends.
        subprocess.run(["modprobe", "-q", f"ip_vs_{scheduler}"], check=False)
    try:
        for name in names:
            must("ip", "netns", "add", name)
            for words in SETTING:
                must("ip", "-n", name, *words.split())
            made.append(Worker(name))
        yield made
    finally:
        for worker in made:
            worker.close()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


if __name__ == "__main__":
    enter(sys.argv[1])
    os.environ.pop("POSIXLY_CORRECT", None)
    serve()
