"""`connection`: the IPVS connection table joined with conntrack's, and what becomes of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ipvsctl.cli.environment import Environment
from ipvsctl.cli.options import SERVICE, environment
from ipvsctl.cli.tree import COMMANDS, Group, completed_by
from ipvsctl.errors import IpvsctlError, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipvsctl.host import Host
    from ipvsctl.model.address import ServerAddress, ServiceAddress
    from ipvsctl.plan.join import Join, Joined

USES_CONNTRACK = "net.ipv4.vs.conntrack"
TRACKED = "net.netfilter.nf_conntrack_count"


@click.group("connection", cls=Group, help=COMMANDS["connection"][1])
def connection_command() -> None:
    pass


@connection_command.command(
    "list",
    example=(
        "ipvsctl connection list",
        "ipvsctl connection list --service tcp:192.0.2.1:80 --client 198.51.100.0/24",
        "ipvsctl connection list --orphans",
        "ipvsctl connection list --state SYN_RECV -j",
    ),
)
@click.option(
    "--service", type=SERVICE, metavar="SERVICE", shell_complete=completed_by("services"),
    help="Connections of this service.",
)  # fmt: skip
@click.option(
    "--server", metavar="SERVER", shell_complete=completed_by("all_servers"),
    help="Connections to this server, ADDRESS or ADDRESS:PORT.",
)  # fmt: skip
@click.option(
    "--client", metavar="CLIENT", shell_complete=completed_by("nothing"),
    help="Connections of this client, or of a network as in 198.51.100.0/24.",
)  # fmt: skip
@click.option(
    "--state", metavar="STATE", shell_complete=completed_by("states"),
    help="Connections in this state, in IPVS or in conntrack, as in ESTABLISHED.",
)  # fmt: skip
@click.option("--orphans", is_flag=True, help="What only one of the two tables has.")
@environment
def list_connections(
    env: Environment,
    service: ServiceAddress | None,
    server: str | None,
    client: str | None,
    state: str | None,
    orphans: bool,
) -> None:
    """List IPVS's connections, each with its conntrack entry.

    One line each: protocol, client, virtual address, server, IPVS's state and timer, conntrack's state, flags, the
    connection tracking helper, and the connections that are expected because of it. Options together narrow the list.

    Flags: template (of a persistent client: no connection), no-client-port (its first packet has not come), synced
    (from another director); of conntrack assured, expected, seq_adjust, src_nat and dst_nat. An orphan is marked
    no-conntrack (IPVS uses conntrack and there is no entry) or no-ipvs (an entry for a service, and no connection). The
    two tables are read one after the other: on a busy director what came or went in between is marked so as well.

    Without connection tracking the list is IPVS's alone. It is printed as it is read, in the host's order.
    """
    filtered = orphans or any(each is not None for each in (service, server, client, state))
    if not env.json and not filtered and _nothing_joins(env.host):
        from ipvsctl.cli.connection_plain import print_plain

        print_plain(env, env.host.connections())
        if not env.quiet:
            env.error(f"ipvsctl: note: {_off(env.host.sysctl.get(USES_CONNTRACK))}")
        return
    from ipvsctl.cli.connection_text import cells, print_json_rows, print_rows
    from ipvsctl.plan.join import wanted

    try:
        fits = wanted(service=service, server=_server(server), client=client, state=state, orphans=orphans)
    except ValueError:
        raise UsageError(
            f"--client {client!r} is not an address or a network, expected for instance 198.51.100.7 or "
            "198.51.100.0/24"
        ) from None
    host = env.host
    notes: list[str] = []
    join = _join(host, notes, full=env.json or service is not None or orphans)
    if env.json:
        rows = _rows(host, join, fits)
        print_json_rows(env, rows, lambda count: {"notes": [*notes, *_afterwards(join, count)]})
        return
    count = print_rows(env, map(cells, _rows(host, join, fits)))
    if not env.quiet:
        for note in (*notes, *_afterwards(join, count)):
            env.error(f"ipvsctl: note: {note}")


def _nothing_joins(host: Host) -> bool:
    """Whether the list is that of IPVS alone: conntrack has nothing at all, and is not asked to."""
    return host.sysctl.get(USES_CONNTRACK) in (None, "0") and host.sysctl.get(TRACKED) == "0"


def _off(setting: str | None) -> str:
    why = "does not exist" if setting is None else f"is {setting}"
    return f"IPVS does not use connection tracking here ({USES_CONNTRACK} {why}): `ipvsctl nfct enable` turns it on"


def _server(text: str | None) -> ServerAddress | None:
    """ADDRESS or ADDRESS:PORT of a server of any service; port 0 is every port."""
    if text is None:
        return None
    from ipvsctl.model.address import ServerAddress, ServiceAddress

    return ServerAddress.parse(text, ServiceAddress("tcp", 2))


def _join(host: Host, notes: list[str], *, full: bool) -> Join:
    """What rows are joined with. Services are read only for what needs them: without conntrack no row does."""
    from ipvsctl.plan.join import Join, Services

    setting = host.sysctl.get(USES_CONNTRACK)
    tracked = setting not in (None, "0")
    found = host.ipvs.services() if tracked or full else []
    services = Services(found)
    try:
        join = Join(services, host.conntrack.stream(), host.conntrack.expectations(), tracked=tracked)
    except Unavailable as error:
        notes.append(f"shown without conntrack: {error}")
        return Join(services)
    if not tracked:
        notes.append(_off(setting))
    return join


def _rows(host: Host, join: Join, fits: Callable[[Joined], bool] | None) -> Iterable[Joined]:
    def rows() -> Iterator[Joined]:
        yield from join.join(host.connections())
        yield from join.left()

    return rows() if fits is None else filter(fits, rows())


def _afterwards(join: Join, count: int) -> list[str]:
    """What the tables tell only when they have been read."""
    if join.tracked and count and not join.seen:
        return [
            f"{USES_CONNTRACK} is on, but nothing is tracked: no rule of this namespace asks for connection tracking "
            "(`ipvsctl nfct status` tells more)"
        ]
    return []


@connection_command.command(
    "watch", example=("ipvsctl connection watch", "ipvsctl connection watch --service tcp:192.0.2.1:80 -j")
)
@click.option(
    "--service", type=SERVICE, metavar="SERVICE", shell_complete=completed_by("services"),
    help="Connections of this service alone.",
)  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Connections of no service as well.")
@environment
def watch(env: Environment, service: ServiceAddress | None, every: bool) -> int:
    """Tell what becomes of connections, as conntrack sees it.

    One line for each event until ^C: time, new, update or destroy, and the connection; with -j one JSON document on
    each line. Connection tracking has to be on: IPVS itself tells nobody of its connections.
    """
    from ipvsctl.cli.connection_watch import watch_connections

    return watch_connections(env, service, every)


def services_of(host: Host) -> Any:
    """The services as `plan.join` asks them; none where they cannot be read."""
    from ipvsctl.plan.join import Services

    try:
        return Services(host.ipvs.services())
    except IpvsctlError:
        return Services([])
