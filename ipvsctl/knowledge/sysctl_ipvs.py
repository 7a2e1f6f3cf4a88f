"""The sysctls of IPVS: net.ipv4.vs.*, one set in each network namespace (ip_vs_ctl.c: vs_vars).

Values and defaults were read from Linux 5.10, 6.1, 6.12 and 7.3. `debug_level` exists only in kernels built with
CONFIG_IP_VS_DEBUG, which distributions do not set.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipvsctl.knowledge.sysctl_values import INT_MAX, INT_MIN, SECONDS_MAX, Sysctl

ULONG_MAX = 2**64 - 1


def _row(
    name: str,
    default: str | None,
    meaning: str,
    source: str = "vs_vars",
    *,
    kind: str = "int",
    bounds: tuple[int, int] = (INT_MIN, INT_MAX),
    module: str = "ip_vs",
    kernels: str = "",
) -> Sysctl:
    file = "" if module != "ip_vs" or ":" in source else "ip_vs_ctl.c: "
    return Sysctl(
        f"net.ipv4.vs.{name}", default, meaning, file + source, kind, *bounds, module=module, kernels=kernels
    )  # fmt: skip


_DEFENSE = "0 never, 1 when memory is short, 2 the same while it is short, 3 always"

_ROWS = (
    _row("am_droprate", "10", "with drop_packet=3, one in this many packets of new connections is dropped"),
    _row("amemthresh", "1024", "pages of free memory below which the automatic defences switch themselves on"),
    _row("backup_only", "0", "while the backup daemon runs, leave packets alone: forward nothing, schedule nothing"),
    _row("cache_bypass", "0", "send packets of a transparent cache's clients on to their destination when no cache "
         "server is left"),
    _row("conn_lfactor", None, "how full the connection table may get before it grows: 2 to the power of -value "
         "buckets for each connection", "vs_vars, ipvs_proc_conn_lfactor", bounds=(-8, 8), kernels="7.1 and later"),
    _row("conn_max", "1073741824", "the most connections the namespace may have", bounds=(0, 1 << 30),
         kernels="7.2 and later"),
    _row("conn_reuse_mode", "1", "a SYN from a port that has a connection: 0 keeps the server, 1 and 2 schedule anew "
         "when the old connection is ending"),
    _row("conntrack", "0", "keep connection tracking entries of IPVS packets and confirm them, so that rules can "
         "match by state; not 0 is on", "vs_vars; include/net/ip_vs.h: ip_vs_conntrack_enabled; S1, S12"),
    _row("debug_level", "0", "amount of debugging messages", kernels="built with CONFIG_IP_VS_DEBUG"),
    _row("drop_entry", "0", f"drop half-open connections at random: {_DEFENSE}", "proc_do_defense_mode",
         bounds=(0, 3)),
    _row("drop_packet", "0", f"drop packets of new connections: {_DEFENSE}", "proc_do_defense_mode", bounds=(0, 3)),
    _row("est_cpulist", None, "CPUs that the threads which compute rates may use; empty is the default",
         "ipvs_proc_est_cpumask_set", kind="cpulist", kernels="6.2 and later"),
    _row("est_nice", "0", "nice value of the threads which compute rates", "ipvs_proc_est_nice", bounds=(-20, 19),
         kernels="6.2 and later"),
    _row("expire_nodest_conn", "0", "end connections at once whose server was deleted, instead of dropping their "
         "packets until they time out"),
    _row("expire_quiescent_template", "0", "end a client's persistence when its server has weight 0 or is above its "
         "threshold"),
    _row("ignore_tunneled", "0", "let packets of tunnels addressed to the director pass to its own tunnel devices"),
    _row("lblc_expiration", "86400", "seconds after which lblc forgets a destination that is not used",
         "ip_vs_lblc.c: vs_vars_table", kind="seconds", bounds=(-SECONDS_MAX, SECONDS_MAX), module="ip_vs_lblc"),
    _row("lblcr_expiration", "86400", "seconds after which lblcr forgets a destination that is not used",
         "ip_vs_lblcr.c: vs_vars_table", kind="seconds", bounds=(-SECONDS_MAX, SECONDS_MAX), module="ip_vs_lblcr"),
    _row("nat_icmp_send", "0", "answer packets of nat servers that belong to no connection with ICMP port "
         "unreachable"),
    _row("pmtu_disc", "1", "tunnels honour DF and the path MTU; 0 sends encapsulated packets that may be fragmented"),
    _row("run_estimation", "1", "compute rates; 0 stops it and rates read 0", kernels="5.16 and later"),
    _row("schedule_icmp", "0", "schedule connections for ICMP errors that belong to none (for tunnelled anycast)"),
    _row("secure_tcp", "0", f"shorter timeouts against SYN floods: {_DEFENSE}", "proc_do_defense_mode",
         bounds=(0, 3)),
    _row("sloppy_sctp", "0", "create SCTP connections on any chunk, not only on INIT"),
    _row("sloppy_tcp", "0", "create TCP connections on any packet, not only on SYN: for failover without "
         "synchronisation"),
    _row("snat_reroute", "1", "route replies of nat servers again once their source is the virtual address, so that "
         "ip rule from VIP chooses the uplink", "vs_vars; ip_vs_core.c: ip_vs_route_me_harder; S4 to S7"),
    _row("sync_persist_mode", "0", "synchronise persistence templates only, not the connections under them"),
    _row("sync_ports", "1", "synchronisation threads, each with a UDP port of its own; read when the daemon starts, "
         "64 at most are used", "proc_do_sync_ports", kind="power", bounds=(1, INT_MAX)),
    _row("sync_qlen_max", None, "synchronisation messages that may wait to be sent", kind="ulong",
         bounds=(0, ULONG_MAX)),
    _row("sync_refresh_period", "0", "seconds by which a connection's timer must have changed before it is "
         "synchronised again; 0 leaves it to sync_threshold", kind="seconds", bounds=(-SECONDS_MAX, SECONDS_MAX)),
    _row("sync_retries", "0", "repeats of each synchronisation, against loss", bounds=(0, 3)),
    _row("sync_sock_size", "0", "bytes of the synchronisation sockets' buffers; 0 is the system's default"),
    _row("sync_threshold", "3 50", "A B: synchronise a connection at its packet A and then every B packets; B = 0, "
         "at packet A only", "proc_do_sync_threshold", kind="pair"),
    _row("sync_version", "1", "format of synchronisation messages: 1, or 0 for backups older than 2.6.39",
         "vs_vars, SYSCTL_ONE", bounds=(0, 1)),
    _row("svc_lfactor", None, "how full the service table may get before it grows: 2 to the power of -value buckets "
         "for each service", "vs_vars, ipvs_proc_svc_lfactor", bounds=(-8, 8), kernels="7.1 and later"),
)  # fmt: skip

IPVS_SYSCTLS: Mapping[str, Sysctl] = {row.name: row for row in sorted(_ROWS, key=lambda row: row.name)}
