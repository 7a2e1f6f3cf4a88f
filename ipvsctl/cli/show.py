"""Plans for people: a line per change with its sign, the rules that come and go below it."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.cli.output import Line, count
from ipvsctl.model.change import Change, ReplaceRules
from ipvsctl.model.rule import TAG, OwnChain
from ipvsctl.plan.difference import Plan

_SIGNS = {"add": "+", "start": "+", "load": "+", "delete": "-", "stop": "-"}
_STYLES = {"+": "green", "-": "red", "~": "yellow", " ": ""}


def sign(change: Change) -> str:
    """+ for what comes, - for what goes, ~ for what becomes different."""
    if isinstance(change, ReplaceRules):
        return "~" if change.before and change.after else "+" if change.after else "-"
    return _SIGNS.get(change.kind.partition("-")[0], "~")


def plan_lines(plan: Plan) -> list[Line]:
    """A plan as `plan` and --dry-run print it."""
    lines: list[Line] = []
    for change in plan.changes:
        mark = sign(change)
        lines.append([(f"{mark} {change}", _STYLES[mark])])
        if isinstance(change, ReplaceRules):
            lines += [[(f"    {mark} {text}", _STYLES[mark])] for mark, text in _rule_difference(change)]
    lines += [[("note: ", "bold"), (note, "")] for note in plan.notes]
    lines.append([(count(len(plan.changes), "change") if plan.changes else "no changes", "bold")])
    return lines


def chain_text(chain: OwnChain) -> list[str]:
    """A chain of ours and the jump to it, as iptables-save writes them."""
    jump = [f"-A {chain.hook} -m comment --comment {TAG} -j {chain.name}"] if chain.jump else []
    return [f":{chain.name} - [0:0]", *jump, *(f"-A {chain.name} {rule}" for rule in chain.rules)]


def _rule_difference(change: ReplaceRules) -> Iterator[tuple[str, str]]:
    """The lines of two rule sets, each with the sign of what happens to it."""
    from difflib import SequenceMatcher

    before = [line for chain in change.before for line in chain_text(chain)]
    after = [line for chain in change.after for line in chain_text(chain)]
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            yield from ((" ", line) for line in before[i1:i2])
        else:
            yield from (("-", line) for line in before[i1:i2])
            yield from (("+", line) for line in after[j1:j2])
