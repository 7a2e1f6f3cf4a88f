"""A trace as people read it: what happened to the packet, step by step, and what leaves which device.

A line has hook, function, connection tracking state and what was done; more of that on lines of its own. Functions that
did nothing are left out, or named in one line when a whole hook did nothing; --verbose has them all.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.output import count, print_lines, table
from ipvsctl.cli.trace_json import RULES, sentence, state_on_entry, words_of
from ipvsctl.datapath.explain import explain
from ipvsctl.datapath.skb import Broken, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats.packet_text import describe
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.cli.output import Line, Span
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.trace import Rule, Step

_LONG = 76
"""A rewriting that is longer has two lines."""
_LEAST = 40
"""Characters that the last column has on the narrowest terminal."""
_TOLD = ("ftp: ", "the FTP helper expects", "the FTP helper cannot", "expects a related", "conntrack refuses")
"""How notes begin that are told of every packet of a conversation."""


class _Row(NamedTuple):
    """A line of the table, and those below it that only have details."""

    hook: str
    function: str
    state: str
    details: list[Span]


def show(env: Environment, engine: Engine, walks: list[Walk], session: str) -> None:
    """Print the walk of a packet, or of a conversation a line for each packet and the lost one in full."""
    lines: list[Line] = []
    if session:
        lines += _conversation(walks, session)
    if session and env.verbose:
        for number, walk in enumerate(walks, 1):
            lines += [[], *_full(env, engine, walk, f"packet {number}, ")]
    elif not session:
        lines += _full(env, engine, walks[-1])
    elif not walks[-1].arrived:
        lines += [[], *_full(env, engine, walks[-1], f"packet {len(walks)}, ")]
    if session:
        last = len(walks)
        lines.append(
            [("complete", "bold green"), (f": {count(last, 'packet')}, every one arrived", "")]
            if walks[-1].arrived
            else [("fails", "bold red"), (f" at packet {last}, {walks[-1].title}", "")]
        )
    print_lines(env, lines)


# -- a conversation ---------------------------------------------------------------------------------------------------


def _conversation(walks: list[Walk], session: str) -> Iterator[Line]:
    first = describe(walks[0].packet).split()
    ends = f"{session}: client {first[1]}, service {first[0]}:{first[3]}"
    chosen = next((step.data for step in walks[0].steps if "server" in step.data and "method" in step.data), None)
    if chosen is not None:
        ends += f", server {chosen['server']} by {chosen['method']}"
    yield [(ends, "bold")]
    rows = []
    for number, walk in enumerate(walks, 1):
        sender, _, what = walk.title.partition(": ")
        rows.append((str(number), sender, what, _way(walk), state_on_entry(walk), _let_pass(walk)))
    heading, *body = table(("", "From", "Packet", "Way", "State", "Rule"), rows, right=(0,))
    yield heading
    for line, walk in zip(body, walks, strict=True):
        yield line if walk.arrived else [(text, "red") for text, _ in line]
        told = [note for step in walk.steps for note in step.notes if note.startswith(_TOLD)]
        for note in (*told, *walk.notes):
            yield [(f"      {note}", "yellow")]


def _way(walk: Walk) -> str:
    if walk.verdict == "direct":
        return "past the director"
    came = walk.device or "(here)"
    if walk.passed:
        return f"{came} > {walk.passed[0].device}"
    return f"{came} > {'(here)' if words_of(walk)[1] == 'local' else 'dropped'}"


def _let_pass(walk: Walk) -> str:
    """The rule that decided: of the filter, or the one that dropped the packet."""
    found = ""
    for step in walk.steps:
        if step.answer or not step.rules:
            continue
        rule = step.rules[-1]
        if step.verdict in RULES:
            return _place(rule)
        if step.function == "filter" and step.hook in ("INPUT", "FORWARD"):
            found = _place(rule)
    return found


def _place(rule: Rule) -> str:
    return f"{rule.chain} {rule.number or 'policy'}"


# -- one packet -------------------------------------------------------------------------------------------------------


def _full(env: Environment, engine: Engine, walk: Walk, before: str = "") -> Iterator[Line]:
    title, packet = f"{before}{walk.title}", describe(walk.packet)
    if walk.title != packet:
        title += f": {packet}"
    yield [(title, "bold"), (f"  in {walk.device}" if walk.device else "  from this host", "")]
    if walk.verdict == "direct":
        yield [("  it goes past the director", "")]
        return
    rows = list(_rows(engine, walk, env.verbose))
    yield from _columns(env, rows)
    for output, answer in zip(walk.outputs, walk.answers, strict=True):
        hop = readable(output.next_hop) if output.next_hop else ""
        text = describe(output.packet)
        way = f"{output.device} via {hop}" if hop and hop not in text else output.device
        yield [("answer  " if answer else "out     ", "cyan" if answer else "green"), (f"{way}: {text}", "")]
    words = words_of(walk)
    reason = sentence(walk)
    style = "bold green" if words[0] == "accept" else "bold red"
    yield [(" ".join(words), style), (f": {reason}" if reason else "", "")]
    for note in walk.notes:
        yield from _wrapped(env, [("note    ", "yellow")], note)
    why = explain(engine, walk)
    if why:
        yield from _wrapped(env, [("why     ", "yellow")], why.why)
        for command in why.mend.splitlines():
            yield [("mend    ", "yellow"), (command, "bold")]


def _rows(engine: Engine, walk: Walk, everything: bool) -> Iterator[_Row]:
    """The steps, as far as they are worth a line."""
    chains = _chains(engine, walk)
    tracked = announced = False
    for place, group in groupby(walk.steps, key=lambda step: (step.hook, step.answer)):
        steps = list(group)
        shown = []
        for step in steps:
            first = not tracked and step.function.startswith("nf_conntrack") and not step.answer
            tracked = tracked or first or (bool(step.hook) and step.state != "INVALID" and not step.answer)
            details = list(_details(step, chains, everything))
            if details or everything or first:
                state = step.state if tracked else ""
                priority = f" {step.priority}" if everything and step.hook and abs(step.priority) < 2**30 else ""
                shown.append(_Row(step.hook, f"{step.function or _between(step)}{priority}", state, details))
        if not step.answer:
            announced = False
        elif shown and not announced:
            announced = True
            yield _Row("answer", "", "", [(next((each.before for each in steps if each.before), ""), "cyan")])
        if not place[0]:
            yield from (row for row in shown if row.details)
            continue
        if not shown and not step.answer:
            names = ", ".join(dict.fromkeys(step.function for step in steps))
            yield _Row(place[0], "", "", [(f"({names})", "dim")])
        for index, row in enumerate(shown):
            yield row if not index else row._replace(hook="")


def _between(step: Step) -> str:
    """What happens between hooks."""
    return "routing" if "route" in step.data else "sending" if "leaves" in step.data else ""


def _chains(engine: Engine, walk: Walk) -> dict[tuple[str, str], int]:
    """Chains of the packet's family by table and name, and how many rules they have."""
    try:
        family = Skb(bytearray(walk.packet)).family
    except Broken:
        return {}
    return {
        (saved.name, chain.name): len(chain.rules)
        for saved in engine.tables.saved()
        if saved.family == family
        for chain in saved.chains
    }


def _details(step: Step, chains: dict[tuple[str, str], int], everything: bool) -> Iterator[Span]:
    """What a step did."""
    drops = step.verdict not in (None, Reason.STOLEN)
    if step.answer and not drops and not everything:
        return
    drop = "REJECT" if step.verdict is Reason.REJECT else "DROP"
    by_rule = bool(step.rules) and step.verdict in RULES
    for rule in step.rules:
        decides = by_rule and rule is step.rules[-1]
        if everything or decides or not _is_usual(rule, chains):
            text = f"{_place(rule)}{': ' if rule.number else ' '}{rule.text}"
            yield (f"{drop} {text}", "red") if decides else (text, "")
    said = ""
    for note in step.notes:
        if (note in step.minor or _is_end(step)) and not everything:
            continue
        said += note
        yield from _split(note.removeprefix("route: ").removeprefix("INVALID: "))
    now = step.packet.get("text", "")
    if now and now != step.before and now not in said:
        yield f"now {now}", ""
    if step.verdict is not None and drops and not by_rule:
        yield f"{drop} {step.verdict.value}", "red"


def _is_usual(rule: Rule, chains: dict[tuple[str, str], int]) -> bool:
    """A jump, or a policy that lets pass what no rule of importance was for."""
    if rule.number:
        words = rule.text.split()
        return len(words) > 1 and words[-2] in ("-j", "-g") and (rule.table, words[-1]) in chains
    return rule.text == "ACCEPT" and (rule.table != "filter" or not chains.get((rule.table, rule.chain)))


def _is_end(step: Step) -> bool:
    """What the lines below the table tell anyway."""
    return step.data.get("leaves", "lo") != "lo" or "drop" in step.data


def _split(note: str) -> Iterator[Span]:
    """A rewriting on two lines when it is long."""
    first, arrow, second = note.partition(" -> ")
    if not note.startswith("rewritten") or len(note) <= _LONG or not arrow:
        yield note, "yellow" if note.startswith(("rewritten", "wrapped")) else ""
        return
    yield first, "yellow"
    yield f"{'->':>{first.index(':') + 1}} {second}", "yellow"


# -- columns ----------------------------------------------------------------------------------------------------------


def _columns(env: Environment, rows: Sequence[_Row]) -> Iterator[Line]:
    hook, function, state = (max((len(row[i]) for row in rows), default=0) for i in range(3))
    for row in rows:
        head = f"{row.hook:{hook}}  {row.function:{function}}  "
        spans: Line = [(head, ""), (f"{row.state:{state}}  ", "cyan")]
        for text, style in row.details or [("", "")]:
            yield from _wrapped(env, spans, text, style)
            spans = [(" " * (len(head) + state + 2), "")]


def _wrapped(env: Environment, before: Line, text: str, style: str = "") -> Iterator[Line]:
    """A line; on a terminal as many as it takes, the rest under the beginning of the text."""
    indent = sum(len(part) for part, _ in before)
    if not env.stdout.isatty():
        yield [*before, (text, style)]
        return
    room = max(shutil.get_terminal_size().columns - indent, _LEAST)
    for piece in textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]:
        yield [*before, (piece, style)]
        before = [(" " * indent, "")]
