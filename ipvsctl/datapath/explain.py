"""Why a packet died, from what the trace saw, and the command that mends it.

An explanation stands on evidence: the step that decided, the connection tracking state there, the entries and services
that are (or are not) in the tables. What is not seen is not said. Numbers S1 to S27 are the statements of the
description of connection tracking for IPVS that an explanation rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ipvsctl.datapath.explain_rules import Case, Explanation, explain_rule, missing_address, services_of
from ipvsctl.datapath.skb import PROTOCOL_NAMES, Broken, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import MASQ, OVERLOAD, TUNNEL, Dest
from ipvsctl.datapath.vs.tunnel import overhead
from ipvsctl.model.address import INET, INET6
from ipvsctl.wire.address import endpoint, readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk

__all__ = ["Explanation", "explain"]


def explain(engine: Engine, walk: Walk) -> Explanation | None:
    """What there is to say of a packet that did not get where it should; None when nothing, or the reason says all."""
    try:
        skb = Skb(bytearray(walk.packet))
    except Broken as error:
        return Explanation(f"the bytes are no packet: {error}")
    case = Case(engine, walk, skb)
    if not isinstance(walk.verdict, Reason):
        return (_lost(case) or missing_address(case)) if walk.verdict == "sent" and walk.device else None
    found = BY_REASON.get(walk.verdict)
    return found(case) if found is not None else None


# -- routing ----------------------------------------------------------------------------------------------------------


def _martian_source(case: Case) -> Explanation:
    source = readable(case.skb.source)
    if case.skb.family == INET and case.skb.source[0] == 127:
        return Explanation(f"{source} is a loopback address: it stays inside a host, and is forged or badly translated")
    if case.engine.routing.is_local(case.skb.family, case.skb.source):
        return Explanation(
            f"{source} is an own address of the director: replies of dr and tun servers bear it, and the kernel takes "
            f"them only on devices with accept_local (S2, S27; let a rule keep everybody else from using it)",
            f"sysctl -w net.ipv4.conf.{case.device}.accept_local=1",
        )
    return Explanation(f"{source} can be nobody's address on {case.walk.device}")


def _rp_filter(case: Case) -> Explanation:
    settings = case.engine.settings
    # The higher of both counts, so that 2 on the device is enough whatever "all" says.
    where = case.device
    back = case.engine.routing.output(case.skb.family, case.skb.source)
    way = "there is none" if isinstance(back, Reason) else f"it leaves by {back.device}"
    strict = "all" if settings.everywhere("ipv4", "rp_filter") == 1 else case.walk.device
    return Explanation(
        f"rp_filter is strict (net.ipv4.conf.{strict}.rp_filter=1) and the route back to {readable(case.skb.source)} "
        f"does not leave by {case.walk.device}: {way} (S2)",
        f"sysctl -w net.ipv4.conf.{where}.rp_filter=2",
    )


def _not_forwarding(case: Case) -> Explanation:
    missing = missing_address(case)
    if missing is not None:
        return missing
    settings, six = case.engine.settings, case.skb.family == INET6
    name = "net.ipv6.conf.all.forwarding" if six else "net.ipv4.ip_forward"
    if settings.get(name) and not six:
        return Explanation(
            f"forwarding is on, but not for what comes in by {case.walk.device}",
            f"sysctl -w net.ipv4.conf.{case.device}.forwarding=1",
        )
    return Explanation(
        "the director does not forward packets, which replies of real servers need (S2)", f"sysctl -w {name}=1"
    )


def _no_route(case: Case) -> Explanation:
    step = case.last("ip_vs_out")
    if step is not None and step.hook == "FORWARD":
        return Explanation(
            "the reply got the virtual address as its source and was routed anew (net.ipv4.vs.snat_reroute=1), and for "
            "that source there is no route: `ip rule` and the tables it names decide (S4)",
            "sysctl -w net.ipv4.vs.snat_reroute=0",
        )
    missing = missing_address(case)
    if missing is not None:
        return missing
    target = readable(case.skb.destination)
    return Explanation(f"no route leads to {target}", f"ip route add {target} via GATEWAY")


def _no_neighbour(case: Case) -> Explanation:
    way = case.engine.routing.output(case.skb.family, case.server.address if case.server else case.skb.destination)
    if isinstance(way, Reason):
        return Explanation("nobody answers for its link address")
    hop = readable(way.gateway or (case.server.address if case.server else case.skb.destination))
    return Explanation(f"{hop} does not answer on {way.device}: it is down, or not on this link")


def _too_big(case: Case) -> Explanation:
    dest = case.server
    way = case.engine.routing.output(case.skb.family if dest is None else dest.family,
                                     case.skb.destination if dest is None else dest.address)  # fmt: skip
    size = len(case.skb.data)
    if isinstance(way, Reason):
        return Explanation(f"it has {size} bytes")
    told = "the sender is told to send smaller ones; it goes wrong where that ICMP message is lost"
    if dest is not None and dest.method == TUNNEL:
        around = overhead(dest.server.tunnel, dest.family)
        return Explanation(
            f"its {size} bytes and {around} of the tunnel around them are more than the {way.mtu} that {way.device} "
            f"takes: {told}",
            f"ip link set dev {way.device} mtu {size + around}",
        )
    return Explanation(f"it has {size} bytes, {way.device} takes {way.mtu}, and it must not be cut: {told}")


def _disabled(case: Case) -> Explanation:
    name = f"net.ipv6.conf.{case.device}.disable_ipv6"
    return Explanation(f"IPv6 is off on {case.walk.device}", f"sysctl -w {name}=0")


# -- conntrack --------------------------------------------------------------------------------------------------------


def _conntrack_full(case: Case) -> Explanation:
    limit = case.engine.settings["net.netfilter.nf_conntrack_max"]
    return Explanation(
        f"connection tracking holds {case.engine.ct.count} connections of at most {limit}: no new one gets in",
        f"sysctl -w net.netfilter.nf_conntrack_max={max(limit * 2, 65536)}",
    )


def _helper(case: Case) -> Explanation:
    notes = [note for step in case.walk.steps if step.verdict is Reason.HELPER for note in step.notes]
    return Explanation(notes[-1] if notes else "the helper could not expect the data connection that it announces")


# -- IPVS -------------------------------------------------------------------------------------------------------------


def _no_destination(case: Case) -> Explanation | None:
    service = case.service
    if service is None:
        return None
    name = service.service.address
    if not service.dests:
        return Explanation("the service has no servers", f"ipvsctl server add {name} ADDRESS")
    quiet = [dest for dest in service.dests if not dest.weight]
    if len(quiet) == len(service.dests):
        return Explanation(
            f"every server has weight 0: {_names(quiet)}",
            f"ipvsctl server edit {name} {quiet[0].server.address} --weight 1",
        )
    full = [dest for dest in service.dests if dest.weight and dest.flags & OVERLOAD]
    if full:
        counts = ", ".join(
            f"{dest.server.address} has {dest.active + dest.inactive} connections of {dest.upper}" for dest in full
        )
        return Explanation(
            f"every server with a weight is at its upper threshold: {counts}",
            f"ipvsctl server edit {name} {full[0].server.address} --upper {full[0].upper * 2}",
        )
    return Explanation(f"the scheduler {service.service.scheduler} chose none of {_names(service.dests)}")


def _names(dests: list[Dest]) -> str:
    return ", ".join(str(dest.server.address) for dest in dests)


def _server_gone(case: Case) -> Explanation:
    return Explanation(
        "its connection goes to a server that was deleted, and is kept for the day it comes back "
        "(net.ipv4.vs.expire_nodest_conn=0): until it times out the client gets no answer",
        "sysctl -w net.ipv4.vs.expire_nodest_conn=1",
    )


def _old_conntrack(case: Case) -> Explanation:
    return Explanation(
        "the client opens anew what was open before from the same port; the old connection's conntrack entry goes with "
        "this packet, so that the client's next try, a second later, is a new connection (conn_reuse_mode)"
    )


def _drop_packet(case: Case) -> Explanation:
    return Explanation(
        "memory is (or is said to be) low, and net.ipv4.vs.drop_packet sheds load",
        "sysctl -w net.ipv4.vs.drop_packet=0",
    )


def _no_way_to_server(case: Case) -> Explanation:
    dest = case.server
    if dest is None:
        return Explanation("no route leads to the server")
    name = readable(dest.address)
    way = case.engine.routing.output(dest.family, dest.address)
    if isinstance(way, Reason):
        return Explanation(f"no route leads to the server {name}", f"ip route add {name} via GATEWAY")
    return Explanation(f"{way.device}, the way to {name}, takes {way.mtu} bytes: too few for any packet in a tunnel")


def _crosses_local(case: Case) -> Explanation:
    dest = case.server
    if dest is None:
        return Explanation("its server is on the other side of the local boundary")
    name = readable(dest.address)
    if case.engine.routing.is_local(dest.family, dest.address):
        return Explanation(
            f"the server {name} is the director itself, and the packet may not become one for the director: it is "
            "forwarded, or the server has a loopback address (use 127.0.0.1 for clients on the director only)"
        )
    return Explanation(f"the server {name} is not on the director, where the packet belongs")


def _application(case: Case) -> Explanation:
    step = case.last("ip_vs_out")
    state = step.state if step is not None else ""
    return Explanation(
        "the FTP reply names the server's own address, and it cannot be replaced: rules see the packet as "
        f"{state}, and only a packet with a conntrack entry can be changed in length. Look for what makes it so: a "
        "NOTRACK rule, or INVALID because segments are missing"
    )


def _no_connection(case: Case) -> Explanation:
    return Explanation(
        f"{endpoint(case.skb.source, case.skb.sport)} is a real server, and what it sends belongs to no connection; "
        "with net.ipv4.vs.nat_icmp_send=1 it is told so"
    )


def _lost(case: Case) -> Explanation | None:
    """A reply that left as the server sent it."""
    for service in case.engine.vs.services.all() if not case.walk.arrived else ():
        if service.ops and any(dest.address == case.skb.source and dest.method == MASQ for dest in service.dests):
            name = service.service.address
            return Explanation(
                f"{name} is scheduled packet by packet (ops) and keeps no connections, so that the addresses of a nat "
                "server's replies are not put back",
                f"ipvsctl service edit {name} --no-ops",
            )
    return None


# -- the host itself --------------------------------------------------------------------------------------------------


def _no_listener(case: Case) -> Explanation | None:
    skb, services = case.skb, case.engine.vs.services
    if not skb.has_ports:
        return None
    if any("never scheduled" in note for step in case.walk.steps for note in step.notes):
        return Explanation("IPVS never schedules a packet from port 20: it is meant to be the data of active FTP")
    if case.own_service is not None:
        return Explanation(
            f"{case.own_service.service.address} wants it, but a packet that opens no connection is not scheduled, and "
            "no entry knows it"
        )
    same = services_of(case)
    name = PROTOCOL_NAMES.get(skb.protocol, str(skb.protocol))
    if same:
        return Explanation(
            f"{readable(skb.destination)} has services, but none on {name} port {skb.dport}: {', '.join(same)}",
            f"ipvsctl service add {name}:{endpoint(skb.destination, skb.dport)}",
        )
    marks = [each for each in services.all() if each.fwmark and each.family == skb.family]
    if marks and case.walk.device:
        mark = marks[0]
        where = f"-p {name} -d {readable(skb.destination)} --dport {skb.dport}"
        return Explanation(
            f"{mark.service.address} takes packets with the mark {mark.fwmark}, and no rule marks this one",
            f"{case.tool} -t mangle -A PREROUTING {where} -j MARK --set-mark {mark.fwmark}",
        )
    if not len(services):
        return Explanation("there are no virtual services")
    return Explanation(f"no service has the address {readable(skb.destination)}")


BY_REASON: dict[Reason, Callable[[Case], Explanation | None]] = {
    Reason.RULE: explain_rule,
    Reason.POLICY: explain_rule,
    Reason.REJECT: explain_rule,
    Reason.MARTIAN_SOURCE: _martian_source,
    Reason.RP_FILTER: _rp_filter,
    Reason.NOT_FORWARDING: _not_forwarding,
    Reason.NO_ROUTE: _no_route,
    Reason.NO_NEIGHBOUR: _no_neighbour,
    Reason.TOO_BIG: _too_big,
    Reason.DISABLED: _disabled,
    Reason.CONNTRACK_FULL: _conntrack_full,
    Reason.HELPER: _helper,
    Reason.IPVS_NO_DESTINATION: _no_destination,
    Reason.IPVS_NO_CONNECTION: _no_connection,
    Reason.IPVS_SERVER_GONE: _server_gone,
    Reason.IPVS_OLD_CONNTRACK: _old_conntrack,
    Reason.IPVS_DROP_PACKET: _drop_packet,
    Reason.IPVS_NO_ROUTE: _no_way_to_server,
    Reason.IPVS_CROSSES_LOCAL: _crosses_local,
    Reason.IPVS_APPLICATION: _application,
    Reason.NO_LISTENER: _no_listener,
    Reason.FRAGMENT: lambda case: Explanation("a trace has one packet: give it whole, without frag="),
    Reason.LOCAL_CHECKSUM: lambda case: Explanation("the packet was damaged on its way, or was made so (badsum)"),
}
"""The reasons that have more to say than their own sentence."""
