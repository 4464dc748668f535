"""How far policies are from what a clairvoyant makes of the same few requests.

A window is the first requests of a trace, met by servers that start empty, without noise, faults or late reports. What
is earned of it is as in orchestrator.simulation.bounds.clairvoyant; joules count at the exchange rate of the utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from orchestrator.policies import Policy
from orchestrator.simulation.bounds.clairvoyant import Clairvoyant, plan_window
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import FaultSettings, ScenarioSettings, TelemetrySettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.utility import make_utility
from orchestrator.simulation.world import columns as sim

_STEPS: Final = 80
"""Into which the time from the first arrival to the last deadline is cut, unless batches are shorter."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        bound: of the clairvoyant, for all its requests together.
        earned: of each policy, in their order.
        requests: in it.
    """

    bound: Clairvoyant
    earned: tuple[float, ...]
    requests: int


def measure_window(
    settings: ScenarioSettings,
    servers: Sequence[SimulatedServer],
    policies: Sequence[Policy],
    *,
    requests: int,
    seed: int,
) -> Window:
    """Return what a clairvoyant and each policy earn of a trace's first requests.

    Raises:
        ConfigError: as ``plan_window``.
    """
    quiet = [replace(s, models=tuple(replace(m, sigma=0.0) for m in s.models)) for s in servers]
    workload = settings.workload.model_copy(update={"requests": requests, "items": 1})
    changed = {"workload": workload, "faults": FaultSettings(), "telemetry": TelemetrySettings()}
    settings = settings.model_copy(update=changed)
    trace = draw_trace(settings, quiet, seed)
    # A burst before the first arrival is no one's time.
    arrived_s = trace.arrived_s - trace.arrived_s[0]
    deadline_s = settings.objectives.deadline_ms / 1e3
    exchange = make_utility(settings, servers).joule_price
    shortest_s = min(min(m.service_s) for s in servers for m in s.models)
    step_s = min(shortest_s, (float(arrived_s[-1]) + deadline_s) / _STEPS)
    bound = plan_window(quiet, arrived_s.tolist(), deadline_s, exchange=exchange, step_s=step_s)
    trace = replace(trace, arrived_s=arrived_s, deadline_s=arrived_s + deadline_s)
    earned = []
    for policy in policies:
        simulation = Simulation(settings, quiet, policy, trace=trace)
        simulation.run()
        earned.append(_earned(simulation, exchange))
    return Window(bound, tuple(earned), requests)


def _earned(simulation: Simulation, exchange: float) -> float:
    table = {
        k: np.asarray(simulation.world.requests[k]) for k in (sim.STATUS, sim.ANSWERED_S, sim.DEADLINE_S, sim.ACCURACY)
    }
    is_timely = (table[sim.STATUS] == sim.ANSWERED) & (table[sim.ANSWERED_S] <= table[sim.DEADLINE_S])
    joules = sum(float(simulation.world.truth[sim.BUSY_J][at]) for at in range(len(simulation.servers)))
    return float(table[sim.ACCURACY][is_timely].sum()) - (exchange * joules if exchange else 0.0)
