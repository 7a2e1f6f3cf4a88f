"""The one table of what runs where: netfilter's hooks, as the kernel registers its functions in them.

A row is there for a family while what its `needs` names is in use, as the kernel registers them (since 4.10
conntrack's only while a rule asks for conntrack; IPVS's while the family has a service). Sources: nf_conntrack_proto.c,
nf_defrag_ipv4.c, iptable_*.c, nf_nat_proto.c, ip_vs_core.c (ip_vs_ops4, ip_vs_ops6); priorities:
linux/netfilter_ipv4.h.
"""

from __future__ import annotations

from typing import NamedTuple

PRE_ROUTING, LOCAL_IN, FORWARD, LOCAL_OUT, POST_ROUTING = range(5)
HOOK_NAMES = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""As iptables calls its chains."""

LAST = 2**31 - 1


class Row(NamedTuple):
    """A function in a hook. `function` is "part.method" of the engine; a table's method gets its name as well.

    `needs` "conntrack", "defrag", "ipvs" or the name of a table, which must be in use in the packet's family.
    Conntrack brings "defrag"; so does the first IPv6 service, which leaves it behind (nf_defrag_ipv6_enable).
    """

    hook: int
    priority: int
    name: str
    function: str
    needs: str


TABLE = (
    Row(PRE_ROUTING, -400, "nf_defrag", "ip.defrag", "defrag"),
    Row(PRE_ROUTING, -300, "raw", "tables.raw", "raw"),
    Row(PRE_ROUTING, -200, "nf_conntrack_in", "ct.conntrack_in", "conntrack"),
    Row(PRE_ROUTING, -150, "mangle", "tables.mangle", "mangle"),
    Row(PRE_ROUTING, -100, "nat", "nat.pre_routing", "nat"),
    Row(LOCAL_IN, -150, "mangle", "tables.mangle", "mangle"),
    Row(LOCAL_IN, 0, "filter", "tables.filter", "filter"),
    Row(LOCAL_IN, 98, "ip_vs_out", "vs.out_hook", "ipvs"),
    Row(LOCAL_IN, 99, "ip_vs_in", "vs.in_hook", "ipvs"),
    Row(LOCAL_IN, 100, "nat", "nat.local_in", "nat"),
    Row(LOCAL_IN, LAST, "nf_confirm", "ct.confirm", "conntrack"),
    Row(FORWARD, -150, "mangle", "tables.mangle", "mangle"),
    Row(FORWARD, 0, "filter", "tables.filter", "filter"),
    Row(FORWARD, 99, "ip_vs_forward_icmp", "vs.forward_icmp", "ipvs"),
    Row(FORWARD, 100, "ip_vs_out", "vs.out_hook", "ipvs"),
    Row(LOCAL_OUT, -400, "nf_defrag", "ip.defrag", "defrag"),
    Row(LOCAL_OUT, -300, "raw", "tables.raw", "raw"),
    Row(LOCAL_OUT, -200, "nf_conntrack_local", "ct.conntrack_in", "conntrack"),
    Row(LOCAL_OUT, -150, "mangle", "tables.mangle", "mangle"),
    Row(LOCAL_OUT, -100, "nat", "nat.local_out", "nat"),
    Row(LOCAL_OUT, -99, "ip_vs_out", "vs.out_hook", "ipvs"),
    Row(LOCAL_OUT, -98, "ip_vs_in", "vs.in_hook", "ipvs"),
    Row(LOCAL_OUT, 0, "filter", "tables.filter", "filter"),
    Row(POST_ROUTING, -150, "mangle", "tables.mangle", "mangle"),
    Row(POST_ROUTING, 100, "nat", "nat.post_routing", "nat"),
    Row(POST_ROUTING, LAST, "nf_confirm", "ct.confirm", "conntrack"),
)
