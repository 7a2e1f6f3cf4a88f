"""Every value survives the way to JSON and back; another shape is a UsageError and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.errors import UsageError
from ipvsctl.formats import changes, values
from ipvsctl.model.change import (
    CHANGES,
    AddServer,
    AddService,
    Change,
    DeleteServer,
    DeleteService,
    EditServer,
    EditService,
    LoadModule,
    ReplaceRules,
    SetSysctl,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    ZeroCounters,
)
from ipvsctl.model.status import Info
from tests import strategies as some

words = st.text(min_size=1, max_size=10)
some_chains = st.lists(some.chains, max_size=2).map(tuple)
some_servers = st.lists(some.servers(), max_size=3).map(tuple)

every_change: dict[type, st.SearchStrategy[Change]] = {
    AddService: st.builds(AddService, some.services()),
    EditService: st.builds(EditService, some.services(), some.services()),
    DeleteService: st.builds(DeleteService, some.services(), some_servers),
    AddServer: st.builds(AddServer, some.service_addresses, some.servers()),
    EditServer: st.builds(EditServer, some.service_addresses, some.servers(), some.servers()),
    DeleteServer: st.builds(DeleteServer, some.service_addresses, some.servers()),
    ZeroCounters: st.builds(ZeroCounters, st.none() | some.service_addresses),
    SetTimeouts: st.builds(SetTimeouts, some.timeouts, some.timeouts),
    StartDaemon: st.builds(StartDaemon, some.daemons),
    StopDaemon: st.builds(StopDaemon, some.daemons),
    SetSysctl: st.builds(
        SetSysctl, words, words, st.none() | words, st.lists(st.tuples(words, words), max_size=2).map(tuple)
    ),
    LoadModule: st.builds(LoadModule, words),
    ReplaceRules: st.builds(
        ReplaceRules,
        st.just("iptables-legacy"),
        some.families,
        st.just("raw"),
        some_chains,
        some_chains,
        st.booleans(),
        st.booleans(),
    ),
}


def test_every_kind_of_change_is_tried() -> None:
    assert set(every_change) == set(CHANGES.values())


def through_json(data: object) -> Any:
    return json.loads(json.dumps(data))


@given(st.one_of(*every_change.values()))
def test_changes_survive(change: Change) -> None:
    assert changes.change_from_dict(through_json(changes.change_to_dict(change))) == change


@given(some.statuses)
def test_statuses_survive(status: Any) -> None:
    assert values.status_from_dict(through_json(values.status_to_dict(status))) == status


@given(some.daemons, some.timeouts)
def test_daemons_and_timeouts_survive(daemon: Any, timeouts: Any) -> None:
    assert values.daemon_from_dict(through_json(values.daemon_to_dict(daemon))) == daemon
    assert values.timeouts_from_dict(through_json(values.timeouts_to_dict(timeouts))) == timeouts


def test_info_survives() -> None:
    info = Info("1.2.1", 4096)
    assert values.info_from_dict(through_json(values.info_to_dict(info))) == info


READERS: list[Callable[[Any], object]] = [
    changes.change_from_dict, changes.chain_from_dict, changes.rule_from_dict, values.status_from_dict,
    values.service_from_dict, values.server_from_dict, values.stats_from_dict, values.daemon_from_dict,
    values.timeouts_from_dict, values.info_from_dict, values.conntrack_from_dict,
]  # fmt: skip

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["change", "service", "server", "address", "servers", "stats", "flags", "tunnel", "role", "tcp"]), inner
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(data=junk)
def test_junk_is_a_usage_error(reader: Callable[[Any], object], data: Any) -> None:
    with pytest.raises(UsageError):
        reader(data)


@given(st.sampled_from(sorted(CHANGES)), junk)
def test_a_change_with_junk_inside_is_a_usage_error(kind: str, inner: Any) -> None:
    data = {"change": kind, **(inner if isinstance(inner, dict) else {"service": inner, "module": inner})}
    if kind == "load-module" and isinstance(data.get("module"), str):
        return
    if kind == "zero-counters" and data.get("service", "") is None:
        return
    with pytest.raises(UsageError):
        changes.change_from_dict(data)
