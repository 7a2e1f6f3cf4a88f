"""`nfct`: netfilter connection tracking for IPVS as one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by
from ipvsctl.errors import Exit, IpvsctlError

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.director import Director, Found
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


# -- status -----------------------------------------------------------------------------------------------------------


@nfct_command.command("status", example="ipvsctl nfct status")
@environment
def status(env: Environment) -> int:
    """Show connection tracking for IPVS: sysctls, devices, helper rules, modules, and what makes the kernel track.

    The hooks of conntrack see packets only while something in the namespace asks for it: "hooks" names our own chains
    that do, "tracked_by" everything else. "source_check" is what rp_filter comes to on the devices of accept_local,
    "spoofing" the devices on which a rule of ours keeps others from using our addresses. Status 4 when this kernel's
    IPVS is built without connection tracking.
    """
    from ipvsctl.cli.nfct_plan import missing
    from ipvsctl.cli.output import pairs, print_json, print_lines

    data = _status(env.host)
    feature = env.host.modules.feature("ip_vs_nfct")
    lacking = data["conntrack"] is None and feature.state == "absent" and data["modules"]["ip_vs"] != "absent"
    if env.json:
        print_json(env, data)
    else:
        modules = data.pop("modules")
        data["helpers"] = [f"{each['helper']} for {each['service']}" for each in data["helpers"]]
        data["source_check"] = [f"{device} {value}" for device, value in data["source_check"].items()]
        print_lines(env, pairs([*((name, _words(value)) for name, value in data.items()), *modules.items()]))
    if lacking:
        env.error(f"ipvsctl: {missing(feature.evidence)}")
        return Exit.UNAVAILABLE
    return Exit.DONE


def _words(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "on" if value else "off"


def _status(host: Host) -> dict[str, Any]:
    from ipvsctl.cli.nfct_plan import source_checks
    from ipvsctl.cli.rules import look
    from ipvsctl.knowledge.found import helpers_of
    from ipvsctl.knowledge.names import AUTOMATIC_HELPER
    from ipvsctl.knowledge.recipes import SPOOF, tracks
    from ipvsctl.model.director import Nfct

    found, director = look(host)
    nfct = director.nfct or Nfct()
    automatic = host.sysctl.get(AUTOMATIC_HELPER)
    guarded = {
        rule.in_interface for chain in found.chains if chain.name == SPOOF and chain.jump for rule in chain.rules
        if rule.target == "DROP" and rule.in_interface
    }  # fmt: skip
    return {
        "conntrack": nfct.conntrack,
        "snat_reroute": nfct.snat_reroute,
        "be_liberal": nfct.be_liberal,
        "accept_local": list(nfct.accept_local),
        "source_check": source_checks(host, nfct.accept_local),
        "spoofing": sorted(guarded),
        "helpers": [{"service": str(each), "helper": name} for each, name in helpers_of(found.chains).items()],
        "automatic_helper": None if automatic is None else automatic != "0",
        "hooks": [
            f"{'inet6 ' if chain.family == 10 else ''}{chain.table} {chain.name}"
            for chain in found.chains if tracks(chain)
        ],
        "tracked_by": _others(host, found, director),
        "modules": {name: host.modules.feature(name).state for name in FEATURES},
    }  # fmt: skip


def _others(host: Host, found: Found, director: Director) -> list[str]:
    """What makes the kernel track beside our own chains, as far as one can see it."""
    from ipvsctl.knowledge.recipes import HELPED, asks_for_tracking
    from ipvsctl.model.rule import CHAIN_PREFIX

    reasons = [
        f"IPVS for {wish.service.address}, a service on port 21 with nat servers"
        for wish in director.services
        if wish.service.address.port == HELPED["ftp"] and any(server.forward == "nat" for server in wish.servers)
    ]
    try:
        tables = host.snapshot().tables if found.tables else ()
    except IpvsctlError:
        tables = ()
    for table in tables:
        for chain in table.chains:
            if not chain.name.startswith(CHAIN_PREFIX) and any(asks_for_tracking(each.rule) for each in chain.rules):
                reasons.append(f"{'ip6tables' if table.family == 10 else 'iptables'} -t {table.name} {chain.name}")
    return reasons


# -- enable and disable -----------------------------------------------------------------------------------------------


@nfct_command.command(
    "enable", example=("ipvsctl nfct enable", "ipvsctl nfct enable --accept-local eth1 --helper ftp --dry-run")
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
    help="Insist on the conntrack helper ftp for tcp services on port 21: an error where it cannot work.",
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

    Sets net.ipv4.vs.conntrack, loads what it takes, gives the tcp services on port 21 the conntrack helper ftp by a
    rule, and sees to it that something makes the kernel track at all. On the devices of --accept-local a strict source
    check (rp_filter 1) becomes a loose one (2), and a rule drops what pretends to come from an address of ours that is
    not a virtual one, or by another device. Options that are not given leave things as they are. Doing it again makes
    the rules fit for services that have come or gone.
    """
    from ipvsctl.cli.nfct_plan import ENABLE, enabled
    from ipvsctl.cli.run import change

    def build(host: Host) -> Plan:
        return enabled(host, be_liberal, snat_reroute, accept_local, insist=bool(helper))

    return change(env, ENABLE, build)


@nfct_command.command("disable", example="ipvsctl nfct disable")
@_accept_local
@environment
def disable(env: Environment, accept_local: tuple[str, ...]) -> int:
    """Do not track IPVS's connections any more, and restore what was there before `nfct enable`.

    Sysctls get the values back that they had before, but for what services need all the same; the chains that enable
    made go, other rules and modules stay. Without a record of `nfct enable` (it was set by other means, or before the
    last boot) net.ipv4.vs.conntrack and nf_conntrack_tcp_be_liberal are set to 0 and helper rules removed, and a note
    says so. accept_local of the devices named with --accept-local is set to 0 in any case.
    """
    from ipvsctl.cli.nfct_plan import DISABLE, disabled
    from ipvsctl.cli.run import change
    from ipvsctl.journal import Journals

    def build(host: Host) -> Plan:
        return disabled(host, Journals(host.identity).history(), accept_local)

    return change(env, DISABLE, build)
