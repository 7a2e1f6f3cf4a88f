"""The table of sysctls in itself; tests/conformance/test_sysctls.py holds it against the kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvsctl.errors import UsageError
from ipvsctl.knowledge.modules import MODULES
from ipvsctl.knowledge.schedulers import SCHEDULERS
from ipvsctl.knowledge.sysctls import SYSCTLS, Sysctl, canonical, check, find, read
from ipvsctl.model.service import SCHEDULER_FLAGS

VS = "net.ipv4.vs."
NF = "net.netfilter.nf_conntrack_"

# reference/kernel-semantics.md 8.1, with debug_level, which distributions do not build.
OF_IPVS = [
    "am_droprate", "amemthresh", "backup_only", "cache_bypass", "conn_lfactor", "conn_max", "conn_reuse_mode",
    "conntrack", "debug_level", "drop_entry", "drop_packet", "est_cpulist", "est_nice", "expire_nodest_conn",
    "expire_quiescent_template", "ignore_tunneled", "lblc_expiration", "lblcr_expiration", "nat_icmp_send",
    "pmtu_disc", "run_estimation", "schedule_icmp", "secure_tcp", "sloppy_sctp", "sloppy_tcp", "snat_reroute",
    "svc_lfactor", "sync_persist_mode", "sync_ports", "sync_qlen_max", "sync_refresh_period", "sync_retries",
    "sync_sock_size", "sync_threshold", "sync_version",
]  # fmt: skip


def test_every_sysctl_of_ipvs_is_there() -> None:
    assert sorted(name.removeprefix(VS) for name in SYSCTLS if name.startswith(VS)) == sorted(OF_IPVS)


@pytest.mark.parametrize("row", SYSCTLS.values(), ids=lambda row: row.name)
def test_rows_are_whole(row: Sysctl) -> None:
    assert SYSCTLS[row.name] is row
    assert find(row.name.replace("*", "eth0")) is row
    assert row.kind in ("int", "u8", "seconds", "ulong", "power", "pair", "cpulist")
    assert row.lowest < row.highest
    assert row.meaning and row.source and row.expected
    assert not row.meaning.endswith(".") and "\n" not in row.meaning
    assert row.module == "" or row.module in MODULES
    assert row.default is None or read(row, row.default) == row.default
    assert row.optional is (row.kernels != "")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("net.ipv4.vs.conntrack", "net.ipv4.vs.conntrack"),
        ("net.ipv4.conf.eth0.rp_filter", "net.ipv4.conf.*.rp_filter"),
        ("net.ipv4.conf.all.accept_local", "net.ipv4.conf.*.accept_local"),
        ("net.ipv4.conf.eth0/100.accept_local", "net.ipv4.conf.*.accept_local"),
        ("net.ipv6.conf.default.forwarding", "net.ipv6.conf.*.forwarding"),
        ("net.ipv4.conf.*.rp_filter", None),
        ("net.ipv4.conf..rp_filter", None),
        ("net.ipv4.conf.eth0.100.rp_filter", None),
        ("net.ipv6.conf.eth0.rp_filter", None),
        ("net.ipv4.konf.eth0.rp_filter", None),
        ("net.ipv4.vs.nosuch", None),
        ("net.ipv4.vs", None),
        ("", None),
    ],
)
def test_find(name: str, found: str | None) -> None:
    row = find(name)
    assert (row and row.name) == found


@pytest.mark.parametrize(
    ("name", "value", "made"),
    [
        (f"{VS}conntrack", "1", "1"),
        (f"{VS}conntrack", " -7\n", "-7"),
        (f"{VS}conntrack", "0x10", "16"),
        (f"{VS}conntrack", "010", "8"),
        (f"{VS}conntrack", "-2147483648", "-2147483648"),
        (f"{VS}sync_threshold", "3\t50", "3 50"),
        (f"{VS}sync_threshold", "0 0", "0 0"),
        (f"{VS}sync_ports", "4", "4"),
        (f"{VS}sync_qlen_max", "18446744073709551615", "18446744073709551615"),
        (f"{VS}est_cpulist", "3,0-2,5", "0-3,5"),
        (f"{VS}est_cpulist", "", ""),
        (f"{VS}est_nice", "-20", "-20"),
        (f"{VS}conn_max", "1073741824", "1073741824"),
        (f"{VS}lblc_expiration", "8589934", "8589934"),
        (f"{NF}tcp_be_liberal", "1", "1"),
        ("net.ipv4.conf.eth0.rp_filter", "2", "2"),
        ("net.ipv4.tcp_rmem", "4096  131072\t6291456", "4096 131072 6291456"),
    ],
)
def test_values_that_are_taken(name: str, value: str, made: str) -> None:
    check(name, value)
    assert canonical(name, value) == made


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (f"{VS}conntrack", "", "a number"),
        (f"{VS}conntrack", "+1", "a number"),
        (f"{VS}conntrack", "on", "a number"),
        (f"{VS}conntrack", "1_0", "a number"),
        (f"{VS}conntrack", "0x", "a number"),
        (f"{VS}conntrack", "0b1", "a number"),
        (f"{VS}conntrack", "08", "a number"),
        (f"{VS}conntrack", "0o7", "a number"),
        (f"{VS}conntrack", "-", "a number"),
        (f"{VS}conntrack", "\N{SUPERSCRIPT TWO}", "a number"),
        (f"{VS}conntrack", "\N{ARABIC-INDIC DIGIT ONE}", "a number"),
        (f"{VS}conntrack", "1 2", "a number"),
        (f"{VS}conntrack", "2147483648", "a number"),
        (f"{VS}drop_entry", "4", r"0\.\.3"),
        (f"{VS}sync_version", "-1", r"0\.\.1"),
        (f"{VS}est_nice", "20", r"-20\.\.19"),
        (f"{VS}est_cpulist", "a", "CPU numbers"),
        (f"{VS}est_cpulist", "3-1", "CPU numbers"),
        (f"{VS}sync_threshold", "3", "two numbers"),
        (f"{VS}sync_threshold", "50 3", "two numbers"),
        (f"{VS}sync_threshold", "3 3", "two numbers"),
        (f"{VS}sync_threshold", "1 2 3", "two numbers"),
        (f"{VS}sync_ports", "3", "a power of two"),
        (f"{VS}sync_ports", "0", "a power of two"),
        (f"{VS}sync_qlen_max", "-1", r"0\.\."),
        (f"{VS}lblc_expiration", "8589935", r"-8589934\.\.8589934"),
        (f"{NF}tcp_be_liberal", "2", r"0\.\.1"),
        (f"{NF}tcp_be_liberal", "-0", r"0\.\.1"),
        (f"{NF}max", "-1", r"0\.\.2147483647"),
        ("net.ipv4.ip_unprivileged_port_start", "65536", r"0\.\.65535"),
    ],
)
def test_values_that_are_refused(name: str, value: str, expected: str) -> None:
    with pytest.raises(UsageError, match=f"is not a value the kernel takes, expected {expected}") as raised:
        check(name, value)
    assert str(raised.value).startswith(f"{name}: {value!r} ")


def test_what_can_only_be_read() -> None:
    with pytest.raises(UsageError, match="nf_conntrack_count can only be read"):
        check(f"{NF}count", "0")


@given(st.sampled_from(list(SYSCTLS.values())), st.text(max_size=24) | st.integers().map(str))
def test_whatever_is_written_reads_back_as_it_was_read(row: Sysctl, text: str) -> None:
    try:
        made = read(row, text, "3 50")
    except ValueError as error:
        assert str(error) == row.expected
    else:
        assert read(row, made) == made


def test_half_a_pair_keeps_the_other_half() -> None:
    row = SYSCTLS[f"{VS}sync_threshold"]
    assert read(row, "7", "3 50") == "7 50"
    with pytest.raises(ValueError):
        read(row, "50", "3 50")


def test_schedulers() -> None:
    for name, row in SCHEDULERS.items():
        assert row.name == name
        assert row.module == f"ip_vs_{name}"
        assert set(row.flags) == set(SCHEDULER_FLAGS.get(name, ()))
        assert row.meaning and row.source
