"""Checks of what runs: connections, neighbours, sockets, limits and defences."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.knowledge.checks.base import IN_FILE, Check, Seen, by_sysctl, check, count, set_sysctl, some
from ipvsctl.knowledge.checks.network import conf
from ipvsctl.knowledge.names import CONNTRACK, IP_FORWARD
from ipvsctl.knowledge.sysctls import find
from ipvsctl.model.address import INET6, ServerAddress, ServiceAddress
from ipvsctl.model.facts import Facts
from ipvsctl.model.finding import Mend
from ipvsctl.model.service import Server

STUCK = 3
"""Connections that never got further than their SYN before one speaks of a pattern."""

_RESOLVED = ("REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT", "NOARP")
_DEFENCES = ("drop_entry", "drop_packet", "secure_tcp")
_ANY = ("0.0.0.0", "::")
_CROWDED = 4
"""Connections in a bucket of IPVS's table on the average, above which each lookup walks noticeably."""

_DEPENDED = (
    CONNTRACK, "net.ipv4.vs.snat_reroute", "net.ipv4.vs.expire_nodest_conn", "net.ipv4.vs.expire_quiescent_template",
    "net.ipv4.vs.conn_reuse_mode", "net.ipv4.vs.sloppy_tcp", IP_FORWARD, "net.ipv6.conf.all.forwarding",
)  # fmt: skip
"""Sysctls that a director is set up by: what is not their default must be set again at boot."""


def stuck(facts: Facts, service: ServiceAddress, server: ServerAddress) -> tuple[int, int, tuple[str, ...]]:
    """TCP connections of a service to a server that wait in SYN_RECV, those that got further, clients of the former.

    The port of the server is not compared: IPVS keeps that of the service for dr and tun.
    """
    waiting = further = 0
    clients: list[str] = []
    for group in facts.groups.get(server.address, ()):
        same = (group.virtual, group.virtual_port or service.port) == (service.address, service.port)
        ours = group.protocol == "tcp" and (same or not service.address)
        if ours and group.state in ("SYN_RECV", "SYNACK"):
            waiting += group.count
            clients += group.clients
        elif ours and group.state not in ("NONE", "CLOSE", "ASSURED"):
            further += group.count
    return waiting, further, tuple(dict.fromkeys(clients))


def _resolved(facts: Facts, address: str) -> str:
    """The state of a neighbour that answers for its address, "" for none."""
    return next((n.state for n in facts.neighbours if n.address == address and n.state in _RESOLVED and n.mac), "")


def _unanswered(
    facts: Facts, forwards: tuple[str, ...]
) -> Iterator[tuple[ServiceAddress, Server, int, tuple[str, ...]]]:
    """Servers that are on a link and all of whose connections wait for an answer."""
    for status, server in facts.pairs(*forwards):
        service, address = status.service.address, server.server.address
        waiting, further, clients = stuck(facts, service, address)
        if waiting >= STUCK and not further and not facts.is_local(address.address):
            yield service, server.server, waiting, clients


def _replies(facts: Facts, service: ServiceAddress, server: str) -> tuple[int, int]:
    """Conntrack entries of connections to a service with and without an answer; of nat those of one server."""
    with_, without = 0, 0
    for flow in facts.flows_to.get((service.address, service.port), ()):
        if flow.protocol == service.protocol and flow.reply_source in (server, service.address):
            with_, without = (with_ + flow.count, without) if flow.replied else (with_, without + flow.count)
    return with_, without


def _nat_gateway(facts: Facts) -> Iterator[Seen]:
    name = "net.ipv6.conf.all.forwarding"
    dropped = {(j.service, j.forward) for j in facts.journeys if j.lost}
    for service, server, waiting, clients in _unanswered(facts, ("nat",)):
        address = server.address.address
        family_on = facts.is_on(name if server.address.family == INET6 else IP_FORWARD)
        answered, unanswered = _replies(facts, service, address)
        if not family_on or (str(service), "nat") in dropped or answered or not _resolved(facts, address):
            continue
        way = facts.way_to(address)
        beside = [client for client in clients if way and (back := facts.way_to(client)) and not back.via
                  and back.device == way.device]  # fmt: skip
        own = next((each.text.partition("/")[0] for link in facts.links if way and link.name == way.device
                    for each in link.addresses), "DIRECTOR")  # fmt: skip
        proof = f"conntrack saw no answer to {unanswered} of them either" if unanswered else (
            f"its link address is known ({_resolved(facts, address)}), so it is up")  # fmt: skip
        if beside:
            why = (
                f"{count(waiting, 'connection')} to it wait in SYN_RECV, {proof}, and clients ({some(beside)}) are on "
                "its own link: it answers them directly, and they expect the virtual address"
            )
        else:
            why = (
                f"{count(waiting, 'connection')} to it wait in SYN_RECV and none got further; {proof}: its answers do "
                "not come back through the director, its default route is another"
            )
        yield Seen(f"{service} {server.address}", why, f"ip route replace default via {own}",
                   "on the real server, in the configuration of its network")  # fmt: skip


def _direct(facts: Facts) -> Iterator[Seen]:
    for service, server, waiting, _ in _unanswered(facts, ("dr", "tun")):
        address = server.address.address
        if not _resolved(facts, address) and (way := facts.way_to(address)) and not way.via:
            continue
        answered, _ = _replies(facts, service, address)
        if answered:
            continue
        on = "tunl0 and the virtual address on it" if server.forward == "tun" else "the virtual address on lo"
        yield Seen(
            f"{service} {server.address}",
            f"{count(waiting, 'connection')} to it wait in SYN_RECV and none got further: clients get no answer; it "
            f"needs {on}, a program that listens there, and a way back to the clients",
            f"ip address add {service.address or 'ADDRESS'}/{128 if service.family == INET6 else 32} dev "
            f"{'tunl0' if server.forward == 'tun' else 'lo'}",
            "on the real server, in the configuration of its network",
        )  # fmt: skip


def _accept_local(facts: Facts) -> Iterator[Seen]:
    for status, server in facts.pairs("dr", "tun"):
        service, address = status.service.address, server.server.address
        way = None if facts.is_local(address.address) else facts.way_to(address.address)
        there = facts.flows_to.get((service.address, service.port), ())
        half = sum(flow.count for flow in there if flow.state == "SYN_RECV" and flow.replied)
        waiting, _, _ = stuck(facts, service, address)
        if service.family == INET6 or way is None or not half or not waiting:
            continue
        if not facts.either(way.device, "accept_local"):
            name = conf(way.device, "accept_local")
            yield Seen(
                name,
                f"answers of {address.address} to clients of {service} come in by {way.device} (conntrack has {half} "
                "in SYN_RECV), and the kernel drops them, because their source is its own virtual address",
                f"ipvsctl nfct enable --accept-local {way.device}",
                f'accept_local = ["{way.device}"] under [nfct] {IN_FILE}',
                Mend(rules="nfct", accept_local=(way.device,)),
            )  # fmt: skip


def _silent(facts: Facts) -> Iterator[Seen]:
    for each in facts.neighbours:
        if each.state in ("FAILED", "INCOMPLETE"):
            services = [status.service.address for status, server in facts.pairs()
                        if server.server.address.address == each.address and server.server.weight]  # fmt: skip
            if services:
                yield Seen(
                    f"{services[0]} {each.address}",
                    f"nobody answers for {each.address} on {each.device} ({each.state}): the server is down, or not on "
                    f"this link; with weight above 0 it still gets connections of {some(services)}",
                    f"ipvsctl server drain {services[0]} {each.address}",
                )  # fmt: skip


def _listening(facts: Facts, protocol: str, address: str, port: int) -> bool:
    family = _ANY[1:] if ":" in address else _ANY
    return any(
        (socket.protocol, socket.port) == (protocol, port) and socket.address in (address, *family)
        for socket in facts.listeners
    )


def _local_server(facts: Facts) -> Iterator[Seen]:
    for status, server in facts.pairs("nat", "dr", "tun", "local"):
        service, address = status.service.address, server.server.address
        if service.protocol not in ("tcp", "udp") or not facts.is_local(address.address) or not service.port:
            continue
        nat = server.server.forward == "nat"
        where, port = (address.address, address.port or service.port) if nat else (service.address, service.port)
        if not _listening(facts, service.protocol, where, port):
            yield Seen(
                f"{service} {address}",
                f"the server is the director itself, and no program listens on {where} port {port}, which is where "
                f"{'nat' if nat else server.server.forward} delivers",
                f"ipvsctl server edit {service} {address} --weight 0", "start the program with the host",
            )  # fmt: skip


def _shadowed(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        service = status.service.address
        remote = [server for server in status.servers if not facts.is_local(server.server.address.address)]
        if status.servers and len(remote) == len(status.servers) and service.port:
            for socket in facts.listeners:
                if (socket.protocol, socket.address, socket.port) == (service.protocol, service.address, service.port):
                    yield Seen(
                        service,
                        "a program on the director listens on the same address and port, and never gets a packet of "
                        "a client: IPVS takes them first", f"ss -ln{service.protocol[0]}p sport = :{service.port}",
                    )  # fmt: skip


def _defences(facts: Facts) -> Iterator[Seen]:
    for name in _DEFENCES:
        full = f"net.ipv4.vs.{name}"
        value = facts.number(full)
        if value in (2, 3):
            row = find(full)
            because = "always" if value == 3 else "memory is short: amemthresh pages or fewer are free"
            yield Seen(
                full, f"it is at work ({because}): {row.meaning.partition(':')[0] if row else name}; new or half-open "
                "connections are lost by intention", set_sysctl(full, 1 if value == 3 else 0),
                severity="warning" if name != "secure_tcp" else "info",
            )  # fmt: skip


def _estimation(facts: Facts) -> Iterator[Seen]:
    name = "net.ipv4.vs.run_estimation"
    if facts.number(name) == 0:
        yield Seen(name, "rates are not computed: `list --rate` shows zeros", *by_sysctl(name, 1))


def _crowded(facts: Facts) -> Iterator[Seen]:
    total = sum(group.count for group in facts.connections)
    if facts.table_size and total > _CROWDED * facts.table_size:
        bits = max((total - 1).bit_length(), 8)
        yield Seen(
            "ip_vs conn_tab_bits",
            f"{total} connections in a table of {facts.table_size} buckets: each packet walks a chain of "
            f"{total // facts.table_size} on the average",
            f"modprobe -r ip_vs && modprobe ip_vs conn_tab_bits={min(bits, 20)}",
            f'"options ip_vs conn_tab_bits={min(bits, 20)}" in /etc/modprobe.d/ip_vs.conf',
        )  # fmt: skip


def _not_kept(facts: Facts) -> Iterator[Seen]:
    if not facts.services or not facts.initial:
        return
    for name in _DEPENDED:
        row, value = find(name), facts.sysctls.get(name)
        default = row.default if row else None
        kept = facts.kept.get(name)
        if value is None or default is None:
            continue
        if kept is None and value != default:
            yield Seen(name, f"it is {value} now, and no file of sysctl.d sets it: after a boot it is {default}",
                       "ipvsctl persist FILE --write")  # fmt: skip
        elif kept is not None and kept != value:
            yield Seen(name, f"it is {value} now, and files of sysctl.d set it to {kept}: after a boot it is that",
                       "ipvsctl persist FILE --write")  # fmt: skip


CHECKS: tuple[Check, ...] = (
    check("nat-gateway", "nat servers that answer past the director", "error",
          "services sysctls connections neighbours links routes flows journeys", "S17; ip_vs_proto_tcp.c: tcp_states",
          _nat_gateway),
    check("direct-silent", "dr or tun servers from which clients get no answer", "error",
          "services connections neighbours links routes flows", "S18; ip_vs_proto_tcp.c: tcp_states", _direct),
    check("accept-local-missing", "replies with the virtual address are dropped", "error",
          "services sysctls connections flows links routes", "S2, S27; fib_frontend.c: __fib_validate_source",
          _accept_local),
    check("server-silent", "a server that no link address is known of", "warning", "services neighbours",
          "neighbour.c: neigh_timer_handler", _silent),
    check("local-server-deaf", "a server on the director that nothing listens for", "error",
          "services links routes listeners", "S21; ip_vs_xmit.c: __ip_vs_get_out_rt", _local_server),
    check("listener-shadowed", "a program behind the address and port of a service", "warning",
          "services links routes listeners", "ip_vs_core.c: ip_vs_in_hook", _shadowed),
    check("defence-active", "a defence against floods is at work", "warning", "sysctls",
          "ip_vs_ctl.c: update_defense_level", _defences),
    check("estimation-off", "rates are not computed", "info", "sysctls", "ip_vs_est.c", _estimation),
    check("table-crowded", "the connection table is too small", "warning", "services connections",
          "ip_vs_conn.c: conn_tab_bits", _crowded),
    check("not-kept", "settings that the next boot takes away", "info", "services sysctls kept", "sysctl.d(5)",
          _not_kept),
)  # fmt: skip
