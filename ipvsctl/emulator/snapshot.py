"""An emulated director as a snapshot: its services, settings and rules in a network that is assumed around them."""

from __future__ import annotations

from ipvsctl.datapath.nf.own import tables_of
from ipvsctl.emulator.state import State
from ipvsctl.knowledge.assumed import accepting_devices, network_around, note
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.snapshot import Snapshot


def read(state: State) -> Snapshot:
    """The snapshot; the state's devices have no addresses, so that network is the assumed one."""
    services = tuple(
        ServiceWish(found.service, tuple(server.server for server in found.servers.values()))
        for found in state.services.values()
    )
    accepting = [device for device in accepting_devices(state.sysctls) if device in state.devices]
    devices, routes = network_around(services, accepting)
    return Snapshot(
        devices=devices,
        routes=routes,
        sysctls={name: value for name, value in state.sysctls.items() if name in state.written},
        modules=frozenset(state.modules),
        tables=tables_of(chain for chains in state.chains.values() for chain in chains),
        services=services,
        timeouts=state.timeouts,
        notes=(note(devices),),
    )
