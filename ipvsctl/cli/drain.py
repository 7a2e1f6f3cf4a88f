"""`server drain`: weight 0, wait for the connections to end, say honestly what is left; and the way back.

The weight that a server had is kept beside the journal (RUNTIME/journal/IDENTITY/drained), where --undrain finds it;
`rollback` undoes the change of weight like any other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from ipvsctl.cli.connection_plain import clock
from ipvsctl.cli.environment import Environment
from ipvsctl.cli.live import waiting
from ipvsctl.cli.run import Ended, change
from ipvsctl.errors import Exit, IpvsctlError, NotFound, Refused
from ipvsctl.journal import Journals
from ipvsctl.model.change import DeleteServer, EditServer
from ipvsctl.plan.difference import Plan
from ipvsctl.plan.join import Services

if TYPE_CHECKING:
    from ipvsctl.host import Host
    from ipvsctl.model.address import ServerAddress, ServiceAddress
    from ipvsctl.model.status import ServerStatus

INTERVAL = 0.5
"""Seconds between two looks at a server that is drained."""

_QUIESCENT = "net.ipv4.vs.expire_quiescent_template"
_NODEST = "net.ipv4.vs.expire_nodest_conn"


@dataclass(frozen=True, slots=True)
class Left:
    """What a drained server still has. `templates` bring new connections."""

    active: int = 0
    inactive: int = 0
    templates: int = 0

    def __bool__(self) -> bool:
        return bool(self.active or self.inactive or self.templates)

    def __str__(self) -> str:
        words = [f"{number} {name}" for number, name in (
            (self.active, "active"), (self.inactive, "inactive"),
            (self.templates, f"persistence template{'' if self.templates == 1 else 's'}"),
        ) if number]  # fmt: skip
        return ", ".join(words) or "none"


class _Drain:
    """One server that is drained."""

    def __init__(self, env: Environment, service: ServiceAddress, server: ServerAddress, active: bool) -> None:
        self.env = env
        self.host = env.host
        self.service, self.server = service, server
        self.active = active
        self.name = f"{service} {server}"
        self.back = f"`ipvsctl server drain {self.name} --undrain`"

    def status(self) -> ServerStatus:
        return _status(self.host, self.service, self.server)

    def left(self) -> Left:
        """What there still is, as far as it is waited for. Raises Refused when the server is in service again."""
        status = self.status()
        if status.server.weight:
            weight = status.server.weight
            raise Refused(f"server {self.server} of {self.service} has weight {weight} again: somebody else changed it")
        comes = status.persistent_connections and self.host.sysctl.get(_QUIESCENT) in (None, "0")
        return Left(
            status.active_connections,
            0 if self.active else status.inactive_connections,
            status.persistent_connections if comes else 0,
        )

    def wait(self, seconds: float) -> tuple[Left, int]:
        """Wait until nothing is left, the time is up, or a signal comes (its number, else 0)."""
        from ipvsctl.cli.output import status_line

        deadline = monotonic() + seconds
        with waiting() as pause, status_line(self.env) as tell:
            while left := self.left():
                rest = deadline - monotonic()
                tell(f"draining {self.server}: {left} ({clock(max(int(rest), 0))} to wait)")
                if rest <= 0:
                    return left, 0
                if number := pause(min(INTERVAL, rest)):
                    return self.left(), number
        return left, 0

    def why(self, left: Left) -> list[str]:
        """Sentences about what is left, and what can be done."""
        sentences = []
        if left.active or left.inactive:
            sentences.append(f"connections by state: {self._states()}")
            at_once = "at once" if self.host.sysctl.get(_NODEST) == "1" else f"at once if {_NODEST} is 1"
            sentences.append(
                f"the kernel has no call that ends one connection: they end by themselves, or {at_once} with "
                f"`ipvsctl server delete {self.name}`"
            )
        if left.templates:
            sentences.append(
                f"clients with a persistence template still get new connections here: `ipvsctl sysctl set {_QUIESCENT} "
                "1` sends them to other servers"
            )
        return sentences

    def _states(self) -> str:
        """The states of its connections, each with the longest timer."""
        if not (states := self.states()):
            return "not told"
        return ", ".join(f"{number} {name} (up to {clock(longest)})" for name, (number, longest) in states.items())

    def states(self) -> dict[str, tuple[int, int]]:
        """How many connections are in a state, and the longest timer in seconds; empty where it cannot be known."""
        number: Counter[str] = Counter()
        longest: dict[str, int] = {}
        try:
            services = Services(self.host.ipvs.services())
            for each in self.host.connections():
                ours = each.server == self.server.address and self.server.port in (0, each.server_port)
                if ours and "template" not in each.flags and services.of(each) == self.service:
                    number[each.state] += 1
                    longest[each.state] = max(longest.get(each.state, 0), each.expires)
        except IpvsctlError:
            return {}
        return {name: (amount, longest[name]) for name, amount in number.most_common()}


def drain_server(
    env: Environment, service: ServiceAddress, server: ServerAddress, seconds: float, *, active: bool, remove: bool
) -> int:
    """Drain a server; returns the exit status. Raises NotFound, Refused, Ended after a signal, and as a change does."""
    host = env.host
    before = _status(host, service, server).server
    name = f"{service} {server}"
    drained = replace(before, weight=0)
    steps = (EditServer(service, drained, before),) if before.weight else ()
    if env.dry_run:
        plan = Plan((*steps, DeleteServer(service, drained)) if remove else steps)
        return change(env, f"server drain {name}", lambda _: plan)
    journals = Journals(host.identity)

    def build(host: Host) -> Plan:
        found = _status(host, service, server).server
        if found.weight:
            journals.remember_drained(name, found.weight)
            return Plan((EditServer(service, replace(found, weight=0), found),))
        return Plan(())

    change(env, f"server drain {name}", build, tell=False)
    work = _Drain(env, service, server, active)
    left, number = work.wait(seconds)
    removed = False
    if remove and not left and not number:
        change(
            env, f"server delete {name}",
            lambda host: Plan((DeleteServer(service, _status(host, service, server).server),)), tell=False,
        )  # fmt: skip
        journals.remember_drained(name, None)
        removed = True
    _tell(work, left, journals.drained().get(name), interrupted=bool(number), removed=removed, remove=remove)
    if number:
        raise Ended(number)
    return Exit.REFUSED if left and seconds else Exit.DONE


def _tell(
    work: _Drain, left: Left, weight: int | None, *, interrupted: bool, removed: bool, remove: bool
) -> None:  # fmt: skip
    env = work.env
    if env.json:
        from ipvsctl.cli.output import print_json

        data: dict[str, Any] = {
            "service": str(work.service), "server": str(work.server), "drained": not left, "interrupted": interrupted,
            "removed": removed, "former_weight": weight, "active_connections": left.active,
            "inactive_connections": left.inactive, "templates": left.templates,
            "states": {name: number for name, (number, _) in work.states().items()} if left else {},
            "why": work.why(left) if left else [],
        }  # fmt: skip
        print_json(env, data)
        return
    who = f"server {work.server} of {work.service}"
    way_back = f"{work.back} gives it weight {weight} again" if weight is not None else "its weight was 0 before"
    if interrupted:
        env.error(
            f"ipvsctl: {who} stays at weight 0{', not removed' if remove else ''}, with {left} left: {way_back}"
        )
    elif removed:
        env.say(f"{who} is drained and removed")
    elif not left:
        env.say(f"{who} is drained, at weight 0: {way_back}")
    else:
        env.error(
            f"ipvsctl: {who} is at weight 0{', not removed,' if remove else ''} and still has {left}: {way_back}"
        )
        for sentence in work.why(left):
            env.error(f"ipvsctl: note: {sentence}")


def undrain_server(env: Environment, service: ServiceAddress, server: ServerAddress) -> int:
    """Give a drained server its weight back. Raises NotFound when it is not known."""
    name = f"{service} {server}"
    journals = Journals(env.host.identity)

    def build(host: Host) -> Plan:
        found = _status(host, service, server).server
        weight = journals.drained().get(name)
        if weight is None:
            if found.weight:
                return Plan(())
            raise NotFound(
                f"cannot undrain server {server} of {service}: this command did not drain it and knows no weight of "
                f"it: `ipvsctl server edit {name} --weight 1` sets one"
            )
        if found.weight:
            return Plan((), (f"it has weight {found.weight} already: left as it is",))
        return Plan((EditServer(service, replace(found, weight=weight), found),))

    status = change(env, f"server undrain {name}", build)
    if not env.dry_run:
        journals.remember_drained(name, None)
    return status


def _status(host: Host, service: ServiceAddress, server: ServerAddress) -> ServerStatus:
    for status in host.ipvs.service(service).servers:
        if status.server.address == server:
            return status
    raise NotFound(f"there is no server {server} in {service}")
