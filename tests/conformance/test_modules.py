"""Features and modules."""

from __future__ import annotations

import pytest

from ipvsctl.errors import Unavailable, UsageError
from ipvsctl.host import Host
from ipvsctl.knowledge.modules import MODULES
from ipvsctl.model.change import AddService
from tests.conformance.support import attempt, must, service


def test_loading_twice_is_no_error(host: Host) -> None:
    for _ in range(2):
        host.modules.load("nf_conntrack_ftp")
        feature = host.modules.feature("nf_conntrack_ftp")
        assert (feature.name, feature.state) == ("nf_conntrack_ftp", "loaded")
        assert feature.evidence
    assert host.modules.feature("nf_conntrack").state == "loaded"
    assert host.sysctl.get("net.netfilter.nf_conntrack_tcp_be_liberal") == "0"


def test_a_dash_is_an_underscore(host: Host) -> None:
    host.modules.load("nf-conntrack-ftp")
    assert host.modules.feature("nf-conntrack-ftp").state == "loaded"


@pytest.mark.parametrize("name", ["ip_conntrack_ftp", "ip_conntrack"])
def test_names_of_before_2_6_22(host: Host, name: str) -> None:
    host.modules.load(name)
    assert host.modules.feature(name.replace("ip_", "nf_")).state == "loaded"


def test_a_feature_that_is_an_option_of_a_module(host: Host) -> None:
    host.modules.load("ip_vs_nfct")
    assert host.modules.feature("ip_vs_nfct").state == "loaded"
    assert host.sysctl.get("net.ipv4.vs.conntrack") == "0"


def test_every_feature_of_the_table_but_later_ones_is_there(host: Host) -> None:
    for name in MODULES:
        feature = host.modules.feature(name)
        assert feature.name == name
        if name != "ip_vs_twos":
            assert feature.state in ("loaded", "loadable"), feature


def test_what_is_absent_cannot_be_loaded(host: Host) -> None:
    for name in ("ip_vs_nosuch", "nosuch"):
        feature = host.modules.feature(name)
        assert (feature.name, feature.state) == (name, "absent")
        with pytest.raises(Unavailable) as raised:
            host.modules.load(name)
        assert type(raised.value) is Unavailable
        assert str(raised.value).startswith(f"cannot load module {name}: ")


@pytest.mark.parametrize("name", ["", "-", "a b", "../ip_vs", "ip_vs;", "ip_vs\n", "-r"])
def test_names_that_cannot_be_a_module(host: Host, name: str) -> None:
    with pytest.raises(UsageError):
        host.modules.feature(name)
    with pytest.raises(UsageError):
        host.modules.load(name)


def test_a_scheduler_is_there_when_its_module_is(host: Host) -> None:
    state = host.modules.feature("ip_vs_twos").state
    (failure,) = attempt(host, AddService(service("tcp:192.0.2.1:80", "twos")))
    assert (failure is None) is (state != "absent")
    must(host, AddService(service("tcp:192.0.2.1:81", "wlc")))
    assert host.modules.feature("ip_vs_wlc").state == "loaded"
