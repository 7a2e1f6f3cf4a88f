"""The plans of `nfct enable` and `nfct disable`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ipvsctl.cli.rules import FTP_PORT, look, plan, with_helpers
from ipvsctl.errors import NotFound, Unavailable
from ipvsctl.knowledge import recipes
from ipvsctl.knowledge.names import of_device
from ipvsctl.knowledge.rules_raw import track_chains
from ipvsctl.model.address import INET
from ipvsctl.model.change import ReplaceRules, SetSysctl
from ipvsctl.model.director import Director, Nfct, Wanted
from ipvsctl.plan.observe import attainable

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.journal import Record
    from ipvsctl.model.change import Change
    from ipvsctl.model.rule import OwnChain
    from ipvsctl.plan.difference import Plan

ENABLE, DISABLE = "nfct enable", "nfct disable"
"""What the journal calls them: `disable` looks for `enable` there."""

FIREWALL = (recipes.INPUT, recipes.FORWARD, recipes.FORWARD_DROP)
_OF_NFCT = (recipes.PREROUTING, recipes.OUTPUT, recipes.SPOOF, recipes.TRACK)
"""Own chains that `enable` makes, and `disable` takes back."""


def check_feature(host: Host) -> None:
    """Raises Unavailable where IPVS is built without connection tracking; where it is not loaded, nobody knows yet."""
    feature = host.modules.feature("ip_vs_nfct")
    if feature.state == "absent" and host.modules.feature("ip_vs").state != "absent":
        raise Unavailable(f"cannot track IPVS's connections: {missing(feature.evidence)}")


def missing(evidence: str) -> str:
    """What to say where IPVS is built without connection tracking."""
    return (
        f"this kernel's IPVS is built without CONFIG_IP_VS_NFCT ({evidence}): there is no {recipes.CONNTRACK}, and "
        "rules cannot match its packets by state; accept them by address and port"
    )


def check_devices(host: Host, devices: Iterable[str]) -> None:
    """Raises NotFound for a device that is not there."""
    for device in devices:
        if "/" in device or "*" in device or host.sysctl.get(recipes.accept_local(device)) is None:
            raise NotFound(f"cannot set accept_local of {device!r}: there is no such device")


# -- enable -----------------------------------------------------------------------------------------------------------


def enabled(
    host: Host, be_liberal: bool | None, snat_reroute: bool | None, accept_local: Sequence[str], *, insist: bool
) -> Plan:
    """What makes the host track IPVS's connections. `insist`: the helper ftp is asked for by name.

    Raises NotFound, UsageError (a helper that cannot work), Unavailable.
    """
    check_feature(host)
    check_devices(host, accept_local)
    found, director = look(host)
    before = director.nfct or Nfct()
    devices = tuple(sorted({*before.accept_local, *accept_local}))
    director = replace(director, nfct=Nfct(True, snat_reroute, be_liberal, devices), uplinks=(), sysctls=())
    helped, notes = with_helpers(director)
    if insist:
        helped, notes = _insisted(director), ()
    want = recipes.wanted(helped)
    left = tuple(chain for chain in found.chains if chain.name in FIREWALL)
    chains = tuple(chain for chain in want.chains or () if chain.name not in (*FIREWALL, recipes.TRACK))
    families = {wish.service.address.family for wish in helped.services} or {INET}
    chains += tuple(track_chains(families, (*chains, *left)))
    if director.firewall:
        asked = sorted((c for c in want.chains or () if c.name in FIREWALL), key=_place)
        if asked != sorted(left, key=_place):
            notes += ("the firewall is not as it should be for this: `ipvsctl firewall apply` makes it so",)
    want = replace(want, backend=found.backend if found.chains else "auto", chains=chains or None,
                   leaves=(*(name for name in want.leaves if name != recipes.TRACK), *FIREWALL))  # fmt: skip
    return plan(host, attainable(host, want), (*notes, *_reasons(before, be_liberal)))


def _place(chain: OwnChain) -> tuple[int, str]:
    return chain.family, chain.name


def _reasons(before: Nfct, be_liberal: bool | None) -> tuple[str, ...]:
    if be_liberal and not before.be_liberal:
        return (
            "be_liberal takes TCP packets outside the window for valid: it is of use for failover and asymmetric "
            "paths, and weakens the check of everybody's connections; FTP has not needed it since 2.6.36 (S13)",
        )
    return ()


def _insisted(director: Director) -> Director:
    """The director with the helper ftp for every tcp service on port 21; raises NotFound when there is none."""
    services = tuple(
        replace(wish, helper="ftp")
        if (wish.service.address.protocol, wish.service.address.port) == ("tcp", FTP_PORT) else wish
        for wish in director.services
    )  # fmt: skip
    if not any(wish.helper == "ftp" for wish in services):
        raise NotFound("cannot enable the helper ftp: there is no tcp service on port 21")
    return replace(director, services=services)


# -- disable ----------------------------------------------------------------------------------------------------------


def disabled(host: Host, history: Iterable[Record], accept_local: Sequence[str]) -> Plan:
    """What undoes `nfct enable`, by its records; without one, what was set by other means is set to 0.

    Other commands may have come in between, so this is no rollback: of sysctls the first value before is set again
    unless a service needs the one there is, and of rules only the chains that `enable` makes are taken back.
    """
    check_devices(host, accept_local)
    found, director = look(host)
    undone = _recorded(history)
    values = {change.name: change.value for change in undone if isinstance(change, SetSysctl)}
    notes: list[str] = []
    if undone:
        notes += _kept(host, director, values)
        # It was on before, which is not what one disables for.
        values[recipes.CONNTRACK] = "0"
    else:
        values = {recipes.CONNTRACK: "0", recipes.BE_LIBERAL: "0"}
        notes.append("no record of `nfct enable` on this host since it came up: what it sets is set to 0 and off")
    values |= {recipes.accept_local(device): "0" for device in accept_local}
    values = {name: value for name, value in values.items() if host.sysctl.get(name) is not None}
    chains = _chains_before(undone, found.chains) if undone else ()
    want = Wanted(
        backend=found.backend,
        chains=chains if found.chains else None,
        sysctls=tuple(sorted(values.items(), key=lambda item: recipes.generality(item[0]))),
        leaves=tuple(dict.fromkeys(chain.name for chain in found.chains if chain.name not in _OF_NFCT)),
    )
    made = plan(host, want)
    created = {(each.family, each.table) for each in undone if isinstance(each, ReplaceRules) and each.drops}
    changes = tuple(
        replace(each, drops=not each.after and (each.family, each.table) in created)
        if isinstance(each, ReplaceRules) else each
        for each in made.changes
    )  # fmt: skip
    return replace(made, changes=changes, notes=(*(notes if changes else ()), *made.notes))


def _recorded(history: Iterable[Record]) -> list[Change]:
    """What undoes every `enable` since the last `disable`, newest first."""
    undone: list[Change] = []
    for record in history:
        if record.command == DISABLE:
            break
        if record.command == ENABLE:
            undone += [change for _, change in record.undo]
    return undone


def _kept(host: Host, director: Director, values: dict[str, str]) -> list[str]:
    """Leave out of `values` what services need all the same; a note for each."""
    services = tuple(replace(wish, helper=None) for wish in director.services)
    devices = director.nfct.accept_local if director.nfct else ()
    still = tuple(d for d in devices if values.get(recipes.accept_local(d), "1") != "0")
    needed = dict(recipes.wanted(Director(services, Nfct(accept_local=still), uplinks=director.uplinks)).sysctls)
    notes = []
    for name, value in tuple(values.items()):
        if needed.get(name, value) != value:
            if host.sysctl.get(name) == needed[name]:
                notes.append(f"{name} stays {needed[name]}: services need it")
            del values[name]
            if name == recipes.IP_FORWARD:
                for other in [each for each in values if each.endswith(".forwarding")]:
                    del values[other]
    return notes


def _chains_before(undone: Iterable[Change], chains: Iterable[OwnChain]) -> tuple[OwnChain, ...]:
    """The chains of `enable`'s names as they were before it; in tables that it did not change they are as they are."""
    before: dict[tuple[int, str], tuple[OwnChain, ...]] = {}
    for change in undone:
        if isinstance(change, ReplaceRules):
            # Newest first: the oldest has the last word.
            before[change.family, change.table] = change.after
    untouched = (chain for chain in chains if (chain.family, chain.table) not in before)
    return tuple(
        chain for chain in (*(old for each in before.values() for old in each), *untouched) if chain.name in _OF_NFCT
    )


def source_checks(host: Host, devices: Iterable[str]) -> dict[str, int]:
    """What rp_filter comes to on devices: the higher of all and the device."""

    def number(device: str) -> int:
        return int(host.sysctl.get(of_device(device, "rp_filter")) or 0)

    return {device: max(number("all"), number(device)) for device in devices}
