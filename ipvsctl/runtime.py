"""Where things live while the machine runs: journals, locks, the emulators' sockets.

Root's are in /run/ipvsctl, a user's in $XDG_RUNTIME_DIR/ipvsctl, and where a session has none in /tmp/ipvsctl-UID:
a name that others could have made first, so owner and mode are checked before it is trusted.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ipvsctl.errors import NotPermitted


def runtime_directory() -> Path:
    """The directory for run-time files, made with mode 0700 when it is missing.

    `IPVSCTL_RUNTIME_DIR` names another. Raises NotPermitted when it cannot be made or is not ours alone.
    """
    user = os.geteuid()
    if chosen := os.environ.get("IPVSCTL_RUNTIME_DIR"):
        path = Path(chosen)
    elif user == 0:
        path = Path("/run/ipvsctl")
    elif base := os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(base, "ipvsctl")
    else:
        path = Path(f"/tmp/ipvsctl-{user}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise NotPermitted(
            f"cannot use {path} for run-time files: {error.strerror}; set IPVSCTL_RUNTIME_DIR to a directory of yours"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        raise NotPermitted(
            f"{path} is not a directory that only uid {user} may write to: remove it, or set IPVSCTL_RUNTIME_DIR"
        )
    return path
