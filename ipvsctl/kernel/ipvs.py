"""IPVS of the namespace that we are in: the IpvsPort on generic netlink.

A batch of changes goes to the kernel in datagrams of some 300 messages. The kernel makes each change as it reads it and
goes on after one that it refuses, so the changes behind it in the same datagram are made; no further datagram is sent.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ipvsctl.errors import IpvsctlError, NotFound, NotPermitted, NotTried, Refused, Unavailable
from ipvsctl.host import BatchError, refusal
from ipvsctl.kernel import ipvs_codec as codec
from ipvsctl.kernel import ipvs_tables as wire
from ipvsctl.kernel.netlink import GenericNetlink
from ipvsctl.model.status import ServiceStatus

if TYPE_CHECKING:
    from ipvsctl.model.address import ServiceAddress
    from ipvsctl.model.change import IpvsChange
    from ipvsctl.model.status import Daemon, Info, ServerStatus, Timeouts

_T = TypeVar("_T")

NO_IPVS = (
    "this kernel has no IPVS: its netlink family is not there: load the module with `modprobe ip_vs`,"
    " or use --host emulator"
)


class KernelIpvs:
    """The kernel's virtual services (IpvsPort). The socket is opened at the first call.

    Every call raises Unavailable when this kernel has no IPVS or does not answer, and NotPermitted without
    CAP_NET_ADMIN in the initial user namespace (ip_vs_ctl.c: the family's operations are GENL_ADMIN_PERM, reading too).
    """

    def __init__(self) -> None:
        self._netlink = GenericNetlink(wire.FAMILY, NO_IPVS)

    def close(self) -> None:
        self._netlink.close()

    def info(self) -> Info:
        """Version of IPVS and size of its connection table."""
        return _ask("read the version of IPVS", lambda: codec.decode_info(self._request(wire.GET_INFO)))

    def services(self) -> list[ServiceStatus]:
        """Every service, sorted by address, its servers in the kernel's order: most recently added first."""
        return _ask("list the services", self._services)

    def service(self, address: ServiceAddress) -> ServiceStatus:
        """One service; raises NotFound."""
        return _ask(f"show service {address}", lambda: self._service(address))

    def timeouts(self) -> Timeouts:
        """The timeouts of the namespace, in seconds."""
        return _ask("read the timeouts", lambda: codec.decode_timeouts(self._request(wire.GET_CONFIG)))

    def daemons(self) -> list[Daemon]:
        """The running synchronisation daemons, the master first."""
        answers = _ask("list the synchronisation daemons", lambda: self._netlink.dump(codec.command(wire.GET_DAEMON)))
        return sorted(map(codec.decode_daemon, answers), key=lambda daemon: daemon.role, reverse=True)

    def apply(self, changes: Sequence[IpvsChange]) -> None:
        """Make the changes in order; raises BatchError when one or more were refused or not tried.

        Raises UsageError, with nothing done, for a change that cannot be said to a kernel at all.
        """
        # A listing has no use for changes.
        from ipvsctl.kernel.ipvs_changes import encode_changes

        outcome: list[IpvsctlError | None] = []
        rest: IpvsctlError | None = None
        try:
            for chunk, failures in self._netlink.batch(encode_changes(changes)):
                outcome += [None] * len(chunk)
                for index, error in failures.items():
                    outcome[index] = refusal(changes[index], error.errno or 0, error.strerror or "")
                if failures:
                    rest = NotTried("not tried: an earlier change failed")
                    break
        except OSError as error:
            raise _failure("change IPVS", error) from None
        if rest is None:
            return
        # Lacking privilege is no property of a change: it is the answer to the whole call.
        if isinstance(outcome[0], NotPermitted) and None not in outcome:
            raise outcome[0]
        raise BatchError(outcome + [rest] * (len(changes) - len(outcome)))

    def _request(self, number: int, body: bytes = b"") -> bytes:
        return self._netlink.request(codec.command(number) + body)

    def _services(self) -> list[ServiceStatus]:
        found = [codec.decode_service(answer) for answer in self._netlink.dump(codec.command(wire.GET_SERVICE))]
        found.sort(key=lambda item: item[0].address.sort_key)
        return [ServiceStatus(service, self._servers(service.address), stats) for service, stats in found]

    def _service(self, address: ServiceAddress) -> ServiceStatus:
        try:
            answer = self._request(wire.GET_SERVICE, codec.service_key(address))
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise NotFound(f"there is no service {address}") from None
            raise
        service, stats = codec.decode_service(answer)
        return ServiceStatus(service, self._servers(service.address), stats)

    def _servers(self, address: ServiceAddress) -> tuple[ServerStatus, ...]:
        """The servers of a service; none when it has gone since."""
        answers = self._netlink.dump(codec.command(wire.GET_DEST) + codec.service_key(address))
        family, read = address.family, codec.decode_server
        return tuple([read(answer, family) for answer in answers])


def _ask(what: str, question: Callable[[], _T]) -> _T:
    try:
        return question()
    except OSError as error:
        raise _failure(what, error) from None


def _failure(what: str, error: OSError) -> IpvsctlError:
    """The error for an errno that no single change caused."""
    if error.errno == errno.EPERM:
        return NotPermitted(
            f"cannot {what}: IPVS needs CAP_NET_ADMIN in the initial user namespace: run as root, or with sudo"
        )
    if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
        return Unavailable(f"cannot {what}: this kernel's IPVS does not support it")
    return Refused(f"cannot {what}: {error.strerror or os.strerror(error.errno or 0)}")
