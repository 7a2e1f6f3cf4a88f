"""The one way on which every command changes a host: plan, dry run, lock, journal, run, tell.

A plan is computed with the journal's lock held, so that nobody changes the host between looking and doing. While a plan
runs, a signal that asks to end takes effect between two steps and the plan is undone; in the middle of a step nobody
could say what had been done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ipvsctl.cli.environment import Environment
from ipvsctl.errors import Exit, Refused
from ipvsctl.journal import Journals, Record
from ipvsctl.plan.difference import Plan

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.change import AddServer, AddService, Change, StartDaemon

Build = Callable[["Host"], Plan]
"""Looks at a host and says what to change there."""

_ENDING: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal asked to end. `status` is what a shell reports for it: 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def named(command: str) -> str:
    """A journalled command inside a sentence."""
    kind, _, subject = command.partition(" ")
    return f"apply of {subject}" if kind == "apply" and subject else f"`{command}`"


def cut_off(record: Record) -> str:
    """What to say of a plan whose process died."""
    what = named(record.command)
    return (
        f"{'an ' if what.startswith('apply') else ''}{what} was cut off at step {record.reach} of {record.steps}: "
        "`ipvsctl rollback` restores what was there, `ipvsctl confirm` keeps what is done"
    )


def change(env: Environment, command: str, build: Build, *, apply: bool = False, confirm: float | None = None) -> int:
    """Make the plan that `build` computes, or only print it with --dry-run. Returns the exit status.

    `command` is what the journal and `rollback` call it. With `apply` the plan is one that `rollback` goes back to, a
    failure is always told as the failure of a plan, and `confirm` is the seconds after which it undoes itself.
    Raises what `build` and the host raise, Refused when another plan stands in the way, PlanFailed or UndoFailed.
    """
    env.warns = env.dry_run
    host = env.host
    if env.dry_run:
        show_plan(env, build(host))
        return Exit.DONE
    journals = Journals(host.identity)
    with journals.lock():
        if (record := journals.interrupted()) is not None:
            raise Refused(f"cannot {command}: {cut_off(record)}")
        if apply and (pending := journals.pending()) is not None:
            raise Refused(
                f"cannot {command}: `{pending.get('command')}` waits for `ipvsctl confirm`; confirm it or roll it back"
            )
        plan = build(host)
        if plan.changes:
            _run(env, command, plan.changes, journals, apply=apply, confirm=confirm)
    _tell(env, plan, confirm if plan.changes else None)
    return Exit.DONE


def _run(
    env: Environment,
    command: str,
    changes: Sequence[Change],
    journals: Journals,
    *,
    apply: bool,
    confirm: float | None,
) -> None:
    from ipvsctl.plan.execute import execute

    try:
        with interruptible(env) as echo:
            if confirm is not None:
                from ipvsctl.cli.watcher import start

                record = journals.next_name()
                journals.set_pending(record, command, confirm)
                start(env, journals, record, command, confirm)
            execute(changes, env.host, journals.open(command, apply=apply), echo, whole=apply)
    except BaseException:
        # The plan is undone, or its error tells what is left of it: nothing waits for a confirmation any more.
        if confirm is not None:
            journals.clear_pending()
        raise


def addition(change: AddService | AddServer | StartDaemon, notes: tuple[str, ...] = ()) -> Build:
    """A plan of one addition; the host is asked first whether it is there already."""

    def build(host: Host) -> Plan:
        from ipvsctl.plan.observe import refuse_known

        refuse_known(host, change)
        return Plan((change,), notes)

    return build


@contextmanager
def interruptible(env: Environment) -> Iterator[Callable[[Change], None]]:
    """An echo of changes that raises Ended before the next one when a signal asked to end meanwhile."""
    received: list[int] = []

    def echo(change: Change) -> None:
        if received:
            raise Ended(received[0])
        if env.verbose:
            from ipvsctl.cli.show import sign

            env.error(f"{sign(change)} {change}")

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            # nohup's choice stays.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield echo
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_plan(env: Environment, plan: Plan) -> None:
    """Print a plan: what would be changed."""
    if env.json:
        _json(env, plan)
    elif not env.quiet:
        from ipvsctl.cli.output import print_lines
        from ipvsctl.cli.show import plan_lines

        print_lines(env, plan_lines(plan))


def _tell(env: Environment, plan: Plan, confirm: float | None) -> None:
    """Print what was done."""
    if env.json:
        _json(env, plan, **({} if confirm is None else {"confirm_within": confirm}))
        return
    from ipvsctl.cli.output import count

    if not plan.changes:
        env.say("no changes")
        return
    if not env.quiet:
        for note in plan.notes:
            env.error(f"ipvsctl: note: {note}")
    env.say(f"done: {count(len(plan.changes), 'change')}")
    if confirm is not None:
        env.say(f"applied; undone in {confirm:g}s unless `ipvsctl confirm` comes")


def _json(env: Environment, plan: Plan, **more: Any) -> None:
    from ipvsctl.cli.output import print_json
    from ipvsctl.formats.changes import change_to_dict

    print_json(env, {"changes": [change_to_dict(each) for each in plan.changes], "notes": list(plan.notes), **more})
