"""Small scenarios, and what queueing theory needs: service times that are exponential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName

FOREVER_MS = 1e9


def scenario(*, requests: int = 1000, load: float = 0.7, **sections: Any) -> ScenarioSettings:
    """Return a scenario; its own servers are a placeholder, a fleet is given beside it."""
    workload = {"requests": requests, "load_ratio": load, **sections.pop("workload", {})}
    placeholder = {"name": "placeholder", "widths": {100: {"item_ms": 1}}}
    return ScenarioSettings.model_validate({"name": "test", "servers": [placeholder], "workload": workload, **sections})


def on_hosts(
    given: ScenarioSettings, fleet: Sequence[SimulatedServer], hosts: Sequence[dict[str, Any]]
) -> ScenarioSettings:
    """Return a scenario whose servers are on hosts."""
    values = given.model_dump(mode="json")
    values["servers"] = [{"name": server.name, "widths": {100: {"item_ms": 1}}} for server in fleet]
    return ScenarioSettings.model_validate({**values, "hosts": hosts})


def patient(**more: Any) -> dict[str, Any]:
    """Return objectives under which nobody is late or turned away."""
    return {"deadline_ms": FOREVER_MS, "request_timeout_s": 1e9, "queue_limit": 10**9, **more}


def single(*, instances: int = 1, sigma: float = 0.0, per_item_s: float = 0.01) -> SimulatedModel:
    """Return a width that runs items one by one."""
    return linear_model(100, per_item_s=per_item_s, max_batch_size=1, instances=instances, sigma=sigma)


def servers(count: int, *models: SimulatedModel, idle_w: float | None = None) -> list[SimulatedServer]:
    """Return like servers."""
    return [SimulatedServer(ServerName(f"s{index}"), models, idle_w) for index in range(count)]


def run(
    settings: ScenarioSettings,
    fleet: Sequence[SimulatedServer],
    policy: str = "lert",
    *,
    seed: int = 0,
    exponential: bool = False,
) -> Simulation:
    """Return a run that has ended."""
    trace = draw_trace(settings, fleet, seed)
    if exponential:
        trace = replace(trace, noise=np.random.default_rng(seed + 99).exponential(1.0, len(trace.noise)))
    simulation = Simulation(settings, fleet, parse_policy(policy), trace=trace)
    if exponential:
        simulation.world.models[sim.SIGMA] = math.nan
    simulation.run()
    return simulation


def latencies_s(simulation: Simulation, *, warm_up: float = 0.1) -> NDArray[np.float64]:
    """Return the latency of every request after the first ones; all must be answered."""
    requests = simulation.world.requests
    assert set(np.asarray(requests[sim.STATUS])) == {sim.ANSWERED}
    latency_s: NDArray[np.float64] = np.asarray(requests[sim.ANSWERED_S]) - np.asarray(requests[sim.ARRIVED_S])
    return latency_s[int(warm_up * len(latency_s)) :]
