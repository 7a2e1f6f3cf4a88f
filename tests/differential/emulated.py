"""The emulated datapath's side of the comparison: the same scenario, at the times at which the kernel met it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ipvsctl.datapath.engine import Engine
from ipvsctl.datapath.flows import Output
from ipvsctl.errors import UsageError
from tests.differential.result import Result, Sent
from tests.differential.scenario import Scenario, Step

SEED = 7
MANY = 100_000
"""Turns of the clock between two steps; more means that the datapath never comes to rest."""


def play(scenario: Scenario, times: Sequence[float] = (), *, flows: bool = True) -> Result:
    """What the datapath does. `times` of the kernel's result, or the scenario's own when there are none.

    Without `flows` every packet walks all hooks (datapath/flows.py).
    """
    result = Result(scenario.name)
    moments = list(times) or [step.at for step in scenario.steps]
    if len(moments) <= len(scenario.steps):
        moments.append((moments[-1] if moments else 0.0) + 0.01)
    try:
        engine = Engine(scenario.snapshot, random.Random(SEED).randrange)
    except UsageError as error:
        result.error = f"{type(error).__name__}: {error}"
        return result
    engine.flows.enabled = flows
    for step, at, until in zip(scenario.steps, moments, moments[1:], strict=False):
        try:
            outputs = act(engine, step, at)
        except KeyError as error:
            if step.do != "change":
                raise
            result.error = f"{step.change}: there is no {error}"
            return result
        outputs += rest(engine, until)
        result.times.append(at)
        result.steps.append([Sent(*output) for output in outputs])
    end = moments[len(scenario.steps)]
    result.times.append(end)
    engine.poll(end)
    engine.flows.settle()
    result.conntrack = engine.ct.report()
    result.connections = engine.vs.connections()
    result.services = engine.vs.report()
    result.tables = list(engine.tables.saved())
    return result


def act(engine: Engine, step: Step, at: float) -> list[Output]:
    """Do one step."""
    outputs: list[Output] = []
    match step.do:
        case "in":
            for packet in step.packets:
                outputs += engine.receive(step.device, packet, at)
        case "send":
            for packet in step.packets:
                outputs += engine.send(packet, at, step.mark)
        case "change":
            assert step.change is not None
            outputs += engine.poll(at)
            engine.vs.apply(step.change)
        case "sysctl":
            outputs += engine.poll(at)
            for name, value in step.sysctls:
                engine.settings.write(name, value)
        case "flush_conntrack":
            outputs += engine.poll(at)
            engine.ct.flush()
    return outputs


def rest(engine: Engine, until: float) -> list[Output]:
    """Let the time go by."""
    outputs: list[Output] = []
    for _ in range(MANY):
        due = engine.poll_at()
        if due is None or due > until:
            return outputs
        outputs += engine.poll(max(due, engine.now))
    raise RuntimeError("the datapath does not come to rest")
