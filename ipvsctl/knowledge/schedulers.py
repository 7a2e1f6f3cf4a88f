"""The schedulers of IPVS: what each does, the module that brings it, the flags that are its own.

The kernel loads `ip_vs_NAME` when a service asks for a scheduler it does not have (ip_vs_sched.c:
ip_vs_scheduler_get); which of them exist is decided by its build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One scheduler. `flags` are the service flags it understands; `kernels` names those that have it, "" for all."""

    name: str
    meaning: str
    source: str
    flags: tuple[str, ...] = ()
    kernels: str = ""

    @property
    def module(self) -> str:
        """The kernel module that brings it."""
        return f"ip_vs_{self.name}"


_ROWS = (
    Scheduler("rr", "round robin: one server after the other", "ip_vs_rr.c"),
    Scheduler("wrr", "weighted round robin: in turn, as often as their weights say", "ip_vs_wrr.c"),
    Scheduler("lc", "least connections, weights count only as zero or not", "ip_vs_lc.c"),
    Scheduler("wlc", "weighted least connections: fewest connections for its weight; the default", "ip_vs_wlc.c"),
    Scheduler("fo", "weighted failover: the available server of the highest weight", "ip_vs_fo.c"),
    Scheduler("ovf", "weighted overflow: the highest weight until it has that many active connections", "ip_vs_ovf.c"),
    Scheduler("lblc", "locality-based least connections: a destination keeps its cache server until that is "
              "overloaded", "ip_vs_lblc.c"),
    Scheduler("lblcr", "locality-based least connections with replication: a destination has a set of cache servers",
              "ip_vs_lblcr.c"),
    Scheduler("dh", "destination hashing: the server follows from the destination address", "ip_vs_dh.c"),
    Scheduler("sh", "source hashing: the server follows from the client's address", "ip_vs_sh.c",
              ("sh-fallback", "sh-port")),
    Scheduler("mh", "Maglev hashing: as sh, and few clients move when servers come and go", "ip_vs_mh.c",
              ("mh-fallback", "mh-port")),
    Scheduler("sed", "shortest expected delay: fewest connections for its weight, the new one counted", "ip_vs_sed.c"),
    Scheduler("nq", "never queue: an idle server if there is one, else as sed", "ip_vs_nq.c"),
    Scheduler("twos", "power of two choices: the less loaded of two that weighted chance picks", "ip_vs_twos.c",
              kernels="5.13 and later, where it is built"),
)  # fmt: skip

SCHEDULERS: Mapping[str, Scheduler] = {row.name: row for row in _ROWS}
