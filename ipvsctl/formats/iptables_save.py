"""Rules as iptables-save and ip6tables-save (1.8) print them, and as people write them for iptables-restore.

    *filter
    :INPUT DROP [12:840]
    :web - [0:0]
    [3:180] -A INPUT -s 10.0.0.0/8 ! -i lo -p tcp -m tcp --dport 80 -m comment --comment "a b" -j web
    COMMIT

What Rule has no word for, the fragments of `-f`, is a match "entry" with the option "fragment"; `-g` is a flag of
SavedRule. A "!" stands before the value it negates; an option without a value then has the value "!".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ipvsctl.errors import UsageError
from ipvsctl.formats.iptables_rule import LONG, RuleReader
from ipvsctl.formats.iptables_words import TEXTS, quote, saved_network, split
from ipvsctl.model.rule import Options
from ipvsctl.model.snapshot import SavedChain, SavedRule, SavedTable

BUILT_IN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
"""The chains that every table has, in the order in which iptables-save prints them."""

LONGEST_CHAIN = 28

_COUNTERS = re.compile(r"\[(\d+):(\d+)\]")


class _Chain:
    """A chain while it is read."""

    def __init__(self, policy: str, packets: int = 0, octets: int = 0) -> None:
        self.policy, self.packets, self.octets = policy, packets, octets
        self.rules: list[SavedRule] = []


def parse(text: str, family: int) -> tuple[SavedTable, ...]:
    """The tables of a text, `family` INET or INET6; raises UsageError with the line and what is wrong in it.

    A table that comes twice is the later one, as a restore would leave it.
    """
    tables: dict[str, SavedTable] = {}
    name, chains = "", dict[str, _Chain]()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            if line.startswith("*"):
                if name:
                    raise UsageError(f"table {name} has no COMMIT yet")
                name, chains = line[1:].strip(), {}
                if name not in BUILT_IN:
                    raise UsageError(f"there is no table {name!r}, expected {', '.join(BUILT_IN)}")
            elif not name:
                raise UsageError("this is outside of a table, expected *TABLE")
            elif line == "COMMIT":
                tables.pop(name, None)
                tables[name] = _table(family, name, chains)
                name = ""
            elif line.startswith(":"):
                _read_chain(name, chains, line[1:])
            else:
                _read_command(family, name, chains, line)
        except UsageError as error:
            raise UsageError(f"line {number}: {error}: {line}") from None
    if name:
        raise UsageError(f"table {name} has no COMMIT: iptables-restore would not load it")
    return tuple(tables.values())


def _table(family: int, name: str, chains: dict[str, _Chain]) -> SavedTable:
    for built_in in BUILT_IN[name]:
        chains.setdefault(built_in, _Chain("ACCEPT"))
    order = sorted(chains, key=lambda chain: BUILT_IN[name].index(chain) if chain in BUILT_IN[name] else len(chains))
    found = (
        SavedChain(key, chains[key].policy, tuple(chains[key].rules), chains[key].packets, chains[key].octets)
        for key in order
    )
    return SavedTable(family, name, tuple(found))


def _read_chain(table: str, chains: dict[str, _Chain], text: str) -> None:
    words = text.split()
    if len(words) not in (2, 3):
        raise UsageError("expected :CHAIN POLICY [PACKETS:BYTES]")
    name, policy = words[:2]
    counters = _COUNTERS.fullmatch(words[2]) if len(words) == 3 else None
    if len(words) == 3 and counters is None:
        raise UsageError(f"{words[2]!r} are no counters, expected [PACKETS:BYTES]")
    _check_name(name)
    if name in BUILT_IN[table]:
        if policy not in ("ACCEPT", "DROP"):
            raise UsageError(f"{policy!r} is not a policy, expected ACCEPT or DROP")
        packets, octets = (int(counters[1]), int(counters[2])) if counters else (0, 0)
        chains[name] = _Chain(policy, packets, octets)
    else:
        if policy != "-":
            raise UsageError(f"{name} is not a built-in chain of table {table}, it has no policy")
        chains[name] = _Chain("")


def _check_name(name: str) -> None:
    if len(name.encode()) > LONGEST_CHAIN or name.startswith(("-", "!")):
        raise UsageError(f"{name!r} is not a name for a chain, expected at most {LONGEST_CHAIN} characters")


def _read_command(family: int, table: str, chains: dict[str, _Chain], line: str) -> None:
    packets = octets = 0
    if counters := _COUNTERS.match(line):
        packets, octets = int(counters[1]), int(counters[2])
        line = line[counters.end() :]
    words = split(line)
    command = LONG.get(words[0].text, words[0].text) if words else ""
    if command == "-t" and len(words) > 3 and words[1].text == table:
        words = words[2:]
        command = LONG.get(words[0].text, words[0].text)
    if command not in ("-A", "-I", "-N", "-P", "-F"):
        raise UsageError(f"{command!r} is not understood here, expected -A, -I, -N, -P or -F")
    name = words[1].text if len(words) > 1 else ""
    if command == "-F":
        for key in [name] if name else list(chains):
            _existing(table, chains, key).rules.clear()
        return
    if command == "-N":
        _check_name(name)
        if not name or name in chains or name in BUILT_IN[table]:
            raise UsageError(f"chain {name!r} exists already or is no name")
        chains[name] = _Chain("")
        return
    chain = _existing(table, chains, name)
    if command == "-P":
        if len(words) != 3 or name not in BUILT_IN[table] or words[2].text not in ("ACCEPT", "DROP"):
            raise UsageError("expected -P BUILT-IN-CHAIN ACCEPT or DROP")
        chain.policy = words[2].text
        return
    words = words[2:]
    position = len(chain.rules)
    if command == "-I":
        position = 0
        if words and words[0].text.isascii() and words[0].text.isdigit():
            position = int(words.pop(0).text) - 1
        if not 0 <= position <= len(chain.rules):
            raise UsageError(f"chain {name} has not so many rules")
    reader = RuleReader(family, words)
    reader.packets, reader.octets = packets, octets
    chain.rules[position:position] = reader.read()


def _existing(table: str, chains: dict[str, _Chain], name: str) -> _Chain:
    if name in BUILT_IN[table]:
        return chains.setdefault(name, _Chain("ACCEPT"))
    if name not in chains:
        raise UsageError(f"there is no chain {name!r} in table {table}")
    return chains[name]


# -- writing ----------------------------------------------------------------------------------------------------------


def render(tables: Iterable[SavedTable]) -> str:
    """What iptables-save -c prints of tables of one family, without the lines that begin with "#"."""
    lines: list[str] = []
    for table in tables:
        lines.append(f"*{table.name}")
        lines += [f":{each.name} {each.policy or '-'} [{each.packets}:{each.bytes}]" for each in table.chains]
        for chain in table.chains:
            for saved in chain.rules:
                words = rule_text(table.family, saved)
                lines.append(f"[{saved.packets}:{saved.bytes}] -A {chain.name} {words}".rstrip())
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def rule_text(family: int, saved: SavedRule) -> str:
    """A rule as iptables-save prints it, from behind `-A CHAIN`."""
    rule = saved.rule
    words: list[str] = []
    for option, value in (("-s", rule.source), ("-d", rule.destination)):
        if value:
            plain = value.removeprefix("!")
            words += _signed(option, value, saved_network(family, plain))
    for option, value in (("-i", rule.in_interface), ("-o", rule.out_interface), ("-p", rule.protocol)):
        if value:
            words += _signed(option, value, value.removeprefix("!"))
    for match in rule.matches:
        if match.name == "entry" and match.options[:1] in ((("fragment", ""),), (("fragment", "!"),)):
            words += ["!", "-f"] if match.options[0][1] else ["-f"]
        else:
            words += ["-m", match.name, *_option_words(match.options)]
    if rule.target:
        words += ["-g" if saved.goto else "-j", rule.target, *_option_words(rule.target_options)]
    return " ".join(words)


def _signed(option: str, value: str, plain: str) -> list[str]:
    return ["!", option, plain] if value.startswith("!") else [option, plain]


def _option_words(options: Options) -> list[str]:
    words: list[str] = []
    for name, value in options:
        # A comment or a prefix cannot be negated: their "!" is text.
        negated = value.startswith("!") and (name not in TEXTS or name == "helper")
        plain = value[1:] if negated else value
        words += ["!", f"--{name}"] if negated else [f"--{name}"]
        if name in TEXTS:
            words.append(quote(plain))
        elif plain:
            words.append(plain)
    return words
