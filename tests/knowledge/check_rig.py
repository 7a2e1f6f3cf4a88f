"""Evidence made by hand for the checks: a director that is well, and what differs from it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ipvsctl.formats.iptables_save import parse as parse_rules
from ipvsctl.formats.nft_foreign import parse as parse_nft
from ipvsctl.formats.snapshot_file import parse as parse_snapshot
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.facts import ConnectionGroup, Facts, FlowGroup, Link, LinkAddress, Neighbour
from ipvsctl.model.foreign import ForeignChain
from ipvsctl.model.route import Route
from ipvsctl.model.service import Server, Service
from ipvsctl.model.snapshot import SavedTable
from ipvsctl.model.status import KERNEL_TIMEOUTS, ServerStatus, ServiceStatus
from ipvsctl.plan.examine import facts_of

VIP = "192.168.1.100"
WEB, FTP, DNS = f"tcp:{VIP}:80", f"tcp:{VIP}:21", f"udp:{VIP}:53"
RS = "10.0.2.2"
SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv4.vs.conntrack": "0",
    "net.ipv4.vs.snat_reroute": "1",
    "net.ipv4.vs.expire_nodest_conn": "0",
    "net.ipv4.vs.expire_quiescent_template": "0",
    "net.ipv4.vs.conn_reuse_mode": "1",
    "net.ipv4.vs.pmtu_disc": "1",
    "net.ipv4.vs.drop_entry": "0",
    "net.ipv4.vs.drop_packet": "0",
    "net.ipv4.vs.secure_tcp": "0",
    "net.ipv4.vs.run_estimation": "1",
    "net.ipv4.vs.backup_only": "0",
    "net.ipv4.vs.sloppy_tcp": "0",
    "net.ipv4.vs.sync_version": "1",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "0",
    "net.netfilter.nf_conntrack_tcp_loose": "1",
    "net.netfilter.nf_conntrack_count": "100",
    "net.netfilter.nf_conntrack_max": "65536",
    "net.netfilter.nf_conntrack_expect_max": "1024",
    "net.netfilter.nf_conntrack_tcp_timeout_established": "432000",
    "net.netfilter.nf_conntrack_tcp_timeout_fin_wait": "120",
    "net.netfilter.nf_conntrack_udp_timeout_stream": "300",
    **{f"net.ipv4.conf.{device}.{name}": "0" for device in ("all", "eth0", "eth1") for name in
       ("accept_local", "rp_filter", "send_redirects")},
    **{f"net.ipv4.conf.{device}.forwarding": "1" for device in ("all", "eth0", "eth1")},
}  # fmt: skip
LINKS = (
    Link("lo", True, 65536, "", (LinkAddress("127.0.0.1/8"),)),
    Link("eth0", True, 1500, "02:00:00:00:00:01", (LinkAddress("10.0.1.1/24"), LinkAddress(f"{VIP}/32"))),
    Link("eth1", True, 1500, "02:00:00:00:00:02", (LinkAddress("10.0.2.1/24"),)),
)
ROUTES = (Route("0.0.0.0/0", "eth0", "10.0.1.254"),)
FEATURES = dict.fromkeys(
    ("ip_vs", "ip_vs_nfct", "ip_vs_ftp", "nf_conntrack", "nf_conntrack_ftp", "xt_CT", "ip_vs_wlc", "ip_vs_rr"), "loaded"
)


def server(text: str = RS, forward: str = "nat", weight: int = 1, active: int = 0, **settings: Any) -> ServerStatus:
    known = ServerAddress(INET6 if ":" in text else INET, text, settings.pop("port", 80))
    return ServerStatus(Server(known, forward, weight, **settings), active)


def service(address: str = WEB, *servers: ServerStatus, **settings: Any) -> ServiceStatus:
    return ServiceStatus(Service(ServiceAddress.parse(address), **settings), servers)


def well(*services: ServiceStatus, **parts: Any) -> Facts:
    """A director that nothing is wrong with, if the services are not; `sysctls` adds to what is set."""
    sysctls = SYSCTLS | parts.pop("sysctls", {})
    given = {
        "release": "6.1.0", "table_size": 4096, "timeouts": KERNEL_TIMEOUTS, "links": LINKS, "routes": ROUTES,
        "features": FEATURES, "ftp_ports": (21,),
    } | parts  # fmt: skip
    return Facts(services=services or (service(WEB, server()),), sysctls=sysctls, **given)


def tables(text: str, family: int = INET) -> dict[str, tuple[SavedTable, ...]]:
    return {"iptables-legacy": parse_rules(text, family)}


def rules(*lines: str, table: str = "filter", family: int = INET, policies: tuple[str, ...] = ()) -> Any:
    return tables("\n".join([f"*{table}", *(f":{each}" for each in policies), *lines, "COMMIT"]), family)


def foreign(*rules: list[dict[str, Any]], hook: str = "input", policy: str = "drop") -> tuple[ForeignChain, ...]:
    """The chains of a table of nftables, as nft lists it: one base chain with these rules, and a chain "other"."""
    chain = {"family": "inet", "table": "fw", "name": hook, "type": "filter", "hook": hook, "policy": policy}
    items: list[dict[str, Any]] = [{"metainfo": {}}, {"table": {"family": "inet", "name": "fw"}}, {"chain": chain}]
    items.append({"chain": {"family": "inet", "table": "fw", "name": "other"}})
    items += ({"rule": {"family": "inet", "table": "fw", "chain": hook, "expr": each}} for each in rules)
    return parse_nft(json.dumps({"nftables": items}))


def nft_match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def dport(right: Any, protocol: str = "tcp") -> dict[str, Any]:
    return nft_match({"payload": {"protocol": protocol, "field": "dport"}}, right)


def state(*names: str) -> dict[str, Any]:
    return nft_match({"ct": {"key": "state"}}, list(names), "in")


def neighbour(
    address: str = RS, mac: str = "02:00:00:00:00:99", state: str = "REACHABLE", device: str = "eth1"
) -> Neighbour:
    return Neighbour(address, device, mac, state)


def waiting(count: int = 5, server: str = RS, state: str = "SYN_RECV", **more: Any) -> ConnectionGroup:
    return ConnectionGroup("tcp", VIP, 80, server, 80, state, count, **more)


def flow(state: str, replied: bool, count: int = 5, reply_source: str = RS) -> FlowGroup:
    return FlowGroup("tcp", VIP, 80, reply_source, state, replied, "", count)


NETWORK = """
[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "192.168.1.100/32"]

[[device]]
name = "eth1"
addresses = ["10.0.2.1/24"]

[[route]]
destination = "0.0.0.0/0"
device = "eth0"
via = "10.0.1.254"
"""


def tried(
    forward: str = "nat", port: int = 80, iptables: str = "", persistent: bool = False, sysctls: str = "",
    modules: str = "",
) -> Facts:  # fmt: skip
    """The evidence of a saved state with one service: trial connections pass the emulated datapath."""
    lines = [f"modules = [{modules}]", f"iptables = '''\n{iptables}\n'''" if iptables else "", NETWORK]
    lines += ["[[service]]", f'address = "tcp:{VIP}:{port}"', 'scheduler = "rr"', "persistent = 300" * persistent]
    lines += ["[[service.server]]", f'address = "{RS}"', f'forward = "{forward}"', "[sysctl]"]
    lines += ['"net.ipv4.ip_forward" = 1', sysctls]
    facts = facts_of(parse_snapshot("\n".join(lines), "case.toml"))
    return replace(facts, missing={}, features=FEATURES)
