"""The sysctls as the datapath reads them: numbers by name, every one that knowledge/ knows with the kernel's default.

Per-device ones combine "all" and the device as the kernel does (include/linux/inetdevice.h: IN_DEV_ORCONF,
IN_DEV_MAXCONF, IN_DEV_ANDCONF); a device that was never set has what "default" has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipvsctl.knowledge.sysctls import SYSCTLS

_FORWARDING = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding")

OTHERS: Mapping[str, str] = {
    "net.ipv4.icmp_echo_ignore_all": "0",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    "net.ipv4.icmp_errors_use_inbound_ifaddr": "0",
    "net.ipv4.icmp_ratelimit": "1000",
    "net.ipv4.icmp_ratemask": "6168",
    "net.ipv4.ipfrag_max_dist": "64",
    "net.ipv4.ipfrag_time": "30",
    "net.ipv6.anycast_src_echo_reply": "0",
    "net.ipv6.icmp.echo_ignore_all": "0",
    "net.ipv6.icmp.echo_ignore_anycast": "0",
    "net.ipv6.icmp.echo_ignore_multicast": "0",
    "net.ipv6.icmp.ratelimit": "1000",
    "net.ipv6.ip6frag_time": "60",
}
"""What decides a packet's way as well, with the kernel's default, but is no business of a director (sysctl_net_ipv4.c,
sysctl_net_ipv6.c, ip_fragment.c, reassembly.c)."""

OTHERS_OF_DEVICES = {"ipv4": ("shared_media",), "ipv6": ("disable_ipv6", "hop_limit")}
"""The same of each device, by family (devinet.c, addrconf.c)."""


class Settings(dict[str, int]):
    """Numbers by full name. A pair ("3 50") gives its first number here; `text` keeps what was written."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__({name: _number(row.default) for name, row in SYSCTLS.items() if row.default is not None})
        self.update({name: _number(default) for name, default in OTHERS.items()})
        self.text: dict[str, str] = {}
        self._watchers: list[Callable[[], None]] = []
        # What sets every device comes first, whatever the order in which they were read.
        for name in sorted(values, key=lambda name: name not in _FORWARDING):
            self.write(name, values[name])

    def write(self, name: str, value: str) -> None:
        """Set one, as a write under /proc/sys does; raises ValueError for what is no number."""
        if name in _FORWARDING[:2]:
            # devinet.c: inet_forward_change sets every device; per-device ones follow when they are written later.
            for other in [key for key in self if key.startswith("net.ipv4.conf.") and key.endswith(".forwarding")]:
                self[other] = _number(value)
            self["net.ipv4.ip_forward"] = self["net.ipv4.conf.all.forwarding"] = _number(value)
            self["net.ipv4.conf.default.forwarding"] = _number(value)
        elif name == _FORWARDING[2]:
            for other in [key for key in self if key.startswith("net.ipv6.conf.") and key.endswith(".forwarding")]:
                self[other] = _number(value)
            self["net.ipv6.conf.default.forwarding"] = _number(value)
        self[name] = _number(value)
        self.text[name] = value
        for watcher in self._watchers:
            watcher()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call it after every write: for what is computed of several."""
        self._watchers.append(watcher)

    def device(self, family: str, device: str, name: str) -> int:
        """A device's own value: `family` ipv4 or ipv6; what "default" has when it was never written."""
        own = self.get(f"net.{family}.conf.{device.replace('.', '/')}.{name}")
        if own is None:
            own = self.get(f"net.{family}.conf.default.{name}")
        return self.get(f"net.{family}.conf.*.{name}", 0) if own is None else own

    def everywhere(self, family: str, name: str) -> int:
        """The value of "all"."""
        found = self.get(f"net.{family}.conf.all.{name}")
        return self.get(f"net.{family}.conf.*.{name}", 0) if found is None else found

    def either(self, device: str, name: str) -> bool:
        """IN_DEV_ORCONF: on for all or for the device."""
        return bool(self.everywhere("ipv4", name) or self.device("ipv4", device, name))

    def highest(self, device: str, name: str) -> int:
        """IN_DEV_MAXCONF: the higher of all and the device."""
        return max(self.everywhere("ipv4", name), self.device("ipv4", device, name))


def _number(text: str | None) -> int:
    """The first number of a text; of a list of ranges (0-2,5) where it begins."""
    words = (text or "").split()
    if not words:
        return 0
    first = words[0].partition(",")[0]
    return int(first[:1] + first[1:].partition("-")[0], 0)
