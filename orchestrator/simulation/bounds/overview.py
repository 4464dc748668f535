"""All bounds of one scenario, and how far policies are from what a clairvoyant makes of the same few requests.

A window is the first requests of a trace, met by servers that start empty, without noise, faults or late reports. What
is earned of it is as in orchestrator.simulation.bounds.clairvoyant; joules count at the exchange rate of the utility.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from orchestrator.errors import ConfigError
from orchestrator.executors import Executor, run_here, run_in_order
from orchestrator.policies.protocol import Policy
from orchestrator.simulation.bounds.batch_control import BatchServer
from orchestrator.simulation.bounds.clairvoyant import Clairvoyant, plan_window
from orchestrator.simulation.scenario.capacity import least_joules, most_accuracy
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import (
    FaultSettings,
    ScenarioSettings,
    SharingSettings,
    TelemetrySettings,
    fullest_fleet,
)
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.utility import make_utility
from orchestrator.simulation.world import columns as sim

_POINTS: Final = 5
_MOST_LOAD: Final = 0.95
"""A server alone is loaded no more than that, or its queue would have no end."""
_STEPS: Final = 80
"""Into which the time from the first arrival to the last deadline is cut, unless batches are shorter."""


@dataclass(frozen=True, slots=True)
class FluidBounds:
    """What a fleet could do for good, were work a fluid.

    Attributes:
        rate_rps: Items a second.
        most_accuracy: The most; None when the fleet can't serve the rate.
        least_joules: Accuracies up to it, each with the least joules an item; None where that can't be.
    """

    rate_rps: float
    most_accuracy: float | None
    least_joules: tuple[tuple[float, float | None], ...]


def find_fluid_bounds(settings: ScenarioSettings, servers: Sequence[SimulatedServer]) -> FluidBounds:
    """Return the most accuracy, and the least joules at some accuracies up to it.

    Raises:
        ConfigError: where callers wait for their answers, so that what is sent depends on the policy.
    """
    if settings.workload.callers is not None:
        raise ConfigError(
            f"{settings.name}: workload.callers is {settings.workload.callers}: what callers who wait send follows the "
            "answers, so no bound holds for all policies; leave callers out"
        )
    rate_rps = draw_trace(settings, servers, 0).rate_rps
    taken, shares = fullest_fleet(settings, servers), settings.family_shares()
    most = most_accuracy(taken, rate_rps, shares=shares)
    if most is None:
        return FluidBounds(rate_rps, None, ())
    least = min(m.accuracy for s in servers for m in s.models)
    # The last point a hair below the most, which rounding would make impossible.
    points = [least + (most - 1e-9 - least) * at / (_POINTS - 1) for at in range(_POINTS)]
    return FluidBounds(
        rate_rps, most, tuple((point, least_joules(taken, rate_rps, point, shares=shares)) for point in points)
    )


def find_control_limits(
    settings: ScenarioSettings, servers: Sequence[SimulatedServer], *, worth_s: float
) -> Iterator[dict[str, Any]]:
    """Yield the optimal control limit of each kind of server, alone at the scenario's load of its own capacity.

    A watt less is worth ``worth_s`` seconds of mean response.
    """
    seen = set()
    for server in servers:
        for model in server.models:
            if (server.models, model.width) in seen or model.energy_j is None or model.instances != 1:
                continue
            seen.add((server.models, model.width))
            rate_rps = min(settings.workload.load_ratio, _MOST_LOAD) * model.capacity_rps
            alone = BatchServer(model.service_s, model.energy_j, rate_rps)
            best, greedy = alone.optimum(worth=worth_s), alone.evaluate(alone.greedy(), worth=worth_s)
            yield {
                "server": server.name,
                "width": model.width,
                "rate_rps": rate_rps,
                "limit": best.limit,
                "best_response_s": best.response_s,
                "best_power_w": best.power_w,
                "greedy_response_s": greedy.response_s,
                "greedy_power_w": greedy.power_w,
            }


@dataclass(frozen=True, slots=True)
class Window:
    """One window, with what a clairvoyant and each policy, in their order, earn of its requests together."""

    bound: Clairvoyant
    earned: tuple[float, ...]
    requests: int


def measure_windows(
    settings: ScenarioSettings,
    servers: Sequence[SimulatedServer],
    policies: Sequence[Policy],
    *,
    requests: int,
    windows: int,
    execute: Executor = run_here,
) -> list[Window]:
    """Return what a clairvoyant and each policy earn of the first requests of as many traces, of seeds from 0 on.

    Raises:
        ConfigError: as ``plan_window``, when a clairvoyant can't plan for this fleet.
    """
    return run_in_order(execute, partial(measure_window, settings, servers, policies, requests), range(windows))


def measure_window(
    settings: ScenarioSettings,
    servers: Sequence[SimulatedServer],
    policies: Sequence[Policy],
    requests: int,
    seed: int,
) -> Window:
    """Return what a clairvoyant and each policy earn of a trace's first requests.

    Raises:
        ConfigError: as ``plan_window``, when a clairvoyant can't plan for this fleet, or it has several families.
    """
    if settings.families:
        raise ConfigError(f"{settings.name}: a clairvoyant plans for one family; leave out the others, or --windows 0")
    quiet = [replace(s, models=tuple(replace(m, sigma=0.0) for m in s.models)) for s in servers]
    changed = {"faults": FaultSettings(), "telemetry": TelemetrySettings(), "hosts": (), "sharing": SharingSettings()}
    settings = settings.with_workload(requests=requests, items=1).model_copy(update=changed)
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
    requests, busy_j = simulation.world.requests, simulation.world.truth[sim.BUSY_J]
    is_timely = (requests[sim.STATUS] == sim.ANSWERED) & (requests[sim.ANSWERED_S] <= requests[sim.DEADLINE_S])
    joules = sum(busy_j[: len(simulation.servers)].tolist())
    return float(requests[sim.ACCURACY][is_timely].sum()) - (exchange * joules if exchange else 0.0)


def earned_a_request(windows: Sequence[Window]) -> tuple[float, list[float]]:
    """Return what a clairvoyant earns a request at the most, and what each policy does; of one window at least."""
    requests = sum(window.requests for window in windows)
    most = sum(window.bound.most for window in windows) / requests
    return most, [sum(earned) / requests for earned in zip(*(window.earned for window in windows), strict=True)]
