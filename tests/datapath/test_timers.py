"""Timers: everyone is called once, after his time and not before it, however his time was moved meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvsctl.datapath import timers as module
from ipvsctl.datapath.timers import BUDGET, CALL, CROWD, FARTHEST, SHARE, SLOTS, Timers


class Owner:
    """Somebody with a timer, who notes when he was called."""

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.slot = 0
        self.called: list[float] = []

    def on_timer(self, now: float) -> None:
        assert self.slot == 0
        self.called.append(now)


def drain(timers: Timers, now: float) -> None:
    while timers.poll(now):
        assert timers.due <= now


def watched(*times: float) -> tuple[Timers, list[Owner]]:
    timers = Timers()
    owners = [Owner(at) for at in times]
    for owner in owners:
        timers.watch(owner)
    return timers, owners


# -- one owner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires", "due"), [(10.0, 10.25), (10.1, 10.25), (10.24, 10.25), (10.25, 10.5), (0.0, 0.25), (-0.2, 0.0)]
)
def test_a_timer_is_late_by_a_quarter_of_a_second_at_most(expires: float, due: float) -> None:
    timers, (owner,) = watched(expires)
    assert timers.poll_at() == timers.due == due
    assert not timers.poll(due - 0.001) and not owner.called
    assert not timers.poll(due) and owner.called == [due]
    assert timers.poll_at() is None and timers.due == float("inf")


def test_nothing_to_do() -> None:
    timers = Timers()
    assert timers.poll_at() is None and not timers.poll(1e9)


def test_moved_later_without_a_word() -> None:
    timers, (owner,) = watched(10.0)
    owner.expires, slot = 20.0, owner.slot
    timers.watch(owner)  # Early enough already: nothing happens.
    assert timers.poll_at() == 10.25 and owner.slot == slot
    timers.poll(11.0)
    assert not owner.called and timers.poll_at() == 20.25
    timers.poll(20.25)
    assert owner.called == [20.25]


def test_moved_to_the_moment_of_the_poll() -> None:
    timers, (owner,) = watched(10.0)
    owner.expires = 11.0
    timers.poll(11.0)
    assert owner.called == [11.0]


def test_moved_earlier() -> None:
    timers, (owner,) = watched(20.0)
    owner.expires = 5.0
    timers.watch(owner)
    assert timers.poll_at() == 5.25
    timers.poll(5.25)
    assert owner.called == [5.25]
    timers.poll(30.0)  # The empty slot is cleared away.
    assert owner.called == [5.25] and timers.poll_at() is None


def test_forgotten() -> None:
    timers, (owner, other) = watched(10.0, 10.0)
    timers.forget(owner)
    timers.forget(owner)
    assert owner.slot == 0
    timers.poll(11.0)
    assert not owner.called and other.called == [11.0]


def test_watched_again_when_called() -> None:
    class Periodic(Owner):
        def on_timer(self, now: float) -> None:
            super().on_timer(now)
            self.expires = now + 10.0
            timers.watch(self)

    timers, owner = Timers(), Periodic(1.0)
    timers.watch(owner)
    for now in (2.0, 12.5, 23.0):
        timers.poll(now)
    assert owner.called == [2.0, 12.5, 23.0]


def test_somebody_who_is_called_may_watch_what_is_over_already() -> None:
    class Starter(Owner):
        def on_timer(self, now: float) -> None:
            super().on_timer(now)
            timers.watch(late)

    timers, late, starter, third = Timers(), Owner(1.0), Starter(10.0), Owner(10.0)
    timers.watch(third)
    timers.watch(starter)
    drain(timers, 11.0)
    assert starter.called == third.called == late.called == [11.0]
    assert timers.poll_at() is None


def test_a_far_time_is_looked_at_again_and_again() -> None:
    """So there are never more slots than FARTHEST, however many different times there are."""
    far = 10 * FARTHEST / SLOTS
    timers, (owner,) = watched(far)
    now, polls = 0.0, 0
    while not owner.called:
        now = timers.due
        timers.poll(now)
        polls += 1
    assert owner.called == [far + 0.25] and 10 <= polls <= 12


def test_a_clock_that_begins_late() -> None:
    timers, (owner,) = watched(1.8e9)
    timers.poll(1.8e9 - 60)
    assert not owner.called and timers.poll_at() == 1.8e9 + 0.25


# -- very many --------------------------------------------------------------------------------------------------------


def test_a_poll_does_so_much_and_no_more() -> None:
    timers, owners = watched(*[10.0] * (BUDGET // CALL * 2 + 7))
    for called in (BUDGET // CALL, BUDGET // CALL * 2):
        assert timers.poll(11.0)
        assert sum(len(owner.called) for owner in owners) == called
        assert timers.poll_at() is not None and timers.due <= 11.0
    assert not timers.poll(11.0)
    assert all(owner.called == [11.0] for owner in owners)
    assert timers.poll_at() is None


def test_moving_is_cheaper_than_calling() -> None:
    timers, owners = watched(*[10.0] * (BUDGET + 5))
    for owner in owners:
        owner.expires = 20.0
    assert timers.poll(11.0)
    assert not timers.poll(11.0)
    assert timers.poll_at() == 20.25 and not any(owner.called for owner in owners)


def test_a_share_is_little() -> None:
    timers, owners = watched(*[10.0] * 1000)
    assert timers.poll(11.0, SHARE)
    assert sum(len(owner.called) for owner in owners) == SHARE // CALL


def test_a_crowd_spreads_over_the_next_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CROWD", 10)
    timers, owners = watched(*[10.0] * 35)
    assert sorted({owner.slot for owner in owners}) == [owners[0].slot + more for more in range(4)]
    assert timers.poll_at() == 10.25
    for owner in owners[:5]:
        timers.forget(owner)
    drain(timers, 10.25)
    drain(timers, 11.25)
    assert [len(owner.called) for owner in owners] == [0] * 5 + [1] * 30
    assert timers.poll_at() is None


def test_a_crowd_is_small_enough() -> None:
    """A dict of that many is copied in a few milliseconds when it grows."""
    assert CROWD <= 65536 and BUDGET // CALL <= 2000


# -- anything ---------------------------------------------------------------------------------------------------------

_times = st.floats(0.0, 100.0).map(lambda at: round(at, 2))
_steps = st.lists(
    st.tuples(st.sampled_from(["watch", "later", "sooner", "forget", "poll", "share"]), st.integers(0, 9), _times),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(_steps, st.sampled_from([CROWD, 2]), st.sampled_from([FARTHEST, 40]))
def test_everyone_is_called_once_after_his_time(steps: list[tuple[str, int, float]], crowd: int, farthest: int) -> None:
    """Against a model: who is watched, and since when his time has been as it is."""
    before = module.CROWD, module.FARTHEST
    module.CROWD, module.FARTHEST = crowd, farthest
    try:
        _run(steps, late=0.25 if crowd > 2 else 5.0)
    finally:
        module.CROWD, module.FARTHEST = before


def _run(steps: list[tuple[str, int, float]], late: float) -> None:
    timers, now = Timers(), 0.0
    owners = [Owner(0.0) for _ in range(10)]
    watching: set[int] = set()

    def check(poll: bool) -> None:
        for number in list(watching):
            owner = owners[number]
            if owner.called:
                assert owner.expires <= now and owner.called == [now]
                watching.discard(number)
                owner.called = []
            else:
                assert owner.slot and not (poll and owner.expires + late < now)
        assert not any(owner.called for owner in owners)
        if watching:
            at = timers.poll_at()
            assert at is not None and at <= min(owners[number].expires for number in watching) + late

    for what, number, at in steps:
        owner = owners[number]
        if what == "watch" and number not in watching:
            owner.expires = now + at
            timers.watch(owner)
            watching.add(number)
        elif what == "later":
            owner.expires += at
        elif what == "sooner" and number in watching:
            owner.expires = max(owner.expires - at, 0.0)
            timers.watch(owner)
        elif what == "forget":
            timers.forget(owner)
            watching.discard(number)
        elif what == "poll":
            now += at
            drain(timers, now)
        elif what == "share":
            now += at / 10
            timers.poll(now, CALL)
        check(what == "poll")
    now += 10_000.0
    drain(timers, now)
    check(True)
    assert not watching and timers.poll_at() is None
