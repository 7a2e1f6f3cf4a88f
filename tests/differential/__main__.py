"""The command: `python -m tests.differential run|generate|shrink`; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ipvsctl.errors import IpvsctlError
from tests.differential import emulated, kernel, show
from tests.differential.compare import Difference
from tests.differential.generate import generate
from tests.differential.judge import judge
from tests.differential.known import unknown
from tests.differential.result import to_json
from tests.differential.scenario import Scenario, read, render
from tests.differential.shrink import shrink, size
from tests.vm import kernels
from tests.vm.errors import LabError


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 when nothing differs, 1 when something does, 2 for wrong usage, 125 when the guest fails."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except IpvsctlError as error:
        print("\n".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 2
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 125


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description="The datapath beside a kernel.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="play scenarios and show what differs")
    run.add_argument("files", nargs="+", type=Path, metavar="FILE", help="scenarios, or folders of them")
    run.add_argument("--kernel", choices=kernels.SUITES, metavar="SUITE", help="compare with this suite's kernel")
    run.add_argument("--json", action="store_true", help="print the results as JSON")
    run.add_argument("--keep", type=Path, metavar="DIR", help="keep what goes into the guest and comes out of it")
    run.set_defaults(command=_run)
    make = commands.add_parser("generate", help="write random scenarios")
    make.add_argument("--seed", type=int, default=1)
    make.add_argument("--count", type=int, default=10)
    make.add_argument("--first", type=int, default=0, help="number of the first")
    make.add_argument("--out", type=Path, required=True, metavar="DIR")
    make.set_defaults(command=_generate)
    small = commands.add_parser("shrink", help="write the smallest variant of a scenario that still differs")
    small.add_argument("file", type=Path)
    small.add_argument("--kernel", choices=kernels.SUITES, metavar="SUITE", default="bookworm")
    small.add_argument("--where", default="", metavar="TEXT", help="only differences whose place begins with it count")
    small.set_defaults(command=_shrink)
    return parser


def files(paths: Iterable[Path]) -> list[Path]:
    """Files, and those of folders."""
    return [file for path in paths for file in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]


def _run(options: argparse.Namespace) -> int:
    scenarios = [read(path) for path in files(options.files)]
    if not options.kernel:
        for scenario in scenarios:
            found = emulated.play(scenario)
            print(json.dumps(to_json(found)) if options.json else "\n".join(show.result(scenario, found)))
        return 0
    played = kernel.play(scenarios, options.kernel, options.keep)
    failed = 0
    for scenario in scenarios:
        theirs = played.get(scenario.name)
        differences = unknown(judge(scenario, theirs))
        failed += bool(differences)
        if options.json:
            ours = emulated.play(scenario, theirs.times if theirs else ())
            print(json.dumps({
                "kernel": theirs and to_json(theirs), "emulated": to_json(ours),
                "differences": list(map(_plain, differences)),
            }))  # fmt: skip
        elif differences:
            print("\n".join(show.differences(scenario, differences)))
    if not options.json:
        packets = sum(scenario.packets for scenario in scenarios)
        print(f"{len(scenarios)} scenarios, {packets} packets: {failed} differ")
    return 1 if failed else 0


def _plain(difference: Difference) -> dict[str, str | None]:
    return {
        "where": difference.where,
        "kernel": show.packet_line(difference.kernel),
        "emulated": show.packet_line(difference.emulated),
        "note": difference.note,
    }


def _generate(options: argparse.Namespace) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    packets = 0
    for number in range(options.first, options.first + options.count):
        scenario = generate(options.seed, number)
        packets += scenario.packets
        (options.out / f"{scenario.name}.toml").write_text(render(scenario))
    print(f"{options.count} scenarios, {packets} packets")
    return 0


def _shrink(options: argparse.Namespace) -> int:
    scenario = read(options.file)

    def differs(variants: Sequence[Scenario]) -> list[bool]:
        played = kernel.play(variants, options.kernel)
        answers = []
        for variant in variants:
            theirs = played.get(variant.name)
            found = judge(variant, theirs) if theirs else []
            # A variant that cannot be set up is no smaller example of what differs.
            answers.append(any(each.where.startswith(options.where) and each.where != "setup" for each in found))
        return answers

    if not differs([scenario])[0]:
        print(f"{scenario.name}: nothing differs", file=sys.stderr)
        return 1
    small = shrink(scenario, differs)
    print(render(small))
    print(f"{size(scenario)} -> {size(small)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
