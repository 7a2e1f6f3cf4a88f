"""The trace: what each function said of a packet, written down while the table of hooks is walked.

With no tracer the datapath writes nothing. Functions add to the step that is open what a person wants to know: the rule
that matched, the server that was chosen, the route, the rewriting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ipvsctl.datapath.skb import (
    ESTABLISHED,
    ESTABLISHED_REPLY,
    NEW,
    PROTOCOL_NAMES,
    RELATED,
    RELATED_REPLY,
    UNTRACKED,
    Skb,
)
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.datapath.verdict import Verdict

STATES = {
    ESTABLISHED: "ESTABLISHED", ESTABLISHED_REPLY: "ESTABLISHED", RELATED: "RELATED", RELATED_REPLY: "RELATED",
    NEW: "NEW", UNTRACKED: "UNTRACKED",
}  # fmt: skip
"""What a rule that matches by state sees; INVALID for all else."""


def state(skb: Skb) -> str:
    """The packet's connection tracking state as `-m state` and `-m conntrack` see it."""
    return STATES.get(skb.ctinfo, "INVALID")


def fields(skb: Skb) -> dict[str, Any]:
    """What identifies the packet, for machines; `text` for people."""
    found: dict[str, Any] = {
        "text": str(skb),
        "protocol": PROTOCOL_NAMES.get(skb.protocol, str(skb.protocol)),
        "source": readable(skb.source),
        "destination": readable(skb.destination),
        "length": len(skb.data),
        "ttl": skb.ttl,
        "mark": skb.mark,
    }
    if skb.has_ports:
        found["source_port"], found["destination_port"] = skb.sport, skb.dport
    return found


@dataclass(slots=True)
class Rule:
    """A rule that matched: its table and chain, its number in the chain (1 is the first; 0 the policy), its text."""

    table: str
    chain: str
    number: int
    text: str


@dataclass(slots=True)
class Step:
    """One function's turn. `hook` "" for what happens between hooks (routing, delivery, sending); `priority` then 0.

    `verdict` None when the walk went on; `before` the packet as text, `packet` its fields and `state` as rules see it,
    both afterwards. `minor` are those of `notes` that only somebody who asks for everything wants to read. `answer`:
    it is not about the packet but about one that the host sent because of it, an ICMP error or a reset.
    """

    hook: str
    priority: int
    function: str
    before: str
    state: str = ""
    packet: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict = None
    rules: list[Rule] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    minor: set[str] = field(default_factory=set)
    answer: bool = False


class Tracer:
    """Collects steps. Steps nest (IPVS sends on from inside INPUT); they are listed in the order they began.

    `delivered` is the packet as the host's own stack got it, b"" when it did not.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.delivered = b""
        self._open: list[Step] = []

    def begin(self, hook: str, priority: int, function: str, skb: Skb) -> None:
        """A function gets the packet."""
        step = Step(hook, priority, function, str(skb), answer=not skb.primary)
        self.steps.append(step)
        self._open.append(step)

    def end(self, skb: Skb, verdict: Verdict) -> None:
        """It has decided."""
        step = self._open.pop()
        step.packet, step.state, step.verdict = fields(skb), state(skb), verdict

    def note(self, text: str, *, minor: bool = False, **data: Any) -> None:
        """Say something in the open step, or in a step of its own between hooks."""
        if not self._open:
            self.steps.append(Step("", 0, "", ""))
        step = self._open[-1] if self._open else self.steps[-1]
        step.notes.append(text)
        step.data.update(data)
        if minor:
            step.minor.add(text)

    def event(self, text: str, *, answer: bool = False, **data: Any) -> None:
        """Something that belongs to no function: it follows what was listed last."""
        self.steps.append(Step("", 0, "", "", notes=[text], data=data, answer=answer))

    def rule(self, table: str, chain: str, number: int, text: str) -> None:
        """A rule matched, or a policy (number 0) decided, in the open step."""
        if self._open:
            self._open[-1].rules.append(Rule(table, chain, number, text))
