"""The sysctls of connection tracking: net.netfilter.*, there while nf_conntrack is loaded.

From nf_conntrack_standalone.c (nf_ct_sysctl_table) and the protocols' timeouts, one set in each network namespace
except for those of the table's size. Values and defaults were read from Linux 5.10, 6.1, 6.12 and 7.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ipvsctl.knowledge.sysctl_values import INT_MAX, INT_MIN, SECONDS_MAX, Sysctl

_TABLE = "nf_conntrack_standalone.c: nf_ct_sysctl_table"
_DCCP = "6.12 and earlier"

_TIMEOUTS = {
    "tcp": ("nf_conntrack_proto_tcp.c: tcp_timeouts; reference/kernel-semantics.md 2.4", "", {
        "syn_sent": ("120", "a SYN without an answer; S18"),
        "syn_recv": ("60", "a SYN that was answered"),
        "established": ("432000", "an open connection"),
        "fin_wait": ("120", "after a FIN"),
        "close_wait": ("60", "after the other side's FIN"),
        "last_ack": ("30", "after the FINs of both sides"),
        "time_wait": ("120", "after a proper end"),
        "close": ("10", "after a RST"),
        "max_retrans": ("300", "after tcp_max_retrans repeats without an answer"),
        "unacknowledged": ("300", "while sent data is not acknowledged"),
    }),
    "sctp": ("nf_conntrack_proto_sctp.c: sctp_timeouts", "", {
        "closed": ("10", "CLOSED"),
        "cookie_wait": ("3", "COOKIE_WAIT"),
        "cookie_echoed": ("3", "COOKIE_ECHOED"),
        "established": ("210", "ESTABLISHED"),
        "shutdown_sent": ("3", "SHUTDOWN_SENT"),
        "shutdown_recd": ("3", "SHUTDOWN_RECD"),
        "shutdown_ack_sent": ("3", "SHUTDOWN_ACK_SENT"),
        "heartbeat_sent": ("30", "HEARTBEAT_SENT"),
    }),
    "dccp": ("nf_conntrack_proto_dccp.c: dccp_timeouts", _DCCP, {
        "request": ("240", "REQUEST"),
        "respond": ("480", "RESPOND"),
        "partopen": ("480", "PARTOPEN"),
        "open": ("43200", "OPEN"),
        "closereq": ("64", "CLOSEREQ"),
        "closing": ("64", "CLOSING"),
        "timewait": ("240", "TIMEWAIT"),
    }),
}  # fmt: skip

_PLAIN_TIMEOUTS = {
    "udp_timeout": ("30", "a UDP flow seen in one direction or for less than two seconds"),
    "udp_timeout_stream": ("120", "a UDP flow of both directions"),
    "generic_timeout": ("600", "protocols without a tracker of their own, among them IPIP"),
    "icmp_timeout": ("30", "an ICMP exchange"),
    "icmpv6_timeout": ("30", "an ICMPv6 exchange"),
    "gre_timeout": ("30", "a GRE flow seen in one direction"),
    "gre_timeout_stream": ("180", "a GRE flow of both directions"),
}


def _row(
    name: str,
    default: str | None,
    meaning: str,
    source: str = _TABLE,
    *,
    kind: str = "int",
    bounds: tuple[int, int] = (INT_MIN, INT_MAX),
    namespaced: bool = True,
    writable: bool = True,
    kernels: str = "",
) -> Sysctl:
    return Sysctl(
        f"net.netfilter.nf_conntrack_{name}", default, meaning, source, kind, *bounds,
        module="nf_conntrack", namespaced=namespaced, writable=writable, kernels=kernels,
    )  # fmt: skip


def _timeout(name: str, default: str, after: str, source: str, kernels: str = "") -> Sysctl:
    meaning = f"seconds an entry is kept: {after}"
    return _row(name, default, meaning, source, kind="seconds", bounds=(-SECONDS_MAX, SECONDS_MAX), kernels=kernels)


def _timeouts() -> Iterator[Sysctl]:
    for protocol, (source, kernels, states) in _TIMEOUTS.items():
        for state, (default, after) in states.items():
            state_text = after if protocol == "tcp" else f"state {after}"
            yield _timeout(f"{protocol}_timeout_{state}", default, state_text, source, kernels)
    for name, (default, after) in _PLAIN_TIMEOUTS.items():
        yield _timeout(name, default, after, _TABLE)


_BYTE = (0, 255)
_FLAG = (0, 1)

_ROWS = (
    _row("acct", "0", "count packets and bytes of each entry", kind="u8", bounds=_FLAG),
    _row("buckets", None, "buckets of the table, rounded up to a whole page", "nf_conntrack_standalone.c: "
         "nf_conntrack_hash_sysctl", bounds=(1, INT_MAX), namespaced=False),
    _row("checksum", "1", "packets with a wrong checksum are INVALID", kind="u8", bounds=_FLAG),
    _row("count", None, "entries in the table now", writable=False, bounds=(0, INT_MAX)),
    _row("dccp_loose", "1", "pick up DCCP connections in their middle", kind="u8", bounds=_FLAG, kernels=_DCCP),
    _row("events", "2", "report changes of entries: 0 no, 1 yes, 2 when somebody listens (5.10: 0 and 1 only)",
         kind="u8", bounds=(0, 2)),
    _row("expect_max", None, "the most expectations", bounds=(1, INT_MAX), namespaced=False),
    _row("helper", "0", "assign helpers by port; where it is missing, a CT rule must assign them (S11, S14)",
         kind="u8", bounds=_FLAG, kernels="before 6.0"),
    _row("log_invalid", "0", "log INVALID packets of a protocol number, 255 of every protocol", kind="u8",
         bounds=_BYTE),
    _row("max", None, "the most entries; packets of new connections are dropped above it", bounds=(0, INT_MAX),
         namespaced=False),
    _row("tcp_be_liberal", "0", "packets outside the TCP window are not INVALID, only RSTs are",
         "nf_conntrack_proto_tcp.c: nf_tcp_log_invalid; S13", kind="u8", bounds=_FLAG),
    _row("tcp_ignore_invalid_rst", "0", "RSTs outside the TCP window are not INVALID",
         "nf_conntrack_proto_tcp.c: tcp_in_window", kind="u8", bounds=_FLAG, kernels="5.14 and later"),
    _row("tcp_loose", "1", "pick up TCP connections in their middle", "nf_conntrack_proto_tcp.c: tcp_new", kind="u8",
         bounds=_FLAG),
    _row("tcp_max_retrans", "3", "repeats without an answer after which tcp_timeout_max_retrans counts",
         "nf_conntrack_proto_tcp.c: nf_conntrack_tcp_packet", kind="u8", bounds=_BYTE),
    _row("timestamp", "0", "note when each entry began and ended", kind="u8", bounds=_FLAG),
    *_timeouts(),
    Sysctl("net.nf_conntrack_max", None, "net.netfilter.nf_conntrack_max under its old name",
           "nf_conntrack_standalone.c: nf_ct_netfilter_table", lowest=0, module="nf_conntrack", namespaced=False),
    Sysctl("net.netfilter.nf_log_all_netns", "0", "LOG rules of every network namespace write to the kernel log",
           "nf_log.c: nf_log_sysctl_ftable", namespaced=False),
)  # fmt: skip

NETFILTER_SYSCTLS: Mapping[str, Sysctl] = {row.name: row for row in sorted(_ROWS, key=lambda row: row.name)}
