"""Broken director files, made from a whole one: each with the line that its error must name.

The same files on every run, no randomness but a seeded generator. `broken_files` gives name, content and line; the line
is None where no particular line is the wrong one (noise, a file cut off inside an array).
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator

from tests.formats.broken_values import UNKNOWN, WRONG

Broken = tuple[str, bytes, int | None]

WHOLE = """\
# A director with every table and every key.
[nfct]
conntrack = true
snat_reroute = true
be_liberal = false
accept_local = ["eth1", "eth2.100"]

[[service]]
address = "tcp:192.0.2.1:21"
scheduler = "sh"
flags = ["sh-fallback", "sh-port"]
persistent = 300
netmask = "255.255.255.0"
pe = "sip"
helper = "ftp"

[[service.server]]
address = "10.0.2.2"
forward = "nat"
weight = 1
upper = 200
lower = 100

[[service.server]]
address = "10.0.2.3:2121"
forward = "tun"
tunnel = "gue"
tunnel_port = 6080
tunnel_csum = "remote"

[[service]]
address = "udp:[2001:db8::1]:53"
flags = ["ops"]
server = [
    { address = "2001:db8::2", weight = 2 },
    { address = "2001:db8::3", forward = "tun", tunnel = { type = "gre", csum = "yes" } },
]

[firewall]
backend = "auto"
protect = ["192.0.2.1", "2001:db8::1"]
forward_policy = "drop"
local_clients = [
    "10.0.2.2",
    "10.0.2.3",
]

[sysctl]
"net.ipv4.vs.expire_nodest_conn" = 1
net.ipv4.vs.drop_entry = false
"net.ipv4.tcp_rmem" = "4096 131072 6291456"

[timeout]
tcp = 900
tcp_fin = "2m"
udp = 300

[[sync]]
role = "master"
interface = "eth0"
id = 7
maxlen = 1460
group = "224.0.0.81"
port = 8848
ttl = 1

[[sync]]
role = "backup"
interface = "eth0"
"""

LINES = WHOLE.splitlines()

def header_line(header: str, which: int = 0) -> int:
    """The line, from 1, of a table's header in WHOLE."""
    return [number for number, line in enumerate(LINES, 1) if line == header][which]


def key_line(header: str, which: int, key: str) -> int:
    """The line of a key below a header."""
    start = header_line(header, which)
    return next(number for number, line in enumerate(LINES, 1) if number > start and line.startswith(f"{key} = "))


def _with_line(number: int, *new: str) -> bytes:
    """WHOLE with a line replaced."""
    return "\n".join([*LINES[: number - 1], *new, *LINES[number:], ""]).encode()


def _after(number: int, *new: str) -> bytes:
    return _with_line(number, LINES[number - 1], *new)


def _wrong_values() -> Iterator[Broken]:
    for (header, which, key), values in WRONG.items():
        line = key_line(header, which, key)
        for value in values:
            # The second daemon repeats the role; there the second is the one too many.
            at = header_line("[[sync]]", 1) + 1 if (key, value) == ("role", '"backup"') else line
            yield f"value: {header} {which} {key} = {value}", _with_line(line, f"{key} = {value}"), at


def _unknown_keys() -> Iterator[Broken]:
    for header, keys in UNKNOWN.items():
        line = header_line(header)
        for key in keys:
            yield f"unknown: {header} {key}", _after(line, f"{key} = 1"), line + 1
    for name in ("services", "nftc", "Firewall", "sysctls", "server", "timeouts", "global"):
        yield f"unknown table [{name}]", WHOLE.encode() + f"\n[{name}]\nx = 1\n".encode(), len(LINES) + 2
        yield f"unknown tables [[{name}]]", WHOLE.encode() + f"\n[[{name}]]\nx = 1\n".encode(), len(LINES) + 2
    yield "unknown key before every table", b"version = 1\n" + WHOLE.encode(), 1
    line = next(n for n, text in enumerate(LINES, 1) if "csum = " in text and "{" in text)
    yield "unknown key of a tunnel", _with_line(line, LINES[line - 1].replace("csum", "checksum")), line
    line = next(n for n, text in enumerate(LINES, 1) if "weight = 2" in text)
    yield "unknown key of a server on one line", _with_line(line, LINES[line - 1].replace("weight", "Weight")), line


def _shapes() -> Iterator[Broken]:
    """Tables where arrays of tables belong, and the other way round."""
    for header in ("[nfct]", "[firewall]", "[sysctl]", "[timeout]"):
        line = header_line(header)
        yield f"shape: [{header}]", _with_line(line, f"[{header}]"), line
    for name, value in (
        ("nfct", "true"), ("nfct", "[]"), ("service", "1"), ("service", '"tcp:192.0.2.1:80"'), ("service", "{}"),
        ("service", "[1]"), ("service", "[[]]"), ("firewall", '"drop"'), ("sysctl", "[1]"), ("sysctl", "0"),
        ("timeout", "900"), ("sync", "{}"), ("sync", '"master"'), ("sync", "[true]"), ("service", "[{}]"),
        ("sync", "[{}]"), ("service", "1979-05-27"), ("nfct", "1.5"),
    ):  # fmt: skip
        yield f"shape: {name} = {value}", f"# one line\n{name} = {value}\n".encode(), 2
    service = '[[service]]\naddress = "tcp:192.0.2.1:80"\n'
    for value in ("1", "{}", '"10.0.0.2"', "[1]", '["10.0.0.2"]', "true", "[[]]"):
        yield f"shape: server = {value}", f"{service}server = {value}\n".encode(), 3
    yield "shape: [service]", b'[service]\naddress = "tcp:192.0.2.1:80"\n', 1
    yield "shape: [sync]", b'\n[sync]\nrole = "master"\n', 2
    yield "shape: [service.server]", service.encode() + b'[service.server]\naddress = "10.0.0.2"\n', 3
    yield "shape: server before service", b'[[service.server]]\naddress = "10.0.0.2"\n', 1


def _rules() -> Iterator[Broken]:
    """What is right by itself and wrong together with something else."""
    service = '[[service]]\naddress = "tcp:192.0.2.1:80"\n'
    server = '[[service.server]]\naddress = "10.0.0.2"\n'
    other = server.replace("10.0.0.2", "2001:db8::2")
    ftp = service.replace("80", "21")
    daemon = '[[sync]]\nrole = "master"\ninterface = "eth0"\n'
    for name, text, line in (
        ("service twice", service + "\n" + service, 5),
        ("service twice, written differently", '[[service]]\naddress = "tcp:[2001:db8::1]:80"\n'
         '[[service]]\naddress = "tcp:[2001:DB8:0::1]:80"\n', 4),
        ("fwmark twice", '[[service]]\naddress = "fwmark:7"\n[[service]]\naddress = "fwmark:7/inet"\n', 4),
        ("service without address", '[nfct]\nconntrack = true\n[[service]]\nscheduler = "rr"\n', 3),
        ("server without address", service + "[[service.server]]\nweight = 1\n", 3),
        ("server without address on one line", service + "server = [\n  { weight = 1 },\n]\n", 4),
        ("server twice", service + server + server, 6),
        ("server twice, once with its port", service + server + server.replace('.2"', '.2:80"'), 6),
        ("server twice in an array", service + 'server = [\n{ address = "10.0.0.2" },\n{ address = "10.0.0.2" }\n]', 5),
        ("server of the other family by dr", service + other, 4),
        ("server of the other family by nat", service + other + 'forward = "nat"\n', 4),
        ("server of two families and sync", service + other + 'forward = "tun"\n' + daemon, 4),
        ("port 0 without persistent", service.replace(":80", ":0"), 2),
        ("ops for tcp", service + 'scheduler = "rr"\nflags = ["ops"]\n', 4),
        ("flag of another scheduler", service + 'flags = ["sh-port"]\nscheduler = "mh"\n', 3),
        ("helper for udp", ftp.replace("tcp", "udp") + 'helper = "ftp"\n', 3),
        ("helper for a mark", '[[service]]\naddress = "fwmark:1"\n\nhelper = "ftp"\n', 4),
        ("IPv4 mask for IPv6", '[[service]]\naddress = "tcp:[2001:db8::1]:80"\nnetmask = "255.255.255.0"\n', 3),
        ("IPv6 prefix length for IPv4", service + "netmask = 64\n", 3),
        ("prefix length of IPv6 out of range", '[[service]]\naddress = "tcp:[2001:db8::1]:80"\nnetmask = 129\n', 3),
        ("lower above upper", service + server + "lower = 10\nupper = 5\n", 5),
        ("lower without upper", service + server + "weight = 3\nlower = 10\n", 6),
        ("tunnel without forward", service + server + 'tunnel = "gre"\n', 5),
        ("ipip without forward", service + server + 'tunnel = "ipip"\n', 5),
        ("gue without port", service + server + 'forward = "tun"\ntunnel = "gue"\n', 6),
        ("gue with port 0", service + server + 'forward = "tun"\ntunnel = { type = "gue", port = 0 }\n', 6),
        ("gre with port", service + server + 'forward = "tun"\ntunnel = "gre"\ntunnel_port = 6080\n', 7),
        ("gre with csum remote", service + server + 'forward = "tun"\ntunnel = "gre"\ntunnel_csum = "remote"\n', 7),
        ("ipip with port", service + server + 'forward = "tun"\ntunnel = "ipip"\ntunnel_port = 6080\n', 7),
        ("ipip with csum", service + server + 'forward = "tun"\ntunnel = "ipip"\ntunnel_csum = "yes"\n', 7),
        ("tunnel without type", service + server + 'forward = "tun"\ntunnel = { port = 6080 }\n', 6),
        ("tunnel twice", service + server + 'forward = "tun"\ntunnel = { type = "gre" }\ntunnel_csum = "yes"\n', 7),
        ("tunnel_port alone", service + server + 'forward = "tun"\ntunnel_port = 6080\n', 6),
        ("wrong element of many lines", '[firewall]\nprotect = [\n  "192.0.2.1", # one\n\n  "two",\n]\n', 5),
        ("element twice over many lines", '[firewall]\nlocal_clients = [\n  "10.0.0.2",\n  "10.0.0.2"\n]\n', 4),
        ("sysctl twice", '[sysctl]\n"net.ipv4.vs.conntrack" = 1\nnet.ipv4.vs.conntrack = 1\n', 3),
        ("sysctl twice, with slashes", '[sysctl]\n"net.ipv4.vs.conntrack" = 1\n"net/ipv4/vs/conntrack" = 1\n', 3),
        ("sysctl twice, device with a dot", '[sysctl]\n"net.ipv4.conf.eth0/1.rp_filter" = 0\n'
         'net.ipv4.conf."eth0.1".rp_filter = 0\n', 3),
        ("sysctl with a blank", '[sysctl]\n"net.ipv4.vs.conntrack" = 1\n"net.ipv4.vs.conntrack " = 1\n', 3),
        ("sysctl of one word", '[sysctl]\nconntrack = 1\n', 2),
        ("sysctl upwards", '[sysctl]\n"net/ipv4/../../kernel/core_pattern" = "x"\n', 2),
        ("sysctl from /proc", '[sysctl]\n"/proc/sys/net/ipv4/ip_forward" = 1\n', 2),
        ("sysctl with empty part", '[sysctl]\n"net..ipv4" = 1\n', 2),
        ("sysctl half in quotes", '[sysctl]\n"net.ipv4".vs.conntrack = 1\n', 2),
        ("sysctl of other signs", '[sysctl]\n"net.ipv4.vs.conntrack;reboot" = 1\n', 2),
        ("sysctl too long", '[sysctl]\n"net.' + "x" * 300 + '" = 1\n', 2),
        ("sysctl against conntrack", '[sysctl]\n"net.ipv4.vs.conntrack" = 0\n[nfct]\nconntrack = true\n', 2),
        ("sysctl against snat_reroute", '[nfct]\nsnat_reroute = false\n[sysctl]\n"net.ipv4.vs.snat_reroute" = 1\n', 4),
        ("sysctl against be_liberal", '[nfct]\nbe_liberal = true\n[sysctl]\n'
         '"net.netfilter.nf_conntrack_tcp_be_liberal" = 0\n', 4),
        ("sysctl against accept_local", '[nfct]\naccept_local = ["eth0.1"]\n[sysctl]\n'
         '"net/ipv4/conf/eth0.1/accept_local" = 0\n', 4),
        ("sync without interface", '# one\n[[sync]]\nrole = "backup"\n', 2),
        ("sync without role", '[[sync]]\ninterface = "eth0"\n', 1),
        ("two masters", daemon + daemon, 5),
    ):  # fmt: skip
        yield f"rule: {name}", text.encode(), line


def _not_toml() -> Iterator[Broken]:
    """Syntax errors; the parser says where."""
    for number, text in (
        (3, "conntrack true"), (3, "conntrack = "), (3, "= true"), (3, "conntrack = yes"), (3, "conntrack = True"),
        (3, "conntrack == true"), (3, "conntrack = true false"), (3, "conntrack = null"), (2, "[nfct"), (2, "nfct]"),
        (2, "[]"), (2, "[nfct]]"), (2, "[nfct] x"), (2, "[nf ct]"), (8, "[[service]"), (8, "[service]]"), (8, "[[]]"),
        (9, 'address = "tcp:192.0.2.1:21'), (9, "address = 'tcp:192.0.2.1:21\""), (9, "address = tcp:192.0.2.1:21"),
        (9, 'address = "\\q"'), (9, 'address = "\\ud800"'), (9, "address = \"a\tb\x01\""), (9, "addr ess = 1"),
        (12, "persistent = 1_"), (12, "persistent = 0300"), (12, "persistent = 5m"), (12, "persistent = --1"),
        (12, "persistent = 1e400"), (12, "persistent = 9" + "9" * 60), (12, "persistent = 2024-02-30"),
        (12, "persistent = 25:00:00"), (11, 'flags = ["a" "b"]'), (11, "flags = [}"), (11, "flags = {]"),
        (11, "flags = { a = 1, a = 2 }"), (12, "persistent: 300"), (12, "persistent = 0x"), (12, "# \x07"),
    ):  # fmt: skip
        yield f"not TOML: line {number}: {text[:40]!r}", _with_line(number, text), number
    for key, header in (("conntrack", "[nfct]"), ("scheduler", "[[service]]"), ("weight", "[[service.server]]")):
        line = key_line(header, 0, key)
        yield f"not TOML: {key} twice", _after(line, LINES[line - 1]), line + 1
    for header in ("[nfct]", "[firewall]", "[timeout]"):
        yield f"not TOML: {header} twice", WHOLE.encode() + header.encode() + b"\n", len(LINES) + 1
    yield "not TOML: [[service]] then [service]", WHOLE.encode() + b"[service]\n", len(LINES) + 1
    yield "not TOML: key through a value", b"nfct.conntrack = true\nnfct.conntrack.x = 1\n", 2
    yield "not TOML: carriage return alone", b"[nfct]\nconntrack = true\rsnat_reroute = true\n", 2
    yield "not TOML: shell", b"#!/bin/sh\nset -e\nipvsadm -C\n", 2
    yield "not TOML: JSON", b'{\n  "nfct": {"conntrack": true}\n}\n', 1
    yield "not TOML: YAML", b"nfct:\n  conntrack: true\n", 1
    yield "not TOML: ipvsadm -S", b"-A -t 192.0.2.1:80 -s wlc\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -m -w 1\n", 1
    yield "not TOML: ini", b"[nfct]\nconntrack = on\n", 2


def _cut_off() -> Iterator[Broken]:
    """WHOLE up to the middle of something."""
    whole = WHOLE.encode()
    for name, upto, known in (
        ("header", b"[nfc", True), ("header of an array", b"[[service", True), ("end of a header", b"[[service]", True),
        ("key", b"snat_re", True), ("before a value", b"snat_reroute =", True), ("boolean", b"be_liberal = fal", True),
        ("string", b'scheduler = "s', True), ("array", b'accept_local = ["eth1",', False),
        ("array over lines", b'"10.0.2.2",\n', False), ("inline table", b"{ address = ", True),
        ("inline table after a comma", b'"2001:db8::2", ', False), ("dotted key", b"net.ipv4.vs.drop", True),
        ("quoted key", b'"net.ipv4.vs', True), ("between tables of one line", b"weight = 2 },\n", False),
    ):  # fmt: skip
        content = whole[: whole.index(upto) + len(upto)]
        yield f"cut off: {name}", content, content.count(b"\n") + 1 if known else None
    yield "cut off: character", b'[nfct]\nconntrack = true # \xc3', 2
    yield "cut off: text of several lines", b'[nfct]\naccept_local = ["""eth0\n\n', None


def _not_text() -> Iterator[Broken]:
    whole = WHOLE.encode()
    noise = random.Random(2003)
    yield "empty", b"", 1
    yield "blank", b"\n \n\t\n", 1
    yield "comments only", b"# nothing\n# at all\n", 1
    yield "byte order mark only", b"\xef\xbb\xbf", 1
    for header in ("[nfct]", "[sysctl]", "[timeout]", "service = []", "sysctl = {}"):
        yield f"names nothing: {header}", f"{header}\n".encode(), 1
    yield "UTF-16", WHOLE.encode("utf-16"), 1
    yield "Latin-1", _after(4, "# caf\xe9").decode().encode("latin-1"), 5
    yield "overlong UTF-8", _after(6, "# ?").replace(b"?", b"\xc0\xaf"), 7
    yield "surrogate in UTF-8", _after(7, "# ?").replace(b"?", b"\xed\xa0\x80"), 8
    yield "byte 0xff", whole + b"\xff", len(LINES) + 1
    yield "NUL in a comment", _after(10, "# \0"), 11
    yield "NUL in a string", _with_line(10, 'scheduler = "r\0r"'), 10
    yield "NULs only", bytes(4096), 1
    yield "NULs after the text", whole + bytes(512), len(LINES) + 1
    yield "gzip", gzip.compress(whole, mtime=0), 1
    yield "ELF", b"\x7fELF\x02\x01\x01" + bytes(9) + noise.randbytes(500), None
    for size in (1, 10, 100, 1000, 10000, 100000):
        yield f"noise of {size} bytes", bytes([0xFE]) + noise.randbytes(size), 1
    for place in range(8):
        at = noise.randrange(len(whole))
        content = whole[:at] + b"\xff" + noise.randbytes(16) + whole[at:]
        yield f"noise inside {place}", content, whole.count(b"\n", 0, at) + 1
    yield "printable noise", "".join(noise.choices("[]{}=\"'#.,abc123 \n", k=5000)).encode(), None


def _extremes() -> Iterator[Broken]:
    """Big and deep. 10 MiB are below the limit of size, so these are read to the end."""
    big = 10 * 2**20
    service = b'[[service]]\naddress = "tcp:192.0.2.1:80"\n'
    for depth in (100, 10_000, 1_000_000):
        yield f"deep: arrays {depth}", b"[nfct]\nx = " + b"[" * depth + b"]" * depth, 2
        yield f"deep: tables {depth}", b"[nfct]\nx = " + b"{x=" * depth + b"1" + b"}" * depth, 2
        yield f"deep: dotted key {depth}", b"[nfct]\n" + b".".join([b"x"] * depth) + b" = 1\n", 2
        yield f"deep: header {depth}", b"\n\n[" + b".".join([b"x"] * depth) + b"]\n", 3
    yield "big: over the limit", b"#" * (16 * 2**20 + 1), 1
    yield "big: one word", b"a" * big, 1
    yield "big: one string", b'\nx = "' + b"a" * big + b'"\n', 2
    yield "big: address", b'[[service]]\naddress = "' + b"1." * (big // 2) + b'"\n', 2
    yield "big: key", service + b"k" * big + b" = 1\n", 3
    yield "big: comments, then an unknown key", b"#\n" * (big // 2) + b"x = 1\n", big // 2 + 1
    yield "big: services without address", b"[[service]]\n" * (big // 12), 1
    yield "big: one service again and again", service * (big // len(service)), 4
    yield "big: brackets", b"x = " + b"[" * big, 1
    yield "big: noise", random.Random(1999).randbytes(big), None
    yield "big: numbers", b"service = [\n" + b"1,\n" * (big // 3) + b"]\n", 2
    yield "big: open string", service + b'scheduler = "' + b"a" * big, 3
    yield "big: number of many digits", service + b"persistent = 1" + b"0" * big + b"\n", 3
    yield "big: unknown keys", b"".join(b"k%d = 1\n" % n for n in range(100_000)), 1
    yield "number of 39 digits", service + b"persistent = 1" + b"0" * 38 + b"\n", 3


def broken_files() -> Iterator[Broken]:
    """Every broken file: its name (unique), its content, and the line its error must name or None."""
    yield from _wrong_values()
    yield from _unknown_keys()
    yield from _shapes()
    yield from _rules()
    yield from _not_toml()
    yield from _cut_off()
    yield from _not_text()
    yield from _extremes()
