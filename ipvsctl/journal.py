"""Journals: what undoes the plans that were run on a host, on disk before they run.

    RUNTIME/journal/IDENTITY/lock        held while a plan runs; released by the kernel when the process dies
                            /running     the plan that runs now; without the lock held: one that was cut off
                            /0007.undo   finished plans, oldest first
                            /pending     an apply that waits for its confirmation
                            /notice      what a timer did while nobody looked; shown by the next command

A record is lines of JSON: a head, the undo entries known at the start, then progress. It lives in memory (tmpfs) like
the state it describes: after a boot both are gone. IDENTITY names one instance of a host, so that no journal is ever
played onto a namespace or an emulator that merely got the same name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipvsctl.errors import NotFound, Refused, UsageError
from ipvsctl.plan.execute import Undo
from ipvsctl.runtime import runtime_directory

KEPT = 20
"""Finished records kept for rollback."""

LOCK_WAIT = 10.0
"""Seconds to wait for another ipvsctl that changes the same host."""


@dataclass(frozen=True, slots=True)
class Record:
    """A journal read back. `reach`: steps before it may have been made. `undo` is in the order to run it."""

    path: Path
    command: str
    apply: bool
    steps: int
    reach: int
    undo: tuple[Undo, ...]


class Journals:
    """The journals of one host instance."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._held = False

    @property
    def _directory(self) -> Path:
        return runtime_directory() / "journal" / self.identity

    def _make(self) -> Path:
        (runtime_directory() / "journal").mkdir(mode=0o700, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        return self._directory

    @contextlib.contextmanager
    def lock(self, wait: float = LOCK_WAIT) -> Iterator[None]:
        """Hold the right to change the host; raises Refused when another process has it for `wait` seconds."""
        handle = os.open(self._make() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + wait
            while not _try_lock(handle):
                if time.monotonic() >= deadline:
                    raise Refused("another ipvsctl is changing this host: wait until it is done, and try again")
                time.sleep(0.05)
            self._held = True
            yield
        finally:
            self._held = False
            os.close(handle)

    def interrupted(self) -> Record | None:
        """The record of a plan whose process died in the middle, or None."""
        path = self._directory / "running"
        if self._held:
            return _read(path) if path.exists() else None
        try:
            handle = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return None  # No plan was ever run here.
        try:
            # Read with the lock held: a plan that ends, or begins, this moment is none that was cut off.
            return _read(path) if _try_lock(handle) and path.exists() else None
        finally:
            os.close(handle)

    def history(self) -> list[Record]:
        """Finished plans, newest first."""
        return [_read(path) for path in reversed(_finished(self._directory))]

    def to_roll_back(self, *, last: bool = False) -> list[Record]:
        """The records to undo, in order: a cut-off plan alone, else those back to the last apply, or just the newest.

        Raises NotFound when there is none.
        """
        if (cut := self.interrupted()) is not None:
            return [cut]
        paths = list(reversed(_finished(self._directory)))
        if not paths:
            raise NotFound("nothing to roll back: no plan was run on this host since it came up")
        apply = 0 if last else next((i for i, path in enumerate(paths) if _is_apply(path)), 0)
        return [_read(path) for path in paths[: apply + 1]]

    def since(self, name: str) -> list[Record]:
        """The records to undo so that the plan of a record name and all after it are gone; a cut-off one first."""
        cut = self.interrupted()
        return ([cut] if cut else []) + [record for record in self.history() if int(record.path.stem) >= int(name)]

    def open(self, command: str, *, apply: bool = False) -> FileJournal:
        """A journal for a plan that is about to run; call with the lock held."""
        return FileJournal(self._make(), command, apply=apply)

    def next_name(self) -> str:
        """The name that the next finished record will have."""
        return f"{_last_number(self._directory) + 1:04d}"

    def forget_cut_off(self) -> None:
        """Remove the record of a cut-off plan, whatever is in it: what is there is accepted."""
        (self._directory / "running").unlink(missing_ok=True)

    def forget(self, record: Record) -> None:
        """Remove a record that has been undone or accepted."""
        record.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove every journal of this host instance: it is gone."""
        import shutil

        shutil.rmtree(self._directory, ignore_errors=True)

    # -- confirmation -------------------------------------------------------------------------------------------------

    @property
    def pending_path(self) -> Path:
        """The file that asks for a confirmation."""
        return self._directory / "pending"

    def pending(self) -> dict[str, Any] | None:
        """The apply that waits for confirmation: its record name, command and seconds; None when none does."""
        try:
            data = json.loads(self.pending_path.read_text())
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def set_pending(self, record: str, command: str, seconds: float) -> None:
        """Ask for a confirmation of the plan that will have a record name."""
        _write(self._make() / "pending", json.dumps({"record": record, "command": command, "seconds": seconds}))

    def clear_pending(self) -> None:
        self.pending_path.unlink(missing_ok=True)

    def notify(self, text: str) -> None:
        """Leave a line for the next command to show."""
        _write(self._make() / "notice", text)

    def take_notice(self) -> str | None:
        """The line that was left, once."""
        path = self._directory / "notice"
        try:
            text = path.read_text()
            path.unlink()
        except OSError:
            return None
        return text


class FileJournal:
    """The record of one running plan; see plan.execute.Journal."""

    def __init__(self, directory: Path, command: str, *, apply: bool) -> None:
        self._directory = directory
        self._head = {"command": command, "apply": apply}
        self._handle = -1

    def begin(self, steps: int, undo: Sequence[Undo]) -> None:
        from ipvsctl.formats.changes import change_to_dict

        lines = [json.dumps({**self._head, "steps": steps})]
        lines += [json.dumps([index, change_to_dict(change)]) for index, change in undo]
        running = self._directory / "running"
        _write(running, "\n".join(lines) + "\n")
        self._handle = os.open(running, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def reach(self, step: int) -> None:
        self._append(step)

    def add(self, undo: Sequence[Undo]) -> None:
        from ipvsctl.formats.changes import change_to_dict

        for index, change in undo:
            self._append([index, change_to_dict(change)])

    def finish(self) -> None:
        self._close()
        number = _last_number(self._directory) + 1
        (self._directory / "running").rename(self._directory / f"{number:04d}.undo")
        done = _finished(self._directory)
        # `rollback` and the timer of --confirm go back to the last apply: nothing from there on may be lost.
        last = next((i for i in range(len(done) - 1, -1, -1) if _is_apply(done[i])), len(done))
        for old in done[: min(last, max(0, len(done) - KEPT))]:
            old.unlink(missing_ok=True)

    def drop(self) -> None:
        self._close()
        (self._directory / "running").unlink(missing_ok=True)

    def _append(self, value: Any) -> None:
        os.write(self._handle, (json.dumps(value) + "\n").encode())

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _read(path: Path) -> Record:
    """Read a record; raises Refused for one that cannot be understood, as after a change of version."""
    try:
        return _parse(path)
    except (ValueError, LookupError, TypeError, UsageError) as error:
        raise Refused(
            f"cannot read the journal {path}: {error}: `ipvsctl confirm` or removing it goes on without this undo"
        ) from None


def _parse(path: Path) -> Record:
    """A last line cut in the middle by the death of its writer is left out: its step had not begun."""
    from ipvsctl.formats.changes import change_from_dict

    lines = path.read_text().split("\n")
    head = json.loads(lines[0])
    reach = 0
    undo: list[Undo] = []
    for line in lines[1:-1]:
        item = json.loads(line)
        if isinstance(item, int):
            reach = item
        else:
            undo.append((item[0], change_from_dict(item[1])))
    # Entries of one step stay in their order (sorted is stable); those that turned out while the plan ran come last in
    # the file and find their place by their step.
    entries = sorted(undo, key=lambda entry: -entry[0])
    return Record(
        path,
        head["command"],
        head["apply"],
        head["steps"],
        reach,
        tuple(entry for entry in entries if entry[0] < reach),
    )


def _finished(directory: Path) -> list[Path]:
    """Finished records, oldest first."""
    return sorted(directory.glob("[0-9]*.undo"), key=lambda path: int(path.stem))


def _is_apply(path: Path) -> bool:
    """Whether a record is of an apply; one that cannot be read is of none."""
    try:
        with path.open() as file:
            return bool(json.loads(file.readline())["apply"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _last_number(directory: Path) -> int:
    return max((int(path.stem) for path in directory.glob("[0-9]*.undo")), default=0)


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old text or the new."""
    new = path.with_name(path.name + ".new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    new.rename(path)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
