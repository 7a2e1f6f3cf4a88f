"""Why a rule that drops a packet matched it: what its state is, and what it should have been.

Most refusals by a director's firewall have one cause: rules by state see another state than the administrator thinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ipvsctl.datapath.skb import ACK, RST, SYN, TCP, Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import MASQ, METHOD_MASK, METHOD_NAMES, TUNNEL, Conn, Dest, VirtualService
from ipvsctl.datapath.vs.header import Header
from ipvsctl.model.address import INET
from ipvsctl.wire.address import readable

if TYPE_CHECKING:
    from ipvsctl.datapath.engine import Engine
    from ipvsctl.datapath.session import Walk
    from ipvsctl.datapath.trace import Rule, Step
    from ipvsctl.model.status import ConntrackEntry

_FTP, _FTP_DATA = 21, 20
_RULES = (Reason.RULE, Reason.POLICY, Reason.REJECT)
_OWN = "IPVSCTL-"
_MANY = 5


class Explanation(NamedTuple):
    """`why` a sentence; `mend` the command that mends it, "" when there is none."""

    why: str
    mend: str = ""


class Case:
    """A packet that died, and what an explanation may want to know of it."""

    def __init__(self, engine: Engine, walk: Walk, skb: Skb) -> None:
        self.engine = engine
        self.walk = walk
        self.skb = skb
        self.tool = "iptables" if skb.family == INET else "ip6tables"
        self.device = walk.device.replace(".", "/")
        """As sysctl names it."""

    def last(self, function: str) -> Step | None:
        """A function's last turn with the packet."""
        return next((step for step in reversed(self.walk.steps) if step.function == function and not step.answer), None)

    @property
    def mark(self) -> int:
        """The mark that rules gave the packet."""
        return next((step.packet["mark"] for step in reversed(self.walk.steps) if "mark" in step.packet), 0)

    @property
    def service(self) -> VirtualService | None:
        """The service that the packet is for."""
        if not self.skb.has_ports:
            return None
        skb = self.skb
        return self.engine.vs.services.lookup(skb.family, self.mark, skb.protocol, skb.destination, skb.dport)

    @property
    def own_service(self) -> VirtualService | None:
        """The same, but not the FTP service for the sake of its data connections."""
        service = self.service
        return service if service and (service.fwmark or service.port in (0, self.skb.dport)) else None

    @property
    def server(self) -> Dest | None:
        """The server that IPVS would have sent the packet to."""
        name = next((step.data["server"] for step in reversed(self.walk.steps) if "server" in step.data), None)
        for service in self.engine.vs.services.all() if name else ():
            for dest in service.dests:
                port = dest.port or (self.skb.dport if self.skb.has_ports else 0)
                if name in (_endpoint(dest.address, dest.port), _endpoint(dest.address, port)):
                    return dest
        return None


def _endpoint(address: bytes, port: int) -> str:
    name = readable(address)
    return f"[{name}]:{port}" if len(address) == 16 else f"{name}:{port}"


def services_of(case: Case) -> list[str]:
    """The services that the packet's destination has, the first few of many."""
    services = case.engine.vs.services.all()
    names = [str(each.service.address) for each in services if each.address == case.skb.destination]
    return names if len(names) <= _MANY else [*names[:_MANY], f"{len(names) - _MANY} more"]


def missing_address(case: Case) -> Explanation | None:
    """The packet is for a service, and went past IPVS: the virtual address is none of the host's."""
    service = case.own_service
    if service is None or case.engine.routing.is_local(case.skb.family, case.skb.destination):
        return None
    if any(step.function == "ip_vs_in" and step.hook == "INPUT" for step in case.walk.steps):
        return None
    name = readable(case.skb.destination)
    if service.fwmark:
        way = "" if case.skb.family == INET else "-6 "
        every = "0.0.0.0/0" if case.skb.family == INET else "::/0"
        return Explanation(
            f"it has the mark of {service.service.address}, but {name} is no address of the director: it is forwarded, "
            "and IPVS sees only what is delivered",
            f"ip {way}rule add fwmark {service.fwmark} lookup 100\nip {way}route add local {every} dev lo table 100",
        )
    return Explanation(
        f"{service.service.address} is a service, but {name} is no address of the director: IPVS sees only what is "
        "delivered to it",
        f"ip address add {name}/{len(case.skb.destination) * 8} dev {case.walk.device or 'lo'}",
    )


def explain_rule(case: Case) -> Explanation | None:
    """A rule or a policy drops the packet: the first cause that there is evidence for."""
    step = next((step for step in reversed(case.walk.steps) if step.verdict in _RULES and not step.answer), None)
    if step is None or not case.skb.has_ports:
        return None
    for cause in (_ftp_data, _untracked, _one_way, _invalid, _closed, _forwarded):
        found = cause(case, step)
        if found is not None:
            return found
    return None


# -- FTP --------------------------------------------------------------------------------------------------------------


def _ftp_data(case: Case, step: Step) -> Explanation | None:
    """A data connection that rules do not see as RELATED (S8, S9, S10, S14)."""
    skb = case.skb
    if skb.protocol != TCP or step.state != "NEW" or _FTP in (skb.sport, skb.dport):
        return None
    control = _control(case)
    if control is None:
        return None
    virtual, method = readable(control.vaddr), control.flags & METHOD_MASK
    if skb.destination == control.daddr and skb.destination != control.vaddr and method == MASQ:
        if "ip_vs_ftp" not in case.engine.modules:
            return Explanation(
                f"the client connects to {readable(skb.destination)}, the server's own address, because the server's "
                f"answer named it and ip_vs_ftp, which puts {virtual} in its place, is not loaded (S8, S16)",
                "modprobe ip_vs_ftp",
            )
        return Explanation(f"the client connects to the server's own address {readable(skb.destination)}")
    if method == TUNNEL and skb.sport == _FTP_DATA:
        return Explanation(
            "a server reached by tun opens the data connection of active FTP: the client's command left in a tunnel, "
            "where no helper reads it, so rules see the connection as NEW (S10)",
            f"{case.tool} -I FORWARD -p tcp -s {virtual} --sport {_FTP_DATA} -j ACCEPT",
        )
    entry = _entry_of(case, control)
    why = "it is the data connection of an FTP session, but rules see it as NEW and not as RELATED: "
    if entry is None:
        return Explanation(
            f"{why}with net.ipv4.vs.conntrack=0 nothing tracks the control connection (S3, S9)", "ipvsctl nfct enable"
        )
    if not entry.helper:
        return Explanation(
            f"{why}the control connection has no conntrack helper, because kernels since 4.7 assign none by port "
            "(S8, S14)",
            f"{case.tool} -t raw -A PREROUTING -p tcp -d {virtual} --dport {_FTP} -j CT --helper ftp",
        )
    if "seen_reply" not in entry.status:
        return Explanation(
            f"{why}the server's answers do not pass the director, so that the helper reads only one half (S9, S18): "
            "let the director be the servers' gateway, and take packets from the virtual address on their device",
            f"sysctl -w net.ipv4.conf.{_server_device(case, control)}.accept_local=1",
        )
    return Explanation(f"{why}no expectation of the helper fits it")


def _control(case: Case) -> Conn | None:
    """The FTP control connection between the same hosts."""
    hosts = {case.skb.source, case.skb.destination}
    for conn in case.engine.vs.conns:
        control = conn.vport == _FTP and conn.protocol == TCP and conn.cport
        if control and conn.caddr in hosts and hosts & {conn.vaddr, conn.daddr}:
            return conn
    return None


def _entry_of(case: Case, conn: Conn) -> ConntrackEntry | None:
    wanted = readable(conn.caddr), conn.cport, readable(conn.vaddr), conn.vport
    for entry in case.engine.ct.report():
        if (entry.source, entry.source_port, entry.destination, entry.destination_port) == wanted:
            return entry
    return None


def _server_device(case: Case, conn: Conn) -> str:
    way = case.engine.routing.output(conn.family, conn.daddr)
    return "all" if isinstance(way, Reason) else way.device.replace(".", "/")


# -- states -----------------------------------------------------------------------------------------------------------


def _untracked(case: Case, step: Step) -> Explanation | None:
    """A packet of an IPVS connection, and IPVS keeps none of them in conntrack (S3, S17)."""
    if case.engine.settings["net.ipv4.vs.conntrack"] or step.state not in ("INVALID", "UNTRACKED", "NEW"):
        return None
    if _conn(case) is None or _opens(case.skb):
        return None
    return Explanation(
        f"it belongs to an IPVS connection, but rules see it as {step.state}: with net.ipv4.vs.conntrack=0 conntrack "
        "forgets each packet of such a connection, so that rules by state cannot know it (S3, S17)",
        "ipvsctl nfct enable",
    )


def _one_way(case: Case, step: Step) -> Explanation | None:
    """A connection to a dr or tun server whose answers go past the director (S18)."""
    conn = _conn(case)
    if step.state != "INVALID" or conn is None or conn.flags & METHOD_MASK == MASQ:
        return None
    entry = _entry_of(case, conn)
    if entry is None or "seen_reply" in entry.status:
        return None
    method = METHOD_NAMES.get(conn.flags & METHOD_MASK, "dr")
    virtual = readable(conn.vaddr)
    return Explanation(
        f"rules see it as INVALID: the server is reached by {method} and answers past the director, so that conntrack "
        "sees one direction only and calls everything after the SYN invalid (S18); rules for such a service must not "
        "ask for the state",
        f"{case.tool} {_insert(step)} -p tcp -d {virtual} --dport {conn.vport} -j ACCEPT",
    )


def _invalid(case: Case, step: Step) -> Explanation | None:
    """What conntrack itself said."""
    if step.state != "INVALID":
        return None
    said = next((each.data["invalid"] for each in case.walk.steps if "invalid" in each.data and not each.answer), None)
    return Explanation(f"rules see it as INVALID: {said}") if said else None


def _conn(case: Case) -> Conn | None:
    """The IPVS connection that the packet is of, in either direction."""
    skb, conns = case.skb, case.engine.vs.conns
    header = Header(skb.family, skb.protocol, skb.source, skb.destination, skb.sport, skb.dport)
    return conns.find_in(header) or conns.find_out(header)


def _opens(skb: Skb) -> bool:
    return skb.protocol == TCP and bool(skb.flags & SYN) and not skb.flags & ACK


# -- what the rules are for -------------------------------------------------------------------------------------------


def _closed(case: Case, step: Step) -> Explanation | None:
    """A rule before IPVS closes a port: of a service, which is a mistake, or of none, which is its purpose."""
    if step.hook not in ("PREROUTING", "INPUT"):
        return None
    skb = case.skb
    service = case.own_service
    name = readable(skb.destination)
    if service is not None:
        rule = step.rules[-1] if step.rules else None
        if rule is not None and rule.chain.startswith(_OWN):
            mend = "ipvsctl firewall apply"
        else:
            what = f"-m mark --mark {service.fwmark}" if service.fwmark else f"--dport {skb.dport}"
            protocol = {6: "tcp", 17: "udp", 132: "sctp"}.get(skb.protocol, str(skb.protocol))
            mend = f"{case.tool} {_insert(step)} -p {protocol} -d {name} {what} -j ACCEPT"
        return Explanation(
            f"{service.service.address} would take it, but the rule comes before IPVS and nothing above it accepts "
            f"packets in state {step.state}",
            mend,
        )
    same = services_of(case)
    if same:
        return Explanation(f"no service is there on port {skb.dport}: {name} has {', '.join(same)} (S14)")
    return None


def _forwarded(case: Case, step: Step) -> Explanation | None:
    """A rule of FORWARD: for a service whose address is missing, for a server that begins itself, for a stray."""
    if step.hook != "FORWARD":
        return None
    missing = missing_address(case)
    if missing is not None:
        return missing
    skb = case.skb
    servers = {dest.address for service in case.engine.vs.services.all() for dest in service.dests}
    source = readable(skb.source)
    if skb.source in servers and step.state == "NEW" and (_opens(skb) or skb.protocol != TCP):
        return Explanation(
            f"the real server {source} begins this connection itself; only what belongs to a known connection is "
            "forwarded (S14)",
            f"{case.tool} {_insert(step)} -s {source} -m conntrack --ctstate NEW -j ACCEPT",
        )
    if skb.source in servers or any(skb.source == each.address for each in case.engine.vs.services.all()):
        what = "resets" if skb.protocol == TCP and skb.flags & RST else "answers"
        return Explanation(f"{source} {what}, but no known connection has this packet: it is in state {step.state}")
    return None


def _insert(step: Step) -> str:
    """Where a rule must go to come before the one that decided; chains of ours are left as they are."""
    rule: Rule | None = step.rules[-1] if step.rules else None
    if rule is None or rule.chain.startswith(_OWN):
        return f"-I {step.hook}"
    table = "" if rule.table == "filter" else f"-t {rule.table} "
    return f"{table}-I {rule.chain} {rule.number}" if rule.number else f"{table}-A {rule.chain}"
