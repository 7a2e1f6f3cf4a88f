"""Running a plan on a host: checked before, recorded while it runs, undone when a step fails.

The record comes first: what undoes a change is in the journal before the change is made, so that a process killed at
any instruction leaves a journal from which `rollback` restores. A change that the journal says may have been made, but
was not, is undone all the same: every undo accepts that there is nothing left to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from ipvsctl.errors import (
    AlreadyExists,
    IpvsctlError,
    NotFound,
    NotTried,
    PlanFailed,
    Refused,
    Unavailable,
    UndoFailed,
)
from ipvsctl.host import BatchError, Host
from ipvsctl.model.change import (
    IPVS_CHANGES,
    AddServer,
    AddService,
    Change,
    EditServer,
    EditService,
    LoadModule,
    ReplaceRules,
    SetSysctl,
    StartDaemon,
)
from ipvsctl.plan.observe import present

Undo = tuple[int, Change]
"""A change that undoes, with the index of the step it belongs to."""

Echo = Callable[[Change], None]


class Journal(Protocol):
    """Where a running plan is recorded. Calls return when the record would survive the death of this process."""

    def begin(self, steps: int, undo: Sequence[Undo]) -> None:
        """A plan of so many steps starts; `undo` is what brings back what was there, as far as it is known now."""

    def reach(self, step: int) -> None:
        """From now on every step before `step` may have been made."""

    def add(self, undo: Sequence[Undo]) -> None:
        """What undoes a step turned out only now."""

    def finish(self) -> None:
        """The plan is complete."""

    def drop(self) -> None:
        """Nothing of the plan is left on the host."""


def inverses(changes: Sequence[Change], start: int = 0) -> list[Undo]:
    """What undoes a run of changes, in the order to undo them.

    Servers of a service that the same run adds need no undoing of their own: they go with their service.
    """
    added = {change.service.address for change in changes if type(change) is AddService}
    undo: list[Undo] = []
    for index in range(len(changes) - 1, -1, -1):
        change = changes[index]
        if type(change) is AddServer and change.service in added:
            continue
        undo += [(start + index, inverse) for inverse in change.inverse()]
    return undo


def check(changes: Iterable[Change], host: Host) -> None:
    """Ask the host whether it could make the changes at all; raises Unavailable or NotPermitted, nothing changed."""
    ipvs = False
    loads = set()
    for change in changes:
        if type(change) is SetSysctl:
            host.sysctl.check_writable(change.name)
        elif type(change) is LoadModule:
            loads.add(change.module)
            present(host, change.module)
        elif type(change) is ReplaceRules:
            host.firewall.backend(change.backend)
        else:
            ipvs = True
    if ipvs and not any(name.startswith("ip_vs") for name in loads):
        host.ipvs.info()


def execute(
    changes: Sequence[Change], host: Host, journal: Journal, echo: Echo | None = None, *, whole: bool = True
) -> None:
    """Make the changes on the host, or none of them.

    Raises PlanFailed (everything undone) or UndoFailed (what is left is in the text). With `whole` False a plan that
    fails before anything was changed raises the host's own error: a single command then keeps its own exit status.
    """
    check(changes, host)
    journal.begin(len(changes), inverses(changes))
    done: list[tuple[int, Change]] = []
    at = 0
    try:
        while at < len(changes):
            end = _batch_end(changes, at)
            batch = list(changes[at:end])
            if echo:
                for change in batch:
                    echo(change)
            if type(batch[0]) is SetSysctl and batch[0].before is None:
                batch[0] = _observe(batch[0], host)
                journal.add([(at, inverse) for inverse in batch[0].inverse()])
            journal.reach(end)
            try:
                run(batch, host)
            except BatchError as failure:
                done += [(at + i, c) for i, (c, e) in enumerate(zip(batch, failure.outcome, strict=True)) if e is None]
                at += next(i for i, error in enumerate(failure.outcome) if error is not None)
                raise
            except (Exception, KeyboardInterrupt) as failure:
                # Told of the whole batch, as when the kernel stops answering: any of it may have been made.
                unsure = isinstance(failure, Refused) and isinstance(batch[0], IPVS_CHANGES)
                if unsure or not isinstance(failure, IpvsctlError):
                    done += [(at + i, change) for i, change in enumerate(batch)]
                raise
            done += [(at + i, change) for i, change in enumerate(batch)]
            at = end
    except (Exception, KeyboardInterrupt) as failure:
        # Whatever it is, a full disk under the journal or a fault of ours: nothing half-done is left behind.
        _undo_failed(changes, at, done, host, journal, failure, whole=whole)
    journal.finish()


def run(changes: Sequence[Change], host: Host) -> None:
    """Make changes that go to one port together; raises the host's error, or BatchError for IPVS changes."""
    first = changes[0]
    match first:
        case SetSysctl(name, value):
            host.sysctl.set(name, value)
        case LoadModule(module):
            host.modules.load(module)
        case ReplaceRules():
            host.firewall.replace(first)
        case _:
            host.ipvs.apply(changes)  # type: ignore[arg-type]


def undo(entries: Sequence[Undo], host: Host, echo: Echo | None = None) -> list[str]:
    """Run undo entries in order; returns a line for each that failed. What is not there any more is not a failure."""
    changes = [change for _, change in entries]
    left: list[str] = []
    at = 0
    while at < len(changes):
        end = _batch_end(changes, at)
        batch = changes[at:end]
        if echo:
            for change in batch:
                echo(change)
        at = end
        left += _run_undo(batch, host)
    return left


def _run_undo(batch: Sequence[Change], host: Host) -> list[str]:
    """Undo one batch: a refused item does not keep the others from being undone."""
    left: list[str] = []
    while batch:
        try:
            run(batch, host)
            break
        except BatchError as failure:
            pairs = list(zip(batch, failure.outcome, strict=True))
            left += [
                str(error)
                for change, error in pairs
                if error is not None and not isinstance(error, NotTried) and not _gone(change, error)
            ]
            # Back already, but by somebody else and perhaps differently: then set to what it was.
            again = [_setting(change) for change, error in pairs if isinstance(error, AlreadyExists)]
            rest = [change for change, error in pairs if isinstance(error, NotTried)]
            batch = [*rest, *(change for change in again if change is not None)]
        except IpvsctlError as error:
            if not _gone(batch[0], error):
                left.append(str(error))
                _unhook(batch[0], host)
            break
    return left


def _unhook(change: Change, host: Host) -> None:
    """Where rules cannot be removed, as when a rule that is not ours jumps to them: have them decide nothing."""
    if isinstance(change, ReplaceRules) and not change.after:
        empty = tuple(replace(chain, rules=(), jump=False) for chain in change.before)
        with suppress(IpvsctlError):
            host.firewall.replace(replace(change, after=empty, drops=False))


def _setting(change: Change) -> Change | None:
    """The edit that sets an object which is there to what an addition would have made it."""
    match change:
        case AddService(service):
            return EditService(service, service)
        case AddServer(address, server):
            return EditServer(address, server, server)
    return None


def _gone(change: Change, error: IpvsctlError) -> bool:
    """The undo found its work done: nothing there to delete or to set back, or back already."""
    if isinstance(error, NotFound):
        return not isinstance(change, AddService | AddServer | StartDaemon)
    return isinstance(error, AlreadyExists) and isinstance(change, AddService | AddServer | StartDaemon)


def _undo_failed(
    changes: Sequence[Change],
    at: int,
    done: Sequence[tuple[int, Change]],
    host: Host,
    journal: Journal,
    failure: BaseException,
    *,
    whole: bool,
) -> None:
    """Undo after a failed step, and raise the error that tells how that went."""
    entries = inverses([change for _, change in done])
    cause = failure
    if isinstance(failure, BatchError):
        cause = next(error for error in failure.outcome if error is not None)
    step = f"step {at + 1} of {len(changes)} failed: {cause}"
    if isinstance(failure, KeyboardInterrupt):
        step = f"interrupted at step {at + 1} of {len(changes)}"
    left = undo(entries, host)
    if left:
        raise UndoFailed(f"{step}; the undo failed too, left as it is: {'; '.join(left)}") from cause
    journal.drop()
    if isinstance(failure, KeyboardInterrupt):
        raise failure
    changed = any(type(change) is not LoadModule for _, change in done)
    if not changed and (not whole or isinstance(cause, Unavailable)):
        raise cause
    loaded = [change.module for _, change in done if type(change) is LoadModule]
    kept = f" (modules stay loaded: {', '.join(loaded)})" if loaded else ""
    raise PlanFailed(f"{step}; everything before it was undone{kept}") from cause


def _observe(change: SetSysctl, host: Host) -> SetSysctl:
    """The change with what the sysctl is now that its module is loaded."""
    before = host.sysctl.get(change.name)
    if before is None:
        raise Refused(f"cannot {change}: there is no such sysctl on {host.name}")
    return replace(change, before=before)


def _batch_end(changes: Sequence[Change], at: int) -> int:
    """End of the run of changes from `at` that go to the host together: IPVS changes in a row, else one."""
    end = at + 1
    if isinstance(changes[at], IPVS_CHANGES):
        while end < len(changes) and isinstance(changes[end], IPVS_CHANGES):
            end += 1
    return end
