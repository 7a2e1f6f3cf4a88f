"""What a check is, and the words that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ipvsctl.model.address import INET6, ServiceAddress
from ipvsctl.model.facts import PARTS, Facts
from ipvsctl.model.finding import SEVERITIES, Finding, Mend


class Seen(NamedTuple):
    """What a check saw in one place. `severity` "" is the check's own; see Finding for the rest."""

    subject: object
    why: str
    fix: str = ""
    persist: str = ""
    mend: Mend = Mend()
    severity: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `look` is called only when all the parts of the evidence that it `needs` are there."""

    id: str
    title: str
    severity: str
    needs: tuple[str, ...]
    source: str
    look: Callable[[Facts], Iterator[Seen]]

    def findings(self, facts: Facts) -> Iterator[Finding]:
        """What the check finds; nothing when evidence that it needs is missing."""
        if self.missing(facts):
            return
        for seen in self.look(facts):
            yield Finding(
                self.id, seen.severity or self.severity, str(seen.subject), seen.why, seen.fix, seen.persist,
                self.source, seen.mend,
            )  # fmt: skip

    def missing(self, facts: Facts) -> tuple[str, ...]:
        """The parts that it needs and that are missing."""
        return tuple(part for part in self.needs if part in facts.missing)


def check(
    id: str, title: str, severity: str, needs: str, source: str, look: Callable[[Facts], Iterator[Seen]]
) -> Check:
    """A row of a table of checks; `needs` are words of PARTS."""
    parts = tuple(needs.split())
    if severity not in SEVERITIES or not set(parts) <= PARTS.keys():
        raise ValueError(f"{id}: {severity} {needs}")
    return Check(id, title, severity, parts, source, look)


IN_FILE = "in the director file, then `ipvsctl persist FILE --write`"


def set_sysctl(name: str, value: object) -> str:
    return f"ipvsctl sysctl set {name} {value}"


def keep_sysctl(name: str, value: object) -> str:
    """How a sysctl stays set."""
    return f'"{name}" = {value} under [sysctl] {IN_FILE}'


def by_sysctl(name: str, value: object) -> tuple[str, str, Mend]:
    """Command, persistence and mend of what one sysctl mends."""
    return by_sysctls((name,), value)


def by_sysctls(names: Iterable[str], value: object) -> tuple[str, str, Mend]:
    """The same of several that get one value."""
    known = tuple(names)
    return (
        " && ".join(set_sysctl(name, value) for name in known),
        keep_sysctl(", ".join(known), value),
        Mend(sysctls=tuple((name, str(value)) for name in known)),
    )


def some(items: Iterable[object], limit: int = 4) -> str:
    """The first few of many, as a list in a sentence."""
    words = [str(item) for item in items]
    return ", ".join(words) if len(words) <= limit else f"{', '.join(words[:limit])} and {len(words) - limit} more"


def tool(address: ServiceAddress) -> str:
    """The iptables of an address's family."""
    return "ip6tables" if address.family == INET6 else "iptables"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
