"""Sysctls that are one variable of the kernel under two names, and files that set it to two values.

Source: nf_conntrack_standalone.c (nf_ct_netfilter_table, nf_ct_sysctl_table: both are nf_conntrack_max) and devinet.c
(ctl_forward_entry, devinet_sysctl: both are IPV4_DEVCONF_ALL's forwarding).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.sysctls import canonical

ALIASES: Mapping[str, str] = {
    "net.nf_conntrack_max": "net.netfilter.nf_conntrack_max",
    "net.ipv4.conf.all.forwarding": "net.ipv4.ip_forward",
}
"""A name -> the name that is used for it elsewhere."""


class Contradiction(UsageError):
    """One variable is to have two values; `name` is the second of the two names."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


def check_aliases(sysctls: Iterable[tuple[str, str]]) -> None:
    """Raises Contradiction where two names of one variable have different values: the last one set would win."""
    known: dict[str, tuple[str, str]] = {}
    for name, value in sysctls:
        first, before = known.setdefault(ALIASES.get(name, name), (name, value))
        if canonical(first, before) != canonical(name, value):
            raise Contradiction(
                name, f"{name} = {value} contradicts {first} = {before}: both are the same variable of the kernel"
            )
