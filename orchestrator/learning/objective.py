"""What is fitted for, in one number, and what it makes of the rewards of a world.

It is the utility that every evaluation goes by (orchestrator.simulation.utility): accuracy of what is answered in time,
minus what joules cost. Training, search and judgement pursue the same; so nothing is learned that the judgement does
not see, and nothing is judged that learning was not paid for. For ppo-paper alone it may be the rewards of a world,
weighed as one likes, as its paper has it.

The rewards of a world add up to it nearly. What is late or lost costs the least accuracy of the fleet, and earns none
of what is above that; idle power is left out, because no choice changes it; and joules count for each request instead
of each answer.

A profile promises more than a fleet keeps: it knows nothing of what the gateway, the network and shared cores can't
carry, and of a fleet that is nearly full that is all that counts. So where the fleet is a profile's, what a policy is
worth on a trace is half of what it is on the trace as it was, and half with its arrivals a quarter denser. What was
fitted to the very edge of a profile collapses beyond it; by this it is seen before.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.protocol import Policy
from orchestrator.simulation.results import WARM_UP_RATIO, summarise
from orchestrator.simulation.rewards import (
    LATE_PRICE,
    OBJECTIVES,
    SUMS,
    Task,
    reward_scales,
    weights_of,
    write_rewards,
)
from orchestrator.simulation.scenario.trace import Trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.utility import make_utility

FIGURES = ("effective_accuracy", "attainment_ratio", "accuracy", "joules_per_answer")
NO_PREFERENCE = (math.nan, math.nan, math.nan)
"""Of requests that bring none."""


def objective_weights(task: Task) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return what the rewards of a task weigh, float32 by OBJECTIVES.

    Where it has no preference of its own, a request's weighed rewards are its utility.
    """
    if not math.isnan(sum(task.preference)):
        return np.array(weights_of(task.preference), np.float32)
    least, spread, _, request_j = reward_scales(task)
    price = make_utility(task.settings, task.servers).joule_price
    energy = price * request_j if math.isfinite(request_j) else 0.0
    return np.array([spread, 0.0, energy, least / LATE_PRICE], np.float32)


def earned(task: Task, policy: Policy, trace: Trace) -> float:
    """Return the weighed rewards of a request, mean over a trace, where a policy decides.

    Requests that bring no preference have the task's, as where a policy is trained.
    """
    simulation = Simulation(task.settings, task.servers, policy, trace=trace)
    simulation.prefer(task.preference)
    simulation.run()
    total = np.zeros(len(OBJECTIVES))
    write_rewards(simulation.world, np.array(reward_scales(task)), np.zeros(SUMS), total)
    return float(total @ objective_weights(task)) / len(trace.arrived_s)


def run_policy(task: Task, policy: Policy, trace: Trace) -> dict[str, float | None]:
    """Return the figures of a run on a trace; threads may run one policy side by side.

    Its ``utility`` is the mean with that of denser arrivals where the task has them; the others are of the trace alone.
    """
    figures = _run(task, policy, trace)
    if task.crowding > 1:
        crowded = _run(task, policy, crowd(trace, task.crowding))
        assert figures["utility"] is not None
        assert crowded["utility"] is not None
        figures["utility"] = (figures["utility"] + crowded["utility"]) / 2
    return figures


def crowd(trace: Trace, factor: float) -> Trace:
    """Return a trace whose requests come so many times as densely; each has as long as it had."""
    arrived_s = trace.arrived_s / factor
    deadline_s = arrived_s + (trace.deadline_s - trace.arrived_s)
    return replace(trace, arrived_s=arrived_s, deadline_s=deadline_s, rate_rps=trace.rate_rps * factor)


def _run(task: Task, policy: Policy, trace: Trace) -> dict[str, float | None]:
    if isinstance(policy, LearnedPolicy):
        policy = LearnedPolicy(policy.file)  # which has room of its own for what it computes on the way
    simulation = Simulation(task.settings, task.servers, policy, trace=trace)
    simulation.run()
    result = summarise(simulation, seed=0, warm_up_ratio=WARM_UP_RATIO)
    figures: dict[str, float | None] = {name: getattr(result, name) for name in FIGURES}
    return {"utility": make_utility(task.settings, task.servers).utility(figures), **figures}
