"""The one table of the schedulers, by the name that a service asks for."""

from __future__ import annotations

from collections.abc import Mapping

from ipvsctl.datapath.schedulers.base import Scheduler
from ipvsctl.datapath.schedulers.hashing import DestinationHashing, Maglev, SourceHashing
from ipvsctl.datapath.schedulers.least import (
    LeastConnections,
    NeverQueue,
    PowerOfTwo,
    ShortestDelay,
    WeightedLeastConnections,
)
from ipvsctl.datapath.schedulers.locality import Locality, ReplicatedLocality
from ipvsctl.datapath.schedulers.order import Failover, Overflow
from ipvsctl.datapath.schedulers.rotation import RoundRobin, WeightedRoundRobin

SCHEDULERS: Mapping[str, type[Scheduler]] = {
    "rr": RoundRobin,
    "wrr": WeightedRoundRobin,
    "lc": LeastConnections,
    "wlc": WeightedLeastConnections,
    "sed": ShortestDelay,
    "nq": NeverQueue,
    "fo": Failover,
    "ovf": Overflow,
    "dh": DestinationHashing,
    "sh": SourceHashing,
    "mh": Maglev,
    "lblc": Locality,
    "lblcr": ReplicatedLocality,
    "twos": PowerOfTwo,
}
"""A service may also ask for "none": then no server is ever chosen."""
