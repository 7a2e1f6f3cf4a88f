"""`doctor`: what is wrong with a director, why, and what mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import Command, completed_by
from ipvsctl.errors import Exit, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ipvsctl.cli.output import Line
    from ipvsctl.host import Host
    from ipvsctl.model.facts import Facts
    from ipvsctl.model.finding import Finding
    from ipvsctl.model.snapshot import Snapshot
    from ipvsctl.plan.difference import Plan

FIX = "doctor --fix"
"""What the journal calls it."""

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@click.command(
    "doctor",
    cls=Command,
    example=("ipvsctl doctor", "ipvsctl doctor --fix --dry-run", "ipvsctl doctor --bundle director.tar.gz"),
)
@click.argument("file", metavar="[FILE]", required=False, shell_complete=completed_by("files"))
@click.option("--fix", is_flag=True, help="Mend what can be mended safely: set sysctls, load modules, make own rules.")
@click.option(
    "--bundle", metavar="FILE", shell_complete=completed_by("files"),
    help="Pack evidence, findings and the host's configuration into a new tar.gz for somebody who is to help.",
)  # fmt: skip
@environment
def doctor_command(env: Environment, file: str | None, fix: bool, bundle: str | None) -> int:
    """Find out what is wrong, or will be, and say why and what mends it.

    Looks at services, sysctls, modules, rules, addresses, routes, neighbours, connections and limits, and lets trial
    connections to each service pass through an emulated datapath that is set up as the host is; nothing is sent and
    nothing is changed. A finding has a severity, what it is about, why, the command that mends it, how it stays mended,
    and its source. Of what could not be looked at nothing is said; a note names it. With FILE (a director file or a
    saved state, - is standard input) that is looked at instead of the running host.

    Prints nothing when all is well; infos are shown with -v and -j only. Status 1 when there is an error or a warning,
    4 when there is none but the services could not be looked at. --fix changes what is safe to change as one plan,
    which `rollback` undoes, and shows what is left. A bundle holds no file of the host's; addresses are in it.
    """
    if file is not None and fix:
        raise UsageError("--fix mends the running host: it goes without FILE")
    from ipvsctl.knowledge.checks import examine as find

    if fix:
        _mend(env)
        if env.dry_run:
            return Exit.DONE
    facts, snapshot = _facts(env, file)
    findings = find(facts)
    if bundle is not None:
        from ipvsctl.cli.doctor_bundle import write

        write(env, bundle, facts, findings, snapshot)
    _show(env, facts, findings, natural=file is not None or env.host_name.startswith("emulator"))
    if any(finding.severity != "info" for finding in findings):
        return Exit.REFUSED
    # To find nothing where nothing could be seen is no good news.
    return Exit.UNAVAILABLE if "services" in facts.missing else Exit.DONE


def _facts(env: Environment, file: str | None) -> tuple[Facts, Snapshot | None]:
    """The evidence of the host or of a file, and the file's state."""
    from ipvsctl.plan.examine import examine, facts_of

    if file is None:
        return examine(env.host), None
    from ipvsctl.cli.configured import snapshot_of

    snapshot = snapshot_of(env, file, None)
    return facts_of(snapshot, assumed=any("are assumed" in note for note in snapshot.notes)), snapshot


# -- showing ----------------------------------------------------------------------------------------------------------


def _show(env: Environment, facts: Facts, findings: Sequence[Finding], *, natural: bool) -> None:
    """Print findings; on stderr what was not looked at, unless that lies in the nature of the thing."""
    from ipvsctl.cli.output import print_json, print_lines

    notes = [*facts.notes, *_unchecked(facts)]
    if env.json:
        from ipvsctl.formats.facts import finding_to_dict

        print_json(env, {"findings": [finding_to_dict(each) for each in findings], "notes": notes})
        return
    if env.quiet:
        return
    shown = [finding for finding in findings if env.verbose or finding.severity != "info"]
    lines: list[Line] = []
    for finding in shown:
        lines += _block(finding)
    if shown:
        lines.append([(_summary(shown), "bold")])
    print_lines(env, lines)
    if env.verbose or not natural:
        for note in notes:
            env.error(f"ipvsctl: note: {note}")


def _block(finding: Finding) -> list[Line]:
    from ipvsctl.cli.output import pairs

    style = _STYLES[finding.severity]
    head: Line = [(finding.severity, style), (f": {finding.subject}", "bold"), (f" ({finding.id})", "")]
    rows = (("why", finding.why), ("fix", finding.fix), ("keep", finding.persist), ("source", finding.source))
    return [head, *pairs([(name, value) for name, value in rows if value], indent="    "), [("", "")]]


def _summary(findings: Iterable[Finding]) -> str:
    from ipvsctl.cli.output import count

    words = []
    for severity in _STYLES:
        number = sum(finding.severity == severity for finding in findings)
        if number:
            words.append(count(number, severity))
    return ", ".join(words)


def _unchecked(facts: Facts) -> list[str]:
    """One line for each part of the evidence that is missing."""
    from ipvsctl.cli.output import count
    from ipvsctl.knowledge.checks import unchecked
    from ipvsctl.model.facts import PARTS

    lost = unchecked(facts)
    return [
        f"not looked at: {PARTS.get(part, part)} ({reason}); "
        f"{count(sum(part in check.missing(facts) for check in lost), 'check')} not made"
        for part, reason in sorted(facts.missing.items())
    ]


# -- mending ----------------------------------------------------------------------------------------------------------


def _mend(env: Environment) -> None:
    """Change what is safe to change, as any other plan."""
    from ipvsctl.cli.run import change

    def build(host: Host) -> Plan:
        from ipvsctl.cli.doctor_fix import plan_of
        from ipvsctl.knowledge.checks import examine as find
        from ipvsctl.plan.examine import examine

        return plan_of(host, find(examine(host)))

    if env.json and not env.dry_run:
        # One document: that of what is left.
        env.json = False
        quiet, env.quiet = env.quiet, True
        try:
            change(env, FIX, build)
        finally:
            env.json, env.quiet = True, quiet
        return
    change(env, FIX, build)
