"""What no policy can do better than, at the rate of each moment.

The fluid bound at a mean rate (orchestrator.simulation.scenario.capacity) promises what a crowd makes impossible. So
the time of a trace is cut into pieces of ten deadlines. What arrives in a piece is served in it and in one deadline
behind it, or it is late; so the fleet has that much time for it, and earns at the most what it could earn in that time
were work a fluid. Where more arrives than can be served, the rest earns nothing. Pieces lend each other their time at
their ends, and of failures, throttling and other gateways counts only that no idle power is drawn while a server is
down, so the bound is on the safe side. Of unlike deadlines the longest counts, and controllers are taken to have as
many instances as they ever may. Between the rates at which the linear programme is solved the earnings are taken to be
straight, which they nearly are.

Several families have none, because their shares differ from moment to moment; nor have callers who wait, because when
they send depends on the policy; nor servers on a host whose recorded times are other than what the fleet says.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.scores import ScenarioScores
from orchestrator.simulation.results import WARM_UP_RATIO
from orchestrator.simulation.scenario.capacity import capacity_rps, most_utility
from orchestrator.simulation.scenario.settings import ScenarioSettings, fullest_fleet
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.world import columns as sim

_PIECE: Final = 10.0  # deadlines
_RATES: Final = 100  # at which the programme is solved
_ROUNDING: Final = 1e-9

Floats = NDArray[np.float64]


def bound_of_moments(scenario: ScenarioScores) -> float | None:
    """Return the most utility that a policy could have over a scenario's traces, on average; None: it has no bound."""
    settings, workload = scenario.settings, scenario.settings.workload
    price = scenario.utility_scale.joule_price * workload.items
    idle_w = [server.idle_w for server in scenario.fleet]
    if settings.families or settings.hosts or workload.callers is not None or (price and None in idle_w):
        return None
    idle_of = price * np.array([w or 0.0 for w in idle_w])
    idle = float(idle_of.sum())
    taken = fullest_fleet(settings, scenario.fleet)
    rates_rps = capacity_rps(taken) * (1 - _ROUNDING) * np.arange(1, _RATES + 1) / _RATES
    found = [most_utility(taken, float(rate), price=price) for rate in rates_rps]
    if any(most is None for most in found):
        return None
    # Idle power is paid whatever is served; the rest is what is earned in a second at a rate.
    earned = np.array([rate * (most or 0.0) + idle for rate, most in zip(rates_rps, found, strict=True)])
    table = np.concatenate([[0.0], rates_rps]), np.concatenate([[0.0], np.maximum.accumulate(earned)])
    bounds = []
    for seed in scenario.case.traces:
        trace = draw_trace(settings, scenario.fleet, seed)
        counted_s = trace.arrived_s[int(WARM_UP_RATIO * len(trace.arrived_s)) :]
        paid = float(idle_of @ up_ratio(trace, len(idle_of)))
        bounds.append(earned_a_request(counted_s, longest_deadline_s(settings), workload.items, table, idle=paid))
    return float(np.mean(bounds))


def up_ratio(trace: Trace, servers: int) -> Floats:
    """Return which part of the time in which requests arrive each server is up."""
    end_s, down_s = float(trace.arrived_s[-1]), np.zeros(servers)
    for at_s, server, kind in zip(*trace.schedule[[sim.AT_S, sim.EVENT_SERVER, sim.KIND]], strict=True):
        if kind in (sim.FAILS, sim.RETURNS):
            down_s[int(server)] += (1 if kind == sim.FAILS else -1) * max(0.0, end_s - at_s)
    return 1 - down_s / end_s


def longest_deadline_s(settings: ScenarioSettings) -> float:
    """Return the most time that any request of a family has."""
    own_ms, workload = settings.objectives.deadline_ms, settings.workload
    of_classes = [own.deadline_ms or own_ms for own in workload.classes]
    return max((*(workload.deadlines_ms or ()), *of_classes), default=own_ms) / 1e3


def earned_a_request(
    arrived_s: Floats, deadline_s: float, items: int, earned: tuple[Floats, Floats], *, idle: float
) -> float:
    """Return the most that an item of requests could earn, on average.

    ``earned`` are rates of items a second, ascending, and what can be earned in a second at the most where so many
    come; ``idle`` is what a second costs whatever is done, which is in neither.
    """
    piece_s, lasts_s = _PIECE * deadline_s, float(arrived_s[-1] - arrived_s[0])
    counts = np.bincount(((arrived_s - arrived_s[0]) / piece_s).astype(int)) * items
    most = np.interp(counts / (piece_s + deadline_s), *earned) * (piece_s + deadline_s)
    return float((most.sum() - idle * lasts_s) / counts.sum())
