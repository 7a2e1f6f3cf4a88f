"""`nfct`: netfilter connection tracking for IPVS as one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.director import Found
    from ipvsctl.model.rule import OwnChain
    from ipvsctl.plan.difference import Plan

FEATURES = ("ip_vs", "ip_vs_nfct", "ip_vs_ftp", "nf_conntrack", "nf_conntrack_ftp", "xt_CT", "xt_conntrack")
"""What connection tracking of IPVS traffic, and FTP with it, is made of."""

_accept_local = click.option(
    "--accept-local", multiple=True, metavar="DEVICE", shell_complete=completed_by("devices"),
    help="A device on which packets from our own addresses are accepted (real servers of dr and tun whose gateway is "
    "the director); may be given more than once.",
)  # fmt: skip


@click.group("nfct", cls=Group, help=COMMANDS["nfct"][1])
def nfct_command() -> None:
    pass


@nfct_command.command("status", example="ipvsctl nfct status")
@environment
def status(env: Environment) -> None:
    """Show connection tracking for IPVS: sysctls, helper rules, modules, and what keeps conntrack at work.

    The hooks of conntrack see packets only while something in the namespace uses them; "hooks" names our own rules that
    do.
    """
    from ipvsctl.cli.output import pairs, print_json, print_lines

    data = _status(env.host)
    if env.json:
        print_json(env, data)
        return
    modules = data.pop("modules")
    data["helpers"] = [f"{each['helper']} for {each['service']}" for each in data["helpers"]]
    print_lines(env, pairs([*((name, _words(value)) for name, value in data.items()), *modules.items()]))


def _words(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "on" if value else "off"


def _status(host: Host) -> dict[str, Any]:
    from ipvsctl.cli.rules import look
    from ipvsctl.model.director import Nfct

    found, director = look(host)
    nfct = director.nfct or Nfct()
    return {
        "conntrack": nfct.conntrack,
        "snat_reroute": nfct.snat_reroute,
        "be_liberal": nfct.be_liberal,
        "accept_local": list(nfct.accept_local),
        "helpers": _helpers(found),
        "hooks": _hooks(found),
        "modules": {name: host.modules.feature(name).state for name in FEATURES},
    }


def _helpers(found: Found) -> list[dict[str, str]]:
    """Our helper rules, whether or not their service is there."""
    from ipvsctl.knowledge.recipes import PREROUTING, is_host
    from ipvsctl.model.address import ServiceAddress

    helpers = []
    for chain in found.chains:
        for rule in chain.rules if chain.name == PREROUTING else ():
            helper = dict(rule.target_options).get("helper")
            port = next((value for match in rule.matches for name, value in match.options if name == "dport"), "")
            if helper and port.isdigit() and is_host(rule.destination):
                service = ServiceAddress.of(rule.protocol, rule.destination, int(port))
                helpers.append({"service": str(service), "helper": helper})
    return helpers


def _hooks(found: Found) -> list[str]:
    """Our chains with a rule that makes the kernel register conntrack's hooks: a CT target, a match on the state."""
    return [
        f"{'inet6 ' if chain.family == 10 else ''}{chain.table} {chain.name}"
        for chain in found.chains
        if _tracks(chain)
    ]


def _tracks(chain: OwnChain) -> bool:
    return any(
        rule.target == "CT" or any(match.name in ("conntrack", "state") for match in rule.matches)
        for rule in chain.rules
    )


@nfct_command.command(
    "enable", example=("ipvsctl nfct enable", "ipvsctl nfct enable --be-liberal --accept-local eth1 --helper ftp")
)
@click.option(
    "--be-liberal/--no-be-liberal",
    default=None,
    help="Take TCP packets outside the window for valid: for failover and asymmetric paths; FTP does not need it.",
)
@click.option(
    "--snat-reroute/--no-snat-reroute",
    default=None,
    help="Route replies of nat servers again after their source became the virtual address: for several uplinks.",
)
@_accept_local
@click.option(
    "--helper",
    type=click.Choice(["ftp"]),
    multiple=True,
    metavar="NAME",
    help="Insist on the conntrack helper ftp for tcp services on port 21: an error when their servers are not nat.",
)
@environment
def enable(
    env: Environment,
    be_liberal: bool | None,
    snat_reroute: bool | None,
    accept_local: tuple[str, ...],
    helper: tuple[str, ...],
) -> int:
    """Track IPVS's connections.

    Sets net.ipv4.vs.conntrack, loads what it takes, and gives the tcp services on port 21 the conntrack helper ftp by a
    rule in a chain of our own. Options that are not given leave things as they are.
    """
    from ipvsctl.cli.run import change

    def build(host: Host) -> Plan:
        from dataclasses import replace

        from ipvsctl.cli.rules import FTP_PORT, look, plan, with_helpers
        from ipvsctl.errors import NotFound
        from ipvsctl.knowledge.recipes import wanted
        from ipvsctl.model.director import Director, Nfct

        _check_devices(host, accept_local)
        found, director = look(host)
        helped, notes = with_helpers(director)
        if helper:
            services = [w for w in helped.services if w.service.address.port == FTP_PORT]
            helped = replace(helped, services=tuple(
                replace(w, helper="ftp") if w in services and w.service.address.protocol == "tcp" else w
                for w in helped.services
            ))  # fmt: skip
            if not any(wish.helper == "ftp" for wish in helped.services):
                raise NotFound("cannot enable the helper ftp: there is no tcp service on port 21")
        want = wanted(Director(helped.services, Nfct(True, snat_reroute, be_liberal, accept_local), director.firewall))
        kept = tuple(chain for chain in found.chains if chain.table != "raw")
        raw = tuple(chain for chain in want.chains or () if chain.table == "raw")
        # Without a rule to make or to keep, a host without iptables will do.
        chains = (*kept, *raw) if raw or found.chains else None
        if not any(map(_tracks, chains or ())):
            notes += (
                "no rule of ours makes the kernel track connections yet: `ipvsctl firewall apply` does, and so does "
                "any rule that matches by state",
            )
        return plan(host, replace(want, backend=found.backend, chains=chains), notes)

    return change(env, "nfct enable", build)


def _check_devices(host: Host, devices: tuple[str, ...]) -> None:
    from ipvsctl.errors import NotFound
    from ipvsctl.knowledge.recipes import accept_local

    for device in devices:
        if "/" in device or "*" in device or host.sysctl.get(accept_local(device)) is None:
            raise NotFound(f"cannot set accept_local of {device!r}: there is no such device")


@nfct_command.command("disable", example="ipvsctl nfct disable")
@_accept_local
@environment
def disable(env: Environment, accept_local: tuple[str, ...]) -> int:
    """Do not track IPVS's connections any more.

    Sets net.ipv4.vs.conntrack and nf_conntrack_tcp_be_liberal to 0, accept_local of the devices named with
    --accept-local too, and removes the helper rules. Modules stay loaded, other rules stay.
    """
    from ipvsctl.cli.run import change

    def build(host: Host) -> Plan:
        from ipvsctl.cli.rules import look, plan
        from ipvsctl.knowledge import recipes
        from ipvsctl.model.director import Wanted

        _check_devices(host, accept_local)
        found, _ = look(host)
        names = (recipes.CONNTRACK, recipes.BE_LIBERAL, *map(recipes.accept_local, accept_local))
        sysctls = tuple((name, "0") for name in names if host.sysctl.get(name) is not None)
        kept = tuple(chain for chain in found.chains if chain.table != "raw")
        return plan(host, Wanted(backend=found.backend, chains=kept if found.chains else None, sysctls=sysctls))

    return change(env, "nfct disable", build)
