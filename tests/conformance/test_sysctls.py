"""Sysctls: knowledge/sysctls.py against the hosts, what a value becomes, what setting one does to others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipvsctl.errors import IpvsctlError, NotFound, NotPermitted, Refused, UsageError
from ipvsctl.host import Host
from ipvsctl.knowledge.sysctls import SYSCTLS, Sysctl, find

VS = "net.ipv4.vs."
NF = "net.netfilter.nf_conntrack_"
DEVICES = ("all", "default", "lo", "eth0", "eth1")


def ready(host: Host) -> None:
    host.ipvs.info()
    host.modules.load("ip_vs_lblc")
    host.modules.load("ip_vs_lblcr")


def instances(row: Sysctl) -> list[str]:
    return [row.name.replace("*", device) for device in (DEVICES if "*" in row.name else ("",))]


def present(host: Host) -> Iterator[tuple[str, Sysctl]]:
    """Every sysctl of the table that the host has, which must be every one that no kernel is without."""
    for row in SYSCTLS.values():
        for name in instances(row):
            if host.sysctl.get(name) is not None:
                yield name, row
            else:
                # In a namespace of its own there are none of the initial one's.
                assert row.optional or not row.namespaced, name


def test_names_and_defaults(host: Host) -> None:
    ready(host)
    for name, row in present(host):
        assert find(name) is row
        assert row.default is None or host.sysctl.get(name) == row.default, name
    for prefix in (VS, NF):
        names = host.sysctl.names(prefix)
        assert names == sorted(names)
        assert all(name.startswith(prefix) for name in names)
    assert [name for name in host.sysctl.names(VS) if find(name) is None] == []
    assert [name for name in host.sysctl.names(f"{NF}tcp_") if find(name) is None] == []
    assert host.sysctl.names(f"{VS}sync_p") == [f"{VS}sync_persist_mode", f"{VS}sync_ports"]
    assert host.sysctl.names("net.ipv4.vs.nosuch") == []


def test_ranges(host: Host) -> None:
    """The bounds in the table are the host's: they are taken, and what lies beyond is not."""
    ready(host)
    checked = 0
    for name, row in present(host):
        if not (row.namespaced and row.writable) or row.kind in ("pair", "cpulist", "power"):
            continue
        before = host.sysctl.get(name)
        assert before is not None
        for value in (row.lowest, row.highest):
            if name == "net.ipv4.ip_unprivileged_port_start" and value > 32768:
                continue
            host.sysctl.set(name, str(value))
            assert host.sysctl.get(name) == str(value), name
        for value in (row.lowest - 1, row.highest + 1):
            with pytest.raises(Refused, match=r"the kernel (does not take|keeps)"):
                host.sysctl.set(name, str(value))
                pytest.fail(f"{name} took {value}")
        host.sysctl.set(name, before)
        checked += 1
    assert checked > 100


TAKEN = (
    (f"{VS}conntrack", "1", "1"),
    (f"{VS}conntrack", " -7 ", "-7"),
    (f"{VS}conntrack", "0x10", "16"),
    (f"{VS}conntrack", "-0", "0"),
    (f"{VS}sync_threshold", "5 100", "5 100"),
    (f"{VS}sync_threshold", "5\t100\n", "5 100"),
    (f"{VS}sync_threshold", "7", "7 100"),
    (f"{VS}sync_threshold", "3 0", "3 0"),
    (f"{VS}sync_threshold", "3 50", "3 50"),
    (f"{VS}sync_ports", "64", "64"),
    (f"{VS}sync_ports", "65536", "65536"),
    (f"{VS}drop_entry", "3", "3"),
    (f"{VS}drop_entry", "2", "1"),
    (f"{VS}secure_tcp", "2", "1"),
    (f"{VS}lblc_expiration", "-1", "-1"),
    (f"{VS}sync_qlen_max", "0", "0"),
    (f"{NF}tcp_be_liberal", "1", "1"),
    (f"{NF}tcp_timeout_established", "86400", "86400"),
    (f"{NF}log_invalid", "0xff", "255"),
    ("net.ipv4.conf.eth0.accept_local", "1", "1"),
    ("net.ipv4.conf.all.rp_filter", "2", "2"),
    ("net.ipv4.ip_unprivileged_port_start", "32768", "32768"),
)
NOT_TAKEN = (
    *((f"{VS}conntrack", value) for value in ("", " ", "+1", "1abc", "yes", "1.5", "--1", "1,2", "08", "0x", "1 2")),
    *((f"{VS}conntrack", value) for value in ("010", "00001", "99999999999999999999", "0x100000000")),
    *((f"{VS}sync_threshold", value) for value in ("50", "3 3", "50 3", "-1 5", "1 2 3", "a b", "3 -1")),
    *((f"{VS}sync_ports", value) for value in ("0", "3", "-1", "65")),
    (f"{VS}drop_packet", "4"),
    (f"{VS}sync_version", "2"),
    (f"{VS}lblc_expiration", "8589935"),
    (f"{VS}sync_qlen_max", "-1"),
    *((f"{NF}tcp_be_liberal", value) for value in ("2", "-1", "-0", "1 2", "on")),
    (f"{NF}log_invalid", "256"),
    ("net.ipv4.ip_unprivileged_port_start", "32769"),
    ("net.ipv4.ip_default_ttl", "0"),
)


def test_what_a_value_becomes(host: Host) -> None:
    ready(host)
    for name, value, found in TAKEN:
        host.sysctl.set(name, value)
        assert (name, value, host.sysctl.get(name)) == (name, value, found)


def test_refused_values_change_nothing(host: Host) -> None:
    ready(host)
    for name, value in NOT_TAKEN:
        before = host.sysctl.get(name)
        with pytest.raises(Refused) as refusal:
            host.sysctl.set(name, value)
            pytest.fail(f"{name} took {value!r}")
        assert str(refusal.value).startswith(f"cannot set {name} to {' '.join(value.split())}: the kernel ")
        assert host.sysctl.get(name) == before


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (f"{VS}nosuch", NotFound),
        ("net.ipv4.conf.nosuch0.accept_local", NotFound),
        ("nosuch", NotFound),
        ("net.ipv4.vs", NotFound),
        ("", UsageError),
        ("net..ipv4", UsageError),
        ("net.ipv4.vs.", UsageError),
        ("net.ipv4./.ip_forward", UsageError),
        ("net.ipv4.//.ip_forward", UsageError),
        ("net.ipv4.\0", UsageError),
        (f"{NF}count", NotPermitted),
    ],
)
def test_names_that_cannot_be_set(host: Host, name: str, error: type[IpvsctlError]) -> None:
    ready(host)
    with pytest.raises(error) as raised:
        host.sysctl.set(name, "1")
    assert type(raised.value) is error
    if error is UsageError:
        with pytest.raises(UsageError):
            host.sysctl.get(name)
    elif error is NotFound:
        assert host.sysctl.get(name) is None
    else:
        assert host.sysctl.get(name) == "0"
        with pytest.raises(NotPermitted):
            host.sysctl.check_writable(name)


def forwarding(host: Host, version: int = 4) -> dict[str, str | None]:
    found = {device: host.sysctl.get(f"net.ipv{version}.conf.{device}.forwarding") for device in DEVICES}
    if version == 4:
        found["ip_forward"] = host.sysctl.get("net.ipv4.ip_forward")
        found["redirects"] = host.sysctl.get("net.ipv4.conf.all.accept_redirects")
    return found


def test_ip_forward_sets_every_device(host: Host) -> None:
    off = {**dict.fromkeys((*DEVICES, "ip_forward"), "0"), "redirects": "1"}
    on = {**dict.fromkeys((*DEVICES, "ip_forward"), "1"), "redirects": "0"}
    assert forwarding(host) == off

    # A change overwrites everything; writing what is there already overwrites nothing.
    host.sysctl.set("net.ipv4.conf.eth0.forwarding", "1")
    assert forwarding(host) == {**off, "eth0": "1"}
    host.sysctl.set("net.ipv4.ip_forward", "0")
    assert forwarding(host) == {**off, "eth0": "1"}
    host.sysctl.set("net.ipv4.ip_forward", "1")
    assert forwarding(host) == on
    host.sysctl.set("net.ipv4.conf.all.accept_redirects", "1")
    host.sysctl.set("net.ipv4.conf.eth1.forwarding", "0")
    host.sysctl.set("net.ipv4.ip_forward", "1")
    assert forwarding(host) == {**on, "redirects": "1", "eth1": "0"}
    host.sysctl.set("net.ipv4.ip_forward", "2")
    assert forwarding(host) == {**dict.fromkeys(on, "2"), "redirects": "0"}

    # conf.all.forwarding is the same switch, conf.default.forwarding is not.
    host.sysctl.set("net.ipv4.conf.all.forwarding", "0")
    assert forwarding(host) == off
    host.sysctl.set("net.ipv4.conf.default.forwarding", "1")
    assert forwarding(host) == {**off, "default": "1"}
    host.sysctl.set("net.ipv4.conf.all.forwarding", "1")
    host.sysctl.set("net.ipv4.ip_forward", "0")
    assert forwarding(host) == off


def test_ipv6_forwarding_sets_every_device(host: Host) -> None:
    assert forwarding(host, 6) == dict.fromkeys(DEVICES, "0")
    host.sysctl.set("net.ipv6.conf.all.forwarding", "1")
    assert forwarding(host, 6) == dict.fromkeys(DEVICES, "1")
    host.sysctl.set("net.ipv6.conf.eth0.forwarding", "0")
    assert forwarding(host, 6) == {**dict.fromkeys(DEVICES, "1"), "eth0": "0"}
    host.sysctl.set("net.ipv6.conf.all.forwarding", "1")
    assert forwarding(host, 6) == dict.fromkeys(DEVICES, "1")
    host.sysctl.set("net.ipv6.conf.all.forwarding", "0")
    assert forwarding(host, 6) == dict.fromkeys(DEVICES, "0")
    assert set(forwarding(host).values()) == {"0", "1"}


def of_devices(host: Host, name: str) -> list[str | None]:
    return [host.sysctl.get(f"net.ipv4.conf.{device}.{name}") for device in DEVICES]


def test_all_is_no_switch_for_the_devices(host: Host) -> None:
    for name in ("rp_filter", "accept_local", "send_redirects"):
        before = of_devices(host, name)
        host.sysctl.set(f"net.ipv4.conf.all.{name}", "2")
        assert of_devices(host, name) == ["2", *before[1:]]


def test_default_is_one_for_devices_that_were_never_set(host: Host) -> None:
    copied = [row.name for row in SYSCTLS.values() if row.name.startswith("net.ipv4.conf.")]
    for name in (full.rpartition(".")[2] for full in copied):
        before = of_devices(host, name)
        host.sysctl.set(f"net.ipv4.conf.eth1.{name}", "3")
        host.sysctl.set(f"net.ipv4.conf.default.{name}", "2")
        # lo has an address, and with that settings of its own; these two are not copied at all.
        eth0 = before[3] if name in ("forwarding", "route_localnet") else "2"
        assert (name, of_devices(host, name)) == (name, [before[0], "2", before[2], eth0, "3"])
