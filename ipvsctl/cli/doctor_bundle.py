"""What `doctor --bundle` packs: evidence, findings, the host's state, listings; never a file of the host's."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipvsctl import __version__
from ipvsctl.errors import AlreadyExists, IpvsctlError, Refused
from ipvsctl.formats.facts import facts_to_dict, finding_to_dict

if TYPE_CHECKING:
    from ipvsctl.cli.environment import Environment
    from ipvsctl.model.facts import Facts
    from ipvsctl.model.finding import Finding
    from ipvsctl.model.snapshot import Snapshot

_README = """What is here, made by ipvsctl {version} on Linux {release} ({host}):
facts.json      the evidence that doctor looked at; what could not be read is named under "missing"
findings.json   what doctor found
state.toml      devices, routes, rules, sysctls, services: for `ipvsctl trace --file state.toml`
services.json   services and servers with their counters
rules.json      the chains that are ipvsctl's own
Addresses, rules with their comments, and names of devices are in it, as they are on the host. No file of the host's
is, and of connections only counts and the first few clients of each server and state.
"""


def write(env: Environment, path: str, facts: Facts, findings: Sequence[Finding], snapshot: Snapshot | None) -> None:
    """Make the archive, readable by its owner only; raises AlreadyExists or Refused."""
    what = f"cannot write the bundle {path}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{what}: it is there already, and is not overwritten: name another file") from None
    except OSError as error:
        raise Refused(f"{what}: {error.strerror}") from None
    try:
        with (
            os.fdopen(descriptor, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file) as packed,
            tarfile.open(mode="w", fileobj=packed) as archive,
        ):
            for name, text in _contents(env, facts, findings, snapshot):
                data = text.encode()
                info = tarfile.TarInfo(f"ipvsctl-doctor/{name}")
                info.size, info.mode, info.mtime = len(data), 0o600, int(time.time())
                archive.addfile(info, io.BytesIO(data))
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise Refused(f"{what}: {error.strerror}") from None
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    if not env.json:
        env.say(f"wrote {path}: addresses are in it, see its README")


def _contents(
    env: Environment, facts: Facts, findings: Sequence[Finding], snapshot: Snapshot | None
) -> Iterator[tuple[str, str]]:
    from ipvsctl.formats.snapshot_file import render
    from ipvsctl.formats.values import status_to_dict

    yield "README", _README.format(version=__version__, release=facts.release or "(a file)", host=env.host_name)
    yield "facts.json", _json(facts_to_dict(facts))
    yield "findings.json", _json({"findings": [finding_to_dict(each) for each in findings]})
    yield "state.toml", _try(lambda: render(env.host.snapshot() if snapshot is None else snapshot))
    yield "services.json", _json([status_to_dict(status) for status in facts.services])
    from ipvsctl.formats.changes import chain_to_dict

    yield "rules.json", _json([chain_to_dict(chain) for chain in facts.own])


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def _try(render: Callable[[], str]) -> str:
    """A text, or why there is none."""
    try:
        return render()
    except IpvsctlError as error:
        return f"# {error}\n"
