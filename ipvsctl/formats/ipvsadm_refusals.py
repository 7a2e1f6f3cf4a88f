"""What ipvsadm says when the kernel refuses: by command and errno, the first row that fits."""

from __future__ import annotations

import errno

_SERVERS = frozenset({"add-server", "edit-server", "delete-server"})
_ROWS: tuple[tuple[frozenset[str], int, str], ...] = (
    (frozenset({"add-service"}), errno.EEXIST, "Service already exists"),
    (frozenset({"add-service", "edit-service"}), errno.ENOENT, "Scheduler or persistence engine not found"),
    (frozenset({"edit-service", "delete-service", "zero", "list"}), errno.ESRCH, "No such service"),
    (_SERVERS, errno.ESRCH, "Service not defined"),
    (frozenset({"add-server"}), errno.EEXIST, "Destination already exists"),
    (frozenset({"edit-server", "delete-server"}), errno.ENOENT, "No such destination"),
    (frozenset({"start-daemon"}), errno.EEXIST, "Daemon has already run"),
    (frozenset({"stop-daemon"}), errno.ESRCH, "No daemon is running"),
    (frozenset(), errno.EPERM, "Permission denied (you must be root)"),
    (frozenset(), errno.EINVAL, "Invalid operation.  Possibly wrong module version, address not unicast, ..."),
    (frozenset(), errno.ENOPROTOOPT, "Protocol not available"),
    (frozenset(), errno.ENOMEM, "Memory allocation problem"),
    (frozenset(), errno.EOPNOTSUPP, "Operation not supported with IPv6"),
    (frozenset(), errno.EAFNOSUPPORT, "Operation not supported with specified address family"),
    (frozenset(), errno.EMSGSIZE, "Module is wrong version"),
)


def message(command: str, number: int, words: str) -> str:
    """The line for an errno; `words` is the system's text, for numbers that have no row."""
    return next((text for names, known, text in _ROWS if known == number and (not names or command in names)), words)


def not_initialised(reason: str) -> str:
    """The lines when there is no IPVS to talk to."""
    return (
        f"Can't initialize ipvs: {reason}\nAre you sure that IP Virtual Server is built in the kernel or as module?\n"
    )


def old_version(version: str) -> str:
    """The warning of a kernel whose IPVS is older than 1.1.4, "" for others."""
    if tuple(int(part) for part in version.split(".")) >= (1, 1, 4):
        return ""
    return (
        f"Warning: IPVS version mismatch: \n  Kernel compiled with IPVS version {version}\n"
        "  ipvsadm v1.31  requires minimum IPVS version 1.1.4\n\n"
    )
