"""The modules of the emulated kernel: those of Debian's Linux 6.1 that a director may meet, and how they are loaded.

Loading brings a module's dependencies along and its sysctls into being, as modprobe and the kernel do.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.emulator.state import KERNEL, State
from ipvsctl.emulator.sysctls import appear
from ipvsctl.errors import Unavailable, UsageError
from ipvsctl.host import Feature
from ipvsctl.knowledge.modules import find
from ipvsctl.knowledge.schedulers import SCHEDULERS

ABSENT = frozenset({"ip_vs_twos"})
"""Modules that later kernels have and this one has not."""

_HELPERS = "amanda ftp h323 irc pptp sip snmp tftp"
_TABLES = "filter mangle nat raw security"
_XT = (
    "AUDIT CHECKSUM CLASSIFY DSCP HL LOG NFLOG NFQUEUE TCPMSS TPROXY TRACE addrtype bpf cgroup comment connlimit cpu "
    "dccp devgroup dscp ecn esp hashlimit hl iprange length limit mac mark multiport osf owner physdev pkttype policy "
    "quota recent sctp set socket statistic string tcpmss tcpudp time u32"
)
_XT_CONNTRACK = "CT CONNSECMARK MASQUERADE NETMAP REDIRECT connbytes connlabel connmark conntrack helper nat state"


def _dependencies() -> dict[str, tuple[str, ...]]:
    """Direct dependencies by module."""
    plain = "libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nfnetlink x_tables nf_reject_ipv4 nf_reject_ipv6 nf_log_syslog"
    tunnels = "ip_tunnel tunnel4 gre udp_tunnel ip6_udp_tunnel dummy tun veth"
    table: dict[str, tuple[str, ...]] = dict.fromkeys(f"{plain} {tunnels}".split(), ())
    table["nf_conntrack"] = ("libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6")
    table["nf_nat"] = ("nf_conntrack",)
    table["nf_conntrack_netlink"] = ("nfnetlink", "nf_conntrack")
    table["nf_tables"] = ("nfnetlink", "libcrc32c")
    table["nft_compat"] = ("nf_tables", "x_tables")
    table["nft_ct"] = ("nf_tables", "nf_conntrack")
    table["nft_chain_nat"] = ("nf_tables", "nf_nat")
    for name in _HELPERS.split():
        table[f"nf_conntrack_{name}"] = ("nf_conntrack",)
        if name != "snmp":
            table[f"nf_nat_{name}"] = (f"nf_conntrack_{name}", "nf_nat")
    table["ip_vs"] = ("nf_conntrack",)
    for scheduler in SCHEDULERS.values():
        table[scheduler.module] = ("ip_vs",)
    table["ip_vs_ftp"] = ("ip_vs", "nf_nat")
    table["ip_vs_pe_sip"] = ("ip_vs", "nf_conntrack_sip")
    for tool in ("ip", "ip6"):
        table[f"{tool}_tables"] = ("x_tables",)
        for name in _TABLES.split():
            table[f"{tool}table_{name}"] = (f"{tool}_tables", *(("nf_nat",) if name == "nat" else ()))
    table |= {f"xt_{name}": ("x_tables",) for name in _XT.split()}
    table |= {f"xt_{name}": ("x_tables", "nf_conntrack") for name in _XT_CONNTRACK.split()}
    table["xt_ipvs"] = ("x_tables", "ip_vs")
    table |= {"ipt_REJECT": ("x_tables", "nf_reject_ipv4"), "ip6t_REJECT": ("x_tables", "nf_reject_ipv6")}
    table |= {"ipip": ("tunnel4", "ip_tunnel"), "ip_gre": ("gre", "ip_tunnel")}
    table["fou"] = ("ip_tunnel", "udp_tunnel", "ip6_udp_tunnel")
    return {name: needs for name, needs in table.items() if name not in ABSENT}


_DEPENDENCIES = _dependencies()

_BUILT_IN = frozenset({"ipv6", "netfilter", "tcp_cubic"})

_ALIASES = {
    "ip_conntrack": "nf_conntrack", "ip_conntrack_ftp": "nf_conntrack_ftp", "ip_nat_ftp": "nf_nat_ftp",
}  # fmt: skip
"""Names of before 2.6.22 (S11) that the modules still answer to."""

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-")


def _with_dependencies(name: str) -> Iterator[str]:
    for needed in _DEPENDENCIES[name]:
        yield from _with_dependencies(needed)
    yield name


def request(state: State, name: str) -> bool:
    """Load a module as the kernel asks for one (request_module); whether it is loaded now."""
    name = name.replace("-", "_")
    if name in _DEPENDENCIES and name not in state.modules:
        for module in _with_dependencies(name):
            if module not in state.modules:
                state.modules.add(module)
                appear(state, module)
    return name in state.modules


class EmulatedModules:
    """The modules port of an emulated director."""

    def __init__(self, state: State) -> None:
        self._state = state

    def feature(self, name: str) -> Feature:
        if not (name.isascii() and (name[:1].isalnum() or name[:1] == "_") and not set(name) - _NAME):
            raise UsageError(f"{name!r} is not a module, expected a name such as ip_vs_ftp")
        row = find(name)
        feature, module = (row.name, row.module) if row else (name, _ALIASES.get(name, name).replace("-", "_"))
        if module in _BUILT_IN:
            return Feature(feature, "loaded", f"built into the emulated kernel {KERNEL}")
        if module in self._state.modules:
            return Feature(feature, "loaded", f"module {module} is loaded")
        if module in _DEPENDENCIES:
            return Feature(feature, "loadable", f"module {module} is there, not loaded")
        return Feature(feature, "absent", f"module {module} not found in the emulated kernel {KERNEL}")

    def load(self, name: str) -> None:
        feature = self.feature(name)
        if feature.state == "absent":
            raise Unavailable(f"cannot load module {name}: {feature.evidence}")
        row = find(name)
        request(self._state, row.module if row else _ALIASES.get(name, name))
