"""Which host a command works on.

The kernel unless another is named: an emulated director is never chosen silently. The name is "kernel", "emulator" or
"emulator:NAME"; "emulator" is "emulator:default".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipvsctl.errors import UsageError

if TYPE_CHECKING:
    from ipvsctl.host import Host


def open_host(name: str, netns: str | None = None) -> Host:
    """The host of that name, inside a network namespace where one is named.

    Raises UsageError for another name, Unavailable or NotPermitted when the host or the namespace cannot be had. An
    emulator that does not run yet is started.
    """
    kind, _, instance = name.partition(":")
    if kind == "kernel" and not instance:
        from ipvsctl.kernel.host import KernelHost

        return KernelHost.open(netns)
    if kind == "emulator":
        from ipvsctl.emulator.client import RemoteHost

        if netns is not None:
            from ipvsctl.kernel.namespace import enter

            enter(netns)
        return RemoteHost.connect(instance or "default")
    raise UsageError(f"there is no host {name!r}, expected kernel, emulator or emulator:NAME")
