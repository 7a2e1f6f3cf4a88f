"""IPVS in the whole engine: the walks of kernel-semantics.md section 1.4, with conntrack in use."""

from __future__ import annotations

from random import Random

import pytest

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.skb import ACK, PSH, RST, SYN, Skb
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason
from ipvsctl.model.address import INET, ServerAddress, ServiceAddress
from ipvsctl.model.director import ServiceWish
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.snapshot import Device, Snapshot
from ipvsctl.wire import icmp, ipv4, tcp, transport, udp
from ipvsctl.wire.address import packed, readable

CLIENT, VIRTUAL, SERVER, OWN = "10.0.0.2", "192.168.1.100", "172.16.0.2", "172.16.0.1"
DEVICES = (Device("eth0", ("10.0.0.1/24", f"{VIRTUAL}/32")), Device("eth1", (f"{OWN}/24",)))
Walk = list[tuple[str, str, str]]


def director(forward: str, target: str = f"{SERVER}:80", port: int = 80, **settings: str) -> Engine:
    """A director with one service, and conntrack in use as a rule would have it."""
    address = ServiceAddress.of("tcp", VIRTUAL, port)
    wish = ServiceWish(Service(address, "rr"), servers=(Server(ServerAddress.parse(target, address), forward),))
    sysctls = {"net.ipv4.ip_forward": "1"}
    sysctls.update({f"net.ipv4.vs.{name}": value for name, value in settings.items()})
    snapshot = Snapshot(DEVICES, sysctls=sysctls, services=(wish,), modules=frozenset({"ip_vs_ftp"}))
    engine = Engine(snapshot, Random(1).randrange)
    engine.ct.use(INET)
    return engine


def segment(
    flags: int, source: str = CLIENT, destination: str = VIRTUAL, sport: int = 40000, dport: int = 80, seq: int = 1000,
    ack: int = 0, payload: bytes = b"",
) -> bytes:  # fmt: skip
    here, there = packed(source), packed(destination)
    return bytes(ipv4.build(here, there, 6, tcp.build(here, there, sport, dport, flags, seq, ack, 8192, payload)))


def walk(engine: Engine, device: str, packet: bytes, now: float) -> tuple[Walk, list[Skb]]:
    """The IPVS and conntrack functions that saw the packet, with its state afterwards, and what left."""
    engine.tracer = Tracer()
    outputs = engine.receive(device, packet, now) if device else engine.send(packet, now)
    steps = [
        (step.hook, step.function, step.state)
        for step in engine.tracer.steps
        if step.function in ("nf_conntrack_in", "nf_conntrack_local", "ip_vs_in", "ip_vs_out", "nf_confirm")
    ]
    engine.tracer = None
    sent = []
    for output in outputs:
        skb = Skb(bytearray(output.packet), output.device)
        assert transport.verify(skb.data, INET, skb.protocol, skb.thoff, skb.source, skb.destination)
        assert ipv4.valid(skb.data)
        sent.append(skb)
    return steps, sent


@pytest.mark.parametrize(
    ("conntrack", "states"),
    [
        ("1", {"SYN": "NEW", "later": "ESTABLISHED", "after": "ESTABLISHED"}),
        ("0", {"SYN": "NEW", "later": "NEW", "after": "UNTRACKED"}),
    ],
)
def test_walks_a_and_b(conntrack: str, states: dict[str, str]) -> None:
    engine = director("nat", f"{SERVER}:8080", conntrack=conntrack)
    after_syn = "NEW" if conntrack == "1" else "UNTRACKED"
    steps, (sent,) = walk(engine, "eth0", segment(SYN), 1.0)
    assert steps == [
        ("PREROUTING", "nf_conntrack_in", "NEW"),
        ("INPUT", "ip_vs_out", "NEW"),
        ("INPUT", "ip_vs_in", after_syn),
        ("OUTPUT", "nf_conntrack_local", after_syn),
        ("OUTPUT", "ip_vs_out", after_syn),
        ("OUTPUT", "ip_vs_in", after_syn),
        ("POSTROUTING", "nf_confirm", after_syn),
    ]
    assert str(sent) == f"tcp {CLIENT}:40000 > {SERVER}:8080 S" and sent.indev == "eth1"
    answer = segment(SYN | ACK, SERVER, CLIENT, 8080, 40000, 5000, 1001)
    steps, (sent,) = walk(engine, "eth1", answer, 1.1)
    seen = "ESTABLISHED" if conntrack == "1" else "INVALID"
    assert steps == [
        ("PREROUTING", "nf_conntrack_in", seen),
        ("FORWARD", "ip_vs_out", seen),
        ("POSTROUTING", "nf_confirm", seen),
    ]
    assert str(sent) == f"tcp {VIRTUAL}:80 > {CLIENT}:40000 SA" and sent.indev == "eth0"
    steps, _ = walk(engine, "eth0", segment(ACK, seq=1001, ack=5001), 1.2)
    assert steps[0] == ("PREROUTING", "nf_conntrack_in", states["later"])
    assert steps[-1] == ("POSTROUTING", "nf_confirm", states["after"])
    entries = engine.ct.report()
    if conntrack == "1":
        (entry,) = entries
        assert (entry.reply_source, entry.reply_source_port) == (SERVER, 8080)
        assert "assured" in entry.status and "dst_nat" not in entry.status
    else:
        assert not entries


def test_walk_e_the_outer_packet_is_a_flow_of_its_own() -> None:
    engine = director("tun", conntrack="1")
    steps, (sent,) = walk(engine, "eth0", segment(SYN), 1.0)
    assert [step[0] for step in steps] == ["PREROUTING", "INPUT", "INPUT", *["OUTPUT"] * 3, "POSTROUTING"]
    assert {step[2] for step in steps if step[0] in ("OUTPUT", "POSTROUTING")} == {"NEW"}
    assert (readable(sent.source), readable(sent.destination), sent.protocol) == (OWN, SERVER, 4)
    protocols = sorted((entry.protocol, entry.source, entry.destination) for entry in engine.ct.report())
    assert [each[1:] for each in protocols] == [(OWN, SERVER), (CLIENT, VIRTUAL)]


def test_walk_f_a_server_on_the_director() -> None:
    engine = director("nat", f"{OWN}:8080", conntrack="1")
    steps, sent = walk(engine, "eth0", segment(SYN), 1.0)
    assert steps[-1][:2] in (("POSTROUTING", "nf_confirm"), ("INPUT", "nf_confirm"))
    # Nothing listens there: its reset comes back from the virtual address.
    assert [str(each) for each in sent] == [f"tcp {VIRTUAL}:80 > {CLIENT}:40000 RA"]


def test_walk_g_a_client_on_the_director() -> None:
    engine = director("nat", f"{SERVER}:8080", conntrack="1")
    packet = segment(SYN, OWN)
    steps, (sent,) = walk(engine, "", packet, 1.0)
    assert [step[:2] for step in steps] == [
        ("OUTPUT", "nf_conntrack_local"),
        ("OUTPUT", "ip_vs_out"),
        ("OUTPUT", "ip_vs_in"),
        ("OUTPUT", "nf_conntrack_local"),
        ("OUTPUT", "ip_vs_out"),
        ("OUTPUT", "ip_vs_in"),
        ("POSTROUTING", "nf_confirm"),
    ]
    assert str(sent) == f"tcp {OWN}:40000 > {SERVER}:8080 S" and sent.ttl == 63
    engine.local.listeners.add((6, b"", 40000))
    steps, sent_too = walk(engine, "eth1", segment(SYN | ACK, SERVER, OWN, 8080, 40000, 5000, 1001), 1.1)
    assert not sent_too and engine.verdict == "delivered"
    assert ("INPUT", "ip_vs_out", "ESTABLISHED") in steps


def test_walk_l_no_server() -> None:
    engine = director("nat")
    engine.vs.edit_server(ServiceAddress.of("tcp", VIRTUAL, 80), Server(ServerAddress.of(SERVER, 80), "nat", weight=0))
    _, (sent,) = walk(engine, "eth0", segment(SYN), 1.0)
    assert engine.verdict is Reason.IPVS_NO_DESTINATION
    assert sent.data[sent.thoff : sent.thoff + 2] == bytes((3, 3)) and readable(sent.source) == VIRTUAL


def test_walk_m_no_connection() -> None:
    engine = director("nat")
    _, (sent,) = walk(engine, "eth0", segment(ACK, ack=77), 1.0)
    assert sent.flags & RST and engine.verdict is Reason.NO_LISTENER


def test_the_old_conntrack_entry_goes_before_the_port_is_used_again() -> None:
    engine = director("nat", conntrack="1")
    engine.receive("eth0", segment(SYN), 1.0)
    engine.receive("eth1", segment(SYN | ACK, SERVER, CLIENT, 80, 40000, 5000, 1001), 1.1)
    engine.receive("eth0", segment(ACK, seq=1001, ack=5001), 1.2)
    engine.receive("eth0", segment(RST, seq=1001), 1.3)
    (before,) = engine.vs.connections()
    assert before.state == "CLOSE"
    first = engine.receive("eth0", segment(SYN, seq=9000), 3.0)
    second = engine.receive("eth0", segment(SYN, seq=9000), 4.0)
    # Conntrack itself lets go of a closed entry, so nothing has to wait.
    assert [len(first), len(second)] == [1, 1]
    (after,) = engine.vs.connections()
    assert after.state == "SYN_RECV" and len(engine.ct.report()) == 1


def test_ftp_through_conntrack_without_any_rule() -> None:
    """Statement S8: ip_vs_ftp alone makes passive FTP work, and conntrack adjusts the sequence numbers."""
    address = ServiceAddress.of("tcp", VIRTUAL, 21)
    wish = ServiceWish(Service(address, "rr"), servers=(Server(ServerAddress.of(SERVER, 21), "nat"),))
    sysctls = {"net.ipv4.ip_forward": "1"}
    snapshot = Snapshot(DEVICES, sysctls=sysctls, services=(wish,), modules=frozenset({"ip_vs_ftp"}))
    engine = Engine(snapshot, Random(1).randrange)
    client = {"source": CLIENT, "destination": VIRTUAL, "sport": 40000, "dport": 21}
    server = {"source": SERVER, "destination": CLIENT, "sport": 21, "dport": 40000}
    walk(engine, "eth0", segment(SYN, **client, seq=999), 1.0)
    walk(engine, "eth1", segment(SYN | ACK, **server, seq=4999, ack=1000), 1.1)
    walk(engine, "eth0", segment(ACK, **client, ack=5000), 1.2)
    walk(engine, "eth0", segment(ACK | PSH, **client, ack=5000, payload=b"PASV\r\n"), 1.3)
    text = b"227 Entering Passive Mode (172,16,0,2,195,80).\r\n"
    reply = segment(ACK | PSH, **server, seq=5000, ack=1006, payload=text)
    _, (sent,) = walk(engine, "eth1", reply, 1.4)
    assert bytes(sent.data).endswith(b"(192,168,1,100,195,80).\r\n")
    following = segment(ACK | PSH, **server, seq=5000 + len(text), ack=1006, payload=b"x")
    _, (sent,) = walk(engine, "eth1", following, 1.5)
    assert int.from_bytes(sent.data[24:28], "big") == 5000 + len(text) + 3
    acknowledged = segment(ACK, **client, seq=1006, ack=5000 + len(text) + 4)
    _, (sent,) = walk(engine, "eth0", acknowledged, 1.6)
    assert int.from_bytes(sent.data[28:32], "big") == 5000 + len(text) + 1
    _, (sent,) = walk(engine, "eth0", segment(SYN, sport=40001, dport=50000), 1.7)
    assert str(sent) == f"tcp {CLIENT}:40001 > {SERVER}:50000 S"
    assert len(engine.ct.report()) == 2


@pytest.mark.parametrize("forward", ["nat", "dr", "tun"])
def test_errors_of_routers_behind_the_director(forward: str) -> None:
    engine = director(forward, conntrack="1")
    (request,) = engine.receive("eth0", segment(SYN), 1.0)
    outer = bytes(request.packet)
    about = packed(OWN) if forward == "tun" else packed(CLIENT)
    message = icmp.build(packed(SERVER), about, 11, 0, b"\0\0\0\0", outer[:48])
    _, (sent,) = walk(engine, "eth1", bytes(ipv4.build(packed(SERVER), about, 1, message)), 1.1)
    assert sent.indev == "eth0" and readable(sent.destination) == CLIENT
    quoted = icmp.embedded(sent.data, sent.thoff + 8)
    assert quoted is not None and readable(quoted.destination) == VIRTUAL
    assert readable(sent.source) == (SERVER if forward == "dr" else VIRTUAL)


def udp_director(server: Server, flags: tuple[str, ...] = (), **settings: str) -> Engine:
    """As `director`, with a service of UDP port 53."""
    wish = ServiceWish(Service(ServiceAddress.of("udp", VIRTUAL, 53), "rr", flags), servers=(server,))
    sysctls = {f"net.ipv4.vs.{name}": value for name, value in settings.items()}
    engine = Engine(Snapshot(DEVICES, sysctls=sysctls, services=(wish,)), Random(1).randrange)
    engine.ct.use(INET)
    return engine


def test_an_error_of_the_local_stack_finds_its_connection_by_what_it_quotes() -> None:
    """One-packet scheduling leaves the entry as it was, so nothing is known of what the local server got."""
    engine = udp_director(Server(ServerAddress.of(OWN, 5353), "nat"), ("ops",), conntrack="1")
    steps, (sent,) = walk(engine, "eth0", datagram(CLIENT, VIRTUAL, 40000, 53), 1.0)
    assert (sent.protocol, readable(sent.source)) == (1, OWN)
    assert ("OUTPUT", "nf_conntrack_local", "INVALID") in steps


@pytest.mark.parametrize(("source", "size", "learned"), [(OWN, 28, True), (OWN, 27, False), (SERVER, 28, False)])
def test_the_local_stack_learns_the_path_mtu_from_a_short_quote(source: str, size: int, learned: bool) -> None:
    """A router that quotes 8 bytes behind the header (RFC 792): udp_err minds it, where IPVS cannot see its tunnel."""
    engine = udp_director(Server(ServerAddress.of(SERVER, 53), "tun", tunnel=Tunnel("gue", 6080)))
    request = datagram(CLIENT, VIRTUAL, 40000, 53, bytes(1000))
    request[6] |= 0x40
    ipv4.seal(request)
    assert [output.device for output in engine.receive("eth0", bytes(request), 1.0)] == ["eth1"]
    quote = datagram(source, SERVER, 40000, 6080, bytes(100))[:size]
    message = icmp.build(packed("172.16.0.9"), packed(OWN), 3, 4, (900).to_bytes(4, "big"), quote)
    error = ipv4.build(packed("172.16.0.9"), packed(OWN), 1, message)
    assert engine.receive("eth1", bytes(error), 1.1) == []
    (output,) = engine.receive("eth0", bytes(request), 1.2)
    assert output.device == ("eth0" if learned else "eth1")
    if learned:
        assert output.packet[20:22] == b"\3\4" and output.packet[26:28] == (900 - 32).to_bytes(2, "big")


def datagram(source: str, destination: str, sport: int, dport: int, payload: bytes = b"x") -> bytearray:
    here, there = packed(source), packed(destination)
    return ipv4.build(here, there, 17, udp.build(here, there, sport, dport, payload))
