"""Checks of connection tracking for IPVS: its sysctls, what makes the kernel track, helpers, timeouts."""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.knowledge.checks.base import (
    IN_FILE,
    Check,
    Seen,
    by_sysctl,
    check,
    keep_sysctl,
    set_sysctl,
    tool,
)
from ipvsctl.knowledge.checks.services import is_ftp
from ipvsctl.knowledge.names import AUTOMATIC_HELPER, BE_LIBERAL, CONNTRACK, HELPED, asks_for_tracking
from ipvsctl.model.facts import Facts, covers, states
from ipvsctl.model.finding import Mend
from ipvsctl.model.rule import Rule

REUSE = "net.ipv4.vs.conn_reuse_mode"
LOOSE = "net.netfilter.nf_conntrack_tcp_loose"
_COUNT, _MAX = "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"
_TIMEOUT = "net.netfilter.nf_conntrack_"
_ENABLE = "ipvsctl nfct enable"
_NEAR, _FULL = 80, 95
"""Percent of nf_conntrack_max."""


def _tracked(facts: Facts) -> bool:
    """Whether anything that we can read makes the kernel track; a table nat does by being there."""
    return any(asks_for_tracking(rule) for _, _, rule in facts.rules()) or any(
        saved.name == "nat" and any(chain.rules for chain in saved.chains)
        for tables in facts.tables.values() for saved in tables
    )  # fmt: skip


def _state_rules(facts: Facts, *chains: str) -> list[Rule]:
    """Rules that accept by state, in whole or in part of the named built-in chains' table filter."""
    return [
        rule for _, chain, rule in facts.rules(table="filter")
        if rule.target == "ACCEPT" and states(rule) & {"ESTABLISHED", "RELATED"}
        and (chain.policy == "" or not chains or chain.name in chains)
    ]  # fmt: skip


def _idle(facts: Facts) -> Iterator[Seen]:
    ftp = any(is_ftp(status) for status, _ in facts.pairs("nat"))
    if not facts.services or not facts.is_on(CONNTRACK) or _tracked(facts) or facts.nft or ftp:
        return
    if facts.flows:
        return
    yield Seen(
        CONNTRACK,
        f"{CONNTRACK}=1, but no rule and no table nat asks for connection tracking, so that the kernel has no hooks "
        "for it and tracks nothing (on demand since 4.10)",
        "ipvsctl nfct enable", f"conntrack = true under [nfct] {IN_FILE}", Mend(rules="nfct"),
    )  # fmt: skip


def _off(facts: Facts) -> Iterator[Seen]:
    if facts.number(CONNTRACK) != 0:
        return
    tried = [journey for journey in facts.journeys if journey.forward == "nat"]
    passed = bool(tried) and not any(journey.lost for journey in tried)
    # Of the other methods' replies only trial connections know whether they pass the director.
    proved = any(journey.lost and journey.mend == _ENABLE for journey in facts.journeys)
    if not proved and (passed or not any(facts.pairs("nat"))):
        return
    rules = _state_rules(facts, "INPUT", "FORWARD")
    closed = any(chain.policy == "DROP" and chain.name in ("INPUT", "FORWARD")
                 for family in (2, 10) for _, chain in facts.chains(family, "filter"))  # fmt: skip
    refusing = any(rule.target in ("DROP", "REJECT") for _, _, rule in facts.rules(table="filter"))
    if rules and (closed or refusing):
        yield Seen(
            CONNTRACK,
            f"rules accept by state ({rules[0]}), but with {CONNTRACK}=0 conntrack forgets each packet of an IPVS "
            "connection: replies of servers are INVALID or NEW there, never ESTABLISHED",
            _ENABLE, f"conntrack = true under [nfct] {IN_FILE}", Mend(rules="nfct"),
        )  # fmt: skip


def _absent(facts: Facts) -> Iterator[Seen]:
    if facts.features.get("ip_vs_nfct") == "absent" and facts.features.get("ip_vs") == "loaded":
        rules = _state_rules(facts)
        if rules and facts.services:
            yield Seen(
                "ip_vs_nfct",
                f"this kernel's IPVS is built without connection tracking (CONFIG_IP_VS_NFCT), and rules match by "
                f"state ({rules[0]}): they never match IPVS traffic; write rules by address and port",
            )  # fmt: skip


def _liberal(facts: Facts) -> Iterator[Seen]:
    if facts.is_on(BE_LIBERAL) and not facts.daemons:
        yield Seen(
            BE_LIBERAL,
            "packets and resets outside the TCP window pass as valid, for every connection of the namespace, and "
            "nothing here needs it: FTP has not since 2.6.36, and no connections are synchronised",
            *by_sysctl(BE_LIBERAL, 0),
        )  # fmt: skip


def _reuse(facts: Facts) -> Iterator[Seen]:
    parts = facts.release.split(".")
    version = tuple(int(part) for part in parts[:2] if part.isdigit())
    if len(version) == 2 and version < (5, 9) and facts.is_on(REUSE) and facts.is_on(CONNTRACK) and facts.services:
        yield Seen(
            REUSE,
            f"on Linux {facts.release} a client that opens a connection from a port it used before loses its first SYN "
            f"and waits a second, with {CONNTRACK}=1 (mended in 5.9)",
            *by_sysctl(REUSE, 0),
        )  # fmt: skip


def _loose(facts: Facts) -> Iterator[Seen]:
    if facts.number(LOOSE) != 0:
        return
    invalid = [rule for _, _, rule in facts.rules(table="filter") if "INVALID" in states(rule)
               and rule.target in ("DROP", "REJECT")]  # fmt: skip
    if facts.services and invalid and facts.number(CONNTRACK) == 0:
        yield Seen(
            LOOSE,
            f"with {CONNTRACK}=0 every later packet of an IPVS connection must be picked up in its middle, which "
            f"tcp_loose=0 forbids: it is INVALID, and a rule drops that ({invalid[0]})",
            *by_sysctl(LOOSE, 1), severity="error",
        )  # fmt: skip
    elif facts.daemons and facts.is_on(CONNTRACK):
        yield Seen(
            LOOSE, "connections that are taken over from another director are not picked up: they are INVALID here",
            *by_sysctl(LOOSE, 1),
        )  # fmt: skip


def _automatic(facts: Facts) -> Iterator[Seen]:
    if facts.is_on(AUTOMATIC_HELPER) and any(is_ftp(status) for status in facts.services):
        yield Seen(
            AUTOMATIC_HELPER,
            "helpers are assigned by port, by a switch that is gone since Linux 6.0: a rule does it on every kernel",
            "ipvsctl nfct enable", f'helper = "ftp" of the service {IN_FILE}',
        )  # fmt: skip


def has_helper(facts: Facts, address: str, port: int) -> bool:
    """Whether a rule of raw PREROUTING gives packets to an address and port the helper ftp."""
    for _, _, rule in facts.rules(table="raw"):
        if rule.target == "CT" and dict(rule.target_options).get("helper", "").startswith("ftp"):
            ports = {value for match in rule.matches for name, value in match.options if name in ("dport", "dports")}
            try:
                if covers(rule.destination, address) and (not ports or any(_holds(text, port) for text in ports)):
                    return True
            except ValueError:
                continue
    return False


def _holds(text: str, port: int) -> bool:
    for part in text.split(","):
        low, _, high = part.partition(":")
        if low.isdigit() and int(low) <= port <= int(high or low):
            return True
    return False


def _helper(facts: Facts) -> Iterator[Seen]:
    if facts.is_on(AUTOMATIC_HELPER) or facts.nft:
        return
    related = [rule for _, _, rule in facts.rules(table="filter") if "RELATED" in states(rule)]
    for status in facts.services:
        address = status.service.address
        if not is_ftp(status) or not related or has_helper(facts, address.address, HELPED["ftp"]):
            continue
        yield Seen(
            address,
            f"rules let the data connections of FTP pass as RELATED ({related[0]}), but no rule gives the control "
            "connection the helper ftp, and this kernel gives none by itself: data connections are NEW",
            "ipvsctl nfct enable",
            f'helper = "ftp" of the service {IN_FILE}',
            Mend(rules="nfct"),
        )  # fmt: skip


def _untouched(facts: Facts) -> Iterator[Seen]:
    """ip_vs_ftp on another port than 21: nobody asks for conntrack, and without an entry the 227 is not rewritten."""
    ports = [port for port in facts.ftp_ports if port != HELPED["ftp"]]
    for status in facts.services:
        address = status.service.address
        nat = any(server.server.forward == "nat" for server in status.servers)
        if address.protocol == "tcp" and address.port in ports and nat and not _tracked(facts) and not facts.nft:
            yield Seen(
                address,
                "ip_vs_ftp rewrites addresses only in packets that conntrack knows, and for another port than 21 "
                "nothing here asks for it: the servers' own address leaks in the answer to PASV",
                "ipvsctl nfct enable", f"conntrack = true under [nfct] {IN_FILE}", Mend(rules="nfct"),
            )  # fmt: skip


def _full(facts: Facts) -> Iterator[Seen]:
    used, limit = facts.number(_COUNT), facts.number(_MAX)
    if used is None or not limit:
        return
    percent = used * 100 // limit
    if percent >= _NEAR:
        wanted = 2 * limit
        fix, keep, mend = by_sysctl(_MAX, wanted)
        where = "" if facts.initial else " (in the initial network namespace: it is one limit for all)"
        yield Seen(
            _MAX,
            f"{used} of {limit} entries ({percent} %) are in use: above the limit packets of new connections are "
            f"dropped, IPVS's too{where}",
            fix, keep, mend if facts.initial else Mend(), severity="error" if percent >= _FULL else "",
        )  # fmt: skip


def _expectations(facts: Facts) -> Iterator[Seen]:
    limit = facts.number("net.netfilter.nf_conntrack_expect_max")
    if limit and facts.expectations * 100 >= limit * _NEAR:
        name = "net.netfilter.nf_conntrack_expect_max"
        yield Seen(
            name, f"{facts.expectations} of {limit} expectations are in use: above the limit FTP data connections are "
            "not expected any more", set_sysctl(name, limit * 2), keep_sysctl(name, limit * 2),
        )  # fmt: skip


def _short(facts: Facts) -> Iterator[Seen]:
    if not facts.is_on(CONNTRACK) or not facts.services:
        return
    times = facts.timeouts
    kinds = {status.service.address.protocol for status in facts.services}
    for protocol, name, ours in (
        ("tcp", f"{_TIMEOUT}tcp_timeout_established", times.tcp), ("tcp", f"{_TIMEOUT}tcp_timeout_fin_wait",
         times.tcp_fin), ("udp", f"{_TIMEOUT}udp_timeout_stream", times.udp),
    ):  # fmt: skip
        theirs = facts.number(name)
        if theirs is not None and ours and theirs < ours and (protocol in kinds or "fwmark" in kinds):
            yield Seen(
                name,
                f"conntrack forgets a quiet {protocol} connection after {theirs} s, IPVS after {ours} s: in between "
                "rules see the server's next packet as NEW or INVALID, and not as a reply",
                *by_sysctl(name, ours), severity="" if name.endswith("established") else "info",
            )  # fmt: skip


def _long(facts: Facts) -> Iterator[Seen]:
    """One-way dr and tun connections: IPVS ends a connection's entry with its own, but only of those it set up."""
    name = f"{_TIMEOUT}tcp_timeout_established"
    theirs, ours = facts.number(name), facts.timeouts.tcp
    virtual = set(facts.virtual())
    left = sum(flow.count for flow in facts.flows if flow.state == "ESTABLISHED" and flow.protocol == "tcp"
               and flow.destination in virtual)  # fmt: skip
    active = sum(group.count for group in facts.connections if group.protocol == "tcp")
    if theirs and ours and theirs > ours and left > 1000 and left > 2 * active:
        yield Seen(
            name,
            f"conntrack keeps {left} established entries of virtual addresses, IPVS {active} connections: entries that "
            f"IPVS did not end stay for {theirs} s, where IPVS's own stay for {ours} s",
            *by_sysctl(name, max(ours, 3600)),
        )  # fmt: skip


def _notrack(facts: Facts) -> Iterator[Seen]:
    if not facts.is_on(CONNTRACK):
        return
    for status in facts.services:
        address = status.service.address
        for saved, chain, rule in facts.rules(address.family, "raw"):
            off = rule.target == "NOTRACK" or (rule.target == "CT" and "notrack" in dict(rule.target_options))
            ports = {value for match in rule.matches for name, value in match.options if name in ("dport", "dports")}
            named = address.address and rule.destination and rule.protocol in ("", address.protocol)
            hit = not ports or any(_holds(text, address.port) for text in ports)
            if off and named and hit and covers(rule.destination, address.address):
                yield Seen(
                    address,
                    f"{CONNTRACK}=1, but a rule of {saved.name} {chain.name} keeps its packets from being tracked: "
                    "rules by state see UNTRACKED, helpers see nothing",
                    f"{tool(address)} -t raw -D {chain.name} {rule}",
                )  # fmt: skip
                break


CHECKS: tuple[Check, ...] = (
    check("nfct-idle", "conntrack=1 that tracks nothing", "warning", "services sysctls tables nft flows", "S3", _idle),
    check("nfct-off", "rules by state, and conntrack=0", "warning", "services sysctls tables",
          "S3, S17; ip_vs_core.c: ip_vs_notrack", _off),
    check("nfct-absent", "rules by state on a kernel without NFCT", "warning", "services features tables", "S1",
          _absent),
    check("be-liberal", "tcp_be_liberal=1 where nothing needs it", "warning", "sysctls daemons", "S13", _liberal),
    check("reuse-delay", "a second's delay when a client uses a port again", "warning", "services sysctls",
          "ip_vs_core.c: ip_vs_in_hook (f0a5e4d7a594)", _reuse),
    check("loose-off", "tcp_loose=0", "warning", "services sysctls tables daemons",
          "nf_conntrack_proto_tcp.c: tcp_new", _loose),
    check("helper-automatic", "helpers assigned by port", "info", "services sysctls", "S8, S14", _automatic),
    check("helper-missing", "FTP, rules by state, and no helper rule", "error", "services sysctls tables nft",
          "S8, S14", _helper),
    check("ftp-untracked", "FTP on another port, and no conntrack", "error", "services tables nft features",
          "ip_vs_ftp.c: ip_vs_ftp_out", _untouched),
    check("conntrack-full", "the conntrack table is nearly full", "warning", "sysctls",
          "nf_conntrack_core.c: __nf_conntrack_alloc", _full),
    check("expectations-full", "the table of expectations is nearly full", "warning", "sysctls flows",
          "nf_conntrack_expect.c: __nf_ct_expect_check", _expectations),
    check("timeout-short", "conntrack's timeouts are shorter than IPVS's", "warning", "services sysctls",
          "nf_conntrack_proto_tcp.c, ip_vs_proto_tcp.c", _short),
    check("timeout-long", "conntrack entries that outlive IPVS's connections", "warning",
          "services sysctls flows connections", "S18; ip_vs_nfct.c: ip_vs_conn_drop_conntrack", _long),
    check("notrack", "a NOTRACK rule on a tracked service", "warning", "services sysctls tables", "S24", _notrack),
)  # fmt: skip
