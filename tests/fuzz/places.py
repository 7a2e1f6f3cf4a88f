"""The addresses, ports and devices that the whole fuzzer draws from: few, so that packets meet."""

from __future__ import annotations

from ipvsctl.model.address import INET, INET6

FAMILIES = (INET, INET6)
DEVICES = ("eth0", "eth1", "eth2")
"""Clients are behind the first, servers behind the others."""

VIPS = {INET: ("192.168.1.100", "192.168.1.101"), INET6: ("2001:db8::100", "2001:db8::101")}
CLIENTS = {
    INET: ("10.0.1.2", "10.0.1.3", "203.0.113.7", "198.51.100.9"),
    INET6: ("fd00:1::2", "fd00:1::3", "2001:db8:77::7", "2001:db8:77::8"),
}
SERVERS = {INET: ("10.0.2.2", "10.0.2.3", "10.0.3.4"), INET6: ("fd00:2::2", "fd00:2::3", "fd00:3::4")}
OWN = {INET: ("10.0.1.1", "10.0.2.1", "10.0.3.1"), INET6: ("fd00:1::1", "fd00:2::1", "fd00:3::1")}
ODD = {
    INET: (
        "0.0.0.0", "255.255.255.255", "127.0.0.1", "10.0.1.255", "10.0.2.0", "224.0.0.1", "239.1.2.3", "240.0.0.1",
        "169.254.1.1", "10.0.2.99", "10.7.0.1", "10.8.0.1", "10.9.0.1",
    ),
    INET6: (
        "::", "::1", "ff02::1", "ff02::2", "ff05::1", "fe80::1", "::ffff:10.0.1.2", "2002:a00:102::1", "fd00:2::99",
        "fd07::1", "fd08::1", "fd09::1", "fec0::1",
    ),
}  # fmt: skip
"""What hosts have no business to send to or from, and destinations behind odd routes."""

PORTS = {"tcp": (80, 443, 21), "udp": (53, 5060), "sctp": (36412,)}
OTHER_PORTS = (0, 1, 20, 500, 4500, 6080, 1024, 30000, 49152, 65534, 65535)
MARK = 7
GUE = 6080
EDGES8 = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 59, 63, 64, 127, 128, 240, 254, 255)
EDGES16 = (0, 1, 2, 3, 7, 8, 19, 20, 27, 28, 39, 40, 60, 255, 256, 1280, 1500, 0x1FFF, 0x2000, 0x4000, 0x7FFF, 0x8000,
           0xFFF7, 0xFFF8, 0xFFFE, 0xFFFF)  # fmt: skip
EDGES32 = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
