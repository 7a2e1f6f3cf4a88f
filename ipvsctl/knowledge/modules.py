"""Kernel features that a director needs or meets, and the modules that bring them.

A kernel may have a feature built in, as a module, or not at all; a distribution may have taken the module away. So each
row says by what a running kernel proves that it has the feature, and which build option brings it. Rows name the
statement of the NFCT description (S1 to S27) or the kernel file that they follow from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ipvsctl.knowledge.schedulers import SCHEDULERS


@dataclass(frozen=True, slots=True)
class Module:
    """One feature.

    `module` is what modprobe loads for it. `options` are build options of which the first that a kernel's configuration
    mentions decides. `proof` is a file of /proc that exists while the feature is there, or "FILE WORD" when the file
    exists anyway and has the word as a line then; "" when nothing but the module itself shows it.
    """

    name: str
    module: str
    meaning: str
    source: str
    options: tuple[str, ...]
    proof: str = ""


_MATCHES = "/proc/net/ip_tables_matches"
_TARGETS = "/proc/net/ip_tables_targets"

_ROWS = (
    Module("ip_vs", "ip_vs", "IPVS itself", "S1", ("IP_VS",), "/proc/net/ip_vs"),
    Module(
        "ip_vs_nfct", "ip_vs", "connection tracking of IPVS traffic (net.ipv4.vs.conntrack)", "S1", ("IP_VS_NFCT",),
        "/proc/sys/net/ipv4/vs/conntrack",
    ),
    Module("ip_vs_ftp", "ip_vs_ftp", "FTP through forward nat: rewrites PORT and PASV", "S8", ("IP_VS_FTP",)),
    Module(
        "ip_vs_pe_sip", "ip_vs_pe_sip", "persistence engine sip: by Call-ID", "net/netfilter/ipvs/ip_vs_pe_sip.c",
        ("IP_VS_PE_SIP",),
    ),
    Module(
        "nf_conntrack", "nf_conntrack", "connection tracking", "S1", ("NF_CONNTRACK",),
        "/proc/sys/net/netfilter/nf_conntrack_max",
    ),
    Module(
        "nf_conntrack_netlink", "nf_conntrack_netlink", "listing and deleting of conntrack entries",
        "net/netfilter/nf_conntrack_netlink.c", ("NF_CT_NETLINK",),
    ),
    Module(
        "nf_conntrack_ftp", "nf_conntrack_ftp", "the FTP helper: makes data connections RELATED", "S8, S9, S11",
        ("NF_CONNTRACK_FTP",),
    ),
    Module(
        "nf_nat_ftp", "nf_nat_ftp", "the FTP helper for iptables' own NAT; IPVS does without it", "S8, S11",
        ("NF_NAT_FTP",),
    ),
    Module(
        "ip_tables", "ip_tables", "iptables-legacy for IPv4", "net/ipv4/netfilter/ip_tables.c",
        ("IP_NF_IPTABLES_LEGACY", "IP_NF_IPTABLES"), "/proc/net/ip_tables_names",
    ),
    Module(
        "ip6_tables", "ip6_tables", "iptables-legacy for IPv6", "net/ipv6/netfilter/ip6_tables.c",
        ("IP6_NF_IPTABLES_LEGACY", "IP6_NF_IPTABLES"), "/proc/net/ip6_tables_names",
    ),
    Module("iptable_filter", "iptable_filter", "table filter: INPUT, FORWARD", "S14, S16", ("IP_NF_FILTER",)),
    Module("iptable_raw", "iptable_raw", "table raw: the helper rule stands in it", "S14", ("IP_NF_RAW",)),
    Module("iptable_mangle", "iptable_mangle", "table mangle: firewall marks", "S14", ("IP_NF_MANGLE",)),
    Module("iptable_nat", "iptable_nat", "table nat; IPVS does without it", "S8, S16", ("IP_NF_NAT",)),
    Module("ip6table_filter", "ip6table_filter", "table filter of IPv6", "S14", ("IP6_NF_FILTER",)),
    Module("ip6table_raw", "ip6table_raw", "table raw of IPv6", "S14", ("IP6_NF_RAW",)),
    Module("ip6table_mangle", "ip6table_mangle", "table mangle of IPv6", "S14", ("IP6_NF_MANGLE",)),
    Module("ip6table_nat", "ip6table_nat", "table nat of IPv6; IPVS does without it", "S8", ("IP6_NF_NAT",)),
    Module("nf_tables", "nf_tables", "nftables, and iptables-nft on it", "net/netfilter/nf_tables_api.c",
               ("NF_TABLES",)),
    Module(
        "xt_CT", "xt_CT", "target CT: assigns the conntrack helper", "S8, S14", ("NETFILTER_XT_TARGET_CT",),
        f"{_TARGETS} CT",
    ),
    Module(
        "xt_conntrack", "xt_conntrack", "match conntrack: --ctstate", "S3, S14", ("NETFILTER_XT_MATCH_CONNTRACK",),
        f"{_MATCHES} conntrack",
    ),
    Module(
        "xt_state", "xt_state", "match state, the older form of conntrack", "S3, S14", ("NETFILTER_XT_MATCH_STATE",),
        f"{_MATCHES} state",
    ),
    Module(
        "xt_comment", "xt_comment", "match comment: marks the rules that are ours",
        "net/netfilter/xt_comment.c", ("NETFILTER_XT_MATCH_COMMENT",), f"{_MATCHES} comment",
    ),
    Module(
        "xt_multiport", "xt_multiport", "match multiport: several ports in a rule", "net/netfilter/xt_multiport.c",
        ("NETFILTER_XT_MATCH_MULTIPORT",), f"{_MATCHES} multiport",
    ),
    Module(
        "xt_mark", "xt_mark", "match and target mark: services by firewall mark", "net/netfilter/xt_mark.c",
        ("NETFILTER_XT_MARK",), f"{_MATCHES} mark",
    ),
    Module(
        "xt_ipvs", "xt_ipvs", "match ipvs: packets that IPVS handled; nftables has none", "net/netfilter/xt_ipvs.c",
        ("NETFILTER_XT_MATCH_IPVS",), f"{_MATCHES} ipvs",
    ),
    Module("ipip", "ipip", "IPIP on a real server of forward tun", "S10", ("NET_IPIP",)),
    Module("fou", "fou", "GUE on a real server of forward tun", "net/ipv4/fou_core.c", ("NET_FOU",)),
)  # fmt: skip

_SCHEDULER_ROWS = tuple(
    Module(row.module, row.module, f"scheduler {row.name}", row.source, (f"IP_VS_{row.name.upper()}",))
    for row in SCHEDULERS.values()
)

MODULES: Mapping[str, Module] = {row.name: row for row in (*_ROWS, *_SCHEDULER_ROWS)}
"""By name, with underscores."""


def find(name: str) -> Module | None:
    """The row of a feature; dash and underscore are the same to modprobe, and so here."""
    return MODULES.get(name.replace("-", "_"))
