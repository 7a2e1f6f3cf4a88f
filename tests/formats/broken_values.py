"""Values that are wrong for each key of a director file, and keys that no table has."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    """Words as TOML strings."""
    return [f'"{word}"' for word in text.split()]


_BOOLEAN = ["1", "0", '"true"', "1.0", "[true]", "{}", "1979-05-27"]
_NUMBER = ['"5"', "true", "5.0", "-1", "[5]", "{ n = 5 }", "07:32:00", "99999999999999999999", "0x1_0000_0000_0000"]
_WORD = ["1", "false", "2.5", '""', '"nonsense"', '["nat"]', "{}", "1979-05-27T07:32:00Z"]
_DURATION = ["0", "-5", "2678401", "true", "300.0", '"300"', '"5 minutes"', '"32d"', '""', '"m5"', "[300]"]
_NAME = ["1", "true", '""', '"has blank"', '"much-too-long-a-name"', "[]", '"line\\nbreak"', '"\\u0000"']

WRONG: dict[tuple[str, int, str], list[str]] = {
    ("[nfct]", 0, "conntrack"): _BOOLEAN,
    ("[nfct]", 0, "snat_reroute"): _BOOLEAN,
    ("[nfct]", 0, "be_liberal"): _BOOLEAN,
    ("[nfct]", 0, "accept_local"): [
        '"eth1"', "true", "[1]", '[""]', '["a/b"]', '["eth1", "eth1"]', '["sixteen-letters-"]', '["a b"]', '[["eth1"]]',
        '[".."]', '["eth1:0"]',
    ],
    ("[[service]]", 0, "address"): [
        "21", '""', *_words("192.0.2.1:21 tcp:192.0.2.1 tcp:192.0.2.1:65536 tcp:192.0.2.256:21 icmp:192.0.2.1:1"),
        *_words("fwmark:0 fwmark:4294967296 fwmark:7/inet4 tcp:2001:db8::1:21 tcp:[192.0.2.1]:x tcp:www.a.org:21"),
        '"tcp:192.0.2.1:ftp"', '" tcp:192.0.2.1:21"', '"udp:192.0.2.1:21\\n"', "true", '["tcp:192.0.2.1:21"]',
    ],
    ("[[service]]", 0, "scheduler"): _NAME,
    ("[[service]]", 0, "flags"): [
        '"sh-port"', "8", "[8]", '["mh-port"]', '["no-flag"]', '["sh-port", "sh-port"]', '[""]', '["ops"]',
    ],
    ("[[service]]", 0, "persistent"): _DURATION,
    ("[[service]]", 0, "netmask"): ["0", "33", "-1", "true", "24.0", '"255.255"', '"255.255.255.256"', '""', "[24]"],
    ("[[service]]", 0, "pe"): _NAME,
    ("[[service]]", 0, "helper"): _WORD,
    ("[[service]]", 1, "flags"): ['["sh-port"]', '["flag-4"]'],
    ("[[service.server]]", 0, "address"): [
        "10", '""', "true", *_words("10.0.2 10.0.2.2: 10.0.2.2:65536 10.0.2.02 web1 2001:db8::2 [2001:db8::2"),
        *_words("fe80::1%eth0 10.0.2.2:8O 10.0.2.2/32 tcp:10.0.2.2:21"),
    ],
    ("[[service.server]]", 0, "forward"): [*_WORD, *_words("masq local NAT")],
    ("[[service.server]]", 0, "weight"): [*_NUMBER, "2147483648"],
    ("[[service.server]]", 0, "upper"): [*_NUMBER, "2147483648"],
    ("[[service.server]]", 0, "lower"): [*_NUMBER, "2147483648", "201"],
    ("[[service.server]]", 1, "tunnel"): ["1", '""', '"vxlan"', "true", '["gue"]'],
    ("[[service.server]]", 1, "tunnel_port"): [*_NUMBER, "0", "65536"],
    ("[[service.server]]", 1, "tunnel_csum"): [*_WORD, "true"],
    ("[firewall]", 0, "backend"): [*_WORD, *_words("iptables nftables")],
    ("[firewall]", 0, "protect"): [
        '"192.0.2.1"', "[1]", "{}", *(f"[{word}]" for word in _words("192.0.2.0/24 www.example.com tcp:192.0.2.1:21")),
        '["192.0.2.1:21"]', '["192.0.2.1", "192.0.2.1"]', '["2001:db8::1", "2001:DB8:0::1"]', '[["192.0.2.1"]]',
    ],
    ("[firewall]", 0, "forward_policy"): [*_WORD, *_words("reject DROP")],
    ("[sysctl]", 0, '"net.ipv4.vs.expire_nodest_conn"'): [
        "1.5", "[1]", "{}", '"a\\nb"', '"\\u0000"', "1979-05-27", "99999999999999999999", "inf",
    ],
    ("[timeout]", 0, "tcp"): _DURATION,
    ("[timeout]", 0, "tcp_fin"): _DURATION,
    ("[timeout]", 0, "udp"): _DURATION,
    ("[[sync]]", 0, "role"): [*_WORD, '"backup"'],
    ("[[sync]]", 0, "interface"): ["1", '""', '"a/b"', '"sixteen-letters-"', '"eth 0"', "[]"],
    ("[[sync]]", 0, "id"): [*_NUMBER, "256"],
    ("[[sync]]", 0, "maxlen"): [*_NUMBER, "0", "65508"],
    ("[[sync]]", 0, "group"): ["1", '""', *_words("10.0.0.1 2001:db8::1 240.0.0.1 224.0.0.81:8848 all-hosts")],
    ("[[sync]]", 0, "port"): [*_NUMBER, "0", "65536"],
    ("[[sync]]", 0, "ttl"): [*_NUMBER, "0", "256"],
}  # fmt: skip
"""(header, which of the tables of that name, key) -> TOML values that the key does not take."""

UNKNOWN: dict[str, list[str]] = {
    "[nfct]": ["contrack", "snat-reroute", "forward_shared", "net"],
    "[[service]]": ["adress", "schedular", "weight", "timeout", "persistence", "Scheduler", '"flags "', "ops"],
    "[[service.server]]": ["wieght", "port", "helper", "forwarding", "u_threshold", '"a\\nb"', "tunnel-port"],
    "[firewall]": ["policy", "protects", "conntrack", '""'],
    "[timeout]": ["tcpfin", "tcp-fin", "sctp"],
    "[[sync]]": ["syncid", "mcast_interface", "state", "mcast.group"],
}
"""Header -> keys that its table does not have, and that somebody might write there."""
