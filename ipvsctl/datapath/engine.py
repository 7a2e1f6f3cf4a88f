"""The datapath as a whole: an emulated network namespace that takes packets and gives packets.

Sans-IO: bytes, the time (seconds, never going back) and randomness come in as arguments, packets and the next deadline
go out as values. The parts know each other through the engine; the table in hooks.py says who runs when.

    engine = Engine(snapshot, random.Random(7).randrange)
    for output in engine.receive("eth0", packet, now): ...
    engine.poll(now)    # what is due at engine.poll_at()
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from operator import attrgetter

from ipvsctl.datapath.ct.nat import Nat
from ipvsctl.datapath.ct.table import Conntrack
from ipvsctl.datapath.flows import Flows, Output, Recorder
from ipvsctl.datapath.hooks import HOOK_NAMES, TABLE
from ipvsctl.datapath.ip import Ip
from ipvsctl.datapath.local import Local
from ipvsctl.datapath.nf.tables import Tables
from ipvsctl.datapath.routing import Routing
from ipvsctl.datapath.settings import Settings
from ipvsctl.datapath.short_way import ShortWay
from ipvsctl.datapath.skb import Broken, Skb
from ipvsctl.datapath.timers import SHARE, Timers
from ipvsctl.datapath.trace import Tracer
from ipvsctl.datapath.verdict import Reason, Verdict
from ipvsctl.datapath.vs.ipvs import Ipvs
from ipvsctl.model.address import INET, INET6
from ipvsctl.model.snapshot import Snapshot

HookFunction = Callable[[Skb], Verdict]
Randrange = Callable[[int], int]
"""A number from 0 to less than the argument, each as likely: random.Random(seed).randrange."""


class Engine(ShortWay):
    """An emulated namespace. Not to be shared between threads."""

    def __init__(self, snapshot: Snapshot, random: Randrange) -> None:
        self.random = random
        self.now = 0.0
        self.tracer: Tracer | None = None
        self.outputs: list[Output] = []
        self.drops: Counter[Reason] = Counter()
        self.verdict: Reason | str = ""
        """What became of the packet handed in last: a Reason, "delivered" to the host itself, or "sent"."""
        self.backlog: deque[Skb] = deque()
        """Packets that the host sent to itself (the loopback device), to be received next."""
        self.timers = Timers()
        self.settings = Settings(snapshot.sysctls)
        self.modules = set(snapshot.modules)
        self._defragments: set[int] = set()
        self._active: dict[int, tuple[tuple[HookFunction, ...], ...]] = {}
        self._rows: dict[int, tuple[tuple[tuple[int, str, HookFunction], ...], ...]] = {}
        self.routing = Routing(self, snapshot)
        self.ip = Ip(self)
        self.local = Local(self)
        self.ct = Conntrack(self)
        self.nat = Nat(self)
        self.tables = Tables(self)
        self.vs = Ipvs(self)
        self.flows = Flows(self, snapshot)
        for table in snapshot.tables:
            self.tables.load(table)
        self.vs.set_timeouts(snapshot.timeouts)
        for wish in snapshot.services:
            self.vs.add_service(wish.service)
            for server in wish.servers:
                self.vs.add_server(wish.service.address, server)
        self.rebuild()

    # -- from outside -------------------------------------------------------------------------------------------------

    def long_way(self, device: str, packet: bytes, now: float) -> list[Output]:
        """The long way: through every hook; what it comes to is kept for the packets like this one."""
        self.now = now
        outputs: list[Output] = []
        self.outputs = outputs
        self.verdict = ""
        self.timers.poll(now, SHARE)
        try:
            skb = Skb(bytearray(packet), device)
        except Broken:
            self._count(None, Reason.HEADER)
            return outputs
        skb.primary = True
        if self.tracer is None and self.flows.worth(packet):
            self.tables.recorder = recorder = Recorder()
            self.ip.receive(skb)
            self.tables.recorder = None
            self.flows.learn(device, packet, skb, recorder)
        else:
            self.ip.receive(skb)
        self._work()
        return outputs

    def send(self, packet: bytes, now: float, mark: int = 0) -> list[Output]:
        """A process of the host sends a packet; a source address of zeros is chosen as the kernel would."""
        self.now = now
        outputs: list[Output] = []
        self.outputs = outputs
        self.verdict = ""
        self.timers.poll(now, SHARE)
        try:
            skb = Skb(bytearray(packet))
        except Broken:
            self._count(None, Reason.HEADER)
            return outputs
        skb.primary = skb.own = True
        skb.mark = mark
        self.local.send(skb)
        self._work()
        return outputs

    def poll(self, now: float) -> list[Output]:
        """Do what is due; call again at once when `poll_at` is not later than now."""
        self.now = now
        outputs: list[Output] = []
        self.outputs = outputs
        self.timers.poll(now)
        self.flows.settle()
        self.vs.poll(now)
        self._work()
        return outputs

    def poll_at(self) -> float | None:
        """When `poll` is due next; None: not before something else happens."""
        deadlines = [at for at in (self.timers.poll_at(), self.vs.poll_at()) if at is not None]
        return min(deadlines) if deadlines else None

    def _work(self) -> None:
        for _ in range(1000):
            if not self.backlog:
                return
            self.ip.receive(self.backlog.popleft())
        self.backlog.clear()  # Two functions that answer each other for ever: nothing real does.

    # -- for the parts ------------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Find out anew which functions are in which hook: after rules, services or users of conntrack changed."""
        self.flows.clear()
        for family in (INET, INET6):
            in_use = self.tables.loaded(family) | self.vs.hooks(family) | self.ct.hooks(family)
            if family == INET6 and "ipvs" in in_use:
                self._defragments.add(family)
            if "conntrack" in in_use or family in self._defragments:
                in_use |= {"defrag"}
            rows: list[list[tuple[int, str, HookFunction]]] = [[] for _ in HOOK_NAMES]
            for row in TABLE:
                if row.needs not in in_use:
                    continue
                part, _, method = row.function.partition(".")
                if part == "tables":
                    function: HookFunction = partial(self.tables.run, self.tables.table(family, method))
                else:
                    function = attrgetter(row.function)(self)
                rows[row.hook].append((row.priority, row.name, function))
            self._rows[family] = tuple(tuple(each) for each in rows)
            self._active[family] = tuple(tuple(function for *_, function in each) for each in rows)

    def run(self, hook: int, skb: Skb) -> bool:
        """Walk a hook; true when every function let the packet go on. A drop is counted here."""
        before, skb.hook = skb.hook, hook
        if self.tracer is not None:
            verdict = self._traced(hook, skb, self.tracer)
        else:
            verdict = None
            for function in self._active[skb.family][hook]:
                verdict = function(skb)
                if verdict is not None:
                    break
        skb.hook = before
        if verdict is None:
            return True
        if verdict is not Reason.STOLEN:
            self._count(skb, verdict)
        return False

    def _traced(self, hook: int, skb: Skb, tracer: Tracer) -> Verdict:
        for priority, name, function in self._rows[skb.family][hook]:
            tracer.begin(HOOK_NAMES[hook], priority, name, skb)
            verdict = function(skb)
            tracer.end(skb, verdict)
            if verdict is not None:
                return verdict
        return None

    def drop(self, skb: Skb, reason: Reason) -> None:
        """A packet ends outside a hook."""
        if self.tracer is not None:
            self.tracer.event(f"ends here: {reason.value}", answer=not skb.primary, drop=reason.name)
        self._count(skb, reason)

    def _count(self, skb: Skb | None, reason: Reason) -> None:
        self.drops[reason] += 1
        if skb is None or skb.primary:
            self.verdict = reason

    def delivered(self, skb: Skb) -> None:
        """The host's own stack has got the packet."""
        if skb.primary:
            self.verdict = "delivered"
            if self.tracer is not None:
                self.tracer.delivered = bytes(skb.data)

    def transmit(self, skb: Skb, device: str, next_hop: bytes) -> None:
        """A packet leaves a device for good; on the loopback device it comes back in."""
        if skb.primary:
            self.verdict = "sent"
        if self.tracer is not None:
            self.tracer.event(f"leaves {device}: {skb}", answer=not skb.primary, leaves=device)
        if device == "lo":
            skb.indev = "lo"
            self.backlog.append(skb)
        else:
            output = Output()
            output.device, output.packet, output.next_hop = device, bytes(skb.data), next_hop
            self.outputs.append(output)
