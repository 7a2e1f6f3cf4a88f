"""For each check of connection tracking and of rules: evidence that triggers it, and evidence that does not.

What rules do to a service is seen by trial connections, through the emulated datapath.
"""

from __future__ import annotations

from ipvsctl.model.facts import Facts
from ipvsctl.model.rule import OwnChain, Rule
from ipvsctl.model.status import Daemon
from tests.knowledge.check_rig import (
    FEATURES,
    FTP,
    VIP,
    WEB,
    dport,
    flow,
    foreign,
    nft_match,
    replace,
    rules,
    server,
    service,
    state,
    tables,
    tried,
    waiting,
    well,
)

ON = {"net.ipv4.vs.conntrack": "1"}
MASTER = Daemon("master", "eth1", 7, 1472, "224.0.0.81", 8848, 1)
ACCEPT_STATE = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
DROP = "-A FORWARD -j DROP"
BY_STATE = rules(ACCEPT_STATE, DROP)
HELPER = f"-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport 21 -j CT --helper ftp"
HELPED = tables(f"*raw\n{HELPER}\nCOMMIT\n*filter\n{ACCEPT_STATE}\n{DROP}\nCOMMIT")
INVALID = rules("-A INPUT -m conntrack --ctstate INVALID -j DROP")
NOTRACK = rules(f"-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport 80 -j CT --notrack", table="raw")
CONNTRACK_1 = '"net.ipv4.vs.conntrack" = 1'
ACCEPT_LOCAL = '"net.ipv4.conf.eth1.accept_local" = 1'
GATEWAY = f'{CONNTRACK_1}\n"net.ipv4.conf.eth1.accept_local" = 1'


def saved(*lines: str, table: str = "filter") -> str:
    return "\n".join([f"*{table}", *lines, "COMMIT"])


CLOSED = saved(":INPUT DROP [0:0]", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
OPEN = saved(
    ":INPUT DROP [0:0]", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    f"-A INPUT -d {VIP}/32 -p tcp -m tcp --dport 80 -j ACCEPT",
)  # fmt: skip
FORWARD_CLOSED = saved(":FORWARD DROP [0:0]", ACCEPT_STATE)
OUTPUT_CLOSED = saved(":OUTPUT DROP [0:0]", "-A OUTPUT -o lo -j ACCEPT")
OUTPUT_OPEN = saved(":OUTPUT DROP [0:0]", "-A OUTPUT -d 10.0.2.0/24 -j ACCEPT")
NO_INVALID = saved("-A INPUT -m conntrack --ctstate INVALID -j DROP")
FTP_RULES = (
    "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    f"-A INPUT -d {VIP}/32 -p tcp -m tcp --dport 21 -j ACCEPT", f"-A INPUT -d {VIP}/32 -j DROP", ACCEPT_STATE, DROP,
)  # fmt: skip
FTP_CLOSED = saved(*FTP_RULES)
FTP_OPEN = f"{saved(HELPER, table='raw')}\n{FTP_CLOSED}"
FROM_20 = f"-A FORWARD -s {VIP}/32 -p tcp -m tcp --sport 20 -j ACCEPT"
FTP_MODULES = '"ip_vs_ftp", "nf_conntrack_ftp"'
MASQUERADE = saved("-A POSTROUTING -o eth1 -j MASQUERADE", table="nat")
LIMITED = saved("-A POSTROUTING -o eth1 -s 10.0.2.0/24 -j MASQUERADE", table="nat")
NO_ROUTE = "-A PREROUTING -j ACCEPT"
MARKED = service("fwmark:7", server())
YES, NO = {"accept": None}, {"drop": None}
KNOWN = [state("established", "related"), YES]
LO = nft_match({"meta": {"key": "iifname"}}, "lo")
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
VMAP = {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", NO], ["established", YES]]}}}
CHAIN = OwnChain(2, "filter", "IPVSCTL-INPUT", "INPUT", (Rule("ACCEPT"),))


def unreachable() -> Facts:
    """A server that no route leads to."""
    from ipvsctl.formats.snapshot_file import parse
    from ipvsctl.plan.examine import facts_of
    from tests.knowledge.check_rig import NETWORK

    text = NETWORK.replace('destination = "0.0.0.0/0"', 'destination = "192.0.2.0/24"')
    text += f'[[service]]\naddress = "{WEB}"\nscheduler = "rr"\n[[service.server]]\naddress = "10.9.9.9"\n'
    text += 'forward = "nat"\n[sysctl]\n"net.ipv4.ip_forward" = 1\n'
    return replace(facts_of(parse(text, "case.toml")), missing={})


CASES: dict[str, tuple[tuple[Facts, Facts], ...]] = {
    # -- connection tracking
    "nfct-idle": (
        (well(sysctls=ON), well(sysctls=ON, tables=BY_STATE)),
        (well(sysctls=ON), well(sysctls=ON, flows=(flow("ESTABLISHED", True),))),
        (well(sysctls=ON), well(service(FTP, server()), sysctls=ON)),
        (well(sysctls=ON), well()),
    ),
    "nfct-off": (
        (well(tables=BY_STATE), well(tables=BY_STATE, sysctls=ON)),
        (well(tables=BY_STATE), well(tables=rules(ACCEPT_STATE))),
        (tried("dr", iptables=FORWARD_CLOSED, sysctls=ACCEPT_LOCAL), tried("dr", iptables=FORWARD_CLOSED)),
        (tried(iptables=FORWARD_CLOSED), tried(iptables=saved(
            ":FORWARD DROP [0:0]", ACCEPT_STATE, "-A FORWARD -s 10.0.2.0/24 -j ACCEPT"))),
    ),
    "nfct-absent": (
        (well(tables=BY_STATE, features=FEATURES | {"ip_vs_nfct": "absent"}), well(tables=BY_STATE)),
    ),
    "be-liberal": (
        (
            well(sysctls={"net.netfilter.nf_conntrack_tcp_be_liberal": "1"}),
            well(sysctls={"net.netfilter.nf_conntrack_tcp_be_liberal": "1"}, daemons=(MASTER,)),
        ),
    ),
    "reuse-delay": (
        (well(release="5.4.0-1-amd64", sysctls=ON), well(release="5.10.0-1-amd64", sysctls=ON)),
        (well(release="4.19.1", sysctls=ON), well(release="4.19.1", sysctls=ON | {"net.ipv4.vs.conn_reuse_mode": "0"})),
    ),
    "loose-off": (
        (
            well(tables=INVALID, sysctls={"net.netfilter.nf_conntrack_tcp_loose": "0"}),
            well(sysctls={"net.netfilter.nf_conntrack_tcp_loose": "0"}),
        ),
        (
            well(daemons=(MASTER,), sysctls=ON | {"net.netfilter.nf_conntrack_tcp_loose": "0"}),
            well(daemons=(MASTER,), sysctls=ON),
        ),
    ),
    "helper-automatic": (
        (
            well(service(FTP, server()), sysctls={"net.netfilter.nf_conntrack_helper": "1"}),
            well(service(FTP, server()), sysctls={"net.netfilter.nf_conntrack_helper": "0"}),
        ),
    ),
    "helper-missing": (
        (
            well(service(FTP, server()), tables=BY_STATE, sysctls=ON),
            well(service(FTP, server()), tables=HELPED, sysctls=ON),
        ),
        (
            well(service(FTP, server()), tables=BY_STATE, sysctls=ON),
            well(service(FTP, server()), tables=BY_STATE, sysctls=ON | {"net.netfilter.nf_conntrack_helper": "1"}),
        ),
        (well(service(FTP, server()), tables=BY_STATE), well(service(FTP, server()))),
        (
            tried(port=21, iptables=FTP_CLOSED, sysctls=CONNTRACK_1, modules=FTP_MODULES),
            tried(port=21, iptables=FTP_OPEN, sysctls=CONNTRACK_1, modules=FTP_MODULES),
        ),
    ),
    "ftp-untracked": (
        (
            well(service(f"tcp:{VIP}:2121", server()), ftp_ports=(21, 2121)),
            well(service(f"tcp:{VIP}:2121", server()), ftp_ports=(21, 2121), tables=BY_STATE, sysctls=ON),
        ),
    ),
    "conntrack-full": (
        (
            well(sysctls={"net.netfilter.nf_conntrack_count": "60000"}),
            well(sysctls={"net.netfilter.nf_conntrack_count": "50000"}),
        ),
        (well(sysctls={"net.netfilter.nf_conntrack_count": "65536"}), well()),
    ),
    "expectations-full": ((well(expectations=1000), well(expectations=100)),),
    "timeout-short": (
        (
            well(sysctls=ON | {"net.netfilter.nf_conntrack_tcp_timeout_established": "600"}),
            well(sysctls=ON | {"net.netfilter.nf_conntrack_tcp_timeout_established": "900"}),
        ),
        (
            well(sysctls=ON | {"net.netfilter.nf_conntrack_tcp_timeout_fin_wait": "60"}),
            well(sysctls={"net.netfilter.nf_conntrack_tcp_timeout_fin_wait": "60"}),
        ),
    ),
    "timeout-long": (
        (
            well(flows=(flow("ESTABLISHED", True, 5000),), connections=(waiting(100, state="ESTABLISHED"),)),
            well(flows=(flow("ESTABLISHED", True, 5000),), connections=(waiting(5000, state="ESTABLISHED"),)),
        ),
    ),
    "notrack": (
        (well(tables=NOTRACK, sysctls=ON), well(tables=NOTRACK)),
        (
            well(tables=NOTRACK, sysctls=ON),
            well(service(f"tcp:{VIP}:443", server()), tables=NOTRACK, sysctls=ON),
        ),
    ),
    "accept-local-missing": (
        (
            well(service(WEB, server(forward="dr")), flows=(flow("SYN_RECV", True, reply_source=VIP),),
                 connections=(waiting(),)),
            well(service(WEB, server(forward="dr")), flows=(flow("SYN_SENT", False, reply_source=VIP),),
                 connections=(waiting(),)),
        ),
        (
            well(service(WEB, server(forward="tun")), flows=(flow("SYN_RECV", True, reply_source=VIP),),
                 connections=(waiting(),)),
            well(service(WEB, server(forward="tun")), flows=(flow("SYN_RECV", True, reply_source=VIP),),
                 connections=(waiting(),), sysctls={"net.ipv4.conf.eth1.accept_local": "1"}),
        ),
    ),
    # -- rules, by trial connections
    "input-drops": (
        (tried(iptables=CLOSED), tried(iptables=OPEN)),
        (tried(iptables=saved(f"-A INPUT -d {VIP}/32 -p tcp -j REJECT")), tried()),
        (tried("dr", iptables=CLOSED), tried("dr")),
    ),
    "invalid-drops": (
        (tried("dr", iptables=NO_INVALID, sysctls=CONNTRACK_1), tried("dr", iptables=NO_INVALID, sysctls=GATEWAY)),
        (tried("tun", iptables=NO_INVALID, sysctls=CONNTRACK_1), tried("tun", sysctls=CONNTRACK_1)),
        (tried("dr", iptables=NO_INVALID, sysctls=CONNTRACK_1), tried(iptables=NO_INVALID, sysctls=CONNTRACK_1)),
    ),
    "forward-drops": (
        (tried(iptables=FORWARD_CLOSED), tried(iptables=FORWARD_CLOSED, sysctls=CONNTRACK_1)),
        (tried(iptables=saved(DROP)), tried("dr", iptables=saved(DROP))),
    ),
    "output-drops": ((tried(iptables=OUTPUT_CLOSED), tried(iptables=OUTPUT_OPEN)),),
    "ftp-data-drops": (
        (
            tried(port=21, iptables=FTP_CLOSED.replace("RELATED,", ""), sysctls=CONNTRACK_1, modules=FTP_MODULES),
            tried(port=21, iptables=FTP_OPEN, sysctls=CONNTRACK_1, modules=FTP_MODULES),
        ),
        (
            tried("tun", 21, FTP_OPEN, True, GATEWAY, FTP_MODULES),
            tried("tun", 21, FTP_OPEN.replace(DROP, f"{FROM_20}\n{DROP}"), True, GATEWAY, FTP_MODULES),
        ),
    ),
    "path-lost": ((unreachable(), tried()),),
    "masquerade": (
        (tried(iptables=MASQUERADE, sysctls=CONNTRACK_1), tried(iptables=MASQUERADE)),
        (tried("dr", iptables=MASQUERADE, sysctls=CONNTRACK_1), tried("dr", iptables=LIMITED, sysctls=CONNTRACK_1)),
    ),
    "masquerade-idle": (
        (
            well(tables=rules("-A POSTROUTING -m ipvs --ipvs -j MASQUERADE", table="nat")),
            well(tables=rules("-A POSTROUTING -m ipvs --ipvs -j MASQUERADE", table="nat"), sysctls=ON),
        ),
    ),
    "two-rule-sets": (
        (well(tables=BY_STATE | {"iptables-nft": BY_STATE["iptables-legacy"]}, sysctls=ON),
         well(tables=BY_STATE, sysctls=ON)),
        (well(tables=BY_STATE, nft=("inet firewalld",), sysctls=ON), well(nft=("inet firewalld",))),
    ),
    "nft-drops": (
        (well(foreign=foreign(KNOWN)), well(foreign=foreign(KNOWN, [dport(80), YES]))),
        (well(foreign=foreign()), well(foreign=foreign(policy="accept"))),
        (
            well(foreign=foreign([dport(80), {"reject": None}], policy="accept")),
            well(foreign=foreign([dport(81), NO], policy="accept")),
        ),
        (well(foreign=foreign([dport({"set": [22, {"range": [81, 90]}]}), YES])),
         well(foreign=foreign([dport({"set": [22, {"range": [80, 90]}]}), YES]))),
        (well(foreign=foreign([dport(80, "udp"), YES])), well(foreign=foreign([dport("@web"), YES]))),
        (
            well(foreign=foreign([LO, YES], [nft_match(DADDR, VIP, "!="), YES])),
            well(foreign=foreign([nft_match(DADDR, VIP), YES])),
        ),
        (well(foreign=foreign([nft_match(DADDR, {"prefix": {"addr": "10.0.0.0", "len": 8}}), YES])),
         well(foreign=foreign([nft_match(DADDR, {"prefix": {"addr": "192.168.0.0", "len": 16}}), YES]))),
        (well(foreign=foreign([{"jump": {"target": "other"}}])), well(foreign=foreign([{"jump": {"target": "gone"}}]))),
        (well(foreign=foreign([VMAP])), well(foreign=foreign([dport(80), {"limit": {"rate": 5}}, YES]))),
        (well(foreign=foreign(KNOWN, hook="forward")), well(foreign=foreign(KNOWN, hook="forward"), sysctls=ON)),
        (
            well(foreign=foreign(KNOWN, hook="forward")),
            well(service(WEB, server(forward="dr")), foreign=foreign(hook="forward")),
        ),
        (
            well(foreign=foreign([LO, YES], hook="output")),
            well(foreign=foreign([{"xt": {"type": "match"}}], hook="output")),
        ),
        (well(foreign=foreign([{"goto": {"target": "other"}}], [YES])), well(foreign=foreign([YES]))),
    ),
    "own-unhooked": ((well(own=(replace(CHAIN, jump=False),)), well(own=(CHAIN,))),),
    "mark-missing": (
        (well(MARKED), well(MARKED, tables=rules("-A PREROUTING -p tcp -j MARK --set-xmark 0x7/0xff", table="mangle"))),
        (
            well(MARKED, tables=rules("-A PREROUTING -p tcp -j MARK --set-xmark 0x8/0xff", table="mangle")),
            well(MARKED, tables=rules("-A PREROUTING -j CONNMARK --restore-mark", table="mangle")),
        ),
        (well(MARKED), well(MARKED, nft=("inet filter",))),
    ),
}  # fmt: skip
