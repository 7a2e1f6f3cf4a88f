"""The kernel as a host: the network namespace that the process is in.

A port is made when it is first used, and with it what it imports: `ipvsctl list` never loads python-iptables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipvsctl.host import ConntrackPort, FirewallPort, Host, IpvsPort, ModulesPort, SysctlPort
    from ipvsctl.model.snapshot import Snapshot


class KernelHost:
    """The five ports on Linux, in the namespace that the process is in when one is first used.

    `identity` names that namespace (kernel/namespace.py).
    """

    name: str = "kernel"
    identity: str
    ipvs: IpvsPort
    conntrack: ConntrackPort
    firewall: FirewallPort
    sysctl: SysctlPort
    modules: ModulesPort

    @classmethod
    def open(cls, netns: str | None = None) -> KernelHost:
        """The host in a network namespace (a name, a path or a process's number), or in the one we are in.

        The process stays in the namespace. Raises NotFound, NotPermitted or UsageError.
        """
        if netns is not None:
            from ipvsctl.kernel.namespace import enter

            enter(netns)
        return cls()

    def __getattr__(self, name: str) -> Any:
        # Asked only for what is not there yet.
        make = _LATE.get(name)
        if make is None:
            raise AttributeError(f"a kernel host has no {name!r}")
        value = make()
        setattr(self, name, value)
        return value

    def snapshot(self) -> Snapshot:
        """The namespace's devices, routes, rules, sysctls and services; nothing is loaded for it."""
        from ipvsctl.kernel.snapshot import read

        return read(self)

    def close(self) -> None:
        """Close what is open; a port that is used again opens what it needs."""
        close = getattr(self.__dict__.get("ipvs"), "close", None)
        if close is not None:
            close()


def _identity() -> str:
    from ipvsctl.kernel.namespace import identity

    return identity()


def _ipvs() -> IpvsPort:
    from ipvsctl.kernel.ipvs import KernelIpvs

    return KernelIpvs()


def _conntrack() -> ConntrackPort:
    from ipvsctl.kernel.conntrack import KernelConntrack

    return KernelConntrack()


def _firewall() -> FirewallPort:
    from ipvsctl.kernel.firewall import KernelFirewall

    return KernelFirewall()


def _sysctl() -> SysctlPort:
    from ipvsctl.kernel.sysctl import KernelSysctl

    return KernelSysctl()


def _modules() -> ModulesPort:
    from ipvsctl.kernel.modules import KernelModules

    return KernelModules()


_LATE: Mapping[str, Callable[[], object]] = {
    "identity": _identity,
    "ipvs": _ipvs,
    "conntrack": _conntrack,
    "firewall": _firewall,
    "sysctl": _sysctl,
    "modules": _modules,
}

if TYPE_CHECKING:
    _: Host = KernelHost()
