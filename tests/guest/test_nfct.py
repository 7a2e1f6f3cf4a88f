"""`nfct` on a real kernel: whether anything is tracked, FTP through dr with nothing else done, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.lab import HTTP_SERVER, VIP, VIP6, curl_modes, must
from tests.guest.matrix_lab import RIP, RIP6, MatrixLab

pytestmark = pytest.mark.guest

EMPTY_PROBE = "table inet probe { }"
WEB = "port 80\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatrixLab]:
    with MatrixLab("n", tmp_path_factory.mktemp("nfct"), EMPTY_PROBE) as made:
        made.serve(made.rs1, HTTP_SERVER, "::", "80")
        yield made


@pytest.fixture
def clean(lab: MatrixLab) -> Iterator[None]:
    """After the test no service and no rule of ours is there."""
    yield
    lab.on(lab.director, "ipvsadm", "-C")
    lab.ipvsctl("firewall", "remove")
    lab.ipvsctl("nfct", "disable")
    lab.on(lab.director, "conntrack", "-F")


def status(lab: MatrixLab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.ipvsctl("-j", "nfct", "status").stdout)
    return found


def tracked(lab: MatrixLab) -> int:
    return int(lab.on(lab.director, "cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout)


def ipvsadm(lab: MatrixLab, *lines: str) -> None:
    for line in lines:
        must("ip", "netns", "exec", lab.director, "ipvsadm", *line.split())


def test_conntrack_alone_tracks_nothing_and_enable_makes_sure(lab: MatrixLab, clean: None) -> None:
    """S3: hooks exist on demand. A service on port 80 asks for none."""
    ipvsadm(lab, f"-A -t {VIP}:80 -s rr", f"-a -t {VIP}:80 -r {RIP}:80 -m",
            f"-A -t [{VIP6}]:80 -s rr", f"-a -t [{VIP6}]:80 -r [{RIP6}]:80 -m")  # fmt: skip
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        lab.sysctl(lab.director, name, "1")
    before = lab.state()
    lab.sysctl(lab.director, "net.ipv4.vs.conntrack", "1")
    urls = (f"http://{VIP}/", f"http://[{VIP6}]/")
    assert [lab.fetch(url=url).stdout for url in urls] == [WEB, WEB]
    assert tracked(lab) == 0
    assert status(lab)["hooks"] == status(lab)["tracked_by"] == []
    lab.sysctl(lab.director, "net.ipv4.vs.conntrack", "0")
    enabled = lab.ipvsctl("nfct", "enable")
    assert enabled.status == 0, enabled
    assert status(lab)["hooks"] == ["filter IPVSCTL-TRACK", "inet6 filter IPVSCTL-TRACK"]
    for count, url in enumerate(urls, 1):
        assert lab.fetch(url=url).stdout == WEB
        assert tracked(lab) == count, url
    disabled = lab.ipvsctl("nfct", "disable")
    assert disabled.status == 0, disabled
    lab.on(lab.director, "conntrack", "-F")
    assert lab.state() == before


def test_ftp_through_dr_by_enable_alone_and_back(lab: MatrixLab, clean: None) -> None:
    """S9: helper, accept_local with its rule, and a source check that was strict; no other rule is there."""
    check = "net.ipv4.conf.eth1.rp_filter"
    lab.sysctl(lab.director, "net.ipv4.ip_forward", "0")
    ipvsadm(lab, f"-A -t {VIP}:21 -s rr -p 300", f"-a -t {VIP}:21 -r {RIP} -g")
    lab.sysctl(lab.director, check, "1")
    before = lab.state()
    assert lab.fetch().status == 28, "it works without"
    enabled = lab.ipvsctl("nfct", "enable", "--accept-local", "eth1", "--helper", "ftp")
    assert enabled.status == 0, enabled
    found = status(lab)
    assert (found["accept_local"], found["source_check"], found["spoofing"]) == (["eth1"], {"eth1": 2}, ["eth1"])
    assert found["helpers"] == [{"service": f"tcp:{VIP}:21", "helper": "ftp"}]
    again = lab.ipvsctl("nfct", "enable", "--accept-local", "eth1")
    assert (again.status, again.stdout) == (0, "no changes\n")
    for mode, options in curl_modes():
        result = lab.fetch(*options)
        assert (result.status, result.stdout) == (0, "rs1\n"), f"{mode}: {result.stderr}"
    entries = lab.on(lab.director, "conntrack", "-L").stdout
    assert "helper=ftp" in entries
    disabled = lab.ipvsctl("nfct", "disable")
    assert disabled.status == 0, disabled
    lab.on(lab.director, "conntrack", "-F")
    assert lab.state() == before


def test_a_source_check_that_is_not_strict_stays(lab: MatrixLab, clean: None) -> None:
    lab.sysctl(lab.director, "net.ipv4.conf.eth1.rp_filter", "0")
    assert lab.ipvsctl("nfct", "enable", "--accept-local", "eth1").status == 0
    assert lab.on(lab.director, "sysctl", "-n", "net.ipv4.conf.eth1.rp_filter").stdout == "0\n"


def test_automatic_helpers_are_told_where_the_kernel_has_them(lab: MatrixLab) -> None:
    there = lab.on(lab.director, "test", "-e", "/proc/sys/net/netfilter/nf_conntrack_helper").status == 0
    assert (status(lab)["automatic_helper"] is not None) is there


@pytest.mark.parametrize("backend", ["iptables-legacy", "iptables-nft", "nft"])
def test_a_mark_stands_for_its_members(lab: MatrixLab, clean: None, backend: str) -> None:
    """Both families; a second apply changes nothing, so what was made reads back as it was wanted."""
    text = f"""\
[nfct]
conntrack = true

[firewall]
backend = "{backend}"
protect = ["{VIP}", "{VIP6}"]

[[service]]
address = "fwmark:7"
scheduler = "rr"
members = ["tcp:{VIP}:80", "tcp:{VIP}:443"]
server = [{{ address = "{RIP}:80", forward = "nat" }}]

[[service]]
address = "fwmark:7/inet6"
scheduler = "rr"
members = ["tcp:[{VIP6}]:80"]
server = [{{ address = "[{RIP6}]:80", forward = "nat" }}]
"""
    lab.apply(text)
    lab.applied = 0
    again = lab.ipvsctl("apply", str(lab.folder / "director.toml"))
    assert (again.status, again.stdout) == (0, "no changes\n")
    for url in (f"http://{VIP}/", f"http://{VIP}:443/", f"http://[{VIP6}]/"):
        assert lab.fetch(url=url).stdout == WEB, url
    assert lab.fetch(url=f"http://{VIP}:8080/").status == 28
    exported = lab.ipvsctl("export")
    (lab.folder / "export.toml").write_text(exported.stdout)
    checked = lab.ipvsctl("plan", "--check", str(lab.folder / "export.toml"))
    assert checked.status == 0, checked
    assert lab.ipvsctl("rollback").status == 0
