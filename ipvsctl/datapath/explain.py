"""Why a packet died, from what the trace saw, and the command that mends it.

An explanation stands on evidence: the step that decided, the connection tracking state there, the entries and services
that are (or are not) in the tables. What is not seen is not said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.datapath.skb import TCP, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET
from ipvsctl.wire.address import packed, readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.trace import Step

_RULES = (Reason.RULE, Reason.POLICY, Reason.REJECT)


class Explanation(NamedTuple):
    """`why` a sentence; `mend` a command or a line of the director file, "" when there is none."""

    why: str
    mend: str = ""


def explain(engine: Engine, walk: Walk) -> Explanation | None:
    """What there is to say of a packet that did not pass; None for one that did, or when the reason says it all."""
    reason = walk.verdict
    if not isinstance(reason, Reason):
        return None
    skb = Skb(bytearray(walk.packet))
    family = "iptables" if skb.family == INET else "ip6tables"
    if reason in _RULES:
        return _explain_rule(engine, walk, skb, family)
    if reason is Reason.MARTIAN_SOURCE and engine.routing.is_local(skb.family, skb.source):
        return Explanation(
            f"{readable(skb.source)} is an own address of the director: replies of dr and tun servers bear it, and the "
            f"kernel takes them only on devices with accept_local (S2, S27)",
            f"sysctl -w net.ipv4.conf.{walk.device.replace('.', '/')}.accept_local=1",
        )
    if reason is Reason.RP_FILTER:
        where = "all" if engine.settings.everywhere("ipv4", "rp_filter") == 1 else walk.device.replace(".", "/")
        return Explanation(
            f"the route back to {readable(skb.source)} does not leave by {walk.device}, and rp_filter is strict",
            f"sysctl -w net.ipv4.conf.{where}.rp_filter=2",
        )
    if reason is Reason.NOT_FORWARDING:
        name = "net.ipv4.ip_forward" if skb.family == INET else "net.ipv6.conf.all.forwarding"
        return Explanation(
            "the director does not forward packets, which replies of real servers need", f"sysctl -w {name}=1"
        )
    if reason is Reason.NO_LISTENER:
        return _explain_local(engine, skb)
    if reason is Reason.IPVS_NO_DESTINATION:
        return _explain_no_destination(engine, skb)
    return None


def _deciding(walk: Walk) -> Step | None:
    return next((step for step in reversed(walk.steps) if step.verdict in _RULES), None)


def _explain_rule(engine: Engine, walk: Walk, skb: Skb, tool: str) -> Explanation | None:
    step = _deciding(walk)
    if step is None or skb.protocol != TCP or not skb.has_ports:
        return None
    control = _ftp_control(engine, skb)
    if step.state == "NEW" and control is not None:
        virtual, helper = control
        if not helper:
            return Explanation(
                "it is the data connection of an FTP session, but rules see it as NEW and not as RELATED: the control "
                "connection has no conntrack helper, because kernels since 4.7 assign none by port (S8, S14)",
                f"{tool} -t raw -A PREROUTING -p tcp -d {readable(virtual)} --dport 21 -j CT --helper ftp",
            )
        return Explanation("it belongs to an FTP session, but no expectation of the helper fits it", "")
    if step.state in ("INVALID", "UNTRACKED", "NEW") and not engine.settings["net.ipv4.vs.conntrack"]:
        found = engine.vs.services.lookup(skb.family, skb.mark, skb.protocol, skb.destination, skb.dport)
        if found is not None or step.hook == "FORWARD":
            return Explanation(
                f"rules see it as {step.state}: with net.ipv4.vs.conntrack=0 no entry of an IPVS connection lasts, so "
                "rules by state cannot know it (S3, S17)",
                "ipvsctl nfct enable",
            )
    return None


def _ftp_control(engine: Engine, skb: Skb) -> tuple[bytes, bool] | None:
    """The virtual address of the FTP session that a packet between the same hosts belongs to, and whether the session's
    control connection has a helper."""
    for entry in engine.ct.report():
        if entry.protocol != "tcp" or entry.destination_port != 21:
            continue
        hosts = {entry.source, entry.destination, entry.reply_source, entry.reply_destination}
        if {readable(skb.source), readable(skb.destination)} <= hosts and 21 not in (skb.sport, skb.dport):
            return packed(entry.destination), bool(entry.helper)
    return None


def _explain_local(engine: Engine, skb: Skb) -> Explanation | None:
    if not skb.has_ports:
        return None
    same = [str(service.service.address) for service in engine.vs.services.all() if service.address == skb.destination]
    if not same:
        return None
    if engine.vs.services.lookup(skb.family, skb.mark, skb.protocol, skb.destination, skb.dport) is not None:
        return Explanation(
            "there is a service, but a packet that opens no connection is not scheduled: no entry knows it"
        )
    return Explanation(
        f"{readable(skb.destination)} has services, but none on this port: {', '.join(same)}",
        f"ipvsctl service add {'tcp' if skb.protocol == TCP else 'udp'}:{readable(skb.destination)}:{skb.dport}",
    )


def _explain_no_destination(engine: Engine, skb: Skb) -> Explanation | None:
    service = engine.vs.services.lookup(skb.family, skb.mark, skb.protocol, skb.destination, skb.dport)
    if service is None:
        return None
    if not service.dests:
        return Explanation("the service has no servers", f"ipvsctl server add {service.service.address} ADDRESS")
    quiet = [str(dest.server.address) for dest in service.dests if not dest.weight]
    if len(quiet) == len(service.dests):
        return Explanation(
            f"every server has weight 0: {', '.join(quiet)}",
            f"ipvsctl server edit {service.service.address} {quiet[0]} --weight 1",
        )
    return Explanation("every server with a weight is above its threshold of connections")
