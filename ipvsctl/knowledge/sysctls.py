"""Every sysctl of IPVS, and those of connection tracking and IP that a director depends on.

A name is written as sysctl(8) does, with dots; a dot inside a device's name is "/": net.ipv4.conf.eth0/100.rp_filter.
A kernel may have sysctls that are not here: those are left to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.sysctl_inet import INET_SYSCTLS
from ipvsctl.knowledge.sysctl_ipvs import IPVS_SYSCTLS
from ipvsctl.knowledge.sysctl_netfilter import NETFILTER_SYSCTLS
from ipvsctl.knowledge.sysctl_values import Sysctl, read

__all__ = ["SYSCTLS", "Sysctl", "canonical", "check", "find", "read"]

SYSCTLS: Mapping[str, Sysctl] = {**IPVS_SYSCTLS, **NETFILTER_SYSCTLS, **INET_SYSCTLS}
"""By name, with "*" for a device."""


def find(name: str) -> Sysctl | None:
    """The row of a sysctl; of net.ipv4.conf.eth0.rp_filter that of net.ipv4.conf.*.rp_filter. None: not known."""
    if "*" in name:
        return None
    row = SYSCTLS.get(name)
    if row is None and name.count(".") == 4:
        net, family, conf, device, last = name.split(".")
        if device and conf == "conf":
            return SYSCTLS.get(f"{net}.{family}.conf.*.{last}")
    return row


def canonical(name: str, value: str) -> str:
    """The value as the kernel will print it, with single blanks; a sysctl not known here: the value's own words.

    Raises UsageError for a value that the kernel would refuse, and for a sysctl that can only be read.
    """
    row = find(name)
    if row is None:
        return " ".join(value.split())
    if not row.writable:
        raise UsageError(f"{name} can only be read")
    try:
        return read(row, value)
    except ValueError:
        raise UsageError(f"{name}: {value!r} is not a value the kernel takes, expected {row.expected}") from None


def check(name: str, value: str) -> None:
    """Raises UsageError for a value that the kernel would refuse, and for a sysctl that can only be read."""
    canonical(name, value)
