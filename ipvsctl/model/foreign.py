"""Rules of nftables that are not ours, as far as one can tell what they do to a packet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Condition:
    """What a rule asks of a packet.

    `kind`: protocol, source, destination, source-port, destination-port, state, in-device, out-device or family; ""
    for what is not understood. `values` are ranges, first and last of each. `negated`: none of them may be.
    """

    kind: str
    values: tuple[tuple[str, str], ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ForeignRule:
    """`verdict`: accept, drop, return, jump or goto (to `target`), "" for none, "?" for one that is not understood."""

    verdict: str
    conditions: tuple[Condition, ...] = ()
    target: str = ""


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A chain of a table ("inet filter"); `hook` in capitals and `policy` of a base chain of type filter, else ""."""

    table: str
    name: str
    hook: str = ""
    policy: str = ""
    rules: tuple[ForeignRule, ...] = ()
