"""Routes and the policy rules that choose a routing table, in the words of ip-route(8) and ip-rule(8)."""

from __future__ import annotations

from dataclasses import dataclass

MAIN, LOCAL, DEFAULT = 254, 255, 253
"""Numbers of the routing tables that every namespace has (linux/rtnetlink.h)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route beyond those that addresses bring. `kind`: unicast, local, blackhole, unreachable, prohibit or throw.

    `destination` "ADDRESS/LENGTH" ("0.0.0.0/0", "::/0" the default route); `via` "" when on link; `source` the
    preferred source address; `mtu` 0 for the device's.
    """

    destination: str
    device: str = ""
    via: str = ""
    table: int = MAIN
    kind: str = "unicast"
    source: str = ""
    metric: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule of `ip rule` beyond the three that every namespace has (0 local, 32766 main, 32767 default).

    `family` INET or INET6; `action`: lookup (in `table`), blackhole, unreachable or prohibit. A packet's mark matches
    when mark & mask == `mark`; mask 0 asks for no mark.
    """

    family: int
    priority: int
    source: str = ""
    destination: str = ""
    mark: int = 0
    mask: int = 0
    in_device: str = ""
    out_device: str = ""
    action: str = "lookup"
    table: int = MAIN
