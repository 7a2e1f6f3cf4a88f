"""A host is five small ports; the kernel and the emulator implement them and refuse for the same reasons.

The errors that IPVS changes meet are numbers in the kernel (ip_vs_ctl.c, the IP_VS_SO_* and IPVS_CMD_* handlers).
`refusal` turns number and change into the error a person reads, for both hosts, so they cannot differ in words.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ipvsctl.errors import AlreadyExists, IpvsctlError, NotFound, NotPermitted, Refused, Unavailable

if TYPE_CHECKING:
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.change import IpvsChange, ReplaceRules
    from ipvsctl.model.rule import OwnChain
    from ipvsctl.model.snapshot import Snapshot
    from ipvsctl.model.status import ConntrackEntry, Daemon, Info, ServiceStatus, Timeouts


class BatchError(Exception):
    """Some changes of a batch failed. `outcome` has one item per change: None for done, else the error.

    The kernel goes on after a refused message, so changes behind the first failure may be done: the executor undoes
    exactly those whose outcome is None. A host stops sending when it learns of a failure; what it left out is NotTried.
    """

    def __init__(self, outcome: Sequence[IpvsctlError | None]) -> None:
        super().__init__(next(str(error) for error in outcome if error is not None))
        self.outcome = tuple(outcome)


class Feature(NamedTuple):
    """A kernel feature: "loaded" (or built in), "loadable" (its module is there) or "absent"; and how one knows."""

    name: str
    state: str
    evidence: str


class IpvsPort(Protocol):
    """Virtual services. Every call may raise Unavailable (no IPVS here) or NotPermitted."""

    def info(self) -> Info: ...

    def services(self) -> list[ServiceStatus]:
        """Every service, sorted by address, its servers in the host's order."""

    def service(self, address: ServiceAddress) -> ServiceStatus:
        """One service; raises NotFound."""

    def timeouts(self) -> Timeouts: ...

    def daemons(self) -> list[Daemon]: ...

    def apply(self, changes: Sequence[IpvsChange]) -> None:
        """Make the changes in order; raises BatchError when one or more were refused."""


class ConntrackPort(Protocol):
    """Connection tracking entries of the namespace."""

    def entries(self) -> list[ConntrackEntry]: ...

    def delete(self, entry: ConntrackEntry) -> None:
        """Forget one entry; raises NotFound."""


class FirewallPort(Protocol):
    """The chains that ipvsctl owns; nothing else is ever written."""

    def backend(self, wanted: str = "auto") -> str:
        """The back end that `auto` or a named one means here; raises Unavailable when it cannot be used."""

    def chains(self) -> tuple[OwnChain, ...]:
        """Our chains as they are on the host, sorted by family, table and name."""

    def tables(self) -> frozenset[tuple[int, str]]:
        """The tables that exist, by family and name. One comes into being when it is first used."""

    def replace(self, change: ReplaceRules) -> None:
        """Commit one table as a whole, read it back and compare; raises Refused when the host has something else."""

    def notes(self) -> tuple[str, ...]:
        """What an administrator should know of other rule sets that the kernel evaluates beside ours."""


class SysctlPort(Protocol):
    """Sysctls of the namespace, named with dots; a dot inside a device name is written "/"."""

    def get(self, name: str) -> str | None:
        """The value, numbers separated by single blanks; None when the sysctl does not exist."""

    def set(self, name: str, value: str) -> None:
        """Raises NotFound, Refused (the kernel does not take the value), NotPermitted or Unavailable (read-only)."""

    def names(self, prefix: str) -> list[str]:
        """Names of the sysctls that start with a prefix, sorted."""

    def check_writable(self, name: str) -> None:
        """Raises NotPermitted or Unavailable when `set` would: asked before a plan runs."""


class ModulesPort(Protocol):
    """Kernel features that may be modules."""

    def feature(self, name: str) -> Feature:
        """State of a feature named as in knowledge/modules.py or of any module."""

    def load(self, name: str) -> None:
        """Load a module and its dependencies; raises Unavailable (absent) or NotPermitted. Loaded already: no error."""


class Host(Protocol):
    """A director: the kernel's namespace that we are in, or an emulated one.

    `name` is what --host calls it; `identity` names this very instance (a namespace, a server process), so that a
    journal written for one that is gone is never applied to its successor. It is fit to be a file's name.
    """

    name: str
    identity: str
    ipvs: IpvsPort
    conntrack: ConntrackPort
    firewall: FirewallPort
    sysctl: SysctlPort
    modules: ModulesPort

    def snapshot(self) -> Snapshot:
        """All that decides a packet's way, read at once: for the emulated datapath. Raises Refused for what it cannot
        model, Unavailable or NotPermitted when something cannot be read."""

    def close(self) -> None: ...


# (kinds, errno) -> error class and text, first match wins; {subject} is the service or the server of a service.
_ADDS = ("add-service", "edit-service")
_SERVERS = ("add-server", "edit-server", "delete-server")
_REFUSALS: tuple[tuple[tuple[str, ...], int, type[IpvsctlError], str], ...] = (
    (("add-service",), errno.EEXIST, AlreadyExists, "the service exists already"),
    (_ADDS, errno.ENOENT, Refused,
     "no scheduler {scheduler!r}{engine} here: ip_vs_{scheduler} is not a module of this kernel"),
    (_SERVERS, errno.ESRCH, NotFound, "there is no service {service}"),
    (("add-server",), errno.EEXIST, AlreadyExists, "the server exists already in {service}"),
    (("edit-server", "delete-server"), errno.ENOENT, NotFound, "there is no such server in {service}"),
    (("add-server", "edit-server"), errno.EINVAL, Refused,
     "not a unicast address the kernel takes as a server, or tunnel and family do not go together"),
    (("add-server", "edit-server"), errno.ERANGE, Refused, "weight or thresholds are out of the kernel's range"),
    (("start-daemon",), errno.EEXIST, AlreadyExists, "it runs already"),
    (("start-daemon",), errno.ENODEV, NotFound, "there is no such device"),
    (("start-daemon",), errno.EINVAL, Refused, "the group is not multicast, or a service has servers of two families"),
    (("stop-daemon",), errno.ESRCH, NotFound, "it is not running"),
    ((), errno.ESRCH, NotFound, "there is no such service"),
    ((), errno.EPERM, NotPermitted,
     "IPVS needs CAP_NET_ADMIN in the initial user namespace: run as root, or with sudo"),
    ((), errno.EOPNOTSUPP, Unavailable, "this kernel does not support it"),
    ((), errno.EAFNOSUPPORT, Unavailable, "this kernel's IPVS has no support for the address family"),
    ((), errno.ENOMEM, Refused, "the kernel is out of memory"),
    ((), errno.EINVAL, Refused, "the kernel calls it invalid"),
)  # fmt: skip


def refusal(change: IpvsChange, number: int, words: str) -> IpvsctlError:
    """The error for a change that IPVS refused with an errno; `words` is the errno's text, for numbers not foreseen."""
    kind = change.kind
    reason, cls = words, Refused
    for kinds, known, error, text in _REFUSALS:
        if known == number and (kind in kinds or not kinds):
            reason, cls = text, error  # type: ignore[assignment]
            break
    service = getattr(change, "service", None)
    scheduler = getattr(service, "scheduler", "")
    engine = getattr(service, "pe", None)
    where = getattr(service, "address", service) if kind not in _SERVERS else service
    reason = reason.format(
        service=where, scheduler=scheduler, engine=f" or persistence engine {engine!r}" if engine else "",
    )  # fmt: skip
    return cls(f"cannot {change}: {reason}")
