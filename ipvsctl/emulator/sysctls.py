"""The sysctl port of an emulated director: what exists, what is taken, and what setting one does to others.

Names, ranges and defaults are knowledge/sysctls.py's; what depends on the machine is that of a small one.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.emulator.state import State
from ipvsctl.errors import NotFound, NotPermitted, Refused, UsageError
from ipvsctl.knowledge.sysctls import SYSCTLS, Sysctl, find, read

_PREFIX = "net.ipv4.vs."
_NOT_HERE = {
    *(_PREFIX + name for name in ("conn_lfactor", "conn_max", "svc_lfactor", "est_cpulist", "est_nice", "debug_level")),
    "net.netfilter.nf_conntrack_helper",
}
"""Sysctls of other kernels than the emulated one."""

_MACHINE = {
    f"{_PREFIX}sync_qlen_max": "23231",
    "net.netfilter.nf_conntrack_buckets": "65536",
    "net.netfilter.nf_conntrack_count": "0",
    "net.netfilter.nf_conntrack_expect_max": "1024",
    "net.netfilter.nf_conntrack_max": "65536",
    "net.nf_conntrack_max": "65536",
}

_FORWARD = ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding")
_FROM_DEFAULT = frozenset(
    f"net.ipv4.conf.*.{name}"
    for name in (
        "accept_local", "accept_redirects", "arp_announce", "arp_filter", "arp_ignore", "log_martians", "rp_filter",
        "send_redirects", "src_valid_mark",
    )
)  # fmt: skip
"""What writing `default` sets on the devices that still have it from there (devinet.c: devinet_copy_dflt_conf)."""

_FORWARD6 = "net.ipv6.conf.all.forwarding"
_CONNTRACK_MAX = ("net.netfilter.nf_conntrack_max", "net.nf_conntrack_max")
_DEFENSES = tuple(_PREFIX + name for name in ("drop_entry", "drop_packet", "secure_tcp"))
_BUCKETS_A_PAGE = 512
_FIRST_LOCAL_PORT = 32768


def appear(state: State, module: str) -> None:
    """Give a module's sysctls their defaults; "" for those that are always there."""
    for row in SYSCTLS.values():
        if row.module == module and row.name not in _NOT_HERE:
            default = row.default if row.default is not None else _MACHINE[row.name]
            for name in _instances(state, row):
                state.sysctls[name] = default


def _instances(state: State, row: Sysctl) -> Iterator[str]:
    if "*" not in row.name:
        yield row.name
        return
    for device in ("all", "default", *state.devices):
        yield row.name.replace("*", device.replace(".", "/"))


class EmulatedSysctl:
    """The sysctl port of an emulated director. Every call raises UsageError for a name that cannot be one."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, name: str) -> str | None:
        _check(name)
        return self._state.sysctls.get(name)

    def names(self, prefix: str) -> list[str]:
        if prefix.rstrip("."):
            _check(prefix.rstrip("."))
        return sorted(name for name in self._state.sysctls if name.startswith(prefix))

    def check_writable(self, name: str) -> None:
        _check(name)
        row = find(name)
        if row is not None and not row.writable:
            raise NotPermitted(f"cannot set {name}: the kernel does not let even root write it")

    def set(self, name: str, value: str) -> None:
        _check(name)
        if "\0" in value:
            raise UsageError(f"cannot set {name} to {value!r}: expected a number or words")
        wanted = " ".join(value.split())
        before = self._state.sysctls.get(name)
        row = find(name)
        if before is None or row is None:
            raise NotFound(
                f"cannot set {name} to {wanted}: there is no such sysctl here; a module that is not loaded may bring it"
            )
        self.check_writable(name)
        try:
            after = read(row, wanted, before)
            if name == "net.ipv4.ip_unprivileged_port_start" and int(after) > _FIRST_LOCAL_PORT:
                raise ValueError
        except ValueError:
            raise Refused(
                f"cannot set {name} to {wanted}: the kernel does not take {wanted!r} (Invalid argument)"
            ) from None
        after = _rounded(name, after)
        if not _same(name, wanted, after):
            raise Refused(f"cannot set {name} to {wanted}: the kernel would make {after} of it and has again {before}")
        self._write(row, name, before, after)

    def _write(self, row: Sysctl, name: str, before: str, after: str) -> None:
        """Store a value, with what the kernel does to others when it is written."""
        sysctls = self._state.sysctls
        sysctls[name] = after
        self._state.written.add(name)
        if row.name in _FROM_DEFAULT and ".default." in name:
            for device in self._state.devices_of_default():
                other = row.name.replace("*", device.replace(".", "/"))
                if other not in self._state.written:
                    sysctls[other] = after
        if name in _FORWARD and after != before:
            # devinet.c: inet_forward_change. Writing the value that is there already changes nothing.
            for other in (_FORWARD[0], *self.names("net.ipv4.conf.")):
                if other == _FORWARD[0] or other.endswith(".forwarding"):
                    sysctls[other] = after
            sysctls["net.ipv4.conf.all.accept_redirects"] = "1" if after == "0" else "0"
        elif name == _FORWARD6:
            for other in self.names("net.ipv6.conf."):
                if other.endswith(".forwarding"):
                    sysctls[other] = after
        elif name in _CONNTRACK_MAX:
            sysctls.update(dict.fromkeys(_CONNTRACK_MAX, after))


def _check(name: str) -> None:
    """Raises UsageError for a name that is no path under /proc/sys."""
    if "\0" in name or len(name) > 4096 or any(part in ("", "/", "//") for part in name.split(".")):
        raise UsageError(
            f"{name!r} is not a sysctl, expected parts with dots between them, as in net.ipv4.vs.conntrack "
            "(a dot inside a device's name is written /)"
        )


def _rounded(name: str, value: str) -> str:
    """What the kernel makes of a value of its own accord."""
    if name in _DEFENSES and value == "2":
        # As long as memory is not short (ip_vs_ctl.c: update_defense_level).
        return "1"
    if name == "net.netfilter.nf_conntrack_buckets":
        return str(-(-int(value) // _BUCKETS_A_PAGE) * _BUCKETS_A_PAGE)
    return value


def _same(name: str, wanted: str, after: str) -> bool:
    """Whether the value is the one asked for; "010" is not, because people do not mean 8 by it."""
    if wanted == after or name in _DEFENSES:
        return True
    try:
        numbers = [int(word, 0) for word in wanted.split()]
        return numbers == [int(word) for word in after.split()][: len(numbers)]
    except ValueError:
        return False
