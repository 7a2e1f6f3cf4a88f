"""An emulated director in this process: the five ports over one state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ipvsctl.emulator.conntrack import EmulatedConntrack
from ipvsctl.emulator.firewall import EmulatedFirewall
from ipvsctl.emulator.ipvs import EmulatedIpvs
from ipvsctl.emulator.modules import EmulatedModules
from ipvsctl.emulator.state import State
from ipvsctl.emulator.sysctls import EmulatedSysctl, appear
from ipvsctl.host import ConntrackPort, FirewallPort, IpvsPort, ModulesPort, SysctlPort

if TYPE_CHECKING:
    from ipvsctl.model.snapshot import Snapshot


class EmulatedHost:
    """A director without a kernel. Two hosts made over the same state are the same director."""

    ipvs: IpvsPort
    conntrack: ConntrackPort
    firewall: FirewallPort
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
        self.sysctl = EmulatedSysctl(self.state)
        self.modules = EmulatedModules(self.state)

    def snapshot(self) -> Snapshot:
        """Services, settings and rules, in a network that is assumed around them."""
        from ipvsctl.emulator.snapshot import read

        return read(self.state)

    def close(self) -> None:
        """Nothing to give back."""
