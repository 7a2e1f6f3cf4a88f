"""`rollback` and `confirm`: two answers to "and now?" after an apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import Command
from ipvsctl.errors import NotFound, Refused, UndoFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipvsctl.host import Host
    from ipvsctl.journal import Journals, Record
    from ipvsctl.plan.execute import Echo


@click.command("rollback", cls=Command, example=("ipvsctl rollback --dry-run", "ipvsctl rollback"))
@click.option("--last", is_flag=True, help="Undo only the newest change, whatever command made it.")
@environment
def rollback_command(env: Environment, last: bool) -> None:
    """Undo the last apply and what was changed after it.

    A plan that was cut off is undone first, and alone. Without an apply the newest change is undone. What waits for
    `ipvsctl confirm` is undone now. Counters that were zeroed and modules that were loaded stay so.
    """
    from ipvsctl.cli.run import interruptible
    from ipvsctl.journal import Journals

    env.warns = False
    host = env.host
    journals = Journals(host.identity)
    if env.dry_run:
        _show(env, journals.to_roll_back(last=last))
        return
    with journals.lock():
        records = journals.to_roll_back(last=last)
        pending = journals.pending()
        asked = pending.get("record") if pending is not None else None
        if asked is not None and not any(record.path.stem == asked for record in journals.history()):
            asked = "running"  # The apply itself was cut off.
        with interruptible(env) as echo:
            undo_records(records, host, journals, echo)
        # Only now: when the undo is interrupted or fails, the timer tries it again.
        if any(record.path.stem == asked for record in records):
            journals.clear_pending()
    if env.json:
        from ipvsctl.cli.output import print_json

        print_json(env, {"undone": [{"command": each.command, "changes": _size(each)} for each in records]})
        return
    for record in records:
        env.say(f"undone: {record_text(record)}")


@click.command("confirm", cls=Command, example="ipvsctl confirm")
@environment
def confirm_command(env: Environment) -> None:
    """Keep what an unconfirmed or cut-off apply has done.

    What a plan that was cut off has done so far is kept too, and other changes can be made again.
    """
    from ipvsctl.journal import Journals

    env.warns = False
    journals = Journals(env.host.identity)
    with journals.lock():
        kept = []
        pending, record = journals.pending(), None
        try:
            record = journals.interrupted()
        except Refused:
            kept.append("a plan that was cut off, whose journal cannot be read")
        if pending is None and record is None and not kept:
            raise NotFound("nothing waits for confirmation")
        if record is not None:
            kept.append(f"{record.command} (cut off at step {record.reach} of {record.steps})")
        if pending is not None and (record is None or record.command != pending.get("command")):
            kept.append(str(pending.get("command")))
        if not env.dry_run:
            journals.clear_pending()
            journals.forget_cut_off()
    if env.json:
        from ipvsctl.cli.output import print_json

        print_json(env, {"confirmed": kept})
        return
    for command in kept:
        env.say(f"{'would confirm' if env.dry_run else 'confirmed'}: {command}")


def undo_records(records: Sequence[Record], host: Host, journals: Journals, echo: Echo | None = None) -> None:
    """Undo records in order, forgetting each that is undone.

    Raises UndoFailed that names what is left; the record it belongs to is kept, and so are those behind it.
    """
    from ipvsctl.plan.execute import undo

    for record in records:
        left = undo(record.undo, host, echo)
        if left:
            raise UndoFailed(f"cannot undo {record.command} wholly, left as it is: {'; '.join(left)}")
        journals.forget(record)


def record_text(record: Record) -> str:
    """What a record was, and how much of it there was to undo."""
    from ipvsctl.cli.output import count

    return f"{record.command} ({count(_size(record), 'change')})"


def _size(record: Record) -> int:
    """Changes that the plan has made, or may have made if it was cut off."""
    return record.reach if record.path.stem == "running" else record.steps


def _show(env: Environment, records: Sequence[Record]) -> None:
    from ipvsctl.cli.run import show_plan
    from ipvsctl.plan.difference import Plan

    changes = tuple(change for record in records for _, change in record.undo)
    show_plan(env, Plan(changes, tuple(f"undoes {record_text(record)}" for record in records)))
