"""What doctor finds: one thing that is not as it should be, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

SEVERITIES = ("error", "warning", "info")
"""error: traffic does not pass. warning: it will not under some condition, or something is weaker than it need be.
info: good to know; a host on which there is nothing else is well."""


@dataclass(frozen=True, slots=True)
class Mend:
    """What mends a finding safely: `sysctls` to set, `modules` to load, in that spelling and order.

    `rules`: own rules to make as they are meant, "nfct" (as `nfct enable`; `accept_local` names devices for it) or
    "firewall" (as `firewall apply`). Services, servers, addresses, routes and rules of others are never touched.
    """

    sysctls: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    rules: str = ""
    accept_local: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sysctls or self.modules or self.rules)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `id` is that of its check; `subject` the service, sysctl, device or address that it is about.

    `why` says what was seen and what follows; `fix` is the command that mends it, `persist` how it stays mended after a
    boot, both "" where there is none; `source` the statement (S1 to S27) or kernel file that it rests on.
    """

    id: str
    severity: str
    subject: str
    why: str
    fix: str = ""
    persist: str = ""
    source: str = ""
    mend: Mend = field(default_factory=Mend)
