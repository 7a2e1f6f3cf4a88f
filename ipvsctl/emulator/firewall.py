"""The firewall port of an emulated director: our own chains in the tables of iptables-legacy.

What iptables and the kernel refuse is refused: chains, hooks, matches, options and targets that are not there, a port
without its protocol, a helper without its module. Loading follows: a rule brings its table's module and those of its
extensions, and with them connection tracking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import NamedTuple

from ipvsctl.emulator.modules import request
from ipvsctl.emulator.state import State
from ipvsctl.errors import Refused, Unavailable, UsageError
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.change import ReplaceRules
from ipvsctl.model.director import BACKENDS
from ipvsctl.model.rule import CHAIN_PREFIX, Match, Options, OwnChain, Rule

LEGACY = "iptables-legacy"

_HOOKS = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "raw": ("PREROUTING", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_NAME_LENGTH = 28
_DEVICE_LENGTH = 15
_PORTS = {"sport", "dport", "!sport", "!dport"}


class _Extension(NamedTuple):
    """A match or target: its module, its options, the protocols it needs (any of them), the tables it is for."""

    module: str
    options: frozenset[str] = frozenset()
    protocols: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


def _extension(module: str, options: str = "", protocols: str = "", tables: str = "") -> _Extension:
    names = options.split()
    both = frozenset([*names, *(f"!{name}" for name in names)])
    return _Extension(module, both, tuple(protocols.split()), tuple(tables.split()))


_MATCHES = {
    "tcp": _extension("xt_tcpudp", "sport dport tcp-flags syn tcp-option", "tcp 6"),
    "udp": _extension("xt_tcpudp", "sport dport", "udp 17"),
    "sctp": _extension("xt_sctp", "sport dport chunk-types", "sctp 132"),
    "multiport": _extension("xt_multiport", "sports dports ports", "tcp udp udplite dccp sctp 6 17 33 132 136"),
    "conntrack": _extension(
        "xt_conntrack",
        "ctstate ctproto ctorigsrc ctorigdst ctreplsrc ctrepldst ctorigsrcport ctorigdstport ctstatus ctexpire ctdir",
    ),
    "state": _extension("xt_state", "state"),
    "helper": _extension("xt_helper", "helper"),
    "comment": _extension("xt_comment", "comment"),
    "mark": _extension("xt_mark", "mark"),
    "connmark": _extension("xt_connmark", "mark"),
    "addrtype": _extension("xt_addrtype", "src-type dst-type limit-iface-in limit-iface-out"),
    "ipvs": _extension("xt_ipvs", "ipvs vproto vaddr vport vdir vmethod vportctl"),
    "limit": _extension("xt_limit", "limit limit-burst"),
    "iprange": _extension("xt_iprange", "src-range dst-range"),
}
_TARGETS = {
    "CT": _extension("xt_CT", "helper notrack zone ctevents expevents timeout", tables="raw"),
    "NOTRACK": _extension("xt_CT", tables="raw"),
    "LOG": _extension("xt_LOG", "log-prefix log-level log-uid log-tcp-sequence log-tcp-options log-ip-options"),
    "MARK": _extension("xt_mark", "set-mark set-xmark and-mark or-mark xor-mark"),
    "REJECT": _extension("REJECT", "reject-with", tables="filter"),
}
_VERDICTS = ("ACCEPT", "DROP", "RETURN")
_PROTOCOLS = {
    "0": "", "all": "", "1": "icmp", "6": "tcp", "17": "udp", "47": "gre", "50": "esp", "51": "ah", "58": "ipv6-icmp",
    "132": "sctp", "136": "udplite",
}  # fmt: skip
"""How iptables-save prints a protocol."""

_PROTOCOL_NAMES = frozenset([*_PROTOCOLS, *_PROTOCOLS.values(), "icmpv6", "icmp6"])

_HELPERS = {
    "amanda": "udp", "ftp": "tcp", "irc": "tcp", "pptp": "tcp", "sane": "tcp", "sip": "tcp udp", "snmp": "udp",
    "tftp": "udp",
}  # fmt: skip


class EmulatedFirewall:
    """The firewall port of an emulated director."""

    def __init__(self, state: State) -> None:
        self._state = state

    def backend(self, wanted: str = "auto") -> str:
        if wanted not in BACKENDS:
            raise UsageError(f"firewall back end {wanted!r} is unknown, expected {', '.join(BACKENDS)}")
        if wanted not in ("auto", LEGACY):
            raise Unavailable(f"an emulated host has no firewall back end {wanted}, use {LEGACY}")
        return LEGACY

    def chains(self) -> tuple[OwnChain, ...]:
        found = (chain for chains in self._state.chains.values() for chain in chains)
        return tuple(sorted(found, key=lambda chain: (chain.family, chain.table, chain.name)))

    def tables(self) -> frozenset[tuple[int, str]]:
        return frozenset(self._state.chains)

    def notes(self) -> tuple[str, ...]:
        return ()

    def replace(self, change: ReplaceRules) -> None:
        self.backend(change.backend)
        key = (change.family, change.table)
        if not change.after:
            if change.drops:
                # A table goes with its module; there is no other namespace here that could have it.
                self._state.chains.pop(key, None)
                self._state.modules.discard(_table_module(change))
            elif key in self._state.chains:
                self._state.chains[key] = ()
            return
        modules = list(_modules(change))
        for module in modules:
            if not request(self._state, module):
                raise _refused(change, f"module {module} is not there")
        self._state.chains[key] = tuple(_as_read_back(chain) for chain in change.after)


def _refused(change: ReplaceRules, reason: str) -> Refused:
    return Refused(f"cannot {change}: {reason}")


def _table_module(change: ReplaceRules) -> str:
    return f"ip{'6' if change.family == INET6 else ''}table_{change.table}"


def _modules(change: ReplaceRules) -> Iterator[str]:
    """Check a change as a whole, and name the modules that it loads; raises Refused."""
    hooks = _HOOKS.get(change.table)
    if hooks is None or change.family not in (INET, INET6):
        raise _refused(change, f"there is no table {change.table!r}")
    yield _table_module(change)
    names = [chain.name for chain in change.after]
    for chain in change.after:
        if (chain.family, chain.table) != (change.family, change.table):
            raise _refused(change, f"chain {chain.name} belongs to {chain}")
        plain = chain.name.isascii() and chain.name.isprintable() and " " not in chain.name
        ours = plain and chain.name.startswith(CHAIN_PREFIX) and len(chain.name) <= _NAME_LENGTH
        if not ours or names.count(chain.name) > 1:
            ours_are = f"{CHAIN_PREFIX}..., at most {_NAME_LENGTH} characters, once"
            raise _refused(change, f"{chain.name!r} is not a chain of ours: {ours_are}")
        if chain.jump:
            for hook in chain.hook.split(","):
                if hook not in hooks:
                    raise _refused(change, f"{hook!r} is not a built-in chain of table {change.table}")
            yield "xt_comment"
        for rule in chain.rules:
            yield from _rule_modules(change, rule)


def _rule_modules(change: ReplaceRules, rule: Rule) -> Iterator[str]:
    subject = f"rule {rule}"
    for address in (rule.source, rule.destination):
        _check_address(change, subject, address.removeprefix("!"))
    for device in (rule.in_interface, rule.out_interface):
        if len(device.removeprefix("!")) > _DEVICE_LENGTH:
            raise _refused(change, f"{subject}: {device!r} is not a device name of 1..{_DEVICE_LENGTH} characters")
    protocol = rule.protocol.removeprefix("!")
    if protocol not in _PROTOCOL_NAMES and not (
        protocol.isascii() and protocol.isdigit() and len(protocol) < 4 and int(protocol) < 256
    ):
        raise _refused(change, f"{subject}: {rule.protocol!r} is not a protocol that a rule can name")
    for match in rule.matches:
        yield from _match_modules(change, rule, match)
    if rule.target in _VERDICTS or any(rule.target == chain.name for chain in change.after):
        return
    target = _TARGETS.get(rule.target)
    if target is None:
        raise _refused(change, f"{subject}: there is no target {rule.target}")
    if target.tables and change.table not in target.tables:
        raise _refused(change, f"{subject}: target {rule.target} is for table {' '.join(target.tables)}")
    _check_options(change, subject, rule.target, rule.target_options, target)
    if rule.target == "REJECT":
        yield "ip6t_REJECT" if change.family == INET6 else "ipt_REJECT"
        return
    yield target.module
    helper = dict(rule.target_options).get("helper")
    if helper is not None:
        if rule.protocol not in _HELPERS.get(helper, "").split():
            raise _refused(change, f"{subject}: there is no helper {helper!r} for protocol {rule.protocol or 'any'}")
        yield f"nf_conntrack_{helper}"


def _match_modules(change: ReplaceRules, rule: Rule, match: Match) -> Iterator[str]:
    subject = f"rule {rule}"
    known = _MATCHES.get(match.name)
    if known is None:
        raise _refused(change, f"{subject}: there is no match {match.name}")
    if known.protocols and rule.protocol not in known.protocols:
        raise _refused(change, f"{subject}: match {match.name} needs -p {known.protocols[0]}")
    _check_options(change, subject, match.name, match.options, known)
    yield known.module


def _check_options(change: ReplaceRules, subject: str, name: str, options: Options, known: _Extension) -> None:
    for option, value in options:
        if option not in known.options:
            raise _refused(change, f"{subject}: {name} has no option --{option}")
        ports = value.split(":") if option in _PORTS else []
        if len(ports) > 2 or not all(port.isascii() and port.isdigit() and int(port) <= 65535 for port in ports):
            raise _refused(change, f"{subject}: {value!r} is not a port or a range of ports")


def _as_read_back(chain: OwnChain) -> OwnChain:
    """The chain as the table has it: of one without a jump only the name tells the hook."""
    rules = tuple(
        replace(
            rule,
            protocol=_protocol(rule.protocol),
            source=_network(rule.source),
            destination=_network(rule.destination),
        )
        for rule in chain.rules
    )
    if chain.jump:
        return replace(chain, rules=rules)
    rest = chain.name.removeprefix(CHAIN_PREFIX)
    hook = next((h for h in _HOOKS[chain.table] if rest == h or rest.startswith(f"{h}-")), "")
    return replace(chain, rules=rules, hook=hook, place="")


def _protocol(text: str) -> str:
    plain = text.removeprefix("!")
    return text[: len(text) - len(plain)] + _PROTOCOLS.get(plain, plain)


def _network(text: str) -> str:
    """An address as iptables-save prints it, without the prefix length of a single host."""
    if not text:
        return ""
    plain = text.removeprefix("!")
    network = ip_network(plain, strict=False)
    sign = text[: len(text) - len(plain)]
    if network.prefixlen == 0:
        return ""
    return sign + (str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network))


def _check_address(change: ReplaceRules, subject: str, text: str) -> None:
    if not text:
        return
    try:
        fits = ip_network(text, strict=False).version == (6 if change.family == INET6 else 4)
    except ValueError:
        fits = False
    if not fits:
        raise _refused(change, f"{subject}: {text!r} is not an address of the table's family")
