"""A datapath set up like the host that the options name, or like a file says: what `trace` and `emulate replay` run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.cli.environment import Environment
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.model.snapshot import Snapshot


def snapshot_of(env: Environment, file: str | None, device: str | None) -> Snapshot:
    """The running host's configuration, or that of a director file or a saved state (- is standard input).

    Around a director file a network is assumed, in which clients come in by `device`. Raises FileError, UsageError when
    there is no such device, and what the host raises.
    """
    snapshot = env.host.snapshot() if file is None else _of_file(env, file, device)
    if device is not None and all(each.name != device for each in snapshot.devices):
        names = ", ".join(each.name for each in snapshot.devices)
        raise UsageError(f"there is no device {device}, expected one of {names}")
    return snapshot


def engine_of(snapshot: Snapshot) -> Engine:
    """A datapath that starts from a configuration; the same packets always end in the same way."""
    import random

    from ipvsctl.datapath.engine import Engine

    return Engine(snapshot, random.Random(0).randrange)


def _of_file(env: Environment, file: str, device: str | None) -> Snapshot:
    from ipvsctl.cli.director import read_content
    from ipvsctl.formats import snapshot_file

    name, text = read_content(env, file)
    if snapshot_file.is_snapshot(text):
        return snapshot_file.parse(text, name)
    from ipvsctl.datapath.nf.own import tables_of
    from ipvsctl.formats.director_file import parse
    from ipvsctl.knowledge.assumed import CLIENTS, host_around

    snapshot, chains = host_around(parse(text, name), device or CLIENTS)
    return replace(snapshot, tables=tables_of(chains))
