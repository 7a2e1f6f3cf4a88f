"""`server`: add, edit and delete the real servers of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import INT_MAX, Number, environment, existing_server, existing_service, new_server, several
from ipvsctl.cli.tree import COMMANDS, Group
from ipvsctl.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.address import ServerAddress, ServiceAddress
    from ipvsctl.model.service import Server, Tunnel
    from ipvsctl.plan.difference import Plan

_settings = several(
    click.option(
        "--forward", type=click.Choice(["nat", "dr", "tun"]), metavar="METHOD",
        help="How packets reach it: nat (masquerading), dr (direct routing, the default when adding), tun (tunnel).",
    ),
    click.option(
        "--weight", "-w", type=Number(), metavar="NUMBER",
        help=f"Its share of the load, 0..{INT_MAX}; 0: no new connections (default when adding: 1).",
    ),
    click.option(
        "--upper", "-x", type=Number(), metavar="NUMBER",
        help=f"No new connections above so many, 0..{INT_MAX}; 0: no threshold (default).",
    ),
    click.option(
        "--lower", "-y", type=Number(), metavar="NUMBER",
        help=f"New connections again below so many, 0..{INT_MAX}, at most --upper; 0: three quarters of it (default).",
    ),
    click.option(
        "--tunnel", type=click.Choice(["ipip", "gue", "gre"]), metavar="TYPE",
        help="Encapsulation of a tun server: ipip (default), gue or gre.",
    ),
    click.option("--tunnel-port", type=Number(1, 65535), metavar="PORT", help="UDP port of gue, 1..65535."),
    click.option(
        "--tunnel-csum", type=click.Choice(["no", "yes", "remote"]), metavar="WHICH",
        help="Checksum of gue and gre: no (default), yes; of gue also remote (remote checksum offload).",
    ),
)  # fmt: skip


@click.group("server", cls=Group, help=COMMANDS["server"][1])
def server_command() -> None:
    pass


@server_command.command(
    "add",
    example=(
        "ipvsctl server add tcp:192.0.2.1:80 10.0.2.2:8080 --forward nat --weight 3",
        "ipvsctl server add tcp:192.0.2.1:80 10.0.2.3 --forward tun --tunnel gue --tunnel-port 6080",
    ),
)
@existing_service
@new_server
@_settings
@environment
def add(env: Environment, service: ServiceAddress, server: ServerAddress, **given: Any) -> int:
    """Add a real server to a service.

    SERVER is ADDRESS (the service's port) or ADDRESS:PORT, an IPv6 address with a port in brackets.
    """
    from ipvsctl.cli.run import addition, change
    from ipvsctl.model.change import AddServer
    from ipvsctl.model.service import Server

    forward = given["forward"] or ("tun" if given["tunnel"] else "dr")
    wanted = Server(
        server,
        forward,
        1 if given["weight"] is None else given["weight"],
        given["upper"] or 0,
        given["lower"] or 0,
        _tunnel(given, None),
    ).check(service)
    build = addition(AddServer(service, wanted), _notes(service, wanted))
    return change(env, f"server add {service} {server}", build)


@server_command.command("edit", example="ipvsctl server edit tcp:192.0.2.1:80 10.0.2.2:8080 --weight 0")
@existing_service
@existing_server
@_settings
@environment
def edit(env: Environment, service: ServiceAddress, server: ServerAddress, **given: Any) -> int:
    """Change the settings of a server that are named, and no others. Its connections stay."""
    from ipvsctl.cli.run import change
    from ipvsctl.model.change import EditServer
    from ipvsctl.plan.difference import Plan

    if all(value is None for value in given.values()):
        raise UsageError("nothing to edit: name a setting, for instance --weight 0")

    def build(host: Host) -> Plan:
        before = _find(host, service, server)
        after = _edited(before, given).check(service)
        return Plan((EditServer(service, after, before),) if after != before else (), _notes(service, after))

    return change(env, f"server edit {service} {server}", build)


@server_command.command("delete", example="ipvsctl server delete tcp:192.0.2.1:80 10.0.2.2:8080")
@existing_service
@existing_server
@environment
def delete(env: Environment, service: ServiceAddress, server: ServerAddress) -> int:
    """Delete a server of a service.

    Packets of its connections are dropped from then on; with weight 0 they can end first.
    """
    from ipvsctl.cli.run import change
    from ipvsctl.model.change import DeleteServer
    from ipvsctl.plan.difference import Plan

    return change(
        env,
        f"server delete {service} {server}",
        lambda host: Plan((DeleteServer(service, _find(host, service, server)),)),
    )


def _find(host: Host, service: ServiceAddress, server: ServerAddress) -> Server:
    for status in host.ipvs.service(service).servers:
        if status.server.address == server:
            return status.server
    raise NotFound(f"there is no server {server} in {service}")


def _edited(server: Server, given: dict[str, Any]) -> Server:
    """The server with what is named changed. A forwarding method other than tun ends the tunnel."""
    from dataclasses import replace

    values = {name: given[name] for name in ("forward", "weight", "upper", "lower") if given[name] is not None}
    leaves = values.get("forward", "tun") != "tun"
    values["tunnel"] = _tunnel(given, None if leaves else server.tunnel)
    return replace(server, **values)


def _tunnel(given: dict[str, Any], before: Tunnel | None) -> Tunnel | None:
    """The tunnel that the options ask for; those not given are as before, as far as the type has them."""
    from ipvsctl.model.service import Tunnel

    kind, port, csum = given["tunnel"], given["tunnel_port"], given["tunnel_csum"]
    if kind is None and before is not None:
        kind = before.type
    if kind in (None, "ipip"):
        if port is not None or csum is not None:
            raise UsageError("--tunnel-port and --tunnel-csum are for --tunnel gue and gre")
        return None
    if before is not None and before.type == kind:
        return Tunnel(kind, before.port if port is None else port, csum or before.csum)
    return Tunnel(kind, port or 0, csum or "no")


def _notes(service: ServiceAddress, server: Server) -> tuple[str, ...]:
    if server.forward == "nat" or service.protocol == "fwmark" or server.address.port == service.port:
        return ()
    return (
        f"only nat changes the port: with forward {server.forward} packets reach {server.address.address} with port "
        f"{service.port}",
    )
