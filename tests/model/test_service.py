"""Ranges and rules of services and servers, and the lines that changes are read by."""

from __future__ import annotations

from typing import Any

import pytest

from ipvsctl.errors import UsageError
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.model.change import AddServer, AddService, DeleteService, EditServer, EditService, SetSysctl, SetTimeouts
from ipvsctl.model.service import Server, Service, Tunnel, flag_bits, flag_names
from ipvsctl.model.status import Daemon, Timeouts

WEB = ServiceAddress.parse("tcp:192.0.2.1:80")
WEB6 = ServiceAddress.parse("tcp:[2001:db8::1]:80")
RS = ServerAddress.parse("10.0.2.2", WEB)


@pytest.mark.parametrize(
    "settings",
    [
        {"scheduler": ""}, {"scheduler": "a" * 16}, {"scheduler": "r r"}, {"scheduler": "r\x00"}, {"persistent": 0},
        {"persistent": 2678401}, {"netmask": "255.255.255.x"}, {"netmask": 0}, {"netmask": 33}, {"netmask": "24.5"},
        {"pe": ""}, {"pe": "p" * 17}, {"flags": ("sh-port",)}, {"flags": ("nosuch",)},
    ],
)  # fmt: skip
def test_services_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Service(WEB, **settings)


@pytest.mark.parametrize("mask", [0, 129, "255.255.0.0", "x"])
def test_ipv6_masks_are_prefix_lengths(mask: Any) -> None:
    with pytest.raises(UsageError):
        Service(WEB6, netmask=mask)


def test_masks_have_one_form() -> None:
    assert Service(WEB, netmask=24).netmask == Service(WEB, netmask="255.255.255.0").netmask == "255.255.255.0"
    assert Service(WEB, netmask=32).netmask is None
    assert Service(WEB6, netmask=128).netmask is None
    assert Service(WEB6, netmask="64").netmask == 64


def test_flags_speak_the_schedulers_words() -> None:
    service = Service(WEB, "sh", ("flag-2", "sh-fallback"))
    assert service.flags == ("sh-fallback", "sh-port")
    assert service.with_scheduler("rr").flags == ("flag-1", "flag-2")
    assert flag_names(flag_bits(("mh-port", "flag-3"), "mh"), "mh") == ("mh-port", "flag-3")


def test_rules_of_ipvsadm() -> None:
    every = ServiceAddress.parse("tcp:192.0.2.1:0")
    with pytest.raises(UsageError, match="persistent"):
        Service(every).check()
    assert Service(every, persistent=300).check().address is every
    with pytest.raises(UsageError, match="one-packet"):
        Service(WEB, flags=("ops",)).check()
    with pytest.raises(UsageError, match="other address family"):
        Server(ServerAddress.parse("[2001:db8::2]:80", WEB), "nat").check(WEB)
    Server(ServerAddress.parse("[2001:db8::2]:80", WEB), "tun").check(WEB)


@pytest.mark.parametrize(
    "settings",
    [
        {"forward": "masq"}, {"weight": -1}, {"weight": 2**31}, {"upper": -1}, {"upper": 2**31}, {"lower": 1},
        {"upper": 5, "lower": 6}, {"forward": "nat", "tunnel": Tunnel("gre")},
    ],
)  # fmt: skip
def test_servers_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Server(RS, **settings)


@pytest.mark.parametrize(
    "values", [("vxlan",), ("gue",), ("gue", 70000), ("gue", 1, "maybe"), ("gre", 5), ("gre", 0, "remote")]
)
def test_tunnels_that_cannot_be_are_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError):
        Tunnel(*values)


def test_daemons_and_timeouts_out_of_range_are_refused() -> None:
    for values in (("both", "eth0"), ("master", ""), ("master", "e" * 16), ("master", "eth0", 256)):
        with pytest.raises(UsageError):
            Daemon(*values)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Timeouts(tcp=-1)


def test_changes_read_as_one_line() -> None:
    service = Service(WEB, "rr", persistent=300)
    server = Server(RS, "nat", 5)
    lines = {
        AddService(service): "add service tcp:192.0.2.1:80 scheduler rr, persistent 300",
        AddServer(WEB, server): "add server 10.0.2.2:80 to tcp:192.0.2.1:80 forward nat, weight 5",
        EditService(Service(WEB, "wlc"), service):
            "edit service tcp:192.0.2.1:80: scheduler rr -> wlc, persistent 300 -> none",
        EditServer(WEB, Server(RS, "nat", 0), server): "edit server 10.0.2.2:80 of tcp:192.0.2.1:80: weight 5 -> 0",
        DeleteService(service, (server,)): "delete service tcp:192.0.2.1:80 with 1 server",
        SetSysctl("net.ipv4.vs.conntrack", "1", "0"): "set net.ipv4.vs.conntrack = 1 (was 0)",
        SetTimeouts(Timeouts(1, 2, 4), Timeouts(1, 2, 3)): "set timeouts: udp 3 -> 4",
    }  # fmt: skip
    for change, line in lines.items():
        assert str(change) == line
