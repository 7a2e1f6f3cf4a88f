"""From a director file to what a host must have: the needs of every forwarding method, made real.

profiles.py says what a situation needs and why; here these needs become modules, sysctls, rules, routes. The way back
is found.py. Rules follow the order of the services' addresses, not of the file: a host does not know the file's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.found import director_of
from ipvsctl.knowledge.names import (
    BE_LIBERAL,
    CONNTRACK,
    FORWARD,
    FORWARD_DROP,
    HELPED,
    INPUT,
    IP6_FORWARD,
    IP_FORWARD,
    MARK,
    MARK_OUTPUT,
    OUTPUT,
    PREROUTING,
    SNAT_REROUTE,
    SPOOF,
    TRACK,
    accept_local,
    asks_for_tracking,
    is_host,
    of_device,
    tracks,
    unique,
)
from ipvsctl.knowledge.profiles import ROUTED, Need, Situation, needs
from ipvsctl.knowledge.rules_filter import firewall_chains
from ipvsctl.knowledge.rules_raw import helper_chains, mark_chains, spoof_chain, track_chains
from ipvsctl.knowledge.sysctls import find
from ipvsctl.knowledge.uplinks import routing
from ipvsctl.model.address import INET, INET6, parse_ip
from ipvsctl.model.director import Director, Nfct, ServiceWish, Wanted
from ipvsctl.model.rule import OwnChain

_NO_DEVICES = frozenset({"all", "default"})
"""What stands beside the devices in net.ipv4.conf."""

__all__ = [
    "BE_LIBERAL", "CONNTRACK", "FORWARD", "FORWARD_DROP", "HELPED", "INPUT", "IP6_FORWARD", "IP_FORWARD", "MARK",
    "MARK_OUTPUT", "OUTPUT", "PREROUTING", "SNAT_REROUTE", "SPOOF", "TRACK", "accept_local", "asks_for_tracking",
    "director_of", "generality",
    "helper_problem", "is_gateway", "is_host", "situations_of", "tracks", "wanted",
]  # fmt: skip


def wanted(director: Director) -> Wanted:
    """What a host must have to be this director.

    Raises UsageError for what cannot be made true: a helper that would see one direction only, FTP through dr or tun
    without persistence or conntrack.
    """
    for wish in director.services:
        if wish.helper and (problem := helper_problem(wish, director)):
            raise UsageError(f"{wish.service.address}: {problem}")
    situations = situations_of(director)
    routes, policy = routing(director.uplinks)
    return Wanted(
        modules=_modules(director, situations),
        backend=director.firewall.backend if director.firewall else "auto",
        chains=_chains(director, situations),
        sysctls=tuple(_sysctls(director, situations).items()),
        timeouts=director.timeouts,
        daemons=director.syncs,
        services=director.services,
        routes=routes if director.uplinks else None,
        policy=policy if director.uplinks else None,
        notes=tuple(_notes(director, situations)),
        leaves=_leaves(director),
        loosen=_loosen(director, situations),
    )


def situations_of(director: Director) -> list[Situation]:
    """The ways in which a director is used, each once. A service without servers is taken for one of nat if helped."""
    gateway = is_gateway(director.nfct)
    clients = _clients(director)
    uplinks = {uplink.address for uplink in director.uplinks}
    found = []
    for wish in director.services:
        address = wish.service.address
        leaves = any(member.address in uplinks for member in (address, *wish.members))
        for forward in unique(server.forward for server in wish.servers) or (("nat",) if wish.helper else ()):
            found.append(
                Situation(
                    forward, address.family, gateway or forward not in ROUTED, address.family in clients,
                    wish.helper is not None, leaves,
                )
            )  # fmt: skip
    if gateway:
        # What is said of the devices holds before there is a service.
        found.append(Situation("dr", clients=INET in clients))
    return list(dict.fromkeys(found))


def is_gateway(nfct: Nfct | None) -> bool:
    """Whether real servers of dr and tun answer through the director: accept_local names a device."""
    return nfct is not None and any(device != "default" for device in nfct.accept_local)


def helper_problem(wish: ServiceWish, director: Director) -> str | None:
    """Why a service cannot have the helper ftp, and what would help; None when it can."""
    address = wish.service.address
    if address.protocol != "tcp":
        return f"a helper is for tcp services, not for {address.protocol}"
    nfct = director.nfct or Nfct()
    for server in wish.servers:
        what = f"helper ftp with server {server.address} of forward {server.forward}"
        situation = Situation(
            server.forward, address.family, is_gateway(nfct) or server.forward not in ROUTED, ftp=True
        )
        for need in needs([situation], "impossible"):
            return f"{what} cannot work: {need.reason}: {need.value} ({need.source})"
        for need in needs([situation], "setting"):
            if not _is_set(need, wish, nfct):
                return f"{what} needs {need.what} = {need.value}: {need.reason} ({need.source})"
        if situation.forward in ROUTED and address.port not in (0, HELPED["ftp"]):
            return f"{what} needs port 21: only a persistent service on it is asked for data connections (S9, S10)"
    return None


def _is_set(need: Need, wish: ServiceWish, nfct: Nfct) -> bool:
    return bool(nfct.conntrack) if need.what == "conntrack" else wish.service.persistent is not None


def _clients(director: Director) -> frozenset[int]:
    """The families in which programs on the director are clients of its services."""
    return frozenset(parse_ip(text)[0] for text in (director.firewall.local_clients if director.firewall else ()))


# -- rules ------------------------------------------------------------------------------------------------------------


def _chains(director: Director, situations: Sequence[Situation]) -> tuple[OwnChain, ...] | None:
    """All own chains, or None when the file says nothing that needs rules."""
    nfct = director.nfct or Nfct()
    helped = any(wish.helper or wish.members for wish in director.services)
    if not (director.firewall or helped or nfct.accept_local or nfct.conntrack):
        return None
    services = sorted(director.services, key=lambda wish: wish.service.address.sort_key)
    clients = _clients(director)
    chains = [*helper_chains(services, clients), *mark_chains(services, clients)]
    if director.firewall is not None:
        chains += firewall_chains(services, director.firewall, is_gateway(nfct))
    devices = sorted({*nfct.accept_local} - _NO_DEVICES)
    for family in sorted({each.family for each in situations if _needs_rule(each, "spoof")}) if devices else ():
        if "all" not in nfct.accept_local:
            chains.append(spoof_chain(family, devices, _virtual(director, services, family)))
    if nfct.conntrack:
        chains += track_chains({wish.service.address.family for wish in services} or {INET}, chains)
    return tuple(chains)


def _needs_rule(situation: Situation, name: str) -> bool:
    return any(need.what == name for need in needs([situation], "rule"))


def _virtual(director: Director, services: Iterable[ServiceWish], family: int) -> list[str]:
    """The addresses that servers may answer from: of services and members; of a mark without members all protected."""
    found = []
    unknown = False
    for wish in services:
        if wish.service.address.family == family:
            found += [member.address for member in (wish.service.address, *wish.members)]
            unknown |= _is_unknown(wish)
    if unknown and director.firewall:
        found += [text for text in director.firewall.protect if (":" in text) == (family == INET6)]
    return found


def _is_unknown(wish: ServiceWish) -> bool:
    return wish.service.address.protocol == "fwmark" and not wish.members


def _leaves(director: Director) -> tuple[str, ...]:
    """Own chains of which the file says nothing: what other commands made there stays."""
    nfct = director.nfct or Nfct()
    names: list[str] = []
    if director.firewall is None:
        names += (INPUT, FORWARD, FORWARD_DROP)
    if not director.services:
        names += (PREROUTING, OUTPUT, MARK, MARK_OUTPUT)
    if not nfct.accept_local:
        names.append(SPOOF)
    if nfct.conntrack is not False:
        names.append(TRACK)
    return tuple(names)


# -- modules, sysctls -------------------------------------------------------------------------------------------------


def _modules(director: Director, situations: Sequence[Situation]) -> tuple[str, ...]:
    """Modules by name, in the order to load them."""
    nfct = director.nfct
    modules = []
    if director.services or director.timeouts or director.syncs or (nfct and nfct.conntrack is not None):
        modules.append("ip_vs")
    helpers = [need.what for need in needs(situations, "module") if need.ftp]
    if helpers:
        modules += helpers
    elif director.firewall or (nfct and (nfct.conntrack or nfct.be_liberal is not None)):
        modules.append("nf_conntrack")
    for name, _ in director.sysctls:
        row = find(name)
        if row is not None and row.module:
            modules.append(row.module)
    return tuple(dict.fromkeys(modules))


def _sysctls(director: Director, situations: Sequence[Situation]) -> dict[str, str]:
    """Sysctls by name; what the file names itself wins over what a forwarding method needs."""
    values: dict[str, str] = {}
    nfct = director.nfct or Nfct()
    implied = {need.what: need.value for need in needs(situations, "sysctl") if "DEVICE" not in need.what}
    reroute = nfct.snat_reroute if nfct.snat_reroute is not None else (implied.pop(SNAT_REROUTE, None) and True)
    for name, flag in ((CONNTRACK, nfct.conntrack), (SNAT_REROUTE, reroute), (BE_LIBERAL, nfct.be_liberal)):
        if flag is not None:
            values[name] = "1" if flag else "0"
    for device in nfct.accept_local:
        values[accept_local(device)] = "1"
    implied.pop(SNAT_REROUTE, None)
    # What is general first: setting it sets what is particular to a device as well.
    rest = sorted((implied | dict(director.sysctls)).items(), key=lambda item: generality(item[0]))
    return values | dict(rest)


def generality(name: str) -> int:
    """For sorting: what is general comes before what is particular to a device, which it would overwrite."""
    if name == IP_FORWARD:
        return 0
    return 1 if ".conf.all." in name else 2 if ".conf.default." in name else 3


def _loosen(director: Director, situations: Sequence[Situation]) -> tuple[str, ...]:
    """Devices whose source check must not be strict, but for those of which the file names the value itself."""
    asked = any(need.what.endswith(".rp_filter") for need in needs(situations, "sysctl"))
    named = dict(director.sysctls)
    devices = director.nfct.accept_local if asked and director.nfct else ()
    return tuple(device for device in devices if of_device(device, "rp_filter") not in named)


# -- notes ------------------------------------------------------------------------------------------------------------


def _notes(director: Director, situations: Sequence[Situation]) -> Iterator[str]:
    nfct = director.nfct or Nfct()
    if director.firewall and nfct.conntrack is not True and (not situations or any(s.gateway for s in situations)):
        yield (
            "the firewall's rules match by state, which IPVS traffic has only with conntrack = true in [nfct]: "
            "replies of services without a helper will not pass FORWARD"
        )
    for need in needs(situations, "note"):
        if need.what == "one-way" and nfct.conntrack:
            yield f"dr and tun servers that answer past the director: {need.reason} ({need.source})"
    if nfct.snat_reroute is False and any(need.what == SNAT_REROUTE for need in needs(situations, "sysctl")):
        yield (
            "with snat_reroute = false replies of nat servers leave by the route of the real server's address, "
            "whatever [[uplink]] says (S4)"
        )
    if "all" in nfct.accept_local:
        yield (
            "accept_local of all devices lets anybody send from the director's addresses by any of them: name the real "
            "servers' devices, and a rule prevents it (S27)"
        )
    named = dict(director.sysctls)
    for device in nfct.accept_local:
        if named.get(of_device(device, "rp_filter")) == "1":
            yield f"rp_filter = 1 of {device} drops replies from virtual addresses; 0 or 2 lets them in (S2)"
    if is_gateway(nfct) and (not director.firewall or not director.firewall.protect):
        for wish in director.services:
            if _is_unknown(wish) and any(server.forward in ROUTED for server in wish.servers):
                yield (
                    f"{wish.service.address}: replies are accepted from addresses that are named only: "
                    "give the service's members, or its addresses in protect of [firewall] (S27)"
                )
    for wish in director.services:
        if wish.helper == "ftp" and wish.service.address.port not in (0, HELPED["ftp"]):
            yield (
                f"{wish.service.address}: ip_vs_ftp rewrites addresses on the ports that its parameter `ports` names, "
                "21 unless it was loaded with others (S8)"
            )
