"""The limit match: a token bucket in jiffies (xt_limit.c), at the HZ of 250 that Debian's kernels have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.datapath.nf.options import U32, Context, Matching, Options, number
from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.skb import Skb

HZ = 250
SCALE = 10000
"""Fractions of a second in which a rate is kept (XT_LIMIT_SCALE)."""

CREDITS = 128
"""Credits a jiffy: the greatest power of two not above 2**32 / (HZ * 86400) (CREDITS_PER_JIFFY)."""

_UNITS = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400))


def period(text: str) -> int:
    """The time between two packets in 1/10000 s of a rate: NUMBER[/second|minute|hour|day]; raises UsageError."""
    rate, slash, unit = text.partition("/")
    seconds = next((each for name, each in _UNITS if slash and unit and name.startswith(unit.lower())), 0)
    count = number(rate, U32, "a rate")
    if (slash and not seconds) or not count:
        raise UsageError(f"{text!r} is not a rate, expected NUMBER/second, /minute, /hour or /day")
    found = SCALE * (seconds or 1) // count
    if not found:
        raise UsageError(f"{text!r} is a rate that is too high, expected at most {SCALE}/second")
    return found


def credits_of(time: int) -> int:
    """Credits that pass in a time in 1/10000 s, in the kernel's 32 bits (user2credits)."""
    if time > U32 // (HZ * CREDITS):
        return time // SCALE * HZ * CREDITS & U32
    return time * HZ * CREDITS // SCALE


class Bucket:
    """The state of one limit match: full at first; `cost` credits for each packet that passes."""

    __slots__ = ("_credit", "_engine", "_last", "cap", "cost")

    def __init__(self, engine: Engine, time: int, burst: int) -> None:
        full = credits_of(time * burst & U32)
        self.cost = credits_of(time)
        if not burst or full < self.cost:
            raise UsageError(f"a burst of {burst} at this rate is out of the kernel's range")
        self.cap = full
        self._engine = engine
        self._credit = full
        self._last = int(engine.now * HZ)

    def test(self, _skb: Skb) -> bool:
        """Whether a packet passes; what has passed is paid for (limit_mt)."""
        now = int(self._engine.now * HZ)
        credit = min(self._credit + (now - self._last) * CREDITS, self.cap)
        self._last = now
        if credit < self.cost:
            self._credit = credit
            return False
        self._credit = credit - self.cost
        return True


def limit(context: Context, options: Options) -> Matching:
    """`-m limit --limit RATE --limit-burst PACKETS`; 3/hour and 5 when they are not there."""
    rate, burst = options.plain("limit"), options.plain("limit-burst")
    bucket = Bucket(context.engine, period(rate or "3/hour"), number(burst or "5", 10000, "a burst"))
    return Matching((bucket.test,), stable=False)
