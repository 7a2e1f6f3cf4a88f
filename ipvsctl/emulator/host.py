"""An emulated director in this process: the six ports over one state."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ipvsctl.emulator.conntrack import EmulatedConntrack
from ipvsctl.emulator.firewall import EmulatedFirewall
from ipvsctl.emulator.ipvs import EmulatedIpvs
from ipvsctl.emulator.modules import EmulatedModules, request
from ipvsctl.emulator.routing import EmulatedRouting
from ipvsctl.emulator.state import State
from ipvsctl.emulator.sysctls import EmulatedSysctl, appear
from ipvsctl.host import ConntrackPort, FirewallPort, IpvsPort, ModulesPort, RoutingPort, SysctlPort
from ipvsctl.model.status import NO_STATS

if TYPE_CHECKING:
    from ipvsctl.model.connection import Fate
    from ipvsctl.model.facts import Facts
    from ipvsctl.model.snapshot import Snapshot
    from ipvsctl.model.status import Connection, Stats


class EmulatedHost:
    """A director without a kernel. Two hosts made over the same state are the same director."""

    ipvs: IpvsPort
    conntrack: ConntrackPort
    firewall: FirewallPort
    routing: RoutingPort
    sysctl: SysctlPort
    modules: ModulesPort

    def __init__(self, name: str = "default", state: State | None = None) -> None:
        self.name = f"emulator:{name}"
        self.instance = os.urandom(16).hex()
        self.identity = f"emulator-{name}-{self.instance}"
        self.state = State() if state is None else state
        if not self.state.sysctls:
            appear(self.state, "")
        self.ipvs = EmulatedIpvs(self.state)
        self.conntrack = EmulatedConntrack(self.state)
        self.firewall = EmulatedFirewall(self.state)
        self.routing = EmulatedRouting(self.state)
        self.sysctl = EmulatedSysctl(self.state)
        self.modules = EmulatedModules(self.state)

    def connections(self) -> Iterator[Connection]:
        """The connections of the packets that were handed in."""
        request(self.state, "ip_vs")
        return iter(()) if self.state.datapath is None else self.state.datapath.connections()

    def totals(self) -> Stats:
        """What was counted for all packets that were handed in."""
        request(self.state, "ip_vs")
        return NO_STATS if self.state.datapath is None else self.state.datapath.totals()

    def inject(self, device: str, packets: Iterable[bytes]) -> list[Fate]:
        """Packets (from their IP headers on) come in by a device, now; what becomes of each.

        Raises UsageError for a device that is not there, and what a configuration raises that the datapath has no way
        to follow.
        """
        if self.state.datapath is None:
            from ipvsctl.emulator.connections import Datapath

            self.state.datapath = Datapath(self.state)
        return self.state.datapath.inject(device, packets)

    def evidence(self) -> Facts:
        """The rules; there is no network to look at."""
        from ipvsctl.emulator.evidence import read

        return read(self.snapshot())

    def snapshot(self) -> Snapshot:
        """Services, settings and rules, in a network that is assumed around them."""
        from ipvsctl.emulator.snapshot import read

        return read(self.state)

    def close(self) -> None:
        """Nothing to give back."""
