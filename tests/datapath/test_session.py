"""Conversations: what client and server would see, and where one ends."""

from __future__ import annotations

import pytest

from ipvsctl.datapath.history import listen_for_servers, precede
from ipvsctl.datapath.session import SESSIONS
from ipvsctl.datapath.skb import Skb
from ipvsctl.datapath.verdict import Reason
from ipvsctl.formats.packet_text import describe, parse
from tests.datapath.traced import CLIENT, SERVER, VIRTUAL, engine, rules, service, sysctls, talk, walk

FORWARDING = {"ipv4__ip_forward": 1, "ipv6__conf.all.forwarding": 1}
TRACKED = sysctls(**FORWARDING, ipv4__vs__conntrack=1)
HTTP = service(f"tcp:{VIRTUAL}:80", f"{SERVER} nat")
FTP = service(f"tcp:{VIRTUAL}:21", f"{SERVER} nat")
MODULES = "ip_vs_ftp nf_conntrack_ftp"


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_every_conversation_comes_to_its_end(name: str, family: str) -> None:
    six = family == "IPv6"
    protocol, port = ("udp", 53) if name in ("udp", "dns") else ("tcp", 21 if name.startswith("ftp") else 80)
    virtual = "2001:db8::100" if six else VIRTUAL
    where = f"[{virtual}]" if six else virtual
    made = engine(
        service(f"{protocol}:{where}:{port}", "fd00:2::2 nat" if six else f"{SERVER} nat"), TRACKED, modules=MODULES
    )
    walks = talk(made, name, (virtual, port), "fd00:1::2" if six else CLIENT)
    assert walks[-1].arrived
    assert len(walks) == {"udp": 2, "dns": 2, "tcp": 6, "http": 10}.get(name, 21)
    assert all(walk.verdict == "sent" for walk in walks)
    assert {walk.device for walk in walks} == {"eth0", "eth1"}
    # The client never meets the server's own address.
    for each in walks:
        if each.title.startswith("server: "):
            (output,) = each.passed
            assert Skb(bytearray(output.packet)).source == Skb(bytearray(walks[0].packet)).destination, each.title


def test_the_data_connection_goes_where_the_reply_said() -> None:
    """Without ip_vs_ftp the client is told the server's own address, and goes there."""
    walks = talk(engine(FTP, TRACKED), "ftp-passive", (VIRTUAL, 21))
    assert walks[-1].arrived, "nothing filters, so even the wrong way works"
    (noted,) = (each for each in walks if each.notes and "was told" in each.notes[0])
    assert noted.notes == [f"the client was told to connect to {SERVER}"]
    data = next(each for each in walks if each.title == "client: data: SYN")
    assert describe(data.packet).startswith(f"tcp {CLIENT}:40100 > {SERVER}:33000 S")
    walks = talk(engine(FTP, TRACKED, modules=MODULES), "ftp-passive", (VIRTUAL, 21))
    data = next(each for each in walks if each.title == "client: data: SYN")
    assert describe(data.packet).startswith(f"tcp {CLIENT}:40100 > {VIRTUAL}:33000 S")
    assert not any(each.notes for each in walks)


def test_a_lost_packet_ends_it() -> None:
    drop = rules("*filter\n:FORWARD DROP [0:0]")
    walks = talk(engine(HTTP, TRACKED, drop), "http")
    assert [each.arrived for each in walks] == [True, False]
    assert walks[-1].title == "server: SYN, ACK"
    assert walks[-1].verdict is Reason.POLICY


def test_a_reply_that_the_client_does_not_know_is_lost() -> None:
    """One-packet scheduling keeps no connection: the reply leaves as the server sent it."""
    made = engine(service(f"udp:{VIRTUAL}:53", f"{SERVER} nat", more='flags = ["ops"]'), TRACKED)
    walks = talk(made, "dns", (VIRTUAL, 53))
    assert (walks[-1].verdict, walks[-1].arrived) == ("sent", False)
    assert walks[-1].notes == [f"the client talks to {VIRTUAL}:53, not to {SERVER}:53"]


@pytest.mark.parametrize("method", ["dr", "tun"])
def test_servers_that_are_not_translated_answer_past_the_director_or_through_it(method: str) -> None:
    text = service(f"tcp:{VIRTUAL}:80", f"{SERVER} {method}")
    walks = talk(engine(text, TRACKED), "tcp")
    assert [each.verdict for each in walks if each.title.startswith("server")] == ["direct"] * 3
    assert walks[-1].arrived
    walks = talk(engine(text, TRACKED), "tcp", direct=False)
    assert (walks[-1].verdict, walks[-1].arrived) == (Reason.MARTIAN_SOURCE, False)
    accepting = sysctls(**FORWARDING, ipv4__conf__eth1__accept_local=1)
    walks = talk(engine(text, accepting), "tcp")
    assert [each.verdict for each in walks] == ["sent"] * 6
    assert walks[-1].arrived
    walks = talk(engine(text, accepting), "tcp", direct=True)
    assert "direct" in [each.verdict for each in walks]


def test_a_server_on_the_director_answers_from_there() -> None:
    made = engine(service(f"tcp:{VIRTUAL}:80", "10.0.2.1 nat"), TRACKED)
    listen_for_servers(made)
    walks = talk(made, "http")
    assert walks[-1].arrived
    assert {each.device for each in walks} == {"eth0", ""}
    assert [each.verdict for each in walks[:2]] == ["delivered", "sent"]


def test_answers_of_the_director_are_told_from_the_packet() -> None:
    made = engine(rules("*filter\n-A INPUT -p tcp -j REJECT"))
    found = walk(made, f"tcp {CLIENT}:1 > {VIRTUAL}:80 S")
    assert (found.answers, found.passed) == ([True], [])
    assert any(step.answer for step in found.steps)
    found = walk(engine(HTTP, TRACKED), f"tcp {CLIENT}:1 > {VIRTUAL}:80 S")
    assert (found.answers, len(found.passed)) == ([False], 1)
    assert not any(step.answer for step in found.steps)


# -- what came before -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "device", "before"),
    [
        (f"tcp {CLIENT}:9 > {VIRTUAL}:80 A seq=5 ack=7", "eth0", 3),
        (f"tcp {CLIENT}:9 > {VIRTUAL}:80 PA seq=0 ack=4294967295 data=\"x\"", "eth0", 3),
        (f"tcp {SERVER}:80 > {CLIENT}:9 A seq=70000 ack=0", "eth1", 3),
        ("tcp 10.0.2.3:80 > 10.0.1.2:9 A seq=70000 ack=1", "eth1", 3),
        ("udp 10.0.1.2:9 > 192.168.1.100:53", "eth0", 2),
        ("udp 10.0.2.2:53 > 10.0.1.2:9", "eth1", 2),
        ("tcp 10.0.2.2:5555 > 10.0.1.2:80 A", "eth1", 3),
    ],
)  # fmt: skip
def test_a_packet_of_an_open_connection(packet: str, device: str, before: int) -> None:
    """Both directions, every server, and a connection that IPVS has nothing to do with."""
    track = rules("*filter\n-A FORWARD -m state --state NEW -j ACCEPT")
    two = service(f"tcp:{VIRTUAL}:80", f"{SERVER} nat", "10.0.2.3 nat weight=0")
    made = engine(two, service(f"udp:{VIRTUAL}:53", f"{SERVER} nat"), TRACKED, track)
    walks = precede(made, parse(packet), device)
    assert [each.arrived for each in walks] == [True] * before
    found = walk(made, packet, device)
    assert next(step.state for step in found.steps if step.function == "nf_conntrack_in") == "ESTABLISHED"
    assert found.verdict == "sent"
    assert [dest.weight for dest in made.vs.services.all()[0].dests] == [0, 1]


def test_what_does_not_pass_is_the_last_of_what_came_before() -> None:
    made = engine(HTTP, TRACKED, rules("*filter\n-A INPUT -p tcp -m state --state NEW -j DROP"))
    walks = precede(made, parse(f"tcp {CLIENT}:9 > {VIRTUAL}:80 A"), "eth0")
    assert [each.arrived for each in walks] == [False]
    assert precede(made, parse(f"icmp {CLIENT} > {VIRTUAL} echo-request"), "eth0") == []
