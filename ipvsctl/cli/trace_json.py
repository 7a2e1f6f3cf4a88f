"""A trace as programs read it, and the words and sentences for a verdict that people read as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats.packet_text import describe
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.flows import Output
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.trace import Rule, Step

_LOCAL = (Reason.NO_LISTENER, Reason.LOCAL_PROTOCOL)
RULES = {Reason.RULE: "drops", Reason.REJECT: "rejects", Reason.POLICY: "drops"}


def words_of(walk: Walk) -> list[str]:
    """The names a verdict goes by, the broadest first: accept forward; accept local; drop reject; drop REASON.

    In a conversation nothing is accepted that does not come to the other end.
    """
    words = _words(walk)
    return words if walk.arrived else ["drop", *(words[1:] if words[1:] != ["forward"] else ["lost"])]


def _words(walk: Walk) -> list[str]:
    reason = walk.verdict
    if isinstance(reason, Reason):
        name = reason.name.lower().replace("_", "-")
        return ["accept", "local", name] if reason in _LOCAL else ["drop", name]
    if reason == "delivered":
        return ["accept", "local"]
    if reason == "direct":
        return ["accept", "direct"]
    return ["accept", "forward" if walk.device else "sent"]


def deciding_rule(walk: Walk) -> Rule | None:
    """The rule or policy that drops or rejects the packet."""
    step = next((step for step in walk.steps if step.verdict in RULES and not step.answer and step.rules), None)
    return step.rules[-1] if step else None


def sentence(walk: Walk) -> str:
    """The reason of a verdict, "" for a packet that is sent or delivered."""
    reason = walk.verdict
    if not isinstance(reason, Reason):
        return ""
    rule = deciding_rule(walk) if reason in RULES else None
    if rule is not None:
        what = f"rule {rule.number}" if rule.number else "the policy"
        return f"{what} of chain {rule.chain} (table {rule.table}) {RULES[reason]} it"
    if reason is Reason.NO_LISTENER:
        return "for the host itself, which answers so when no program listens there"
    if reason is Reason.LOCAL_PROTOCOL:
        return "for the host itself, which does not speak the protocol"
    return str(reason.value)


def state_on_entry(walk: Walk) -> str:
    """The state that rules see when connection tracking has looked at the packet; "" when it never does."""
    return next((step.state for step in walk.steps if step.function.startswith("nf_conntrack")), "")


def to_dict(engine: Engine, walks: list[Walk], session: str, notes: Iterable[str]) -> dict[str, Any]:
    """The JSON document of a packet; of a conversation that of its last packet, with all of them in `packets`."""
    found = [_walk_dict(engine, walk) for walk in walks]
    if not session:
        return {**found[-1], "notes": list(notes)}
    return {
        **found[-1],
        "session": session,
        "complete": walks[-1].arrived,
        "packets": found,
        "notes": list(notes),
    }


def _walk_dict(engine: Engine, walk: Walk) -> dict[str, Any]:
    words = words_of(walk)
    why = explain(engine, walk)
    return {
        "title": walk.title,
        "in": walk.device,
        "packet": walk.packet.hex(),
        "steps": [_step_dict(step) for step in walk.steps],
        "verdict": words[0],
        "words": words,
        "reason": words[-1] if isinstance(walk.verdict, Reason) else None,
        "text": sentence(walk),
        "remarks": walk.notes,
        "why": why.why if why else "",
        "mend": why.mend if why else "",
        "state": state_on_entry(walk),
        "arrived": walk.arrived,
        "out": [_output_dict(output, answer) for output, answer in zip(walk.outputs, walk.answers, strict=True)],
    }


def _output_dict(output: Output, answer: bool) -> dict[str, Any]:
    return {
        "device": output.device,
        "next_hop": readable(output.next_hop) if output.next_hop else "",
        "packet": output.packet.hex(),
        "text": describe(output.packet),
        "answer": answer,
    }


def _step_dict(step: Step) -> dict[str, Any]:
    rules = [
        {"table": rule.table, "chain": rule.chain, "number": rule.number, "text": rule.text} for rule in step.rules
    ]
    return {
        "hook": step.hook,
        "priority": step.priority,
        "function": step.function,
        "rule": rules[-1] if rules else None,
        "rules": rules,
        "verdict": "accept" if step.verdict is None else step.verdict.name.lower().replace("_", "-"),
        "state": step.state,
        "packet": step.packet,
        "notes": step.notes,
        "data": step.data,
        "answer": step.answer,
    }
