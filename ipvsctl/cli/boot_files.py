"""Writing and removing files below a root, all of them or none, and never one that is somebody else's.

New files are complete beside their places before the first is moved into place; what was there is kept in memory until
the last one is, and put back when a move fails.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ipvsctl.cli.environment import Environment
from ipvsctl.errors import AlreadyExists, IpvsctlError, NotPermitted, PlanFailed, Refused, UndoFailed, UsageError
from ipvsctl.formats.units import TAG, BootFile
from ipvsctl.knowledge.boot import DIRECTOR, ENABLED, ENABLED_TARGETS, PATHS

NEW, CHANGED, SAME = "new", "changed", "unchanged"


class Root:
    """The directory that the files' paths are below: "/" on the machine itself, else that of an image or a test."""

    def __init__(self, env: Environment, path: str) -> None:
        self.env = env
        self.path = Path(path).absolute()
        if not self.path.is_dir():
            raise UsageError(f"--root {path}: there is no such directory")

    def place(self, path: str) -> Path:
        """Where a file lies; raises Refused when a link leads out of the root."""
        place = self.path / path.lstrip("/")
        if not place.parent.resolve().is_relative_to(self.path.resolve()):
            raise Refused(f"{place.parent} leads out of {self.path} to {place.parent.resolve()}: nothing was changed")
        return place

    def find(self, path: str) -> BootFile | None:
        """The file of ours at a path, or None; raises AlreadyExists for one that is not ours, NotPermitted."""
        place = self.place(path)
        with _told(f"cannot read {place}"):
            try:
                mode = place.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                return None
            if path == ENABLED and stat.S_ISLNK(mode) and (target := str(place.readlink())) in ENABLED_TARGETS:
                return BootFile(path, target=target)
            content = place.read_bytes() if path != ENABLED and stat.S_ISREG(mode) else b""
            if content.partition(b"\n")[0].rstrip(b"\r") != TAG.encode():
                raise AlreadyExists(
                    f"{place} was not made by ipvsctl and is left alone, and so is everything else: "
                    "move it away, and try again"
                )
            return BootFile(path, content.decode(errors="surrogateescape"), stat.S_IMODE(mode))

    def ours(self) -> list[BootFile]:
        """The files of ours that are there. Those of somebody else at our paths are nobody's business."""
        found = []
        for path in PATHS:
            with suppress(AlreadyExists):
                if (file := self.find(path)) is not None:
                    found.append(file)
        return found

    def states(self, files: Sequence[BootFile]) -> list[str]:
        """For each file whether it is new, changed or unchanged; raises as `find` does."""
        states = []
        for file in files:
            found = self.find(file.path)
            same = found is not None and (found == file or bool(file.target))
            states.append(SAME if same else NEW if found is None else CHANGED)
        return states

    def write(self, files: Sequence[BootFile]) -> list[str]:
        """Make the files be there, all or none; returns their states before. Raises as `find`, and as `_replace`."""
        with self._locked():
            states = self.states(files)
            changed = [file for file, state in zip(files, states, strict=True) if state != SAME]
            self._replace([_Step(file.path, file, self.find(file.path)) for file in changed])
        return states

    def remove(self) -> list[BootFile]:
        """Remove every file of ours, all or none; returns what was there. The unit is disabled first."""
        with self._locked():
            found = self.ours()
            self._replace([_Step(file.path, None, file) for file in reversed(found)])
            if found:
                with suppress(OSError):
                    self.place(DIRECTOR).parent.rmdir()
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One ipvsctl at a time; who cannot lock cannot write either, and is told there."""
        with _told(f"cannot write below {self.path}"):
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _replace(self, steps: Sequence[_Step]) -> None:
        """Make every step or none. Raises NotPermitted, Refused, PlanFailed when all was undone, else UndoFailed."""
        made: list[Path] = []
        fresh: list[Path] = []
        done: list[_Step] = []
        try:
            for step in steps:
                if step.after is not None:
                    place = self.place(step.path)
                    with _told(f"cannot write {place}"):
                        made += _directories(place.parent)
                        fresh.append(_beside(place))
                        _put(fresh[-1], step.after)
            for step in steps:
                place = self.place(step.path)
                verb = "remove" if step.after is None else "write"
                if self.env.verbose:
                    self.env.error(f"{'-' if step.after is None else '+'} {verb} {place}")
                with _told(f"cannot {verb} {place}"):
                    if step.after is None:
                        place.unlink()
                    else:
                        _beside(place).rename(place)
                    done.append(step)
                    _sync(place.parent)
        except BaseException as failure:
            for path in fresh:
                path.unlink(missing_ok=True)
            left = [text for step in reversed(done) if (text := self._undo(step))]
            for folder in reversed(made):
                with suppress(OSError):
                    folder.rmdir()
            if left:
                raise UndoFailed(f"{failure}; left as it is: {', '.join(left)}") from failure
            if done and isinstance(failure, IpvsctlError):
                raise PlanFailed(f"{failure}; every other file is as it was") from failure
            raise

    def _undo(self, step: _Step) -> str:
        """Bring back what was there; what could not be brought back, or ""."""
        place = self.place(step.path)
        try:
            if step.before is None:
                place.unlink()
            else:
                _put(_beside(place), step.before)
                _beside(place).rename(place)
        except OSError:
            return str(place)
        return ""


@dataclass(frozen=True, slots=True)
class _Step:
    """One file to replace: what there shall be, and what there is; None is no file."""

    path: str
    after: BootFile | None
    before: BootFile | None


def _beside(place: Path) -> Path:
    """Where a file is written before it is moved into place; nothing reads a name like that."""
    return place.with_name(f".{place.name}.ipvsctl-new")


def _put(path: Path, file: BootFile) -> None:
    """Write a file or a link that is not there yet, with its mode whatever the umask is."""
    path.unlink(missing_ok=True)
    if file.target:
        path.symlink_to(file.target)
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(file.content.encode(errors="surrogateescape"))
        os.fchmod(handle, file.mode)
        stream.flush()
        os.fsync(handle)


def _directories(folder: Path) -> list[Path]:
    """Make a directory and those above it; returns the new ones, outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o755)
    return missing[::-1]


def _sync(folder: Path) -> None:
    """Have a directory's entries survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """The system's error as ours, with what was tried."""
    try:
        yield
    except PermissionError as error:
        raise NotPermitted(f"{what}: {error.strerror}: run as root, or give --root a directory of yours") from None
    except OSError as error:
        raise Refused(f"{what}: {error.strerror}") from None
