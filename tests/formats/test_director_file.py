"""The director file: what each key means, what is refused and in which words, and that the manual page has it all."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ipvsctl.errors import FileError
from ipvsctl.formats.director_file import MAX_SIZE, SHOWN, parse
from ipvsctl.formats.director_grammar import TABLES
from ipvsctl.model.address import INET, INET6, ServerAddress, ServiceAddress
from ipvsctl.model.director import Director, FirewallWish, Nfct, ServiceWish
from ipvsctl.model.service import Server, Service, Tunnel
from ipvsctl.model.status import Daemon, Timeouts
from tests.formats.broken import WHOLE
from tests.needs import need_program

MANUAL = Path(__file__).parents[2] / "man" / "ipvsctl.toml.5"

EXAMPLE = """\
[nfct]
conntrack = true          # net.ipv4.vs.conntrack
snat_reroute = true       # net.ipv4.vs.snat_reroute
be_liberal = true         # net.netfilter.nf_conntrack_tcp_be_liberal
accept_local = ["eth1"]   # devices on which packets from our own addresses are accepted

[[service]]
address = "tcp:192.168.1.100:21"
scheduler = "rr"
persistent = 300          # absent: not persistent
helper = "ftp"            # modules and the helper rule that this needs, per forwarding method
[[service.server]]
address = "10.0.2.2"
forward = "nat"
weight = 1

[firewall]
backend = "auto"
protect = ["192.168.1.100"]   # only the services' ports of these addresses are reachable
forward_policy = "drop"       # end of the FORWARD rules; "accept" leaves other forwarding alone
local_clients = ["10.0.2.2"]  # real servers that may open new connections to the director

[sysctl]
"net.ipv4.vs.expire_nodest_conn" = 1

[timeout]
tcp = 900
tcp_fin = 120
udp = 300

[[sync]]
role = "master"
interface = "eth0"
id = 7
"""

FTP = ServiceAddress.parse("tcp:192.168.1.100:21")

SERVICE = '[[service]]\naddress = "tcp:192.0.2.1:80"\n'
SERVER = SERVICE + '[[service.server]]\naddress = "10.0.0.2"\n'


def service_of(text: str) -> Service:
    return parse(SERVICE + text, "t").services[0].service


def server_of(text: str) -> Server:
    return parse(SERVER + text, "t").services[0].servers[0]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_the_example_of_the_contract() -> None:
    assert parse(EXAMPLE, "t") == Director(
        services=(
            ServiceWish(
                Service(FTP, "rr", persistent=300), (Server(ServerAddress(INET, "10.0.2.2", 21), "nat", 1),), "ftp"
            ),
        ),
        nfct=Nfct(True, True, True, ("eth1",)),
        firewall=FirewallWish("auto", ("192.168.1.100",), "drop", ("10.0.2.2",)),
        sysctls=(("net.ipv4.vs.expire_nodest_conn", "1"),),
        timeouts=Timeouts(900, 120, 300),
        syncs=(Daemon("master", "eth0", 7),),
    )


def test_defaults() -> None:
    director = parse(SERVER, "t")
    service = Service(ServiceAddress.parse("tcp:192.0.2.1:80"), "wlc")
    assert director == Director((ServiceWish(service, (Server(ServerAddress(INET, "10.0.0.2", 80), "dr", 1),)),))
    assert parse("[firewall]", "t").firewall == FirewallWish()
    assert parse("[nfct]\nconntrack = false", "t").nfct == Nfct(conntrack=False)
    assert parse("[timeout]\nudp = 30", "t").timeouts == Timeouts(udp=30)
    assert parse("sync = []", "t").syncs == ()


def test_the_encodings_of_editors() -> None:
    whole = parse(WHOLE, "t")
    assert parse(WHOLE.encode(), "t") == whole
    assert parse(b"\xef\xbb\xbf" + WHOLE.encode(), "t") == whole
    assert parse(WHOLE.replace("\n", "\r\n"), "t") == whole
    assert parse(WHOLE.rstrip("\n"), "t") == whole


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1", 1), ("2678400", 2678400), ('"45s"', 45), ('"5m"', 300), ('"1m30s"', 90), ('"2h"', 7200), ('"31d"', 2678400),
     ('"1d2h3m4s"', 93784), ('"90m"', 5400)],
)  # fmt: skip
def test_durations(written: str, seconds: int) -> None:
    assert service_of(f"persistent = {written}").persistent == seconds
    assert parse(f"[timeout]\ntcp = {written}", "t").timeouts == Timeouts(tcp=seconds)


@pytest.mark.parametrize(
    ("written", "tunnel"),
    [
        ('tunnel = "ipip"', None),
        ('tunnel = { type = "ipip" }', None),
        ('tunnel = "gre"', Tunnel("gre")),
        ('tunnel = "gre"\ntunnel_csum = "yes"', Tunnel("gre", 0, "yes")),
        ('tunnel = "gue"\ntunnel_port = 6080', Tunnel("gue", 6080)),
        ('tunnel_csum = "remote"\ntunnel_port = 6080\ntunnel = "gue"', Tunnel("gue", 6080, "remote")),
        ('tunnel = { type = "gue", port = 6080, csum = "yes" }', Tunnel("gue", 6080, "yes")),
        ('[service.server.tunnel]\ntype = "gre"', Tunnel("gre")),
    ],
)
def test_both_forms_of_a_tunnel(written: str, tunnel: Tunnel | None) -> None:
    assert server_of(f'forward = "tun"\n{written}') == Server(ServerAddress(INET, "10.0.0.2", 80), "tun", tunnel=tunnel)


@pytest.mark.parametrize(
    ("service", "server", "address"),
    [
        ("tcp:192.0.2.1:80", "10.0.0.2", ServerAddress(INET, "10.0.0.2", 80)),
        ("tcp:192.0.2.1:80", "10.0.0.2:8080", ServerAddress(INET, "10.0.0.2", 8080)),
        ("tcp:192.0.2.1:80", "10.0.0.2:08080", ServerAddress(INET, "10.0.0.2", 8080)),
        ("tcp:192.0.2.1:80", "10.0.0.2:0", ServerAddress(INET, "10.0.0.2", 0)),
        ("fwmark:7", "10.0.0.2", ServerAddress(INET, "10.0.0.2", 0)),
        ("fwmark:7/inet6", "2001:DB8::0:2", ServerAddress(INET6, "2001:db8::2", 0)),
        ("udp:[2001:db8::1]:53", "[2001:db8::2]:5353", ServerAddress(INET6, "2001:db8::2", 5353)),
        ("udp:[2001:db8::1]:53", "[2001:db8::2]", ServerAddress(INET6, "2001:db8::2", 53)),
    ],
)
def test_addresses_of_servers(service: str, server: str, address: ServerAddress) -> None:
    text = f'[[service]]\naddress = "{service}"\n'
    tables = parse(f'{text}[[service.server]]\naddress = "{server}"\n', "t")
    assert tables.services[0].servers[0].address == address
    assert parse(f'{text}server = [{{ address = "{server}" }}]\n', "t") == tables


def test_servers_keep_the_order_of_the_file() -> None:
    text = SERVICE + "".join(f'[[service.server]]\naddress = "10.0.0.{n}"\n' for n in (3, 1, 2))
    servers = parse(text, "t").services[0].servers
    assert [server.address.address for server in servers] == ["10.0.0.3", "10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize(
    ("written", "sysctl"),
    [
        ('"net.ipv4.vs.drop_entry" = 3', ("net.ipv4.vs.drop_entry", "3")),
        ("net.ipv4.vs.drop_entry = -3", ("net.ipv4.vs.drop_entry", "-3")),
        ('"net/ipv4/vs/drop_entry" = true', ("net.ipv4.vs.drop_entry", "1")),
        ('"net.ipv4.conf.eth0/100.rp_filter" = false', ("net.ipv4.conf.eth0/100.rp_filter", "0")),
        ('"net/ipv4/conf/eth0.100/rp_filter" = 2', ("net.ipv4.conf.eth0/100.rp_filter", "2")),
        ('net.ipv4.conf."eth0.100".rp_filter = 2', ("net.ipv4.conf.eth0/100.rp_filter", "2")),
        ('"net.ipv4.tcp_rmem" = " 4096\\t131072  6291456"', ("net.ipv4.tcp_rmem", "4096 131072 6291456")),
        ('"net.ipv4.ip_local_reserved_ports" = ""', ("net.ipv4.ip_local_reserved_ports", "")),
    ],
)
def test_sysctls(written: str, sysctl: tuple[str, str]) -> None:
    assert parse(f"[sysctl]\n{written}\n", "t").sysctls == (sysctl,)


def test_a_sysctl_that_repeats_nfct_is_no_contradiction() -> None:
    text = '[nfct]\nconntrack = true\naccept_local = ["eth0"]\n[sysctl]\n"net.ipv4.vs.conntrack" = 1\n'
    assert parse(text + "net.ipv4.conf.eth0.accept_local = true\n", "t").sysctls[1][1] == "1"


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (SERVER + "weight = true", "f:5: weight: expected an integer 0..2147483647, not the boolean true"),
        (SERVER + 'weight = "5"', 'f:5: weight: expected an integer 0..2147483647, not the string "5"'),
        (SERVER + "weight = 5.0", "f:5: weight: expected an integer 0..2147483647, not the float 5.0"),
        (SERVER + 'forward = "masq"', 'f:5: forward: expected "nat", "dr" or "tun", not the string "masq"'),
        (SERVER + "wieght = 5", 'f:5: unknown key "wieght" in [[service.server]], did you mean weight? expected'
         " address, forward, weight, upper, lower, tunnel, tunnel_port, tunnel_csum"),
        (SERVER + 'helper = "ftp"', 'f:5: unknown key "helper" in [[service.server]], it belongs in [[service]];'
         " expected address, forward, weight, upper, lower, tunnel, tunnel_port, tunnel_csum"),
        ("[servcie]\nx = 1", 'f:1: unknown key "servcie" in the file, did you mean service? expected nfct, service,'
         " firewall, sysctl, timeout, sync"),
        (SERVICE + "persistent = true", "f:3: persistent: expected 1..2678400 seconds, as an integer or as text such as"
         ' "5m" or "1m30s", not the boolean true'),
        (SERVICE + "netmask = 64", "f:3: netmask 64 is out of range, expected a prefix length 1..32 or a dotted mask"),
        (SERVICE + SERVICE, "f:4: service tcp:192.0.2.1:80 is given twice, expected once (line 2)"),
        (SERVER + '[[service.server]]\naddress = "10.0.0.2:80"',
         "f:6: server 10.0.0.2:80 is given twice in tcp:192.0.2.1:80, expected once (line 4)"),
        ("[timeout]\ntcp = 0", "f:2: tcp: expected 1 second or more, not 0: the kernel takes 0 for no change, leave the"
         " key out instead"),
        ('[nfct]\nconntrack = true\n[sysctl]\n"net.ipv4.vs.conntrack" = 0',
         'f:4: sysctl net.ipv4.vs.conntrack: expected 1, not "0": [nfct] conntrack sets it (line 2)'),
        ('[firewall]\nprotect = ["www.example.com"]',
         'f:2: protect: expected an IPv4 or IPv6 address, not the string "www.example.com"'),
        ("[nfct]\nconntrack = yes", "f:2: not TOML: "),
        ("", "f:1: the file names nothing, expected at least one of [nfct], [[service]], [firewall], [sysctl],"
         " [timeout], [[sync]] with a key in it"),
        ("a = \udcff", "f:1: a surrogate is not a character, expected UTF-8 text"),
        (b"# \xff", "f:1: byte 0xff is not UTF-8, expected UTF-8 text"),
    ],
)  # fmt: skip
def test_words_of_errors(text: str | bytes, error: str) -> None:
    with pytest.raises(FileError, match=re.escape(error)):
        parse(text, "f")


def test_the_first_problem_is_the_error_and_the_others_are_notes_in_the_order_of_the_file() -> None:
    text = "[timeout]\ntcp = 0\n" + SERVER + 'weight = -1\nforward = 5\n[nfct]\nconntrack = 1\naccept_local = "eth0"\n'
    with pytest.raises(FileError) as caught:
        parse(text, "f")
    assert caught.value.line == 2
    assert [note.split(": ")[:2] for note in caught.value.__notes__] == [
        ["f:7", "weight"], ["f:8", "forward"], ["f:10", "conntrack"], ["f:11", "accept_local"],
    ]  # fmt: skip


def test_not_more_problems_than_a_screen_shows() -> None:
    with pytest.raises(FileError) as caught:
        parse("[nfct]\n" + "".join(f"k{number} = 1\n" for number in range(60)), "f")
    assert len(caught.value.__notes__) == SHOWN
    assert caught.value.__notes__[-1] == "f: and 40 more"


def test_size_is_refused_before_the_text_is_read() -> None:
    with pytest.raises(FileError, match=f"expected at most {MAX_SIZE}"):
        parse(b"\xff" * (MAX_SIZE + 1), "f")


# -- the manual page --------------------------------------------------------------------------------------------------


def test_the_manual_page_has_every_key() -> None:
    """A key that is missing is added to man/ipvsctl.toml.5 as `.It Ic KEY`, below the heading of its table."""
    sections: dict[str, set[str]] = {}
    heading = ""
    for line in MANUAL.read_text().splitlines():
        if match := re.match(r"\.Ss .*?(\[+[a-z.]+\]+)|\.Ss .*?(tunnel)", line):
            heading = match[1] or match[2]
        elif match := re.match(r"\.It Ic (\w+)", line):
            sections.setdefault(heading, set()).add(match[1])
    assert sections == {table: set(keys) for table, keys in TABLES.items() if table}


def test_the_examples_of_the_manual_page_are_right() -> None:
    blocks = re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    examples = [block.replace("\\e", "\\") for block in blocks if re.match(r"\[|sync", block)]
    assert len(examples) >= 3
    assert parse(examples[-1], "manual") == parse(EXAMPLE, "t")
    for example in examples:
        parse(example, "manual")


def test_the_manual_page_has_no_warnings() -> None:
    need_program("mandoc")
    done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", MANUAL], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
