"""A host on which nothing was used yet: what is there before modules are loaded, and what brings them.

In the guest this file runs first, as its name sorts first: a module that is loaded stays.
"""

from __future__ import annotations

import pytest

from ipvsctl.errors import NotFound
from ipvsctl.host import Host
from ipvsctl.model.change import AddService
from tests.conformance.support import attempt, must, service

VS = "net.ipv4.vs."
CONNTRACK = "net.ipv4.vs.conntrack"
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"


def state(host: Host, name: str) -> str:
    return host.modules.feature(name).state


def test_modules_come_when_they_are_needed(host: Host) -> None:
    assert state(host, "ip_vs") == "loadable", "the kernel's run needs a fresh guest"
    assert host.sysctl.names(VS) == []
    for name in (CONNTRACK, LIBERAL):
        assert host.sysctl.get(name) is None
        with pytest.raises(NotFound, match="there is no such sysctl"):
            host.sysctl.set(name, "1")
        host.sysctl.check_writable(name)

    # Looking at the conntrack table and at our chains loads nothing.
    assert host.conntrack.entries() == []
    assert host.firewall.chains() == ()
    assert host.firewall.backend() == "iptables-legacy"
    assert state(host, "nf_conntrack") == "loadable"

    # Any question to IPVS loads it, and connection tracking with it.
    assert host.ipvs.services() == []
    assert state(host, "ip_vs") == state(host, "nf_conntrack") == state(host, "ip_vs_nfct") == "loaded"
    assert host.sysctl.get(CONNTRACK) == host.sysctl.get(LIBERAL) == "0"

    # A service loads its scheduler and its persistence engine.
    assert state(host, "ip_vs_rr") == state(host, "ip_vs_pe_sip") == state(host, "nf_conntrack_sip") == "loadable"
    must(host, AddService(service("udp:192.0.2.1:5060", "rr", persistent=60, pe="sip")))
    assert state(host, "ip_vs_rr") == state(host, "ip_vs_pe_sip") == state(host, "nf_conntrack_sip") == "loaded"

    # The sysctls of a scheduler come with it.
    assert host.sysctl.get(VS + "lblc_expiration") is None
    must(host, AddService(service("tcp:192.0.2.1:80", "lblc")))
    assert host.sysctl.get(VS + "lblc_expiration") == "86400"
    assert host.sysctl.get(VS + "lblcr_expiration") is None

    # A scheduler is asked for by module name: what is no scheduler is loaded, and refused.
    assert state(host, "ip_vs_ftp") == state(host, "nf_nat") == "loadable"
    assert attempt(host, AddService(service("tcp:192.0.2.1:81", "ftp"))) != [None]
    assert state(host, "ip_vs_ftp") == state(host, "nf_nat") == "loaded"

    host.modules.load("nf_conntrack_ftp")
    assert state(host, "nf_conntrack_ftp") == "loaded"
    assert state(host, "nf_nat_ftp") == "loadable"
