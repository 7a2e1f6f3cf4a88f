"""The lab's command line: `python -m tests.vm [OPTIONS] -- COMMAND`, which exits as the command did in the guest."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.vm import guest, kernels
from tests.vm.errors import LabError

LAB_FAILED = 125  # As env, timeout and docker do: the wrapper failed, not the command.


def main(arguments: Sequence[str]) -> int:
    """Fetch a kernel, or boot one and run a command in it."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.command or options.fetch):
        parser.error("no COMMAND to run")
    signal.signal(signal.SIGTERM, _end)
    try:
        start = time.monotonic()
        kernel = kernels.fetch(kernels.SUITES[options.fetch or options.suite], kernels.cache_folder())
        if options.fetch:
            print(f"{options.fetch}: Linux {kernel.release}, {kernel.image}")
            return 0
        job = guest.Job(options.command, Path.cwd(), dict(options.env), options.timeout, options.share)
        status = guest.run(kernel, job, _show)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return LAB_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # Nobody reads the output any more, as after `| head`.
        sys.stderr.close()  # Keeps the interpreter from telling the same at its end.
        return 128 + signal.SIGPIPE
    if options.verbose:
        print(f"lab: Linux {kernel.release}, status {status}, {time.monotonic() - start:.1f} s", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="Run a command on a real IPVS kernel.")
    parser.add_argument("--suite", default="bookworm", choices=kernels.SUITES, help="whose kernel (default: bookworm)")
    parser.add_argument("--timeout", type=float, default=900, metavar="S", help="seconds until the guest is stopped")
    parser.add_argument("--env", type=_pair, action="append", default=[], metavar="K=V", help="set it for the command")
    parser.add_argument("--share", type=Path, metavar="DIR", help="a folder that the guest can write, there as /share")
    parser.add_argument("--verbose", action="store_true", help="say at the end which kernel ran and for how long")
    parser.add_argument("--fetch", choices=kernels.SUITES, help="only bring this suite's kernel into the cache")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="what to run in this folder")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _end(number: int, frame: FrameType | None) -> None:
    """Leave through the clean-up, as Ctrl-C does."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
