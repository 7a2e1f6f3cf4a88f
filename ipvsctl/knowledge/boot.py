"""What brings a director up the same after a boot, and in which order; `persist` writes it, `forget` removes it.

    systemd-modules-load    /etc/modules-load.d: modules, and with them their sysctls
    systemd-sysctl          /etc/sysctl.d, ordered after the modules: what needs neither a device nor rules
    the network, the administrator's own firewall
    ipvsctl.service         `ipvsctl apply` of the copy of the director file: all that is left, in the plan's order
    keepalived, ldirectord  which find their services' surroundings in place

The unit alone would do: applying is idempotent. What stands in the two other files is there from the first packet on,
and where other tools and other people look for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsctl.formats.units import BootFile, Settings, command_line, modules_load, sysctl_conf, tagged, unit
from ipvsctl.model.director import Wanted

UNIT = "ipvsctl.service"
DIRECTOR = "/etc/ipvsctl/director.toml"
MODULES = "/etc/modules-load.d/ipvsctl.conf"
SYSCTLS = "/etc/sysctl.d/90-ipvsctl.conf"
SERVICE = f"/etc/systemd/system/{UNIT}"
ENABLED = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"

PATHS = (DIRECTOR, MODULES, SYSCTLS, SERVICE, ENABLED)
"""Every file, in the order to write them: the unit is enabled last."""

ENABLED_TARGETS = (f"../{UNIT}", SERVICE)
"""What the link that enables the unit points to: ours, and as `systemctl enable` writes it."""

FIREWALLS = (
    "nftables.service", "netfilter-persistent.service", "iptables.service", "ip6tables.service", "firewalld.service",
    "ufw.service",
)  # fmt: skip
"""Units that load rules at boot. Most flush what is there first, so ours come after them."""

AFTER: tuple[tuple[tuple[str, ...], str], ...] = (
    (("systemd-modules-load.service", "systemd-sysctl.service"), "Modules and sysctls of the files beside this one."),
    (("network-online.target",), "Devices of uplinks, of synchronisation and of accept_local."),
    (FIREWALLS, "What loads rules flushes what is there."),
    (("ipvsadm.service",), "Restores services of its own, and clears the table for it."),
)
"""What must have happened before the director file is applied, with the reason."""

BEFORE = ("keepalived.service", "ldirectord.service")
"""What expects sysctls, rules and modules in place: they manage the services from then on."""

SANDBOX: Settings = (
    ("CapabilityBoundingSet", ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_MODULE"),
     "Services, rules and sysctls; libiptc's raw socket; modprobe."),
    ("NoNewPrivileges", "yes", ""),
    ("RestrictAddressFamilies", ("AF_UNIX", "AF_NETLINK", "AF_INET", "AF_INET6"), ""),
    ("ProtectSystem", "strict", "Sysctls are in /proc/sys, the journal of changes and xtables.lock in /run."),
    ("ReadWritePaths", "/run", ""),
    ("ProtectHome", "read-only", ""),
    ("PrivateTmp", "yes", ""),
    ("PrivateDevices", "yes", ""),
    ("ProtectClock", "yes", ""),
    ("ProtectControlGroups", "yes", ""),
    ("ProtectHostname", "yes", ""),
    ("ProtectKernelLogs", "yes", ""),
    ("LockPersonality", "yes", ""),
    ("RestrictNamespaces", "yes", ""),
    ("RestrictRealtime", "yes", ""),
    ("RestrictSUIDSGID", "yes", ""),
    ("SystemCallArchitectures", "native", ""),
    ("UMask", "0077", ""),
)  # fmt: skip
"""systemd.exec(5). Neither ProtectKernelTunables nor ProtectKernelModules: setting and loading is what it is for.

No PrivateNetwork either, and CAP_SYS_MODULE needs the /lib/modules that ProtectSystem leaves readable.
"""

_OPENS = ("ip_forward", "forwarding", "accept_local", "rp_filter", "route_localnet")
"""Last parts of sysctls that let packets pass which were stopped before."""

_PER_DEVICE = ("conf", "neigh")


def boot_files(wanted: Wanted, text: str, program: str) -> tuple[BootFile, ...]:
    """The files for a director whose file has a text; `program` is the absolute path of the ipvsctl to run.

    Raises UsageError for a program that cannot stand in a unit.
    """
    early, late = early_sysctls(wanted)
    comments = [f"Left to {UNIT}: {', '.join(late)}"] if late else []
    return (
        BootFile(DIRECTOR, tagged(text), 0o600),
        BootFile(MODULES, modules_load(wanted.modules)),
        BootFile(SYSCTLS, sysctl_conf(early, comments)),
        BootFile(SERVICE, _unit(program)),
        BootFile(ENABLED, target=ENABLED_TARGETS[0]),
    )


def early_sysctls(wanted: Wanted) -> tuple[list[tuple[str, str]], list[str]]:
    """The sysctls to set as soon as the modules are loaded, and the names of those that wait for the unit.

    A device's wait because the device may come later, and what opens the way waits for the rules, if there are any:
    between the two an unprotected director would forward.
    """
    late = [name for name, _ in wanted.sysctls if _of_device(name) or (wanted.chains and _opens(name))]
    return [(name, value) for name, value in wanted.sysctls if name not in late], late


def _of_device(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 3 and parts[2] in _PER_DEVICE and parts[3] not in ("all", "default")


def _opens(name: str) -> bool:
    return name.rpartition(".")[2] in _OPENS


def _unit(program: str) -> str:
    apply = command_line((program, "apply", DIRECTOR))
    return unit(
        {
            "Unit": (
                ("Description", "Director of a Linux Virtual Server", ""),
                ("Documentation", "man:ipvsctl(8)", ""),
                ("Wants", "network-online.target", ""),
                *_after(),
                ("Before", BEFORE, "They manage what is set up here."),
            ),
            "Service": (
                ("Type", "oneshot", ""),
                (
                    "RemainAfterExit",
                    "yes",
                    "No ExecStop: the director lives in the kernel, and stopping a unit must not take services away.",
                ),
                ("ExecStart", apply, ""),
                ("ExecReload", apply, "After something has flushed the rules, or the file has changed."),
                *SANDBOX,
            ),
            "Install": (("WantedBy", "multi-user.target", ""),),
        }
    )


def _after() -> Iterator[tuple[str, tuple[str, ...], str]]:
    yield from (("After", units, reason) for units, reason in AFTER)
