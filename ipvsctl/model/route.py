"""Routes and the policy rules that choose a routing table, in the words of ip-route(8) and ip-rule(8)."""

from __future__ import annotations

from dataclasses import dataclass

MAIN, LOCAL, DEFAULT = 254, 255, 253
"""Numbers of the routing tables that every namespace has (linux/rtnetlink.h)."""

OUR_PROTOCOL = 86
"""The origin that routes and policy rules of ours bear, as RTPROT_* numbers do; /etc/iproute2/rt_protos has none of it.

What bears another is somebody else's and never touched.
"""


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

    def __str__(self) -> str:
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        words = [f"{kind}{'default' if self.destination in ('0.0.0.0/0', '::/0') else self.destination}"]
        for word, value in (
            ("via", self.via), ("dev", self.device), ("src", self.source), ("metric", self.metric), ("mtu", self.mtu),
        ):  # fmt: skip
            if value:
                words.append(f"{word} {value}")
        return " ".join(words) + ("" if self.table == MAIN else f" table {self.table}")


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule of `ip rule` beyond the three that every namespace has (0 local, 32766 main, 32767 default).

    `family` INET or INET6; `action`: lookup (in `table`), blackhole, unreachable or prohibit. A packet's mark matches
    when mark & mask == `mark`; mask 0 asks for no mark. `source` and `destination` are prefixes; an address by itself
    gets its full length.
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

    def __post_init__(self) -> None:
        for name in ("source", "destination"):
            address = getattr(self, name)
            if address and "/" not in address:
                object.__setattr__(self, name, f"{address}/{128 if ':' in address else 32}")

    def __str__(self) -> str:
        words = [f"from {_plain(self.source) or 'all'}"]
        if self.destination:
            words.append(f"to {_plain(self.destination)}")
        if self.mask:
            words.append(f"fwmark {self.mark:#x}/{self.mask:#x}")
        for word, value in (("iif", self.in_device), ("oif", self.out_device)):
            if value:
                words.append(f"{word} {value}")
        words.append(f"lookup {self.table}" if self.action == "lookup" else self.action)
        return " ".join(words) + f" priority {self.priority}"


def route_order(route: Route) -> tuple[bool, int, str, int]:
    """Order for listings: family, table, destination, metric."""
    return ":" in route.destination, route.table, route.destination, route.metric


def policy_order(rule: PolicyRule) -> tuple[int, int, str]:
    """Order for listings: family, priority, source."""
    return rule.family, rule.priority, rule.source


def _plain(prefix: str) -> str:
    """A prefix as ip(8) prints it: a single address without its length."""
    return prefix.removesuffix("/128" if ":" in prefix else "/32")
