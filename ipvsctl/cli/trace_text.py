"""A trace as people and as programs read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipvsctl.cli.environment import Environment
from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats.packet_text import describe
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.cli.output import Line
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.trace import Step

_LOCAL = (Reason.NO_LISTENER, Reason.LOCAL_PROTOCOL, Reason.LOCAL_CHECKSUM)


def words_of(walk: Walk) -> list[str]:
    """The names a verdict goes by, the broadest first: accept forward; accept local; drop reject; drop REASON."""
    reason = walk.verdict
    if isinstance(reason, Reason):
        name = reason.name.lower().replace("_", "-")
        if reason in _LOCAL:
            return ["accept", "local", name]
        return ["drop", name]
    if reason == "delivered":
        return ["accept", "local"]
    return ["accept", "forward"] if walk.arrived else ["drop", "lost"]


def state_on_entry(walk: Walk) -> str:
    """The state that rules see when connection tracking has looked at the packet; INVALID when it never does."""
    return next((step.state for step in walk.steps if step.function.startswith("nf_conntrack")), "INVALID")


def to_dict(engine: Engine, walks: list[Walk], several: bool) -> dict[str, Any]:
    """The JSON document: of one packet its steps, verdict and output; of a conversation a list of those."""
    found = [_walk_dict(engine, walk) for walk in walks]
    if not several:
        return found[0]
    return {"packets": found, "verdict": found[-1]["verdict"]}


def _walk_dict(engine: Engine, walk: Walk) -> dict[str, Any]:
    words = words_of(walk)
    reason = walk.verdict if isinstance(walk.verdict, Reason) else None
    why = explain(engine, walk)
    return {
        "title": walk.title,
        "in": walk.device,
        "packet": walk.packet.hex(),
        "steps": [_step_dict(step) for step in walk.steps],
        "verdict": words[0],
        "reason": None if reason is None else words[-1],
        "text": "" if reason is None else reason.value,
        "why": why.why if why else "",
        "mend": why.mend if why else "",
        "state": state_on_entry(walk),
        "out": [
            {
                "device": output.device,
                "next_hop": readable(output.next_hop) if output.next_hop else "",
                "packet": output.packet.hex(),
                "text": describe(output.packet),
            }
            for output in walk.outputs
        ],
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
    }


def show(env: Environment, engine: Engine, walks: list[Walk]) -> None:
    """Print the walks. Of a conversation the packets that passed as one line each, the one that did not in full."""
    from ipvsctl.cli.output import print_lines

    lines: list[Line] = []
    for walk in walks:
        if len(walks) > 1 and walk.arrived and not env.verbose:
            lines.append(_summary(walk))
        else:
            lines += _full(walk, engine)
    if len(walks) > 1 and walks[-1].arrived:
        lines.append([(f"complete: {len(walks)} packets, every one arrived", "green")])
    print_lines(env, lines)


def _summary(walk: Walk) -> Line:
    way = f"{walk.device} -> {walk.outputs[0].device}" if walk.outputs else "past the director"
    line: Line = [(f"{walk.title:40}  {way:16}  ", "")]
    if walk.verdict != "direct":
        line.append((f"{state_on_entry(walk)}", "cyan"))
    for note in walk.notes:
        line.append((f"  {note}", "yellow"))
    return line


def _full(walk: Walk, engine: Engine) -> list[Line]:
    lines: list[Line] = [[(walk.title, "bold"), (f"  in {walk.device}" if walk.device else "  from this host", "")]]
    text = ""
    for step in walk.steps:
        lines += _step_lines(step, text)
        text = step.packet.get("text", text)
    for output in walk.outputs:
        hop = f" to {readable(output.next_hop)}" if output.next_hop else ""
        lines.append([("out  ", "green"), (f"{output.device}{hop}: {describe(output.packet)}", "")])
    words = words_of(walk)
    style = "green" if words[0] == "accept" else "red"
    verdict: Line = [(" ".join(words), style)]
    if isinstance(walk.verdict, Reason):
        verdict.append((f": {walk.verdict.value}", ""))
    lines.append(verdict)
    why = explain(engine, walk)
    if why:
        lines.append([("why  ", "yellow"), (why.why, "")])
        if why.mend:
            lines.append([("mend ", "yellow"), (why.mend, "bold")])
    return lines


def _step_lines(step: Step, before: str) -> list[Line]:
    """A step's line: hook, function, priority, state, and behind it what it did; more lines for more of it."""
    details = [f"{rule.chain} {rule.number or 'policy'}: {rule.text}" for rule in step.rules] + step.notes
    after = step.packet.get("text", "")
    if step.packet and after != step.before:
        details.append(f"now {after}")
    verdict = "" if step.verdict is None or step.verdict is Reason.STOLEN else "DROP"
    if not step.hook:
        return [[("     ", ""), (detail, "")] for detail in details]
    priority = str(step.priority) if abs(step.priority) < 2**30 else "last"
    head = f"     {step.hook:11} {priority:>5}  {step.function:18} "
    state = f"{step.state:11} "
    first = details[0] if details else ""
    lines: list[Line] = [[(head, ""), (state, "cyan"), (f"{verdict} " if verdict else "", "red"), (first, "")]]
    indent = " " * (len(head) + len(state))
    return [*lines, *([(indent, ""), (detail, "")] for detail in details[1:])]
