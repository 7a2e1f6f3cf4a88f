"""Firewall rules as values, and the chains that ipvsctl owns.

A rule says only what iptables-save could print of it. An own chain knows the built-in chain that jumps to it: one jump
each, tagged with a comment; ipvsctl writes nothing else into a chain that is not its own, and never a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipvsctl.model.address import INET6

TAG = "ipvsctl"
"""Comment of every jump into an own chain."""

CHAIN_PREFIX = "IPVSCTL-"
"""Every chain with this prefix is ipvsctl's own."""

Options = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Match:
    """An extension match: `-m name --option value ...`; an option without value has the value ""."""

    name: str
    options: Options = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Addresses are canonical text with a prefix length only where it is not the whole address; "" is any."""

    target: str
    protocol: str = ""
    source: str = ""
    destination: str = ""
    in_interface: str = ""
    out_interface: str = ""
    matches: tuple[Match, ...] = ()
    target_options: Options = ()

    def __str__(self) -> str:
        """The rule's arguments in iptables-save's order (without `-A CHAIN`)."""
        words: list[str] = []
        for option, value in (
            ("-s", self.source), ("-d", self.destination), ("-i", self.in_interface), ("-o", self.out_interface),
            ("-p", self.protocol),
        ):  # fmt: skip
            if value:
                words += [option, value]
        for match in self.matches:
            words += ["-m", match.name, *_option_words(match.options)]
        words += ["-j", self.target, *_option_words(self.target_options)]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class OwnChain:
    """A chain of ours in a table, and the jump to it.

    `family` INET or INET6; `hook` the built-in chain that jumps here; `place` "first" or "last": where the jump is put
    when it is not there yet (an existing jump stays where the administrator has it). As found on a host, `place` is ""
    when the jump is missing.
    """

    family: int
    table: str
    name: str
    hook: str
    rules: tuple[Rule, ...] = ()
    place: str = field(default="first", compare=False)
    jump: bool = True

    def __str__(self) -> str:
        tool = "ip6tables" if self.family == INET6 else "iptables"
        return f"{tool} -t {self.table} {self.name}"


def _option_words(options: Options) -> list[str]:
    words = []
    for name, value in options:
        words.append(f"--{name}")
        if value:
            words.append(f'"{value}"' if " " in value else value)
    return words
