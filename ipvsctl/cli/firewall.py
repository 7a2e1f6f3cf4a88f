"""`firewall`: the rules around the virtual addresses, in chains of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import environment
from ipvsctl.cli.tree import COMMANDS, Group
from ipvsctl.errors import Refused

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.plan.difference import Plan


@click.group("firewall", cls=Group, help=COMMANDS["firewall"][1])
def firewall_command() -> None:
    pass


@firewall_command.command("show", example="ipvsctl firewall show")
@environment
def show(env: Environment) -> None:
    """Show our own chains and the jumps to them, as iptables-save writes them.

    Rules of others are not shown; notes name rule sets of others that the kernel evaluates beside ours.
    """
    from ipvsctl.cli.output import print_json, print_lines

    firewall = env.host.firewall
    chains, notes = firewall.chains(), firewall.notes()
    if env.json:
        from ipvsctl.formats.changes import chain_to_dict

        print_json(env, {"chains": [chain_to_dict(chain) for chain in chains], "notes": list(notes)})
        return
    from ipvsctl.cli.show import chain_text

    lines = []
    table = None
    for chain in chains:
        if (chain.family, chain.table) != table:
            table = chain.family, chain.table
            lines.append([(f"# {'ip6tables' if chain.family == 10 else 'iptables'} -t {chain.table}", "bold")])
        lines += [[(text, "")] for text in chain_text(chain)]
        if not chain.jump:
            lines.append([(f"# nothing jumps to {chain.name}", "red")])
    print_lines(env, lines or [[("# no rules of ours", "")]])
    for note in notes:
        env.say(f"# note: {note}")


@firewall_command.command(
    "apply",
    example=("ipvsctl firewall apply --dry-run", "ipvsctl firewall apply --protect 192.0.2.1 --forward-policy accept"),
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "iptables-legacy", "iptables-nft", "nft"]),
    default="auto",
    metavar="NAME",
    help="What to make the rules with: iptables-legacy, iptables-nft, nft, or auto (default).",
)
@click.option(
    "--protect",
    multiple=True,
    metavar="ADDRESS",
    help="An address of which only the services' ports are to be reachable; may be given more than once (default: "
    "every service's address).",
)
@click.option(
    "--forward-policy",
    type=click.Choice(["drop", "accept"]),
    default="drop",
    metavar="VERDICT",
    help="What becomes of other forwarded packets: drop (default), or accept to leave them to other rules.",
)
@click.option(
    "--local-client",
    multiple=True,
    metavar="ADDRESS",
    help="A real server that may open tcp connections to the director; may be given more than once.",
)
@environment
def apply(
    env: Environment, backend: str, protect: tuple[str, ...], forward_policy: str, local_client: tuple[str, ...]
) -> int:
    """Make the recommended rules for the services that are there.

    The services' ports are reachable and no other tcp, udp and sctp port of their addresses; what belongs to tracked
    connections is forwarded; ftp on port 21 gets its helper. The rules are in chains named IPVSCTL-..., each with one
    jump to it; nothing else is touched. Doing it again changes nothing. The rules match by connection state: see
    `ipvsctl nfct enable`.
    """
    from ipvsctl.cli.run import change
    from ipvsctl.model.address import parse_ip

    protected = tuple(parse_ip(text)[1] for text in protect)
    clients = tuple(parse_ip(text)[1] for text in local_client)

    def build(host: Host) -> Plan:
        from dataclasses import replace

        from ipvsctl.cli.rules import look, plan, with_helpers
        from ipvsctl.knowledge.recipes import wanted
        from ipvsctl.model.director import FirewallWish

        director, notes = with_helpers(look(host)[1])
        addresses = (wish.service.address.address for wish in director.services)
        wish = FirewallWish(
            backend, protected or tuple(dict.fromkeys(filter(None, addresses))), forward_policy, clients
        )
        if not wish.protect and not director.services:
            raise Refused("there is nothing to protect: no service is there; add one, or give --protect ADDRESS")
        want = wanted(replace(director, firewall=wish))
        return plan(host, replace(want, sysctls=()), notes)

    return change(env, "firewall apply", build)


@firewall_command.command("remove", example="ipvsctl firewall remove")
@environment
def remove(env: Environment) -> int:
    """Remove all our chains and the jumps to them, helper rules included. What was there before is there again."""
    from ipvsctl.cli.run import change

    def build(host: Host) -> Plan:
        from dataclasses import replace

        from ipvsctl.cli.rules import plan
        from ipvsctl.journal import Journals
        from ipvsctl.model.change import ReplaceRules
        from ipvsctl.model.director import Wanted

        # Tables that a plan of ours brought into being go as well, as with its rollback.
        undone = [each for record in Journals(host.identity).history() for _, each in record.undo]
        ours = {(each.family, each.table) for each in undone if isinstance(each, ReplaceRules) and each.drops}
        found = plan(host, Wanted(chains=()))
        changes = tuple(
            replace(each, drops=(each.family, each.table) in ours) if isinstance(each, ReplaceRules) else each
            for each in found.changes
        )
        return replace(found, changes=changes)

    return change(env, "firewall remove", build)
