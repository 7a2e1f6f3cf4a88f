"""Why packets die: every cause is shown by its evidence, and what the explanation says mends it is tried."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.explain import BY_REASON, Explanation, explain
from ipvsctl.datapath.session import Session, Walk
from ipvsctl.datapath.verdict import Reason
from ipvsctl.datapath.vs.entry import OVERLOAD
from ipvsctl.model.address import ServerAddress, ServiceAddress
from ipvsctl.wire.address import packed
from tests.datapath.traced import CLIENT, SERVER, VIRTUAL, engine, rules, service, sysctls, talk, walk

ON = {"ipv4__ip_forward": 1, "ipv6__conf.all.forwarding": 1}
FORWARDING = sysctls(**ON)
TRACKED = sysctls(**ON, ipv4__vs__conntrack=1)
ACCEPTING = {**ON, "ipv4__conf__eth1__accept_local": 1}
HTTP = service(f"tcp:{VIRTUAL}:80", f"{SERVER} nat")
MODULES = "ip_vs_ftp nf_conntrack_ftp"
SYN = f"tcp {CLIENT}:40000 > {VIRTUAL}:80 S"
RECIPE = f"""
*filter
-A INPUT -p tcp -d {VIRTUAL} -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -d {VIRTUAL} --dport 21 -j ACCEPT
-A INPUT -p tcp -d {VIRTUAL} -j DROP
-A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DROP
"""
HELPER = f"\n*raw\n-A PREROUTING -p tcp -d {VIRTUAL} --dport 21 -j CT --helper ftp\nCOMMIT"


@dataclass
class Told:
    """What was explained of the last packet."""

    reason: Reason | str
    why: str
    mend: str


def told(made: Engine, found: Walk) -> Told:
    because = explain(made, found) or Explanation("")
    return Told(found.verdict, because.why, because.mend)


def one(made: Engine, packet: str = SYN, device: str = "eth0") -> Told:
    return told(made, walk(made, packet, device))


def last(made: Engine, name: str, port: int = 80) -> Told:
    return told(made, talk(made, name, (VIRTUAL, port))[-1])


def ftp(*servers: str, more: str = "") -> str:
    return service(f"tcp:{VIRTUAL}:21", *servers, more=more)


# -- FTP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ftp-passive", "ftp-active", "ftp-extended-passive", "ftp-extended-active"])
def test_ftp_data_is_new_without_a_helper(name: str) -> None:
    """S8, S14: the recipe of 2003 on any kernel since 4.7."""
    found = last(engine(ftp(f"{SERVER} nat"), TRACKED, rules(RECIPE), modules=MODULES), name, 21)
    assert found.reason is Reason.RULE
    assert "NEW and not as RELATED" in found.why
    assert "no conntrack helper" in found.why
    assert found.mend == f"iptables -t raw -A PREROUTING -p tcp -d {VIRTUAL} --dport 21 -j CT --helper ftp"
    mended = engine(ftp(f"{SERVER} nat"), TRACKED, rules(HELPER + RECIPE), modules=MODULES)
    assert talk(mended, name, (VIRTUAL, 21))[-1].arrived


def test_ftp_without_ip_vs_ftp_sends_the_client_to_the_server_itself() -> None:
    for text in (RECIPE, HELPER + RECIPE):
        made = engine(ftp(f"{SERVER} nat"), TRACKED, rules(text), modules="nf_conntrack_ftp")
        found = last(made, "ftp-passive", 21)
        assert found.reason is Reason.RULE
        assert "the server's own address" in found.why
        assert found.mend == "modprobe ip_vs_ftp"


def test_active_ftp_through_a_tunnel_is_never_related() -> None:
    """S10: the client's PORT left in a tunnel."""
    persistent = ftp(f"{SERVER} tun", more="persistent = 300")
    settings = sysctls(**ACCEPTING, ipv4__vs__conntrack=1)
    found = last(engine(persistent, settings, rules(HELPER + RECIPE), modules=MODULES), "ftp-active", 21)
    assert found.reason is Reason.RULE
    assert "(S10)" in found.why
    assert found.mend == f"iptables -I FORWARD -p tcp -s {VIRTUAL} --sport 20 -j ACCEPT"
    first = RECIPE.replace("-A FORWARD -m", f"-A FORWARD -p tcp -s {VIRTUAL} --sport 20 -j ACCEPT\n-A FORWARD -m")
    mended = engine(persistent, settings, rules(HELPER + first), modules=MODULES)
    assert talk(mended, "ftp-active", (VIRTUAL, 21))[-1].arrived


def test_ftp_past_the_director_or_untracked_has_no_related_data() -> None:
    """S9, S18: a helper that sees half of the control connection; S3: one that sees none."""
    persistent = ftp(f"{SERVER} dr", more="persistent = 300")
    wider = RECIPE.replace("--dport 21", "-m multiport --dports 21")  # the rules do not matter
    made = engine(persistent, TRACKED, rules(HELPER + wider), modules=MODULES)
    found = last(made, "ftp-passive", 21)
    assert found.reason is Reason.RULE
    assert "only one half (S9, S18)" in found.why
    assert found.mend == "sysctl -w net.ipv4.conf.eth1.accept_local=1"
    mended = engine(persistent, sysctls(**ACCEPTING, ipv4__vs__conntrack=1), rules(HELPER + wider), modules=MODULES)
    assert talk(mended, "ftp-passive", (VIRTUAL, 21))[-1].arrived
    found = last(engine(persistent, FORWARDING, rules(HELPER + wider), modules=MODULES), "ftp-passive", 21)
    assert "(S3, S9)" in found.why
    assert found.mend == "ipvsctl nfct enable"


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nat", "dr", "tun"])
def test_without_vs_conntrack_rules_by_state_know_nothing(method: str) -> None:
    """S3, S17."""
    settings = ACCEPTING if method != "nat" else ON
    by_state = rules("*filter\n-A FORWARD -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP")
    text = service(f"tcp:{VIRTUAL}:80", f"{SERVER} {method}")
    found = last(engine(text, sysctls(**settings), by_state), "http")
    assert found.reason is Reason.RULE
    assert "net.ipv4.vs.conntrack=0" in found.why
    assert found.mend == "ipvsctl nfct enable"
    mended = engine(text, sysctls(**settings, ipv4__vs__conntrack=1), by_state)
    assert talk(mended, "http")[-1].arrived


@pytest.mark.parametrize("method", ["dr", "tun"])
def test_what_is_seen_in_one_direction_is_invalid(method: str) -> None:
    """S18: the server answers past the director."""
    text = service(f"tcp:{VIRTUAL}:80", f"{SERVER} {method}")
    strict = "*filter\n-A INPUT -p tcp -m state --state NEW,ESTABLISHED -j ACCEPT\n-A INPUT -j DROP"
    found = last(engine(text, TRACKED, rules(strict)), "http")
    assert found.reason is Reason.RULE
    assert "INVALID" in found.why
    assert "(S18)" in found.why
    assert found.mend == f"iptables -I INPUT 2 -p tcp -d {VIRTUAL} --dport 80 -j ACCEPT"
    inserted = strict.replace("-A INPUT -j", f"-A INPUT -p tcp -d {VIRTUAL} --dport 80 -j ACCEPT\n-A INPUT -j")
    assert talk(engine(text, TRACKED, rules(inserted)), "http")[-1].arrived


def test_what_conntrack_says_of_an_invalid_packet_is_passed_on() -> None:
    strict = rules("*filter\n-A INPUT -m state --state INVALID -j DROP")
    found = one(engine(HTTP, TRACKED, strict), f"tcp {CLIENT}:1 > {VIRTUAL}:80 S badsum")
    assert found.why.startswith("rules see it as INVALID: ")
    assert "checksum" in found.why


# -- rules ------------------------------------------------------------------------------------------------------------


def test_a_rule_that_shuts_a_service_is_told_from_one_that_protects() -> None:
    shut = rules("*filter\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -j DROP")
    found = one(engine(HTTP, FORWARDING, shut))
    assert "tcp:192.168.1.100:80 would take it" in found.why
    assert found.mend == f"iptables -I INPUT 2 -p tcp -d {VIRTUAL} --dport 80 -j ACCEPT"
    found = one(engine(HTTP, FORWARDING, shut), f"tcp {CLIENT}:1 > {VIRTUAL}:22 S")
    assert found.why == "no service is there on port 22: 192.168.1.100 has tcp:192.168.1.100:80 (S14)"
    assert not found.mend
    found = one(engine(HTTP, FORWARDING, rules("*filter\n:INPUT DROP [0:0]")))
    assert (found.reason, found.mend) == (
        Reason.POLICY, f"iptables -A INPUT -p tcp -d {VIRTUAL} --dport 80 -j ACCEPT",
    )  # fmt: skip
    found = one(engine(HTTP, FORWARDING, rules("*raw\n-A PREROUTING -p tcp -j DROP")))
    assert found.mend == f"iptables -t raw -I PREROUTING 1 -p tcp -d {VIRTUAL} --dport 80 -j ACCEPT"
    own = rules("*filter\n:IPVSCTL-INPUT - [0:0]\n-A INPUT -j IPVSCTL-INPUT\n-A IPVSCTL-INPUT -p tcp -j DROP")
    assert one(engine(HTTP, FORWARDING, own)).mend == "ipvsctl firewall apply"
    six = service("udp:[2001:db8::100]:53", "fd00:2::2 nat")
    found = one(engine(six, FORWARDING, rules("*filter\n-A INPUT -p udp -j REJECT", "ip6tables")),
                "udp [fd00:1::2]:1 > [2001:db8::100]:53")  # fmt: skip
    assert found.reason is Reason.REJECT
    assert found.mend == "ip6tables -I INPUT 1 -p udp -d 2001:db8::100 --dport 53 -j ACCEPT"


def test_many_services_are_not_all_named() -> None:
    many = "".join(service(f"tcp:{VIRTUAL}:{port}") for port in range(80, 90))
    found = one(engine(many, FORWARDING, rules("*filter\n-A INPUT -j DROP")), f"tcp {CLIENT}:1 > {VIRTUAL}:22 S")
    assert found.why.endswith(f"tcp:{VIRTUAL}:84, 5 more (S14)")


def test_forwarding_is_closed_for_what_servers_begin() -> None:
    closed = rules("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m state --state ESTABLISHED -j ACCEPT")
    found = one(engine(HTTP, TRACKED, closed), f"tcp {SERVER}:5000 > {CLIENT}:25 S", "eth1")
    assert "the real server 10.0.2.2 begins this connection itself" in found.why
    assert found.mend == f"iptables -A FORWARD -s {SERVER} -m conntrack --ctstate NEW -j ACCEPT"
    found = one(engine(HTTP, TRACKED, closed), f"tcp {SERVER}:80 > {CLIENT}:25 A", "eth1")
    assert found.why == "10.0.2.2 answers, but no known connection has this packet: it is in state NEW"
    found = one(engine(HTTP, TRACKED, closed), f"tcp 10.0.2.9:80 > {CLIENT}:25 S", "eth1")
    assert (found.reason, found.why) == (Reason.POLICY, "")


# -- routing ----------------------------------------------------------------------------------------------------------


def test_an_own_source_needs_accept_local() -> None:
    """S2, S27."""
    reply = f"tcp {VIRTUAL}:80 > {CLIENT}:40000 S"
    found = one(engine(HTTP, FORWARDING), reply, "eth1")
    assert found.reason is Reason.MARTIAN_SOURCE
    assert "(S2, S27" in found.why
    assert found.mend == "sysctl -w net.ipv4.conf.eth1.accept_local=1"
    assert one(engine(HTTP, sysctls(**ACCEPTING)), reply, "eth1").reason == "sent"
    assert "loopback" in one(engine(), f"udp 127.0.0.1:1 > {VIRTUAL}:80").why
    assert "nobody's address" in one(engine(), f"udp 224.0.0.1:1 > {VIRTUAL}:80").why


@pytest.mark.parametrize("where", ["all", "eth0"])
def test_strict_rp_filter(where: str) -> None:
    settings = {**ON, f"ipv4__conf__{where}__rp_filter": 1}
    packet = f"tcp 10.0.2.7:1 > {VIRTUAL}:80 S"
    found = one(engine(HTTP, sysctls(**settings)), packet)
    assert found.reason is Reason.RP_FILTER
    assert f"net.ipv4.conf.{where}.rp_filter=1" in found.why
    assert "leaves by eth1" in found.why.replace("it leaves", "leaves")
    assert found.mend == "sysctl -w net.ipv4.conf.eth0.rp_filter=2"
    mended = {**settings, "ipv4__conf__eth0__rp_filter": 2}
    assert one(engine(HTTP, sysctls(**mended)), packet).reason == "sent"


def test_forwarding_is_off() -> None:
    reply = f"tcp {SERVER}:80 > {CLIENT}:40000 SA"
    found = one(engine(HTTP), reply, "eth1")
    assert (found.reason, found.mend) == (Reason.NOT_FORWARDING, "sysctl -w net.ipv4.ip_forward=1")
    assert one(engine(HTTP, FORWARDING), reply, "eth1").reason == "sent"
    six = one(engine(), "tcp [fd00:2::2]:80 > [fd00:1::2]:40000 SA", "eth1")
    assert (six.reason, six.mend) == (Reason.NOT_FORWARDING, "sysctl -w net.ipv6.conf.all.forwarding=1")
    settings = sysctls(**ON, ipv4__conf__eth1__forwarding=0)
    found = one(engine(HTTP, settings), reply, "eth1")
    assert (found.reason, found.mend) == (Reason.NOT_FORWARDING, "sysctl -w net.ipv4.conf.eth1.forwarding=1")


def test_a_virtual_address_that_the_director_has_not() -> None:
    """Forwarded, dropped or unroutable: IPVS does not see the packet, whatever becomes of it."""
    other = service("tcp:192.168.7.7:80", f"{SERVER} nat")
    packet = f"tcp {CLIENT}:1 > 192.168.7.7:80 S"
    route = '\n[[route]]\ndestination = "0.0.0.0/0"\ndevice = "eth0"\nvia = "10.0.1.254"\n'
    for parts, reason in (
        ((route, FORWARDING), "sent"), ((route,), Reason.NOT_FORWARDING), ((FORWARDING,), Reason.NO_ROUTE),
        ((route, FORWARDING, rules("*filter\n-A FORWARD -j DROP")), Reason.RULE),
    ):  # fmt: skip
        found = one(engine(other, *parts), packet)
        assert found.reason == reason
        assert "192.168.7.7 is no address of the director" in found.why
        assert found.mend == "ip address add 192.168.7.7/32 dev eth0"
    mark = rules("*mangle\n-A PREROUTING -p tcp --dport 80 -j MARK --set-mark 7")
    found = one(engine(service("fwmark:7", f"{SERVER} nat"), route, FORWARDING, mark), packet)
    assert found.mend.splitlines() == [
        "ip rule add fwmark 7 lookup 100", "ip route add local 0.0.0.0/0 dev lo table 100",
    ]  # fmt: skip
    local = '\n[[route]]\ndestination = "0.0.0.0/0"\nkind = "local"\ndevice = "lo"\ntable = 100\n'
    rule = "\n[[rule]]\npriority = 1\nmark = 7\ntable = 100\n"
    found = one(engine(service("fwmark:7", f"{SERVER} nat"), route, FORWARDING, mark, local, rule), packet)
    assert (found.reason, found.why) == ("sent", "")


def test_there_is_no_route() -> None:
    found = one(engine(FORWARDING), f"tcp {CLIENT}:1 > 203.0.113.1:80 S")
    assert (found.reason, found.mend) == (Reason.NO_ROUTE, "ip route add 203.0.113.1 via GATEWAY")
    found = one(engine(service(f"tcp:{VIRTUAL}:80", "203.0.113.1 nat"), FORWARDING))
    assert found.reason is Reason.IPVS_NO_ROUTE
    assert found.mend == "ip route add 203.0.113.1 via GATEWAY"


def test_a_reply_is_routed_by_the_virtual_address() -> None:
    """S4: snat_reroute, and no route for that source."""
    closed = f'\n[[rule]]\npriority = 5\nfrom = "{VIRTUAL}"\nto = "{CLIENT}"\naction = "unreachable"\n'
    found = last(engine(HTTP, FORWARDING, closed), "tcp")
    assert found.reason is Reason.NO_ROUTE
    assert "(S4)" in found.why
    assert found.mend == "sysctl -w net.ipv4.vs.snat_reroute=0"
    mended = engine(HTTP, sysctls(**ON, ipv4__vs__snat_reroute=0), closed)
    assert talk(mended, "tcp")[-1].arrived


def test_a_server_that_does_not_answer_for_its_address() -> None:
    network = '[[device]]\nname = "eth0"\naddresses = ["192.168.1.100/24"]\nhosts = ["192.168.1.5"]\n'
    near = service(f"tcp:{VIRTUAL}:80", "192.168.1.9 dr")
    found = one(engine(near, FORWARDING, network=network), f"tcp 192.168.1.5:1 > {VIRTUAL}:80 S")
    assert found.reason is Reason.NO_NEIGHBOUR
    assert found.why.startswith("192.168.1.9 does not answer on eth0")


def test_too_big_for_the_way() -> None:
    packet = f"tcp {CLIENT}:1 > {VIRTUAL}:80 S df len=1460"
    tunnel = service(f"tcp:{VIRTUAL}:80", f"{SERVER} tun")
    found = one(engine(tunnel, FORWARDING), packet)
    assert found.reason is Reason.TOO_BIG
    assert "1500 bytes and 20 of the tunnel" in found.why
    assert found.mend == "ip link set dev eth1 mtu 1520"
    wider = '[[device]]\nname = "eth0"\naddresses = ["10.0.1.1/24", "192.168.1.100/32"]\n\n' \
        '[[device]]\nname = "eth1"\naddresses = ["10.0.2.1/24"]\nmtu = 1520\n'  # fmt: skip
    assert one(engine(tunnel, FORWARDING, network=wider), packet).reason == "sent"
    small = wider.replace("1520", "1400")
    found = one(engine(HTTP, FORWARDING, network=small), packet)
    assert (found.reason, found.mend) == (Reason.TOO_BIG, "")
    assert "1500 bytes, eth1 takes 1400" in found.why
    tiny = wider.replace("1520", "80")
    found = one(engine(tunnel, FORWARDING, network=tiny), f"tcp {CLIENT}:1 > {VIRTUAL}:80 S")
    assert found.reason is Reason.IPVS_NO_ROUTE
    assert "eth1, the way to 10.0.2.2, takes 80 bytes" in found.why


def test_ipv6_is_off() -> None:
    settings = sysctls(**ON, ipv6__conf__eth0__disable_ipv6=1)
    found = one(engine(settings), "tcp [fd00:1::2]:1 > [2001:db8::100]:80 S")
    assert (found.reason, found.mend) == (Reason.DISABLED, "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0")


# -- conntrack --------------------------------------------------------------------------------------------------------


def test_the_conntrack_table_is_full() -> None:
    made = engine(HTTP, sysctls(**ON, ipv4__vs__conntrack=1, netfilter__nf_conntrack_max=2),
                  rules("*filter\n-A INPUT -m state --state NEW -j ACCEPT"))  # fmt: skip
    for port in (1, 2):
        # Only what is assured, which takes an answer, has to stay.
        Session(made, "eth0", (packed(CLIENT), port), (packed(VIRTUAL), 80)).opened()
    found = one(made, f"udp {CLIENT}:9 > {VIRTUAL}:53")
    assert found.reason is Reason.CONNTRACK_FULL
    assert "holds 2 connections of at most 2" in found.why
    assert found.mend == "sysctl -w net.netfilter.nf_conntrack_max=65536"


def test_a_helper_that_cannot_follow() -> None:
    made = engine(ftp(f"{SERVER} nat"), TRACKED, rules(HELPER + RECIPE), modules=MODULES)
    session = Session(made, "eth0", (packed(CLIENT), 40000), (packed(VIRTUAL), 21))
    client, server = session._ftp()
    session.walks.clear()
    session._say(client, server, b"HELP\r\n")
    data = client.segment(24, b"PORT 10,0,1,2,1")
    found = told(made, session.pass_through("client: PORT", data, "eth0"))
    assert found.reason is Reason.HELPER
    assert "cannot read the whole of 'PORT'" in found.why


# -- IPVS -------------------------------------------------------------------------------------------------------------


def test_a_service_without_servers_or_with_quiet_or_full_ones() -> None:
    name = f"tcp:{VIRTUAL}:80"
    found = one(engine(service(name), FORWARDING))
    assert (found.reason, found.mend) == (Reason.IPVS_NO_DESTINATION, f"ipvsctl server add {name} ADDRESS")
    found = one(engine(service(name, f"{SERVER} nat weight=0", "10.0.2.3 nat weight=0"), FORWARDING))
    assert found.why.startswith("every server has weight 0: ")
    assert re.fullmatch(rf"ipvsctl server edit {name} 10\.0\.2\.[23]:80 --weight 1", found.mend)
    made = engine(service(name, f"{SERVER} nat upper=1"), FORWARDING)
    assert one(made).reason == "sent"
    found = one(made, f"tcp {CLIENT}:41000 > {VIRTUAL}:80 S")
    assert found.reason is Reason.IPVS_NO_DESTINATION
    assert found.why.endswith("at its upper threshold: 10.0.2.2:80 has 1 connections of 1")
    assert found.mend == f"ipvsctl server edit {name} 10.0.2.2:80 --upper 2"
    assert made.vs.services.all()[0].dests[0].flags & OVERLOAD


def test_a_deleted_server_keeps_its_connections() -> None:
    made = engine(HTTP, FORWARDING)
    talk(made, "tcp")
    one(made, f"tcp {CLIENT}:7 > {VIRTUAL}:80 S")
    made.vs.delete_server(ServiceAddress.parse(f"tcp:{VIRTUAL}:80"), ServerAddress.of(SERVER, 80))
    found = one(made, f"tcp {CLIENT}:7 > {VIRTUAL}:80 A")
    assert (found.reason, found.mend) == (
        Reason.IPVS_SERVER_GONE, "sysctl -w net.ipv4.vs.expire_nodest_conn=1",
    )  # fmt: skip


def test_a_connection_that_is_opened_anew_waits_for_its_conntrack_entry() -> None:
    """Its server was put to rest meanwhile, and expire_nodest_conn ends what it has."""
    made = engine(service(f"tcp:{VIRTUAL}:80", f"{SERVER} nat", "10.0.2.3 nat"),
                  sysctls(**ON, ipv4__vs__conntrack=1, ipv4__vs__expire_nodest_conn=1),
                  rules("*filter\n-A INPUT -m state --state NEW -j ACCEPT"))  # fmt: skip
    Session(made, "eth0", (packed(CLIENT), 40000), (packed(VIRTUAL), 80)).opened()
    (conn,) = made.vs.conns
    assert conn.dest is not None
    made.vs.edit_server(ServiceAddress.parse(f"tcp:{VIRTUAL}:80"), replace(conn.dest.server, weight=0))
    found = one(made)
    assert found.reason is Reason.IPVS_OLD_CONNTRACK
    assert "next try" in found.why
    assert one(made).reason == "sent"


def test_load_is_shed() -> None:
    made = engine(HTTP, sysctls(**ON, ipv4__vs__drop_packet=3, ipv4__vs__am_droprate=1))
    made.poll(made.now + 1)
    found = [one(made, f"tcp {CLIENT}:{port} > {VIRTUAL}:80 S") for port in range(50000, 50010)]
    dropped = [each for each in found if each.reason is Reason.IPVS_DROP_PACKET]
    assert dropped
    assert dropped[0].mend == "sysctl -w net.ipv4.vs.drop_packet=0"


def test_a_server_on_the_wrong_side_of_the_local_boundary() -> None:
    found = one(engine(service(f"tcp:{VIRTUAL}:80", "127.0.0.1 nat"), FORWARDING))
    assert found.reason is Reason.IPVS_CROSSES_LOCAL
    assert "127.0.0.1 is the director itself" in found.why


def test_a_server_that_speaks_out_of_turn() -> None:
    settings = sysctls(**ON, ipv4__vs__nat_icmp_send=1)
    found = one(engine(HTTP, settings), f"tcp {SERVER}:80 > {CLIENT}:7 PA", "eth1")
    assert found.reason is Reason.IPVS_NO_CONNECTION
    assert found.why.startswith("10.0.2.2:80 is a real server")


def test_an_ftp_reply_that_cannot_be_rewritten() -> None:
    """Its control connection is not tracked, so that nothing of it may change in length."""
    untracked = rules("*raw\n-A PREROUTING -j NOTRACK")
    found = last(engine(ftp(f"{SERVER} nat"), FORWARDING, untracked, modules=MODULES), "ftp-passive", 21)
    assert found.reason is Reason.IPVS_APPLICATION
    assert "NOTRACK rule" in found.why
    assert "UNTRACKED" in found.why


def test_replies_of_one_packet_scheduling() -> None:
    found = last(engine(service(f"udp:{VIRTUAL}:53", f"{SERVER} nat", more='flags = ["ops"]'), FORWARDING), "dns", 53)
    assert found.reason == "sent"
    assert found.mend == f"ipvsctl service edit udp:{VIRTUAL}:53 --no-ops"


# -- the host itself --------------------------------------------------------------------------------------------------


def test_nobody_but_the_host_itself() -> None:
    found = one(engine(HTTP, FORWARDING), f"tcp {CLIENT}:1 > {VIRTUAL}:81 S")
    assert found.reason is Reason.NO_LISTENER
    assert found.why == "192.168.1.100 has services, but none on tcp port 81: tcp:192.168.1.100:80"
    assert found.mend == "ipvsctl service add tcp:192.168.1.100:81"
    found = one(engine(HTTP, FORWARDING), f"udp {CLIENT}:1 > {VIRTUAL}:80")
    assert found.mend == "ipvsctl service add udp:192.168.1.100:80"
    assert "opens no connection" in one(engine(HTTP, FORWARDING), f"tcp {CLIENT}:1 > {VIRTUAL}:80 A").why
    assert "from port 20" in one(engine(HTTP, FORWARDING), f"tcp {CLIENT}:20 > {VIRTUAL}:80 S").why
    assert one(engine(HTTP, FORWARDING), f"tcp {CLIENT}:1 > 10.0.1.1:22 S").why == "no service has the address 10.0.1.1"
    assert one(engine(), f"tcp {CLIENT}:1 > 10.0.1.1:22 S").why == "there are no virtual services"
    found = one(engine(service("fwmark:7", f"{SERVER} dr"), FORWARDING))
    assert found.mend == f"iptables -t mangle -A PREROUTING -p tcp -d {VIRTUAL} --dport 80 -j MARK --set-mark 7"
    # The FTP service stands in for its data connections only: it does not "want" any other port.
    found = one(engine(ftp(f"{SERVER} nat"), FORWARDING), f"tcp {CLIENT}:1 > {VIRTUAL}:8080 S")
    assert found.mend == "ipvsctl service add tcp:192.168.1.100:8080"


def test_one_packet_is_no_fragment() -> None:
    made = engine(HTTP, TRACKED, rules("*filter\n-A INPUT -m state --state NEW -j ACCEPT"))
    found = one(made, f"udp {CLIENT}:1 > {VIRTUAL}:53 frag=0+ len=16")
    assert found.reason is Reason.FRAGMENT
    assert "without frag=" in found.why
    assert one(made, f"tcp {CLIENT}:1 > 10.0.1.1:9 S badsum").reason is Reason.LOCAL_CHECKSUM
    assert "damaged" in one(made, f"tcp {CLIENT}:1 > 10.0.1.1:9 S badsum").why


def test_bytes_that_are_no_packet() -> None:
    made = engine()
    found = walk(made, "raw 45")
    assert found.verdict is Reason.HEADER
    assert "no packet" in told(made, found).why


def test_a_packet_that_passes_needs_no_explanation() -> None:
    made = engine(HTTP, FORWARDING)
    assert explain(made, walk(made, SYN)) is None


def test_every_reason_that_is_explained_has_been_met() -> None:
    """The table of explanations names what the tests above have shown."""
    source = Path(__file__).read_text()
    assert [reason.name for reason in BY_REASON if f"Reason.{reason.name}" not in source] == []
