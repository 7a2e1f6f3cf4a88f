"""The comparison finds every kind of difference, and hides only what a mask names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipvsctl.formats import iptables_save
from ipvsctl.formats.packet_text import parse as packet
from ipvsctl.formats.values import status_from_dict, status_to_dict
from ipvsctl.model.address import INET
from ipvsctl.model.status import Connection, ConntrackEntry
from tests.differential import emulated, show
from tests.differential.compare import Difference, compare
from tests.differential.judge import judge
from tests.differential.known import Known, stale, unknown
from tests.differential.masks import MASKS, context, masked
from tests.differential.result import Result, Sent, connection
from tests.differential.scenario import Scenario, parse

TEXT = """\
about = "a scenario"
iptables = '''
*filter
-A FORWARD -j ACCEPT
COMMIT
'''

[[device]]
name = "eth0"
addresses = ["10.0.1.1/24", "192.168.1.100/32"]

[[device]]
name = "eth1"
addresses = ["10.0.2.1/24", "fd00::1/64"]

[[service]]
address = "udp:192.168.1.100:53"

[[service.server]]
address = "10.0.2.2"
forward = "tun"
tunnel = "gue"
tunnel_port = 6080

[[step]]
in = "eth0"
packet = "udp 10.0.1.2:1000 > 192.168.1.100:53 id=7"

[[step]]
in = "eth0"
packet = "udp 10.0.1.2:1000 > 192.168.1.100:53 id=8"
"""
ENTRY = ConntrackEntry("udp", "10.0.1.2", "10.0.1.1", 1000, 53, "10.0.1.1", "10.0.1.2", 53, 1000, "", 30, 0, "",
                       ("confirmed",))  # fmt: skip
CONNECTION = Connection("udp", "10.0.1.2", 1000, "192.168.1.100", 53, "10.0.2.2", 53, "UDP", 299)
STATUS = status_from_dict({
    "address": "udp:192.168.1.100:53", "scheduler": "rr", "flags": [], "persistent": None, "netmask": None,
    "pe": None, "stats": dict.fromkeys(("connections", "packets_in", "packets_out", "bytes_in", "bytes_out", "cps",
    "pps_in", "pps_out", "bps_in", "bps_out"), 1),
    "servers": [{"address": "10.0.2.2:53", "forward": "dr", "weight": 1, "upper": 0, "lower": 0, "tunnel": None,
    "active_connections": 0, "inactive_connections": 1, "persistent_connections": 0, "stats": dict.fromkeys((
    "connections", "packets_in", "packets_out", "bytes_in", "bytes_out", "cps", "pps_in", "pps_out", "bps_in",
    "bps_out"), 1)}],
})  # fmt: skip
RULES = "*filter\n:FORWARD ACCEPT [{0}:84]\n[{1}:84] -A FORWARD -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def scenario() -> Scenario:
    return parse(TEXT, "x", "one")


def outcome() -> Result:
    sent = Sent("eth1", packet("udp 10.0.1.2:1000 > 10.0.2.2:53 id=7 ttl=63"), b"\x0a\0\2\2")
    tables = list(iptables_save.parse(RULES.format(2, 2), INET))
    return Result("one", times=[0, 1, 2], steps=[[sent], []], conntrack=[ENTRY], connections=[CONNECTION],
                  services=[STATUS], tables=tables)  # fmt: skip


def test_equal_results_have_no_difference(scenario: Scenario) -> None:
    assert compare(scenario, outcome(), outcome()) == []


def _packet(result: Result, text: str, device: str = "eth1", hop: bytes = b"\x0a\0\2\2") -> None:
    result.steps[0] = [Sent(device, packet(text), hop)]


def _service(result: Result, **changes: int) -> None:
    data = status_to_dict(STATUS)
    data["servers"][0] |= changes
    result.services = [status_from_dict(data)]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda r: _packet(r, "udp 10.0.1.2:1000 > 10.0.2.2:53 id=7 ttl=62"), "step 1 eth1"),
        (lambda r: _packet(r, "udp 10.0.1.2:1000 > 10.0.2.2:53 id=8 ttl=63"), "step 1 eth1"),
        (lambda r: _packet(r, "udp 10.0.1.2:1000 > 10.0.2.2:53 id=7 ttl=63 badipsum"), "step 1 eth1"),
        (lambda r: _packet(r, "udp 10.0.1.2:1000 > 10.0.2.2:53 id=7 ttl=63 badsum"), "step 1 eth1"),
        (lambda r: _packet(r, "udp 10.0.1.2:1000 > 10.0.2.2:53 id=7 ttl=63", hop=b"\x0a\0\2\3"), "step 1 eth1"),
        (lambda r: _packet(r, "udp 10.0.1.2:1000 > 10.0.2.2:53 id=7 ttl=63", "eth0"), "step 1 eth*"),
        (lambda r: r.steps.__setitem__(0, []), "step 1 eth1"),
        (lambda r: r.steps.__setitem__(0, r.steps[0] * 2), "step 1 eth1"),
        (lambda r: r.steps.__setitem__(slice(None), r.steps[::-1]), "step * eth1"),
        (lambda r: r.conntrack.clear(), "conntrack"),
        (lambda r: r.conntrack.append(ENTRY), "conntrack"),
        *((lambda r, change=change: r.conntrack.__setitem__(0, replace(ENTRY, **change)), "conntrack") for change in (
            {"timeout": 32}, {"timeout": 28}, {"status": ()}, {"mark": 1}, {"helper": "ftp"}, {"state": "NONE"},
            {"reply_source": "10.0.2.2"}, {"reply_source_port": 54}, {"source_port": 7},
        )),
        (lambda r: r.connections.__setitem__(0, replace(CONNECTION, expires=297)), "connections"),
        (lambda r: r.connections.__setitem__(0, replace(CONNECTION, state="NONE")), "connections"),
        (lambda r: r.services.clear(), "service udp:192.168.1.100:53"),
        (lambda r: _service(r, inactive_connections=0), "service *"),
        (lambda r: _service(r, weight=2), "service *"),
        (lambda r: setattr(r, "tables", []), "table inet/filter"),
        (lambda r: setattr(r, "tables", list(iptables_save.parse(RULES.format(3, 2), INET))), "table inet/filter F*"),
        (lambda r: setattr(r, "tables", list(iptables_save.parse(RULES.format(2, 1), INET))), "table inet/filter F*"),
        (lambda r: setattr(r, "error", "OSError"), "setup"),
    ],
)  # fmt: skip
def test_every_kind_of_difference_is_found(scenario: Scenario, change: Callable[[Result], None], where: str) -> None:
    other = outcome()
    change(other)
    for one, two in ((outcome(), other), (other, outcome())):
        found = compare(scenario, one, two)
        assert found
        assert unknown(found, (Known("one", where, "test"),)) == []
        assert all("\n".join(show.differences(scenario, found)))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.conntrack.__setitem__(0, replace(ENTRY, timeout=29)),
        lambda r: r.connections.__setitem__(0, replace(CONNECTION, expires=300, flags=("nfct",))),
        lambda r: setattr(r, "notes", ["word"]),
        lambda r: r.steps.__setitem__(0, [r.steps[0][0]._replace(next_hop=b"")]),
    ],
)
def test_what_may_differ_may_differ(scenario: Scenario, change: Callable[[Result], None]) -> None:
    kernel = outcome()
    change(kernel)
    assert compare(scenario, kernel, outcome()) == []


@pytest.mark.parametrize(
    ("one", "two", "alike"),
    [
        # An identification that the host made up stands for another one that it made up, and for nothing else.
        ("udp 10.0.1.1:53 > 10.0.1.2:1000 id=900", "udp 10.0.1.1:53 > 10.0.1.2:1000 id=901", True),
        ("udp 10.0.1.1:53 > 10.0.1.2:1000 id=900", "udp 10.0.1.1:53 > 10.0.1.2:1000 id=7", False),
        ("udp 10.0.1.1:53 > 10.0.1.2:1000 id=900", "udp 10.0.1.1:53 > 10.0.1.2:1000 id=901 badipsum", False),
        ("udp 10.0.1.1:53 > 10.0.1.2:1000 id=7", "udp 10.0.1.1:53 > 10.0.1.2:1000 id=8", False),
        # GUE's source port, on the director's own packets to a GUE port only.
        ("udp 10.0.2.1:2000 > 10.0.2.2:6080 len=1 id=7", "udp 10.0.2.1:3000 > 10.0.2.2:6080 len=1 id=7", True),
        ("udp 10.0.2.1:1000 > 10.0.2.2:6081 len=1 id=7", "udp 10.0.2.1:53 > 10.0.2.2:6081 len=1 id=7", False),
        ("udp 10.0.2.9:1000 > 10.0.2.2:6080 len=1 id=7", "udp 10.0.2.9:53 > 10.0.2.2:6080 len=1 id=7", False),
        ("udp 10.0.2.1:2000 > 10.0.2.2:6080 len=1 id=7 badsum", "udp 10.0.2.1:3 > 10.0.2.2:6080 len=1 id=7", False),
        # A translated port that nobody named, for another such.
        ("tcp 10.0.2.1:40111 > 10.0.2.2:80 S id=7", "tcp 10.0.2.1:50222 > 10.0.2.2:80 S id=7", True),
        ("tcp 10.0.2.1:40111 > 10.0.2.2:80 S id=7", "tcp 10.0.2.1:1000 > 10.0.2.2:80 S id=7", False),
        ("tcp 10.0.2.1:40111 > 10.0.2.2:80 S id=7", "tcp 10.0.2.1:50222 > 10.0.2.2:81 S id=7", False),
        ("tcp 10.0.2.1:40111 > 10.0.2.2:80 S id=7", "tcp 10.0.2.1:50222 > 10.0.2.2:80 S id=7 badsum", False),
        ("sctp 10.0.2.1:40111 > 10.0.2.2:80 INIT id=7", "sctp 10.0.2.1:50222 > 10.0.2.2:80 INIT id=7", True),
        # In what an ICMP error quotes, too.
        ("icmp 10.0.1.1 > 10.0.1.2 port-unreachable ipid=7 [udp 10.0.1.2:1000 > 10.0.2.1:40111 id=8 sum=5]",
         "icmp 10.0.1.1 > 10.0.1.2 port-unreachable ipid=7 [udp 10.0.1.2:1000 > 10.0.2.1:50222 id=8 sum=5]", True),
        ("icmp 10.0.1.1 > 10.0.1.2 port-unreachable ipid=7 [udp 10.0.1.2:1000 > 10.0.2.1:40111 id=8 sum=5]",
         "icmp 10.0.1.1 > 10.0.1.2 port-unreachable ipid=7 [udp 10.0.1.2:1000 > 10.0.2.1:53 id=8 sum=5]", False),
        ("icmp 10.0.1.1 > 10.0.1.2 port-unreachable ipid=7 [udp 10.0.1.2:1000 > 10.0.2.1:40111 id=8 sum=5]",
         "icmp 10.0.1.1 > 10.0.1.2 port-unreachable ipid=7 badsum [udp 10.0.1.2:1000 > 10.0.2.1:50222 id=8 sum=5]",
         False),
        # Inside of tunnels as outside.
        ("ipip 10.0.2.1 > 10.0.2.2 id=900 [icmp 10.0.1.1 > 10.0.1.2 echo-reply ipid=901]",
         "ipip 10.0.2.1 > 10.0.2.2 id=902 [icmp 10.0.1.1 > 10.0.1.2 echo-reply ipid=903]", True),
        ("gre 10.0.2.1 > 10.0.2.2 csum id=900 [icmp 10.0.1.1 > 10.0.1.2 echo-reply ipid=901]",
         "gre 10.0.2.1 > 10.0.2.2 csum id=902 [icmp 10.0.1.1 > 10.0.1.2 echo-reply ipid=903]", True),
        ("ipip 10.0.2.1 > 10.0.2.2 id=900 [icmp 10.0.1.1 > 10.0.1.2 echo-reply ipid=901]",
         "ipip 10.0.2.1 > 10.0.2.2 id=902 [icmp 10.0.1.1 > 10.0.1.2 echo-reply ipid=903 ttl=9]", False),
        ("udp [fd00::1]:53 > [fd00::2]:1000 len=1", "udp [fd00::1]:53 > [fd00::2]:1000 len=2", False),
    ],
)  # fmt: skip
def test_masks(scenario: Scenario, one: str, two: str, alike: bool) -> None:
    known = context(scenario)
    assert (masked(packet(one), known) == masked(packet(two), known)) is alike


def test_masks_take_any_bytes_and_have_reasons(scenario: Scenario) -> None:
    known = context(scenario)
    for text in (
        "gue 10.0.2.1:1000 > 10.0.2.2:6080 [udp [fd00::1]:1 > [fd00::2]:2 len=2]",
        "icmp 10.0.1.1 > 10.0.1.2 port-unreachable [tcp 10.0.1.2:9 > 10.0.2.1:40111 S]",
        "icmpv6 fd00::1 > fd00::2 port-unreachable [tcp [fd00::1]:9 > [fd00::2]:40111 S]",
    ):
        whole = packet(text)
        for end in range(len(whole)):
            masked(whole[:end], known)
    assert all(mask.reason for mask in MASKS)


def test_ports_that_ftp_names_are_known() -> None:
    lines = 'in = "eth0"\npacket = \'tcp 10.0.1.2:1000 > 192.168.1.100:21 PA data="PORT 10,0,1,2,156,65\\r\\n"\'\n'
    more = 'in = "eth0"\npacket = \'tcp 10.0.1.2:1000 > 192.168.1.100:21 PA data="229 x (|||333|)\\r\\n"\'\n'
    known = context(parse(f"{TEXT}\n[[step]]\n{lines}\n[[step]]\n{more}", "x"))
    assert {40001, 333, 1000, 53, 21} <= known.ports


def test_what_the_kernel_did_not_get_to_differs(scenario: Scenario) -> None:
    assert [each.where for each in compare(scenario, None, outcome())] == ["setup"]


def test_a_line_of_the_connection_table() -> None:
    line = "TCP 0A000102 04D2 C0A80164 0050 0A000202 1F90 ESTABLISHED     899"
    assert connection(line) == Connection(
        "tcp", "10.0.1.2", 1234, "192.168.1.100", 80, "10.0.2.2", 8080, "ESTABLISHED", 899
    )
    line = ("UDP [fd00:0001:0000:0000:0000:0000:0000:0002] 04D2 [fd00:0001:0000:0000:0000:0000:0000:0001] 0050"
            " [fd00:0002:0000:0000:0000:0000:0000:0002] 1F90 UDP         7 sip call")  # fmt: skip
    assert connection(line).server == "fd00:2::2"


def test_known_differences_are_covered_and_go_stale() -> None:
    found = [Difference("one", "conntrack", "x", None)]
    entry = Known("o*", "connt*", "because")
    assert unknown(found, (entry,)) == []
    assert unknown(found, (Known("two", "conntrack", "because"),)) == found
    assert stale(found, ["one"], (entry,)) == []
    assert stale([], ["one"], (entry,)) == [entry]
    assert stale([], ["two"], (entry,)) == []


def test_the_datapath_is_like_itself_and_unlike_a_changed_one(scenario: Scenario) -> None:
    mine = emulated.play(scenario)
    assert judge(scenario, mine) == []
    assert mine.steps[0] and mine.connections and mine.services and mine.tables
    other = parse(TEXT.replace("tunnel_port = 6080", "tunnel_port = 6081"), "x", "one")
    assert judge(other, mine)
