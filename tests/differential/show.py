"""Differences and results for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ipvsctl.errors import UsageError
from ipvsctl.formats import iptables_save, packet_text
from ipvsctl.wire.address import readable
from tests.differential.compare import Difference, connection_text, entry_text
from tests.differential.result import Result
from tests.differential.scenario import Scenario, Step


def packet_line(packet: bytes | str | None) -> str:
    """A packet in short notation, or the text that stands in its place."""
    if packet is None:
        return "nothing"
    if isinstance(packet, str):
        return packet
    try:
        return f"{packet_text.describe(packet)}"
    except (UsageError, ValueError):
        return f"hex {packet.hex()}"


def step_line(number: int, step: Step) -> str:
    """What a step does."""
    match step.do:
        case "in" | "send":
            way = f"in {step.device}" if step.do == "in" else "send"
            told = "; ".join(map(packet_line, step.packets))
            return f"step {number} at {step.at:g}: {way}: {told}"
        case "change":
            return f"step {number} at {step.at:g}: {step.change}"
        case "sysctl":
            return f"step {number} at {step.at:g}: " + ", ".join(f"{name} = {value}" for name, value in step.sysctls)
    return f"step {number} at {step.at:g}: {step.do}"


def differences(scenario: Scenario, found: Sequence[Difference]) -> Iterable[str]:
    """Lines on what differs in a scenario, in the order of what happened."""
    yield f"{scenario.name}: {scenario.about}"
    last = ""
    for each in found:
        if each.where != last:
            last = each.where
            words = each.where.split()
            if words[0] == "step":
                number = int(words[1])
                yield f"  {step_line(number, scenario.steps[number - 1])}"
            yield f"  {each.where}:"
        note = f" ({each.note})" if each.note else ""
        yield f"    kernel    {packet_line(each.kernel)}{note}"
        yield f"    emulated  {packet_line(each.emulated)}"
        if isinstance(each.kernel, bytes) and isinstance(each.emulated, bytes):
            yield from _bytes(each.kernel, each.emulated)


def _bytes(kernel: bytes, emulated: bytes) -> Iterable[str]:
    """The two packets in hexadecimal, when their short forms are alike; differing bytes are marked."""
    if packet_line(kernel) != packet_line(emulated):
        return
    marks = "".join(
        "^^" if kernel[at : at + 1] != emulated[at : at + 1] else "  " for at in range(max(len(kernel), len(emulated)))
    )
    yield f"    kernel    {kernel.hex()}"
    yield f"    emulated  {emulated.hex()}"
    yield f"              {marks.rstrip()}"


def result(scenario: Scenario, found: Result) -> Iterable[str]:
    """Lines on what a director did."""
    yield f"{scenario.name}: {scenario.about}"
    if found.error:
        yield f"  {found.error}"
        return
    for number, (step, outputs) in enumerate(zip(scenario.steps, found.steps, strict=True), 1):
        yield f"  {step_line(number, step)}"
        for sent in outputs:
            hop = readable(sent.next_hop) if sent.next_hop else "?"
            yield f"    {sent.device} to {hop}: {packet_line(sent.packet)}"
    for title, lines in (
        ("conntrack", map(entry_text, found.conntrack)),
        ("connections", map(connection_text, found.connections)),
    ):
        for line in sorted(lines):
            yield f"  {title}: {line}"
    for status in found.services:
        yield f"  service {status.service.address}: {status.stats.connections} connections"
        for server in status.servers:
            yield (f"    {server.server.address}: active {server.active_connections} inactive"
                   f" {server.inactive_connections}, {server.stats.packets_in} packets in")  # fmt: skip
    for line in iptables_save.render(found.tables).splitlines() if found.tables else ():
        yield f"  {line}"
