"""The IPv4 and IPv6 sysctls that decide whether a director's packets pass, one set in each network namespace.

`conf.*` stands for a device, and for `all` and `default` (devinet.c: devinet_sysctl). How `all` and the device combine
is said in the meaning. Defaults are the kernel's; distributions set some of them at boot (rp_filter above all).
"""

from __future__ import annotations

from collections.abc import Mapping

from ipvsctl.knowledge.sysctl_values import Sysctl

_DEVINET = "devinet.c: devinet_sysctl"
_TABLE = "sysctl_net_ipv4.c: ipv4_net_table"
_TABLE6 = "sysctl_net_ipv6.c: ipv6_table_template"


def _byte(name: str, default: str, meaning: str, source: str, lowest: int = 0) -> Sysctl:
    return Sysctl(name, default, meaning, source, "u8", lowest, 255)


def _device(name: str, default: str, meaning: str, source: str = _DEVINET) -> Sysctl:
    return Sysctl(f"net.ipv4.conf.*.{name}", default, meaning, source)


_ROWS = (
    Sysctl("net.ipv4.ip_forward", "0", "forward packets: replies of nat servers, and of dr and tun servers whose "
           "gateway is the director, need it; setting it sets conf.*.forwarding",
           "devinet.c: devinet_sysctl_forward, inet_forward_change; S15"),
    Sysctl("net.ipv4.ip_unprivileged_port_start", "1024", "first port that needs no privilege; from here on, ports of "
           "an address with a port-21 service may be scheduled to it", "sysctl_net_ipv4.c: "
           "ipv4_privileged_ports; ip_vs_ctl.c: ip_vs_service_find", lowest=0, highest=65535),
    _byte("net.ipv4.ip_nonlocal_bind", "0", "programs may bind to addresses that are not the host's", _TABLE),
    _byte("net.ipv4.fwmark_reflect", "0", "answers of the kernel (RST, ICMP) carry the mark of the packet they answer",
          _TABLE),
    _byte("net.ipv4.ip_default_ttl", "64", "TTL of packets that the director makes itself", _TABLE, 1),
    _device("accept_local", "0", "take packets whose source is one of our own addresses; not 0 in all or in the "
            "device is on", "fib_frontend.c: __fib_validate_source; S2, S27"),
    _device("accept_redirects", "1", "obey ICMP redirects; when forwarding, both all and the device must be on"),
    _device("arp_announce", "0", "source address of ARP requests: 2 is for real servers of dr and tun; the higher of "
            "all and the device counts", "arp.c: arp_solicit"),
    _device("arp_filter", "0", "answer ARP only on the device that the reply would leave by; not 0 in all or in the "
            "device is on", "arp.c: arp_filter"),
    _device("arp_ignore", "0", "which ARP requests are answered: 1 or 2 is for real servers of dr and tun; the higher "
            "of all and the device counts", "arp.c: arp_ignore"),
    _device("forwarding", "0", "forward packets that come in on the device; setting all is setting ip_forward",
            "devinet.c: devinet_sysctl_forward, inet_forward_change"),
    _device("log_martians", "0", "log packets with impossible addresses; not 0 in all or in the device is on",
            "route.c: ip_handle_martian_source"),
    _device("route_localnet", "0", "127/8 may be the address of other hosts; not 0 in all or in the device is on",
            "route.c: ip_route_input_slow"),
    _device("rp_filter", "0", "check the source against the route back: 1 strict, 2 loose; the higher of all and the "
            "device counts; dr and tun replies through the director need 0 or 2",
            "fib_frontend.c: __fib_validate_source; S2, S27"),
    _device("send_redirects", "1", "tell clients of a shorter way by ICMP redirect; both off for nat on one device",
            "ip_forward.c: ip_forward, route.c: ip_rt_send_redirect"),
    _device("src_valid_mark", "0", "the source check of rp_filter uses the packet's mark",
            "fib_frontend.c: __fib_validate_source"),
    Sysctl("net.ipv6.conf.*.forwarding", "0", "forward IPv6 packets; setting all sets every device",
           "addrconf.c: addrconf_sysctl_forward, addrconf_fixup_forwarding"),
    _byte("net.ipv6.fwmark_reflect", "0", "answers of the kernel carry the mark of the packet they answer", _TABLE6),
    _byte("net.ipv6.ip_nonlocal_bind", "0", "programs may bind to addresses that are not the host's", _TABLE6),
)  # fmt: skip

INET_SYSCTLS: Mapping[str, Sysctl] = {row.name: row for row in sorted(_ROWS, key=lambda row: row.name)}
