"""Checks of services and servers as IPVS has them."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.knowledge.checks.base import IN_FILE, Check, Seen, by_sysctl, check, some
from ipvsctl.knowledge.schedulers import SCHEDULERS
from ipvsctl.model.address import parse_ip
from ipvsctl.model.facts import Facts
from ipvsctl.model.finding import Mend
from ipvsctl.model.status import ServerStatus, ServiceStatus

FTP = 21
QUIESCENT = "net.ipv4.vs.expire_quiescent_template"
NODEST = "net.ipv4.vs.expire_nodest_conn"
_HASHING = {"sh": "sh-fallback", "mh": "mh-fallback", "dh": ""}
_BY_DESTINATION = ("dh", "lblc", "lblcr")


def is_full(server: ServerStatus) -> bool:
    """Whether the kernel gives a server nothing new because of its upper threshold (__ip_vs_dest_update_overload)."""
    upper = server.server.upper
    return bool(upper) and server.active_connections + server.inactive_connections >= upper


def is_ftp(service: ServiceStatus) -> bool:
    return service.service.address.protocol == "tcp" and service.service.address.port == FTP


def _empty(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        if not status.servers:
            name = status.service.address
            yield Seen(
                name, "the service has no servers: clients are refused (ICMP port unreachable)",
                f"ipvsctl server add {name} ADDRESS --forward nat", f"[[service.server]] {IN_FILE}",
            )  # fmt: skip


def _quiesced(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        if status.servers and not any(server.server.weight for server in status.servers):
            name, first = status.service.address, status.servers[0].server.address
            yield Seen(
                name,
                f"every server has weight 0 ({some(s.server.address for s in status.servers)}): no new client is taken",
                f"ipvsctl server edit {name} {first} --weight 1", f"weight = 1 of the server {IN_FILE}",
            )  # fmt: skip


def _overloaded(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        weighted = [server for server in status.servers if server.server.weight]
        full = [server for server in weighted if is_full(server)]
        name = status.service.address
        for server in full:
            total, upper = server.active_connections + server.inactive_connections, server.server.upper
            every = len(full) == len(weighted)
            rest = ": so has every server with a weight, no new client is taken" if every else ": others take its share"
            yield Seen(
                f"{name} {server.server.address}", f"it has {total} connections of at most {upper}{rest}",
                f"ipvsctl server edit {name} {server.server.address} --upper {upper * 2}",
                f"upper = {upper * 2} of the server {IN_FILE}", severity="error" if every else "info",
            )  # fmt: skip


def _scheduler(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        name, scheduler = status.service.address, status.service.scheduler
        module = SCHEDULERS[scheduler].module if scheduler in SCHEDULERS else f"ip_vs_{scheduler}"
        if scheduler == "none":
            yield Seen(name, "no scheduler is bound to the service: it never chooses a server",
                       f"ipvsctl service edit {name} --scheduler wlc", f'scheduler = "wlc" {IN_FILE}')  # fmt: skip
        elif facts.features.get(module) == "absent":
            yield Seen(name, f"its scheduler {scheduler} is not a module of this kernel ({module}): it cannot be made",
                       f"ipvsctl service edit {name} --scheduler wlc", f'scheduler = "wlc" {IN_FILE}')  # fmt: skip


def _one_destination(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        service = status.service
        if service.scheduler in _BY_DESTINATION and service.address.address and len(status.servers) > 1:
            until = "" if service.scheduler == "dh" else " until it is overloaded"
            yield Seen(
                service.address,
                f"scheduler {service.scheduler} chooses by the destination address, and the service has only one: "
                f"every connection goes to one of its {len(status.servers)} servers{until}; it is for firewall marks",
                f"ipvsctl service edit {service.address} --scheduler wlc", f'scheduler = "wlc" {IN_FILE}',
            )  # fmt: skip


def _hash_refuses(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        service = status.service
        flag = _HASHING.get(service.scheduler)
        if flag is None or (flag and flag in service.flags) or service.persistent:
            continue
        closed = [server for server in status.servers if not server.server.weight or is_full(server)]
        if closed and len(closed) < len(status.servers):
            fix = f"ipvsctl service edit {service.address} --flag {flag}" if flag else (
                f"ipvsctl server delete {service.address} {closed[0].server.address}")  # fmt: skip
            yield Seen(
                service.address,
                f"scheduler {service.scheduler} has no second choice: clients that hash to "
                f"{some(s.server.address for s in closed)} (weight 0 or full) are refused",
                fix, f'flags = ["{flag}"] {IN_FILE}' if flag else "",
            )  # fmt: skip


def _port_zero(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        address = status.service.address
        if address.protocol != "fwmark" and not address.port and not status.service.persistent:
            yield Seen(address, "port 0 stands for every port only while the service is persistent: now it never "
                       "chooses a server", f"ipvsctl service edit {address} --persistent=300",
                       f"persistent = 300 {IN_FILE}")  # fmt: skip


def _ops(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        service = status.service
        if "ops" not in service.flags:
            continue
        undo = f"ipvsctl service edit {service.address} --no-ops", f'no "ops" in flags {IN_FILE}'
        if service.address.protocol == "tcp":
            yield Seen(service.address, "one-packet scheduling is ignored for TCP: it only says what is not true",
                       *undo, severity="warning")  # fmt: skip
        elif service.pe is None and (nat := [s for s in status.servers if s.server.forward == "nat"]):
            yield Seen(
                service.address,
                "one-packet scheduling keeps no connections: replies of the nat servers "
                f"{some(s.server.address for s in nat)} leave with the servers' own address, and clients drop them",
                *undo,
            )  # fmt: skip


def _engine(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        service = status.service
        if service.pe == "sip" and service.address.protocol not in ("udp", "fwmark"):
            yield Seen(service.address, "the persistence engine sip reads UDP only: connections get no Call-ID",
                       f"ipvsctl service edit {service.address} --no-pe", f"no pe {IN_FILE}")  # fmt: skip


def _ftp_persistence(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        others = [server for server in status.servers if server.server.forward in ("dr", "tun")]
        if is_ftp(status) and others and not status.service.persistent:
            name = status.service.address
            yield Seen(
                name,
                f"FTP through {others[0].server.forward} without persistence: the service has no port for the data "
                "connections of passive FTP, which only a persistent service on port 21 takes along",
                f"ipvsctl service edit {name} --persistent=300", f"persistent = 300 {IN_FILE}",
            )  # fmt: skip


def _ftp_ports_open(facts: Facts) -> Iterator[Seen]:
    for status in facts.services:
        address = status.service.address
        if not is_ftp(status) or not status.service.persistent:
            continue
        family = address.family
        closed = any(chain.policy == "DROP" and chain.name == "INPUT" for _, chain in facts.chains(family, "filter"))
        guarded = closed or any(
            rule.target in ("DROP", "REJECT") and rule.protocol in ("", "tcp", "all")
            for _, _, rule in facts.rules(family, "filter")
        )
        if not guarded and not facts.nft:
            yield Seen(
                address,
                "a persistent service on port 21 sends every TCP port from ip_unprivileged_port_start on to its "
                "servers, and no rule closes them",
                f"ipvsctl firewall apply --protect {address.address} --forward-policy accept",
                f'protect = ["{address.address}"] under [firewall] {IN_FILE}',
            )  # fmt: skip


def _template(facts: Facts) -> Iterator[Seen]:
    if facts.number(QUIESCENT) != 0:
        return
    for status in facts.services:
        if not status.service.persistent:
            continue
        closed = [server.server.address for server in status.servers if not server.server.weight or is_full(server)]
        if closed:
            yield Seen(
                status.service.address,
                f"persistent clients keep being sent to {some(closed)}, whose weight is 0 or which is full "
                f"({QUIESCENT}=0): to drain it takes as long as they come back",
                *by_sysctl(QUIESCENT, 1), severity="warning",
            )  # fmt: skip
        else:
            yield Seen(
                status.service.address,
                f"{QUIESCENT}=0: setting a server's weight to 0 will not keep its persistent clients away from it",
                *by_sysctl(QUIESCENT, 1)[:2],
            )  # fmt: skip


def _udp(facts: Facts) -> Iterator[Seen]:
    if facts.number(NODEST) != 0:
        return
    for status in facts.services:
        if status.service.address.protocol == "udp" and status.servers and "ops" not in status.service.flags:
            yield Seen(
                status.service.address,
                f"{NODEST}=0: when a server is deleted, clients that go on sending from one port keep its connection "
                f"alive ({facts.timeouts.udp or 300} s after each packet), and every packet of it is dropped",
                *by_sysctl(NODEST, 1),
            )  # fmt: skip


def _other_port(facts: Facts) -> Iterator[Seen]:
    for status, server in facts.pairs("dr", "tun"):
        service, wanted = status.service.address, server.server.address
        if service.port and wanted.port and wanted.port != service.port:
            method = server.server.forward
            yield Seen(
                f"{service} {wanted}",
                f"{method} does not change ports: packets arrive at {wanted.address} on port {service.port}, not on "
                f"{wanted.port}",
                f"ipvsctl server delete {service} {wanted} && ipvsctl server add {service} {wanted.address} "
                f"--forward {method}",
                f"the server without a port {IN_FILE}",
            )  # fmt: skip


def _loopback(facts: Facts) -> Iterator[Seen]:
    for status, server in facts.pairs():
        address = server.server.address.address
        family, text = parse_ip(address)
        if text.startswith("127.") if family == 2 else text == "::1":
            yield Seen(
                f"{status.service.address} {server.server.address}",
                f"{address} is a loopback address: only clients on the director itself reach it, packets from outside "
                "are dropped",
                f"ipvsctl server delete {status.service.address} {server.server.address}",
                f"an address of the director's devices instead {IN_FILE}",
            )  # fmt: skip


def _ftp_module(facts: Facts) -> Iterator[Seen]:
    state = facts.features.get("ip_vs_ftp", "")
    for status in facts.services:
        nat = [server for server in status.servers if server.server.forward == "nat"]
        if is_ftp(status) and nat and state in ("loadable", "absent"):
            loadable = state == "loadable"
            yield Seen(
                status.service.address,
                "FTP through nat and ip_vs_ftp is not "
                + ("loaded" if loadable else "a module of this kernel")
                + ": the servers' answers name their own address, and data connections of active FTP leave with it",
                "ipvsctl module load ip_vs_ftp" if loadable else "",
                f'helper = "ftp" of the service {IN_FILE}' if loadable else "",
                Mend(modules=("ip_vs_ftp",)) if loadable else Mend(),
            )  # fmt: skip


def _ftp_port(facts: Facts) -> Iterator[Seen]:
    """Services that a helper rule says are FTP, on a port that ip_vs_ftp does not look at."""
    helped = {
        value
        for _, _, rule in facts.rules(table="raw")
        if dict(rule.target_options).get("helper", "").partition("-")[0] == "ftp"
        for match in rule.matches
        for name, value in match.options
        if name == "dport"
    }
    for status in facts.services:
        address = status.service.address
        nat = address.protocol == "tcp" and any(server.server.forward == "nat" for server in status.servers)
        other = facts.ftp_ports and address.port not in facts.ftp_ports
        if nat and other and str(address.port) in helped:
            ports = ",".join(map(str, (*facts.ftp_ports, address.port)))
            yield Seen(
                address,
                f"a rule gives it the helper ftp, but ip_vs_ftp looks at port {some(facts.ftp_ports)} only: the "
                "servers' answers keep their own address; its ports are fixed when it is loaded",
                f"modprobe -r ip_vs_ftp && modprobe ip_vs_ftp ports={ports}",
                f'"options ip_vs_ftp ports={ports}" in /etc/modprobe.d/ip_vs_ftp.conf',
            )


CHECKS: tuple[Check, ...] = (
    check("service-empty", "a service without servers", "error", "services", "ip_vs_core.c: ip_vs_leave", _empty),
    check("service-quiesced", "every server of a service has weight 0", "error", "services",
          "ip_vs_core.c: ip_vs_leave", _quiesced),
    check("server-full", "servers at their upper threshold", "error", "services",
          "ip_vs_ctl.c: __ip_vs_dest_update_overload", _overloaded),
    check("scheduler-missing", "a service without a scheduler", "error", "services features",
          "ip_vs_sched.c: ip_vs_scheduler_get", _scheduler),
    check("scheduler-one-destination", "a scheduler by destination for a single address", "warning", "services",
          "ip_vs_dh.c, ip_vs_lblc.c", _one_destination),
    check("scheduler-refuses", "a hashing scheduler without second choice, and a closed server", "warning", "services",
          "ip_vs_sh.c, ip_vs_mh.c: *_fallback", _hash_refuses),
    check("port-zero", "a service on every port that is not persistent", "error", "services",
          "ip_vs_core.c: ip_vs_schedule", _port_zero),
    check("ops", "one-packet scheduling where it cannot work", "error", "services",
          "ip_vs_conn.c: IP_VS_CONN_F_ONE_PACKET", _ops),
    check("engine-protocol", "the persistence engine sip for another protocol than UDP", "warning", "services",
          "ip_vs_pe_sip.c: ip_vs_sip_fill_param", _engine),
    check("ftp-not-persistent", "FTP through dr or tun without persistence", "error", "services", "S9, S10",
          _ftp_persistence),
    check("ftp-ports-open", "a persistent FTP service opens every high port", "warning", "services tables nft",
          "S9, S14; ip_vs_ctl.c: ip_vs_service_find", _ftp_ports_open),
    check("quiescent-template", "persistence that outlives a server's weight", "info", "services sysctls",
          "ip_vs_conn.c: ip_vs_check_template", _template),
    check("udp-nodest", "UDP connections that outlive their server", "warning", "services sysctls",
          "ip_vs_core.c: ip_vs_in_hook", _udp),
    check("port-not-changed", "another port of a server reached by dr or tun", "warning", "services",
          "ip_vs_xmit.c: ip_vs_dr_xmit, ip_vs_tunnel_xmit", _other_port),
    check("server-loopback", "a server with a loopback address", "error", "services",
          "ip_vs_xmit.c: ip_vs_nat_xmit", _loopback),
    check("ftp-module", "FTP through nat without ip_vs_ftp", "error", "services features", "S8, S16", _ftp_module),
    check("ftp-port", "an FTP service on a port that ip_vs_ftp does not know", "error", "services features tables",
          "S8; ip_vs_ftp.c: ports", _ftp_port),
)  # fmt: skip
