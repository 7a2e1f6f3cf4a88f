"""For each check of services, network and synchronisation: evidence that triggers it, and evidence that does not."""

from __future__ import annotations

from ipvsctl.model.address import INET
from ipvsctl.model.facts import Facts, Link, LinkAddress, Listener
from ipvsctl.model.route import PolicyRule, Route
from ipvsctl.model.service import Tunnel
from ipvsctl.model.status import Daemon
from tests.knowledge.check_rig import (
    DNS,
    FEATURES,
    FTP,
    LINKS,
    ROUTES,
    RS,
    VIP,
    WEB,
    neighbour,
    replace,
    rules,
    server,
    service,
    waiting,
    well,
)

OTHER = "10.0.2.3"
MASTER = Daemon("master", "eth1", 7, 1472, "224.0.0.81", 8848, 1)
BACKUP = Daemon("backup", "eth1", 7, 1472, "224.0.0.81", 8848, 1)
VIP6, RS6 = "2001:db8::100", "fd00:2::2"
WEB6 = f"tcp:[{VIP6}]:80"


def sysctl(name: str, value: str) -> dict[str, str]:
    return {name: value}


def on_eth1(name: str, value: str) -> dict[str, str]:
    return {f"net.ipv4.conf.eth1.{name}": value}


def one_nic(**sysctls: str) -> Facts:
    """Clients and servers on one device."""
    link = Link("eth0", True, 1500, "02:00:00:00:00:01", tuple(
        LinkAddress(text) for text in ("10.0.2.1/24", f"{VIP}/32")))  # fmt: skip
    return well(links=(LINKS[0], link), routes=(Route("0.0.0.0/0", "eth0", "10.0.2.254"),), sysctls=sysctls)


def with_link(name: str, **changes: object) -> tuple[Link, ...]:
    return tuple(replace(link, **changes) if link.name == name else link for link in LINKS)


def vip6(*flags: str) -> Facts:
    addresses = (LinkAddress("fd00:1::1/64"), LinkAddress(f"{VIP6}/128", flags))
    return well(
        service(WEB6, server(RS6)),
        links=(LINKS[0], replace(LINKS[1], addresses=addresses), LINKS[2]),
        sysctls=sysctl("net.ipv6.conf.all.forwarding", "1"),
    )


CLAMP = "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400"
NO_VIP = with_link("eth0", addresses=(LinkAddress("10.0.1.1/24"),))
BIG = with_link("eth1", mtu=1520)
FROM_VIP = PolicyRule(INET, 1000, source=f"{VIP}/32", table=100)
UPLINK = Route("0.0.0.0/0", "eth0", "10.0.1.253", table=100)
MARKED = service("fwmark:7", server())
MARK_RULE = f"-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x7/0xffffffff"
ELSEWHERE = MARK_RULE.replace(VIP, "203.0.113.9")
PREROUTING = {"table": "mangle"}
SYNCED = waiting(9, "10.0.9.9", "ESTABLISHED", synced=True)
LOCAL = service(WEB, server("10.0.2.1"))
TWO = (server(), server(OTHER))

CASES: dict[str, tuple[tuple[Facts, Facts], ...]] = {
    # -- services
    "service-empty": ((well(service()), well()),),
    "service-quiesced": (
        (well(service(WEB, server(weight=0))), well(service(WEB, server(), server(OTHER, weight=0)))),
    ),
    "server-full": (
        (well(service(WEB, server(active=10, upper=10))), well(service(WEB, server(active=9, upper=10)))),
        (well(service(WEB, server(active=10, upper=10), server(OTHER))), well(service(WEB, server(active=10)))),
    ),
    "scheduler-missing": (
        (well(service(WEB, server(), scheduler="none")), well()),
        (well(service(WEB, server(), scheduler="twos"), features=FEATURES | {"ip_vs_twos": "absent"}), well()),
    ),
    "scheduler-one-destination": (
        (well(service(WEB, *TWO, scheduler="dh")), well(service(WEB, *TWO, scheduler="sh"))),
        (well(service(WEB, *TWO, scheduler="lblc")), well(service("fwmark:7", *TWO, scheduler="lblc"))),
    ),
    "scheduler-refuses": (
        (
            well(service(WEB, server(), server(OTHER, weight=0), scheduler="sh")),
            well(service(WEB, server(), server(OTHER, weight=0), scheduler="sh", flags=("sh-fallback",))),
        ),
        (
            well(service(WEB, server(), server(OTHER, weight=0), scheduler="mh")),
            well(service(WEB, *TWO, scheduler="mh")),
        ),
    ),
    "port-zero": (
        (well(service(f"tcp:{VIP}:0", server())), well(service(f"tcp:{VIP}:0", server(), persistent=300))),
    ),
    "ops": (
        (well(service(DNS, server(port=53), flags=("ops",))), well(service(DNS, server(forward="dr"), flags=("ops",)))),
        (well(service(WEB, server(forward="dr"), flags=("ops",))), well()),
    ),
    "engine-protocol": (
        (
            well(service(WEB, server(), persistent=300, pe="sip")),
            well(service(f"udp:{VIP}:5060", server(), persistent=300, pe="sip")),
        ),
    ),
    "ftp-not-persistent": (
        (well(service(FTP, server(forward="dr"))), well(service(FTP, server(forward="dr"), persistent=300))),
        (well(service(FTP, server(forward="tun"))), well(service(FTP, server()))),
    ),
    "ftp-ports-open": (
        (
            well(service(FTP, server(forward="dr"), persistent=300)),
            well(service(FTP, server(forward="dr"), persistent=300), tables=rules(f"-A INPUT -d {VIP}/32 -j DROP")),
        ),
        (
            well(service(FTP, server(), persistent=300)),
            well(service(FTP, server(), persistent=300), tables=rules(policies=("INPUT DROP [0:0]",))),
        ),
    ),
    "quiescent-template": (
        (well(service(WEB, server(), server(OTHER, weight=0), persistent=60)), well()),
        (
            well(service(WEB, server(), persistent=60)),
            well(service(WEB, server(), persistent=60), sysctls=sysctl("net.ipv4.vs.expire_quiescent_template", "1")),
        ),
    ),
    "udp-nodest": (
        (
            well(service(DNS, server())),
            well(service(DNS, server()), sysctls=sysctl("net.ipv4.vs.expire_nodest_conn", "1")),
        ),
    ),
    "port-not-changed": (
        (well(service(WEB, server(forward="dr", port=8080))), well(service(WEB, server(forward="nat", port=8080)))),
    ),
    "server-loopback": (
        (well(service(WEB, server("127.0.0.1"))), well()),
        (well(service(WEB6, server("::1"))), well()),
    ),
    "ftp-module": (
        (well(service(FTP, server()), features=FEATURES | {"ip_vs_ftp": "loadable"}), well(service(FTP, server()))),
        (
            well(service(FTP, server()), features=FEATURES | {"ip_vs_ftp": "absent"}),
            well(service(FTP, server(forward="dr"), persistent=300), features=FEATURES | {"ip_vs_ftp": "loadable"}),
        ),
    ),
    "ftp-port": (
        (
            well(service(f"tcp:{VIP}:2121", server()),
                 tables=rules(f"-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport 2121 -j CT --helper ftp", table="raw")),
            well(service(f"tcp:{VIP}:2121", server()), ftp_ports=(21, 2121),
                 tables=rules(f"-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport 2121 -j CT --helper ftp", table="raw")),
        ),
    ),
    # -- network
    "nat-forwarding": (
        (well(sysctls=sysctl("net.ipv4.ip_forward", "0")), well()),
        (
            well(service(WEB6, server(RS6))),
            well(service(WEB6, server(RS6)), sysctls=sysctl("net.ipv6.conf.all.forwarding", "1")),
        ),
        (well(sysctls=sysctl("net.ipv4.ip_forward", "0")), well(LOCAL, sysctls=sysctl("net.ipv4.ip_forward", "0"))),
    ),
    "device-forwarding": ((well(sysctls=on_eth1("forwarding", "0")), well()),),
    "gateway-forwarding": (
        (
            well(service(WEB, server(forward="dr")),
                 sysctls=on_eth1("accept_local", "1") | {"net.ipv4.ip_forward": "0"}),
            well(service(WEB, server(forward="dr")), sysctls=on_eth1("accept_local", "1")),
        ),
    ),
    "rp-filter": (
        (
            well(service(WEB, server(forward="dr")),
                 sysctls=on_eth1("accept_local", "1") | {"net.ipv4.conf.all.rp_filter": "1"}),
            well(service(WEB, server(forward="dr")), sysctls=on_eth1("accept_local", "1") | on_eth1("rp_filter", "2")
                 | {"net.ipv4.conf.all.rp_filter": "1"}),
        ),
        (
            well(service(WEB, server(forward="tun")), sysctls=on_eth1("accept_local", "1") | on_eth1("rp_filter", "1")),
            well(service(WEB, server(forward="tun")), sysctls=on_eth1("rp_filter", "1")),
        ),
    ),
    "accept-local-open": (
        (
            well(service(WEB, server(forward="dr")), sysctls={"net.ipv4.conf.eth0.accept_local": "1"}),
            well(service(WEB, server(forward="dr")), sysctls=on_eth1("accept_local", "1")),
        ),
        (well(service(WEB, server(forward="dr")), sysctls={"net.ipv4.conf.all.accept_local": "1"}), well()),
    ),
    "redirects": (
        (one_nic(**{"net.ipv4.conf.all.send_redirects": "1"}), one_nic()),
        (one_nic(**{"net.ipv4.conf.eth0.send_redirects": "1"}),
         well(sysctls={"net.ipv4.conf.all.send_redirects": "1"})),
    ),
    "vip-nowhere": (
        (well(links=NO_VIP), well()),
        (well(links=NO_VIP), well(links=NO_VIP, routes=(*ROUTES, Route(f"{VIP}/32", "lo", table=255, kind="local")))),
    ),
    "vip-down": ((well(links=with_link("eth0", up=False)), well()),),
    "vip-duplicate": ((vip6("tentative", "dadfailed"), vip6()), (vip6("tentative"), vip6("deprecated"))),
    "vip-announced": (
        (
            well(neighbours=(neighbour(), neighbour(VIP, device="eth0"))),
            well(neighbours=(neighbour(), neighbour("10.0.2.9", device="eth0"))),
        ),
        (well(neighbours=(neighbour(VIP, device="eth0"),)), well(neighbours=(neighbour(VIP, "", device="eth0"),))),
        (
            well(neighbours=(neighbour(), neighbour(VIP, state="STALE", device="eth0"))),
            well(neighbours=(neighbour(), neighbour(VIP, "02:00:00:00:00:77", "STALE", "eth0"))),
        ),
        (well(neighbours=(neighbour(VIP, device="eth0"),)), well(neighbours=(neighbour(VIP),))),
    ),
    "dr-routed": (
        (
            well(service(WEB, server("10.9.9.9", "dr"))),
            well(service(WEB, server("10.9.9.9", "tun"))),
        ),
    ),
    "tunnel-mtu": (
        (well(service(WEB, server(forward="tun"))), well(service(WEB, server(forward="tun")), links=BIG)),
        (
            well(service(WEB, server(forward="tun", tunnel=Tunnel("gue", 6080))), links=BIG),
            well(service(WEB, server(forward="tun")), tables=rules(CLAMP, table="mangle")),
        ),
        (well(service(WEB, server(forward="tun")), links=with_link("eth1", mtu=80)), well()),
        (
            well(service(WEB, server(forward="tun")), routes=()),
            well(service(WEB, server(forward="tun")), routes=(), links=BIG),
        ),
    ),
    "reroute-off": (
        (
            well(policy=(FROM_VIP,), routes=(*ROUTES, UPLINK), sysctls=sysctl("net.ipv4.vs.snat_reroute", "0")),
            well(policy=(FROM_VIP,), routes=(*ROUTES, UPLINK)),
        ),
        (
            well(policy=(FROM_VIP,), routes=(*ROUTES, UPLINK), sysctls=sysctl("net.ipv4.vs.snat_reroute", "0")),
            well(sysctls=sysctl("net.ipv4.vs.snat_reroute", "0")),
        ),
    ),
    "reroute-idle": ((well(), well(policy=(FROM_VIP,), routes=(*ROUTES, UPLINK))),
                     (well(), well(service(WEB, server(forward="dr"))))),
    "uplink-empty": ((well(policy=(FROM_VIP,)), well(policy=(FROM_VIP,), routes=(*ROUTES, UPLINK))),),
    "mark-not-local": (
        (well(MARKED, tables=rules(ELSEWHERE, **PREROUTING)), well(MARKED, tables=rules(MARK_RULE, **PREROUTING))),
        (
            well(MARKED, tables=rules(ELSEWHERE, **PREROUTING)),
            well(MARKED, tables=rules(ELSEWHERE, **PREROUTING),
                 routes=(Route("0.0.0.0/0", "lo", table=9, kind="local"),),
                 policy=(PolicyRule(INET, 90, mark=7, mask=0xFF, table=9),)),
        ),
    ),
    # -- synchronisation
    "local-synced": (
        (
            well(LOCAL, daemons=(BACKUP,), sysctls=sysctl("net.ipv4.vs.conntrack", "1")),
            well(LOCAL, daemons=(MASTER,), sysctls=sysctl("net.ipv4.vs.conntrack", "1")),
        ),
    ),
    "backup-only": (
        (
            well(daemons=(BACKUP,), sysctls=sysctl("net.ipv4.vs.backup_only", "1")),
            well(daemons=(BACKUP,), sysctls=sysctl("net.ipv4.vs.backup_only", "1"), links=NO_VIP),
        ),
    ),
    "sync-device": (
        (well(daemons=(replace(MASTER, interface="eth7"),)), well(daemons=(MASTER,))),
        (well(daemons=(MASTER,), links=with_link("eth1", up=False)), well()),
        (well(daemons=(replace(MASTER, maxlen=9000),)), well(daemons=(BACKUP,))),
    ),
    "sync-roles": (
        (well(daemons=(MASTER, replace(BACKUP, port=9000))), well(daemons=(MASTER, BACKUP))),
        (well(daemons=(MASTER, replace(BACKUP, group="224.0.0.99"))), well(daemons=(BACKUP,))),
    ),
    "sync-version": (
        (
            well(service(WEB6, server(RS6)), daemons=(MASTER,), sysctls=sysctl("net.ipv4.vs.sync_version", "0")),
            well(daemons=(MASTER,), sysctls=sysctl("net.ipv4.vs.sync_version", "0")),
        ),
    ),
    "sync-foreign": ((well(connections=(SYNCED,)), well(connections=(replace(SYNCED, server=RS),))),),
    "sloppy": (
        (
            well(daemons=(MASTER,), sysctls=sysctl("net.ipv4.vs.sloppy_tcp", "1")),
            well(sysctls=sysctl("net.ipv4.vs.sloppy_tcp", "1")),
        ),
    ),
    # -- what runs
    "nat-gateway": (
        (well(connections=(waiting(),), neighbours=(neighbour(),)),
         well(connections=(waiting(2),), neighbours=(neighbour(),))),
        (well(connections=(waiting(),), neighbours=(neighbour(state="STALE"),)),
         well(connections=(waiting(), waiting(1, state="ESTABLISHED")), neighbours=(neighbour(),))),
        (well(connections=(waiting(),), neighbours=(neighbour(),)), well(connections=(waiting(),))),
    ),
    "direct-silent": (
        (
            well(service(WEB, server(forward="dr")), connections=(waiting(),), neighbours=(neighbour(),)),
            well(service(WEB, server(forward="dr")), connections=(waiting(state="ESTABLISHED"),),
                 neighbours=(neighbour(),)),
        ),
    ),
    "server-silent": (
        (well(neighbours=(neighbour(mac="", state="FAILED"),)), well(neighbours=(neighbour(),))),
        (
            well(neighbours=(neighbour(mac="", state="INCOMPLETE"),)),
            well(service(WEB, server(weight=0), server(OTHER)), neighbours=(neighbour(mac="", state="FAILED"),)),
        ),
    ),
    "local-server-deaf": (
        (well(LOCAL), well(LOCAL, listeners=(Listener("tcp", "0.0.0.0", 80),))),
        (
            well(service(WEB, server("10.0.2.1", "dr")), listeners=(Listener("tcp", "10.0.2.1", 80),)),
            well(service(WEB, server("10.0.2.1", "dr")), listeners=(Listener("tcp", VIP, 80),)),
        ),
    ),
    "listener-shadowed": (
        (well(listeners=(Listener("tcp", VIP, 80),)), well(listeners=(Listener("tcp", "0.0.0.0", 80),))),
        (well(listeners=(Listener("tcp", VIP, 80),)), well(LOCAL, listeners=(Listener("tcp", VIP, 80),))),
    ),
    "defence-active": (
        (well(sysctls=sysctl("net.ipv4.vs.drop_packet", "3")), well(sysctls=sysctl("net.ipv4.vs.drop_packet", "1"))),
        (well(sysctls=sysctl("net.ipv4.vs.drop_entry", "2")), well()),
        (well(sysctls=sysctl("net.ipv4.vs.secure_tcp", "3")), well()),
    ),
    "estimation-off": ((well(sysctls=sysctl("net.ipv4.vs.run_estimation", "0")), well()),),
    "table-crowded": (
        (
            well(connections=(waiting(50_000, state="ESTABLISHED"),)),
            well(connections=(waiting(50_000, state="ESTABLISHED"),), table_size=65536),
        ),
    ),
    "not-kept": (
        (well(), well(kept={"net.ipv4.ip_forward": "1"})),
        (well(kept={"net.ipv4.ip_forward": "0"}), well(initial=False)),
    ),
}  # fmt: skip
