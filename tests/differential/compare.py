"""Two results of one scenario, side by side: everything that differs after the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

from ipvsctl.model.snapshot import SavedChain, SavedTable
from ipvsctl.model.status import Connection, ConntrackEntry, ServiceStatus, Stats
from tests.differential.masks import SECONDS, Context, context, masked, plain_entry
from tests.differential.result import Result, Sent
from tests.differential.scenario import Scenario

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Difference:
    """`where` is "setup", "step N DEVICE", "conntrack", "connections", "service ADDRESS", "table FAMILY/NAME CHAIN".

    `kernel` and `emulated` are what the two have there: packets, or text; None for nothing.
    """

    scenario: str
    where: str
    kernel: bytes | str | None
    emulated: bytes | str | None
    note: str = ""


def compare(scenario: Scenario, kernel: Result | None, emulated: Result) -> list[Difference]:
    """Everything that differs; a kernel's result that is missing or has an error is a difference as well."""
    name = scenario.name
    if kernel is None:
        return [Difference(name, "setup", None, "", "the kernel's side did not get to it")]
    if kernel.error or emulated.error:
        return [Difference(name, "setup", kernel.error or None, emulated.error or None)]
    known = context(scenario)
    found: list[Difference] = []
    for number, (mine, theirs) in enumerate(zip(kernel.steps, emulated.steps, strict=True), 1):
        found += _step(name, number, mine, theirs, known)
    found += _sets(
        name, "conntrack", [plain_entry(entry, known) for entry in kernel.conntrack],
        [plain_entry(entry, known) for entry in emulated.conntrack],
        lambda entry: replace(entry, timeout=0), lambda entry: entry.timeout, entry_text,
    )  # fmt: skip
    found += _sets(
        name, "connections", kernel.connections, emulated.connections,
        lambda each: replace(each, expires=0, flags=()), lambda each: each.expires, connection_text,
    )  # fmt: skip
    found += _services(name, kernel.services, emulated.services)
    found += _tables(name, kernel.tables, emulated.tables)
    return found


def _step(
    name: str, number: int, kernel: Sequence[Sent], emulated: Sequence[Sent], known: Context
) -> Iterable[Difference]:  # fmt: skip
    """Packets in order for each device: two devices are two wires."""
    for device in sorted({sent.device for sent in (*kernel, *emulated)}):
        where = f"step {number} {device}"
        ours = [sent for sent in kernel if sent.device == device]
        others = [sent for sent in emulated if sent.device == device]
        for mine, theirs in zip_longest(ours, others):
            if mine is None or theirs is None:
                yield Difference(name, where, mine and mine.packet, theirs and theirs.packet)
            elif masked(mine.packet, known) != masked(theirs.packet, known):
                yield Difference(name, where, mine.packet, theirs.packet)
            elif mine.next_hop and mine.next_hop != theirs.next_hop:
                yield Difference(name, where, mine.next_hop.hex(), theirs.next_hop.hex(), "next hop")


def _sets(
    name: str, where: str, kernel: Sequence[_T], emulated: Sequence[_T],
    key: Callable[[_T], _T], timer: Callable[[_T], int], text: Callable[[_T], str],
) -> Iterable[Difference]:  # fmt: skip
    """Two lists without order, of which one's element has its like in the other but for the timer."""
    left = sorted(emulated, key=text)
    for mine in sorted(kernel, key=text):
        like = [each for each in left if key(each) == key(mine)]
        if not like:
            yield Difference(name, where, text(mine), None)
            continue
        near = min(like, key=lambda each: abs(timer(each) - timer(mine)))
        left.remove(near)
        if abs(timer(near) - timer(mine)) > SECONDS:
            yield Difference(name, where, text(mine), text(near), "timer")
    for theirs in left:
        yield Difference(name, where, None, text(theirs))


def entry_text(entry: ConntrackEntry) -> str:
    """A conntrack entry on a line."""
    return (
        f"{entry.protocol} {entry.source}:{entry.source_port} > {entry.destination}:{entry.destination_port}"
        f" reply {entry.reply_source}:{entry.reply_source_port} >"
        f" {entry.reply_destination}:{entry.reply_destination_port} {entry.state or '-'} {entry.timeout}s"
        f" [{' '.join(entry.status)}]" + (f" mark {entry.mark}" if entry.mark else "")
        + (f" helper {entry.helper}" if entry.helper else "")
    )  # fmt: skip


def connection_text(each: Connection) -> str:
    """An IPVS connection on a line."""
    return (
        f"{each.protocol} {each.client}:{each.client_port} {each.virtual}:{each.virtual_port}"
        f" {each.server}:{each.server_port} {each.state} {each.expires}s"
    )


def _totals(stats: Stats) -> Stats:
    return stats._replace(cps=0, pps_in=0, pps_out=0, bps_in=0, bps_out=0)


def _services(
    name: str, kernel: Sequence[ServiceStatus], emulated: Sequence[ServiceStatus]
) -> Iterable[Difference]:  # fmt: skip
    mine = {str(status.service.address): status for status in kernel}
    theirs = {str(status.service.address): status for status in emulated}
    for address in sorted(mine.keys() | theirs.keys()):
        where = f"service {address}"
        ours, other = (_service_lines(each[address]) if address in each else [] for each in (mine, theirs))
        for line, another in zip_longest(ours, other):
            if line != another:
                yield Difference(name, where, line, another)


def _service_lines(status: ServiceStatus) -> list[str]:
    def totals(stats: Stats) -> str:
        return " ".join(f"{key} {value}" for key, value in _totals(stats)._asdict().items() if value) or "no traffic"

    lines = [f"{status.service.scheduler}: {totals(status.stats)}"]
    for server in status.servers:
        asked = server.server
        lines.append(
            f"{asked.address} {asked.forward} weight {asked.weight} active {server.active_connections}"
            f" inactive {server.inactive_connections} persistent {server.persistent_connections}:"
            f" {totals(server.stats)}"
        )
    return lines


def _tables(name: str, kernel: Sequence[SavedTable], emulated: Sequence[SavedTable]) -> Iterable[Difference]:
    mine = {(table.family, table.name): table for table in kernel}
    theirs = {(table.family, table.name): table for table in emulated}
    for key in sorted(mine.keys() | theirs.keys()):
        where = f"table {'inet6' if key[0] == 10 else 'inet'}/{key[1]}"
        if key not in mine or key not in theirs:
            yield Difference(name, where, "there" if key in mine else None, "there" if key in theirs else None)
            continue
        chains = {chain.name: chain for chain in mine[key].chains}
        others = {chain.name: chain for chain in theirs[key].chains}
        for chain in sorted(chains.keys() | others.keys()):
            ours, other = (_chain_lines(each[chain]) if chain in each else [] for each in (chains, others))
            for line, another in zip_longest(ours, other):
                # The kernel prints a rule in words of its own, so what a rule says is not compared: only its counters.
                if (line and line[0]) != (another and another[0]):
                    mine_text, their_text = (f"{each[0]} {each[1]}" if each else None for each in (line, another))
                    yield Difference(name, f"{where} {chain}", mine_text, their_text)


def _chain_lines(chain: SavedChain) -> list[tuple[str, str]]:
    lines = [(f"[{chain.packets}:{chain.bytes}]", f"policy {chain.policy}")] if chain.policy else []
    return lines + [(f"[{saved.packets}:{saved.bytes}]", str(saved.rule)) for saved in chain.rules]
