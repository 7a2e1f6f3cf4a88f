"""Two uplinks (S4 to S7): replies of nat servers leave by that of their virtual address if they are routed again.

The same host, addresses and expectations as in tests/guest/test_uplinks.py, which shows them on real kernels.
"""

from __future__ import annotations

from random import Random

import pytest

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.session import Session
from ipvsctl.formats.director_file import parse
from ipvsctl.knowledge.recipes import wanted
from ipvsctl.model.director import Director
from ipvsctl.model.route import Route
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.wire.address import packed

FILE = """\
[[service]]
address = "tcp:10.8.1.100:80"
scheduler = "rr"
[[service.server]]
address = "10.8.3.2"
forward = "nat"

[[service]]
address = "tcp:10.8.2.100:80"
scheduler = "rr"
[[service.server]]
address = "10.8.3.2"
forward = "nat"

[[uplink]]
address = "10.8.1.100"
device = "eth0"
gateway = "10.8.1.254"

[[uplink]]
address = "10.8.2.100"
device = "eth1"
gateway = "10.8.2.254"
"""
FILE6 = FILE.replace("tcp:10.8.1.100", "tcp:[fd08:1::100]").replace("tcp:10.8.2.100", "tcp:[fd08:2::100]")
for network in "123":
    FILE6 = FILE6.replace(f"10.8.{network}.", f"fd08:{network}::")

CLIENTS = {4: "10.9.9.9", 6: "fd09::9"}
VIPS = {4: ("10.8.1.100", "10.8.2.100"), 6: ("fd08:1::100", "fd08:2::100")}


def host(director: Director, sysctls: dict[str, str]) -> Snapshot:
    """The director with what the file makes of it; its own way out is the first uplink."""
    want = wanted(director)
    return Snapshot(
        devices=(
            Device("lo", ("127.0.0.1/8", "::1/128"), 65536),
            Device("eth0", ("10.8.1.1/24", "10.8.1.100/32", "fd08:1::1/64", "fd08:1::100/128")),
            Device("eth1", ("10.8.2.1/24", "10.8.2.100/32", "fd08:2::1/64", "fd08:2::100/128")),
            Device("eth2", ("10.8.3.1/24", "fd08:3::1/64")),
        ),
        routes=(
            Route("0.0.0.0/0", "eth0", "10.8.1.254"), Route("::/0", "eth0", "fd08:1::254"), *(want.routes or ()),
        ),
        policy=want.policy or (),
        sysctls={**dict(want.sysctls), **sysctls},
        services=want.services or (),
    )  # fmt: skip


def ways(version: int, vip: str, came: str, conntrack: str, reroute: str, text: str = "") -> list[tuple[str, str]]:
    """Where each packet of a conversation came in and left."""
    director = parse(text or (FILE6 if version == 6 else FILE), "uplinks.toml")
    snapshot = host(director, {"net.ipv4.vs.conntrack": conntrack, "net.ipv4.vs.snat_reroute": reroute})
    engine = Engine(snapshot, Random(1).randrange)
    session = Session(engine, came, (packed(CLIENTS[version]), 40000), (packed(vip), 80))
    walks = session.run("http")
    assert all(walk.arrived for walk in walks)
    found = [(walk.device, output.device) for walk in walks for output in walk.passed]
    assert len(found) >= 8
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("conntrack", ["0", "1"])
def test_replies_leave_by_the_uplink_of_their_virtual_address(version: int, conntrack: str) -> None:
    first, second = VIPS[version]
    assert set(ways(version, first, "eth0", conntrack, "1")) == {("eth0", "eth2"), ("eth2", "eth0")}
    assert set(ways(version, second, "eth1", conntrack, "1")) == {("eth1", "eth2"), ("eth2", "eth1")}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("conntrack", ["0", "1"])
def test_without_a_second_look_they_take_the_route_of_the_real_server(version: int, conntrack: str) -> None:
    first, second = VIPS[version]
    assert set(ways(version, first, "eth0", conntrack, "0")) == {("eth0", "eth2"), ("eth2", "eth0")}
    assert set(ways(version, second, "eth1", conntrack, "0")) == {("eth1", "eth2"), ("eth2", "eth0")}


def test_replies_of_dr_servers_have_the_virtual_address_when_they_are_routed() -> None:
    """S6: snat_reroute is nothing to them."""
    text = FILE.replace('"nat"', '"dr"') + '[nfct]\naccept_local = ["eth2"]\n'
    found = ways(4, VIPS[4][1], "eth1", "1", "0", text)
    assert set(found) == {("eth1", "eth2"), ("eth2", "eth1")}
